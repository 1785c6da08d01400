//! Idempotent producers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Request header: a key that belongs to this request alone, 1 to 255 characters. The same request
/// sent again under the same key is answered as the first time, and nothing is appended.
pub const HEADER_IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Response header: `true` if the records had been appended by an earlier request.
pub const HEADER_REPLAYED: &str = "idempotent-replayed";
/// Request header: the producer's id.
pub const HEADER_PRODUCER_ID: &str = "pilgrimage-producer-id";
/// Request header: the producer's epoch; 0 if it is not given.
pub const HEADER_PRODUCER_EPOCH: &str = "pilgrimage-producer-epoch";
/// Request header: the sequence number of the request's first record.
pub const HEADER_PRODUCER_SEQUENCE: &str = "pilgrimage-producer-sequence";

/// A producer that counts what it sends to each partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewProducer {
    /// Its identity.
    pub id: u64,
    /// The epoch in which it begins.
    pub epoch: u16,
}

/// Where records stand among all that a producer sends to a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProducerStamp {
    /// The producer's identity, from `POST /v1/producers`.
    pub id: u64,
    /// Its epoch.
    #[serde(default)]
    pub epoch: u16,
    /// Number of records that it sent to the partition before, in this epoch, modulo 2³².
    pub sequence: u32,
}
