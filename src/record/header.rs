//! The fixed 128-byte header of a batch.
//!
//! Two zones, two checksums: the *assigned* zone is written by the leader (position, epoch, chain)
//! under `header_crc`; the *body* zone and the payload are written by the producer under `body_crc`.
//! So the leader assigns offsets without touching, copying or summing the payload again.

use crate::types::{LeaderEpoch, Offset, Partition, Timestamp, TopicId};

use uuid::Uuid;

/// The first four bytes of every batch: `PLG` and the format version.
pub const MAGIC: [u8; 4] = *b"PLG\x01";
/// Bytes of a batch header.
pub const HEADER_LEN: usize = 128;

/// Bits of a header's flags; a batch with a bit that is not listed here is refused.
pub mod flags {
    /// Bits of the assigned zone (`log_flags`): the records' time is the batch's `append_time`.
    pub const APPEND_TIME: u32 = 1;
    /// All assigned bits that this version knows.
    pub const KNOWN_LOG: u32 = APPEND_TIME;
}

/// How the records of a batch are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// As they are.
    None = 0,
    /// One zstd frame.
    Zstd = 1,
}

/// A batch header, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Length of the whole batch, header included.
    pub batch_len: u32,
    /// CRC-32C over bytes 8 to 128: everything the leader assigned, and `body_crc`.
    pub header_crc: u32,
    /// `header_crc` of the batch before this one in the log; 0 for the first.
    pub prev_crc: u32,
    /// The topic whose log this batch belongs to.
    pub topic_id: TopicId,
    /// The partition whose log this batch belongs to.
    pub partition: Partition,
    /// The reign in which the batch was appended.
    pub leader_epoch: LeaderEpoch,
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Everything below this was on stable storage when the batch was written.
    pub durable_at_append: Offset,
    /// When the leader appended the batch; never goes back within a partition.
    pub append_time: Timestamp,
    /// See [`flags`].
    pub log_flags: u32,
    /// CRC-32C over bytes 76 to the end of the batch.
    pub body_crc: u32,
    /// How the records are packed.
    pub codec: Codec,
    /// Number of records.
    pub record_count: u32,
    /// Offset of the last record minus `base_offset`; greater than `record_count - 1` once compacted.
    pub last_offset_delta: u32,
    /// Length of the records once unpacked: bounds the memory that a reader must give.
    pub unpacked_len: u32,
    /// Smallest time that the records' deltas count from.
    pub base_timestamp: Timestamp,
    /// Greatest time of the records.
    pub max_timestamp: Timestamp,
    /// The idempotent producer's id; 0 = none.
    pub producer_id: u64,
    /// The producer's epoch.
    pub producer_epoch: u16,
    /// Sequence number of the first record.
    pub base_sequence: u32,
    /// The data key that sealed the payload; 0 = not sealed.
    pub key_id: u32,
    /// Length of the extension area before the records.
    pub extension_len: u16,
}

/// Why bytes are not a batch header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Fewer bytes than a header has.
    #[error("cut short")]
    Short,
    /// Not the first bytes of a batch.
    #[error("no batch begins here")]
    Magic,
    /// The assigned zone does not match its checksum.
    #[error("the header does not match its checksum")]
    Checksum,
    /// A field has a value that this version does not know.
    #[error("field {0} has an unknown value")]
    Field(&'static str),
}

fn u16_at(b: &[u8; HEADER_LEN], at: usize) -> u16 {
    u16::from_le_bytes([b[at], b[at + 1]])
}
fn u32_at(b: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}
fn u64_at(b: &[u8; HEADER_LEN], at: usize) -> u64 {
    u64::from(u32_at(b, at)) | u64::from(u32_at(b, at + 4)) << 32
}

impl Header {
    /// Offset after the last record of the batch.
    pub fn end_offset(&self) -> Offset {
        Offset(
            self.base_offset
                .0
                .saturating_add(u64::from(self.last_offset_delta))
                .saturating_add(1),
        )
    }

    /// Takes a header apart. Checks form and field values, no checksum.
    ///
    /// # Errors
    /// What keeps the bytes from being a header.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let Some(b) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(HeaderError::Short);
        };
        if b[..4] != MAGIC {
            return Err(HeaderError::Magic);
        }
        let codec = match b[76] {
            0 => Codec::None,
            1 => Codec::Zstd,
            _ => return Err(HeaderError::Field("codec")),
        };
        let mut topic = [0; 16];
        topic.copy_from_slice(&b[16..32]);
        let header = Self {
            header_crc: u32_at(b, 4),
            batch_len: u32_at(b, 8),
            prev_crc: u32_at(b, 12),
            topic_id: TopicId(Uuid::from_bytes(topic)),
            partition: Partition(u32_at(b, 32)),
            leader_epoch: LeaderEpoch(u32_at(b, 36)),
            base_offset: Offset(u64_at(b, 40)),
            durable_at_append: Offset(u64_at(b, 48)),
            append_time: Timestamp(u64_at(b, 56) as i64),
            log_flags: u32_at(b, 64),
            body_crc: u32_at(b, 72),
            codec,
            record_count: u32_at(b, 80),
            unpacked_len: u32_at(b, 84),
            base_timestamp: Timestamp(u64_at(b, 88) as i64),
            max_timestamp: Timestamp(u64_at(b, 96) as i64),
            producer_id: u64_at(b, 104),
            base_sequence: u32_at(b, 112),
            producer_epoch: u16_at(b, 116),
            extension_len: u16_at(b, 118),
            key_id: u32_at(b, 120),
            last_offset_delta: u32_at(b, 124),
        };
        for (field, wrong) in [
            (
                "log_flags",
                header.log_flags & !flags::KNOWN_LOG != 0 || u32_at(b, 68) != 0,
            ),
            ("flags", b[77..80] != [0; 3]),
            (
                "batch_len",
                (header.batch_len as usize) < HEADER_LEN + header.extension_len as usize,
            ),
            ("record_count", header.record_count == 0),
            (
                "last_offset_delta",
                header.last_offset_delta < header.record_count.saturating_sub(1),
            ),
            ("key_id", header.key_id != 0),
        ] {
            if wrong {
                return Err(HeaderError::Field(field));
            }
        }
        Ok(header)
    }

    /// Takes a header apart and checks the assigned zone's checksum: what reads from disk begin with.
    ///
    /// # Errors
    /// What keeps the bytes from being a header that a leader assigned.
    pub fn parse_assigned(bytes: &[u8]) -> Result<Self, HeaderError> {
        let header = Self::parse(bytes)?;
        if header.header_crc != crc32c::crc32c(&bytes[8..HEADER_LEN]) {
            return Err(HeaderError::Checksum);
        }
        Ok(header)
    }

    /// Writes the header, both checksums included as they stand in the fields.
    pub fn write(&self, b: &mut [u8; HEADER_LEN]) {
        *b = [0; HEADER_LEN];
        b[..4].copy_from_slice(&MAGIC);
        b[4..8].copy_from_slice(&self.header_crc.to_le_bytes());
        b[8..12].copy_from_slice(&self.batch_len.to_le_bytes());
        b[12..16].copy_from_slice(&self.prev_crc.to_le_bytes());
        b[16..32].copy_from_slice(self.topic_id.0.as_bytes());
        b[32..36].copy_from_slice(&self.partition.0.to_le_bytes());
        b[36..40].copy_from_slice(&self.leader_epoch.0.to_le_bytes());
        b[40..48].copy_from_slice(&self.base_offset.0.to_le_bytes());
        b[48..56].copy_from_slice(&self.durable_at_append.0.to_le_bytes());
        b[56..64].copy_from_slice(&self.append_time.0.to_le_bytes());
        b[64..68].copy_from_slice(&self.log_flags.to_le_bytes());
        b[72..76].copy_from_slice(&self.body_crc.to_le_bytes());
        b[76] = self.codec as u8;
        b[80..84].copy_from_slice(&self.record_count.to_le_bytes());
        b[84..88].copy_from_slice(&self.unpacked_len.to_le_bytes());
        b[88..96].copy_from_slice(&self.base_timestamp.0.to_le_bytes());
        b[96..104].copy_from_slice(&self.max_timestamp.0.to_le_bytes());
        b[104..112].copy_from_slice(&self.producer_id.to_le_bytes());
        b[112..116].copy_from_slice(&self.base_sequence.to_le_bytes());
        b[116..118].copy_from_slice(&self.producer_epoch.to_le_bytes());
        b[118..120].copy_from_slice(&self.extension_len.to_le_bytes());
        b[120..124].copy_from_slice(&self.key_id.to_le_bytes());
        b[124..128].copy_from_slice(&self.last_offset_delta.to_le_bytes());
    }
}
