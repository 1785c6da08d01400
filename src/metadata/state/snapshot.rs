//! The whole state in one piece, for nodes that join or were away, and its hash.

use std::io::{self, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Change, Position, State};
use crate::metadata::view::{DeletedTopic, Key, NodeEntry, TopicEntry};
use crate::types::{LeaderEpoch, PartitionRecord};

/// The whole state. Made without copying what is in it, so that it can be written while commands
/// go on. The number in the serialized name is the version of the form.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::metadata) enum Snapshot {
    #[serde(rename = "state/1")]
    State(Contents),
}

/// Everything, in the order of its keys, so that equal states have equal snapshots.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::metadata) struct Contents {
    applied: u64,
    solo_epoch: LeaderEpoch,
    nodes: Vec<Arc<NodeEntry>>,
    topics: Vec<Arc<TopicEntry>>,
    partitions: Vec<(Key, Arc<PartitionRecord>)>,
    deleted: Vec<Arc<DeletedTopic>>,
    positions: Vec<Position>,
}

/// A snapshot that no state can have given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot contradicts itself: {0}")]
pub(in crate::metadata) struct InvalidSnapshot(String);

impl State {
    /// The whole state.
    pub(in crate::metadata) fn to_snapshot(&self) -> Snapshot {
        Snapshot::State(Contents {
            applied: self.view.applied,
            solo_epoch: self.solo_epoch,
            nodes: self.view.nodes().cloned().collect(),
            topics: self.view.topics.by_id.values().cloned().collect(),
            partitions: self.view.partitions.entries().cloned().collect(),
            deleted: self.view.deleted().cloned().collect(),
            positions: self.all_positions().collect(),
        })
    }

    /// The state that gave the snapshot.
    ///
    /// # Errors
    /// [`InvalidSnapshot`] if none can have given it.
    pub(in crate::metadata) fn from_snapshot(snapshot: Snapshot) -> Result<Self, InvalidSnapshot> {
        let Snapshot::State(contents) = snapshot;
        let mut state = Self::default();
        state.view.applied = contents.applied;
        state.solo_epoch = contents.solo_epoch;
        for node in contents.nodes {
            state.add_node(node);
        }
        for topic in contents.topics {
            let name = topic.name.clone();
            if !state.add_topic(topic) {
                return Err(InvalidSnapshot(format!("topic {name} is there twice")));
            }
        }
        for ((topic, partition), record) in contents.partitions {
            if !state.add_partition((topic, partition), record) {
                let why = format!("partition {partition} of topic {topic} is not one of a topic's");
                return Err(InvalidSnapshot(why));
            }
        }
        for deleted in contents.deleted {
            let name = deleted.name.clone();
            if !state.add_deleted(deleted) {
                return Err(InvalidSnapshot(format!(
                    "topic {name} is both live and deleted"
                )));
            }
        }
        for position in &contents.positions {
            if state.view.topic_by_id(position.topic).is_none() {
                let why = format!("a position in topic {}, which is not there", position.topic);
                return Err(InvalidSnapshot(why));
            }
            state.put_position(position);
        }
        Ok(state)
    }

    /// Changes that make the whole state out of an empty one.
    pub(in crate::metadata) fn rows(&self) -> Vec<Change> {
        let nodes = self.view.nodes().cloned().map(Change::PutNode);
        let topics = self.view.topics().cloned().map(Change::PutTopic);
        let partitions = self.view.partitions.entries().cloned();
        let deleted = self.view.deleted().cloned().map(Change::DeleteTopic);
        nodes
            .chain(topics)
            .chain(partitions.map(|(key, record)| Change::PutPartition(key, record)))
            .chain(deleted)
            .chain(self.all_positions().map(Change::PutPosition))
            .collect()
    }

    /// A number that two states share if they are equal, and hardly ever if they are not (M4).
    /// Reads the whole state.
    pub(in crate::metadata) fn hash(&self) -> u64 {
        let mut hash = Fnv(FNV_BASIS);
        // Neither a number nor a text can fail to be written, and the writer never does.
        match serde_json::to_writer(&mut hash, &self.to_snapshot()) {
            Ok(()) => hash.0,
            Err(_) => 0,
        }
    }

    fn all_positions(&self) -> impl Iterator<Item = Position> {
        self.positions.iter().flat_map(|(topic, groups)| {
            groups.iter().flat_map(|((broker, group), partitions)| {
                let position = |(partition, (offset, at)): (&_, &(_, _))| Position {
                    topic: *topic,
                    broker: broker.clone(),
                    group: group.clone(),
                    partition: *partition,
                    offset: *offset,
                    at: *at,
                };
                partitions.iter().map(position)
            })
        })
    }
}

const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// FNV-1a over what is written: the same on every machine and in every version, and no secret
/// depends on it.
struct Fnv(u64);

impl Write for Fnv {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
