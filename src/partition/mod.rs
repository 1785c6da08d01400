//! One task per hosted partition (layer 4): the only writer of its log.
//!
//! The task drains its mailbox into one vectored write and one `fdatasync` (natural group commit:
//! what arrives while the disk is busy goes into the next group), then answers everybody at once.
//! Readers never pass through it: they read what is published, straight from the segments.
//!
//! It leads the partition or follows its leader, as the metadata says: what that means is decided
//! by [`replication`](crate::replication), and done here. Disk work runs on a blocking thread
//! that holds the log meanwhile; the task goes on hearing followers, so that they copy what the
//! leader is still syncing (PROTOCOL A5).

mod follow;
mod handle;
mod job;
mod lead;
mod once;
mod task;
#[cfg(test)]
mod tests;

pub use handle::{
    AppendRequest, Appended, Assignment, PartitionHandle, Ready, ReplicaProgress, Request, Role,
    State, Upstream,
};
pub use lead::Proposal;
pub use task::{Hosted, spawn};

use serde::{Deserialize, Serialize};

use crate::storage::StorageError;
use crate::types::{Offset, TopicPartition};

/// Why an append was turned away, or its outcome is unknown.
#[derive(Debug, Clone, thiserror::Error, Serialize, Deserialize)]
pub enum AppendError {
    /// This node does not lead the partition; nothing was appended.
    #[error("this node does not lead {partition}")]
    NotLeader {
        /// The partition.
        partition: TopicPartition,
    },
    /// Fewer replicas are in sync than the topic demands; nothing was appended.
    #[error("{partition} has {in_sync} in-sync replicas, and {min} are demanded")]
    NotEnoughReplicas {
        /// The partition.
        partition: TopicPartition,
        /// In sync now.
        in_sync: usize,
        /// Demanded.
        min: u32,
    },
    /// Leadership moved before the acknowledgement: the new leader may have the records or not.
    #[error("the leadership of {partition} moved before the records were acknowledged")]
    LeadershipLost {
        /// The partition.
        partition: TopicPartition,
    },
    /// The in-sync replicas did not confirm in time; they may yet.
    #[error("the in-sync replicas of {partition} did not confirm in time")]
    AckTimeout {
        /// The partition.
        partition: TopicPartition,
    },
    /// Too many bytes wait for this partition.
    #[error("{partition} has more than {waiting} bytes of appends waiting")]
    Overloaded {
        /// The partition.
        partition: TopicPartition,
        /// Bytes that may wait.
        waiting: usize,
    },
    /// The partition does not end where the producer expects it to.
    #[error("{partition} ends at offset {end}, not at the expected {expected}")]
    OffsetMismatch {
        /// The partition.
        partition: TopicPartition,
        /// What the producer expected.
        expected: Offset,
        /// Where it ends.
        end: Offset,
    },
    /// Not as the idempotent producer's earlier batches have it, or not what the key stood for.
    #[error("{partition}: {reason}")]
    Sequence {
        /// The partition.
        partition: TopicPartition,
        /// What is wrong.
        reason: SequenceError,
    },
    /// The disk has no room; nothing was written.
    #[error("no room on the disk to append to {partition}")]
    NoSpace {
        /// The partition.
        partition: TopicPartition,
    },
    /// The write failed and was undone.
    #[error("append to {partition} failed and was undone: {reason}")]
    Write {
        /// The partition.
        partition: TopicPartition,
        /// What the storage said.
        reason: String,
    },
    /// The records were written but could not be proven to be on stable storage.
    #[error("the records of {partition} may not have reached stable storage: {reason}")]
    Sync {
        /// The partition.
        partition: TopicPartition,
        /// What the storage said.
        reason: String,
    },
    /// The storage failed earlier; the partition takes no appends until the node restarts.
    #[error("{partition} is offline: {reason}")]
    Offline {
        /// The partition.
        partition: TopicPartition,
        /// Why.
        reason: String,
    },
    /// The partition is closing; the records may or may not have been appended.
    #[error("{partition} closed before it answered")]
    Closed {
        /// The partition.
        partition: TopicPartition,
    },
}

/// Why an idempotent producer's batch was not appended (PROTOCOL P3, P4, P6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum SequenceError {
    /// The producer has begun a newer epoch.
    #[error("the producer goes on in epoch {epoch}; this one is over")]
    Fenced {
        /// That epoch.
        epoch: u16,
    },
    /// What comes before it has not arrived, and did not within a short time.
    #[error("the batch begins at sequence {sequence}, and {expected} is due")]
    OutOfOrder {
        /// What was sent.
        sequence: u32,
        /// What was due.
        expected: u32,
    },
    /// Something else was sent under this sequence number.
    #[error("something else was sent before with sequence {sequence}")]
    Reused {
        /// What was sent.
        sequence: u32,
    },
    /// It was appended before, too long ago to say where.
    #[error("the batch at sequence {sequence} was appended before, too long ago to say where")]
    TooOld {
        /// What was sent.
        sequence: u32,
    },
    /// The producer is not known here, or not any more.
    #[error(
        "the producer is not known here, or was silent for too long; it begins with sequence 0, not {sequence}"
    )]
    UnknownProducer {
        /// What was sent.
        sequence: u32,
    },
    /// Something else was sent under this idempotency key.
    #[error("another request was sent before under this idempotency key")]
    KeyReused,
}

impl AppendError {
    /// Whether the records may have been appended all the same.
    pub fn is_uncertain(&self) -> bool {
        matches!(
            self,
            Self::Sync { .. }
                | Self::Closed { .. }
                | Self::LeadershipLost { .. }
                | Self::AckTimeout { .. }
        )
    }
}

/// Why a partition could not be trimmed, closed or deleted.
#[derive(Debug, Clone, thiserror::Error, Serialize, Deserialize)]
pub enum MaintainError {
    /// The task is gone.
    #[error("{0} is closing")]
    Closed(TopicPartition),
    /// The storage refused.
    #[error("{partition}: {reason}")]
    Storage {
        /// The partition.
        partition: TopicPartition,
        /// What the storage said.
        reason: String,
    },
}

impl MaintainError {
    fn storage(partition: &TopicPartition, error: &StorageError) -> Self {
        Self::Storage {
            partition: partition.clone(),
            reason: chain(error),
        }
    }
}

/// An error and all its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
