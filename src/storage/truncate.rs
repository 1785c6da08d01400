//! Cutting the end off a log, and beginning it anew: what a follower does when its log differs
//! from its leader's (PROTOCOL T2).
//!
//! The checkpoint goes back first, durably: whatever is found after a crash in the middle, no
//! record that is gone counts as lost. Then the segments go, the last one first, so that there is
//! never a gap; an index goes before the records that it tells of.

use std::io::{ErrorKind, IoSlice};
use std::sync::Arc;

use super::disk::OpenMode;
use super::error::{Attempt, StorageError};
use super::index::{self, Entry};
use super::log::{Durable, PartitionLog, Standing, remove_if_there};
use super::producers::Marks;
use super::segment::{FIRST, Place, Points4k, Segment, parse_file_name};
use super::walk::{Expect, Walk};
use crate::types::Offset;

/// Where a log is cut.
struct Cut {
    /// Which segment keeps anything last.
    segment: usize,
    /// How much of it is kept.
    position: u64,
    points: Points4k,
    /// What the next batch is chained to.
    tail: Expect,
}

impl PartitionLog {
    /// Removes every batch that ends beyond `to`, which is where a batch begins unless the logs of
    /// two replicas differ in the middle of one; returns the log's end. Records that were shown may
    /// go: whether they may is the caller's to judge (PROTOCOL T3). All of it is durable when this
    /// returns (T2), and the log goes on in a new segment.
    ///
    /// Cut to where it begins or further, the log is [reset](PartitionLog::reset_to).
    ///
    /// # Errors
    /// When the disk fails. The log is then either as it was, or poisoned: opened anew it is whole,
    /// and ends anywhere between `to` and where it ended.
    pub fn truncate(&mut self, to: Offset) -> Result<Offset, StorageError> {
        self.check_poison()?;
        if self.tail.offset <= to {
            return Ok(self.tail.offset);
        }
        // A checkpoint tells of nothing that is not durable.
        self.sync()?;
        let segments = self.shared.segments.load_full();
        let cut = match self.find_cut(&segments, to)? {
            Some(cut) if self.log_start() < cut.tail.offset => cut,
            Some(cut) => return self.reset_to(cut.tail.offset).map(|()| cut.tail.offset),
            None => {
                let end = segments.first().map_or(to, |first| first.base.min(to));
                return self.reset_to(end).map(|()| end);
            }
        };
        let end = cut.tail.offset;
        self.touched = true;
        let kept = std::mem::replace(&mut self.durable, Durable::before_segment(cut.tail.clone()));
        if let Err(error) = self.store_checkpoint(None, Standing::Open, true) {
            self.durable = kept;
            return Err(error);
        }
        self.shared.cut_to(end);
        (self.active, self.tail) = (None, cut.tail.clone());
        self.forget_epochs_from(end);
        self.marks.cut();
        self.or_poison(|log| log.cut_files(&segments, &cut))?;
        if let Err(error) = self.begin_empty() {
            // The next append tries again.
            tracing::warn!(%error, "cannot begin a segment behind the cut");
        }
        self.sync()
    }

    /// Deletes everything: the log begins anew at `start`, before, within or behind what it held,
    /// and the batch that comes next is chained to nothing. For a follower whose log has nothing
    /// in common with its leader's. Durable when this returns.
    ///
    /// # Errors
    /// When the disk fails. The log is then either as it was, or poisoned: opened anew it is empty.
    pub fn reset_to(&mut self, start: Offset) -> Result<(), StorageError> {
        self.check_poison()?;
        let place = &self.shared.place;
        super::create_dirs(place.disk.as_ref(), &place.dir).attempt("create", &place.dir)?;
        let tail = Expect {
            prev_crc: (start == Offset::ZERO).then_some(0),
            ..Expect::after_gap(place.topic_id, place.partition, start)
        };
        self.touched = true;
        let kept = std::mem::replace(&mut self.durable, Durable::before_segment(tail.clone()));
        if let Err(error) = self.store_checkpoint(Some(start), Standing::Emptied, true) {
            self.durable = kept;
            return Err(error);
        }
        let segments = self.shared.segments.load_full();
        self.shared.begin_at(start);
        (self.active, self.tail) = (None, tail);
        self.epochs = None;
        self.marks = Marks::none(start);
        for segment in segments.iter() {
            self.place().files.forget(segment.id);
        }
        self.or_poison(|log| {
            remove_segments(log.place())?;
            log.note_emptied()
        })
    }

    /// Takes back that the log is being emptied, before anything is appended that would be
    /// deleted. In both slots: if one of them is damaged some day, the other must not tell of it.
    pub(super) fn note_emptied(&mut self) -> Result<(), StorageError> {
        for _ in 0..2 {
            self.store_checkpoint(None, Standing::Open, true)?;
        }
        Ok(())
    }

    fn or_poison(
        &mut self,
        change: impl FnOnce(&mut Self) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let done = change(self);
        self.poisoned |= done.is_err();
        done
    }

    /// None when no batch ends at or before `to`.
    fn find_cut(
        &self,
        segments: &[Arc<Segment>],
        mut to: Offset,
    ) -> Result<Option<Cut>, StorageError> {
        let mut after = segments.partition_point(|segment| segment.base < to);
        while let Some(at) = after.checked_sub(1) {
            let Some(segment) = segments.get(at) else {
                break;
            };
            if let Some(cut) = self.find_cut_in(segment, at, to)? {
                return Ok(Some(cut));
            }
            (to, after) = (segment.base, at);
        }
        Ok(None)
    }

    fn find_cut_in(
        &self,
        segment: &Segment,
        at: usize,
        to: Offset,
    ) -> Result<Option<Cut>, StorageError> {
        let place = self.place();
        let entries = segment.with_points(place, <[Entry]>::to_vec)?;
        let file = segment.open(place)?;
        let mut walk = Walk::new(file.as_ref(), segment.len());
        // The batch at the last point before `to` may end behind it: then from the one before.
        for upto in (0..=entries.partition_point(|entry| entry.offset < to)).rev() {
            let point = upto.checked_sub(1).and_then(|last| entries.get(last));
            if point.is_none() && !entries.is_empty() {
                break;
            }
            let mut points = Points4k {
                entries: entries.get(..upto).unwrap_or_default().to_vec(),
                ..Points4k::default()
            };
            let (mut position, mut offset) = (FIRST, segment.base);
            if let Some(point) = point {
                (position, offset) = (point.position, point.offset);
                points.max_timestamp = point.max_timestamp;
                points.last_position = Some(point.position);
            }
            let mut tail = Expect::after_gap(place.topic_id, place.partition, offset);
            let mut last = None;
            while let Some((begin, header)) = walk
                .next_intact(position, &tail)
                .attempt("read", &segment.path)?
            {
                if to < header.end_offset() {
                    break;
                }
                points.see(begin, &header);
                tail.advance(&header);
                position = begin + u64::from(header.batch_len);
                last = Some(position);
            }
            let Some(position) = last else { continue };
            if position == segment.len()
                && let Some(header) = segment.header.as_ref().filter(|h| h.recompressed)
            {
                tail.prev_crc = Some(header.last_crc);
            }
            return Ok(Some(Cut {
                segment: at,
                position,
                points,
                tail,
            }));
        }
        Ok(None)
    }

    fn cut_files(&mut self, segments: &[Arc<Segment>], cut: &Cut) -> Result<(), StorageError> {
        let place = &self.shared.place;
        let disk = place.disk.as_ref();
        let mut kept = segments.get(..=cut.segment).unwrap_or_default().to_vec();
        let shortened = kept
            .last()
            .filter(|last| cut.position < last.len() || !last.is_sealed())
            .cloned();
        let mut renewed = None;
        if let Some(old) = &shortened {
            let mut header = old.header.clone();
            if let Some(header) = header.as_mut().filter(|_| cut.position < old.len()) {
                // What is left of a rewritten segment is chained within itself, as any other is.
                (header.recompressed, header.last_crc, header.appended_bytes) = (false, 0, 0);
            }
            let segment = Arc::new(Segment::sealed(
                place.files.next_id(),
                old.path.clone(),
                old.base,
                header,
                cut.position,
                Some(cut.points.max_timestamp),
            ));
            kept.pop();
            kept.push(segment.clone());
            renewed = Some(segment);
        }
        // Readers first: none of them needs what goes.
        self.shared.store_segments(Arc::new(kept));
        let gone = segments.get(cut.segment + 1..).unwrap_or_default();
        for segment in gone.iter().rev() {
            place.files.forget(segment.id);
            remove_if_there(disk, &segment.index_path())?;
            place.remove_producers(segment.base);
            remove_if_there(disk, &segment.path)?;
            place.sync_dir()?;
        }
        let (Some(old), Some(new)) = (shortened, renewed) else {
            return Ok(());
        };
        place.files.forget(old.id);
        remove_if_there(disk, &old.index_path())?;
        place.sync_dir()?;
        let file = disk
            .open(&old.path, OpenMode::Write)
            .attempt("open", &old.path)?;
        file.set_len(cut.position).attempt("cut", &old.path)?;
        if let Some(header) = new.header.as_ref().filter(|_| new.header != old.header) {
            file.write_all_at(&mut [IoSlice::new(&header.to_bytes())], 0)
                .attempt("write", &old.path)?;
        }
        file.sync_all().attempt("fsync", &old.path)?;
        let end = Entry {
            offset: cut.tail.offset,
            position: cut.position,
            max_timestamp: cut.points.max_timestamp,
        };
        let (path, points) = (new.index_path(), &cut.points.entries);
        if new.header.is_some()
            && let Err(error) =
                index::write(disk, &path, new.crc(), new.base, 0, points, Some(&end))
        {
            tracing::warn!(path = %path.display(), %error, "cannot write the index");
        }
        Ok(())
    }
}

/// Removes every segment: what an interrupted [`PartitionLog::reset_to`] had left to do.
pub(super) fn remove_segments(place: &Place) -> Result<(), StorageError> {
    let disk = place.disk.as_ref();
    let names = match disk.list(&place.dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        names => names.attempt("list", &place.dir)?,
    };
    for name in names {
        if let Some(base) = parse_file_name(&name) {
            place.remove_producers(base);
            let path = place.dir.join(name);
            remove_if_there(disk, &path.with_extension("index"))?;
            remove_if_there(disk, &path)?;
        }
    }
    place.sync_dir()
}
