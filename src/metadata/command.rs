//! The commands that change the metadata, and what becomes of them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::view::{DeletedTopic, Epoch, TopicEntry};
use crate::types::{
    BrokerId, Code, InvalidSettings, Offset, Partition, Timestamp, TopicId, TopicName, TopicPatch,
    TopicSettings,
};

/// A change of the metadata. Carries every id and time that it needs: applying one reads no
/// clock and draws no random number, so that all who apply the same commands reach the same state.
///
/// The number in a command's serialized name is its version. A command whose meaning changes
/// becomes a new variant; the old one stays readable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Makes a topic.
    #[serde(rename = "create_topic/1")]
    CreateTopic {
        /// Its name.
        name: TopicName,
        /// Its identity, drawn by the proposer.
        id: TopicId,
        /// Its settings, complete.
        settings: TopicSettings,
        /// When it was asked for.
        at: Timestamp,
    },
    /// Changes a topic's settings. The patch is laid over the settings that hold when the command
    /// is applied, so that of two concurrent changes neither undoes the other.
    #[serde(rename = "alter_topic/1")]
    AlterTopic {
        /// The topic.
        name: TopicName,
        /// What changes.
        patch: TopicPatch,
        /// When it was asked for.
        at: Timestamp,
    },
    /// Deletes a topic and all positions in it. Its files are deleted later; until
    /// [`Command::FinishDelete`] the view lists it among the deleted.
    #[serde(rename = "delete_topic/1")]
    DeleteTopic {
        /// The topic's name.
        name: TopicName,
        /// Its identity: a topic that was made anew under the same name is not deleted.
        id: TopicId,
        /// When it was asked for.
        at: Timestamp,
    },
    /// The files of a deleted topic are gone; forget it.
    #[serde(rename = "finish_delete/1")]
    FinishDelete {
        /// The deleted topic.
        id: TopicId,
    },
    /// Remembers where a group stands. A position may move either way.
    #[serde(rename = "set_position/1")]
    SetPosition {
        /// The broker on which the group reads.
        broker: BrokerId,
        /// The group: 1 to 249 bytes without control characters.
        group: String,
        /// The topic that it reads.
        topic_id: TopicId,
        /// The partition.
        partition: Partition,
        /// The offset of the record that it reads next.
        offset: Offset,
        /// When it was asked for.
        at: Timestamp,
    },
    /// A process has started: raises the incarnation and the leader epoch (PROTOCOL N2, S5), so
    /// that nothing written by an earlier process can pass for this one's.
    #[serde(rename = "start_epoch/1")]
    StartEpoch {
        /// Drawn once per process: a repeated command of the same process changes nothing.
        process: Uuid,
        /// When the process started.
        at: Timestamp,
    },
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// The topic exists now.
    TopicCreated(Arc<TopicEntry>),
    /// The topic with the settings that hold from now on.
    TopicAltered(Arc<TopicEntry>),
    /// The topic is gone; its files may be deleted.
    TopicDeleted(Arc<DeletedTopic>),
    /// The deleted topic is forgotten.
    DeleteFinished,
    /// The position is remembered.
    PositionSet,
    /// The epoch of this process.
    EpochStarted(Epoch),
}

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The name is taken.
    #[error("the topic exists{}", if *same_settings { "" } else { " with other settings" })]
    TopicExists {
        /// Whether the existing topic's settings are those that were asked for.
        same_settings: bool,
    },
    /// The id belongs to another topic, or to a deleted one whose files are not gone yet.
    #[error("the topic id {id} is in use")]
    TopicIdInUse {
        /// The id.
        id: TopicId,
    },
    /// No such topic, or one of that name with another id.
    #[error("no such topic")]
    TopicNotFound,
    /// The topic has no such partition.
    #[error("the topic has no partition {partition}, only {partitions}")]
    PartitionNotFound {
        /// What was asked for.
        partition: Partition,
        /// How many there are.
        partitions: u32,
    },
    /// A topic's partitions can grow, never shrink.
    #[error("a topic cannot go from {current} partitions to {asked}")]
    FewerPartitions {
        /// Partitions that it has.
        current: u32,
        /// Partitions that were asked for.
        asked: u32,
    },
    /// A setting is out of its bounds.
    #[error(transparent)]
    InvalidSettings(#[from] InvalidSettings),
    /// The group's name breaks the rules.
    #[error("a group's name is 1 to 249 bytes without control characters")]
    InvalidGroup,
    /// No log can reach that offset.
    #[error("no log reaches offset {offset}")]
    InvalidOffset {
        /// What was asked for.
        offset: Offset,
    },
    /// A bound of the node is reached. Deleted topics count until their files are gone.
    #[error("a node holds at most {max} {what}")]
    LimitReached {
        /// What there is too much of.
        what: &'static str,
        /// How many there may be.
        max: u64,
    },
}

impl Rejected {
    /// The code that clients see.
    pub fn code(&self) -> Code {
        match self {
            Self::TopicExists { .. } => Code::TopicExists,
            Self::TopicIdInUse { .. } => Code::Internal,
            Self::TopicNotFound => Code::TopicNotFound,
            Self::PartitionNotFound { .. } => Code::PartitionNotFound,
            Self::FewerPartitions { .. } | Self::InvalidSettings(_) => Code::InvalidSettings,
            Self::InvalidGroup => Code::InvalidName,
            Self::InvalidOffset { .. } => Code::OffsetOutOfRange,
            Self::LimitReached { .. } => Code::LimitReached,
        }
    }
}
