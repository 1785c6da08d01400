//! Records, produced and read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::ProducerStamp;

/// One record to produce.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRecord {
    /// Key as text; `key_base64` for any bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Key as base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    /// Any JSON: a string is kept as text, `null` is a tombstone, everything else is kept as JSON
    /// exactly as written. Exactly one of `value` and `value_base64` is given.
    #[serde(
        default,
        deserialize_with = "some_raw",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<serde_json::Value>)]
    pub value: Option<Box<RawValue>>,
    /// Value as base64: kept as bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
    /// Headers: an object of texts (or lists of texts), or a list of `[name, value]` pairs when order matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Headers>,
    /// Milliseconds since the epoch; absent = time of arrival.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<i64>,
    /// Puts the record into this partition; absent = by key, or any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
}

/// `null` is a value (the tombstone), absence is not.
fn some_raw<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(from).map(Some)
}

/// Record headers on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Headers {
    /// `{"name": "value"}`, or `{"name": ["first", "second"]}` where a name repeats.
    Map(BTreeMap<String, HeaderValues>),
    /// `[["name", "value"], ...]` in order.
    Pairs(Vec<(String, String)>),
}

/// One value of a header, or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum HeaderValues {
    /// One.
    One(String),
    /// Several, in order.
    Many(Vec<String>),
}

/// Records to produce.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProduceRequest {
    /// The records; those of one partition are appended together or not at all.
    pub records: Vec<NewRecord>,
    /// Where they stand among all that the producer sends to their partition; all must be for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub producer: Option<ProducerStamp>,
}

/// What an acknowledgement proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    /// On stable storage (fdatasync) of every in-sync replica.
    Fsync,
    /// In the page cache of every in-sync replica: the topic asked for no more.
    Replicated,
    /// As the topic's durability says, but on the leader alone: `acks=leader`.
    Leader,
    /// Accepted for processing, nothing more: `acks=none`.
    None,
}

/// Where the records of a produce request went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Produced {
    /// One entry per record, in the order of the request; empty with `acks=none`.
    pub records: Vec<Position>,
    /// What this answer proves.
    pub durability: Ack,
}

/// Where the one record of a publish request went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Published {
    /// Its place; absent with `acks=none`.
    #[serde(flatten)]
    pub position: Option<Position>,
    /// What this answer proves.
    pub durability: Ack,
}

/// The place of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Position {
    /// Partition.
    pub partition: u32,
    /// Offset within it.
    pub offset: u64,
    /// Time of the record, in milliseconds since the epoch.
    pub timestamp: i64,
}

/// Where the batches of a binary produce request went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProducedBatches {
    /// One entry per batch, in the order of the request; empty with `acks=none`.
    pub batches: Vec<BatchPosition>,
    /// What this answer proves.
    pub durability: Ack,
}

/// The place of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchPosition {
    /// Partition.
    pub partition: u32,
    /// Offset of its first record.
    pub base_offset: u64,
    /// Number of records.
    pub count: u32,
    /// When the leader appended it, in milliseconds since the epoch.
    pub append_time: i64,
}

/// What an NDJSON produce request answers, once, at the end of the body; with
/// `Accept: application/x-ndjson` also one such line per acknowledged stretch of lines, while the
/// body is still arriving. A problem document in its place says how many lines were acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StreamAck {
    /// Lines of the body, counted from the first, that are acknowledged.
    pub acknowledged: u64,
    /// Where the newest acknowledged record of each partition of this stretch stands.
    pub positions: Vec<Position>,
    /// What this line proves.
    pub durability: Ack,
    /// Whether the body has ended and everything in it is acknowledged.
    pub done: bool,
}

/// A record that was read.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Record {
    /// Partition.
    pub partition: u32,
    /// Offset within it.
    pub offset: u64,
    /// Milliseconds since the epoch.
    pub timestamp: i64,
    /// Key, when it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Key as base64, when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    /// What came in as JSON as JSON, what came in as text as a string, a tombstone as `null`.
    #[serde(
        default,
        deserialize_with = "some_raw",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<serde_json::Value>)]
    pub value: Option<Box<RawValue>>,
    /// What came in as bytes, as base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
    /// `[name, value]` pairs in order; absent when there are none. A value that is not UTF-8 is
    /// given as `base64:...` under the name with `;base64` appended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
}

/// A page of records.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RecordPage {
    /// In offset order within each partition.
    pub records: Vec<Record>,
    /// Give this as `from` to go on: an offset for one partition, `0:17,1:4` for several.
    pub next: String,
    /// End of what readers can see: an offset for one partition, the sum over all for a topic.
    pub high_watermark: u64,
}
