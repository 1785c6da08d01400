//! What readers see: an immutable snapshot, cheap to take and to keep.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::chunked::ChunkedMap;
use crate::types::{LeaderEpoch, Timestamp, TopicId, TopicName, TopicSettings};

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicEntry {
    /// Its name.
    pub name: TopicName,
    /// Its identity.
    pub id: TopicId,
    /// Its settings.
    pub settings: TopicSettings,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its settings last changed; at first, when it was created.
    pub changed_at: Timestamp,
}

/// A deleted topic whose files may still be on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletedTopic {
    /// Its identity.
    pub id: TopicId,
    /// The name it had; another topic may have it by now.
    pub name: TopicName,
    /// How many partitions it had.
    pub partitions: u32,
    /// When it was deleted.
    pub deleted_at: Timestamp,
}

/// The newest start of the node. Both numbers are zero before the first, and only ever grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Epoch {
    /// How often a process has started on this state.
    pub incarnation: u64,
    /// The leader epoch of every partition that this process leads.
    pub leader_epoch: LeaderEpoch,
}

/// Topics, live and deleted. Invariant: the live ones are the same in `by_name` and `by_id`; no
/// id is both live and deleted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Topics {
    pub(super) by_name: ChunkedMap<TopicName, Arc<TopicEntry>>,
    pub(super) by_id: ChunkedMap<TopicId, Arc<TopicEntry>>,
    pub(super) deleted: BTreeMap<TopicId, Arc<DeletedTopic>>,
    /// Partitions of the live topics.
    pub(super) partitions: u64,
    /// Partitions of the deleted ones.
    pub(super) deleted_partitions: u64,
}

/// The metadata at one moment. Published once the change that it shows is on stable storage.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// Number of commands that have changed the state so far.
    pub applied: u64,
    /// The newest start.
    pub epoch: Epoch,
    pub(super) topics: Arc<Topics>,
}

impl View {
    /// The topic of that name.
    pub fn topic(&self, name: &TopicName) -> Option<&Arc<TopicEntry>> {
        self.topics.by_name.get(name)
    }

    /// The topic of that identity.
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<TopicEntry>> {
        self.topics.by_id.get(&id)
    }

    /// All topics, by name.
    pub fn topics(&self) -> impl DoubleEndedIterator<Item = &Arc<TopicEntry>> {
        self.topics.by_name.values()
    }

    /// The topics whose names come after `name`, in order: the rest of a paged list.
    pub fn topics_after(
        &self,
        name: &TopicName,
    ) -> impl DoubleEndedIterator<Item = &Arc<TopicEntry>> {
        self.topics.by_name.values_after(name)
    }

    /// Number of topics.
    pub fn topic_count(&self) -> usize {
        self.topics.by_name.len()
    }

    /// Number of partitions over all topics.
    pub fn partition_count(&self) -> u64 {
        self.topics.partitions
    }

    /// Deleted topics whose files may still be on disk, by id.
    pub fn deleted(&self) -> impl ExactSizeIterator<Item = &Arc<DeletedTopic>> {
        self.topics.deleted.values()
    }

    /// Whether `other` has the very same topics, live and deleted: true at once when no command
    /// has touched them in between.
    pub fn same_topics(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.topics, &other.topics) || self.topics == other.topics
    }
}
