//! What a follower and its leader say to each other.

use serde::{Deserialize, Serialize};

use crate::types::{Incarnation, LeaderEpoch, NodeId, Offset};

/// Where a replica's log stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogPosition {
    /// The offset of the next record.
    pub log_end: Offset,
    /// Everything below is on stable storage.
    pub durable_end: Offset,
    /// Everything below is known to be committed. May be stale, never too high.
    pub high_watermark: Offset,
}

/// One partition's part of a follower's request (PROTOCOL F2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// Who asks.
    pub node: NodeId,
    /// Its process.
    pub incarnation: Incarnation,
    /// Which copy of the partition asks ([`Replica::generation`](crate::types::Replica)).
    pub generation: u64,
    /// The reign in which the follower believes the leader to be.
    pub leader_epoch: LeaderEpoch,
    /// The follower's log end.
    pub fetch_offset: Offset,
    /// The epoch of the follower's last record; none if its log is empty.
    pub last_epoch: Option<LeaderEpoch>,
    /// Everything below is on the follower's stable storage.
    pub durable_offset: Offset,
    /// The state of the follower's log when it asked: an answer is heard only in that state.
    pub round: u64,
}

/// A leader's answer to one [`Fetch`]. Records travel beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FetchAnswer {
    /// The follower's log is a prefix of the leader's: records from `fetch_offset` on may follow.
    Ok {
        /// The leader's.
        high_watermark: Offset,
        /// The leader's.
        log_start: Offset,
    },
    /// The logs differ; no records follow (T1).
    Diverging {
        /// The greatest epoch of the leader's log that is not above the follower's last one.
        epoch: LeaderEpoch,
        /// Where that epoch ends in the leader's log.
        end: Offset,
    },
    /// The leader has nothing in common with the follower's log: begin anew at `log_start`.
    OutOfRange {
        /// The leader's.
        log_start: Offset,
    },
    /// The follower's epoch is over (F1).
    FencedEpoch {
        /// The leader's epoch.
        current: LeaderEpoch,
    },
    /// The follower knows of a later epoch than the leader does (F1).
    UnknownEpoch,
    /// Another node leads.
    NotLeader,
    /// The leader's record does not list this copy, or a later process speaks for it.
    UnknownReplica,
}
