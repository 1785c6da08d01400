//! The cluster: its nodes, who leads what, and what is wrong.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The cluster, as the node knows it that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cluster {
    /// Its identity.
    pub cluster_id: String,
    /// The node that was asked.
    pub node: String,
    /// The node that controls the others: it decides who leads; `null` while there is none.
    pub controller: Option<String>,
    /// The controller's reign.
    pub term: u64,
    /// Changes of the metadata that the asked node has applied.
    pub applied: u64,
    /// All nodes, those that are away too.
    pub nodes: Vec<ClusterNode>,
    /// Partitions, counted.
    pub partitions: PartitionCounts,
    /// Partitions whose replicas are being moved.
    pub moves: Vec<ReplicaMove>,
    /// What is wrong, in words; empty when all is well.
    pub problems: Vec<String>,
}

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterNode {
    /// The id by which people address it.
    pub id: String,
    /// Its number, drawn with its disk.
    pub number: u32,
    /// `active`, `draining`, `starting` or `fenced`.
    pub status: String,
    /// Where clients reach it; empty for a broker that shares another node's face.
    pub url: String,
    /// Where other nodes reach it.
    pub peer: String,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack: Option<String>,
    /// The number of its newest process's registration.
    pub incarnation: u64,
    /// When that process registered.
    pub registered_at: String,
    /// Whether it votes on metadata.
    pub voter: bool,
    /// Whether gossip has heard of it lately.
    pub heard: bool,
    /// Partitions that it leads.
    pub leads: u64,
    /// Partitions of which it has a copy.
    pub replicas: u64,
    /// Copies that are in sync.
    pub in_sync: u64,
}

/// Partitions of the whole cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
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

/// A partition whose replicas are being moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplicaMove {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// Nodes that get a copy.
    pub adding: Vec<String>,
    /// Nodes that give theirs up once the others are in sync.
    pub removing: Vec<String>,
}

/// Where a partition's replicas shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reassign {
    /// Nodes, the first of them preferred as leader.
    pub nodes: Vec<String>,
}

/// Who shall lead a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Elect {
    /// The node.
    pub node: String,
    /// Whether it may lead a partition without a leader although it may lack acknowledged records:
    /// what only others have is lost for good.
    #[serde(default)]
    pub unclean: bool,
}
