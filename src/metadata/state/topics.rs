//! What commands do to topics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Change, State};
use crate::metadata::command::{Applied, Rejected};
use crate::metadata::view::{DeletedTopic, TopicEntry};
use crate::types::{NodeId, Timestamp, TopicId, TopicName, TopicPatch, TopicSettings, limits};

impl State {
    pub(super) fn create_topic(
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
                what: "topics".into(),
                max: limits::TOPICS_PER_NODE as u64,
            });
        }
        self.admit_partitions(settings.partitions)?;
        let places = self.places(&settings, settings.partitions)?;

        let topic = Arc::new(TopicEntry {
            name: name.clone(),
            id,
            settings,
            created_at: at,
            changed_at: at,
        });
        self.add_topic(topic.clone());
        changes.push(Change::PutTopic(topic.clone()));
        self.add_partitions(id, 0, places, changes);
        Ok(Applied::TopicCreated(topic))
    }

    pub(super) fn alter_topic(
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
        let places = self.places(&settings, asked - current)?;
        let min_changed = settings.min_insync_replicas != topic.settings.min_insync_replicas;

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
        if min_changed {
            self.min_insync_changed(&topic, changes);
        }
        self.add_partitions(topic.id, current, places, changes);
        Ok(Applied::TopicAltered(topic))
    }

    pub(super) fn delete_topic(
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

        let holders = self.remove_partitions(id);
        let deleted = Arc::new(DeletedTopic {
            id,
            name: name.clone(),
            partitions,
            deleted_at: at,
            holders,
        });
        self.add_deleted(deleted.clone());
        changes.push(Change::DeleteTopic(deleted.clone()));
        Ok(Applied::TopicDeleted(deleted))
    }

    pub(super) fn finish_delete(
        &mut self,
        id: TopicId,
        node: NodeId,
        changes: &mut Vec<Change>,
    ) -> Result<Applied, Rejected> {
        let deleted = self.view.topics.deleted.get(&id);
        let deleted = deleted.ok_or(Rejected::TopicNotFound)?.clone();
        self.release_deleted(&deleted, node, changes);
        Ok(Applied::DeleteFinished)
    }

    /// A node holds no files of a deleted topic any more. With the last holder the topic is
    /// forgotten.
    pub(super) fn release_deleted(
        &mut self,
        deleted: &DeletedTopic,
        node: NodeId,
        changes: &mut Vec<Change>,
    ) {
        let mut holders = deleted.holders.clone();
        if !holders.remove(&node) {
            return;
        }
        let topics = Arc::make_mut(&mut self.view.topics);
        if holders.is_empty() {
            topics.deleted.remove(&deleted.id);
            topics.deleted_partitions -= u64::from(deleted.partitions);
            changes.push(Change::ForgetDeleted(deleted.id));
        } else {
            self.put_deleted(deleted, holders, changes);
        }
    }

    /// Sets who holds files of a deleted topic.
    pub(super) fn put_deleted(
        &mut self,
        deleted: &DeletedTopic,
        holders: BTreeSet<NodeId>,
        changes: &mut Vec<Change>,
    ) {
        let deleted = Arc::new(DeletedTopic {
            holders,
            ..deleted.clone()
        });
        let topics = Arc::make_mut(&mut self.view.topics);
        topics.deleted.insert(deleted.id, deleted.clone());
        changes.push(Change::PutDeleted(deleted));
    }

    fn admit_partitions(&self, more: u32) -> Result<(), Rejected> {
        let max = u64::from(limits::PARTITIONS_PER_NODE);
        let topics = &self.view.topics;
        if max < topics.partitions + topics.deleted_partitions + u64::from(more) {
            return Err(Rejected::LimitReached {
                what: "partitions".into(),
                max,
            });
        }
        Ok(())
    }

    /// Adds a topic, unless its name or id is taken: then returns false.
    pub(in crate::metadata) fn add_topic(&mut self, topic: Arc<TopicEntry>) -> bool {
        let topics = Arc::make_mut(&mut self.view.topics);
        if topics.by_name.contains_key(&topic.name) || topics.by_id.contains_key(&topic.id) {
            return false;
        }
        topics.partitions += u64::from(topic.settings.partitions);
        topics.by_name.insert(topic.name.clone(), topic.clone());
        topics.by_id.insert(topic.id, topic);
        true
    }

    /// Lists a topic as deleted, unless it is live: then returns false.
    pub(in crate::metadata) fn add_deleted(&mut self, deleted: Arc<DeletedTopic>) -> bool {
        let topics = Arc::make_mut(&mut self.view.topics);
        if topics.by_id.contains_key(&deleted.id) {
            return false;
        }
        topics.deleted_partitions += u64::from(deleted.partitions);
        topics.deleted.insert(deleted.id, deleted);
        true
    }
}
