//! Reading a log, beside its writer and without waiting for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::disk::read_full;
use super::error::{Attempt, ReadError};
use super::index::{self, Entry};
use super::segment::{FIRST, Place, Segment, record_time};
use super::walk::{Expect, Walk};
use crate::record::{Batch, HEADER_LEN, Header};
use crate::types::{Offset, Timestamp, TopicId};

/// A read that finds a segment replaced or deleted under it looks again this often.
const ATTEMPTS: usize = 10_000;

/// What the writer tells its readers.
pub(super) struct Shared {
    pub(super) place: Place,
    log_start: AtomicU64,
    /// Raised whenever records are cut off the end, so that who read beside it looks again.
    cuts: AtomicU64,
    pub(super) high_watermark: AtomicU64,
    pub(super) log_end: AtomicU64,
    /// In order of base offset; the last one may be growing.
    pub(super) segments: ArcSwap<Vec<Arc<Segment>>>,
    /// Raised by two with every change of `segments`; odd while a file is being replaced.
    version: AtomicU64,
    /// The writer has gone: nobody would install a rewritten segment.
    pub(super) ended: AtomicBool,
}

impl Shared {
    pub(super) fn new(
        place: Place,
        log_start: Offset,
        high_watermark: Offset,
        log_end: Offset,
        segments: Vec<Arc<Segment>>,
    ) -> Self {
        Self {
            place,
            log_start: AtomicU64::new(log_start.0),
            cuts: AtomicU64::new(0),
            high_watermark: AtomicU64::new(high_watermark.0),
            log_end: AtomicU64::new(log_end.0),
            segments: ArcSwap::from_pointee(segments),
            version: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        }
    }

    /// The writer's: shows readers these segments.
    pub(super) fn store_segments(&self, segments: Arc<Vec<Arc<Segment>>>) {
        self.segments.store(segments);
        self.version.fetch_add(2, Ordering::AcqRel);
    }

    /// The writer's: puts `segment` in the place of the one with the same base.
    pub(super) fn replace_segment(&self, segment: &Arc<Segment>) {
        let mut segments = self.segments.load().to_vec();
        for slot in &mut segments {
            if slot.base == segment.base {
                *slot = segment.clone();
            }
        }
        self.store_segments(Arc::new(segments));
    }

    /// The writer's: as [`Shared::replace_segment`], with a file that `rename` puts in place. Who
    /// opens the old segment's file in between finds the wrong bytes, and tries again.
    pub(super) fn replace_file<E>(
        &self,
        segment: Arc<Segment>,
        rename: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        self.version.fetch_add(1, Ordering::AcqRel);
        let renamed = rename();
        if renamed.is_ok() {
            self.replace_segment(&segment);
        }
        self.version.fetch_add(1, Ordering::AcqRel);
        renamed
    }

    pub(super) fn log_start(&self) -> Offset {
        Offset(self.log_start.load(Ordering::Acquire))
    }

    pub(super) fn raise_log_start(&self, to: Offset) {
        self.log_start.fetch_max(to.0, Ordering::AcqRel);
    }

    /// The writer's: the log now ends at `end`. Called before bytes are cut off or written over,
    /// so that a reader that finds `cuts` unchanged after its read has read none of what came
    /// after.
    pub(super) fn cut_to(&self, end: Offset) {
        self.high_watermark.fetch_min(end.0, Ordering::SeqCst);
        self.log_end.store(end.0, Ordering::SeqCst);
        self.cuts.fetch_add(1, Ordering::SeqCst);
    }

    /// The writer's: the log is empty and begins at `start`, which may lie before where it began.
    pub(super) fn begin_at(&self, start: Offset) {
        self.cut_to(start);
        self.high_watermark.store(start.0, Ordering::SeqCst);
        self.log_start.store(start.0, Ordering::SeqCst);
        self.store_segments(Arc::default());
    }

    pub(super) fn high_watermark(&self) -> Offset {
        Offset(self.high_watermark.load(Ordering::Acquire))
    }
}

/// Sizes of a log, in bytes of batches and segment headers; space reserved ahead is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogStats {
    /// Bytes on disk.
    pub bytes: u64,
    /// What `bytes` would be had no segment been recompressed.
    pub appended_bytes: u64,
    /// Number of segments.
    pub segments: u32,
}

/// A view of a log: cheap to clone, usable from any thread. Sees records below the high watermark.
#[derive(Clone)]
pub struct LogReader {
    pub(super) shared: Arc<Shared>,
}

/// Shows readers more of a log while its writer is at work.
#[derive(Clone)]
pub struct HighWatermark {
    shared: Arc<Shared>,
}

impl HighWatermark {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Shows everything below `to`, but nothing beyond the log's end. Never moves back. Returns
    /// whether readers see more than before.
    pub fn raise(&self, to: Offset) -> bool {
        let to = to.0.min(self.shared.log_end.load(Ordering::Acquire));
        self.shared.high_watermark.fetch_max(to, Ordering::AcqRel) < to
    }
}

impl std::fmt::Debug for LogReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogReader")
            .field("dir", &self.shared.place.dir)
            .finish_non_exhaustive()
    }
}

/// Bytes of a segment, read at once.
struct Window {
    bytes: Vec<u8>,
    start: u64,
}

impl Window {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

impl LogReader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The topic that the log belongs to.
    pub fn topic_id(&self) -> TopicId {
        self.shared.place.topic_id
    }

    /// The first offset that has not been deleted.
    pub fn log_start(&self) -> Offset {
        self.shared.log_start()
    }

    /// The end of what readers see.
    pub fn high_watermark(&self) -> Offset {
        self.shared.high_watermark()
    }

    /// The offset that the next record will get.
    pub fn log_end(&self) -> Offset {
        Offset(self.shared.log_end.load(Ordering::Acquire))
    }

    /// Sizes now.
    pub fn stats(&self) -> LogStats {
        let segments = self.shared.segments.load();
        LogStats {
            bytes: segments.iter().map(|segment| segment.len()).sum(),
            appended_bytes: segments
                .iter()
                .map(|segment| segment.appended_bytes())
                .sum(),
            segments: u32::try_from(segments.len()).unwrap_or(u32::MAX),
        }
    }

    /// Whole batches without a gap between them, beginning with the one that *contains* `from`;
    /// about `max_bytes` of them, but at least one. Empty only when `from` is the high watermark.
    /// Headers and their chain are checked; payloads are for whoever unpacks them to check.
    /// Blocking.
    ///
    /// # Errors
    /// When there is no answer at `from`, see [`ReadError`].
    pub fn read(&self, from: Offset, max_bytes: usize) -> Result<Bytes, ReadError> {
        self.read_with(from, max_bytes, false)
    }

    /// As [`LogReader::read`], and every payload matches its checksum.
    ///
    /// # Errors
    /// As [`LogReader::read`].
    pub fn read_verified(&self, from: Offset, max_bytes: usize) -> Result<Bytes, ReadError> {
        self.read_with(from, max_bytes, true)
    }

    fn read_with(&self, from: Offset, max_bytes: usize, verify: bool) -> Result<Bytes, ReadError> {
        self.attempt(|| {
            // In this order: what lies below the high watermark is in segments looked up later.
            let end = self.high_watermark();
            let start = self.log_start();
            if from < start {
                return Err(ReadError::Trimmed { start });
            }
            if end < from {
                return Err(ReadError::OutOfRange { end });
            }
            if end == from {
                return Ok(Bytes::new());
            }
            let segments = self.shared.segments.load_full();
            let next = segments.partition_point(|segment| segment.base <= from);
            let until = segments
                .get(next)
                .map_or(end, |segment| segment.base.min(end));
            match next.checked_sub(1).and_then(|at| segments.get(at)) {
                Some(segment) => self.read_segment(segment, from, until, max_bytes, verify),
                None => Err(ReadError::Corrupt { offset: from }),
            }
        })
    }

    /// Runs `look` again when segments were replaced meanwhile: a rewritten or deleted file may
    /// then have been found where another was expected.
    pub(super) fn attempt<T>(
        &self,
        look: impl Fn() -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let mut attempt = 1;
        loop {
            let cuts = self.shared.cuts.load(Ordering::SeqCst);
            let version = self.shared.version.load(Ordering::Acquire);
            match look() {
                Err(ReadError::Corrupt { .. } | ReadError::Io(_))
                    if attempt < ATTEMPTS
                        && (version % 2 == 1
                            || version != self.shared.version.load(Ordering::Acquire)) =>
                {
                    attempt += 1;
                    std::thread::yield_now();
                }
                // Records that were cut off meanwhile, or what was written in their place.
                Ok(_) if attempt < ATTEMPTS && cuts != self.shared.cuts.load(Ordering::SeqCst) => {
                    attempt += 1;
                }
                done => return done,
            }
        }
    }

    fn window(&self, segment: &Segment, start: u64, len: u64) -> Result<Window, ReadError> {
        let place = &self.shared.place;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        let file = segment.open(place)?;
        let have = read_full(file.as_ref(), &mut bytes, start).attempt("read", &segment.path)?;
        bytes.truncate(have);
        Ok(Window { bytes, start })
    }

    /// Reads from a segment that begins at or before `from`, which lies below `until`.
    pub(super) fn read_segment(
        &self,
        segment: &Segment,
        from: Offset,
        until: Offset,
        max_bytes: usize,
        verify: bool,
    ) -> Result<Bytes, ReadError> {
        let place = &self.shared.place;
        let limit = segment.len();
        let budget = u64::try_from(max_bytes).unwrap_or(u64::MAX).max(1);
        let point = segment.with_points(place, |points| index::floor(points, from))?;
        let (mut position, offset) = point.map_or((FIRST, segment.base), |point| {
            (point.position, point.offset)
        });
        let mut expect = Expect::after_gap(place.topic_id, place.partition, offset);
        // The batch that is looked for begins less than an interval behind the point.
        let ahead = index::INTERVAL + HEADER_LEN as u64 + budget.min(limit);
        let mut window =
            self.window(segment, position, ahead.min(limit.saturating_sub(position)))?;
        let mut taken: Option<(u64, u64)> = None;
        while expect.offset < until {
            if window.end() < position + HEADER_LEN as u64 {
                if taken.is_some() {
                    break;
                }
                let len = budget
                    .max(HEADER_LEN as u64)
                    .min(limit.saturating_sub(position));
                window = self.window(segment, position, len)?;
            }
            let header = header_in(&window, position).filter(|header| {
                expect.is_next(header) && position + u64::from(header.batch_len) <= limit
            });
            let Some(header) = header else {
                if taken.is_some() {
                    break;
                }
                position = self.step_over(segment, position, &mut expect, from)?;
                continue;
            };
            if until < header.end_offset() {
                break;
            }
            let next = position + u64::from(header.batch_len);
            if header.end_offset() <= from {
                expect.advance(&header);
                position = next;
                continue;
            }
            let begun = taken.map_or(position, |(begun, _)| begun);
            if taken.is_some() && (budget < next - begun || window.end() < next) {
                break;
            }
            if window.end() < next {
                let len = u64::from(header.batch_len).max(budget.min(limit - position));
                window = self.window(segment, position, len)?;
            }
            let damaged = match slice_of(&window, position, next) {
                None => true,
                Some(bytes) => verify && crc32c::crc32c(&bytes[76..]) != header.body_crc,
            };
            if damaged {
                if taken.is_some() {
                    break;
                }
                return Err(ReadError::Corrupt {
                    offset: header.base_offset,
                });
            }
            taken = Some((begun, next));
            expect.advance(&header);
            position = next;
        }
        let Some((begun, end)) = taken else {
            return Ok(Bytes::new());
        };
        let at = |position: u64| usize::try_from(position - window.start).unwrap_or(0);
        let (begun, end) = (at(begun), at(end));
        Ok(Bytes::from(window.bytes).slice(begun..end))
    }

    /// Past damage at `position` to the next intact batch, if `from` lies behind it.
    fn step_over(
        &self,
        segment: &Segment,
        position: u64,
        expect: &mut Expect,
        from: Offset,
    ) -> Result<u64, ReadError> {
        let place = &self.shared.place;
        let file = segment.open(place)?;
        // A batch that holds `from` begins before the next point.
        let end = segment.with_points(place, |points| {
            let next = points.partition_point(|point| point.offset <= from);
            points.get(next).map(|point| point.position)
        })?;
        let mut walk = Walk::new(file.as_ref(), end.unwrap_or(segment.len()));
        let found = walk
            .find_later(position + 1, expect)
            .attempt("read", &segment.path)?;
        match found {
            Some((at, header)) if header.base_offset <= from => {
                expect.offset = header.base_offset;
                expect.prev_crc = None;
                Ok(at)
            }
            _ => Err(ReadError::Corrupt {
                offset: expect.offset,
            }),
        }
    }

    /// Offset and time of the first record whose time is `time` or later; none when there is none
    /// below the high watermark. Blocking.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] or [`ReadError::Io`] when the answer lies in or behind what cannot
    /// be read.
    pub fn offset_for_timestamp(
        &self,
        time: Timestamp,
    ) -> Result<Option<(Offset, Timestamp)>, ReadError> {
        self.attempt(|| {
            let end = self.high_watermark();
            let segments = self.shared.segments.load_full();
            for (at, segment) in segments.iter().enumerate() {
                let until = segments.get(at + 1).map_or(end, |next| next.base.min(end));
                if until <= self.log_start() || segment.max_timestamp(&self.shared.place)? < time {
                    continue;
                }
                if let Some(found) = self.find_time(segment, time, until)? {
                    return Ok(Some(found));
                }
            }
            Ok(None)
        })
    }

    fn find_time(
        &self,
        segment: &Segment,
        time: Timestamp,
        until: Offset,
    ) -> Result<Option<(Offset, Timestamp)>, ReadError> {
        let place = &self.shared.place;
        let point = segment.with_points(place, |points| index::floor_time(points, time))?;
        let first = Entry {
            offset: segment.base,
            position: FIRST,
            max_timestamp: Timestamp(i64::MIN),
        };
        let point = point.unwrap_or(first);
        let start = self.log_start();
        let mut offset = point.offset;
        let mut position = point.position;
        let file = segment.open(place)?;
        let mut walk = Walk::new(file.as_ref(), segment.len());
        let mut expect = Expect::after_gap(place.topic_id, place.partition, offset);
        while offset < until {
            let header = walk
                .header(position)
                .attempt("read", &segment.path)?
                .filter(|header| expect.is_next(header));
            let Some(header) = header else {
                return Err(ReadError::Corrupt { offset });
            };
            if time <= record_time(&header) && start < header.end_offset() {
                let bytes = walk
                    .bytes(position, header.batch_len as usize)
                    .attempt("read", &segment.path)?;
                let corrupt = || ReadError::Corrupt {
                    offset: header.base_offset,
                };
                let batch =
                    Batch::take(&mut Bytes::copy_from_slice(bytes)).map_err(|_| corrupt())?;
                batch.verify().map_err(|_| corrupt())?;
                let unpacked = batch.unpack().map_err(|_| corrupt())?;
                for record in unpacked.records() {
                    let record = record.map_err(|_| corrupt())?;
                    if time <= record.timestamp && start <= record.offset && record.offset < until {
                        return Ok(Some((record.offset, record.timestamp)));
                    }
                }
            }
            expect.advance(&header);
            offset = expect.offset;
            position += u64::from(header.batch_len);
        }
        Ok(None)
    }
}

fn slice_of(window: &Window, from: u64, to: u64) -> Option<&[u8]> {
    let at = |position: u64| usize::try_from(position.checked_sub(window.start)?).ok();
    window.bytes.get(at(from)?..at(to)?)
}

fn header_in(window: &Window, position: u64) -> Option<Header> {
    Header::parse_assigned(slice_of(window, position, position + HEADER_LEN as u64)?).ok()
}
