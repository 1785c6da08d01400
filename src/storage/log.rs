//! The log of one partition: its single writer.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::checkpoint::{self, Checkpoint};
use super::disk::{Disk, DiskFile};
use super::error::{Attempt, OpenError, StorageError};
use super::files::FileCache;
use super::index::{self, Entry};
use super::producers::Marks;
use super::reader::{HighWatermark, LogReader, Shared};
use super::recovery::{self, Recovery};
use super::segment::{FIRST, Place, Points4k, Segment};
use super::walk::Expect;
use crate::types::{Compression, LeaderEpoch, Offset, Partition, Timestamp, TopicId};

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
    /// Whether other nodes hold copies of the log. Then sealed segments are not rewritten, so that
    /// all copies have the same bytes; a start shows no more than the high watermark that was
    /// noted, because what lies beyond may not be committed; and what batches tell of durability
    /// is not believed of this disk, because another one's leader wrote it.
    pub replicated: bool,
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

impl Durable {
    /// A log that goes on in a segment that will come: opening must not go on behind a sealed one.
    pub(super) fn before_segment(tail: Expect) -> Self {
        Self {
            segment: tail.offset,
            tail,
            position: FIRST,
            max_timestamp: LONG_AGO,
        }
    }
}

/// What the last checkpoint told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) at: Timestamp,
    pub(super) durable_end: Offset,
    pub(super) high_watermark: Offset,
}

/// What a checkpoint says of the log beside its positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Open,
    Closed,
    Emptied,
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
    pub(super) checkpointed: Option<Noted>,
    /// Where each epoch begins; read from the log when somebody asks.
    pub(super) epochs: Option<Vec<(LeaderEpoch, Offset)>>,
    /// What is remembered of producers.
    pub(super) marks: Marks,
    /// The time that a caller told last.
    pub(super) now: Timestamp,
    pub(super) poisoned: bool,
    /// Something happened that the checkpoint on disk does not tell.
    pub(super) touched: bool,
}

impl PartitionLog {
    /// Opens the log in `dir`, which comes into being with the first append. Only what lies
    /// beyond the last checkpoint is scanned; afterwards everything that was found is durable and,
    /// unless the log is [replicated](LogOptions::replicated), published.
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

    /// What shows readers more while the log itself is elsewhere at work.
    pub fn publisher(&self) -> HighWatermark {
        HighWatermark::new(self.shared.clone())
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

    pub(super) fn place(&self) -> &Place {
        &self.shared.place
    }

    /// Adds the points below `below` to the index file; returns how many it has then. An index
    /// that cannot be written is rebuilt some day, so that is no error.
    pub(super) fn write_index(&self, active: &Active, below: u64, end: Option<&Entry>) -> usize {
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
        // A clock that was set back must not end it.
        let due =
            |Noted { at, .. }| self.now < at || CHECKPOINT_MS <= self.now.0.saturating_sub(at.0);
        if self.touched && self.checkpointed.is_none_or(due) {
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

    pub(super) fn mark_durable(&mut self) {
        self.durable = match &self.active {
            Some(active) => Durable {
                tail: self.tail.clone(),
                segment: active.segment.base,
                position: active.len,
                max_timestamp: active.points.max_timestamp,
            },
            None => Durable::before_segment(self.tail.clone()),
        };
    }

    /// Shows readers everything below `up_to`, but nothing beyond the log's end. Never moves back.
    pub fn publish(&mut self, up_to: Offset) {
        let up_to = up_to.min(self.tail.offset);
        let before = self
            .shared
            .high_watermark
            .fetch_max(up_to.0, Ordering::AcqRel);
        self.touched |= before < up_to.0;
    }

    /// A follower's high watermark, as its leader tells: it may go down when the leader changed
    /// (PROTOCOL H5). Held within the log; returns what it is now.
    pub fn set_high_watermark(&mut self, to: Offset) -> Offset {
        let to = to.min(self.tail.offset).max(self.log_start());
        let before = self.shared.high_watermark.swap(to.0, Ordering::AcqRel);
        self.touched |= before != to.0;
        to
    }

    /// Writes down what is durable, so that the next open has less to scan. Worth calling when a
    /// log falls idle; costs no fsync. It is only an aid, so its failure is none.
    pub fn checkpoint(&mut self) {
        self.checkpointed = Some(Noted {
            at: self.now,
            durable_end: self.durable.tail.offset,
            high_watermark: self.shared.high_watermark(),
        });
        self.write_points();
        if let Err(error) = self.store_checkpoint(None, Standing::Open, false) {
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
        standing: Standing,
        durable: bool,
    ) -> Result<(), StorageError> {
        let place = &self.shared.place;
        self.generation += 1;
        let checkpoint = Checkpoint {
            topic_id: place.topic_id,
            partition: place.partition,
            clean: standing == Standing::Closed,
            emptied: standing == Standing::Emptied,
            marked: self.marks.any,
            generation: self.generation,
            log_start: log_start.unwrap_or_else(|| self.shared.log_start()),
            durable_end: self.durable.tail.offset,
            segment: self.durable.segment,
            position: self.durable.position,
            last_crc: self.durable.tail.prev_crc.unwrap_or(0),
            epoch: self.durable.tail.epoch,
            append_time: self.durable.tail.append_time,
            max_timestamp: self.durable.max_timestamp,
            high_watermark: self.shared.high_watermark().min(self.durable.tail.offset),
        };
        checkpoint::store(place.disk.as_ref(), &place.dir, &checkpoint, durable)
            .attempt("write the checkpoint of", &place.dir)
    }
}

/// Earlier than every record.
pub(super) const LONG_AGO: Timestamp = Timestamp(i64::MIN);

pub(super) fn remove_if_there(disk: &dyn Disk, path: &Path) -> Result<(), StorageError> {
    match disk.remove(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done.attempt("remove", path),
    }
}
