//! Log compression: rewriting sealed segments with stronger zstd, without losing a byte of any
//! record.
//!
//! The work is done beside the log's writer, on a segment that no longer changes; only the final
//! rename is the writer's. Records keep their offsets and times. Small neighbouring batches become
//! one; those of idempotent producers stay apart. The chain is laid anew within the file, and the
//! segment's header remembers both ends of the old one.

use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::disk::{DiskFile, OpenMode};
use super::error::{Attempt, StorageError};
use super::index::{self, Entry};
use super::log::{PartitionLog, remove_if_there};
use super::reader::Shared;
use super::segment::{FIRST, Points4k, Segment, SegmentHeader};
use super::walk::{Expect, Walk};
use crate::record::{Batch, StoredRecord};
use crate::types::{Compression, Offset};

/// zstd's level for segments that are written once and read many times.
const LEVEL: i32 = 9;
/// Bytes of neighbouring batches that become one: enough for zstd to find what repeats, little
/// enough to be unpacked for the sake of one record.
const MERGE_BYTES: usize = 128 * 1024;
/// A rewrite that saves less than one part in this many is not worth its I/O.
const WORTH: u64 = 20;

/// A sealed segment that may be rewritten.
pub struct Recompression {
    shared: Arc<Shared>,
    segment: Arc<Segment>,
    end: Offset,
}

/// A rewritten segment, durable under another name, waiting for [`PartitionLog::install`].
pub struct Recompressed {
    old: Arc<Segment>,
    new: Rewritten,
}

struct Rewritten {
    path: PathBuf,
    header: SegmentHeader,
    len: u64,
    points: Points4k,
    end: Offset,
}

impl Recompression {
    /// Rewrites the segment under another name. `None`: not worth it, or the log was closed.
    /// Blocking, and long: about 30 MB a second.
    ///
    /// # Errors
    /// When the disk fails, or the segment is damaged and must stay as it is.
    pub fn run(self) -> Result<Option<Recompressed>, StorageError> {
        // Whatever comes of it, it is not tried again before the next start.
        self.segment.settled.store(true, Ordering::Relaxed);
        let path = self.segment.path.with_extension("tmp");
        let disk = self.shared.place.disk.as_ref();
        remove_if_there(disk, &path)?;
        let done = self.rewrite(path.clone());
        if !matches!(done, Ok(Some(_))) {
            self.shared.place.remove_quietly(&path);
        }
        Ok(done?.map(|new| Recompressed {
            old: self.segment,
            new,
        }))
    }

    fn damaged(&self, position: u64) -> StorageError {
        StorageError::Damaged {
            path: self.segment.path.clone(),
            position,
        }
    }

    fn expect(&self, header: &SegmentHeader) -> Expect {
        let place = &self.shared.place;
        let mut expect = Expect::after_gap(place.topic_id, place.partition, self.segment.base);
        if !header.after_gap {
            expect.prev_crc = Some(header.prev_crc);
        }
        expect
    }

    fn rewrite(&self, path: PathBuf) -> Result<Option<Rewritten>, StorageError> {
        let Some(mut header) = self.segment.header.clone() else {
            return Err(self.damaged(0));
        };
        let place = &self.shared.place;
        let from = self.segment.open(place)?;
        let to = place
            .disk
            .open(&path, OpenMode::Create)
            .attempt("create", &path)?;
        let mut walk = Walk::new(from.as_ref(), self.segment.len());
        let mut expect = self.expect(&header);
        let mut points = Points4k::default();
        let (mut position, mut len, mut chain) = (FIRST, FIRST, header.prev_crc);
        let mut run: Vec<Batch> = Vec::new();
        while expect.offset < self.end || !run.is_empty() {
            if self.shared.ended.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let next = if expect.offset < self.end {
                let next = self.batch_at(&mut walk, position, &expect)?;
                position += next.bytes().len() as u64;
                expect.advance(&next.header);
                Some(next)
            } else {
                None
            };
            let full = MERGE_BYTES
                <= run
                    .iter()
                    .map(|batch| batch.header.unpacked_len as usize)
                    .sum();
            let joins = next
                .as_ref()
                .zip(run.last())
                .is_some_and(|(next, last)| last.may_merge(next));
            if !run.is_empty() && (full || !joins) {
                let merged = Batch::merged(&run, LEVEL).map_err(|_| self.damaged(position))?;
                let written = merged.as_ref().map_or(run.as_slice(), std::slice::from_ref);
                if !same_records(&run, written) {
                    return Err(self.damaged(position));
                }
                for batch in written {
                    let batch = batch.rechained(chain);
                    to.write_all_at(&mut [IoSlice::new(batch.bytes())], len)
                        .attempt("write", &path)?;
                    points.see(len, &batch.header);
                    len += batch.bytes().len() as u64;
                    chain = batch.header.header_crc;
                }
                run.clear();
            }
            run.extend(next);
        }
        if self.segment.len() - self.segment.len() / WORTH < len {
            return Ok(None);
        }
        header.recompressed = true;
        header.appended_bytes = self.segment.len();
        header.last_crc = expect.prev_crc.unwrap_or(0);
        to.write_all_at(&mut [IoSlice::new(&header.to_bytes())], 0)
            .attempt("write", &path)?;
        to.sync_all().attempt("fsync", &path)?;
        to.drop_cache(0);
        let new = Rewritten {
            path,
            header,
            len,
            points,
            end: self.end,
        };
        self.read_back(to.as_ref(), &new)?;
        Ok(Some(new))
    }

    fn batch_at(
        &self,
        walk: &mut Walk<'_>,
        position: u64,
        expect: &Expect,
    ) -> Result<Batch, StorageError> {
        let path = &self.segment.path;
        let header = walk
            .header(position)
            .attempt("read", path)?
            .filter(|header| expect.is_next(header))
            .ok_or_else(|| self.damaged(position))?;
        let bytes = walk
            .bytes(position, header.batch_len as usize)
            .attempt("read", path)?;
        let batch =
            Batch::take(&mut Bytes::copy_from_slice(bytes)).map_err(|_| self.damaged(position))?;
        batch.verify().map_err(|_| self.damaged(position))?;
        Ok(batch)
    }

    /// The last look before the old bytes go: what the medium holds is whole from end to end.
    fn read_back(&self, file: &dyn DiskFile, new: &Rewritten) -> Result<(), StorageError> {
        let mut walk = Walk::new(file, new.len);
        let mut expect = self.expect(&new.header);
        let mut position = FIRST;
        while position < new.len {
            let found = walk
                .expected(position, &expect)
                .attempt("read", &new.path)?;
            let Some(header) = found else {
                return Err(StorageError::Damaged {
                    path: new.path.clone(),
                    position,
                });
            };
            expect.advance(&header);
            position += u64::from(header.batch_len);
        }
        if expect.offset != new.end {
            return Err(StorageError::Damaged {
                path: new.path.clone(),
                position,
            });
        }
        Ok(())
    }
}

/// Whether the rewritten batches hold the same records at the same places and times, and say the
/// same of where they belong.
fn same_records(old: &[Batch], new: &[Batch]) -> bool {
    let records = |batches: &[Batch]| -> Option<Vec<StoredRecord>> {
        let mut records = Vec::new();
        for batch in batches {
            batch.verify().ok()?;
            for record in batch.unpack().ok()?.records() {
                records.push(record.ok()?.to_stored());
            }
        }
        Some(records)
    };
    let belongs = |batches: &[Batch]| {
        let (first, last) = (&batches.first()?.header, &batches.last()?.header);
        Some((
            (first.topic_id, first.partition, first.leader_epoch),
            (first.base_offset, last.end_offset(), last.append_time),
            (first.producer_id, first.producer_epoch, first.base_sequence),
        ))
    };
    let (before, after) = (records(old), records(new));
    before.is_some() && before == after && belongs(old) == belongs(new)
}

impl PartitionLog {
    /// The oldest sealed segment of a log with zstd compression that has not been rewritten; none
    /// when the log has copies elsewhere, which would no longer be alike. The work itself needs no
    /// hold on the log.
    pub fn recompression_candidate(&self) -> Option<Recompression> {
        if self.options.compression != Compression::Zstd || self.options.replicated {
            return None;
        }
        let high_watermark = self.shared.high_watermark();
        let segments = self.shared.segments.load();
        // Not the last one: nothing must be appended to a rewritten segment.
        segments.windows(2).find_map(|pair| {
            let [segment, next] = pair else { return None };
            let fit = segment.is_sealed()
                && segment
                    .header
                    .as_ref()
                    .is_some_and(|header| !header.recompressed)
                && !segment.settled.load(Ordering::Relaxed)
                && next.base <= high_watermark;
            fit.then(|| Recompression {
                shared: self.shared.clone(),
                segment: segment.clone(),
                end: next.base,
            })
        })
    }

    /// Puts a rewritten segment in the place of the old one; returns the bytes saved, 0 if the
    /// segment has been deleted, or the log been given copies elsewhere, meanwhile. Readers of the old file can go on.
    ///
    /// # Errors
    /// When the disk fails; one of the two files is then in place, and both are whole.
    pub fn install(&mut self, done: Recompressed) -> Result<u64, StorageError> {
        let Recompressed { old, new } = done;
        let place = &self.shared.place;
        let segments = self.shared.segments.load();
        if self.options.replicated || !segments.iter().any(|segment| segment.id == old.id) {
            remove_if_there(place.disk.as_ref(), &new.path)?;
            return Ok(0);
        }
        let header = new.header;
        let crc = header.crc();
        let segment = Segment::sealed(
            place.files.next_id(),
            old.path.clone(),
            old.base,
            Some(header),
            new.len,
            Some(new.points.max_timestamp),
        );
        let renamed = self.shared.replace_file(Arc::new(segment), || {
            place
                .disk
                .rename(&new.path, &old.path)
                .attempt("rename", &new.path)
        });
        if renamed.is_err() {
            place.remove_quietly(&new.path);
        }
        renamed?;
        place.files.forget(old.id);
        place.sync_dir()?;
        let mark = Entry {
            offset: new.end,
            position: new.len,
            max_timestamp: new.points.max_timestamp,
        };
        let (disk, path) = (place.disk.as_ref(), old.index_path());
        let points = &new.points.entries;
        if let Err(error) = index::write(disk, &path, crc, old.base, 0, points, Some(&mark)) {
            tracing::warn!(path = %path.display(), %error, "cannot write the index");
        }
        Ok(old.len().saturating_sub(new.len))
    }
}

impl Drop for PartitionLog {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::tests::sim::SimDisk;
    use crate::storage::tests::{EPOCH, batch, open_on, small_segments};
    use crate::types::Timestamp;

    #[test]
    fn a_rewrite_ends_when_its_log_is_closed_and_leaves_nothing() {
        let disk = SimDisk::default();
        let options = crate::storage::LogOptions {
            compression: Compression::Zstd,
            ..small_segments(4096)
        };
        let dir = std::path::Path::new("/log");
        let (mut log, _) = open_on(Arc::new(disk.clone()), dir, options);
        for _ in 0..20 {
            let value = "a line that repeats itself ".repeat(20);
            log.append(vec![batch(&[value])], EPOCH, Timestamp(0))
                .unwrap();
        }
        log.sync().unwrap();
        log.publish(log.log_end());
        let candidate = log.recompression_candidate().unwrap();
        log.close().unwrap();
        let before = disk.files();
        assert!(candidate.run().unwrap().is_none());
        assert_eq!(disk.files(), before);
    }
}
