//! Where a record is, and when.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::TopicName;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A record's place in its partition: 0, 1, 2, ... Never reused.
    Offset(u64)
);
number!(
    /// The index of a partition within its topic.
    Partition(u32)
);
number!(
    /// The number of a leader's reign over a partition; each change of leader raises it.
    LeaderEpoch(u32)
);
number!(
    /// Milliseconds since the Unix epoch.
    Timestamp(i64)
);

impl Offset {
    /// The first offset of every log.
    pub const ZERO: Self = Self(0);
}

/// A topic's identity, which outlives renames and is never reused: a deleted and recreated topic
/// has another id. Directories are named by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicId(pub Uuid);

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.simple().fmt(f)
    }
}

/// One partition of one topic, as people name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicName,
    /// The partition within it.
    pub partition: Partition,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}
