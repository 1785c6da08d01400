//! The log of one partition: its single writer.

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::BytesMut;

use super::checkpoint::{self, Checkpoint};
use super::disk::{Disk, DiskFile, OpenMode, create_dirs};
use super::error::{AppendError, Attempt, OpenError, StorageError};
use super::files::FileCache;
use super::index::{self, Entry};
use super::reader::{LogReader, Shared};
use super::recovery::{self, Recovery};
use super::segment::{FIRST, Place, Points4k, Segment, SegmentHeader};
use super::walk::Expect;
use crate::record::{Assignment, BatchError, Header, assign};
use crate::types::{Compression, LeaderEpoch, Offset, Partition, Timestamp, TopicId, limits};

/// Disk space is reserved in steps that double from the smaller to the larger of these: writing
/// into reserved space makes fdatasync two to four times faster than extending the file.
const ALLOCATE_MIN: u64 = 64 * 1024;
const ALLOCATE_MAX: u64 = 16 * 1024 * 1024;
/// Milliseconds between checkpoints that are written in passing.
const CHECKPOINT_MS: i64 = 100;

/// How a log is kept. Times in milliseconds, sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// Size at which a segment is sealed; a batch that is larger has a segment to itself.
    pub segment_bytes: u64,
    /// Age of its first record at which a segment is sealed.
    pub segment_ms: u64,
    /// Age at which the records of sealed segments are deleted; none = never.
    pub retention_ms: Option<u64>,
    /// Size of the log above which its oldest sealed segments are deleted; none = unbounded.
    pub retention_bytes: Option<u64>,
    /// Whether sealed segments are recompressed. Batches are appended as they come.
    pub compression: Compression,
    /// Whether records carry the time at which they were appended instead of their own.
    pub use_append_time: bool,
}

/// The segment that is being written.
#[derive(Clone)]
pub(super) struct Active {
    pub(super) segment: Arc<Segment>,
    /// Held from the first write until it is synced: an error that the kernel has to report must
    /// not get lost with a closed descriptor.
    pub(super) file: Option<Arc<dyn DiskFile>>,
    pub(super) len: u64,
    pub(super) allocated: u64,
    pub(super) step: u64,
    pub(super) first_append_time: Option<Timestamp>,
    /// Where the last point is, and the greatest time; the points themselves are in `segment`.
    pub(super) points: Points4k,
    pub(super) point_count: usize,
    /// Points that the index file already has.
    pub(super) indexed: usize,
    /// The file's name is not yet durable.
    pub(super) new: bool,
}

/// The state as of the last fsync: what a checkpoint may tell.
#[derive(Debug, Clone)]
pub(super) struct Durable {
    pub(super) tail: Expect,
    pub(super) segment: Offset,
    pub(super) position: u64,
    pub(super) max_timestamp: Timestamp,
}

/// Why an operation stopped half-way.
pub(super) enum Failure {
    /// What was written can be taken back.
    Refused(StorageError),
    /// An fsync failed: nothing more may be believed.
    Fatal(StorageError),
}

/// The single writer of a partition's log. Blocking; owned by one task.
///
/// Positions: `log_start <= high_watermark <= log_end` and `durable_end <= log_end`. Readers see
/// records below the high watermark only, which [`PartitionLog::publish`] moves.
pub struct PartitionLog {
    pub(super) shared: Arc<Shared>,
    pub(super) options: LogOptions,
    pub(super) active: Option<Active>,
    /// What the next batch is chained to; `tail.offset` is the log's end.
    pub(super) tail: Expect,
    pub(super) durable: Durable,
    pub(super) generation: u64,
    pub(super) checkpointed_at: Option<Timestamp>,
    /// The greatest time that a caller told.
    pub(super) now: Timestamp,
    pub(super) poisoned: bool,
    /// Something happened that the checkpoint on disk does not tell.
    pub(super) touched: bool,
}

struct Before {
    active: Option<Active>,
    segments: Arc<Vec<Arc<Segment>>>,
    tail: Expect,
    durable: Durable,
}

impl PartitionLog {
    /// Opens the log in `dir`, which comes into being with the first append. Only what lies
    /// beyond the last checkpoint is scanned; afterwards everything that was found is durable and
    /// published.
    ///
    /// # Errors
    /// When the disk fails, or a file belongs to another partition. Damage is no error: see
    /// [`Recovery`].
    pub fn open(
        disk: Arc<dyn Disk>,
        files: Arc<FileCache>,
        dir: &Path,
        topic_id: TopicId,
        partition: Partition,
        options: LogOptions,
    ) -> Result<(Self, Recovery), OpenError> {
        let place = Place {
            disk,
            files,
            dir: dir.to_owned(),
            topic_id,
            partition,
        };
        recovery::open(place, options)
    }

    /// A view for readers; cheap to clone and independent of this writer.
    pub fn reader(&self) -> LogReader {
        LogReader::new(self.shared.clone())
    }

    /// Changes how the log is kept from now on.
    pub fn set_options(&mut self, options: LogOptions) {
        self.options = options;
    }

    /// The first offset that has not been deleted.
    pub fn log_start(&self) -> Offset {
        self.shared.log_start()
    }

    /// The offset that the next record will get.
    pub fn log_end(&self) -> Offset {
        self.tail.offset
    }

    /// Everything below is on stable storage.
    pub fn durable_end(&self) -> Offset {
        self.durable.tail.offset
    }

    /// Whether an fsync has failed, so that the log takes no more records.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    fn place(&self) -> &Place {
        &self.shared.place
    }

    /// Appends `batches` in this order, into the page cache only; all of them or none. Readers do
    /// not see them before [`PartitionLog::publish`]. Returns their headers as they stand.
    ///
    /// Batches must have passed [`crate::record::Batch::check`]; only their form is looked at
    /// again. A segment that is sealed on the way is synced.
    ///
    /// # Errors
    /// Each variant says whether anything may have been kept.
    pub fn append(
        &mut self,
        batches: Vec<BytesMut>,
        epoch: LeaderEpoch,
        now: Timestamp,
    ) -> Result<Vec<Header>, AppendError> {
        if self.poisoned {
            return Err(AppendError::Poisoned);
        }
        if epoch < self.tail.epoch {
            return Err(AppendError::StaleEpoch {
                given: epoch,
                current: self.tail.epoch,
            });
        }
        for (index, bytes) in batches.iter().enumerate() {
            check_form(bytes).map_err(|source| AppendError::Invalid { index, source })?;
        }
        if batches.is_empty() {
            return Ok(Vec::new());
        }
        self.now = self.now.max(now);
        self.touched = true;
        let before = Before {
            active: self.active.clone(),
            segments: self.shared.segments.load_full(),
            tail: self.tail.clone(),
            durable: self.durable.clone(),
        };
        match self.append_all(batches, epoch, now) {
            Ok(headers) => {
                self.shared
                    .log_end
                    .store(self.tail.offset.0, Ordering::Release);
                Ok(headers)
            }
            Err(Failure::Fatal(error)) => {
                self.poisoned = true;
                Err(AppendError::Failed(error))
            }
            Err(Failure::Refused(error)) => match self.roll_back(before) {
                Ok(()) => Err(AppendError::NotWritten(error)),
                Err(second) => {
                    tracing::error!(error = %second, "cannot take back a failed append");
                    self.poisoned = true;
                    Err(AppendError::Failed(error))
                }
            },
        }
    }

    fn append_all(
        &mut self,
        mut batches: Vec<BytesMut>,
        epoch: LeaderEpoch,
        now: Timestamp,
    ) -> Result<Vec<Header>, Failure> {
        let mut headers: Vec<Header> = Vec::with_capacity(batches.len());
        while headers.len() < batches.len() {
            let first = headers.len();
            let mut active = self.ready_segment(batches[first].len() as u64, now)?;
            let position = active.len;
            for bytes in &mut batches[first..] {
                let len = bytes.len() as u64;
                if active.len != position && self.options.segment_bytes < active.len + len {
                    break;
                }
                let header = assign(
                    bytes,
                    &Assignment {
                        topic_id: self.tail.topic_id,
                        partition: self.tail.partition,
                        leader_epoch: epoch,
                        base_offset: self.tail.offset,
                        durable_at_append: self.durable.tail.offset,
                        append_time: self.tail.append_time.max(now),
                        use_append_time: self.options.use_append_time,
                        prev_crc: self.tail.prev_crc.unwrap_or(0),
                    },
                )
                .map_err(|_| Failure::Refused(self.damaged(active.len)))?;
                active.points.see(active.len, &header);
                active.len += len;
                active.first_append_time.get_or_insert(header.append_time);
                self.tail.advance(&header);
                headers.push(header);
            }
            let slices = batches[first..headers.len()]
                .iter()
                .map(|bytes| IoSlice::new(bytes));
            self.write(active, position, &mut slices.collect::<Vec<_>>())?;
        }
        Ok(headers)
    }

    fn damaged(&self, position: u64) -> StorageError {
        StorageError::Damaged {
            path: self.place().segment_path(self.tail.offset),
            position,
        }
    }

    /// The active segment with room for a batch of `len` bytes: sealed and begun anew when due.
    fn ready_segment(&mut self, len: u64, now: Timestamp) -> Result<Active, Failure> {
        if self.active.as_ref().is_some_and(|active| {
            self.is_due(active, now)
                || (FIRST < active.len && self.options.segment_bytes < active.len + len)
        }) {
            self.seal()?;
        }
        match &self.active {
            Some(active) => Ok(active.clone()),
            None => self.begin_segment(),
        }
    }

    /// Whether the segment's first record is old enough for the segment to be sealed.
    pub(super) fn is_due(&self, active: &Active, now: Timestamp) -> bool {
        active.first_append_time.is_some_and(|first| {
            i64::try_from(self.options.segment_ms).unwrap_or(i64::MAX)
                <= now.0.saturating_sub(first.0)
        })
    }

    fn write(
        &mut self,
        mut active: Active,
        position: u64,
        slices: &mut [IoSlice<'_>],
    ) -> Result<(), Failure> {
        let file = match active.file.take() {
            Some(file) => file,
            None => active
                .segment
                .open(self.place())
                .map_err(Failure::Refused)?,
        };
        reserve(file.as_ref(), &mut active, self.options.segment_bytes);
        file.write_all_at(slices, position)
            .attempt("write", &active.segment.path)
            .map_err(Failure::Refused)?;
        active.file = Some(file);
        active.point_count += active.points.entries.len();
        active.segment.extend(
            &active.points.entries,
            active.len,
            active.points.max_timestamp,
        );
        active.points.entries.clear();
        self.active = Some(active);
        Ok(())
    }

    /// Creates the segment that begins at the log's end.
    pub(super) fn begin_segment(&mut self) -> Result<Active, Failure> {
        let place = &self.shared.place;
        create_dirs(place.disk.as_ref(), &place.dir)
            .attempt("create", &place.dir)
            .map_err(Failure::Refused)?;
        let base = self.tail.offset;
        let path = place.segment_path(base);
        let header = SegmentHeader {
            topic_id: place.topic_id,
            partition: place.partition,
            recompressed: false,
            after_gap: self.tail.prev_crc.is_none(),
            base_offset: base,
            prev_crc: self.tail.prev_crc.unwrap_or(0),
            last_crc: 0,
            appended_bytes: 0,
            prev_append_time: self.tail.append_time,
        };
        let file = place
            .disk
            .open(&path, OpenMode::Create)
            .attempt("create", &path)
            .map_err(Failure::Refused)?;
        let id = place.files.next_id();
        let segment = Segment::growing(
            id,
            path.clone(),
            base,
            header.clone(),
            Vec::new(),
            FIRST,
            LONG_AGO,
        );
        let active = Active {
            segment: Arc::new(segment),
            file: Some(file.clone()),
            len: FIRST,
            allocated: 0,
            step: ALLOCATE_MIN / 2,
            first_append_time: None,
            points: Points4k::default(),
            point_count: 0,
            indexed: 0,
            new: true,
        };
        // From here on a failure is taken back by removing every segment that was not there before.
        let mut segments = self.shared.segments.load().to_vec();
        segments.push(active.segment.clone());
        self.shared.store_segments(Arc::new(segments));
        file.write_all_at(&mut [IoSlice::new(&header.to_bytes())], 0)
            .attempt("write", &path)
            .map_err(Failure::Refused)?;
        place.files.keep(id, file);
        self.active = Some(active.clone());
        Ok(active)
    }

    /// Makes the active segment durable and immutable. The next append begins another one.
    pub(super) fn seal(&mut self) -> Result<(), Failure> {
        let Some(active) = self.active.clone() else {
            return Ok(());
        };
        let path = &active.segment.path;
        let file = match &active.file {
            Some(file) => file.clone(),
            None => active
                .segment
                .open(self.place())
                .map_err(Failure::Refused)?,
        };
        file.set_len(active.len)
            .attempt("cut", path)
            .map_err(Failure::Refused)?;
        self.fsync(path, || file.sync_all())
            .map_err(Failure::Fatal)?;
        if active.new {
            self.place().sync_dir().map_err(Failure::Fatal)?;
        }
        let segment = &active.segment;
        let end = Entry {
            offset: self.tail.offset,
            position: active.len,
            max_timestamp: active.points.max_timestamp,
        };
        self.write_index(&active, u64::MAX, Some(&end));
        let sealed = Segment::sealed(
            segment.id,
            segment.path.clone(),
            segment.base,
            segment.header.clone(),
            active.len,
            Some(active.points.max_timestamp),
        );
        self.shared.replace_segment(&Arc::new(sealed));
        self.active = None;
        self.mark_durable();
        Ok(())
    }

    /// Adds the points below `below` to the index file; returns how many it has then. An index
    /// that cannot be written is rebuilt some day, so that is no error.
    fn write_index(&self, active: &Active, below: u64, end: Option<&Entry>) -> usize {
        let segment = &active.segment;
        let place = self.place();
        let points = segment.with_points(place, |entries| {
            let to = entries.partition_point(|entry| entry.position < below);
            entries.get(active.indexed..to).unwrap_or_default().to_vec()
        });
        let points = points.unwrap_or_default();
        if points.is_empty() && end.is_none() {
            return active.indexed;
        }
        let (path, crc) = (segment.index_path(), segment.crc());
        let disk = place.disk.as_ref();
        match index::write(disk, &path, crc, segment.base, active.indexed, &points, end) {
            Ok(()) => active.indexed + points.len(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot write the index");
                0
            }
        }
    }

    /// Takes an append back that the disk refused half-way.
    fn roll_back(&mut self, before: Before) -> Result<(), StorageError> {
        let place = &self.shared.place;
        let known = |base| before.segments.iter().any(|segment| segment.base == base);
        let mut removed = false;
        for segment in self
            .shared
            .segments
            .load()
            .iter()
            .filter(|segment| !known(segment.base))
        {
            place.files.forget(segment.id);
            remove_if_there(place.disk.as_ref(), &segment.index_path())?;
            remove_if_there(place.disk.as_ref(), &segment.path)?;
            removed = true;
        }
        // Later segments must be gone for good before records are cut off in front of them.
        if removed {
            place.sync_dir()?;
        }
        let mut active = before.active;
        if let Some(active) = &mut active {
            let path = &active.segment.path;
            let file = active.segment.open(place)?;
            file.set_len(active.len).attempt("cut", path)?;
            file.sync_all().attempt("fsync", path)?;
            active.allocated = active.len;
            if self.active.is_none() || removed {
                // It was sealed on the way, and its index may tell of records that are cut off.
                remove_if_there(place.disk.as_ref(), &active.segment.index_path())?;
                active.indexed = 0;
            }
            active
                .segment
                .retract(active.point_count, active.len, active.points.max_timestamp);
        }
        self.shared.store_segments(before.segments);
        (self.active, self.tail, self.durable) = (active, before.tail, before.durable);
        Ok(())
    }

    /// Makes everything that was appended durable; returns the end of it.
    ///
    /// # Errors
    /// [`StorageError::Poisoned`] from the second failure on: after a failed fsync nothing may be
    /// believed, so the log takes no more records. Opening it anew re-reads the medium.
    pub fn sync(&mut self) -> Result<Offset, StorageError> {
        self.check_poison()?;
        if let Some(active) = &self.active
            && let Some(file) = active.file.clone()
        {
            let (path, new) = (active.segment.path.clone(), active.new);
            let done = if new {
                self.fsync(&path, || file.sync_all())
                    .and_then(|()| self.place().sync_dir())
            } else {
                self.fsync(&path, || file.sync_data())
            };
            if let Err(error) = done {
                self.poisoned = true;
                return Err(error);
            }
            if let Some(active) = &mut self.active {
                (active.file, active.new) = (None, false);
            }
        }
        self.mark_durable();
        let due = |at: Timestamp| CHECKPOINT_MS <= self.now.0.saturating_sub(at.0);
        if self.touched && self.checkpointed_at.is_none_or(due) {
            self.checkpoint();
        }
        Ok(self.durable.tail.offset)
    }

    pub(super) fn check_poison(&self) -> Result<(), StorageError> {
        if self.poisoned {
            return Err(StorageError::Poisoned {
                dir: self.place().dir.clone(),
            });
        }
        Ok(())
    }

    pub(super) fn fsync(
        &self,
        path: &Path,
        sync: impl FnOnce() -> std::io::Result<()>,
    ) -> Result<(), StorageError> {
        sync().attempt("fsync", path)
    }

    fn mark_durable(&mut self) {
        self.durable = match &self.active {
            Some(active) => Durable {
                tail: self.tail.clone(),
                segment: active.segment.base,
                position: active.len,
                max_timestamp: active.points.max_timestamp,
            },
            // The segment that will come: opening must not go on behind the sealed one.
            None => Durable {
                tail: self.tail.clone(),
                segment: self.tail.offset,
                position: FIRST,
                max_timestamp: LONG_AGO,
            },
        };
    }

    /// Shows readers everything below `up_to`, but nothing beyond the log's end. Never moves back.
    pub fn publish(&mut self, up_to: Offset) {
        let up_to = up_to.min(self.tail.offset);
        self.shared
            .high_watermark
            .fetch_max(up_to.0, Ordering::AcqRel);
    }

    /// Writes down what is durable, so that the next open has less to scan. Worth calling when a
    /// log falls idle; costs no fsync. It is only an aid, so its failure is none.
    pub fn checkpoint(&mut self) {
        self.checkpointed_at = Some(self.now);
        self.write_points();
        if let Err(error) = self.store_checkpoint(None, false, false) {
            tracing::warn!(%error, "cannot write the checkpoint");
        }
    }

    /// Writes the points that are durable to the index file.
    pub(super) fn write_points(&mut self) {
        if let Some(active) = self.active.clone() {
            let below = if active.segment.base == self.durable.segment {
                self.durable.position
            } else {
                0
            };
            let indexed = self.write_index(&active, below, None);
            if let Some(active) = &mut self.active {
                active.indexed = indexed;
            }
        }
    }

    /// `log_start`: what to write in place of the current one.
    pub(super) fn store_checkpoint(
        &mut self,
        log_start: Option<Offset>,
        clean: bool,
        durable: bool,
    ) -> Result<(), StorageError> {
        let place = &self.shared.place;
        self.generation += 1;
        let checkpoint = Checkpoint {
            topic_id: place.topic_id,
            partition: place.partition,
            clean,
            generation: self.generation,
            log_start: log_start.unwrap_or_else(|| self.shared.log_start()),
            durable_end: self.durable.tail.offset,
            segment: self.durable.segment,
            position: self.durable.position,
            last_crc: self.durable.tail.prev_crc.unwrap_or(0),
            epoch: self.durable.tail.epoch,
            append_time: self.durable.tail.append_time,
            max_timestamp: self.durable.max_timestamp,
        };
        checkpoint::store(place.disk.as_ref(), &place.dir, &checkpoint, durable)
            .attempt("write the checkpoint of", &place.dir)
    }
}

/// Earlier than every record.
pub(super) const LONG_AGO: Timestamp = Timestamp(i64::MIN);

fn check_form(bytes: &[u8]) -> Result<(), BatchError> {
    let header = Header::parse(bytes)?;
    let want = header.batch_len as usize;
    if limits::BATCH_BYTES < want {
        return Err(BatchError::TooLarge);
    }
    if bytes.len() != want {
        return Err(BatchError::Truncated {
            have: bytes.len(),
            want,
        });
    }
    Ok(())
}

/// Reserves space for what `active` will hold, and some more. Only makes writing faster, so a
/// full disk is left for the write itself to find.
fn reserve(file: &dyn DiskFile, active: &mut Active, segment_bytes: u64) {
    if active.len <= active.allocated {
        return;
    }
    active.step = (active.step * 2).clamp(ALLOCATE_MIN, ALLOCATE_MAX);
    let want = (active.allocated.max(active.len) + active.step)
        .min(segment_bytes)
        .max(active.len);
    if file.allocate(want).is_ok() {
        active.allocated = want;
    }
}

pub(super) fn remove_if_there(disk: &dyn Disk, path: &Path) -> Result<(), StorageError> {
    match disk.remove(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done.attempt("remove", path),
    }
}
