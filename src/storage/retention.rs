//! Where a log ends its days: deleting from the front, closing, destroying.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::append::Failure;
use super::disk::Disk;
use super::error::{Attempt, StorageError};
use super::log::{PartitionLog, Standing, remove_if_there};
use super::quarantine;
use super::segment::FIRST;
use crate::types::{Offset, Timestamp};

/// What retention deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Deleted {
    /// Segments.
    pub segments: u32,
    /// Their bytes on disk.
    pub bytes: u64,
}

impl PartitionLog {
    /// Deletes all records before `before`, but none at or above the high watermark; returns where
    /// the log begins now. That is durable at once; disk space is freed by whole segments.
    ///
    /// # Errors
    /// When the new beginning cannot be made durable; the log then begins where it did.
    pub fn trim(&mut self, before: Offset) -> Result<Offset, StorageError> {
        self.check_poison()?;
        let before = before.min(self.shared.high_watermark());
        if self.log_start() < before {
            // When everything goes, the active segment goes as well.
            if before == self.log_end() {
                self.roll_if_room()?;
            }
            self.delete_before(before)?;
        }
        Ok(self.log_start())
    }

    /// Seals the active segment if it has grown too old, then deletes sealed segments that are too
    /// old or too much, the oldest first. Records at or above the high watermark stay.
    ///
    /// # Errors
    /// When the disk fails; what was not deleted is still there.
    pub fn enforce_retention(&mut self, now: Timestamp) -> Result<Deleted, StorageError> {
        self.check_poison()?;
        self.now = now;
        if self
            .active
            .as_ref()
            .is_some_and(|active| self.is_due(active, now))
        {
            self.roll_if_room()?;
        }
        let segments = self.shared.segments.load_full();
        let high_watermark = self.shared.high_watermark();
        let mut bytes: u64 = segments.iter().map(|segment| segment.len()).sum();
        let mut start = self.log_start();
        for pair in segments.windows(2) {
            let [oldest, next] = pair else { continue };
            let too_much = self
                .options
                .retention_bytes
                .is_some_and(|most| most < bytes);
            let too_old = match self.options.retention_ms {
                Some(ms) if !too_much => {
                    let age = now
                        .0
                        .saturating_sub(oldest.max_timestamp(&self.shared.place)?.0);
                    i64::try_from(ms).unwrap_or(i64::MAX) < age
                }
                _ => false,
            };
            if high_watermark < next.base || !(too_much || too_old) {
                break;
            }
            bytes -= oldest.len();
            start = start.max(next.base);
        }
        let deleted = self.delete_before(start)?;
        self.note_idle();
        Ok(deleted)
    }

    /// For a log that has fallen idle: what is noted now need not be scanned after a crash.
    pub fn note_idle(&mut self) {
        let now = (self.durable_end(), self.shared.high_watermark());
        let noted = self.checkpointed;
        if self.touched && noted.map(|n| (n.durable_end, n.high_watermark)) != Some(now) {
            self.checkpoint();
        }
    }

    /// As [`PartitionLog::roll`]; but on a full disk there must still be a way to delete.
    fn roll_if_room(&mut self) -> Result<(), StorageError> {
        match self.roll() {
            Err(error) if error.is_full() && !self.poisoned => Ok(()),
            done => done,
        }
    }

    /// Seals the active segment if it holds records, and begins the next one.
    fn roll(&mut self) -> Result<(), StorageError> {
        if self
            .active
            .as_ref()
            .is_none_or(|active| active.len <= FIRST)
        {
            return Ok(());
        }
        self.touched = true;
        self.learn_marks();
        match self.seal() {
            Ok(()) => {}
            Err(Failure::Refused(error)) => return Err(error),
            Err(Failure::Fatal(error)) => {
                self.poisoned = true;
                return Err(error);
            }
        }
        self.begin_empty()
    }

    /// Begins a segment before there is a batch for it, durably.
    pub(super) fn begin_empty(&mut self) -> Result<(), StorageError> {
        if let Err(Failure::Refused(error) | Failure::Fatal(error)) = self.begin_segment() {
            // A segment without a header holds nothing yet; the next append begins another one.
            self.active = None;
            let base = self.tail.offset;
            let mut segments = self.shared.segments.load().to_vec();
            segments.retain(|segment| segment.base < base);
            self.shared.store_segments(Arc::new(segments));
            remove_if_there(
                self.shared.place.disk.as_ref(),
                &self.shared.place.segment_path(base),
            )?;
            self.marks.roll_back(base);
            return Err(error);
        }
        self.note_marks(&[], &[]);
        self.sync().map(drop)
    }

    /// Raises the log's beginning to `start` and deletes the segments that lie wholly below it.
    fn delete_before(&mut self, start: Offset) -> Result<Deleted, StorageError> {
        let segments = self.shared.segments.load_full();
        let gone = segments
            .windows(2)
            .take_while(|pair| pair[1].base <= start)
            .count();
        let mut deleted = Deleted::default();
        if start <= self.log_start() && gone == 0 {
            return Ok(deleted);
        }
        // At least one segment must be found again, or offsets would begin anew.
        if 0 < gone && self.active.as_ref().is_some_and(|active| active.new) {
            self.sync()?;
        }
        self.touched = true;
        if 0 < gone
            && let Err(error) = self.keep_marks(&segments[gone])
        {
            // On a full disk there must still be a way to delete: the next segment writes it anew.
            if !error.is_full() {
                return Err(error);
            }
            tracing::warn!(%error, "what is known of producers cannot be written down");
        }
        // First the beginning, then the files: a crash in between leaves files that the next open
        // removes, never records that were answered as deleted.
        self.store_checkpoint(Some(start), Standing::Open, true)?;
        self.shared.raise_log_start(start);
        if gone == 0 {
            return Ok(deleted);
        }
        self.shared
            .store_segments(Arc::new(segments[gone..].to_vec()));
        self.forget_epochs_before(segments[gone].base);
        let place = &self.shared.place;
        for segment in &segments[..gone] {
            remove_if_there(place.disk.as_ref(), &segment.path)?;
            place.remove_quietly(&segment.index_path());
            place.remove_producers(segment.base);
            place.files.forget(segment.id);
            deleted.segments += 1;
            deleted.bytes += segment.len();
        }
        place.sync_dir()?;
        Ok(deleted)
    }

    /// Makes everything durable, gives reserved space back and notes that nothing is left to scan.
    ///
    /// # Errors
    /// When the disk fails; the next open then scans.
    pub fn close(mut self) -> Result<(), StorageError> {
        self.check_poison()?;
        if !self.touched {
            return Ok(());
        }
        self.sync()?;
        if let Some(active) = self.active.clone() {
            let path = &active.segment.path;
            let file = active.segment.open(&self.shared.place)?;
            file.set_len(active.len).attempt("cut", path)?;
            self.fsync(path, || file.sync_all())?;
        }
        if self.shared.segments.load().is_empty() && self.generation == 0 {
            return Ok(());
        }
        self.write_points();
        self.store_checkpoint(None, Standing::Closed, true)
    }

    /// Deletes the log with everything in its directory. Readers find nothing from then on.
    ///
    /// # Errors
    /// When something cannot be deleted; [`destroy`] can be tried again.
    pub fn destroy(self) -> Result<(), StorageError> {
        let shared = &self.shared;
        shared
            .high_watermark
            .store(self.tail.offset.0, Ordering::Release);
        shared.raise_log_start(self.tail.offset);
        let segments = shared.segments.load_full();
        shared.store_segments(Arc::default());
        for segment in segments.iter() {
            shared.place.files.forget(segment.id);
        }
        destroy(shared.place.disk.as_ref(), &shared.place.dir)
    }
}

/// Deletes a log that nobody has open; one that is not there is deleted already.
///
/// # Errors
/// When something cannot be deleted; it can be tried again.
pub fn destroy(disk: &dyn Disk, dir: &Path) -> Result<(), StorageError> {
    for dir in [&dir.join(quarantine::DIR), dir] {
        let names = match disk.list(dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            names => names.attempt("list", dir)?,
        };
        for name in names.iter().filter(|name| *name != quarantine::DIR) {
            remove_if_there(disk, &dir.join(name))?;
        }
        disk.remove_dir(dir).attempt("remove", dir)?;
        if let Some(parent) = dir.parent() {
            disk.sync_dir(parent)
                .attempt("fsync the directory", parent)?;
        }
    }
    Ok(())
}
