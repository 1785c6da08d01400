//! The log of one replica: what it holds, and how much of that is on its disk.

/// Most entries of a log. No bounds in the catalogue let a leader append more.
const ENTRIES_MAX: usize = 4;

/// A batch: the leader's epoch and a value that no other batch has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) epoch: u8,
    pub(crate) value: u8,
}

/// A log. Offsets count from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Log {
    len: u8,
    durable: u8,
    entries: [Entry; ENTRIES_MAX],
}

impl Log {
    /// Offset after the last entry (LEO).
    pub(crate) fn end(&self) -> u8 {
        self.len
    }

    /// Everything below survives a crash (DLEO).
    pub(crate) fn durable(&self) -> u8 {
        self.durable
    }

    pub(crate) fn is_full(&self) -> bool {
        usize::from(self.len) == ENTRIES_MAX
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries[..usize::from(self.len)]
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        if let Some(free) = self.entries.get_mut(usize::from(self.len)) {
            *free = entry;
            self.len += 1;
        }
    }

    pub(crate) fn sync(&mut self) {
        self.durable = self.len;
    }

    pub(crate) fn truncate(&mut self, end: u8) {
        for gone in self
            .entries
            .iter_mut()
            .take(self.len.into())
            .skip(end.into())
        {
            *gone = Entry::default();
        }
        self.len = self.len.min(end);
        self.durable = self.durable.min(self.len);
    }

    /// What a crash leaves.
    pub(crate) fn lose_unsynced(&mut self) {
        self.truncate(self.durable);
    }

    /// The same entries up to `end`, as they travel: nothing is said about the sender's disk.
    pub(crate) fn sent(mut self, end: u8) -> Self {
        self.truncate(end);
        self.durable = 0;
        self
    }

    /// Epoch of the last entry; 0 of an empty log.
    pub(crate) fn last_epoch(&self) -> u8 {
        self.entries().last().map_or(0, |entry| entry.epoch)
    }

    /// The greatest epoch up to `epoch` and the offset after its last entry (T1).
    pub(crate) fn end_of_epoch(&self, epoch: u8) -> (u8, u8) {
        let up_to = self
            .entries()
            .iter()
            .take_while(|entry| entry.epoch <= epoch);
        let (last, count) = up_to.fold((0, 0), |(_, count), entry| (entry.epoch, count + 1));
        (last, count)
    }

    /// Whether the first entries are all that `other` has.
    pub(crate) fn starts_with(&self, other: &Self) -> bool {
        self.entries().starts_with(other.entries())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(epochs: &[u8]) -> Log {
        let mut log = Log::default();
        for (value, &epoch) in (1..).zip(epochs) {
            log.push(Entry { epoch, value });
        }
        log
    }

    #[test]
    fn the_end_of_an_epoch_is_that_of_the_greatest_not_above_it() {
        let log = log(&[1, 1, 3, 4]);
        for (asked, expected) in [
            (0, (0, 0)),
            (1, (1, 2)),
            (2, (1, 2)),
            (3, (3, 3)),
            (9, (4, 4)),
        ] {
            assert_eq!(log.end_of_epoch(asked), expected, "epoch {asked}");
        }
        assert_eq!(Log::default().end_of_epoch(5), (0, 0));
    }

    #[test]
    fn a_crash_takes_what_was_not_synced_and_nothing_else() {
        let mut synced = log(&[1, 1]);
        synced.sync();
        let mut longer = synced;
        longer.push(Entry { epoch: 2, value: 9 });
        assert!(longer.starts_with(&synced) && !synced.starts_with(&longer));
        longer.lose_unsynced();
        assert_eq!(longer, synced);
        assert_eq!((longer.sent(1), longer.sent(1).durable()), (log(&[1]), 0));
    }
}
