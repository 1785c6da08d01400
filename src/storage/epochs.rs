//! Where each leader's records begin in a log (PROTOCOL T1, T2).
//!
//! Read from the batches themselves when somebody asks for the first time: epochs never fall
//! within a log, so two segments that begin in the same epoch tell everything between, and a
//! change is found by bisection. Nothing of it is stored, so nothing can contradict the log.

use super::error::{Attempt, StorageError};
use super::index::Entry;
use super::log::PartitionLog;
use super::segment::{FIRST, Place, Segment};
use super::walk::{Expect, Walk};
use crate::record::Header;
use crate::types::{LeaderEpoch, Offset};

impl PartitionLog {
    /// The epoch of the last record; none when the log never had one since it began or was
    /// [reset](PartitionLog::reset_to). A log that retention emptied remembers.
    pub fn last_epoch(&self) -> Option<LeaderEpoch> {
        let remembers = self.tail.prev_crc.is_some_and(|crc| crc != 0);
        (remembers || self.log_start() < self.log_end()).then_some(self.tail.epoch)
    }

    /// The epochs of the log and the offsets at which they begin; both grow. Blocking when asked
    /// for the first time.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn epochs(&mut self) -> Result<&[(LeaderEpoch, Offset)], StorageError> {
        if self.epochs.is_none() {
            self.epochs = Some(self.read_epochs()?);
        }
        Ok(self.epochs.as_deref().unwrap_or_default())
    }

    /// The greatest epoch of the log that is not above `epoch`, and the offset at which it ends
    /// (PROTOCOL T1); none when all are above, or there are none. Blocking when epochs are asked
    /// for the first time.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn end_offset_for_epoch(
        &mut self,
        epoch: LeaderEpoch,
    ) -> Result<Option<(LeaderEpoch, Offset)>, StorageError> {
        let log_end = self.log_end();
        let epochs = self.epochs()?;
        let after = epochs.partition_point(|(known, _)| *known <= epoch);
        let found = after.checked_sub(1).and_then(|at| epochs.get(at));
        let end = epochs.get(after).map_or(log_end, |(_, start)| *start);
        Ok(found.map(|(known, _)| (*known, end)))
    }

    /// Batches with these headers were appended.
    pub(super) fn note_epochs(&mut self, headers: &[Header]) {
        if let Some(epochs) = &mut self.epochs {
            for header in headers {
                note(epochs, header);
            }
        }
    }

    /// Everything from `end` on was cut off.
    pub(super) fn forget_epochs_from(&mut self, end: Offset) {
        if let Some(epochs) = &mut self.epochs {
            epochs.truncate(epochs.partition_point(|(_, start)| *start < end));
        }
    }

    /// Everything before `start` was deleted. The last epoch stays.
    pub(super) fn forget_epochs_before(&mut self, start: Offset) {
        if let Some(epochs) = &mut self.epochs {
            let after = epochs.partition_point(|(_, begins)| *begins <= start);
            epochs.drain(..after.saturating_sub(1));
            if let Some((_, begins)) = epochs.first_mut() {
                *begins = start.max(*begins);
            }
        }
    }

    fn read_epochs(&self) -> Result<Vec<(LeaderEpoch, Offset)>, StorageError> {
        let place = self.place();
        let segments = self.shared.segments.load();
        let mut firsts = Vec::with_capacity(segments.len());
        for segment in segments.iter() {
            firsts.push(batch_from(place, segment, FIRST, segment.base)?);
        }
        let mut epochs = Vec::new();
        for (at, (segment, first)) in segments.iter().zip(&firsts).enumerate() {
            let Some((_, first)) = first else { continue };
            note(&mut epochs, first);
            let next = firsts[at + 1..].iter().flatten().next();
            let last = next.map_or(self.tail.epoch, |(_, next)| next.leader_epoch);
            let mut known = first.leader_epoch;
            // Nothing begins within the segment when what follows it is of the same epoch.
            while known < last {
                let Some(header) = first_above(place, segment, known)? else {
                    break;
                };
                note(&mut epochs, &header);
                known = header.leader_epoch;
            }
        }
        if let Some(last) = self.last_epoch()
            && epochs.last().is_none_or(|(known, _)| *known < last)
        {
            epochs.push((last, self.log_end()));
        }
        Ok(epochs)
    }
}

fn note(epochs: &mut Vec<(LeaderEpoch, Offset)>, header: &Header) {
    // An epoch that begins at the same place has no record left.
    while epochs
        .last()
        .is_some_and(|(known, start)| *known < header.leader_epoch && header.base_offset <= *start)
    {
        epochs.pop();
    }
    if epochs
        .last()
        .is_none_or(|(known, _)| *known < header.leader_epoch)
    {
        epochs.push((header.leader_epoch, header.base_offset));
    }
}

/// The first batch at or after `position`, where one with `offset` should stand, and its position.
fn batch_from(
    place: &Place,
    segment: &Segment,
    position: u64,
    offset: Offset,
) -> Result<Option<(u64, Header)>, StorageError> {
    let file = segment.open(place)?;
    let mut walk = Walk::new(file.as_ref(), segment.len());
    let expect = Expect::after_gap(place.topic_id, place.partition, offset);
    next(&mut walk, position, &expect).attempt("read", &segment.path)
}

/// As [`Walk::next_intact`], but looks at payloads only behind damage.
pub(super) fn next(
    walk: &mut Walk<'_>,
    position: u64,
    expect: &Expect,
) -> std::io::Result<Option<(u64, Header)>> {
    match walk.header(position)? {
        Some(header) if expect.is_next(&header) => Ok(Some((position, header))),
        _ => walk.next_intact(position, expect),
    }
}

/// The first batch of `segment` whose epoch is above `epoch`, which that of its first batch is not.
fn first_above(
    place: &Place,
    segment: &Segment,
    epoch: LeaderEpoch,
) -> Result<Option<Header>, StorageError> {
    let points = segment.with_points(place, <[Entry]>::to_vec)?;
    let (mut low, mut high) = (0, points.len());
    while low < high {
        let middle = low + (high - low) / 2;
        let Some(point) = points.get(middle) else {
            break;
        };
        match batch_from(place, segment, point.position, point.offset)? {
            Some((_, header)) if header.leader_epoch <= epoch => low = middle + 1,
            _ => high = middle,
        }
    }
    let begin = low.checked_sub(1).and_then(|at| points.get(at));
    let (mut position, offset) = begin.map_or((FIRST, segment.base), |point| {
        (point.position, point.offset)
    });
    let file = segment.open(place)?;
    let mut walk = Walk::new(file.as_ref(), segment.len());
    let mut expect = Expect::after_gap(place.topic_id, place.partition, offset);
    while let Some((at, header)) =
        next(&mut walk, position, &expect).attempt("read", &segment.path)?
    {
        if epoch < header.leader_epoch {
            return Ok(Some(header));
        }
        expect.advance(&header);
        position = at + u64::from(header.batch_len);
    }
    Ok(None)
}
