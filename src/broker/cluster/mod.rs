//! The cluster as people see it, and what they may ask of it.

mod change;
mod health;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;

use super::peer::wire::PartitionKey;
use super::{Broker, UnknownPartition};
use crate::metadata::{ApplyError, NodeEntry, View};
use crate::partition;
use crate::types::{BrokerId, Code, NodeId, PartitionRecord, TopicName, TopicPartition};
use health::Ailing;
pub use health::{Finding, Severity};
pub use report::{MetadataReport, NodeReport, PartitionProgress};

/// The cluster, as the node knows it that was asked.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterStatus {
    /// Its identity.
    pub cluster_id: Uuid,
    /// The node that was asked.
    pub node: NodeId,
    /// The node that leads the metadata and controls the others; none while there is none.
    pub controller: Option<NodeId>,
    /// The reign of the controller.
    pub term: u64,
    /// Metadata commands that the asked node has applied.
    pub applied: u64,
    /// All nodes, fenced ones too.
    pub nodes: Vec<NodeDescription>,
    /// Partitions, counted.
    pub partitions: PartitionCounts,
    /// Replicas on their way.
    pub moves: Vec<ReplicaMove>,
    /// What is wrong, in words, the worst first; empty when all is well.
    pub findings: Vec<Finding>,
}

/// Partitions of the whole cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PartitionCounts {
    /// All.
    pub total: u64,
    /// That nobody leads.
    pub without_leader: u64,
    /// With fewer in-sync replicas than replicas.
    pub under_replicated: u64,
    /// With fewer in-sync replicas than their topic demands.
    pub under_min_in_sync: u64,
}

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeDescription {
    /// As it registered last.
    pub entry: Arc<NodeEntry>,
    /// What people call it: see [`Broker::name_of`].
    pub name: String,
    /// Whether it votes on metadata.
    pub voter: bool,
    /// Whether gossip has heard of it lately; the asked node hears itself.
    pub heard: bool,
    /// For how many milliseconds it has given the controller no sign of life; none if that is not
    /// known.
    pub silent_ms: Option<u64>,
    /// Partitions that it leads.
    pub leads: u64,
    /// Partitions of which it has a copy.
    pub replicas: u64,
    /// Copies that are in sync.
    pub in_sync: u64,
    /// Partitions that it leads of which a copy is not in sync.
    pub under_replicated: u64,
    /// How it is, in its own words; none if it did not answer.
    pub report: Option<NodeReport>,
}

/// A partition whose replicas are being moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaMove {
    /// The partition.
    pub partition: TopicPartition,
    /// What the cluster agrees on about it.
    pub record: Arc<PartitionRecord>,
    /// How far the copies are that come.
    pub copies: Vec<Copying>,
}

/// A copy that is being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copying {
    /// Where.
    pub node: NodeId,
    /// Whether it is in sync.
    pub in_sync: bool,
    /// Records that it has, of how many; none if its leader does not say.
    pub records: Option<(u64, u64)>,
    /// Bytes of the leader's copy, as they are on its disk.
    pub bytes: u64,
}

/// A partition of which a node has a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldPartition {
    /// The partition.
    pub partition: TopicPartition,
    /// What the cluster agrees on about it.
    pub record: Arc<PartitionRecord>,
    /// How far its copies are; none if its leader does not say.
    pub progress: Option<PartitionProgress>,
}

/// Why the cluster did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClusterError {
    /// No such node.
    #[error("the cluster has no node {0}")]
    NodeNotFound(BrokerId),
    /// No such topic.
    #[error("there is no topic {0}")]
    TopicNotFound(TopicName),
    /// No such partition.
    #[error(transparent)]
    Partition(#[from] UnknownPartition),
    /// The cluster is not in the state that this needs, or the metadata did not take it.
    #[error("{}", partition::chain(.0))]
    Apply(#[from] ApplyError),
}

impl ClusterError {
    /// The code on the wire.
    pub fn code(&self) -> Code {
        match self {
            Self::NodeNotFound(_) => Code::NodeNotFound,
            Self::TopicNotFound(_) => Code::TopicNotFound,
            Self::Partition(_) => Code::PartitionNotFound,
            Self::Apply(error) => error.code(),
        }
    }
}

/// Which partitions of a node are shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// Those after this one, by topic and number.
    pub after: Option<TopicPartition>,
    /// At most so many.
    pub limit: usize,
}

impl Broker {
    /// The cluster, as this node knows it and as the others say when they are asked now.
    pub async fn cluster(&self) -> ClusterStatus {
        let inner = &self.inner;
        let view = inner.store.view().borrow().clone();
        let raft = inner.store.status();
        let heard: BTreeSet<NodeId> = match &inner.gossip {
            Some(gossip) => gossip.live().borrow().keys().copied().collect(),
            None => BTreeSet::new(),
        };
        let hears = |node: NodeId| node == inner.node || heard.contains(&node);
        let (partitions, ailing, moving) = survey(&view);
        // Whoever is neither at work nor heard of would only be waited for.
        let asked = view.nodes().map(|entry| (entry.id, entry.status.is_live()));
        let asked = asked.filter(|(node, live)| *live || hears(*node));
        let asked = asked.map(|(node, _)| node).collect();
        let mut by_leader: BTreeMap<NodeId, Vec<PartitionKey>> = BTreeMap::new();
        for (key, _, record) in &moving {
            if let Some(leader) = record.leader {
                by_leader.entry(leader).or_default().push(*key);
            }
        }
        let (mut reports, progress) =
            futures_util::future::join(self.reports(asked), self.progress_at(by_leader)).await;
        let silent = raft.leader.and_then(|controller| reports.get(&controller));
        let silent = silent.map(|report| report.silent.clone());
        let silent = silent.unwrap_or_default();
        let mut nodes: BTreeMap<NodeId, NodeDescription> = view
            .nodes()
            .map(|entry| {
                let description = NodeDescription {
                    entry: entry.clone(),
                    name: name_of(&view, entry.id),
                    voter: raft.voters.contains(&entry.id),
                    heard: hears(entry.id),
                    silent_ms: silent.get(&entry.id).copied(),
                    leads: 0,
                    replicas: 0,
                    in_sync: 0,
                    under_replicated: 0,
                    report: reports.remove(&entry.id),
                };
                (entry.id, description)
            })
            .collect();
        for (_, _, record) in view.partitions() {
            for replica in &record.replicas {
                if let Some(node) = nodes.get_mut(&replica.node) {
                    let leads = record.leader == Some(replica.node);
                    node.replicas += 1;
                    node.in_sync += u64::from(record.isr.contains(&replica.node));
                    node.leads += u64::from(leads);
                    let short = record.isr.len() < record.replicas.len();
                    node.under_replicated += u64::from(leads && short);
                }
            }
        }
        let moves = moving.into_iter().map(|(key, partition, record)| {
            let progress = progress.get(&key);
            let copies = record.adding.iter().map(|node| Copying {
                node: *node,
                in_sync: record.isr.contains(node),
                records: progress.and_then(|progress| progress.copied(*node)),
                bytes: progress.map_or(0, |progress| progress.bytes),
            });
            ReplicaMove {
                partition,
                copies: copies.collect(),
                record,
            }
        });
        let mut status = ClusterStatus {
            cluster_id: inner.store.identity().cluster_id,
            node: inner.node,
            controller: raft.leader,
            term: raft.term,
            applied: view.applied,
            nodes: nodes.into_values().collect(),
            partitions,
            moves: moves.collect(),
            findings: Vec::new(),
        };
        status.findings = health::findings(&status, &ailing);
        status
    }

    /// The partitions of which a node has a copy, by topic and number, and whether there are more.
    ///
    /// # Errors
    /// [`ClusterError::NodeNotFound`].
    pub async fn held_by(
        &self,
        name: &BrokerId,
        asked: &Asked,
    ) -> Result<(Vec<HeldPartition>, bool), ClusterError> {
        let node = self.node_named(name)?;
        let view = self.inner.store.view().borrow().clone();
        let (page, more) = held(&view, node, asked);
        let mut by_leader: BTreeMap<NodeId, Vec<PartitionKey>> = BTreeMap::new();
        for (key, _, record) in &page {
            if let Some(leader) = record.leader {
                by_leader.entry(leader).or_default().push(*key);
            }
        }
        let mut progress = self.progress_at(by_leader).await;
        let page = page
            .into_iter()
            .map(|(key, partition, record)| HeldPartition {
                partition,
                record,
                progress: progress.remove(&key),
            });
        Ok((page.collect(), more))
    }

    /// What people call a node: its name, or its number if another node has taken the name since.
    pub fn name_of(&self, node: NodeId) -> String {
        let view = self.inner.store.view();
        let view = view.borrow();
        name_of(&view, node)
    }

    /// The node that people mean by a name, or by a number.
    ///
    /// # Errors
    /// [`ClusterError::NodeNotFound`].
    pub fn node_named(&self, name: &BrokerId) -> Result<NodeId, ClusterError> {
        let view = self.inner.store.view();
        let view = view.borrow();
        let named = view.node_by_name(name).map(|node| node.id);
        let numbered = || {
            let number = name.as_str().parse().ok()?;
            view.node(NodeId(number)).map(|node| node.id)
        };
        let found = named.or_else(numbered);
        found.ok_or_else(|| ClusterError::NodeNotFound(name.clone()))
    }
}

fn name_of(view: &View, node: NodeId) -> String {
    match view.node(node) {
        Some(entry) if view.node_by_name(&entry.name).is_some_and(|n| n.id == node) => {
            entry.name.to_string()
        }
        // Its name is another's now, or it was removed and something still names it.
        _ => node.to_string(),
    }
}

/// The partitions of which the node has a copy, and whether there are more.
fn held(view: &View, node: NodeId, asked: &Asked) -> (Vec<Shown>, bool) {
    let mut page = Vec::new();
    let after = asked.after.as_ref();
    let topics = view.topics();
    for topic in topics.skip_while(|topic| after.is_some_and(|after| topic.name < after.topic)) {
        for (partition, record) in view.partitions_of(topic.id) {
            let name = TopicPartition {
                topic: topic.name.clone(),
                partition,
            };
            if record.replica(node).is_none() || after.is_some_and(|after| name <= *after) {
                continue;
            }
            if page.len() == asked.limit {
                return (page, true);
            }
            let key = PartitionKey {
                topic: topic.id,
                partition,
            };
            page.push((key, name, record.clone()));
        }
    }
    (page, false)
}

/// A partition, its name and its record.
type Shown = (PartitionKey, TopicPartition, Arc<PartitionRecord>);

/// Counts partitions, and picks those of which something is to be said and those that are moved.
fn survey(view: &View) -> (PartitionCounts, Vec<Ailing>, Vec<Shown>) {
    let mut counts = PartitionCounts::default();
    let (mut ailing, mut moving) = (Vec::new(), Vec::new());
    let leaving: BTreeSet<NodeId> = view
        .nodes()
        .filter(|node| node.draining)
        .map(|node| node.id)
        .collect();
    for (topic, number, record) in view.partitions() {
        let Some(entry) = view.topic_by_id(topic) else {
            continue;
        };
        let settings = &entry.settings;
        counts.total += 1;
        let headless = record.leader.is_none();
        let short = record.isr.len() < record.replicas.len();
        let under_min = record.isr.len() < settings.min_insync_replicas as usize;
        counts.without_leader += u64::from(headless);
        counts.under_replicated += u64::from(short);
        counts.under_min_in_sync += u64::from(under_min);
        let moves = !record.adding.is_empty() || !record.removing.is_empty();
        let few = record.replicas.len() < settings.replication_factor as usize;
        let leaves = record
            .replicas
            .iter()
            .any(|replica| leaving.contains(&replica.node));
        if !(headless || short || under_min || moves || few || leaves) {
            continue;
        }
        let name = TopicPartition {
            topic: entry.name.clone(),
            partition: number,
        };
        if moves {
            let key = PartitionKey {
                topic,
                partition: number,
            };
            moving.push((key, name.clone(), record.clone()));
        }
        ailing.push(Ailing {
            partition: name,
            record: record.clone(),
            min_insync: settings.min_insync_replicas,
            replication_factor: settings.replication_factor,
        });
    }
    (counts, ailing, moving)
}
