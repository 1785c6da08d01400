//! A segment: one file of a log, its header, and what is known of it in memory.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use uuid::Uuid;

use super::disk::{Disk, DiskFile, OpenMode};
use super::error::{Attempt, StorageError};
use super::files::{FileCache, FileId};
use super::index::{self, Entry};
use super::walk::{self, Expect};
use crate::record::{Header, flags};
use crate::types::{Offset, Partition, Timestamp, TopicId};

/// The first four bytes of a segment: `PLS` and the format version.
pub(super) const MAGIC: [u8; 4] = *b"PLS\x01";
/// Bytes of a segment header; the first batch follows.
pub(super) const SEGMENT_HEADER_LEN: usize = 64;
/// Where the first batch of a segment begins.
pub(super) const FIRST: u64 = SEGMENT_HEADER_LEN as u64;

const RECOMPRESSED: u32 = 1;
const AFTER_GAP: u32 = 2;
const MARKED: u32 = 4;
const KNOWN_FLAGS: u32 = RECOMPRESSED | AFTER_GAP | MARKED;

/// `N` bytes from `at` on; zeros when `bytes` is too short.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .unwrap_or([0; N])
}
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

/// What stands at the beginning of a segment file. Layout: `docs/log_format.md`, "Segment header".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The topic.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: Partition,
    /// Whether the segment was rewritten with stronger compression after it was sealed.
    pub recompressed: bool,
    /// Whether records before this segment are missing, so that the chain of batches begins anew.
    pub after_gap: bool,
    /// Whether batches before this segment had marks of producers, so that what is remembered of
    /// them stands in a file beside it.
    pub marked: bool,
    /// Offset of the first record.
    pub base_offset: Offset,
    /// `header_crc` of the last batch before this segment, as it was when it was appended; 0 for none.
    pub prev_crc: u32,
    /// Recompressed: the `header_crc` that the last batch had when it was appended, to which the
    /// next segment is chained. Otherwise 0.
    pub last_crc: u32,
    /// Recompressed: the length of the file before. Otherwise 0.
    pub appended_bytes: u64,
    /// Append time of the last batch before this segment.
    pub prev_append_time: Timestamp,
}

impl SegmentHeader {
    pub(super) fn to_bytes(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut flags = 0;
        if self.recompressed {
            flags |= RECOMPRESSED;
        }
        if self.after_gap {
            flags |= AFTER_GAP;
        }
        if self.marked {
            flags |= MARKED;
        }
        let mut b = [0; SEGMENT_HEADER_LEN];
        b[..4].copy_from_slice(&MAGIC);
        b[8..24].copy_from_slice(self.topic_id.0.as_bytes());
        b[24..28].copy_from_slice(&self.partition.0.to_le_bytes());
        b[28..32].copy_from_slice(&flags.to_le_bytes());
        b[32..40].copy_from_slice(&self.base_offset.0.to_le_bytes());
        b[40..44].copy_from_slice(&self.prev_crc.to_le_bytes());
        b[44..48].copy_from_slice(&self.last_crc.to_le_bytes());
        b[48..56].copy_from_slice(&self.appended_bytes.to_le_bytes());
        b[56..64].copy_from_slice(&self.prev_append_time.0.to_le_bytes());
        let crc = crc32c::crc32c(&b[8..]);
        b[4..8].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// `None`: cut short, damaged, or of a version that this one does not know.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let b = bytes.first_chunk::<SEGMENT_HEADER_LEN>()?;
        let flags = u32_at(b, 28);
        if b[..4] != MAGIC || u32_at(b, 4) != crc32c::crc32c(&b[8..]) || flags & !KNOWN_FLAGS != 0 {
            return None;
        }
        Some(Self {
            topic_id: TopicId(Uuid::from_bytes(array(b, 8))),
            partition: Partition(u32_at(b, 24)),
            recompressed: flags & RECOMPRESSED != 0,
            after_gap: flags & AFTER_GAP != 0,
            marked: flags & MARKED != 0,
            base_offset: Offset(u64_at(b, 32)),
            prev_crc: u32_at(b, 40),
            last_crc: u32_at(b, 44),
            appended_bytes: u64_at(b, 48),
            prev_append_time: Timestamp(u64_at(b, 56) as i64),
        })
    }

    /// What binds an index to this very form of the segment.
    pub(super) fn crc(&self) -> u32 {
        u32_at(&self.to_bytes(), 4)
    }
}

/// The time by which a batch is found: the greatest that its records carry.
pub(super) fn record_time(header: &Header) -> Timestamp {
    if header.log_flags & flags::APPEND_TIME != 0 {
        header.append_time
    } else {
        header.max_timestamp
    }
}

/// The file name of the segment that begins at `base`.
pub(super) fn file_name(base: Offset) -> String {
    format!("{:020}.log", base.0)
}

/// The extension of files with what is remembered of producers.
pub(super) const PRODUCERS: &str = "producers";

/// The base offset that a segment's file name tells.
pub(super) fn parse_file_name(name: &str) -> Option<Offset> {
    base_of(name, "log")
}

/// The base offset that the name of a segment's file with this extension tells.
pub(super) fn base_of(name: &str, extension: &str) -> Option<Offset> {
    let digits = name.strip_suffix(extension)?.strip_suffix('.')?;
    if digits.len() != 20 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().map(Offset)
}

/// The points of the segment that is being written; readers look while the writer adds.
#[derive(Debug, Default)]
pub(super) struct Growing {
    pub(super) entries: RwLock<Vec<Entry>>,
    pub(super) max_timestamp: AtomicI64,
}

#[derive(Debug)]
enum Points {
    /// The active segment's, in memory.
    Growing(Growing),
    /// A sealed segment's, on disk, loaded when somebody asks.
    Sealed { max_timestamp: OnceLock<Timestamp> },
}

impl Points {
    fn growing(entries: Vec<Entry>, max_timestamp: Timestamp) -> Self {
        Self::Growing(Growing {
            entries: RwLock::new(entries),
            max_timestamp: AtomicI64::new(max_timestamp.0),
        })
    }
}

/// One segment as the writer and all readers share it.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) id: FileId,
    pub(super) path: PathBuf,
    pub(super) base: Offset,
    /// None when the header on disk is damaged; the batches can be read without it.
    pub(super) header: Option<SegmentHeader>,
    /// Bytes that hold batches, header included; grows while the segment is active.
    len: AtomicU64,
    points: Points,
    /// Recompression has been tried since the start.
    pub(super) settled: AtomicBool,
}

impl Segment {
    pub(super) fn growing(
        id: FileId,
        path: PathBuf,
        base: Offset,
        header: SegmentHeader,
        entries: Vec<Entry>,
        len: u64,
        max_timestamp: Timestamp,
    ) -> Self {
        let points = Points::growing(entries, max_timestamp);
        Self {
            id,
            path,
            base,
            header: Some(header),
            len: AtomicU64::new(len),
            points,
            settled: AtomicBool::new(false),
        }
    }

    pub(super) fn sealed(
        id: FileId,
        path: PathBuf,
        base: Offset,
        header: Option<SegmentHeader>,
        len: u64,
        max_timestamp: Option<Timestamp>,
    ) -> Self {
        let known = OnceLock::new();
        if let Some(time) = max_timestamp {
            let _ = known.set(time);
        }
        let points = Points::Sealed {
            max_timestamp: known,
        };
        Self {
            id,
            path,
            base,
            header,
            len: AtomicU64::new(len),
            points,
            settled: AtomicBool::new(false),
        }
    }

    /// The same growing segment under a new id, about which nobody remembers anything.
    pub(super) fn renewed(&self, place: &Place) -> Result<Self, StorageError> {
        let entries = self.with_points(place, <[Entry]>::to_vec)?;
        let points = Points::growing(entries, self.max_timestamp(place)?);
        Ok(Self {
            id: place.files.next_id(),
            path: self.path.clone(),
            base: self.base,
            header: self.header.clone(),
            len: AtomicU64::new(self.len()),
            points,
            settled: AtomicBool::new(false),
        })
    }

    pub(super) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Bytes before recompression.
    pub(super) fn appended_bytes(&self) -> u64 {
        match &self.header {
            Some(header) if header.recompressed => header.appended_bytes,
            _ => self.len(),
        }
    }

    pub(super) fn is_sealed(&self) -> bool {
        matches!(self.points, Points::Sealed { .. })
    }

    pub(super) fn index_path(&self) -> PathBuf {
        self.path.with_extension("index")
    }

    /// Where the state of producers at the beginning of the segment stands, if there is any.
    pub(super) fn producers_path(&self) -> PathBuf {
        self.path.with_extension(PRODUCERS)
    }

    pub(super) fn crc(&self) -> u32 {
        self.header.as_ref().map_or(0, SegmentHeader::crc)
    }

    pub(super) fn open(&self, place: &Place) -> Result<Arc<dyn DiskFile>, StorageError> {
        let mode = if self.is_sealed() {
            OpenMode::Read
        } else {
            OpenMode::Write
        };
        place
            .files
            .file(self.id, place.disk.as_ref(), &self.path, mode)
            .attempt("open", &self.path)
    }

    /// The writer's: bytes up to `len` are written, with these points and times in them.
    pub(super) fn extend(&self, points: &[Entry], len: u64, time: Timestamp) {
        if let Points::Growing(growing) = &self.points {
            if !points.is_empty() {
                let mut entries = growing
                    .entries
                    .write()
                    .unwrap_or_else(PoisonError::into_inner);
                entries.extend_from_slice(points);
            }
            growing.max_timestamp.fetch_max(time.0, Ordering::Relaxed);
        }
        self.len.store(len, Ordering::Release);
    }

    /// The writer's: takes [`Segment::extend`] back to an earlier state, which no reader has seen
    /// the end of.
    pub(super) fn retract(&self, points: usize, len: u64, time: Timestamp) {
        if let Points::Growing(growing) = &self.points {
            growing
                .entries
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .truncate(points);
            growing.max_timestamp.store(time.0, Ordering::Relaxed);
        }
        self.len.store(len, Ordering::Release);
    }

    /// Looks at the points under the lock, or at a sealed segment's loaded ones.
    pub(super) fn with_points<T>(
        &self,
        place: &Place,
        look: impl FnOnce(&[Entry]) -> T,
    ) -> Result<T, StorageError> {
        match &self.points {
            Points::Growing(growing) => Ok(look(
                &growing
                    .entries
                    .read()
                    .unwrap_or_else(PoisonError::into_inner),
            )),
            Points::Sealed { .. } => Ok(look(&self.sealed_points(place)?)),
        }
    }

    fn sealed_points(&self, place: &Place) -> Result<Arc<[Entry]>, StorageError> {
        place.files.index(self.id, || {
            if self.header.is_some() {
                let path = self.index_path();
                match index::load(place.disk.as_ref(), &path, self.crc(), self.base) {
                    Ok(index::Loaded { entries, end: Some(end) })
                        if end.position == self.len() && !entries.is_empty() =>
                    {
                        return Ok(entries.into());
                    }
                    Ok(_) => tracing::debug!(path = %path.display(), "index is not whole: rebuilding"),
                    Err(error) => {
                        tracing::warn!(path = %path.display(), %error, "index cannot be read: rebuilding");
                    }
                }
            }
            let (entries, _) = self.rebuild(place)?;
            Ok(entries.into())
        })
    }

    /// Walks the whole segment and indexes whatever is intact. Returns the greatest record time too.
    fn rebuild(&self, place: &Place) -> Result<(Vec<Entry>, Timestamp), StorageError> {
        let file = self.open(place)?;
        let mut points = Points4k::default();
        let mut expect = Expect::after_gap(place.topic_id, place.partition, self.base);
        let mut walk = walk::Walk::new(file.as_ref(), self.len());
        let mut position = FIRST;
        while let Some((at, header)) = walk
            .next_intact(position, &expect)
            .attempt("read", &self.path)?
        {
            points.see(at, &header);
            expect.advance(&header);
            position = at + u64::from(header.batch_len);
        }
        Ok((points.entries, points.max_timestamp))
    }

    /// The greatest time of the segment's records.
    pub(super) fn max_timestamp(&self, place: &Place) -> Result<Timestamp, StorageError> {
        match &self.points {
            Points::Growing(growing) => {
                Ok(Timestamp(growing.max_timestamp.load(Ordering::Relaxed)))
            }
            Points::Sealed { max_timestamp } => {
                if let Some(time) = max_timestamp.get() {
                    return Ok(*time);
                }
                let end = if self.header.is_some() {
                    index::load_end(
                        place.disk.as_ref(),
                        &self.index_path(),
                        self.crc(),
                        self.base,
                    )
                    .unwrap_or(None)
                    .filter(|end| end.position == self.len())
                } else {
                    None
                };
                let time = match end {
                    Some(end) => end.max_timestamp,
                    None => self.rebuild(place)?.1,
                };
                Ok(*max_timestamp.get_or_init(|| time))
            }
        }
    }
}

/// Collects points, at most one per [`index::INTERVAL`], as batches go by.
#[derive(Debug, Clone)]
pub(super) struct Points4k {
    pub(super) entries: Vec<Entry>,
    pub(super) max_timestamp: Timestamp,
    pub(super) last_position: Option<u64>,
}

impl Default for Points4k {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            max_timestamp: Timestamp(i64::MIN),
            last_position: None,
        }
    }
}

impl Points4k {
    pub(super) fn see(&mut self, position: u64, header: &Header) {
        if self
            .last_position
            .is_none_or(|last| last + index::INTERVAL <= position)
        {
            self.entries.push(Entry {
                offset: header.base_offset,
                position,
                max_timestamp: self.max_timestamp,
            });
            self.last_position = Some(position);
        }
        self.max_timestamp = self.max_timestamp.max(record_time(header));
    }
}

/// Where a log lives: what its writer and readers share and never changes.
pub(super) struct Place {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) files: Arc<FileCache>,
    pub(super) dir: PathBuf,
    pub(super) topic_id: TopicId,
    pub(super) partition: Partition,
}

impl Place {
    pub(super) fn segment_path(&self, base: Offset) -> PathBuf {
        self.dir.join(file_name(base))
    }

    pub(super) fn sync_dir(&self) -> Result<(), StorageError> {
        self.disk
            .sync_dir(&self.dir)
            .attempt("fsync the directory", &self.dir)
    }

    /// Removes a derived or obsolete file; that it is already gone, or stays, does no harm.
    pub(super) fn remove_quietly(&self, path: &Path) {
        if let Err(error) = self.disk.remove(path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove an obsolete file");
        }
    }
}
