//! Appending once what is sent again: a group of requests, judged before the log is touched.

use std::borrow::Cow;
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::handle::{Appended, Reply};
use super::job::{Answer, Waiting, Written};
use super::{AppendError, SequenceError};
use crate::producer::{Draft, Verdict};
use crate::record::{self, Header, Mark};
use crate::types::{Acks, Offset, TopicPartition};

/// How long a batch waits for the one before it (P3): HTTP/2 and several connections reorder.
pub(super) const EARLY_WAIT: Duration = Duration::from_millis(250);

/// A request that waits for the batches before its own.
pub(super) struct Early {
    pub(super) waiting: Waiting,
    /// When it has waited long enough.
    pub(super) until: Instant,
    /// What it is answered then.
    pub(super) error: SequenceError,
}

/// A request that takes part in the append, or is answered with it.
pub(super) struct Taken {
    pub(super) acks: Acks,
    pub(super) reply: Reply<Vec<Appended>, AppendError>,
    pub(super) room: OwnedSemaphorePermit,
    /// One for each of its batches: where it stands already, or none if it is appended now.
    pub(super) places: Vec<Option<Appended>>,
    /// Where its last batch ends.
    pub(super) end: Offset,
}

impl Taken {
    /// Whether nothing of it is appended now, because it was before.
    pub(super) fn is_replay(&self) -> bool {
        !self.places.is_empty() && self.places.iter().all(Option::is_some)
    }

    /// Its batches are in the log: `appended` tells of those that are new.
    pub(super) fn written(self, appended: &mut impl Iterator<Item = Appended>) -> Written {
        let replayed = self.is_replay();
        let places = self.places.into_iter();
        Written {
            acks: self.acks,
            replayed,
            end: self.end,
            appended: places
                .filter_map(|place| place.or_else(|| appended.next()))
                .collect(),
            reply: self.reply,
            _room: self.room,
        }
    }
}

/// A group that is being judged.
pub(super) struct Plan<'a> {
    name: &'a TopicPartition,
    /// Only there when the group has marked batches.
    draft: Option<Draft<'a>>,
    /// Where the log will end.
    end: Offset,
    planned: Planned,
}

/// What becomes of a group.
#[derive(Default)]
pub(super) struct Planned {
    pub(super) batches: Vec<BytesMut>,
    pub(super) bytes: usize,
    pub(super) records: u64,
    pub(super) taken: Vec<Taken>,
    pub(super) early: Vec<(Waiting, SequenceError)>,
    /// Whom the log's end did not suit: what was expected, and what it was.
    pub(super) mismatched: Vec<(Reply<Vec<Appended>, AppendError>, Offset, Offset)>,
    pub(super) answers: Vec<Answer>,
}

/// What a request's batches come to.
enum Judged {
    Take(Vec<Option<Appended>>),
    Early(SequenceError),
    Refuse(SequenceError),
}

/// Whether any batch of the group has a mark.
pub(super) fn is_marked(group: &[Waiting]) -> bool {
    let batches = group.iter().flat_map(|waiting| &waiting.request.batches);
    batches.into_iter().any(|batch| record::is_marked(batch))
}

impl<'a> Plan<'a> {
    pub(super) fn new(name: &'a TopicPartition, end: Offset, draft: Option<Draft<'a>>) -> Self {
        Self {
            name,
            draft,
            end,
            planned: Planned::default(),
        }
    }

    pub(super) fn finish(self) -> Planned {
        self.planned
    }

    /// Takes a request in, and those that waited for it.
    pub(super) fn take(&mut self, waiting: Waiting) {
        let mut next = Some(waiting);
        while let Some(waiting) = next {
            let before = self.end;
            self.take_one(waiting);
            // Whatever was appended may be what somebody waits for.
            next = match self.end == before {
                true => None,
                false => self.next_early(),
            };
        }
    }

    fn next_early(&mut self) -> Option<Waiting> {
        let ready = |(waiting, _): &(Waiting, SequenceError)| {
            !matches!(self.judge(waiting), Judged::Early(_))
        };
        let at = self.planned.early.iter().position(ready)?;
        Some(self.planned.early.remove(at).0)
    }

    fn take_one(&mut self, waiting: Waiting) {
        let places = match self.judge(&waiting) {
            Judged::Take(places) => places,
            Judged::Early(error) => return self.planned.early.push((waiting, error)),
            Judged::Refuse(reason) => {
                let partition = self.name.clone();
                let error = AppendError::Sequence { partition, reason };
                return self.planned.answers.push((waiting.reply, Err(error)));
            }
        };
        let replayed = places.iter().all(Option::is_some) && !places.is_empty();
        let expected = waiting.request.expected;
        if let Some(expected) = expected.filter(|&expected| !replayed && expected != self.end) {
            self.planned
                .mismatched
                .push((waiting.reply, expected, self.end));
            return;
        }
        let mut end = Offset::ZERO;
        for (batch, place) in waiting.request.batches.into_iter().zip(&places) {
            if let Some(known) = place {
                let known_end = known.base_offset.0.saturating_add(u64::from(known.count));
                end = end.max(Offset(known_end));
                continue;
            }
            let header = Header::parse(&batch);
            if let (Some(draft), Ok(header)) = (&mut self.draft, &header)
                && let Ok(Some(mark)) = Mark::of(header, &batch)
            {
                draft.suppose(&mark, self.end);
            }
            // What is no batch was refused when it came; the log would refuse it too.
            let count = header.map_or(0, |header| u64::from(header.last_offset_delta) + 1);
            self.end = Offset(self.end.0.saturating_add(count));
            end = self.end;
            self.planned.records += count;
            self.planned.bytes += batch.len();
            self.planned.batches.push(batch);
        }
        self.planned.taken.push(Taken {
            acks: waiting.acks,
            reply: waiting.reply,
            room: waiting.room,
            places,
            end,
        });
    }

    fn judge(&self, waiting: &Waiting) -> Judged {
        let batches = &waiting.request.batches;
        let Some(draft) = &self.draft else {
            return Judged::Take(vec![None; batches.len()]);
        };
        // The batches of one request know of one another; most requests have one.
        let mut ahead = match batches.len() {
            0 | 1 => Cow::Borrowed(draft),
            _ => Cow::Owned(draft.clone()),
        };
        let mut places = Vec::with_capacity(batches.len());
        for batch in batches {
            let mark = Header::parse(batch).and_then(|header| Mark::of(&header, batch));
            let Ok(Some(mark)) = mark else {
                places.push(None);
                continue;
            };
            let sequence = mark.producer.map_or(0, |producer| producer.base_sequence);
            let refused = match ahead.judge(&mark) {
                Verdict::Fresh => {
                    if let Cow::Owned(ahead) = &mut ahead {
                        ahead.suppose(&mark, self.end);
                    }
                    places.push(None);
                    continue;
                }
                Verdict::Again(original) => {
                    places.push(Some(original.into()));
                    continue;
                }
                Verdict::Early { expected } => {
                    let error = SequenceError::OutOfOrder { sequence, expected };
                    return Judged::Early(error);
                }
                Verdict::Fenced { epoch } => SequenceError::Fenced { epoch },
                Verdict::SequenceReused => SequenceError::Reused { sequence },
                Verdict::TooOld => SequenceError::TooOld { sequence },
                // Its beginning may be on the way.
                Verdict::Unknown => {
                    return Judged::Early(SequenceError::UnknownProducer { sequence });
                }
                Verdict::KeyReused => SequenceError::KeyReused,
            };
            return Judged::Refuse(refused);
        }
        Judged::Take(places)
    }
}
