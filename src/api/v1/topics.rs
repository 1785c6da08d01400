//! Topics and partitions.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::CopyInfo;
use crate::types::{Compression, Durability, TimestampType, TopicName, TopicSettings};

pub use crate::types::TopicPatch;

/// A topic and its effective settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Topic {
    /// Its name.
    #[schema(value_type = String)]
    pub name: TopicName,
    /// Its identity; a topic that is deleted and made again gets another.
    pub id: String,
    /// When it was created (RFC 3339).
    pub created_at: String,
    /// Number of partitions.
    pub partitions: u32,
    /// Copies wanted of each partition.
    pub replication_factor: u32,
    /// In-sync replicas without which `acks=all` is refused.
    pub min_insync_replicas: u32,
    /// Age in milliseconds after which sealed segments are deleted; `null` = kept for ever.
    pub retention_ms: Option<u64>,
    /// Bytes of a partition above which its oldest sealed segments are deleted; `null` = unbounded.
    pub retention_bytes: Option<u64>,
    /// Bytes at which a segment is sealed.
    pub segment_bytes: u64,
    /// Age in milliseconds of its first record at which a segment is sealed.
    pub segment_ms: u64,
    /// How batches are stored.
    pub compression: Compression,
    /// Which time records carry.
    pub timestamp_type: TimestampType,
    /// Greatest record (key + value + headers) in bytes.
    pub max_record_bytes: u32,
    /// What an acknowledgement proves.
    pub durability: Durability,
}

impl Topic {
    /// The wire form of a topic.
    pub fn new(name: TopicName, id: String, created_at: String, s: &TopicSettings) -> Self {
        Self {
            name,
            id,
            created_at,
            partitions: s.partitions,
            replication_factor: s.replication_factor,
            min_insync_replicas: s.min_insync_replicas,
            retention_ms: s.retention_ms,
            retention_bytes: s.retention_bytes,
            segment_bytes: s.segment_bytes,
            segment_ms: s.segment_ms,
            compression: s.compression,
            timestamp_type: s.timestamp_type,
            max_record_bytes: s.max_record_bytes,
            durability: s.durability,
        }
    }
}

/// A page of topics, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TopicList {
    /// The topics of this page.
    pub topics: Vec<TopicSummary>,
    /// Give this as `page_token` to get the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// A topic with its totals, as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TopicSummary {
    /// The topic and its settings.
    #[serde(flatten)]
    pub topic: Topic,
    /// Records that readers can see, over all partitions.
    pub records: u64,
    /// Bytes on disk, over all partitions.
    pub bytes: u64,
}

/// The partitions of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PartitionList {
    /// One entry per partition, in order.
    pub partitions: Vec<PartitionInfo>,
}

/// One partition: who holds it, and from where to where it goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PartitionInfo {
    /// Its index.
    pub partition: u32,
    /// The node that leads it; `null` while none does.
    pub leader: Option<String>,
    /// The leader's reign.
    pub leader_epoch: u32,
    /// The nodes that hold a copy.
    pub replicas: Vec<String>,
    /// Those of them that hold everything acknowledged.
    pub isr: Vec<String>,
    /// How far each copy is, the preferred leader's first.
    pub copies: Vec<CopyInfo>,
    /// Reigns that began with a possible loss of records, by an unclean election.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unclean_epochs: Vec<u32>,
    /// First offset that can be read.
    pub log_start: u64,
    /// Offset after the last record that readers can see.
    pub high_watermark: u64,
    /// Offset that the next record gets.
    pub log_end: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Bytes that the same batches had when they were appended: `appended_bytes - bytes` is what
    /// log compression saves.
    pub appended_bytes: u64,
    /// Number of segment files.
    pub segments: u32,
    /// `online`, or why it is not.
    pub state: String,
}

/// Asks to delete all records below an offset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Trimmed {
    /// First offset that can now be read.
    pub log_start: u64,
}
