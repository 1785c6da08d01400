//! What was sent and read, when, and with which outcome; and the checker, which says what of it the
//! log does not keep.

use std::collections::BTreeMap;

/// What became of one send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Acknowledged at this offset.
    Acknowledged(u64),
    /// It did not happen.
    Refused,
    /// Nobody knows: it may be there once, and may come late.
    Unknown,
}

/// One send. Times are nanoseconds of one monotonic clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) producer: usize,
    pub(super) sequence: u64,
    pub(super) partition: u32,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) outcome: Outcome,
}

/// What one reader was given by one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) partition: u32,
    pub(super) from: u64,
    pub(super) values: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct History {
    pub(super) sent: Vec<Sent>,
    pub(super) seen: Vec<Seen>,
}

/// By partition, values in offset order.
pub(super) type Log = BTreeMap<u32, Vec<String>>;

impl History {
    pub(super) fn acknowledged(&self) -> usize {
        let acknowledged = |sent: &&Sent| matches!(sent.outcome, Outcome::Acknowledged(_));
        self.sent.iter().filter(acknowledged).count()
    }
}

/// The one value of this send. Some are long: batches differ in size.
pub(super) fn value(producer: usize, sequence: u64) -> String {
    let tail = ".".repeat((sequence % 97) as usize * 4);
    format!("{producer}-{sequence}{tail}")
}

/// Who sent a value; none if nobody sends such values.
fn sender(text: &str) -> Option<(usize, u64)> {
    let (producer, sequence) = text.trim_end_matches('.').split_once('-')?;
    let sender = (producer.parse().ok()?, sequence.parse().ok()?);
    (value(sender.0, sender.1) == text).then_some(sender)
}

/// The checker: every broken promise, in words. In time linear in what was sent, but for sorting.
///
/// What was acknowledged is there, once, where it was said to be. What was refused is not there;
/// what nobody knows of is there once at most. Nothing else is there. What was acknowledged before
/// another was sent stands before it. Readers were given what is there, and nothing else.
pub(super) fn broken_promises(history: &History, log: &Log) -> Vec<String> {
    let mut broken = Vec::new();
    let mut places: BTreeMap<(usize, u64), Vec<(u32, u64)>> = BTreeMap::new();
    for (partition, values) in log {
        for (offset, text) in values.iter().enumerate() {
            match sender(text) {
                Some(sender) => {
                    let places = places.entry(sender).or_default();
                    places.push((*partition, offset as u64));
                }
                None => broken.push(format!("{partition}/{offset} holds {text:?}")),
            }
        }
    }
    let mut standing: BTreeMap<(u32, u64), &Sent> = BTreeMap::new();
    for sent in &history.sent {
        let name = format!("{}-{}", sent.producer, sent.sequence);
        let places = places.remove(&(sent.producer, sent.sequence));
        let places = places.unwrap_or_default();
        match sent.outcome {
            Outcome::Acknowledged(offset) if places != [(sent.partition, offset)] => {
                broken.push(format!(
                    "{name} was acknowledged at {}/{offset} and is at {places:?}",
                    sent.partition
                ));
            }
            Outcome::Refused if !places.is_empty() => {
                broken.push(format!("{name} was refused and is at {places:?}"));
            }
            Outcome::Unknown if 1 < places.len() => {
                broken.push(format!("{name} was sent once and is at {places:?}"));
            }
            _ => {}
        }
        for place in places {
            if place.0 != sent.partition {
                broken.push(format!("{name} is in partition {}", place.0));
            }
            standing.insert(place, sent);
        }
    }
    for ((producer, sequence), places) in places {
        broken.push(format!("{producer}-{sequence} is at {places:?}, unsent"));
    }
    for partition in log.keys() {
        let here = (*partition, 0)..=(*partition, u64::MAX);
        out_of_order(standing.range(here).map(|(_, sent)| *sent), &mut broken);
    }
    misread(history, log, &mut broken);
    broken
}

/// `standing` is in the order of the log. Whoever was acknowledged before anybody in front of it
/// was sent stands too far back; an unknown outcome may have come about at any later time.
fn out_of_order<'a>(standing: impl Iterator<Item = &'a Sent>, broken: &mut Vec<String>) {
    let mut latest: Option<&Sent> = None;
    let mut before: BTreeMap<usize, u64> = BTreeMap::new();
    for sent in standing {
        let Outcome::Acknowledged(offset) = sent.outcome else {
            if latest.is_none_or(|latest| latest.from < sent.from) {
                latest = Some(sent);
            }
            continue;
        };
        if let Some(latest) = latest.filter(|latest| sent.to < latest.from) {
            broken.push(format!(
                "{}-{} stands at {offset}, behind {}-{}, which was sent later",
                sent.producer, sent.sequence, latest.producer, latest.sequence
            ));
        }
        if let Some(before) = before.insert(sent.producer, sent.sequence)
            && sent.sequence <= before
        {
            broken.push(format!(
                "{}-{} stands at {offset}, behind the same producer's {before}",
                sent.producer, sent.sequence
            ));
        }
        if latest.is_none_or(|latest| latest.from < sent.from) {
            latest = Some(sent);
        }
    }
}

fn misread(history: &History, log: &Log, broken: &mut Vec<String>) {
    for seen in &history.seen {
        let (from, values) = (seen.from as usize, &log[&seen.partition]);
        let there = values.get(from..from + seen.values.len());
        if there != Some(&seen.values[..]) {
            broken.push(format!(
                "a reader was given {} values at {}/{from} that are not there",
                seen.values.len(),
                seen.partition
            ));
        }
    }
}

/// Draws numbers, the same ones for the same seed (xorshift64*).
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// One of `0..sides`.
    pub(super) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        drawn as usize % sides
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What may happen to a log that keeps its promises: producers take turns in any order, some
    /// sends are refused, and some of those that nobody knows of come about, at once or later.
    fn good(seed: u64) -> (History, Log) {
        let mut dice = Dice::new(seed);
        let mut log: Log = (0..2).map(|partition| (partition, Vec::new())).collect();
        let mut history = History::default();
        let mut late: Vec<(u32, String)> = Vec::new();
        let mut free = [0_u64; 4];
        let mut next = [0_u64; 4];
        for step in 1..=60_u64 {
            let now = step * 100;
            let producer = dice.roll(free.len());
            if now <= free[producer] {
                continue;
            }
            let (partition, sequence) = (producer as u32 % 2, next[producer]);
            next[producer] += 1;
            let text = value(producer, sequence);
            let values = log.get_mut(&partition).unwrap();
            let outcome = match dice.roll(8) {
                0 => Outcome::Refused,
                1 => Outcome::Unknown,
                2 => {
                    values.push(text);
                    Outcome::Unknown
                }
                3 => {
                    late.push((partition, text));
                    Outcome::Unknown
                }
                _ => {
                    values.push(text);
                    Outcome::Acknowledged(values.len() as u64 - 1)
                }
            };
            let from = (now - dice.roll(100) as u64).max(free[producer] + 1);
            let to = now + dice.roll(250) as u64;
            free[producer] = to;
            history.sent.push(Sent {
                producer,
                sequence,
                partition,
                from,
                to,
                outcome,
            });
            if dice.roll(6) == 0 && !late.is_empty() {
                let (partition, text) = late.swap_remove(0);
                log.get_mut(&partition).unwrap().push(text);
            }
        }
        for (partition, values) in &log {
            let from = dice.roll(values.len() + 1);
            history.seen.push(Seen {
                partition: *partition,
                from: from as u64,
                values: values[from..].to_vec(),
            });
        }
        (history, log)
    }

    /// Any acknowledged send but the first of its partition, so that there is one in front of it.
    fn acknowledged(history: &History, dice: &mut Dice) -> (usize, u32, usize) {
        let found = history.sent.iter().enumerate();
        let found = found.filter_map(|(index, sent)| match sent.outcome {
            Outcome::Acknowledged(offset) if 0 < offset => {
                Some((index, sent.partition, offset as usize))
            }
            _ => None,
        });
        let found: Vec<_> = found.collect();
        found[dice.roll(found.len())]
    }

    type Harm = fn(&mut History, &mut Log, &mut Dice) -> bool;

    /// Ways to break a promise. Each says whether it found something to break.
    const HARMS: &[(&str, Harm)] = &[
        ("lost from the middle", |history, log, dice| {
            let (_, partition, offset) = acknowledged(history, dice);
            history.seen.clear();
            log.get_mut(&partition).unwrap().remove(offset);
            true
        }),
        ("lost at the end", |history, log, dice| {
            let (_, partition, offset) = acknowledged(history, dice);
            history.seen.clear();
            log.get_mut(&partition).unwrap().truncate(offset);
            true
        }),
        ("there twice", |history, log, dice| {
            let (_, partition, offset) = acknowledged(history, dice);
            let values = log.get_mut(&partition).unwrap();
            values.push(values[offset].clone());
            true
        }),
        ("two places exchanged", |history, log, dice| {
            let (_, partition, offset) = acknowledged(history, dice);
            history.seen.clear();
            log.get_mut(&partition).unwrap().swap(offset, offset - 1);
            true
        }),
        ("other bytes", |history, log, dice| {
            let (_, partition, offset) = acknowledged(history, dice);
            history.seen.clear();
            log.get_mut(&partition).unwrap()[offset].push('.');
            true
        }),
        ("in the other partition, too", |history, log, dice| {
            let (_, partition, offset) = acknowledged(history, dice);
            let text = log[&partition][offset].clone();
            log.get_mut(&(1 - partition)).unwrap().push(text);
            true
        }),
        ("never sent", |_, log, _| {
            log.get_mut(&0).unwrap().push(value(9, 9));
            true
        }),
        ("refused and there", |history, log, _| {
            let mut sent = history.sent.iter();
            let Some(sent) = sent.find(|s| s.outcome == Outcome::Refused) else {
                return false;
            };
            let text = value(sent.producer, sent.sequence);
            log.get_mut(&sent.partition).unwrap().push(text);
            true
        }),
        ("unknown and there twice", |history, log, _| {
            let mut unknown = history.sent.iter();
            let Some(sent) = unknown.find(|s| s.outcome == Outcome::Unknown) else {
                return false;
            };
            let text = value(sent.producer, sent.sequence);
            let values = log.get_mut(&sent.partition).unwrap();
            values.extend([text.clone(), text]);
            true
        }),
        ("acknowledged at another offset", |history, _, dice| {
            let (index, _, offset) = acknowledged(history, dice);
            history.sent[index].outcome = Outcome::Acknowledged(offset as u64 + 1);
            true
        }),
        (
            "sent long after what stands behind it was acknowledged",
            |history, _, dice| {
                let (_, partition, offset) = acknowledged(history, dice);
                // Whoever stands in front of it, whatever is known of that one.
                history.sent.iter_mut().any(|sent| {
                    let front = sent.outcome == Outcome::Acknowledged(offset as u64 - 1);
                    if front && sent.partition == partition {
                        (sent.from, sent.to) = (1 << 40, 1 << 41);
                    }
                    front && sent.partition == partition
                })
            },
        ),
        ("a producer's sends exchanged", |history, log, dice| {
            let (index, partition, _) = acknowledged(history, dice);
            let producer = history.sent[index].producer;
            let mut own = history.sent.iter_mut().filter(|sent| {
                sent.producer == producer && matches!(sent.outcome, Outcome::Acknowledged(_))
            });
            let (Some(one), Some(two)) = (own.next(), own.next()) else {
                return false;
            };
            // As if both had been under way at the same time: only the producer's order is broken.
            (one.from, two.from) = (0, 0);
            (one.to, two.to) = (1 << 40, 1 << 40);
            std::mem::swap(&mut one.outcome, &mut two.outcome);
            let (one, two) = (value(producer, one.sequence), value(producer, two.sequence));
            for text in log.get_mut(&partition).unwrap() {
                if *text == one {
                    text.clone_from(&two);
                } else if *text == two {
                    text.clone_from(&one);
                }
            }
            history.seen.clear();
            true
        }),
        ("read and not there", |history, log, _| {
            let values = &log[&0];
            history.seen.push(Seen {
                partition: 0,
                from: values.len() as u64,
                values: vec![value(0, 0)],
            });
            true
        }),
        ("read out of order", |history, log, _| {
            let mut values = log[&1].clone();
            values.reverse();
            let differs = values != log[&1];
            history.seen.push(Seen {
                partition: 1,
                from: 0,
                values,
            });
            differs
        }),
    ];

    #[test]
    fn the_checker_is_content_with_a_thousand_good_histories_and_with_none_that_is_harmed() {
        let mut harmed = BTreeMap::<&str, usize>::new();
        for seed in 0..1_000 {
            let (history, log) = good(seed);
            assert_eq!(broken_promises(&history, &log), Vec::<String>::new());
            for (name, harm) in HARMS {
                let (mut history, mut log) = (history.clone(), log.clone());
                if harm(&mut history, &mut log, &mut Dice::new(seed)) {
                    *harmed.entry(name).or_default() += 1;
                    let broken = broken_promises(&history, &log);
                    assert!(!broken.is_empty(), "seed {seed}: {name} was not seen");
                }
            }
        }
        assert_eq!(harmed.len(), HARMS.len());
        assert!(harmed.values().all(|times| 100 < *times), "{harmed:?}");
    }
}
