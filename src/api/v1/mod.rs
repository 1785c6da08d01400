//! Version 1 of the wire: one type per message.

mod brokers;
mod cluster;
mod node;
mod problem;
mod producers;
mod records;
mod topics;

pub use brokers::*;
pub use cluster::*;
pub use node::*;
pub use problem::*;
pub use producers::*;
pub use records::*;
pub use topics::*;

/// Media type of batches in the log's own layout, one after another.
pub const BATCHES: &str = "application/vnd.pilgrimage.batches";
/// Media type of one JSON value per line.
pub const NDJSON: &str = "application/x-ndjson";
/// Media type of a server-sent event stream.
pub const SSE: &str = "text/event-stream";
/// Media type of a problem document (RFC 9457).
pub const PROBLEM: &str = "application/problem+json";
/// One CloudEvent in structured mode.
pub const CLOUDEVENT: &str = "application/cloudevents+json";
/// A batch of CloudEvents.
pub const CLOUDEVENT_BATCH: &str = "application/cloudevents-batch+json";

/// Request header: with the value `leader` and a partition named, the answer is where its leader
/// is (307) unless that is the node that was asked.
pub const HEADER_REDIRECT: &str = "pilgrimage-redirect";
/// Response header: what the acknowledgement proves (see [`Ack`]).
pub const HEADER_DURABILITY: &str = "pilgrimage-durability";
/// Response header of binary and raw reads: where the next read begins.
pub const HEADER_NEXT: &str = "pilgrimage-next";
/// Response header of reads: the end of what readers may see.
pub const HEADER_HIGH_WATERMARK: &str = "pilgrimage-high-watermark";
/// Response header of a raw read: the record's offset.
pub const HEADER_OFFSET: &str = "pilgrimage-offset";
/// Response header of a raw read: the record's partition.
pub const HEADER_PARTITION: &str = "pilgrimage-partition";
/// Response header of a raw read: the record's time.
pub const HEADER_TIMESTAMP: &str = "pilgrimage-timestamp";
/// Response header of a raw read: the record's key, if it is plain visible ASCII.
pub const HEADER_KEY: &str = "pilgrimage-key";
/// Prefix of request headers that become record headers, and back.
pub const HEADER_PREFIX: &str = "pilgrimage-header-";
