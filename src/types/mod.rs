//! Vocabulary (layer 0): names, positions, settings, limits and error codes that every layer shares.
//!
//! Imports nothing of the project; holds no behaviour beyond validation.

pub mod clock;
mod cluster;
pub mod code;
pub mod limits;
mod name;
mod position;
mod settings;

pub use clock::{Clock, SystemClock};
pub use cluster::{Incarnation, NodeId, PartitionEpoch, PartitionRecord, Replica};
pub use code::{Code, Outcome};
pub use name::{BrokerId, InvalidName, TopicName};
pub use position::{LeaderEpoch, Offset, Partition, Timestamp, TopicId, TopicPartition};
pub use settings::{
    Acks, Compression, Durability, InvalidSettings, TimestampType, TopicPatch, TopicSettings,
};
