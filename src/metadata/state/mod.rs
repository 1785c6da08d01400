//! The state machine: what a command does to the state. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::command::{Applied, Command, Rejected};
use super::view::{DeletedTopic, Epoch, TopicEntry, View};
use crate::types::{
    BrokerId, LeaderEpoch, Offset, Partition, Timestamp, TopicId, TopicName, TopicPatch,
    TopicSettings, limits,
};

/// A row to write so that the database says what the state says. Rows are written in the order in
/// which they were made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    PutTopic(Arc<TopicEntry>),
    /// The topic's row and its positions go; it is listed as deleted.
    DeleteTopic(Arc<DeletedTopic>),
    ForgetDeleted(TopicId),
    PutPosition(Position),
}

/// Where a group stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) topic: TopicId,
    pub(super) broker: BrokerId,
    pub(super) group: Arc<str>,
    pub(super) partition: Partition,
    pub(super) offset: Offset,
    pub(super) at: Timestamp,
}

/// The process that started last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) id: Uuid,
    pub(super) started_at: Timestamp,
}

type Groups = BTreeMap<(BrokerId, Arc<str>), BTreeMap<Partition, Offset>>;

/// Everything that commands change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct State {
    /// The part that is published.
    pub(super) view: View,
    pub(super) process: Option<Process>,
    positions: BTreeMap<TopicId, Groups>,
    /// Number of entries in the innermost maps of `positions`.
    position_count: usize,
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
            Command::FinishDelete { id } => self.finish_delete(*id, changes),
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
            Command::StartEpoch { process, at } => self.start_epoch(Process {
                id: *process,
                started_at: *at,
            }),
        }?;
        self.view.applied += 1;
        Ok(applied)
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
                    .map(|(partition, offset)| (*partition, *offset))
                    .collect()
            })
            .unwrap_or_default()
    }

    fn create_topic(
        &mut self,
        name: &TopicName,
        id: TopicId,
        settings: &TopicSettings,
        at: Timestamp,
        changes: &mut Vec<Change>,
    ) -> Result<Applied, Rejected> {
        let settings = settings.with(&TopicPatch::default())?;
        let topics = &self.view.topics;
        if let Some(existing) = topics.by_name.get(name) {
            return Err(Rejected::TopicExists {
                same_settings: existing.settings == settings,
            });
        }
        if topics.by_id.contains_key(&id) || topics.deleted.contains_key(&id) {
            return Err(Rejected::TopicIdInUse { id });
        }
        if limits::TOPICS_PER_NODE <= topics.by_id.len() + topics.deleted.len() {
            return Err(Rejected::LimitReached {
                what: "topics",
                max: limits::TOPICS_PER_NODE as u64,
            });
        }
        self.admit_partitions(settings.partitions)?;

        let topic = Arc::new(TopicEntry {
            name: name.clone(),
            id,
            settings,
            created_at: at,
            changed_at: at,
        });
        self.add_topic(topic.clone());
        changes.push(Change::PutTopic(topic.clone()));
        Ok(Applied::TopicCreated(topic))
    }

    fn alter_topic(
        &mut self,
        name: &TopicName,
        patch: &TopicPatch,
        at: Timestamp,
        changes: &mut Vec<Change>,
    ) -> Result<Applied, Rejected> {
        let topic = self
            .view
            .topic(name)
            .ok_or(Rejected::TopicNotFound)?
            .clone();
        let (current, asked) = (
            topic.settings.partitions,
            patch.partitions.unwrap_or(topic.settings.partitions),
        );
        if asked < current {
            return Err(Rejected::FewerPartitions { current, asked });
        }
        let settings = topic.settings.with(patch)?;
        self.admit_partitions(asked - current)?;

        let topic = Arc::new(TopicEntry {
            settings,
            changed_at: at,
            ..TopicEntry::clone(&topic)
        });
        let topics = Arc::make_mut(&mut self.view.topics);
        topics.partitions += u64::from(asked - current);
        topics.by_name.insert(name.clone(), topic.clone());
        topics.by_id.insert(topic.id, topic.clone());
        changes.push(Change::PutTopic(topic.clone()));
        Ok(Applied::TopicAltered(topic))
    }

    fn delete_topic(
        &mut self,
        name: &TopicName,
        id: TopicId,
        at: Timestamp,
        changes: &mut Vec<Change>,
    ) -> Result<Applied, Rejected> {
        let partitions = match self.view.topic(name) {
            Some(topic) if topic.id == id => topic.settings.partitions,
            _ => return Err(Rejected::TopicNotFound),
        };
        let topics = Arc::make_mut(&mut self.view.topics);
        topics.by_name.remove(name);
        topics.by_id.remove(&id);
        topics.partitions -= u64::from(partitions);
        let groups = self.positions.remove(&id).unwrap_or_default();
        self.position_count -= groups.values().map(BTreeMap::len).sum::<usize>();

        let deleted = Arc::new(DeletedTopic {
            id,
            name: name.clone(),
            partitions,
            deleted_at: at,
        });
        self.add_deleted(deleted.clone());
        changes.push(Change::DeleteTopic(deleted.clone()));
        Ok(Applied::TopicDeleted(deleted))
    }

    fn finish_delete(
        &mut self,
        id: TopicId,
        changes: &mut Vec<Change>,
    ) -> Result<Applied, Rejected> {
        let partitions = self
            .view
            .topics
            .deleted
            .get(&id)
            .ok_or(Rejected::TopicNotFound)?
            .partitions;
        let topics = Arc::make_mut(&mut self.view.topics);
        topics.deleted.remove(&id);
        topics.deleted_partitions -= u64::from(partitions);
        changes.push(Change::ForgetDeleted(id));
        Ok(Applied::DeleteFinished)
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
                what: "positions",
                max: limits::POSITIONS_PER_NODE as u64,
            });
        }

        self.put_position(&position);
        changes.push(Change::PutPosition(position));
        Ok(Applied::PositionSet)
    }

    fn start_epoch(&mut self, process: Process) -> Result<Applied, Rejected> {
        let epoch = self.view.epoch;
        if self.process.is_some_and(|last| last.id == process.id) {
            return Ok(Applied::EpochStarted(epoch));
        }
        let limit = Rejected::LimitReached {
            what: "starts",
            max: u32::MAX.into(),
        };
        let leader_epoch = LeaderEpoch(epoch.leader_epoch.0.checked_add(1).ok_or(limit)?);
        self.view.epoch = Epoch {
            incarnation: epoch.incarnation + 1,
            leader_epoch,
        };
        self.process = Some(process);
        Ok(Applied::EpochStarted(self.view.epoch))
    }

    fn admit_partitions(&self, more: u32) -> Result<(), Rejected> {
        let max = u64::from(limits::PARTITIONS_PER_NODE);
        let topics = &self.view.topics;
        if max < topics.partitions + topics.deleted_partitions + u64::from(more) {
            return Err(Rejected::LimitReached {
                what: "partitions",
                max,
            });
        }
        Ok(())
    }

    /// Adds a topic, unless its name or id is taken: then returns false.
    pub(super) fn add_topic(&mut self, topic: Arc<TopicEntry>) -> bool {
        let topics = Arc::make_mut(&mut self.view.topics);
        if topics.by_name.contains_key(&topic.name) || topics.by_id.contains_key(&topic.id) {
            return false;
        }
        topics.partitions += u64::from(topic.settings.partitions);
        topics.by_name.insert(topic.name.clone(), topic.clone());
        topics.by_id.insert(topic.id, topic);
        true
    }

    /// Lists a topic as deleted.
    pub(super) fn add_deleted(&mut self, deleted: Arc<DeletedTopic>) {
        let topics = Arc::make_mut(&mut self.view.topics);
        topics.deleted_partitions += u64::from(deleted.partitions);
        topics.deleted.insert(deleted.id, deleted);
    }

    /// Remembers a position.
    pub(super) fn put_position(&mut self, position: &Position) {
        let groups = self.positions.entry(position.topic).or_default();
        let partitions = groups
            .entry((position.broker.clone(), position.group.clone()))
            .or_default();
        if partitions
            .insert(position.partition, position.offset)
            .is_none()
        {
            self.position_count += 1;
        }
    }
}
