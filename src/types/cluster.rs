//! Nodes, replicas and who leads: the words in which the cluster agrees on a partition.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::LeaderEpoch;

/// A node, for machines: drawn with its disk id, so that a node that comes back with an empty
/// disk is another node and cannot vote or answer with what it no longer has (PROTOCOL N1, N8).
/// Never zero. People address a node by its [`BrokerId`](super::BrokerId).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The node that lives on that disk.
    pub fn of_disk(disk: Uuid) -> Self {
        let [a, b, c, d, ..] = *disk.as_bytes();
        Self(u32::from_be_bytes([a, b, c, d]).max(1))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a process's registration with the cluster: grows over all nodes and never
/// repeats, so that nothing sent by an earlier process of a node can pass for this one's
/// (PROTOCOL N2).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a partition's record: each change of its replicas, leader or in-sync set raises
/// it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct PartitionEpoch(pub u32);

impl fmt::Display for PartitionEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One copy of a partition. A node that gives up a partition and gets it again has another
/// `generation`, so that what the old copy had told the leader says nothing of the new one
/// (PROTOCOL G-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Replica {
    /// Where it is.
    pub node: NodeId,
    /// Number of the metadata command that made it.
    pub generation: u64,
}

/// What the cluster agrees on about one partition (PROTOCOL 2.1 `Part`).
///
/// Invariants 3 and 4: `isr` and `elr` are disjoint subsets of the replicas; the leader is in
/// `isr`; while `isr` has the topic's minimum, `elr` is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PartitionRecord {
    /// The copies, in order of preference for leadership: the first is the preferred leader.
    pub replicas: Vec<Replica>,
    /// Who leads; none while no candidate is alive.
    pub leader: Option<NodeId>,
    /// The number of the reign.
    pub leader_epoch: LeaderEpoch,
    /// The number of this record.
    pub partition_epoch: PartitionEpoch,
    /// In-sync replicas.
    pub isr: BTreeSet<NodeId>,
    /// Eligible leader replicas: out of `isr`, and known to have every committed record (KIP-966).
    pub elr: BTreeSet<NodeId>,
    /// The last members of `elr` that lost that quality.
    pub last_known_elr: BTreeSet<NodeId>,
    /// Replicas that a reassignment adds.
    pub adding: BTreeSet<NodeId>,
    /// Replicas that go once those of `adding` are in sync.
    pub removing: BTreeSet<NodeId>,
    /// Epochs that began with a possible loss of records.
    pub unclean_epochs: Vec<LeaderEpoch>,
}

impl PartitionRecord {
    /// The copy on that node.
    pub fn replica(&self, node: NodeId) -> Option<Replica> {
        let mut replicas = self.replicas.iter();
        replicas.find(|replica| replica.node == node).copied()
    }
}
