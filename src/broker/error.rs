//! Why a use case failed: one enum per operation, each of whose leaves knows its wire code.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::route::RouteError;
use crate::cluster::SecretError;
use crate::metadata;
use crate::partition::{self, AppendError, MaintainError, SequenceError};
use crate::record::{BatchError, InvalidRecord};
use crate::storage::ReadError;
use crate::types::{
    Code, InvalidName, InvalidSettings, Offset, Outcome, Partition, TopicName, TopicPartition,
};

/// Why a broker could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// An id, a name or a setting is not valid.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// A default for new topics is out of its bounds.
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    /// The path exists and is not a directory.
    #[error("storage {} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// The directory cannot be created, read or written.
    #[error("storage {} cannot be used: {reason}", .path.display())]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// Another broker holds the directory.
    #[error("storage {} is in use by another running broker", .0.display())]
    InUse(PathBuf),
    /// The metadata cannot be read.
    #[error("metadata in {}: {reason}", .path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The cluster's secret cannot be had.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The address for other nodes cannot be listened on.
    #[error(
        "cannot listen for other nodes on {address}: {reason}; choose another with --peer-listen"
    )]
    PeerListen {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        reason: String,
    },
    /// Gossip cannot be started.
    #[error("gossip: {reason}")]
    Gossip {
        /// What is wrong.
        reason: String,
    },
    /// The node is not taken into its cluster.
    #[error("the node could not become part of its cluster: {reason}")]
    Join {
        /// What the others said.
        reason: String,
    },
    /// A partition's log cannot be opened.
    #[error("log of {partition}: {reason}")]
    Log {
        /// The partition.
        partition: TopicPartition,
        /// What is wrong with it.
        reason: String,
    },
}

/// A topic has no such partition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("topic {topic} has {partitions} partitions; there is no partition {partition}")]
pub struct UnknownPartition {
    /// The topic.
    pub topic: TopicName,
    /// What was asked for.
    pub partition: Partition,
    /// How many there are.
    pub partitions: u32,
}

/// Why a topic could not be created, changed, described or deleted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TopicError {
    /// No such topic.
    #[error("there is no topic {0}")]
    NotFound(TopicName),
    /// No such partition.
    #[error(transparent)]
    Partition(#[from] UnknownPartition),
    /// Exists with other settings.
    #[error("topic {0} exists with other settings; change them with PATCH")]
    Exists(TopicName),
    /// Not a topic name.
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    /// A name that users may not take.
    #[error("topic names that begin with \"__\" are reserved: {0}")]
    Reserved(TopicName),
    /// A setting is out of its bounds.
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    /// A bound of the node is reached.
    #[error("{0}")]
    LimitReached(String),
    /// The offset lies beyond the end.
    #[error("{partition} ends at offset {end}; it cannot be trimmed to {before}")]
    BeyondEnd {
        /// The partition.
        partition: TopicPartition,
        /// What was asked for.
        before: Offset,
        /// Where it ends.
        end: Offset,
    },
    /// The log refused.
    #[error(transparent)]
    Maintain(#[from] MaintainError),
    /// The metadata could not be written; the change may have been made.
    #[error("metadata: {0}")]
    Metadata(String),
    /// The metadata did not take the change, or is not known to have taken it: the code tells.
    #[error("metadata: {}", partition::chain(.0))]
    Apply(metadata::ApplyError),
    /// The partition's leader could not be asked, or did not answer.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// The broker is closing.
    #[error("the broker is closing")]
    Closing,
}

impl TopicError {
    /// The code on the wire.
    pub fn code(&self) -> Code {
        match self {
            Self::NotFound(_) => Code::TopicNotFound,
            Self::Partition(_) => Code::PartitionNotFound,
            Self::Exists(_) => Code::TopicExists,
            Self::InvalidName(_) | Self::Reserved(_) => Code::InvalidName,
            Self::Settings(_) => Code::InvalidSettings,
            Self::LimitReached(_) => Code::LimitReached,
            Self::BeyondEnd { .. } => Code::OffsetOutOfRange,
            Self::Maintain(_) | Self::Metadata(_) => Code::Internal,
            Self::Apply(error) => error.code(),
            Self::Route(error) => error.code(),
            Self::Closing => Code::NotReady,
        }
    }
}

/// Why records were not taken, or may not have been.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProduceError {
    /// No such topic, and it may not or cannot be created.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// No such partition.
    #[error(transparent)]
    Partition(#[from] UnknownPartition),
    /// A record breaks a rule.
    #[error("record {index}: {source}")]
    Record {
        /// Which record of the request, from 0.
        index: usize,
        /// The rule.
        source: InvalidRecord,
    },
    /// A batch is damaged or breaks a rule.
    #[error("batch {index}: {source}")]
    Batch {
        /// Which batch of the request, from 0.
        index: usize,
        /// What is wrong with it.
        source: BatchError,
    },
    /// The records of one partition do not fit into one batch.
    #[error("the records of {partition} are larger than a batch may be; send fewer at once")]
    TooLarge {
        /// The partition.
        partition: TopicPartition,
    },
    /// `expected_offset` needs records of one partition only.
    #[error("expected_offset needs all records of the request in one partition")]
    ExpectedSpansPartitions,
    /// An idempotency key that is empty or too long.
    #[error(
        "an idempotency key has 1 to {} bytes",
        crate::types::limits::IDEMPOTENCY_KEY_BYTES
    )]
    InvalidKey,
    /// A producer without an identity.
    #[error("a producer's id is not 0: POST /v1/producers gives one")]
    InvalidProducer,
    /// Sequence numbers count within one partition, which the request must determine.
    #[error(
        "with a producer's sequence all records of the request go to one partition, which they name or their keys choose"
    )]
    SequenceSpansPartitions,
    /// An idempotency key needs all batches of the request to be one.
    #[error(
        "with an idempotency key the body is one batch; send the others with keys of their own"
    )]
    KeySpansBatches,
    /// The disk is nearly full.
    #[error(
        "the disk has only {free} bytes free; free some space, delete topics or lower retention"
    )]
    DiskFull {
        /// Bytes that are free.
        free: u64,
    },
    /// The partition turned the records away.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// Several partitions were written and not all of them took their records.
    #[error("the records of some partitions are appended, those of others are not: {0}")]
    Partial(Box<Self>),
    /// The partition's leader could not be asked, or did not answer.
    #[error(transparent)]
    Route(#[from] RouteError),
}

impl ProduceError {
    /// The code on the wire.
    pub fn code(&self) -> Code {
        match self {
            Self::Topic(error) => error.code(),
            Self::Partition(_) => Code::PartitionNotFound,
            Self::Record {
                source: InvalidRecord::TooLarge { .. },
                ..
            }
            | Self::Batch {
                source:
                    BatchError::Record {
                        source: InvalidRecord::TooLarge { .. },
                        ..
                    },
                ..
            }
            | Self::Batch {
                source: BatchError::TooLarge,
                ..
            }
            | Self::TooLarge { .. } => Code::TooLarge,
            Self::Record { .. } => Code::InvalidRecord,
            Self::Batch {
                source: BatchError::Record { .. },
                ..
            } => Code::InvalidRecord,
            Self::Batch { .. } => Code::InvalidBody,
            Self::ExpectedSpansPartitions
            | Self::InvalidKey
            | Self::InvalidProducer
            | Self::SequenceSpansPartitions
            | Self::KeySpansBatches => Code::InvalidRequest,
            Self::DiskFull { .. } => Code::InsufficientStorage,
            Self::Append(error) => match error {
                AppendError::Overloaded { .. } => Code::Overloaded,
                AppendError::OffsetMismatch { .. } => Code::OffsetMismatch,
                AppendError::Sequence { reason, .. } => match reason {
                    SequenceError::Fenced { .. } => Code::ProducerFenced,
                    SequenceError::OutOfOrder { .. } => Code::OutOfOrder,
                    SequenceError::Reused { .. } => Code::SequenceReuse,
                    SequenceError::TooOld { .. } => Code::DuplicateUnknownOffset,
                    SequenceError::UnknownProducer { .. } => Code::UnknownProducer,
                    SequenceError::KeyReused => Code::IdempotencyKeyReuse,
                },
                AppendError::NoSpace { .. } => Code::InsufficientStorage,
                AppendError::Write { .. } => Code::WriteFailed,
                AppendError::Offline { .. } => Code::PartitionOffline,
                AppendError::Sync { .. } => Code::StorageFailed,
                AppendError::Closed { .. } => Code::Internal,
                AppendError::NotLeader { .. } => Code::NoLeader,
                AppendError::NotEnoughReplicas { .. } => Code::NotEnoughReplicas,
                AppendError::LeadershipLost { .. } => Code::LeadershipLost,
                AppendError::AckTimeout { .. } => Code::AckTimeout,
            },
            Self::Partial(error) => error.code(),
            Self::Route(error) => error.code(),
        }
    }

    /// Whether the records were appended.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Partial(_) => Outcome::Unknown,
            _ => self.code().outcome(),
        }
    }

    /// Where the partition ends, when that is what the error is about.
    pub fn end_offset(&self) -> Option<Offset> {
        match self {
            Self::Append(AppendError::OffsetMismatch { end, .. }) => Some(*end),
            _ => None,
        }
    }
}

/// Why records could not be read.
#[derive(Debug, Clone, thiserror::Error, Serialize, Deserialize)]
pub enum FetchError {
    /// No such topic.
    #[error("there is no topic {0}")]
    TopicNotFound(TopicName),
    /// No such partition.
    #[error(transparent)]
    Partition(#[from] UnknownPartition),
    /// The offset lies beyond the end.
    #[error("{partition} ends at offset {end}; there is no offset {asked} yet")]
    OutOfRange {
        /// The partition.
        partition: TopicPartition,
        /// What was asked for.
        asked: Offset,
        /// Where it ends.
        end: Offset,
    },
    /// The records at this offset were deleted by retention or trim.
    #[error("the records of {partition} below offset {start} are deleted; offset {asked} is gone")]
    Trimmed {
        /// The partition.
        partition: TopicPartition,
        /// What was asked for.
        asked: Offset,
        /// Where it begins.
        start: Offset,
    },
    /// The bytes are damaged and are not served.
    #[error("the records of {partition} at offset {offset} are damaged")]
    Corrupt {
        /// The partition.
        partition: TopicPartition,
        /// Where the damage is.
        offset: Offset,
    },
    /// The disk did not answer.
    #[error("read of {partition}: {reason}")]
    Storage {
        /// The partition.
        partition: TopicPartition,
        /// What the storage said.
        reason: String,
    },
    /// The partition's leader could not be asked, or did not answer.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// The broker is closing.
    #[error("the broker is closing")]
    Closing,
}

impl FetchError {
    /// The code on the wire.
    pub fn code(&self) -> Code {
        match self {
            Self::TopicNotFound(_) => Code::TopicNotFound,
            Self::Partition(_) => Code::PartitionNotFound,
            Self::OutOfRange { .. } => Code::OffsetOutOfRange,
            Self::Trimmed { .. } => Code::OffsetTrimmed,
            Self::Corrupt { .. } => Code::Corrupt,
            Self::Storage { .. } => Code::Internal,
            Self::Route(error) => error.code(),
            Self::Closing => Code::NotReady,
        }
    }

    pub(super) fn from_read(partition: &TopicPartition, asked: Offset, error: ReadError) -> Self {
        let partition = partition.clone();
        match error {
            ReadError::OutOfRange { end } => Self::OutOfRange {
                partition,
                asked,
                end,
            },
            ReadError::Trimmed { start } => Self::Trimmed {
                partition,
                asked,
                start,
            },
            ReadError::Corrupt { offset } => Self::Corrupt { partition, offset },
            other => Self::Storage {
                partition,
                reason: partition::chain(&other),
            },
        }
    }
}

impl TopicError {
    pub(super) fn from_apply(topic: &TopicName, error: &metadata::ApplyError) -> Self {
        use metadata::{ApplyError, Rejected};
        match error {
            ApplyError::Rejected(Rejected::TopicNotFound) => Self::NotFound(topic.clone()),
            ApplyError::Rejected(Rejected::TopicExists { .. }) => Self::Exists(topic.clone()),
            ApplyError::Rejected(reached @ Rejected::LimitReached { .. }) => {
                Self::LimitReached(reached.to_string())
            }
            other => Self::Apply(other.clone()),
        }
    }
}
