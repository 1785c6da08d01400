//! What readers see: an immutable snapshot, cheap to take and to keep.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::chunked::ChunkedMap;
use crate::types::{
    BrokerId, Incarnation, NodeId, Partition, PartitionRecord, Timestamp, TopicId, TopicName,
    TopicSettings,
};

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicEntry {
    /// Its name.
    pub name: TopicName,
    /// Its identity.
    pub id: TopicId,
    /// Its settings.
    pub settings: TopicSettings,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its settings last changed; at first, when it was created.
    pub changed_at: Timestamp,
}

/// A deleted topic whose files may still be on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedTopic {
    /// Its identity.
    pub id: TopicId,
    /// The name it had; another topic may have it by now.
    pub name: TopicName,
    /// How many partitions it had.
    pub partitions: u32,
    /// When it was deleted.
    pub deleted_at: Timestamp,
    /// The nodes that held replicas and have not reported that the files are gone.
    pub holders: BTreeSet<NodeId>,
}

/// What a node may do (PROTOCOL 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeStatus {
    /// Its newest process has an incarnation and does not yet know everything up to it (N2): it
    /// neither leads nor is in sync.
    Registered,
    /// Taken for dead (N5): it neither leads nor is in sync.
    Fenced,
    /// At work.
    Active,
    /// At work, but giving away what it has: it gets no new replicas, and leads only what nobody
    /// else can lead.
    Draining,
}

impl NodeStatus {
    /// Whether the node may lead and be in sync.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Active | Self::Draining)
    }
}

impl std::fmt::Display for NodeStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Registered => "starting",
            Self::Fenced => "fenced",
            Self::Active => "active",
            Self::Draining => "draining",
        })
    }
}

/// Who gets what a node has that is to be forgotten (PROTOCOL N8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Successor {
    /// Whichever nodes placement chooses.
    Any,
    /// This node; where it cannot, the others.
    Node(NodeId),
}

/// A node of the cluster, as it registered last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEntry {
    /// Its identity, drawn from its disk.
    pub id: NodeId,
    /// The id by which people address it. Several entries may carry the same when a node was
    /// replaced; see [`View::node_by_name`].
    pub name: BrokerId,
    /// The disk on which it lives (N1).
    pub disk: Uuid,
    /// Its newest process.
    pub process: Uuid,
    /// The number of that process's registration.
    pub incarnation: Incarnation,
    /// What it may do.
    pub status: NodeStatus,
    /// Whether it is meant to give everything away; outlasts its restarts.
    pub draining: bool,
    /// Who gets what it has, if it is to be forgotten once it holds nothing and is not at work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<Successor>,
    /// Base URL of its public face; empty when it has none.
    pub http: String,
    /// Host and port of its internal plane; empty when it has none.
    pub peer: String,
    /// The rack (zone, room) in which it stands: replicas are spread over racks.
    pub rack: Option<String>,
    /// When its newest process registered.
    pub registered_at: Timestamp,
    /// Whether the process before it had ended cleanly (N7).
    pub last_clean: bool,
}

/// Topics, live and deleted. Invariant: the live ones are the same in `by_name` and `by_id`; no
/// id is both live and deleted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Topics {
    pub(super) by_name: ChunkedMap<TopicName, Arc<TopicEntry>>,
    pub(super) by_id: ChunkedMap<TopicId, Arc<TopicEntry>>,
    pub(super) deleted: BTreeMap<TopicId, Arc<DeletedTopic>>,
    /// Partitions of the live topics.
    pub(super) partitions: u64,
    /// Partitions of the deleted ones.
    pub(super) deleted_partitions: u64,
}

/// Which partition of which topic.
pub(super) type Key = (TopicId, Partition);

/// The metadata at one moment. Published once the change that it shows is on stable storage.
///
/// Who takes part in replication must take a topic's settings and a partition's record from the
/// same view: a minimum of in-sync replicas and an in-sync set that never held together could let
/// the high watermark pass records that an eligible leader lacks (I6).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// Number of commands that have changed the state so far.
    pub applied: u64,
    pub(super) topics: Arc<Topics>,
    pub(super) nodes: Arc<BTreeMap<NodeId, Arc<NodeEntry>>>,
    pub(super) partitions: Arc<ChunkedMap<Key, Arc<PartitionRecord>>>,
}

impl View {
    /// The topic of that name.
    pub fn topic(&self, name: &TopicName) -> Option<&Arc<TopicEntry>> {
        self.topics.by_name.get(name)
    }

    /// The topic of that identity.
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<TopicEntry>> {
        self.topics.by_id.get(&id)
    }

    /// All topics, by name.
    pub fn topics(&self) -> impl DoubleEndedIterator<Item = &Arc<TopicEntry>> {
        self.topics.by_name.values()
    }

    /// The topics whose names come after `name`, in order: the rest of a paged list.
    pub fn topics_after(
        &self,
        name: &TopicName,
    ) -> impl DoubleEndedIterator<Item = &Arc<TopicEntry>> {
        self.topics.by_name.values_after(name)
    }

    /// Number of topics.
    pub fn topic_count(&self) -> usize {
        self.topics.by_name.len()
    }

    /// Number of partitions over all topics.
    pub fn partition_count(&self) -> u64 {
        self.topics.partitions
    }

    /// Deleted topics whose files may still be on disk, by id.
    pub fn deleted(&self) -> impl ExactSizeIterator<Item = &Arc<DeletedTopic>> {
        self.topics.deleted.values()
    }

    /// What the cluster agrees on about a partition. None for a partition that does not exist,
    /// and, in a directory of before there were clusters, until the node has registered.
    pub fn partition(&self, topic: TopicId, partition: Partition) -> Option<&Arc<PartitionRecord>> {
        self.partitions.get(&(topic, partition))
    }

    /// The partitions of a topic, in order.
    pub fn partitions_of(
        &self,
        topic: TopicId,
    ) -> impl Iterator<Item = (Partition, &Arc<PartitionRecord>)> {
        self.partitions
            .entries_from(&(topic, Partition(0)))
            .take_while(move |((found, _), _)| *found == topic)
            .map(|((_, partition), record)| (*partition, record))
    }

    /// All partitions, by topic id and number.
    pub fn partitions(
        &self,
    ) -> impl DoubleEndedIterator<Item = (TopicId, Partition, &Arc<PartitionRecord>)> {
        self.partitions
            .entries()
            .map(|((topic, partition), record)| (*topic, *partition, record))
    }

    /// All nodes, fenced ones too, by id.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Arc<NodeEntry>> {
        self.nodes.values()
    }

    /// The node of that identity.
    pub fn node(&self, id: NodeId) -> Option<&Arc<NodeEntry>> {
        self.nodes.get(&id)
    }

    /// The node that people mean by that name: of those that ever had it, the one that registered
    /// last.
    pub fn node_by_name(&self, name: &BrokerId) -> Option<&Arc<NodeEntry>> {
        self.nodes()
            .filter(|node| node.name == *name)
            .max_by_key(|node| node.incarnation)
    }

    /// Whether `other` has the very same topics, live and deleted: true at once when no command
    /// has touched them in between.
    pub fn same_topics(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.topics, &other.topics) || self.topics == other.topics
    }

    /// Whether `other` has the very same partition records: true at once when no command has
    /// touched them in between.
    pub fn same_partitions(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.partitions, &other.partitions) || self.partitions == other.partitions
    }

    /// Whether `other` has the very same nodes.
    pub fn same_nodes(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.nodes, &other.nodes) || self.nodes == other.nodes
    }

    /// Whether no command has touched topics, partitions or nodes between this view and `other`.
    /// Compares no contents.
    pub(super) fn untouched_since(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.topics, &other.topics)
            && Arc::ptr_eq(&self.partitions, &other.partitions)
            && Arc::ptr_eq(&self.nodes, &other.nodes)
    }
}
