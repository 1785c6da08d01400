//! What brokers ask one another: one type per message, shared by who asks and who answers.
//!
//! A message is a JSON part and, where there are records, their batches behind it as they are.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::broker::{FetchError, From, NodeReport, PartitionProgress, PartitionStatus};
use crate::cluster::Lane;
use crate::metadata::NodeEntry;
use crate::partition::{AppendError, Appended, MaintainError};
use crate::types::{
    Acks, BrokerId, Incarnation, LeaderEpoch, NodeId, Offset, Partition, Timestamp, TopicId,
};

/// A question, its place and its answer.
pub(in crate::broker) trait Ask:
    Serialize + DeserializeOwned + Send + 'static
{
    /// Path on the plane between nodes.
    const PATH: &'static str;
    /// Records travel apart from what is small and urgent.
    const LANE: Lane;
    /// Whether asking twice does no more than asking once.
    const REPEATABLE: bool = true;
    /// What is answered; batches may follow.
    type Answer: Serialize + DeserializeOwned + Send + 'static;
}

macro_rules! ask {
    ($request:ty, $path:literal, $lane:ident, $answer:ty) => {
        ask!($request, $path, $lane, $answer, true);
    };
    ($request:ty, $path:literal, $lane:ident, $answer:ty, $repeatable:literal) => {
        impl Ask for $request {
            const PATH: &'static str = $path;
            const LANE: Lane = Lane::$lane;
            const REPEATABLE: bool = $repeatable;
            type Answer = $answer;
        }
    };
}

/// One partition, by the identity of its topic: a topic made anew under the same name is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(in crate::broker) struct PartitionKey {
    pub(in crate::broker) topic: TopicId,
    pub(in crate::broker) partition: Partition,
}

/// The node that was asked does not lead the partition, as far as it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::broker) struct NotLeader {
    /// Who does.
    pub(in crate::broker) leader: Option<NodeId>,
    /// In which reign.
    pub(in crate::broker) epoch: LeaderEpoch,
}

/// Append the batches that follow; `lengths` are theirs.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::broker) struct Append {
    pub(in crate::broker) key: PartitionKey,
    pub(in crate::broker) acks: Acks,
    pub(in crate::broker) expected: Option<Offset>,
    pub(in crate::broker) lengths: Vec<u32>,
}
ask!(
    Append,
    "/partition/append",
    Bulk,
    Result<Result<Vec<Appended>, AppendError>, NotLeader>,
    false
);

/// Batches from the one that holds `from`.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::broker) struct Fetch {
    pub(in crate::broker) key: PartitionKey,
    pub(in crate::broker) from: Offset,
    pub(in crate::broker) max_bytes: usize,
}
/// What was found; the batches follow.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::broker) struct FetchedAt {
    pub(in crate::broker) next: Offset,
    pub(in crate::broker) high_watermark: Offset,
}
ask!(
    Fetch,
    "/partition/fetch",
    Bulk,
    Result<Result<FetchedAt, FetchError>, NotLeader>
);

/// The offset at which a reader begins.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::broker) struct Resolve {
    pub(in crate::broker) key: PartitionKey,
    pub(in crate::broker) from: From,
}
ask!(
    Resolve,
    "/partition/resolve",
    Bulk,
    Result<Result<Offset, FetchError>, NotLeader>
);

/// First readable offset and high watermark.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::broker) struct Bounds {
    pub(in crate::broker) key: PartitionKey,
}
ask!(Bounds, "/partition/bounds", Bulk, Result<(Offset, Offset), NotLeader>);

/// Delete the records below `before`.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::broker) struct Trim {
    pub(in crate::broker) key: PartitionKey,
    pub(in crate::broker) before: Offset,
}
/// Why a partition was not trimmed.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::broker) enum TrimError {
    BeyondEnd(Offset),
    Maintain(MaintainError),
}
ask!(
    Trim,
    "/partition/trim",
    Bulk,
    Result<Result<Offset, TrimError>, NotLeader>
);

/// How the partitions of these topics stand that the node leads.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::broker) struct Describe {
    pub(in crate::broker) topics: Vec<TopicId>,
}
ask!(
    Describe,
    "/partition/describe",
    Bulk,
    Vec<(TopicId, Vec<PartitionStatus>)>
);

/// A node that wants to be one of the cluster, or is back with another address.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::broker) struct Join {
    pub(in crate::broker) id: NodeId,
    pub(in crate::broker) name: BrokerId,
    pub(in crate::broker) disk: Uuid,
    /// `HOST:PORT` on this plane.
    pub(in crate::broker) peer: String,
}
/// What a node of the cluster tells one that joins.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::broker) enum Joined {
    /// It follows the metadata from now on.
    Welcome {
        cluster: Uuid,
        members: Vec<NodeEntry>,
    },
    /// The node that was asked has no cluster yet.
    NoCluster,
    /// It may not join, and why.
    Refused(String),
    /// Not now: nobody leads the metadata.
    Later(String),
}
ask!(Join, "/cluster/join", Control, Joined);

/// A sign of life (PROTOCOL N4). The answer grants no lease.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::broker) struct Heartbeat {
    pub(in crate::broker) node: NodeId,
    pub(in crate::broker) incarnation: Incarnation,
    /// Number of metadata commands that the node has applied.
    pub(in crate::broker) applied: u64,
    /// Whether its disk takes records.
    pub(in crate::broker) can_write: bool,
    /// Nodes with copies of what it holds that it cannot reach (E5).
    #[serde(default)]
    pub(in crate::broker) unreachable: BTreeSet<NodeId>,
    /// Whether its disk takes seconds to sync (E6).
    #[serde(default)]
    pub(in crate::broker) slow: bool,
    /// What its clock says (C3).
    #[serde(default)]
    pub(in crate::broker) wall: Timestamp,
}
/// Whether the node that was asked is the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::broker) enum HeartbeatAnswer {
    /// It is. The sender's clock is so many milliseconds behind the middle one of the cluster.
    Heard(i64),
    NotController(Option<NodeId>),
}
ask!(Heartbeat, "/cluster/heartbeat", Control, HeartbeatAnswer);

/// Are you there?
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(in crate::broker) struct Greet {}
ask!(Greet, "/cluster/greet", Control, ());
/// How the node is.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(in crate::broker) struct Report {}
ask!(Report, "/node/report", Control, NodeReport);

/// How far the copies are of those of these partitions that the node leads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::broker) struct Progress {
    pub(in crate::broker) keys: Vec<PartitionKey>,
}
ask!(
    Progress,
    "/partition/progress",
    Control,
    Vec<(PartitionKey, PartitionProgress)>
);

/// A raft message, as it is (PROTOCOL 2.3): the last part of the path says which.
pub(in crate::broker) const RAFT: &str = "/raft/";
/// A follower's requests flow one way and the leader's answers the other.
pub(in crate::broker) const REPLICATE: &str = "/partition/replicate";
/// Word of each change that readers of a topic may see, for as long as somebody listens.
pub(in crate::broker) const WATCH: &str = "/partition/watch";

/// One follower's request in the stream.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(in crate::broker) struct FetchRequest {
    pub(in crate::broker) key: PartitionKey,
    pub(in crate::broker) fetch: Fetched,
    /// Whether an answer is wanted.
    pub(in crate::broker) wants: bool,
}
/// A replica's position, as [`replication`](crate::replication) has it.
pub(in crate::broker) type Fetched = crate::replication::Fetch;

/// One answer in the stream; batches follow.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(in crate::broker) struct FetchResponse {
    pub(in crate::broker) key: PartitionKey,
    pub(in crate::broker) fetch: Fetched,
    pub(in crate::broker) answer: crate::replication::FetchAnswer,
    /// Whether the first batch is not chained to the one before it.
    pub(in crate::broker) begins_chain: bool,
    /// Bytes before the batches that tell what is remembered of producers.
    pub(in crate::broker) producers: u32,
}

/// Which topic's readers want word.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(in crate::broker) struct Watch {
    pub(in crate::broker) topic: TopicId,
}
