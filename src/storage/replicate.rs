//! Copying a log: what a leader reads for its followers, and what they append (PROTOCOL 2.5).

use std::io::IoSlice;

use bytes::Bytes;

use super::append::Failure;
use super::error::{AppendError, ReadError, ReplicateError};
use super::log::{PartitionLog, remove_if_there};
use super::reader::LogReader;
use super::segment::FIRST;
use crate::record::{Batch, Header, Mark};
use crate::types::{Offset, Timestamp};

/// Whole batches as they stand in a log, on their way to another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplicaBatches {
    /// The batches.
    pub batches: Bytes,
    /// Whether the first of them is not chained to the batch before it as that stands in the log:
    /// records between are missing, or the segment before was rewritten when the log had no copies.
    pub begins_chain: bool,
    /// For a log that begins with these batches: what is remembered of producers there
    /// ([`LogReader::producers_at`]).
    pub producers: Bytes,
}

/// What a range of a log comes to: equal on all replicas that hold the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    /// Where the last batch of the range ends.
    pub end: Offset,
    /// How many batches there are.
    pub batches: u64,
    /// Over all their bytes: every batch is checked against its checksums, which are hashed.
    pub hash: u64,
}

impl LogReader {
    /// Where the oldest batch begins that is still stored: at or before
    /// [`log_start`](LogReader::log_start). A replica that starts anew starts here, since only
    /// whole batches are copied.
    pub fn replica_start(&self) -> Offset {
        let segments = self.shared.segments.load();
        segments
            .first()
            .map_or_else(|| self.log_end(), |first| first.base)
    }

    /// As [`LogReader::read`], for a follower: up to the log's end, whether or not that is durable
    /// (PROTOCOL A5), and down to [`replica_start`](LogReader::replica_start). Empty only when
    /// `from` is the log's end.
    ///
    /// # Errors
    /// As [`LogReader::read`].
    pub fn read_replica(
        &self,
        from: Offset,
        max_bytes: usize,
    ) -> Result<ReplicaBatches, ReadError> {
        self.attempt(|| {
            // In this order: what lies below the end is in segments looked up later.
            let end = self.log_end();
            let segments = self.shared.segments.load_full();
            let start = segments.first().map_or(end, |first| first.base);
            if from < start {
                return Err(ReadError::Trimmed { start });
            }
            if end < from {
                return Err(ReadError::OutOfRange { end });
            }
            if end == from {
                return Ok(ReplicaBatches::default());
            }
            let next = segments.partition_point(|segment| segment.base <= from);
            let until = segments
                .get(next)
                .map_or(end, |segment| segment.base.min(end));
            let at = next.checked_sub(1);
            let Some(segment) = at.and_then(|at| segments.get(at)) else {
                return Err(ReadError::Corrupt { offset: from });
            };
            let before = at
                .and_then(|at| at.checked_sub(1))
                .and_then(|at| segments.get(at));
            let rewritten = before
                .and_then(|before| before.header.as_ref())
                .is_some_and(|header| header.recompressed);
            let after_gap = segment.header.as_ref().is_none_or(|h| h.after_gap);
            Ok(ReplicaBatches {
                batches: self.read_segment(segment, from, until, max_bytes, false)?,
                begins_chain: from == segment.base && (rewritten || after_gap),
                producers: Bytes::new(),
            })
        })
    }

    /// Checks and digests the whole batches from `from` to `to`, both held within what readers
    /// see, at most about `max_bytes` of them; [`Digest::end`] is where to go on. Blocking.
    ///
    /// # Errors
    /// As [`LogReader::read_verified`]: a damaged batch is [`ReadError::Corrupt`].
    pub fn digest(&self, from: Offset, to: Offset, max_bytes: usize) -> Result<Digest, ReadError> {
        const PIECE: usize = 1024 * 1024;
        let mut digest = Digest {
            end: from,
            batches: 0,
            hash: 0,
        };
        let mut left = max_bytes;
        while digest.end < to.min(self.high_watermark()) && 0 < left {
            let mut bytes = self.read_verified(digest.end, PIECE.min(left))?;
            if bytes.is_empty() {
                break;
            }
            while !bytes.is_empty() {
                let corrupt = ReadError::Corrupt { offset: digest.end };
                let batch = Batch::take(&mut bytes).map_err(|_| corrupt)?;
                let header = &batch.header;
                if to < header.end_offset() {
                    return Ok(digest);
                }
                let sums = u64::from(header.header_crc) << 32 | u64::from(header.body_crc);
                digest.hash = mixed(digest.hash ^ sums);
                digest.batches += 1;
                digest.end = header.end_offset();
                left = left.saturating_sub(batch.bytes().len());
            }
        }
        Ok(digest)
    }
}

/// One step of SplitMix64: checksums are linear, and what they sum up might cancel out.
fn mixed(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl PartitionLog {
    /// Appends batches as the leader has them, byte for byte, into the page cache only; all of
    /// them or none. Everything about them is checked before anything is written (PROTOCOL F3,
    /// F6): whole, sound, of this log, the very next, chained, epochs and times not falling.
    /// Returns their headers. `now`: as for [`PartitionLog::append`]; segments roll by the batches'
    /// own times, so that the same batches make the same files.
    ///
    /// # Errors
    /// Each variant says whether anything may have been kept.
    pub fn append_replicated(
        &mut self,
        from_leader: ReplicaBatches,
        now: Timestamp,
    ) -> Result<Vec<Header>, ReplicateError> {
        if self.poisoned {
            return Err(AppendError::Poisoned.into());
        }
        let begins_chain = from_leader.begins_chain && self.tail.prev_crc.is_some();
        let batches = self.checked(from_leader.batches, begins_chain)?;
        if batches.is_empty() {
            return Ok(Vec::new());
        }
        let mut marks = Vec::new();
        for (index, batch) in batches.iter().enumerate() {
            let mark = Mark::of(&batch.header, batch.bytes());
            let mark = mark.map_err(|error| ReplicateError::Damaged {
                index,
                source: error.into(),
            })?;
            marks.extend(mark.map(|mark| (index, mark)));
        }
        self.inherit_marks(&from_leader.producers);
        self.expect_marks(&marks);
        if begins_chain {
            self.touched = true;
            self.break_chain().map_err(|failure| match failure {
                Failure::Refused(error) => AppendError::NotWritten(error),
                Failure::Fatal(error) => {
                    self.poisoned = true;
                    AppendError::Failed(error)
                }
            })?;
        }
        self.all_or_none(now, |log| log.append_assigned(&batches))?;
        let headers: Vec<Header> = batches.into_iter().map(|batch| batch.header).collect();
        self.note_epochs(&headers);
        self.note_marks(&headers, &marks);
        Ok(headers)
    }

    fn checked(&self, mut bytes: Bytes, begins_chain: bool) -> Result<Vec<Batch>, ReplicateError> {
        let mut expect = self.tail.clone();
        if begins_chain {
            expect.prev_crc = None;
        }
        let mut batches = Vec::new();
        while !bytes.is_empty() {
            let index = batches.len();
            let damaged = |source| ReplicateError::Damaged { index, source };
            let batch = Batch::take(&mut bytes).map_err(damaged)?;
            Header::parse_assigned(batch.bytes()).map_err(|error| damaged(error.into()))?;
            batch.verify().map_err(damaged)?;
            let header = &batch.header;
            if (header.topic_id, header.partition) != (expect.topic_id, expect.partition) {
                return Err(ReplicateError::Foreign { index });
            }
            let (expected, found) = (expect.offset, header.base_offset);
            if found != expected {
                return Err(ReplicateError::NotNext {
                    index,
                    expected,
                    found,
                });
            }
            if !expect.is_next(header) {
                return Err(ReplicateError::Unchained {
                    index,
                    offset: found,
                });
            }
            expect.advance(header);
            batches.push(batch);
        }
        Ok(batches)
    }

    /// Lets the chain begin anew, which it can only with a segment.
    fn break_chain(&mut self) -> Result<(), Failure> {
        if let Some(active) = self.active.clone() {
            if FIRST < active.len {
                self.seal()?;
            } else {
                // Nothing is in it yet, but its header promises the old chain.
                let segment = &active.segment;
                let disk = self.place().disk.as_ref();
                remove_if_there(disk, &segment.index_path()).map_err(Failure::Refused)?;
                self.place().remove_producers(segment.base);
                remove_if_there(disk, &segment.path).map_err(Failure::Fatal)?;
                self.place().sync_dir().map_err(Failure::Fatal)?;
                self.place().files.forget(segment.id);
                let mut segments = self.shared.segments.load().to_vec();
                segments.retain(|kept| kept.id != segment.id);
                self.shared.store_segments(segments.into());
                self.active = None;
            }
        }
        self.tail.prev_crc = None;
        self.mark_durable();
        Ok(())
    }

    fn append_assigned(&mut self, batches: &[Batch]) -> Result<(), Failure> {
        let mut rest = batches;
        while let Some(first) = rest.first() {
            let len = first.bytes().len() as u64;
            let mut active = self.ready_segment(len, first.header.append_time)?;
            let position = active.len;
            let mut fit = 0;
            for batch in rest {
                let end = active.len + batch.bytes().len() as u64;
                let rolls = self.options.segment_bytes < end
                    || self.is_due(&active, batch.header.append_time);
                if active.len != position && rolls {
                    break;
                }
                self.take_in(&mut active, &batch.header);
                fit += 1;
            }
            let (now, later) = rest.split_at(fit);
            let mut slices: Vec<_> = now.iter().map(|b| IoSlice::new(b.bytes())).collect();
            self.write(active, position, &mut slices)?;
            rest = later;
        }
        Ok(())
    }
}
