//! Appending: what a log's writer does most.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::BytesMut;

use super::disk::{DiskFile, OpenMode, create_dirs};
use super::error::{AppendError, Attempt, StorageError};
use super::index::Entry;
use super::log::{Active, Durable, LONG_AGO, PartitionLog, remove_if_there};
use super::segment::{FIRST, Points4k, Segment, SegmentHeader};
use super::walk::Expect;
use crate::record::{Assignment, BatchError, Header, Mark, assign};
use crate::types::{LeaderEpoch, Timestamp, limits};

/// Disk space is reserved in steps that double from the smaller to the larger of these: writing
/// into reserved space makes fdatasync two to four times faster than extending the file.
const ALLOCATE_MIN: u64 = 64 * 1024;
const ALLOCATE_MAX: u64 = 16 * 1024 * 1024;

/// Why an operation stopped half-way.
pub(super) enum Failure {
    /// What was written can be taken back.
    Refused(StorageError),
    /// An fsync failed: nothing more may be believed.
    Fatal(StorageError),
}

/// The state to which a refused append goes back.
struct Before {
    active: Option<Active>,
    segments: Arc<Vec<Arc<Segment>>>,
    tail: Expect,
    durable: Durable,
}

impl PartitionLog {
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
        let mut marks = Vec::new();
        for (index, bytes) in batches.iter().enumerate() {
            let mark =
                check_form(bytes).map_err(|source| AppendError::Invalid { index, source })?;
            marks.extend(mark.map(|mark| (index, mark)));
        }
        if batches.is_empty() {
            return Ok(Vec::new());
        }
        self.expect_marks(&marks);
        let headers = self.all_or_none(now, |log| log.append_all(batches, epoch, now))?;
        self.note_epochs(&headers);
        self.note_marks(&headers, &marks);
        Ok(headers)
    }

    /// Runs `append`, and takes back what it did when the disk refuses half-way.
    pub(super) fn all_or_none<T>(
        &mut self,
        now: Timestamp,
        append: impl FnOnce(&mut Self) -> Result<T, Failure>,
    ) -> Result<T, AppendError> {
        self.now = now;
        self.touched = true;
        let before = Before {
            active: self.active.clone(),
            segments: self.shared.segments.load_full(),
            tail: self.tail.clone(),
            durable: self.durable.clone(),
        };
        match append(self) {
            Ok(done) => {
                self.shared
                    .log_end
                    .store(self.tail.offset.0, Ordering::Release);
                Ok(done)
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
                self.take_in(&mut active, &header);
                headers.push(header);
            }
            let slices = batches[first..headers.len()]
                .iter()
                .map(|bytes| IoSlice::new(bytes));
            self.write(active, position, &mut slices.collect::<Vec<_>>())?;
        }
        Ok(headers)
    }

    /// Counts a batch in that is about to be written at the end of `active`.
    pub(super) fn take_in(&mut self, active: &mut Active, header: &Header) {
        active.points.see(active.len, header);
        active.len += u64::from(header.batch_len);
        active.first_append_time.get_or_insert(header.append_time);
        self.tail.advance(header);
    }

    fn damaged(&self, position: u64) -> StorageError {
        StorageError::Damaged {
            path: self.place().segment_path(self.tail.offset),
            position,
        }
    }

    /// The active segment with room for a batch of `len` bytes: sealed and begun anew when due.
    pub(super) fn ready_segment(&mut self, len: u64, now: Timestamp) -> Result<Active, Failure> {
        if self.active.as_ref().is_some_and(|active| {
            self.is_due(active, now)
                || (FIRST < active.len && self.options.segment_bytes < active.len + len)
        }) {
            self.learn_marks();
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

    pub(super) fn write(
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
            marked: self.marks.any,
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
        self.marks.began(base);
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

    /// Takes an append back that the disk refused half-way.
    fn roll_back(&mut self, before: Before) -> Result<(), StorageError> {
        let place = &self.shared.place;
        let disk = place.disk.as_ref();
        let sealed = self.active.as_ref().map(|active| active.segment.id)
            != before.active.as_ref().map(|active| active.segment.id);
        if let Some(active) = before.active.as_ref().filter(|_| sealed) {
            // Its index may tell of records that are about to be cut off.
            remove_if_there(disk, &active.segment.index_path())?;
            place.sync_dir()?;
        }
        // From the last one on, each gone for good before the next: a crash in between must not
        // leave records behind a gap.
        let known = |base| before.segments.iter().any(|segment| segment.base == base);
        for segment in self
            .shared
            .segments
            .load()
            .iter()
            .rev()
            .filter(|s| !known(s.base))
        {
            place.files.forget(segment.id);
            remove_if_there(disk, &segment.index_path())?;
            place.remove_producers(segment.base);
            remove_if_there(disk, &segment.path)?;
            place.sync_dir()?;
        }
        let (mut active, mut segments) = (before.active, before.segments);
        if let Some(active) = &mut active {
            if sealed {
                // Readers may remember that index, and a descriptor that only reads, under its id.
                place.files.forget(active.segment.id);
                active.indexed = 0;
                active.segment = Arc::new(active.segment.renewed(place)?);
                let mut renewed = segments.to_vec();
                renewed.pop();
                renewed.push(active.segment.clone());
                segments = Arc::new(renewed);
            }
            let path = &active.segment.path;
            let file = active.segment.open(place)?;
            file.set_len(active.len).attempt("cut", path)?;
            file.sync_all().attempt("fsync", path)?;
            active.allocated = active.len;
            active
                .segment
                .retract(active.point_count, active.len, active.points.max_timestamp);
        }
        self.shared.store_segments(segments);
        (self.active, self.tail, self.durable) = (active, before.tail, before.durable);
        self.marks.roll_back(self.tail.offset);
        Ok(())
    }
}

fn check_form(bytes: &[u8]) -> Result<Option<Mark>, BatchError> {
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
    Ok(Mark::of(&header, bytes)?)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::tests::sim::SimDisk;
    use crate::storage::tests::{EPOCH, batch, numbered, open_on, options, read_from};
    use crate::types::Offset;

    #[test]
    fn a_reader_that_saw_a_segment_sealed_reads_it_after_the_seal_is_taken_back() {
        let (mut log, _) = open_on(
            Arc::new(SimDisk::default()),
            std::path::Path::new("/log"),
            options(),
        );
        let mut kept: Vec<String> = (0..10).map(|i| format!("{i}")).collect();
        for value in &kept {
            log.append(vec![batch(&[value])], EPOCH, Timestamp(0))
                .unwrap();
        }
        log.sync().unwrap();
        log.publish(Offset(10));
        let before = Before {
            active: log.active.clone(),
            segments: log.shared.segments.load_full(),
            tail: log.tail.clone(),
            durable: log.durable.clone(),
        };
        let lost = (0..10)
            .map(|_| batch(&["x".repeat(7_000)]))
            .collect::<Vec<_>>();
        log.append(lost, EPOCH, Timestamp(0)).unwrap();
        assert!(log.seal().is_ok());
        let reader = log.reader();
        assert_eq!(read_from(&reader, Offset(3), 1), numbered(&kept)[3..]);
        log.roll_back(before).unwrap();
        assert_eq!(read_from(&reader, Offset(3), 1), numbered(&kept)[3..]);

        let later: Vec<String> = (0..30)
            .map(|i| format!("{i} {}", "y".repeat(3_000)))
            .collect();
        for value in &later {
            log.append(vec![batch(&[value])], EPOCH, Timestamp(0))
                .unwrap();
        }
        kept.extend(later);
        log.sync().unwrap();
        log.publish(log.log_end());
        assert!(log.seal().is_ok());
        for from in 0..kept.len() {
            let found = read_from(&reader, Offset(from as u64), 1);
            assert_eq!(found, numbered(&kept)[from..]);
        }
    }
}
