//! Records and batches (layer 1, pure): the bytes that go over the wire, onto the disk and to replicas.
//!
//! The layout is specified in [`crate::docs::log_format`]; this module is its only implementation.
//! Nothing here reads a clock, touches a file or spawns a task.

mod batch;
mod builder;
mod header;
mod mark;
mod partitioner;
mod payload;
pub mod seal;
#[cfg(test)]
mod tests;
mod varint;

pub use batch::{Assignment, Batch, BatchError, assign, split_batches};
pub use builder::{BatchBuilder, Producer};
pub use header::{Codec, HEADER_LEN, Header, HeaderError, MAGIC, flags};
pub use mark::{Extension, Fingerprint, Key, Mark, Sent, hash_key, is_marked};
pub use partitioner::{murmur2, partition_for_key};
pub use payload::{RecordRef, Records};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::types::{Offset, Timestamp, limits};

/// What a value *is*, so that what came in as JSON goes out as JSON and nothing is guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Format {
    /// Bytes of any kind.
    #[default]
    Binary = 0,
    /// UTF-8 text.
    Text = 1,
    /// One JSON value, kept exactly as it was written.
    Json = 2,
}

impl Format {
    pub(crate) fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Binary,
            1 => Self::Text,
            2 => Self::Json,
            _ => return None,
        })
    }
}

/// One message: a value with an optional key, headers and a time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Chooses the partition and identifies the subject; none = any partition.
    pub key: Option<Bytes>,
    /// The message; none = a tombstone (`null`).
    pub value: Option<Bytes>,
    /// What the value is.
    pub format: Format,
    /// Names and values in the order in which they were given; names may repeat.
    pub headers: Vec<(String, Bytes)>,
    /// The producer's time; none = the time of arrival.
    pub timestamp: Option<Timestamp>,
}

impl Record {
    /// A record with a text value and nothing else.
    pub fn text(value: impl Into<String>) -> Self {
        Self {
            value: Some(Bytes::from(value.into())),
            format: Format::Text,
            ..Self::default()
        }
    }

    /// A record with a binary value and nothing else.
    pub fn binary(value: impl Into<Bytes>) -> Self {
        Self {
            value: Some(value.into()),
            ..Self::default()
        }
    }

    /// A record whose value is `value` as JSON.
    ///
    /// # Errors
    /// Whatever keeps `value` from being written as JSON.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        let value = Some(serde_json::to_vec(value)?.into());
        Ok(Self {
            value,
            format: Format::Json,
            ..Self::default()
        })
    }

    /// The same record with a key.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The same record with one more header.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Key + value + headers, in bytes: what `max_record_bytes` bounds.
    pub fn size(&self) -> usize {
        self.key.as_ref().map_or(0, Bytes::len)
            + self.value.as_ref().map_or(0, Bytes::len)
            + self
                .headers
                .iter()
                .map(|(name, value)| name.len() + value.len())
                .sum::<usize>()
    }

    /// Checks the rules that hold for every record on every path.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self, max_record_bytes: u32) -> Result<(), InvalidRecord> {
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_ref()));
        check_record(
            RecordShape {
                key: self.key.as_deref(),
                value: self.value.as_deref(),
                format: self.format,
                timestamp: self.timestamp,
                size: self.size(),
            },
            headers,
            max_record_bytes,
        )
    }
}

struct RecordShape<'a> {
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    format: Format,
    timestamp: Option<Timestamp>,
    size: usize,
}

fn check_record<'a>(
    record: RecordShape<'_>,
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    max_record_bytes: u32,
) -> Result<(), InvalidRecord> {
    if (max_record_bytes as usize) < record.size {
        return Err(InvalidRecord::TooLarge {
            size: record.size,
            max: max_record_bytes,
        });
    }
    if record.key.is_some_and(|key| limits::KEY_BYTES < key.len()) {
        return Err(InvalidRecord::KeyTooLarge);
    }
    if record
        .timestamp
        .is_some_and(|t| !(0..=MAX_TIMESTAMP).contains(&t.0))
    {
        return Err(InvalidRecord::Timestamp);
    }
    let (mut count, mut bytes) = (0, 0);
    for (name, value) in headers {
        if name.is_empty() || name.bytes().any(|b| b.is_ascii_control()) {
            return Err(InvalidRecord::HeaderName);
        }
        count += 1;
        bytes += name.len() + value.len();
    }
    if limits::HEADERS < count || limits::HEADER_BYTES < bytes {
        return Err(InvalidRecord::TooManyHeaders);
    }
    match (record.format, record.value) {
        (Format::Text, Some(value)) if std::str::from_utf8(value).is_err() => {
            Err(InvalidRecord::NotText)
        }
        (Format::Json, Some(value)) if !is_json(value) => Err(InvalidRecord::NotJson),
        _ => Ok(()),
    }
}

fn is_json(value: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(value).is_ok()
}

/// The last millisecond of the year 9999: beyond it no calendar can print the time.
pub const MAX_TIMESTAMP: i64 = 253_402_300_799_999;

/// Why a record was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRecord {
    /// Larger than its topic allows.
    #[error(
        "the record has {size} bytes (key, value and headers), the topic's max_record_bytes is {max}"
    )]
    TooLarge {
        /// Key + value + headers.
        size: usize,
        /// The topic's bound.
        max: u32,
    },
    /// The key alone is too large.
    #[error("the key is longer than {} bytes", limits::KEY_BYTES)]
    KeyTooLarge,
    /// A time that no calendar knows.
    #[error("the timestamp is not within the years 1970 to 9999 (milliseconds since the epoch)")]
    Timestamp,
    /// An empty header name, or one with control characters.
    #[error("a header name is empty or has control characters")]
    HeaderName,
    /// More headers than allowed.
    #[error(
        "a record may have {} headers of {} bytes in all",
        limits::HEADERS,
        limits::HEADER_BYTES
    )]
    TooManyHeaders,
    /// Marked as text, but not UTF-8.
    #[error("the value is marked as text but is not UTF-8")]
    NotText,
    /// Marked as JSON, but does not parse.
    #[error("the value is marked as JSON but is not one JSON value")]
    NotJson,
}

/// A record where it stands in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its place.
    pub offset: Offset,
    /// Its time, by the topic's timestamp type.
    pub timestamp: Timestamp,
    /// The record; `timestamp` is always given.
    pub record: Record,
}
