//! The checkpoint of a log: up to where it was known to be durable, and where it begins.
//!
//! Two slots in two sectors, written in turn, so that a torn write leaves the other one. A
//! checkpoint lags behind the log and never leads it: it is written after the fsync it tells of.
//! Layout: `docs/log_format.md`, "Checkpoint".

use std::io::{self, ErrorKind, IoSlice};
use std::path::Path;

use uuid::Uuid;

use super::disk::{Disk, OpenMode, read_full};
use super::segment::{array, u32_at, u64_at};
use crate::types::{LeaderEpoch, Offset, Partition, Timestamp, TopicId};

/// The first four bytes of a slot: `PLC` and the format version.
const MAGIC: [u8; 4] = *b"PLC\x02";
/// Bytes of a slot.
const SLOT_LEN: usize = 104;
/// Distance between the slots: a sector each.
const SLOT_STEP: usize = 512;
const CLEAN: u32 = 1;
const EMPTIED: u32 = 2;
const MARKED: u32 = 4;
const KNOWN_FLAGS: u32 = CLEAN | EMPTIED | MARKED;

/// The file's name in the log's directory.
pub(super) const FILE: &str = "checkpoint";

/// What one slot tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checkpoint {
    pub(super) topic_id: TopicId,
    pub(super) partition: Partition,
    /// The log was closed, and nothing came after `durable_end`.
    pub(super) clean: bool,
    /// The log was being emptied to begin anew at `durable_end`: no segment that is still there
    /// belongs to it.
    pub(super) emptied: bool,
    /// Batches below `durable_end` had marks of producers, or nobody can tell.
    pub(super) marked: bool,
    /// Greater in the younger slot.
    pub(super) generation: u64,
    pub(super) log_start: Offset,
    /// Everything below was on stable storage.
    pub(super) durable_end: Offset,
    /// Base offset of the segment in which the log went on.
    pub(super) segment: Offset,
    /// Where in that segment the next batch goes.
    pub(super) position: u64,
    /// `header_crc` of the last durable batch, as it was when it was appended.
    pub(super) last_crc: u32,
    /// Its leader epoch.
    pub(super) epoch: LeaderEpoch,
    /// Its append time.
    pub(super) append_time: Timestamp,
    /// Greatest record time of the segment up to `position`.
    pub(super) max_timestamp: Timestamp,
    /// The high watermark, but never beyond `durable_end`.
    pub(super) high_watermark: Offset,
}

impl Checkpoint {
    fn to_bytes(&self) -> [u8; SLOT_LEN] {
        let mut flags = 0;
        if self.clean {
            flags |= CLEAN;
        }
        if self.emptied {
            flags |= EMPTIED;
        }
        if self.marked {
            flags |= MARKED;
        }
        let mut b = [0; SLOT_LEN];
        b[..4].copy_from_slice(&MAGIC);
        b[8..24].copy_from_slice(self.topic_id.0.as_bytes());
        b[24..28].copy_from_slice(&self.partition.0.to_le_bytes());
        b[28..32].copy_from_slice(&flags.to_le_bytes());
        b[32..40].copy_from_slice(&self.generation.to_le_bytes());
        b[40..48].copy_from_slice(&self.log_start.0.to_le_bytes());
        b[48..56].copy_from_slice(&self.durable_end.0.to_le_bytes());
        b[56..64].copy_from_slice(&self.segment.0.to_le_bytes());
        b[64..72].copy_from_slice(&self.position.to_le_bytes());
        b[72..76].copy_from_slice(&self.last_crc.to_le_bytes());
        b[76..80].copy_from_slice(&self.epoch.0.to_le_bytes());
        b[80..88].copy_from_slice(&self.append_time.0.to_le_bytes());
        b[88..96].copy_from_slice(&self.max_timestamp.0.to_le_bytes());
        b[96..104].copy_from_slice(&self.high_watermark.0.to_le_bytes());
        let crc = crc32c::crc32c(&b[8..]);
        b[4..8].copy_from_slice(&crc.to_le_bytes());
        b
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let b = bytes.first_chunk::<SLOT_LEN>()?;
        let flags = u32_at(b, 28);
        if b[..4] != MAGIC || u32_at(b, 4) != crc32c::crc32c(&b[8..]) || flags & !KNOWN_FLAGS != 0 {
            return None;
        }
        Some(Self {
            topic_id: TopicId(Uuid::from_bytes(array(b, 8))),
            partition: Partition(u32_at(b, 24)),
            clean: flags & CLEAN != 0,
            emptied: flags & EMPTIED != 0,
            marked: flags & MARKED != 0,
            generation: u64_at(b, 32),
            log_start: Offset(u64_at(b, 40)),
            durable_end: Offset(u64_at(b, 48)),
            segment: Offset(u64_at(b, 56)),
            position: u64_at(b, 64),
            last_crc: u32_at(b, 72),
            epoch: LeaderEpoch(u32_at(b, 76)),
            append_time: Timestamp(u64_at(b, 80) as i64),
            max_timestamp: Timestamp(u64_at(b, 88) as i64),
            high_watermark: Offset(u64_at(b, 96)),
        })
    }
}

/// The younger valid slot of this log; none when there is none.
pub(super) fn load(
    disk: &dyn Disk,
    dir: &Path,
    topic_id: TopicId,
    partition: Partition,
) -> io::Result<Option<Checkpoint>> {
    let file = match disk.open(&dir.join(FILE), OpenMode::Read) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut bytes = [0; SLOT_STEP + SLOT_LEN];
    read_full(file.as_ref(), &mut bytes, 0)?;
    let slots = [
        Checkpoint::parse(&bytes),
        Checkpoint::parse(&bytes[SLOT_STEP..]),
    ];
    Ok(slots
        .into_iter()
        .flatten()
        .filter(|slot| slot.topic_id == topic_id && slot.partition == partition)
        .max_by_key(|slot| slot.generation))
}

/// Writes the slot that is the older one's turn. With `durable`, it and the file's name are on
/// stable storage when this returns.
pub(super) fn store(
    disk: &dyn Disk,
    dir: &Path,
    checkpoint: &Checkpoint,
    durable: bool,
) -> io::Result<()> {
    let path = dir.join(FILE);
    let file = match disk.open(&path, OpenMode::Write) {
        Err(error) if error.kind() == ErrorKind::NotFound => disk.open(&path, OpenMode::Create),
        file => file,
    }?;
    let position = (checkpoint.generation % 2) * SLOT_STEP as u64;
    file.write_all_at(&mut [IoSlice::new(&checkpoint.to_bytes())], position)?;
    if durable {
        file.sync_all()?;
        // An earlier call without `durable` may have created the file.
        disk.sync_dir(dir)?;
    }
    Ok(())
}
