//! A whole batch: checked, unpacked, assigned its place in a log.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};

use super::builder::{BatchBuilder, Producer};
use super::header::{Codec, HEADER_LEN, Header, HeaderError, flags};
use super::mark::{Extension, Key, Sent};
use super::payload::Records;
use super::{InvalidRecord, RecordShape, check_record};
use crate::types::{LeaderEpoch, Offset, Partition, Timestamp, TopicId, limits};

/// Why bytes are not a batch, or not one that may be appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The header is not one.
    #[error("batch header: {0}")]
    Header(#[from] HeaderError),
    /// Fewer bytes than the header announces.
    #[error("the batch is cut short: {have} of {want} bytes")]
    Truncated {
        /// Bytes that are there.
        have: usize,
        /// Bytes that the header announces.
        want: usize,
    },
    /// Larger than any batch may be.
    #[error("the batch is larger than {} bytes", limits::BATCH_BYTES)]
    TooLarge,
    /// The payload does not match its checksum.
    #[error("the batch does not match its checksum")]
    Checksum,
    /// The payload does not unpack to what the header announces.
    #[error("the batch does not unpack to the {0} bytes it announces")]
    Unpack(u32),
    /// The records do not parse, or contradict the header.
    #[error("the records of the batch are malformed")]
    Malformed,
    /// A record breaks a rule.
    #[error("record {index}: {source}")]
    Record {
        /// Which record of the batch, from 0.
        index: usize,
        /// The rule.
        source: InvalidRecord,
    },
}

/// A batch whose header parses and whose length is right; nothing else is known of it yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The header, taken apart.
    pub header: Header,
    bytes: Bytes,
}

impl Batch {
    /// Takes the batch off the front of `from`, without copying.
    ///
    /// # Errors
    /// What keeps the bytes from being a batch. `from` is then unchanged.
    pub fn take(from: &mut Bytes) -> Result<Self, BatchError> {
        let header = Header::parse(from)?;
        let want = header.batch_len as usize;
        if limits::BATCH_BYTES < want || limits::BATCH_BYTES < header.unpacked_len as usize {
            return Err(BatchError::TooLarge);
        }
        if from.len() < want {
            return Err(BatchError::Truncated {
                have: from.len(),
                want,
            });
        }
        Ok(Self {
            header,
            bytes: from.split_to(want),
        })
    }

    /// All bytes of the batch.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Checks the payload against its checksum.
    ///
    /// # Errors
    /// [`BatchError::Checksum`].
    pub fn verify(&self) -> Result<(), BatchError> {
        if crc32c::crc32c(&self.bytes[76..]) != self.header.body_crc {
            return Err(BatchError::Checksum);
        }
        Ok(())
    }

    /// The records' bytes, unpacked if need be. Bounded by the header's `unpacked_len`, whatever
    /// the compressed frame says of itself.
    ///
    /// # Errors
    /// [`BatchError::Unpack`].
    pub fn unpack(&self) -> Result<Unpacked<'_>, BatchError> {
        let payload = &self.bytes[HEADER_LEN + self.header.extension_len as usize..];
        let len = self.header.unpacked_len;
        let payload = match self.header.codec {
            Codec::None => Cow::Borrowed(payload),
            Codec::Zstd => {
                // Grows with what really comes out, so that a small forged batch cannot ask for
                // 32 MiB of memory.
                let mut out =
                    Vec::with_capacity((len as usize).min(payload.len().saturating_mul(16)));
                let mut decoder = zstd::stream::read::Decoder::with_buffer(payload)
                    .map_err(|_| BatchError::Unpack(len))?;
                decoder
                    .window_log_max(limits::ZSTD_WINDOW_LOG)
                    .map_err(|_| BatchError::Unpack(len))?;
                std::io::Read::read_to_end(
                    &mut std::io::Read::take(&mut decoder, u64::from(len) + 1),
                    &mut out,
                )
                .map_err(|_| BatchError::Unpack(len))?;
                Cow::Owned(out)
            }
        };
        if payload.len() != len as usize {
            return Err(BatchError::Unpack(len));
        }
        Ok(Unpacked {
            header: &self.header,
            payload,
        })
    }

    /// Everything that must hold before a producer's batch may be appended: checksum, unpacks,
    /// every record well-formed and within the topic's bounds, no deltas left out, times in order.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn check(&self, max_record_bytes: u32) -> Result<(), BatchError> {
        self.verify()?;
        let header = &self.header;
        if limits::BATCH_RECORDS < header.record_count as usize
            || header.last_offset_delta != header.record_count - 1
            // What stands there is the node's to write.
            || header.extension_len != 0
        {
            return Err(BatchError::Malformed);
        }
        let unpacked = self.unpack()?;
        let mut max = i64::MIN;
        // Positions are the leader's to give: deltas and times are judged as if the log began here.
        let neutral = Header {
            base_offset: Offset::ZERO,
            log_flags: 0,
            ..header.clone()
        };
        for (index, record) in Records::new(&unpacked.payload, &neutral).enumerate() {
            let record = record?;
            max = max.max(record.timestamp.0);
            let shape = RecordShape {
                key: record.key,
                value: record.value,
                format: record.format,
                timestamp: Some(record.timestamp),
                size: record.size(),
            };
            check_record(shape, record.headers(), max_record_bytes)
                .map_err(|source| BatchError::Record { index, source })?;
        }
        if max != header.max_timestamp.0 {
            return Err(BatchError::Malformed);
        }
        Ok(())
    }

    /// The same records under zstd, if that makes the batch smaller. All positions, times and
    /// producer fields stay; both checksums and `prev_crc` are the caller's to set anew by [`assign`]
    /// or [`Batch::rechained`].
    ///
    /// # Errors
    /// [`BatchError::Unpack`] when the batch is damaged.
    pub fn compressed(&self, level: i32) -> Result<Option<Self>, BatchError> {
        let unpacked = self.unpack()?;
        let extension = self.extension()?;
        let packed =
            zstd::bulk::compress(&unpacked.payload, level).map_err(|_| BatchError::Unpack(0))?;
        let smaller = self.with_payload(extension, &packed, Codec::Zstd);
        Ok((smaller.bytes.len() < self.bytes.len()).then_some(smaller))
    }

    /// The extension, and in it what was sent, before the body's checksum changes: it is by that
    /// that a repetition is known.
    fn extension(&self) -> Result<Extension, BatchError> {
        let mut extension = Extension::of(&self.header, &self.bytes)?;
        if self.header.producer_id != 0 && extension.sent.is_none() {
            extension.sent = Some(Sent {
                fingerprint: self.header.body_crc.into(),
                arrived: self.header.base_timestamp,
            });
        }
        Ok(extension)
    }

    /// The same batch under an idempotency key.
    ///
    /// # Errors
    /// When the batch has an extension that this version does not know.
    pub fn with_key(&self, key: Key) -> Result<Self, BatchError> {
        let mut extension = self.extension()?;
        extension.key = Some(key);
        let payload = &self.bytes[HEADER_LEN + usize::from(self.header.extension_len)..];
        Ok(self.with_payload(extension, payload, self.header.codec))
    }

    fn with_payload(&self, extension: Extension, payload: &[u8], codec: Codec) -> Self {
        let mut front = self.bytes[..HEADER_LEN].to_vec();
        extension.put(&mut front);
        let mut bytes = BytesMut::with_capacity(front.len() + payload.len());
        bytes.extend_from_slice(&front);
        bytes.extend_from_slice(payload);
        let mut header = Header {
            codec,
            batch_len: bytes.len() as u32,
            extension_len: (front.len() - HEADER_LEN) as u16,
            ..self.header.clone()
        };
        seal_body(&mut header, &mut bytes);
        Self {
            header,
            bytes: bytes.freeze(),
        }
    }

    /// One zstd batch with the records of several neighbours, if that is smaller than they are:
    /// small batches compress far better together, and share one header. Offsets, times, keys,
    /// values and headers stay; the batch carries the last one's append time.
    ///
    /// # Errors
    /// When a batch is damaged.
    pub fn merged(batches: &[Self], level: i32) -> Result<Option<Self>, BatchError> {
        let [first, .., last] = batches else {
            return match batches {
                [one] => one.compressed(level),
                _ => Ok(None),
            };
        };
        let before = batches.iter().map(|batch| batch.bytes.len()).sum::<usize>();
        let mut builder = BatchBuilder::with_capacity(before);
        for batch in batches {
            for record in batch.unpack()?.records() {
                let record = record?;
                builder.push(&record.to_stored().record, record.timestamp);
            }
        }
        let Some(merged) = builder.build_at(Codec::Zstd, level, Producer::default()) else {
            return Ok(None);
        };
        if before <= merged.bytes.len() {
            return Ok(None);
        }
        let mut bytes = BytesMut::from(merged.bytes.as_ref());
        let mut header = Header {
            topic_id: first.header.topic_id,
            partition: first.header.partition,
            leader_epoch: first.header.leader_epoch,
            base_offset: first.header.base_offset,
            durable_at_append: first.header.durable_at_append,
            append_time: last.header.append_time,
            prev_crc: first.header.prev_crc,
            ..merged.header
        };
        write_assigned(&mut header, &mut bytes);
        Ok(Some(Self {
            header,
            bytes: bytes.freeze(),
        }))
    }

    /// Whether `next` may share a batch with this one: its neighbour in the same reign, neither
    /// marked by an idempotent producer nor by append time, with no gap within or between.
    pub fn may_merge(&self, next: &Self) -> bool {
        let plain = |header: &Header| {
            header.producer_id == 0
                && (header.producer_epoch, header.base_sequence) == (0, 0)
                && header.extension_len == 0
                && header.log_flags == 0
                && header.last_offset_delta == header.record_count - 1
        };
        plain(&self.header)
            && plain(&next.header)
            && self.header.leader_epoch == next.header.leader_epoch
            && self.header.end_offset() == next.header.base_offset
    }

    /// The same batch chained to another predecessor: what rewriting a sealed segment needs.
    #[must_use]
    pub fn rechained(&self, prev_crc: u32) -> Self {
        let mut header = Header {
            prev_crc,
            ..self.header.clone()
        };
        let mut bytes = BytesMut::from(self.bytes.as_ref());
        write_assigned(&mut header, &mut bytes);
        Self {
            header,
            bytes: bytes.freeze(),
        }
    }
}

/// A batch's records, ready to iterate.
#[derive(Debug)]
pub struct Unpacked<'a> {
    header: &'a Header,
    payload: Cow<'a, [u8]>,
}

impl Unpacked<'_> {
    /// The records, in order of offset.
    pub fn records(&self) -> Records<'_> {
        Records::new(&self.payload, self.header)
    }
}

/// What the leader knows and the producer cannot: where a batch goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The topic.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: Partition,
    /// The reign.
    pub leader_epoch: LeaderEpoch,
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Everything below is on stable storage.
    pub durable_at_append: Offset,
    /// Now, but never before the previous batch's.
    pub append_time: Timestamp,
    /// Whether records carry `append_time` instead of their own.
    pub use_append_time: bool,
    /// `header_crc` of the batch before.
    pub prev_crc: u32,
}

/// Writes a batch's place into its header. Touches the first 128 bytes and nothing else; returns
/// the header as it now stands.
///
/// # Errors
/// When the bytes do not begin with a batch header.
pub fn assign(bytes: &mut BytesMut, to: &Assignment) -> Result<Header, HeaderError> {
    let parsed = Header::parse(bytes)?;
    let mut header = Header {
        topic_id: to.topic_id,
        partition: to.partition,
        leader_epoch: to.leader_epoch,
        base_offset: to.base_offset,
        durable_at_append: to.durable_at_append,
        append_time: to.append_time,
        log_flags: if to.use_append_time {
            flags::APPEND_TIME
        } else {
            0
        },
        prev_crc: to.prev_crc,
        ..parsed
    };
    write_assigned(&mut header, bytes);
    Ok(header)
}

fn write_header(header: &Header, bytes: &mut BytesMut) {
    let mut raw = [0; HEADER_LEN];
    header.write(&mut raw);
    bytes[..HEADER_LEN].copy_from_slice(&raw);
}

fn write_assigned(header: &mut Header, bytes: &mut BytesMut) {
    write_header(header, bytes);
    header.header_crc = crc32c::crc32c(&bytes[8..HEADER_LEN]);
    bytes[4..8].copy_from_slice(&header.header_crc.to_le_bytes());
}

/// Writes the header, then sums the body zone and payload into it.
pub(super) fn seal_body(header: &mut Header, bytes: &mut BytesMut) {
    write_header(header, bytes);
    header.body_crc = crc32c::crc32c(&bytes[76..]);
    bytes[72..76].copy_from_slice(&header.body_crc.to_le_bytes());
}

/// Takes a body apart into the batches it consists of.
///
/// # Errors
/// The first batch that is not one; nothing may then be appended.
pub fn split_batches(mut bytes: Bytes) -> Result<Vec<Batch>, BatchError> {
    let mut batches = Vec::new();
    while !bytes.is_empty() {
        batches.push(Batch::take(&mut bytes)?);
    }
    Ok(batches)
}

impl From<Batch> for Bytes {
    fn from(batch: Batch) -> Self {
        batch.bytes
    }
}
