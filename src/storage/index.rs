//! The sparse index of a segment: where to begin looking for an offset or a time.
//!
//! Derived from the log, so any doubt about it ends in rebuilding it. Every entry carries its own
//! checksum, seeded with that of the segment's header: an index of another file, or of an earlier
//! form of this file, has no valid entry. Layout: `docs/log_format.md`, "Index".

use std::io::{self, ErrorKind, IoSlice};
use std::path::Path;

use super::disk::{Disk, OpenMode, read_full};
use super::segment::{u32_at, u64_at};
use crate::types::{Offset, Timestamp};

/// The first four bytes of an index: `PLI` and the format version.
const MAGIC: [u8; 4] = *b"PLI\x01";
/// Bytes of the header and of every entry.
pub(super) const ENTRY_LEN: usize = 32;
/// Bytes of log between two entries, at least.
pub(super) const INTERVAL: u64 = 4096;
/// Marks the last entry of a sealed segment's index.
const END: u32 = 1;

/// One point from which the batches of a segment can be walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Base offset of the batch at `position`; for the last entry, the segment's end offset.
    pub(super) offset: Offset,
    /// Where the batch begins; for the last entry, the segment's length.
    pub(super) position: u64,
    /// Greatest record time of all batches of the segment *before* `position`.
    pub(super) max_timestamp: Timestamp,
}

fn header_bytes(segment_crc: u32, base: Offset) -> [u8; ENTRY_LEN] {
    let mut b = [0; ENTRY_LEN];
    b[..4].copy_from_slice(&MAGIC);
    b[8..12].copy_from_slice(&segment_crc.to_le_bytes());
    b[16..24].copy_from_slice(&base.0.to_le_bytes());
    let crc = crc32c::crc32c(&b[8..]);
    b[4..8].copy_from_slice(&crc.to_le_bytes());
    b
}

fn entry_bytes(segment_crc: u32, entry: &Entry, kind: u32) -> [u8; ENTRY_LEN] {
    let mut b = [0; ENTRY_LEN];
    b[4..8].copy_from_slice(&kind.to_le_bytes());
    b[8..16].copy_from_slice(&entry.offset.0.to_le_bytes());
    b[16..24].copy_from_slice(&entry.position.to_le_bytes());
    b[24..32].copy_from_slice(&entry.max_timestamp.0.to_le_bytes());
    let crc = crc32c::crc32c_append(segment_crc, &b[4..]);
    b[..4].copy_from_slice(&crc.to_le_bytes());
    b
}

fn parse_entry(segment_crc: u32, b: &[u8; ENTRY_LEN]) -> Option<(Entry, u32)> {
    if u32_at(b, 0) != crc32c::crc32c_append(segment_crc, &b[4..]) {
        return None;
    }
    let entry = Entry {
        offset: Offset(u64_at(b, 8)),
        position: u64_at(b, 16),
        max_timestamp: Timestamp(u64_at(b, 24) as i64),
    };
    Some((entry, u32_at(b, 4)))
}

/// An index as it was found on disk: its valid beginning.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Loaded {
    /// The points, in order.
    pub(super) entries: Vec<Entry>,
    /// The end mark, if the index is that of a sealed segment and whole.
    pub(super) end: Option<Entry>,
}

fn parse(bytes: &[u8], segment_crc: u32, base: Offset) -> Loaded {
    let mut loaded = Loaded::default();
    let (slots, _) = bytes.as_chunks::<ENTRY_LEN>();
    let Some((head, slots)) = slots.split_first() else {
        return loaded;
    };
    if *head != header_bytes(segment_crc, base) {
        return loaded;
    }
    for slot in slots {
        let Some((entry, kind)) = parse_entry(segment_crc, slot) else {
            break;
        };
        let ascends = loaded.entries.last().is_none_or(|last| {
            last.position < entry.position
                && last.offset < entry.offset
                && last.max_timestamp <= entry.max_timestamp
        });
        if kind == END {
            loaded.end = Some(entry);
            break;
        }
        if !ascends || kind != 0 {
            break;
        }
        loaded.entries.push(entry);
    }
    loaded
}

/// Reads what is valid of the index at `path`; an index that is absent or foreign is empty.
pub(super) fn load(
    disk: &dyn Disk,
    path: &Path,
    segment_crc: u32,
    base: Offset,
) -> io::Result<Loaded> {
    let file = match disk.open(path, OpenMode::Read) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Loaded::default()),
        file => file?,
    };
    let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(0)];
    let have = read_full(file.as_ref(), &mut bytes, 0)?;
    Ok(parse(&bytes[..have], segment_crc, base))
}

/// The end mark alone, without loading the whole index.
pub(super) fn load_end(
    disk: &dyn Disk,
    path: &Path,
    segment_crc: u32,
    base: Offset,
) -> io::Result<Option<Entry>> {
    let file = match disk.open(path, OpenMode::Read) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let len = file.len()?;
    let mut slot = [0; ENTRY_LEN];
    if len < 2 * ENTRY_LEN as u64
        || read_full(file.as_ref(), &mut slot, 0)? != ENTRY_LEN
        || slot != header_bytes(segment_crc, base)
        || read_full(file.as_ref(), &mut slot, len - ENTRY_LEN as u64)? != ENTRY_LEN
    {
        return Ok(None);
    }
    Ok(parse_entry(segment_crc, &slot)
        .filter(|(_, kind)| *kind == END)
        .map(|(entry, _)| entry))
}

/// Adds `entries` to an index that already has `written` of them; `written == 0` begins it anew.
/// With `end`, the index is complete. Not synced: an index that is lost is rebuilt.
pub(super) fn write(
    disk: &dyn Disk,
    path: &Path,
    segment_crc: u32,
    base: Offset,
    written: usize,
    entries: &[Entry],
    end: Option<&Entry>,
) -> io::Result<()> {
    let file = match disk.open(path, OpenMode::Write) {
        Err(error) if error.kind() == ErrorKind::NotFound => disk.open(path, OpenMode::Create),
        file => file,
    }?;
    let mut bytes = Vec::with_capacity((entries.len() + 2) * ENTRY_LEN);
    let mut position = ((written + 1) * ENTRY_LEN) as u64;
    if written == 0 {
        position = 0;
        file.set_len(0)?;
        bytes.extend_from_slice(&header_bytes(segment_crc, base));
    }
    for entry in entries {
        bytes.extend_from_slice(&entry_bytes(segment_crc, entry, 0));
    }
    if let Some(end) = end {
        bytes.extend_from_slice(&entry_bytes(segment_crc, end, END));
    }
    file.write_all_at(&mut [IoSlice::new(&bytes)], position)
}

/// The last entry at or before `offset`.
pub(super) fn floor(entries: &[Entry], offset: Offset) -> Option<Entry> {
    entries[..entries.partition_point(|entry| entry.offset <= offset)]
        .last()
        .copied()
}

/// The last entry such that every record before it is older than `time`.
pub(super) fn floor_time(entries: &[Entry], time: Timestamp) -> Option<Entry> {
    entries[..entries.partition_point(|entry| entry.max_timestamp < time)]
        .last()
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::disk::StdDisk;

    #[test]
    fn an_index_has_these_bytes() {
        let entry = Entry {
            offset: Offset(7),
            position: 64,
            max_timestamp: Timestamp(1_700_000_000_000),
        };
        assert_eq!(
            header_bytes(0x0102_0304, Offset(7))[..24],
            [
                0x50, 0x4c, 0x49, 1, 0xe1, 0x77, 0xb5, 0x98, 4, 3, 2, 1, 0, 0, 0, 0, 7, 0, 0, 0, 0,
                0, 0, 0
            ]
        );
        assert_eq!(
            entry_bytes(0x0102_0304, &entry, END),
            [
                0xba, 0x59, 0xa2, 0xa4, 1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0,
                0, 0, 0x68, 0xe5, 0xcf, 0x8b, 1, 0, 0
            ]
        );
    }

    #[test]
    fn a_damaged_or_shortened_index_yields_only_true_entries() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.index");
        let entries: Vec<Entry> = (0..8)
            .map(|i| Entry {
                offset: Offset(i * 10),
                position: 64 + i * 5000,
                max_timestamp: Timestamp(i as i64),
            })
            .collect();
        let end = Entry {
            offset: Offset(80),
            position: 50_000,
            max_timestamp: Timestamp(9),
        };
        write(&StdDisk, &path, 99, Offset(0), 0, &entries[..3], None).unwrap();
        write(&StdDisk, &path, 99, Offset(0), 3, &entries[3..], Some(&end)).unwrap();
        let whole = Loaded {
            entries: entries.clone(),
            end: Some(end),
        };
        assert_eq!(load(&StdDisk, &path, 99, Offset(0)).unwrap(), whole);
        assert_eq!(load_end(&StdDisk, &path, 99, Offset(0)).unwrap(), Some(end));
        assert_eq!(
            load(&StdDisk, &path, 98, Offset(0)).unwrap(),
            Loaded::default()
        );

        let bytes = std::fs::read(&path).unwrap();
        for cut in 0..bytes.len() {
            let loaded = parse(&bytes[..cut], 99, Offset(0));
            assert_eq!(loaded.entries, entries[..loaded.entries.len()]);
            assert_eq!(loaded.end, None);
        }
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            let loaded = parse(&flipped, 99, Offset(0));
            assert_eq!(loaded.entries, entries[..loaded.entries.len()]);
            assert_eq!(loaded.end, None);
        }
    }

    #[test]
    fn lookups_find_the_last_point_that_is_not_too_late() {
        let entry = |offset, position, time| Entry {
            offset: Offset(offset),
            position,
            max_timestamp: Timestamp(time),
        };
        let entries = [
            entry(5, 64, i64::MIN),
            entry(9, 5000, 100),
            entry(20, 9999, 100),
        ];
        assert_eq!(floor(&entries, Offset(4)), None);
        assert_eq!(floor(&entries, Offset(19)), Some(entries[1]));
        assert_eq!(floor_time(&entries, Timestamp(100)), Some(entries[0]));
        assert_eq!(floor_time(&entries, Timestamp(101)), Some(entries[2]));
    }
}
