//! The guard: a second file that remembers how far the log had come (PROTOCOL M2, M3).
//!
//! A log whose end is gone looks like a shorter log, and a node that has forgotten a vote may cast
//! it again. So the end of the log is written down elsewhere with every batch, into two slots in
//! turn: one of them is always whole. At the next start the log must reach at least as far.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use crate::storage::{Disk, DiskFile, OpenMode};

/// "PGRD".
const MAGIC: u32 = 0x4452_4750;
/// A slot is a sector of its own, which disks write whole.
const SLOT: usize = 512;
const LEN: usize = 48;
pub(super) const NAME: &str = "raft.guard";

/// How far the log had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Mark {
    /// Grows with every mark; the slot is its lowest bit.
    pub(super) sequence: u64,
    /// The file in which the last record was.
    pub(super) segment: u64,
    /// Where in it that record ended.
    pub(super) end: u64,
    /// That record's checksum.
    pub(super) checksum: u32,
    /// Index of the last entry, for the report.
    pub(super) last: u64,
    /// The term of the vote, for the report.
    pub(super) term: u64,
}

impl Mark {
    fn encode(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.checksum.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.segment.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.end.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.last.to_le_bytes());
        // A term needs no more than this in the age of the universe; the crc takes the rest.
        bytes[40..44].copy_from_slice(&u32::try_from(self.term).unwrap_or(u32::MAX).to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..44]);
        bytes[44..48].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(slot: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_le_bytes(slot.get(at..at + 4)?.try_into().ok()?));
        let long = |at: usize| Some(u64::from_le_bytes(slot.get(at..at + 8)?.try_into().ok()?));
        if word(0)? != MAGIC || word(44)? != crc32c::crc32c(slot.get(..44)?) {
            return None;
        }
        Some(Self {
            checksum: word(4)?,
            sequence: long(8)?,
            segment: long(16)?,
            end: long(24)?,
            last: long(32)?,
            term: word(40)?.into(),
        })
    }
}

/// The open guard file.
pub(super) struct Guard {
    file: Arc<dyn DiskFile>,
    sequence: u64,
}

/// What the guard file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// There is no such file.
    Missing,
    /// There is one, and neither slot can be read.
    Unreadable,
    Mark(Mark),
}

/// Reads the guard of the log in `dir`.
pub(super) fn read(disk: &dyn Disk, dir: &Path) -> io::Result<Found> {
    let path = dir.join(NAME);
    if !disk.exists(&path)? {
        return Ok(Found::Missing);
    }
    let file = disk.open(&path, OpenMode::Read)?;
    let mut bytes = [0; 2 * SLOT];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], filled as u64) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let marks = bytes.chunks(SLOT).filter_map(Mark::decode);
    Ok(marks
        .max_by_key(|mark| mark.sequence)
        .map_or(Found::Unreadable, Found::Mark))
}

impl Guard {
    /// Creates the guard of a new log, durably, and replaces what a start that was cut short left.
    pub(super) fn create(disk: &dyn Disk, dir: &Path, mark: Mark) -> io::Result<Self> {
        let path = dir.join(NAME);
        if disk.exists(&path)? {
            disk.remove(&path)?;
        }
        let file = disk.open(&path, OpenMode::Create)?;
        file.set_len(2 * SLOT as u64)?;
        let mut guard = Self { file, sequence: 0 };
        guard.set(mark)?;
        guard.file.sync_all()?;
        disk.sync_dir(dir)?;
        Ok(guard)
    }

    /// Opens the guard whose newest mark is `mark`.
    pub(super) fn open(disk: &dyn Disk, dir: &Path, mark: Mark) -> io::Result<Self> {
        Ok(Self {
            file: disk.open(&dir.join(NAME), OpenMode::Write)?,
            sequence: mark.sequence,
        })
    }

    /// Writes a mark into the slot of the older one, durably. Its sequence is chosen here.
    pub(super) fn set(&mut self, mark: Mark) -> io::Result<()> {
        self.sequence += 1;
        let mark = Mark {
            sequence: self.sequence,
            ..mark
        };
        let slot = (self.sequence % 2) * SLOT as u64;
        let bytes = mark.encode();
        self.file.write_all_at(&mut [IoSlice::new(&bytes)], slot)?;
        self.file.sync_data()
    }
}
