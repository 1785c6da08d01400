//! The fold of a log over the marks of its batches.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::record::Mark;
use crate::types::{Offset, Timestamp, limits};

/// Batches of one producer that are known again (P2).
pub const WINDOW: usize = 16;
/// How long a producer that appends nothing is remembered, by the log's time (P4).
pub const EXPIRE_PRODUCERS_MS: i64 = 7 * 24 * 3_600_000;
/// How long an idempotency key is remembered, by the log's time (P6).
pub const EXPIRE_KEYS_MS: i64 = 24 * 3_600_000;
/// What one step of the log's time counts for at most.
const STEP_MS: i64 = 3_600_000;

/// A batch that is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) offset: Offset,
    pub(super) count: u32,
    pub(super) append_time: Timestamp,
    /// The time that was given to its records that brought none.
    pub(super) arrived: Timestamp,
}

/// One of a producer's last batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Recent {
    pub(super) base_sequence: u32,
    pub(super) fingerprint: u64,
    pub(super) place: Place,
}

/// A producer; `recent` is never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Producer {
    pub(super) epoch: u16,
    /// When it was heard last, by the age of the log.
    pub(super) at: i64,
    /// In the order of the log.
    pub(super) recent: VecDeque<Recent>,
}

impl Producer {
    /// The sequence number that comes next.
    pub(super) fn next(&self) -> u32 {
        self.recent
            .back()
            .map_or(0, |last| last.base_sequence.wrapping_add(last.place.count))
    }

    /// Takes a batch in: `epoch` is that of the batch.
    pub(super) fn take(&mut self, epoch: u16, at: i64, batch: Recent) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.recent.clear();
        }
        self.at = at;
        self.recent.push_back(batch);
        if WINDOW < self.recent.len() {
            self.recent.pop_front();
        }
    }
}

/// A request that bore an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Keyed {
    pub(super) fingerprint: [u8; 16],
    pub(super) at: i64,
    pub(super) place: Place,
}

/// The time that has passed in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Age {
    /// Append time of the newest marked batch.
    pub(super) last: Option<Timestamp>,
    /// Milliseconds since the first one, where no step counts for more than an hour.
    pub(super) ms: i64,
}

impl Age {
    /// The age once a batch is appended at `time`.
    pub(super) fn at(&self, time: Timestamp) -> i64 {
        let step = self
            .last
            .map_or(0, |last| time.0.saturating_sub(last.0).clamp(0, STEP_MS));
        self.ms.saturating_add(step)
    }
}

/// What a partition remembers of its producers: the fold of its log up to [`Producers::end`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Producers {
    pub(super) end: Offset,
    pub(super) age: Age,
    pub(super) producers: BTreeMap<u64, Producer>,
    /// Who was heard when: the last batch of each producer.
    pub(super) heard: BTreeMap<Offset, u64>,
    pub(super) keys: HashMap<[u8; 16], Keyed>,
    /// The keys in the order of the log.
    pub(super) order: VecDeque<[u8; 16]>,
}

impl Default for Producers {
    fn default() -> Self {
        Self::at(Offset::ZERO)
    }
}

impl Producers {
    /// What is known of a log that begins at `start`.
    pub fn at(start: Offset) -> Self {
        Self {
            end: start,
            age: Age { last: None, ms: 0 },
            producers: BTreeMap::new(),
            heard: BTreeMap::new(),
            keys: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Everything below is taken in.
    pub fn end(&self) -> Offset {
        self.end
    }

    /// Whether nobody is remembered.
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty() && self.keys.is_empty()
    }

    /// Number of producers and of idempotency keys that are remembered.
    pub fn len(&self) -> (usize, usize) {
        (self.producers.len(), self.keys.len())
    }

    /// Takes in that the log goes on to `end` without a mark.
    pub fn pass(&mut self, end: Offset) {
        self.end = self.end.max(end);
    }

    /// Takes in a batch of the log. One that was taken in before changes nothing.
    pub fn apply(&mut self, mark: &Mark, offset: Offset, append_time: Timestamp) {
        if offset < self.end {
            return;
        }
        self.end = Offset(offset.0.saturating_add(u64::from(mark.count)));
        let at = self.age.at(append_time);
        self.age = Age {
            last: self.age.last.max(Some(append_time)),
            ms: at,
        };
        self.expire();
        let place = Place {
            offset,
            count: mark.count,
            append_time,
            arrived: mark.arrived,
        };
        if let Some(stamp) = mark.producer {
            let batch = Recent {
                base_sequence: stamp.base_sequence,
                fingerprint: mark.fingerprint,
                place,
            };
            let producer = self.producers.entry(stamp.id).or_insert_with(|| Producer {
                epoch: stamp.epoch,
                at,
                recent: VecDeque::new(),
            });
            if let Some(last) = producer.recent.back() {
                self.heard.remove(&last.place.offset);
            }
            producer.take(stamp.epoch, at, batch);
            self.heard.insert(offset, stamp.id);
            if limits::PRODUCERS_PER_PARTITION < self.producers.len() {
                self.forget_producer();
            }
        }
        if let Some(key) = mark.key {
            let keyed = Keyed {
                fingerprint: key.fingerprint,
                at,
                place,
            };
            if self.keys.insert(key.hash, keyed).is_some() {
                // No leader that judges first lets it come to this.
                self.order.retain(|hash| *hash != key.hash);
            }
            self.order.push_back(key.hash);
            if limits::KEYS_PER_PARTITION < self.order.len() {
                self.forget_key();
            }
        }
    }

    fn expire(&mut self) {
        while let Some((_, id)) = self.heard.first_key_value()
            && let Some(oldest) = self.producers.get(id)
            && is_over(self.age.ms, oldest.at, EXPIRE_PRODUCERS_MS)
        {
            self.forget_producer();
        }
        while let Some(hash) = self.order.front()
            && let Some(oldest) = self.keys.get(hash)
            && is_over(self.age.ms, oldest.at, EXPIRE_KEYS_MS)
        {
            self.forget_key();
        }
    }

    fn forget_producer(&mut self) {
        if let Some((_, id)) = self.heard.pop_first() {
            self.producers.remove(&id);
        }
    }

    fn forget_key(&mut self) {
        if let Some(hash) = self.order.pop_front() {
            self.keys.remove(&hash);
        }
    }
}

/// Whether what was heard at `at` is forgotten at `now`.
pub(super) fn is_over(now: i64, at: i64, after: i64) -> bool {
    after < now.saturating_sub(at)
}
