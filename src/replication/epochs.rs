//! Where each leader's records begin in a log.

use crate::types::{LeaderEpoch, Offset};

/// The epochs of a log and the offsets at which they begin, derived from its batches.
///
/// Invariant: epochs and start offsets both grow strictly, except that an epoch whose records were
/// all removed from the front remains as the last entry, so that an emptied log still knows its
/// last epoch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EpochCache {
    starts: Vec<(LeaderEpoch, Offset)>,
}

impl EpochCache {
    /// Most epochs that are remembered, the newest. A follower whose last record is of an older
    /// epoch than these starts anew, or stops (T3): never does it keep what cannot be compared.
    pub const MAX: usize = 65_536;

    /// No epochs: an empty log.
    pub const fn new() -> Self {
        Self { starts: Vec::new() }
    }

    /// Records of `epoch` were appended at `start`. An epoch that is known already, or is lower
    /// than the last one, changes nothing: a log refuses such records.
    pub fn assign(&mut self, epoch: LeaderEpoch, start: Offset) {
        if self.last_epoch().is_some_and(|last| epoch <= last) {
            return;
        }
        // An entry at the same place belongs to an epoch that has no record left.
        while self.starts.last().is_some_and(|(_, at)| start <= *at) {
            self.starts.pop();
        }
        if self.starts.len() == Self::MAX {
            // Leaving out one in the middle would let its neighbour claim its records.
            self.starts.remove(0);
        }
        self.starts.push((epoch, start));
    }

    /// The epoch of the last record.
    pub fn last_epoch(&self) -> Option<LeaderEpoch> {
        self.starts.last().map(|(epoch, _)| *epoch)
    }

    /// The greatest known epoch that is not above `epoch`, and where it ends in a log that ends at
    /// `log_end` (T1). None if all epochs are above, or there are none.
    pub fn end_offset_for_epoch(
        &self,
        epoch: LeaderEpoch,
        log_end: Offset,
    ) -> Option<(LeaderEpoch, Offset)> {
        let after = self.starts.partition_point(|(known, _)| *known <= epoch);
        let (found, _) = *self.starts.get(after.checked_sub(1)?)?;
        let end = self.starts.get(after).map_or(log_end, |(_, start)| *start);
        Some((found, end))
    }

    /// The log was cut to end at `log_end`.
    pub fn truncate(&mut self, log_end: Offset) {
        while self.starts.last().is_some_and(|(_, at)| log_end <= *at) {
            self.starts.pop();
        }
    }

    /// The log now begins at `log_start`.
    pub fn trim(&mut self, log_start: Offset) {
        let after = self.starts.partition_point(|(_, at)| *at <= log_start);
        if let Some(covering) = after.checked_sub(1) {
            self.starts.drain(..covering);
            if let Some(first) = self.starts.first_mut() {
                first.1 = log_start;
            }
        }
    }

    /// The log was emptied.
    pub fn clear(&mut self) {
        self.starts.clear();
    }

    /// Epochs and where they begin, in order.
    pub fn starts(&self) -> &[(LeaderEpoch, Offset)] {
        &self.starts
    }
}
