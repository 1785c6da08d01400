//! The cluster as people see it, and what they may ask of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::topics::Topic;
use super::{Broker, TopicError, UnknownPartition};
use crate::metadata::{Applied, ApplyError, Command, NodeEntry};
use crate::partition;
use crate::types::{
    BrokerId, Code, NodeId, Partition, PartitionRecord, TopicId, TopicName, TopicPartition,
};
use uuid::Uuid;

/// The cluster, as the node knows it that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// What is wrong, in words; empty when all is well.
    pub problems: Vec<String>,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeDescription {
    /// As it registered last.
    pub entry: Arc<NodeEntry>,
    /// Whether it votes on metadata.
    pub voter: bool,
    /// Whether gossip has heard of it lately; the asked node hears itself.
    pub heard: bool,
    /// Partitions that it leads.
    pub leads: u64,
    /// Partitions of which it has a copy.
    pub replicas: u64,
    /// Copies that are in sync.
    pub in_sync: u64,
}

/// A partition whose replicas are being moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaMove {
    /// The partition.
    pub partition: TopicPartition,
    /// What the cluster agrees on about it.
    pub record: Arc<PartitionRecord>,
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

impl Broker {
    /// The cluster, as this node knows it.
    pub fn cluster(&self) -> ClusterStatus {
        let inner = &self.inner;
        let view = inner.store.view().borrow().clone();
        let raft = inner.store.status();
        let heard: BTreeSet<NodeId> = match &inner.gossip {
            Some(gossip) => gossip.live().borrow().keys().copied().collect(),
            None => BTreeSet::new(),
        };
        let mut nodes: BTreeMap<NodeId, NodeDescription> = view
            .nodes()
            .map(|entry| {
                let description = NodeDescription {
                    entry: entry.clone(),
                    voter: raft.voters.contains(&entry.id),
                    heard: entry.id == inner.node || heard.contains(&entry.id),
                    leads: 0,
                    replicas: 0,
                    in_sync: 0,
                };
                (entry.id, description)
            })
            .collect();
        let mut partitions = PartitionCounts::default();
        let (mut moves, mut problems) = (Vec::new(), Vec::new());
        for (topic, number, record) in view.partitions() {
            let Some(entry) = view.topic_by_id(topic) else {
                continue;
            };
            partitions.total += 1;
            let name = || TopicPartition {
                topic: entry.name.clone(),
                partition: number,
            };
            for replica in &record.replicas {
                if let Some(node) = nodes.get_mut(&replica.node) {
                    node.replicas += 1;
                    node.in_sync += u64::from(record.isr.contains(&replica.node));
                    node.leads += u64::from(record.leader == Some(replica.node));
                }
            }
            if record.leader.is_none() {
                partitions.without_leader += 1;
                if partitions.without_leader <= NAMED {
                    problems.push(format!("{} has no leader", name()));
                }
            }
            if record.isr.len() < record.replicas.len() {
                partitions.under_replicated += 1;
            }
            if record.isr.len() < entry.settings.min_insync_replicas as usize {
                partitions.under_min_in_sync += 1;
            }
            if !record.adding.is_empty() || !record.removing.is_empty() {
                moves.push(ReplicaMove {
                    partition: name(),
                    record: record.clone(),
                });
            }
        }
        for node in nodes.values() {
            if !node.entry.status.is_live() {
                let entry = &node.entry;
                problems.push(format!("node {} is {}", entry.name, entry.status));
            }
        }
        if 0 < partitions.under_min_in_sync {
            problems.push(format!(
                "{} partitions have fewer in-sync replicas than their topics demand: acks=all is refused",
                partitions.under_min_in_sync
            ));
        }
        if raft.leader.is_none() {
            problems.push("nobody leads the metadata: topics and leaders cannot change".into());
        }
        ClusterStatus {
            cluster_id: inner.store.identity().cluster_id,
            node: inner.node,
            controller: raft.leader,
            term: raft.term,
            applied: view.applied,
            nodes: nodes.into_values().collect(),
            partitions,
            moves,
            problems,
        }
    }

    /// What people call a node.
    pub fn name_of(&self, node: NodeId) -> String {
        let view = self.inner.store.view();
        let view = view.borrow();
        match view.node(node) {
            Some(entry) => entry.name.to_string(),
            // It was removed, and something still names it.
            None => format!("node-{node}"),
        }
    }

    fn node_named(&self, name: &BrokerId) -> Result<NodeId, ClusterError> {
        let view = self.inner.store.view();
        let view = view.borrow();
        let found = view.node_by_name(name).map(|node| node.id);
        found.ok_or_else(|| ClusterError::NodeNotFound(name.clone()))
    }

    /// Makes a node give everything away, or keep what it has.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub async fn drain_node(&self, name: &BrokerId, drain: bool) -> Result<(), ClusterError> {
        let id = self.node_named(name)?;
        self.change(match drain {
            true => Command::DrainNode { id },
            false => Command::UndrainNode { id },
        })
        .await?;
        Ok(())
    }

    /// Forgets a node that holds nothing and is not at work.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub async fn remove_node(&self, name: &BrokerId) -> Result<(), ClusterError> {
        let id = self.node_named(name)?;
        self.change(Command::RemoveNode { id }).await?;
        // The controller sends it nothing any more. Elsewhere that is found out in time.
        if let Err(error) = self.inner.store.remove_learner(id).await {
            tracing::debug!(error = partition::chain(&error), "a node that is removed");
        }
        Ok(())
    }

    /// Moves a partition's replicas to these nodes, the first of them preferred as leader.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub async fn reassign(
        &self,
        topic: &TopicName,
        partition: Partition,
        nodes: &[BrokerId],
    ) -> Result<Arc<PartitionRecord>, ClusterError> {
        let nodes: Result<Vec<NodeId>, _> =
            nodes.iter().map(|node| self.node_named(node)).collect();
        let replicas = nodes?;
        self.change_partition(topic, partition, |topic, partition, record| {
            Command::Reassign {
                topic,
                partition,
                replicas: replicas.clone(),
                partition_epoch: record.partition_epoch,
            }
        })
        .await
    }

    /// Takes back a move of replicas that is under way.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub async fn cancel_reassign(
        &self,
        topic: &TopicName,
        partition: Partition,
    ) -> Result<Arc<PartitionRecord>, ClusterError> {
        self.change_partition(topic, partition, |topic, partition, record| {
            Command::CancelReassign {
                topic,
                partition,
                partition_epoch: record.partition_epoch,
            }
        })
        .await
    }

    /// Moves leadership to an in-sync replica; with `unclean`, to any replica of a partition that
    /// nobody leads, giving up what only others have (PROTOCOL E3).
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub async fn elect(
        &self,
        topic: &TopicName,
        partition: Partition,
        node: &BrokerId,
        unclean: bool,
    ) -> Result<Arc<PartitionRecord>, ClusterError> {
        let node = self.node_named(node)?;
        self.change_partition(topic, partition, |topic, partition, record| {
            let partition_epoch = record.partition_epoch;
            match unclean {
                false => Command::MoveLeader {
                    topic,
                    partition,
                    to: node,
                    partition_epoch,
                },
                true => Command::ElectUnclean {
                    topic,
                    partition,
                    leader: node,
                    partition_epoch,
                },
            }
        })
        .await
    }

    async fn change_partition(
        &self,
        topic: &TopicName,
        partition: Partition,
        command: impl Fn(TopicId, Partition, &PartitionRecord) -> Command,
    ) -> Result<Arc<PartitionRecord>, ClusterError> {
        let found = self.existing_topic(topic).map_err(|error| match error {
            TopicError::Closing => ClusterError::Apply(ApplyError::Closed(crate::metadata::Closed)),
            _ => ClusterError::TopicNotFound(topic.clone()),
        })?;
        let record = |topic: &Topic| topic.place(partition).map(|place| place.record.clone());
        let command = command(found.entry.id, partition, &*record(&found)?);
        match self.change(command).await? {
            Applied::PartitionChanged(record) | Applied::PartitionAltered(_, record) => Ok(record),
            _ => Ok(record(&self.existing_topic(topic).unwrap_or(found))?),
        }
    }
}

/// Partitions named one by one among the problems.
const NAMED: u64 = 5;
