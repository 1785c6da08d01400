//! The node and its health.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A node, its load and its storage: `GET /v1/node`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// The broker id.
    pub id: String,
    /// Version of the program.
    pub version: String,
    /// When it started (RFC 3339).
    pub started_at: String,
    /// Directory of its data.
    pub storage: String,
    /// Brokers that run in this process, this node's own first.
    pub brokers: Vec<String>,
    /// Number of topics.
    pub topics: u64,
    /// Number of partitions.
    pub partitions: u64,
    /// Bytes of all segments on disk.
    pub bytes: u64,
    /// Bytes that the same batches had when they were appended.
    pub appended_bytes: u64,
    /// Free bytes of the disk that holds the storage.
    pub disk_free: u64,
    /// Size of that disk.
    pub disk_total: u64,
    /// Resident memory of the process, in bytes.
    pub memory: u64,
    /// CPU time of the process so far, in seconds.
    pub cpu_seconds: f64,
    /// Records appended since the start.
    pub records_in: u64,
    /// Record bytes appended since the start.
    pub bytes_in: u64,
    /// Records read since the start.
    pub records_out: u64,
    /// Record bytes read since the start.
    pub bytes_out: u64,
    /// fdatasync calls on segments since the start.
    pub fsyncs: u64,
    /// Seconds that those took in all.
    pub fsync_seconds: f64,
    /// Requests answered since the start.
    pub requests: u64,
    /// Connections open now.
    pub connections: u64,
    /// `ready`, or what is wrong in words.
    pub state: String,
}

/// `GET /healthz` and `GET /readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`, or what is wrong in words.
    pub status: String,
    /// Parts that are not well; empty when all are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}
