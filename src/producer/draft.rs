//! What may be appended: judged before the log is touched.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::state::{
    EXPIRE_KEYS_MS, EXPIRE_PRODUCERS_MS, Keyed, Place, Producer, Producers, Recent, is_over,
};
use crate::record::Mark;
use crate::types::{Offset, Timestamp};

/// Where a batch stands that is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Original {
    /// Offset of its first record.
    pub offset: Offset,
    /// How many records it has.
    pub count: u32,
    /// When it was appended.
    pub append_time: Timestamp,
    /// The time that was given to its records that brought none.
    pub arrived: Timestamp,
}

impl From<Place> for Original {
    fn from(place: Place) -> Self {
        Self {
            offset: place.offset,
            count: place.count,
            append_time: place.append_time,
            arrived: place.arrived,
        }
    }
}

/// What a batch is (P3, P4, P6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// New: to be appended.
    Fresh,
    /// In the log already: to be answered as the first time, once that is committed.
    Again(Original),
    /// What comes before it has not arrived.
    Early {
        /// The sequence number that is due.
        expected: u32,
    },
    /// The producer has begun a newer epoch.
    Fenced {
        /// That epoch.
        epoch: u16,
    },
    /// Something else was sent under this sequence number.
    SequenceReused,
    /// In the log already, too long ago to say where.
    TooOld,
    /// The producer is not known, or not any more, and this is not its beginning.
    Unknown,
    /// Something else was sent under this idempotency key.
    KeyReused,
}

/// Looks ahead over batches that are about to be appended.
#[derive(Debug, Clone)]
pub struct Draft<'a> {
    base: &'a Producers,
    now: Timestamp,
    age: i64,
    producers: BTreeMap<u64, Producer>,
    keys: HashMap<[u8; 16], Keyed>,
}

impl<'a> Draft<'a> {
    /// Judges what is appended to the log behind `base`, at `now` or later.
    pub fn new(base: &'a Producers, now: Timestamp) -> Self {
        Self {
            base,
            now,
            age: base.age.at(now),
            producers: BTreeMap::new(),
            keys: HashMap::new(),
        }
    }

    /// What the batch with this mark is.
    pub fn judge(&self, mark: &Mark) -> Verdict {
        if let Some(key) = &mark.key
            && let Some(known) = self.key(&key.hash)
        {
            return match known.fingerprint == key.fingerprint {
                true => Verdict::Again(known.place.into()),
                false => Verdict::KeyReused,
            };
        }
        let Some(stamp) = &mark.producer else {
            return Verdict::Fresh;
        };
        let begins = stamp.base_sequence == 0;
        let known = match self.producer(stamp.id) {
            None if begins => return Verdict::Fresh,
            None => return Verdict::Unknown,
            Some(known) => known,
        };
        if stamp.epoch < known.epoch {
            return Verdict::Fenced { epoch: known.epoch };
        }
        if known.epoch < stamp.epoch {
            return match begins {
                true => Verdict::Fresh,
                false => Verdict::Early { expected: 0 },
            };
        }
        let expected = known.next();
        let ahead = stamp.base_sequence.wrapping_sub(expected);
        if ahead == 0 {
            return Verdict::Fresh;
        }
        // Sequence numbers wrap around: the nearer half of the circle lies ahead.
        if ahead <= u32::MAX / 2 {
            return Verdict::Early { expected };
        }
        let same_place = known
            .recent
            .iter()
            .find(|recent| recent.base_sequence == stamp.base_sequence);
        match same_place {
            Some(recent)
                if (recent.fingerprint, recent.place.count) == (mark.fingerprint, mark.count) =>
            {
                Verdict::Again(recent.place.into())
            }
            Some(_) => Verdict::SequenceReused,
            None => {
                let oldest = known.recent.front().map_or(expected, |r| r.base_sequence);
                match oldest.wrapping_sub(stamp.base_sequence) <= u32::MAX / 2 {
                    true => Verdict::TooOld,
                    false => Verdict::SequenceReused,
                }
            }
        }
    }

    /// Supposes that a batch that was judged [`Verdict::Fresh`] is appended at `offset`.
    pub fn suppose(&mut self, mark: &Mark, offset: Offset) {
        let place = Place {
            offset,
            count: mark.count,
            append_time: self.now,
            arrived: mark.arrived,
        };
        if let Some(stamp) = &mark.producer {
            let mut producer = self.producer(stamp.id).cloned().unwrap_or(Producer {
                epoch: stamp.epoch,
                at: self.age,
                recent: VecDeque::new(),
            });
            let batch = Recent {
                base_sequence: stamp.base_sequence,
                fingerprint: mark.fingerprint,
                place,
            };
            producer.take(stamp.epoch, self.age, batch);
            self.producers.insert(stamp.id, producer);
        }
        if let Some(key) = &mark.key {
            let keyed = Keyed {
                fingerprint: key.fingerprint,
                at: self.age,
                place,
            };
            self.keys.insert(key.hash, keyed);
        }
    }

    fn producer(&self, id: u64) -> Option<&Producer> {
        let known = self.producers.get(&id);
        known
            .or_else(|| self.base.producers.get(&id))
            .filter(|known| !is_over(self.age, known.at, EXPIRE_PRODUCERS_MS))
    }

    fn key(&self, hash: &[u8; 16]) -> Option<&Keyed> {
        let known = self.keys.get(hash);
        known
            .or_else(|| self.base.keys.get(hash))
            .filter(|known| !is_over(self.age, known.at, EXPIRE_KEYS_MS))
    }
}
