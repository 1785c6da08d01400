//! Names of all metrics (layer 1). Every layer counts through the `metrics` facade under these names.

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
