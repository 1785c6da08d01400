//! The state machine: what a command does to the state. Pure.

mod nodes;
mod partitions;
pub(super) mod snapshot;
mod topics;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::command::{Applied, Command, Rejected};
use super::view::{DeletedTopic, Key, NodeEntry, TopicEntry, View};
use crate::types::{
    BrokerId, LeaderEpoch, NodeId, Offset, Partition, PartitionRecord, Timestamp, TopicId, limits,
};

/// A row to write so that the database says what the state says. Rows are written in the order in
/// which they were made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    PutTopic(Arc<TopicEntry>),
    /// The topic's row, its positions and its partitions go; it is listed as deleted.
    DeleteTopic(Arc<DeletedTopic>),
    /// The list of nodes that still hold files of a deleted topic is another.
    PutDeleted(Arc<DeletedTopic>),
    ForgetDeleted(TopicId),
    PutPosition(Position),
    PutNode(Arc<NodeEntry>),
    RemoveNode(NodeId),
    PutPartition(Key, Arc<PartitionRecord>),
}

/// Where a group stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    pub(super) topic: TopicId,
    pub(super) broker: BrokerId,
    pub(super) group: Arc<str>,
    pub(super) partition: Partition,
    pub(super) offset: Offset,
    pub(super) at: Timestamp,
}

type Groups = BTreeMap<(BrokerId, Arc<str>), BTreeMap<Partition, (Offset, Timestamp)>>;

/// What a node carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Load {
    replicas: u64,
    leaders: u64,
}

/// Everything that commands change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct State {
    /// The part that is published.
    pub(super) view: View,
    /// The leader epoch that a directory of before there were clusters had reached over all its
    /// partitions. The first node that registers gets those partitions, and none of their epochs
    /// may go back. Zero in all other clusters.
    pub(super) solo_epoch: LeaderEpoch,
    positions: BTreeMap<TopicId, Groups>,
    /// Number of entries in the innermost maps of `positions`.
    position_count: usize,
    /// Derived from the records: nodes that carry nothing are left out.
    load: BTreeMap<NodeId, Load>,
}

impl State {
    /// Applies one command: changes the state and appends to `changes` what must be written, or
    /// leaves everything as it was.
    pub(super) fn apply(
        &mut self,
        command: &Command,
        changes: &mut Vec<Change>,
    ) -> Result<Applied, Rejected> {
        let applied = match command {
            Command::CreateTopic {
                name,
                id,
                settings,
                at,
            } => self.create_topic(name, *id, settings, *at, changes),
            Command::AlterTopic { name, patch, at } => self.alter_topic(name, patch, *at, changes),
            Command::DeleteTopic { name, id, at } => self.delete_topic(name, *id, *at, changes),
            Command::FinishDelete { id, node } => self.finish_delete(*id, *node, changes),
            Command::SetPosition {
                broker,
                group,
                topic_id,
                partition,
                offset,
                at,
            } => {
                let position = Position {
                    topic: *topic_id,
                    broker: broker.clone(),
                    group: group.as_str().into(),
                    partition: *partition,
                    offset: *offset,
                    at: *at,
                };
                self.set_position(position, changes)
            }
            Command::RegisterProducer => Ok(Applied::ProducerRegistered { id: self.number() }),
            Command::RegisterNode(asked) => self.register_node(asked, changes),
            Command::ActivateNode { id, incarnation } => {
                self.activate_node(*id, *incarnation, changes)
            }
            Command::FenceNode { id, incarnation } => self.fence_node(*id, *incarnation, changes),
            Command::DrainNode { id } => self.drain_node(*id, changes),
            Command::UndrainNode { id } => self.undrain_node(*id, changes),
            Command::ReplaceNode { id, by } => self.replace_node(*id, *by, changes),
            Command::RemoveNode { id } => self.remove_node(*id, changes),
            Command::AlterPartition {
                topic,
                partition,
                alter,
            } => self.alter_partition((*topic, *partition), alter, changes),
            Command::ResignReplica {
                topic,
                partition,
                node,
                incarnation,
            } => self.resign_replica((*topic, *partition), *node, *incarnation, changes),
            Command::MoveLeader {
                topic,
                partition,
                to,
                partition_epoch,
            } => self.move_leader((*topic, *partition), *to, *partition_epoch, changes),
            Command::Reassign {
                topic,
                partition,
                replicas,
                partition_epoch,
            } => self.reassign((*topic, *partition), replicas, *partition_epoch, changes),
            Command::CancelReassign {
                topic,
                partition,
                partition_epoch,
            } => self.cancel_reassign((*topic, *partition), *partition_epoch, changes),
            Command::ElectUnclean {
                topic,
                partition,
                leader,
                partition_epoch,
            } => self.elect_unclean((*topic, *partition), *leader, *partition_epoch, changes),
        }?;
        self.view.applied += 1;
        Ok(applied)
    }

    /// The number that the command has which is being applied.
    fn number(&self) -> u64 {
        self.view.applied + 1
    }

    /// The positions of a group in a topic, by partition.
    pub(super) fn positions(
        &self,
        broker: &BrokerId,
        group: &str,
        topic: TopicId,
    ) -> Vec<(Partition, Offset)> {
        self.positions
            .get(&topic)
            .and_then(|groups| groups.get(&(broker.clone(), group.into())))
            .map(|partitions| {
                partitions
                    .iter()
                    .map(|(partition, (offset, _))| (*partition, *offset))
                    .collect()
            })
            .unwrap_or_default()
    }

    fn set_position(
        &mut self,
        position: Position,
        changes: &mut Vec<Change>,
    ) -> Result<Applied, Rejected> {
        let topic = self
            .view
            .topic_by_id(position.topic)
            .ok_or(Rejected::TopicNotFound)?;
        let partitions = topic.settings.partitions;
        if partitions <= position.partition.0 {
            return Err(Rejected::PartitionNotFound {
                partition: position.partition,
                partitions,
            });
        }
        let group = &position.group;
        if group.is_empty()
            || limits::GROUP_NAME_BYTES < group.len()
            || group.chars().any(char::is_control)
        {
            return Err(Rejected::InvalidGroup);
        }
        if i64::try_from(position.offset.0).is_err() {
            return Err(Rejected::InvalidOffset {
                offset: position.offset,
            });
        }
        let known = self
            .positions
            .get(&position.topic)
            .and_then(|groups| groups.get(&(position.broker.clone(), position.group.clone())))
            .is_some_and(|partitions| partitions.contains_key(&position.partition));
        if !known && limits::POSITIONS_PER_NODE <= self.position_count {
            return Err(Rejected::LimitReached {
                what: "positions".into(),
                max: limits::POSITIONS_PER_NODE as u64,
            });
        }

        self.put_position(&position);
        changes.push(Change::PutPosition(position));
        Ok(Applied::PositionSet)
    }

    /// Remembers a position.
    pub(super) fn put_position(&mut self, position: &Position) {
        let groups = self.positions.entry(position.topic).or_default();
        let partitions = groups
            .entry((position.broker.clone(), position.group.clone()))
            .or_default();
        if partitions
            .insert(position.partition, (position.offset, position.at))
            .is_none()
        {
            self.position_count += 1;
        }
    }
}
