//! Builds batches out of records.

use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use super::Record;
use super::batch::{Batch, seal_body};
use super::header::{Codec, HEADER_LEN, Header};
use super::mark::Extension;
use super::payload::put_record;
use crate::types::{LeaderEpoch, Offset, Partition, Timestamp, TopicId};

/// An idempotent producer's mark on a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Producer {
    /// Its id; 0 = not idempotent.
    pub id: u64,
    /// Its epoch.
    pub epoch: u16,
    /// Sequence number of the batch's first record.
    pub base_sequence: u32,
}

/// Collects records into one batch.
#[derive(Debug)]
pub struct BatchBuilder {
    bytes: Vec<u8>,
    /// Where the records begin in `bytes`.
    start: usize,
    scratch: Vec<u8>,
    count: u32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::with_capacity(0)
    }
}

impl BatchBuilder {
    /// An empty batch with room for `payload` bytes of records.
    pub fn with_capacity(payload: usize) -> Self {
        Self::marked(payload, Extension::default())
    }

    /// The same for a batch that will be recognised when it is sent again.
    pub fn marked(payload: usize, extension: Extension) -> Self {
        let mut bytes = Vec::with_capacity(HEADER_LEN + payload);
        bytes.resize(HEADER_LEN, 0);
        extension.put(&mut bytes);
        Self {
            start: bytes.len(),
            bytes,
            scratch: Vec::new(),
            count: 0,
            base_timestamp: 0,
            max_timestamp: i64::MIN,
        }
    }

    /// Adds a record, which must have passed [`Record::check`]. `now` is its time if it has none.
    pub fn push(&mut self, record: &Record, now: Timestamp) {
        let timestamp = record.timestamp.unwrap_or(now).0;
        if self.count == 0 {
            self.base_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        let delta = timestamp.wrapping_sub(self.base_timestamp);
        put_record(
            &mut self.bytes,
            &mut self.scratch,
            self.count,
            delta,
            record,
        );
        self.count += 1;
    }

    /// Number of records so far.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is no record yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Length of the batch so far, unpacked.
    pub fn batch_len(&self) -> usize {
        self.bytes.len()
    }

    /// The finished batch, not yet assigned to a log. `None` when there is no record.
    pub fn build(self, codec: Codec, producer: Producer) -> Option<Batch> {
        // Level 3 is zstd's own default.
        self.build_at(codec, 3, producer)
    }

    pub(super) fn build_at(self, codec: Codec, level: i32, producer: Producer) -> Option<Batch> {
        if self.count == 0 {
            return None;
        }
        let unpacked_len = (self.bytes.len() - self.start) as u32;
        let packed = match codec {
            Codec::None => None,
            // A batch that does not shrink is kept as it is.
            Codec::Zstd => zstd::bulk::compress(&self.bytes[self.start..], level)
                .ok()
                .filter(|packed| packed.len() < unpacked_len as usize),
        };
        let codec = if packed.is_some() {
            Codec::Zstd
        } else {
            Codec::None
        };
        let mut bytes = match packed {
            Some(packed) => {
                let mut bytes = BytesMut::with_capacity(self.start + packed.len());
                bytes.extend_from_slice(&self.bytes[..self.start]);
                bytes.extend_from_slice(&packed);
                bytes
            }
            None => BytesMut::from(Bytes::from(self.bytes)),
        };
        let mut header = Header {
            batch_len: bytes.len() as u32,
            header_crc: 0,
            prev_crc: 0,
            topic_id: TopicId(Uuid::nil()),
            partition: Partition(0),
            leader_epoch: LeaderEpoch(0),
            base_offset: Offset::ZERO,
            durable_at_append: Offset::ZERO,
            append_time: Timestamp(0),
            log_flags: 0,
            body_crc: 0,
            codec,
            record_count: self.count,
            last_offset_delta: self.count - 1,
            unpacked_len,
            base_timestamp: Timestamp(self.base_timestamp),
            max_timestamp: Timestamp(self.max_timestamp),
            producer_id: producer.id,
            producer_epoch: producer.epoch,
            base_sequence: producer.base_sequence,
            key_id: 0,
            extension_len: (self.start - HEADER_LEN) as u16,
        };
        seal_body(&mut header, &mut bytes);
        let mut bytes = bytes.freeze();
        Batch::take(&mut bytes).ok()
    }
}
