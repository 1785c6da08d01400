//! Counters of the node (layer 1), and the names under which they are exported.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a node has done since it started. Counted here once; `/metrics` and `/v1/node` read it.
#[derive(Debug, Default)]
pub struct Stats {
    /// Records appended.
    pub records_in: AtomicU64,
    /// Batch bytes appended.
    pub bytes_in: AtomicU64,
    /// Records handed to readers.
    pub records_out: AtomicU64,
    /// Batch bytes handed to readers.
    pub bytes_out: AtomicU64,
    /// fdatasync calls on segments that have begun.
    pub fsyncs_begun: AtomicU64,
    /// fdatasync calls on segments that have ended.
    pub fsyncs: AtomicU64,
    /// Those of them that took more than a second.
    pub late_fsyncs: AtomicU64,
    /// Nanoseconds that those took in all.
    pub fsync_nanos: AtomicU64,
    /// Produce requests recognised as repeats.
    pub duplicates: AtomicU64,
    /// Bytes cut from torn tails during recovery.
    pub recovery_truncated_bytes: AtomicU64,
    /// Reads refused because bytes did not match their checksum.
    pub corrupt_reads: AtomicU64,
    /// Bytes that recompressing sealed segments has saved.
    pub compression_saved_bytes: AtomicU64,
    /// Bytes deleted by retention.
    pub retention_deleted_bytes: AtomicU64,
    /// Batch bytes copied from leaders.
    pub replicated_bytes: AtomicU64,
}

/// A sync that takes longer holds up everybody who waits for the partition.
const LATE: Duration = Duration::from_secs(1);

impl Stats {
    /// Counts one fdatasync that has ended; its beginning is counted in `fsyncs_begun`.
    pub fn fsynced(&self, took: Duration) {
        self.fsyncs.fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.fsync_nanos.fetch_add(nanos, Ordering::Relaxed);
        if LATE < took {
            self.late_fsyncs.fetch_add(1, Ordering::Relaxed);
        }
        metrics::histogram!(FSYNC_SECONDS).record(took.as_secs_f64());
    }

    /// Every counter with the name under which it is exported.
    pub fn counters(&self) -> [(&'static str, u64); 11] {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            (RECORDS_IN, read(&self.records_in)),
            (BYTES_IN, read(&self.bytes_in)),
            (RECORDS_OUT, read(&self.records_out)),
            (BYTES_OUT, read(&self.bytes_out)),
            (FSYNCS, read(&self.fsyncs)),
            (DUPLICATES, read(&self.duplicates)),
            (
                RECOVERY_TRUNCATED_BYTES,
                read(&self.recovery_truncated_bytes),
            ),
            (CORRUPT_READS, read(&self.corrupt_reads)),
            (COMPRESSION_SAVED_BYTES, read(&self.compression_saved_bytes)),
            (RETENTION_DELETED_BYTES, read(&self.retention_deleted_bytes)),
            (REPLICATED_BYTES, read(&self.replicated_bytes)),
        ]
    }
}

/// Records appended. The first release's name, kept.
pub const RECORDS_IN: &str = "pilgrimage_messages_total";
/// Records handed to readers. The first release's name, kept.
pub const RECORDS_OUT: &str = "pilgrimage_messages_received_total";
/// Produce requests recognised as repeats. The first release's name, kept.
pub const DUPLICATES: &str = "pilgrimage_duplicate_messages_total";
/// Brokers started in this process. The first release's name, kept.
pub const BROKER_STARTS: &str = "broker_start_total";
/// Brokers stopped in this process. The first release's name, kept.
pub const BROKER_STOPS: &str = "broker_stop_total";
/// Seconds to answer a request, by route and method. The first release's name, kept.
pub const REQUEST_SECONDS: &str = "request_duration_seconds";
/// Requests answered, by route, method and status.
pub const REQUESTS: &str = "pilgrimage_requests_total";
/// Connections open now.
pub const CONNECTIONS: &str = "pilgrimage_connections";
/// Record bytes appended.
pub const BYTES_IN: &str = "pilgrimage_bytes_in_total";
/// Record bytes handed to readers.
pub const BYTES_OUT: &str = "pilgrimage_bytes_out_total";
/// fdatasync calls on segments.
pub const FSYNCS: &str = "pilgrimage_fsync_total";
/// Seconds of one fdatasync.
pub const FSYNC_SECONDS: &str = "pilgrimage_fsync_duration_seconds";
/// Bytes cut from torn tails during recovery.
pub const RECOVERY_TRUNCATED_BYTES: &str = "pilgrimage_recovery_truncated_bytes_total";
/// Reads refused because bytes did not match their checksum.
pub const CORRUPT_READS: &str = "pilgrimage_corrupt_reads_total";
/// Bytes that recompressing sealed segments has saved.
pub const COMPRESSION_SAVED_BYTES: &str = "pilgrimage_log_compression_saved_bytes_total";
/// Bytes deleted by retention.
pub const RETENTION_DELETED_BYTES: &str = "pilgrimage_retention_deleted_bytes_total";
/// Batch bytes copied from leaders.
pub const REPLICATED_BYTES: &str = "pilgrimage_replicated_bytes_total";
/// Nodes that this node, as the controller, took for dead.
pub const NODES_FENCED: &str = "pilgrimage_nodes_fenced_total";
/// 1 while no records are deleted by their age, because the clock cannot be believed.
pub const RETENTION_PAUSED: &str = "pilgrimage_time_retention_paused";
/// What was refused from other nodes, by what it was: handshakes and frames of connections,
/// datagrams of gossip.
pub const PEER_REFUSED: &str = "pilgrimage_peer_refused_total";
