//! The cluster: its nodes, who leads what, and what is wrong.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The cluster, as the node knows it that was asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
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
    /// What is wrong, in words, the worst first; empty when all is well.
    pub findings: Vec<Finding>,
}

/// One thing that is wrong with the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// `critical`: something cannot be read, written or changed now; `warning`: one more failure
    /// may make it so; `notice`: good to know.
    pub severity: String,
    /// What is wrong, as a sentence without its full stop.
    pub text: String,
    /// What can be done about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The node that it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The topic that it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
}

/// The nodes of the cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeList {
    /// All nodes, those that are away too.
    pub nodes: Vec<ClusterNode>,
}

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClusterNode {
    /// The id by which people address it: its name, or its number if another node has its name now.
    pub id: String,
    /// The name under which it registered.
    pub name: String,
    /// Its number, drawn with its disk.
    pub number: u32,
    /// `active`, `draining`, `starting` or `fenced`.
    pub status: String,
    /// Whether it is to give everything away.
    pub draining: bool,
    /// Set if it is to be forgotten once it holds nothing and is not at work: the node that gets
    /// what it has, or `any`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<String>,
    /// Whether it leads the metadata and controls the others.
    pub controller: bool,
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
    /// For how many milliseconds it has given the controller no sign of life; `null` if that is
    /// not known.
    pub silent_ms: Option<u64>,
    /// Partitions that it leads.
    pub leads: u64,
    /// Partitions of which it has a copy.
    pub replicas: u64,
    /// Copies that are in sync.
    pub in_sync: u64,
    /// Partitions that it leads of which a copy is not in sync.
    pub under_replicated: u64,
    /// How it is, in its own words; `null` if it did not answer.
    pub report: Option<NodeReport>,
}

/// How a node is, in its own words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeReport {
    /// Version of the program.
    pub version: String,
    /// For how long it has been open, in milliseconds.
    pub uptime_ms: u64,
    /// What it does in a second, as the mean of the last few.
    pub load: NodeLoad,
    /// Resident memory of its process, in bytes.
    pub memory: u64,
    /// Bytes of all its logs on disk.
    pub bytes: u64,
    /// Free bytes of its disk.
    pub disk_free: u64,
    /// Size of its disk.
    pub disk_total: u64,
    /// Whether its disk takes records.
    pub can_write: bool,
    /// What is wrong with it, in words.
    pub problems: Vec<String>,
    /// The nodes of which its gossip has heard lately, itself among them.
    pub hears: Vec<String>,
    /// Its part in the agreement on metadata (Raft).
    pub metadata: MetadataReport,
}

/// What a node does in a second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeLoad {
    /// Records appended.
    pub records_in: f64,
    /// Batch bytes appended.
    pub bytes_in: f64,
    /// Records handed to readers.
    pub records_out: f64,
    /// Batch bytes handed to readers.
    pub bytes_out: f64,
    /// Batch bytes copied from leaders.
    pub copied_bytes: f64,
    /// fdatasync calls on segments.
    pub fsyncs: f64,
    /// CPU time of the process: 1.0 is one core.
    pub cpu: f64,
}

/// A node's part in the agreement on metadata (Raft).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MetadataReport {
    /// `leader`, `voter` or `learner`.
    pub role: String,
    /// Who leads, as far as it knows.
    pub leader: Option<String>,
    /// The number of the reign.
    pub term: u64,
    /// Index of the last entry of its log.
    pub last_log: Option<u64>,
    /// Index of the last entry that it has applied.
    pub applied: Option<u64>,
    /// Index up to which its newest snapshot goes.
    pub snapshot: Option<u64>,
}

/// A page of the partitions of which a node has a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeldPartitionList {
    /// By topic and number.
    pub partitions: Vec<HeldPartition>,
    /// Asks for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// A partition of which a node has a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeldPartition {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The node that leads it; `null` while none does.
    pub leader: Option<String>,
    /// This node's copy.
    pub copy: CopyInfo,
    /// Copies in all.
    pub replicas: u32,
    /// Copies in sync.
    pub in_sync: u32,
    /// Bytes of the leader's copy; `null` if its leader does not say.
    pub bytes: Option<u64>,
}

/// One copy of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CopyInfo {
    /// Where it is.
    pub node: String,
    /// `leader`, `in_sync`, `behind`, `coming` (it is being made) or `going` (it goes once others
    /// are in sync).
    pub role: String,
    /// Whether it surely has every committed record, although it is out of sync: it may lead if
    /// no other copy is left.
    pub eligible: bool,
    /// Records of the leader's copy that it lacks; `null` if its leader does not say.
    pub lag: Option<u64>,
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
    /// Copies that come.
    pub adding: Vec<Copying>,
    /// Nodes that give theirs up once the others are in sync.
    pub removing: Vec<String>,
}

/// A copy that is being made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Copying {
    /// The node that gets it.
    pub node: String,
    /// Whether it is in sync.
    pub in_sync: bool,
    /// Records that it has; `null` if the partition's leader does not say.
    pub copied: Option<u64>,
    /// Records that there are; `null` if the partition's leader does not say.
    pub total: Option<u64>,
    /// Bytes of the leader's copy on its disk.
    pub bytes: u64,
}

/// Who gets what a node has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Replace {
    /// The node that gets it; absent = whichever nodes placement chooses.
    #[serde(default)]
    pub by: Option<String>,
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
