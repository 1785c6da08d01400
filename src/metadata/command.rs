//! The commands that change the metadata, and what becomes of them.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::view::{DeletedTopic, NodeEntry, NodeStatus, TopicEntry};
use crate::replication::control::{AlterAnswer, AlterPartition, ReassignRefused};
use crate::types::{
    BrokerId, Code, Incarnation, InvalidSettings, NodeId, Offset, Partition, PartitionEpoch,
    PartitionRecord, Timestamp, TopicId, TopicName, TopicPatch, TopicSettings, limits,
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
    /// A node that held replicas of a deleted topic has deleted their files. Once all such nodes
    /// have said so the topic is forgotten. Saying it twice changes nothing.
    #[serde(rename = "finish_delete/1")]
    FinishDelete {
        /// The deleted topic.
        id: TopicId,
        /// The node.
        node: NodeId,
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
    /// Gives an idempotent producer an identity (PROTOCOL P1): the command's own number, which no
    /// other command will ever have.
    #[serde(rename = "register_producer/1")]
    RegisterProducer,
    /// A process of a node has started (PROTOCOL N2): fences the one before it, and gives this
    /// one an incarnation, so that nothing sent by an earlier process can pass for its own.
    #[serde(rename = "register_node/1")]
    RegisterNode(Registration),
    /// A registered node, or one that was fenced by mistake, knows everything up to its
    /// registration and goes to work (N6). Partitions without a leader that it may lead are led
    /// by it.
    #[serde(rename = "activate_node/1")]
    ActivateNode {
        /// The node.
        id: NodeId,
        /// The registration that is meant.
        incarnation: Incarnation,
    },
    /// A node is taken for dead (N5): it leaves every in-sync set, and what it leads is led by
    /// others.
    #[serde(rename = "fence_node/1")]
    FenceNode {
        /// The node.
        id: NodeId,
        /// The registration that is meant: a newer process is not fenced.
        incarnation: Incarnation,
    },
    /// A node shall give everything away. It stops leading what others can lead at once; its
    /// replicas are moved by [`Command::Reassign`].
    #[serde(rename = "drain_node/1")]
    DrainNode {
        /// The node.
        id: NodeId,
    },
    /// A node shall keep what it has, and may get more.
    #[serde(rename = "undrain_node/1")]
    UndrainNode {
        /// The node.
        id: NodeId,
    },
    /// A node shall give everything away and be forgotten (N8): it drains, and its replicas go to
    /// another node, or, without one, to wherever placement wants them. Whoever leads the metadata
    /// removes it by [`Command::RemoveNode`] once it holds nothing and is not at work.
    /// [`Command::UndrainNode`] takes this back.
    #[serde(rename = "replace_node/1")]
    ReplaceNode {
        /// The node that goes.
        id: NodeId,
        /// The node that gets what it has.
        by: Option<NodeId>,
    },
    /// Forgets a node that holds no replicas and is not at work.
    #[serde(rename = "remove_node/1")]
    RemoveNode {
        /// The node.
        id: NodeId,
    },
    /// A leader proposes another in-sync set (I2, I3).
    #[serde(rename = "alter_partition/1")]
    AlterPartition {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: Partition,
        /// What is proposed.
        alter: AlterPartition,
    },
    /// The storage of a node's replica has failed (D1): it is out of sync, leads no more and is
    /// not eligible. Changes nothing while no other complete replica can lead.
    #[serde(rename = "resign_replica/1")]
    ResignReplica {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: Partition,
        /// The node.
        node: NodeId,
        /// Its process.
        incarnation: Incarnation,
    },
    /// Moves leadership to an in-sync replica (E2).
    #[serde(rename = "move_leader/1")]
    MoveLeader {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: Partition,
        /// Who shall lead.
        to: NodeId,
        /// The record on which this was decided (M6).
        partition_epoch: PartitionEpoch,
    },
    /// Begins to move a partition's replicas (G-1): those that come are made, those that go stay
    /// until the others are in sync.
    #[serde(rename = "reassign/1")]
    Reassign {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: Partition,
        /// Where the replicas shall be, in order of preference for leadership.
        replicas: Vec<NodeId>,
        /// The record on which this was decided (M6).
        partition_epoch: PartitionEpoch,
    },
    /// Ends a reassignment that is under way: the replicas that were there stay, those that came
    /// go.
    #[serde(rename = "cancel_reassign/1")]
    CancelReassign {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: Partition,
        /// The record on which this was decided (M6).
        partition_epoch: PartitionEpoch,
    },
    /// Lets a replica lead that may lack acknowledged records, because none that surely has them
    /// will come back (E3). The epoch that begins is remembered as unclean.
    #[serde(rename = "elect_unclean/1")]
    ElectUnclean {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: Partition,
        /// Who shall lead.
        leader: NodeId,
        /// The record on which this was decided (M6).
        partition_epoch: PartitionEpoch,
    },
}

/// Who registers, and what it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The node.
    pub id: NodeId,
    /// The id by which people address it.
    pub name: BrokerId,
    /// The disk on which it lives.
    pub disk: Uuid,
    /// Drawn once per process: a repeated command of the same process changes nothing.
    pub process: Uuid,
    /// Base URL of its public face; empty when it has none.
    pub http: String,
    /// Host and port of its internal plane; empty when it has none.
    pub peer: String,
    /// The rack in which it stands.
    pub rack: Option<String>,
    /// Whether the process before it ended cleanly (N7). If not, partitions whose records are
    /// acknowledged before they are on disk count as lost (N3).
    pub clean: bool,
    /// What recovery found missing.
    pub loss: Loss,
    /// When the process started.
    pub at: Timestamp,
}

/// What recovery found missing of what a node had promised to hold (N3, S3).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Nothing.
    #[default]
    None,
    /// Everything, or nobody can tell.
    All,
    /// Records of these partitions.
    Some(Vec<(TopicId, Partition)>),
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Applied {
    /// The topic exists now.
    TopicCreated(Arc<TopicEntry>),
    /// The topic with the settings that hold from now on.
    TopicAltered(Arc<TopicEntry>),
    /// The topic is gone; its files may be deleted.
    TopicDeleted(Arc<DeletedTopic>),
    /// The node's files are gone, and with the last node's the topic is forgotten.
    DeleteFinished,
    /// The position is remembered.
    PositionSet,
    /// The producer's identity.
    ProducerRegistered {
        /// Greater than zero.
        id: u64,
    },
    /// The node, with the incarnation of the process that asked.
    NodeRegistered(Arc<NodeEntry>),
    /// The node as it is now.
    NodeChanged(Arc<NodeEntry>),
    /// The node is forgotten.
    NodeRemoved,
    /// What the leader is answered, and the partition as it is now (I4).
    PartitionAltered(AlterAnswer, Arc<PartitionRecord>),
    /// The partition as it is now.
    PartitionChanged(Arc<PartitionRecord>),
}

/// Why a command changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// Another node of that name is not fenced: two would answer for one.
    #[error(
        "node {holder} already goes by the name {name}; stop it first, or start under another id"
    )]
    NameTaken {
        /// The name.
        name: BrokerId,
        /// Who has it.
        holder: NodeId,
    },
    /// Another disk has the same node id, by chance: one in four thousand million.
    #[error("the node id {id} belongs to another disk; start again with an empty directory")]
    NodeIdInUse {
        /// The id.
        id: NodeId,
    },
    /// An address or a rack is too long, or holds control characters.
    #[error(
        "{what} must be at most {} bytes without control characters",
        limits::ADDRESS_BYTES
    )]
    InvalidAddress {
        /// What is wrong.
        what: Cow<'static, str>,
    },
    /// No such node.
    #[error("the cluster has no node {id}")]
    NodeNotFound {
        /// What was asked for.
        id: NodeId,
    },
    /// A newer process of the node has registered.
    #[error("node {id} has registered anew: its incarnation is {current}")]
    StaleIncarnation {
        /// The node.
        id: NodeId,
        /// Its incarnation.
        current: Incarnation,
    },
    /// The node is at work.
    #[error("node {id} is at work; stop it first")]
    NodeAtWork {
        /// The node.
        id: NodeId,
    },
    /// A node cannot take its own place.
    #[error("node {id} cannot be replaced by itself")]
    ReplacesItself {
        /// The node.
        id: NodeId,
    },
    /// The node holds replicas.
    #[error("node {id} holds {replicas} replicas; drain it, or reassign them")]
    NodeHoldsReplicas {
        /// The node.
        id: NodeId,
        /// How many it holds.
        replicas: u64,
    },
    /// No node is at work that could hold a replica.
    #[error("no node is at work that could hold a replica")]
    NoNodes,
    /// The partition's record has changed since this was decided (M6).
    #[error("the partition has changed: its epoch is {current}")]
    StalePartition {
        /// The number of its record.
        current: PartitionEpoch,
    },
    /// The node is fenced, or draining, or has not finished starting.
    #[error("node {id} is {status}, and can take nothing on")]
    NodeNotActive {
        /// The node.
        id: NodeId,
        /// How it is.
        status: NodeStatus,
    },
    /// Only an in-sync replica can be made the leader.
    #[error("node {id} holds no in-sync replica of the partition")]
    NotInSync {
        /// The node.
        id: NodeId,
    },
    /// The node has no copy of the partition.
    #[error("node {id} holds no replica of the partition")]
    NoReplica {
        /// The node.
        id: NodeId,
    },
    /// Nothing need be lost: the partition has a leader.
    #[error("the partition is led by node {leader}")]
    HasLeader {
        /// Who leads.
        leader: NodeId,
    },
    /// More replicas were asked for than a partition can have.
    #[error("a partition has at most {max} replicas")]
    TooManyReplicas {
        /// How many there may be.
        max: u32,
    },
    /// The replicas cannot be moved so.
    #[error(transparent)]
    Reassign(#[from] ReassignRefused),
    /// A bound of the cluster is reached. Deleted topics count until their files are gone.
    #[error("a cluster holds at most {max} {what}")]
    LimitReached {
        /// What there is too much of.
        what: Cow<'static, str>,
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
            Self::InvalidAddress { .. } => Code::InvalidRequest,
            Self::NodeNotFound { .. } => Code::NodeNotFound,
            Self::NoNodes => Code::NotReady,
            Self::NameTaken { .. }
            | Self::NodeIdInUse { .. }
            | Self::StaleIncarnation { .. }
            | Self::NodeAtWork { .. }
            | Self::NodeHoldsReplicas { .. }
            | Self::StalePartition { .. }
            | Self::NodeNotActive { .. }
            | Self::NotInSync { .. }
            | Self::NoReplica { .. }
            | Self::HasLeader { .. }
            | Self::Reassign(_) => Code::Conflict,
            Self::TooManyReplicas { .. } | Self::ReplacesItself { .. } => Code::InvalidRequest,
        }
    }
}
