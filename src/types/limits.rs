//! Every bound of the product in one place. Checks, API schemas and documentation read these.

/// Longest topic name, in bytes.
pub const TOPIC_NAME_BYTES: usize = 249;
/// Longest broker id, in bytes.
pub const BROKER_ID_BYTES: usize = 64;
/// Longest name of a consumer group, in bytes.
pub const GROUP_NAME_BYTES: usize = 249;
/// Most partitions of one topic.
pub const PARTITIONS_PER_TOPIC: u32 = 10_000;
/// Most partitions over all topics of one node.
pub const PARTITIONS_PER_NODE: u32 = 100_000;
/// Most topics of one node.
pub const TOPICS_PER_NODE: usize = 20_000;
/// Most positions (broker, group, topic, partition) that one node remembers.
pub const POSITIONS_PER_NODE: usize = 200_000;
/// Most nodes that a cluster knows, live and fenced.
pub const NODES: usize = 256;
/// Most nodes that one command starts on one machine.
pub const LOCAL_NODES: u32 = 16;
/// Longest address of a node (URL or host and port) and longest name of a rack, in bytes.
pub const ADDRESS_BYTES: usize = 512;
/// Most replicas of one partition.
pub const REPLICATION_FACTOR: u32 = 7;

/// Default and greatest size of one record (key + value + headers), in bytes.
pub const RECORD_BYTES_DEFAULT: u32 = 4 * 1024 * 1024;
/// Greatest configurable size of one record, in bytes.
pub const RECORD_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// Greatest batch, in bytes, compressed or not.
pub const BATCH_BYTES: usize = 32 * 1024 * 1024;
/// Greatest sum of the unpacked sizes of the batches of one request, in bytes: bounds what a small
/// body of compressed batches may cost.
pub const UNPACKED_BYTES: usize = 128 * 1024 * 1024;
/// Memory that unpacking one batch may ask for beside its records, as a power of two: a frame with
/// a larger zstd window is refused.
pub const ZSTD_WINDOW_LOG: u32 = 25;
/// Most records in one batch.
pub const BATCH_RECORDS: usize = 1_000_000;
/// Greatest key, in bytes.
pub const KEY_BYTES: usize = 64 * 1024;
/// Most headers of one record.
pub const HEADERS: usize = 64;
/// Greatest sum of header names and values of one record, in bytes.
pub const HEADER_BYTES: usize = 64 * 1024;

/// Idempotent producers that one partition remembers; who was heard longest ago is forgotten first.
pub const PRODUCERS_PER_PARTITION: usize = 10_000;
/// Idempotency keys that one partition remembers; the oldest are forgotten first.
pub const KEYS_PER_PARTITION: usize = 100_000;
/// Longest idempotency key, in bytes.
pub const IDEMPOTENCY_KEY_BYTES: usize = 255;

/// Greatest JSON request body that is held in memory, in bytes. NDJSON streams are not bounded by this.
pub const JSON_BODY_BYTES: usize = 32 * 1024 * 1024;
/// Most records of one JSON request. NDJSON streams are not bounded by this.
pub const JSON_RECORDS: usize = 100_000;
/// Greatest body of an administrative request (topics, console routes), in bytes.
pub const ADMIN_BODY_BYTES: usize = 256 * 1024;
/// Deepest nesting of a JSON value.
pub const JSON_DEPTH: usize = 128;

/// Records of one read unless `limit` asks otherwise.
pub const READ_RECORDS_DEFAULT: usize = 100;
/// Greatest `limit` of one read.
pub const READ_RECORDS_MAX: usize = 100_000;
/// Bytes of one read unless `max_bytes` asks otherwise.
pub const READ_BYTES_DEFAULT: usize = 1024 * 1024;
/// Greatest `max_bytes` of one read.
pub const READ_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest `wait` of a long poll, in milliseconds.
pub const READ_WAIT_MS_MAX: u64 = 60_000;
/// Entries of one page of a list unless `limit` asks otherwise.
pub const PAGE_DEFAULT: usize = 100;
/// Greatest `limit` of a list.
pub const PAGE_MAX: usize = 1_000;

/// Bytes that may wait for one partition's log before new appends are turned away with 429.
pub const PARTITION_QUEUE_BYTES: usize = 64 * 1024 * 1024;
/// Bytes of one group commit.
pub const GROUP_COMMIT_BYTES: usize = 16 * 1024 * 1024;
/// Memory of one node for batches that were copied from leaders and are not written yet, in KiB.
/// More than the greatest batch.
pub const COPYING_KIB: usize = 96 * 1024;
/// Bytes of produce bodies that one node holds at once before it answers 429.
pub const INFLIGHT_PRODUCE_BYTES: usize = 128 * 1024 * 1024;
/// Connections that one node serves at once.
pub const CONNECTIONS: usize = 10_000;

/// How long an append waits for its in-sync replicas before its outcome is called unknown. Longer
/// than a replica may lag and count as in sync, so that one that hangs is left out first.
pub const ACK_WAIT: std::time::Duration = std::time::Duration::from_secs(20);
