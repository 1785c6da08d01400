//! Promises of the producer state, over many seeds; and what breaks them is noticed.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::record::{Key, Mark, Producer};
use crate::types::{Offset, Timestamp, limits};

fn mark(id: u64, epoch: u16, base_sequence: u32, count: u32) -> Mark {
    Mark {
        producer: Some(Producer {
            id,
            epoch,
            base_sequence,
        }),
        fingerprint: u64::from(base_sequence) << 32 | u64::from(count),
        key: None,
        arrived: Timestamp(7),
        count,
    }
}

fn keyed(key: u8, fingerprint: u8) -> Mark {
    Mark {
        producer: None,
        fingerprint: 0,
        key: Some(Key {
            hash: [key; 16],
            fingerprint: [fingerprint; 16],
            arrived: Timestamp(7),
        }),
        arrived: Timestamp(7),
        count: 1,
    }
}

fn judge(state: &Producers, now: i64, mark: &Mark) -> Verdict {
    Draft::new(state, Timestamp(now)).judge(mark)
}

/// A log of marks: what the state is a fold of.
#[derive(Debug, Clone, Default)]
struct Log {
    batches: Vec<(Mark, Offset, Timestamp)>,
    end: u64,
}

impl Log {
    fn append(&mut self, mark: Mark, time: i64) -> Offset {
        let offset = Offset(self.end);
        self.batches.push((mark, offset, Timestamp(time)));
        self.end += u64::from(mark.count);
        offset
    }

    fn fold(&self, to: u64) -> Producers {
        let mut state = Producers::default();
        for (mark, offset, time) in self.batches.iter().filter(|(_, o, _)| o.0 < to) {
            state.apply(mark, *offset, *time);
        }
        state
    }
}

const MINUTE: i64 = 60_000;

#[test]
fn a_batch_is_new_once_and_then_known_with_its_place() {
    let mut state = Producers::default();
    assert_eq!(judge(&state, 0, &mark(5, 0, 0, 3)), Verdict::Fresh);
    state.apply(&mark(5, 0, 0, 3), Offset(10), Timestamp(100));
    let original = Original {
        offset: Offset(10),
        count: 3,
        append_time: Timestamp(100),
        arrived: Timestamp(7),
    };
    assert_eq!(
        judge(&state, 0, &mark(5, 0, 0, 3)),
        Verdict::Again(original)
    );
    assert_eq!(judge(&state, 0, &mark(5, 0, 3, 1)), Verdict::Fresh);
    assert_eq!(
        judge(&state, 0, &mark(5, 0, 4, 1)),
        Verdict::Early { expected: 3 }
    );
    // Another content, another length, or a beginning in the middle of what was sent.
    for other in [mark(5, 0, 0, 2), mark(5, 0, 1, 2)] {
        assert_eq!(judge(&state, 0, &other), Verdict::SequenceReused);
    }
    assert_eq!(judge(&state, 0, &mark(6, 0, 1, 1)), Verdict::Unknown);
}

#[test]
fn the_window_is_sixteen_batches_and_what_lies_before_it_is_known_to_be_old() {
    let mut state = Producers::default();
    for i in 0..40 {
        state.apply(&mark(1, 0, i, 1), Offset(u64::from(i)), Timestamp(0));
    }
    for i in 0..40 {
        let verdict = judge(&state, 0, &mark(1, 0, i, 1));
        match i {
            0..24 => assert_eq!(verdict, Verdict::TooOld, "{i}"),
            _ => assert!(
                matches!(verdict, Verdict::Again(o) if o.offset.0 == u64::from(i)),
                "{i}: {verdict:?}"
            ),
        }
    }
}

#[test]
fn a_newer_epoch_begins_at_zero_and_fences_the_older() {
    let mut state = Producers::default();
    state.apply(&mark(1, 3, 0, 5), Offset(0), Timestamp(0));
    assert_eq!(
        judge(&state, 0, &mark(1, 4, 5, 1)),
        Verdict::Early { expected: 0 }
    );
    assert_eq!(judge(&state, 0, &mark(1, 4, 0, 1)), Verdict::Fresh);
    state.apply(&mark(1, 4, 0, 1), Offset(5), Timestamp(0));
    for sequence in [0, 5, 9] {
        let verdict = judge(&state, 0, &mark(1, 3, sequence, 1));
        assert_eq!(verdict, Verdict::Fenced { epoch: 4 });
    }
}

#[test]
fn sequence_numbers_go_on_behind_their_greatest() {
    let mut state = Producers::default();
    state.apply(&mark(1, 0, u32::MAX - 1, 4), Offset(0), Timestamp(0));
    assert_eq!(judge(&state, 0, &mark(1, 0, 2, 1)), Verdict::Fresh);
    assert_eq!(
        judge(&state, 0, &mark(1, 0, 3, 1)),
        Verdict::Early { expected: 2 }
    );
    assert!(matches!(
        judge(&state, 0, &mark(1, 0, u32::MAX - 1, 4)),
        Verdict::Again(_)
    ));
}

#[test]
fn a_key_is_one_request_and_no_other() {
    let mut state = Producers::default();
    assert_eq!(judge(&state, 0, &keyed(1, 1)), Verdict::Fresh);
    state.apply(&keyed(1, 1), Offset(3), Timestamp(50));
    assert!(matches!(judge(&state, 60, &keyed(1, 1)), Verdict::Again(o) if o.offset.0 == 3));
    assert_eq!(judge(&state, 60, &keyed(1, 2)), Verdict::KeyReused);
    assert_eq!(judge(&state, 60, &keyed(2, 2)), Verdict::Fresh);
}

#[test]
fn who_is_silent_is_forgotten_by_the_logs_time_and_a_clock_that_jumps_makes_nobody_forgotten() {
    let mut state = Producers::default();
    let mut log = Log::default();
    for (mark, time) in [(mark(1, 0, 0, 1), 0), (keyed(9, 9), 0)] {
        let offset = log.append(mark, time);
        state.apply(&mark, offset, Timestamp(time));
    }
    // Ten years at once count for an hour.
    let late = 10 * 365 * 24 * 60 * MINUTE;
    assert_eq!(judge(&state, late, &mark(1, 0, 1, 1)), Verdict::Fresh);
    assert!(matches!(
        judge(&state, late, &keyed(9, 9)),
        Verdict::Again(_)
    ));
    // A log in which something is appended every half hour.
    let mut time = 0;
    let mut forgotten = [None; 2];
    for i in 0..400 {
        time += 30 * MINUTE;
        let mark_of_another = mark(2, 0, i, 1);
        let offset = log.append(mark_of_another, time);
        state.apply(&mark_of_another, offset, Timestamp(time));
        let gone = [
            judge(&state, time, &mark(1, 0, 1, 1)) == Verdict::Unknown,
            judge(&state, time, &keyed(9, 9)) == Verdict::Fresh,
        ];
        for (gone, at) in gone.into_iter().zip(&mut forgotten) {
            if gone {
                at.get_or_insert(time);
            }
        }
        assert_eq!(state, log.fold(log.end));
    }
    let half_hour = 30 * MINUTE;
    assert_eq!(
        forgotten,
        [
            Some(EXPIRE_PRODUCERS_MS + half_hour),
            Some(EXPIRE_KEYS_MS + half_hour)
        ]
    );
    assert_eq!(state.len(), (1, 0));
}

#[test]
fn what_is_remembered_is_bounded_and_the_oldest_goes_first() {
    let mut state = Producers::default();
    let producers = limits::PRODUCERS_PER_PARTITION as u64;
    for id in 1..=producers + 10 {
        state.apply(&mark(id, 0, 0, 1), Offset(id), Timestamp(0));
        // The first one is heard all the time.
        if id.is_multiple_of(100) {
            let sequence = (id / 100) as u32;
            let again = mark(1, 0, sequence, 1);
            state.end = Offset::ZERO;
            state.apply(&again, Offset(1_000_000 + id), Timestamp(0));
            state.end = Offset::ZERO;
        }
    }
    assert_eq!(state.len().0, limits::PRODUCERS_PER_PARTITION);
    assert!(state.producers.contains_key(&1) && !state.producers.contains_key(&2));

    let mut state = Producers::default();
    for i in 0..limits::KEYS_PER_PARTITION as u64 + 5 {
        let mut mark = keyed(0, 0);
        if let Some(key) = &mut mark.key {
            key.hash[..8].copy_from_slice(&i.to_le_bytes());
        }
        state.apply(&mark, Offset(i), Timestamp(0));
    }
    assert_eq!(state.len().1, limits::KEYS_PER_PARTITION);
    assert_eq!(state.keys.len(), state.order.len());
}

#[test]
fn bytes_give_the_state_back_and_damaged_ones_do_not_panic() {
    let mut rng = Rng(11);
    let mut log = Log::default();
    for i in 0..60 {
        let batch = match rng.below(3) {
            0 => keyed(i, i),
            _ => mark(rng.below(4), 0, u32::from(i), 1 + rng.below(5) as u32),
        };
        log.append(batch, i64::from(i) * MINUTE);
    }
    let state = log.fold(log.end);
    let bytes = state.to_bytes();
    assert_eq!(Producers::from_bytes(&bytes), Some(state));
    for len in 0..bytes.len() {
        assert_eq!(Producers::from_bytes(&bytes[..len]), None);
    }
    for _ in 0..2_000 {
        let mut damaged = bytes.clone();
        for _ in 0..1 + rng.below(4) {
            let at = rng.below(damaged.len() as u64) as usize;
            damaged[at] = rng.below(256) as u8;
        }
        let _ = Producers::from_bytes(&damaged);
    }
}

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// A rule that a leader leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    /// Duplicates are appended.
    Judging,
    /// What is early is appended at once.
    Order,
    /// The state is not rolled back with the log.
    RollBack,
    /// The state takes a batch in whose append fails.
    AfterTheAppend,
    /// Batches of one group do not know of one another.
    Supposing,
    /// A snapshot is taken and what follows it is not folded in.
    Replay,
}

/// What was promised and did not hold.
type Broken = String;

/// Producers that repeat and reorder what they send to a leader that crashes, is replaced by one
/// with a shorter log, and fails to append, in one seed.
fn run(seed: u64, without: Without) -> Result<(), Broken> {
    let mut rng = Rng(seed);
    let (mut log, mut state) = (Log::default(), Producers::default());
    let mut committed = 0;
    let mut snapshot = (Producers::default(), 0);
    // What each producer has sent, in order; a batch's first answer.
    let mut sent: BTreeMap<u64, Vec<Mark>> = BTreeMap::new();
    let mut answered: BTreeMap<(u64, u32), Offset> = BTreeMap::new();
    let mut now = 0;
    for _ in 0..300 {
        now += rng.below(5) as i64;
        match rng.below(12) {
            // A group of requests: new ones, old ones, ones from the future.
            0..=7 => {
                let mut draft = Draft::new(&state, Timestamp(now));
                let mut group: Vec<Mark> = Vec::new();
                for _ in 0..1 + rng.below(4) {
                    let id = 1 + rng.below(3);
                    let batches = sent.entry(id).or_default();
                    let new = batches.is_empty() || rng.below(2) == 0;
                    let mark = if new {
                        let next = batches.last().map_or(0, |last| {
                            last.producer.map_or(0, |p| p.base_sequence) + last.count
                        });
                        let mark = mark(id, 0, next, 1 + rng.below(3) as u32);
                        batches.push(mark);
                        mark
                    } else {
                        let back = rng.below(8.min(batches.len() as u64)) as usize;
                        batches[batches.len() - 1 - back]
                    };
                    let end = log.end + group.iter().map(|m| u64::from(m.count)).sum::<u64>();
                    let verdict = match without {
                        Without::Judging => Verdict::Fresh,
                        _ => draft.judge(&mark),
                    };
                    match verdict {
                        Verdict::Fresh => {}
                        Verdict::Early { .. } if without == Without::Order => {}
                        Verdict::Again(original) => {
                            let stamp = mark.producer.unwrap();
                            let key = (stamp.id, stamp.base_sequence);
                            let first = answered.get(&key);
                            if original.offset.0 < log.end
                                && first.is_some_and(|first| *first != original.offset)
                            {
                                return Err(format!("{key:?} was answered {first:?} first"));
                            }
                            continue;
                        }
                        Verdict::SequenceReused => return Err("what was sent is refused".into()),
                        _ => continue,
                    }
                    if without != Without::Supposing {
                        draft.suppose(&mark, Offset(end));
                    }
                    group.push(mark);
                }
                let fails = rng.below(6) == 0;
                for mark in group {
                    let offset = Offset(log.end);
                    if !fails {
                        log.append(mark, now);
                    }
                    if !fails || without == Without::AfterTheAppend {
                        state.apply(&mark, offset, Timestamp(now));
                    }
                }
            }
            // What is committed is answered, and stays.
            8 => {
                committed = committed.max(log.end.saturating_sub(rng.below(4)));
                while !log.batches.iter().any(|(_, o, _)| o.0 == committed) && committed < log.end {
                    committed += 1;
                }
                for (mark, offset, _) in log.batches.iter().filter(|(_, o, _)| o.0 < committed) {
                    let stamp = mark.producer.unwrap();
                    answered
                        .entry((stamp.id, stamp.base_sequence))
                        .or_insert(*offset);
                }
            }
            // Another leads whose log is shorter, but has all that is committed (T2).
            9 => {
                let kept = committed + rng.below(log.end - committed + 1);
                let kept = log.batches.iter().rfind(|(_, o, _)| o.0 <= kept);
                let end = kept
                    .map_or(committed, |(_, offset, _)| offset.0)
                    .max(committed);
                log.batches.retain(|(_, offset, _)| offset.0 < end);
                log.end = end;
                if without != Without::RollBack {
                    state = log.fold(log.end);
                }
                if end < snapshot.1 {
                    snapshot = (Producers::default(), 0);
                }
            }
            // A snapshot at the roll of a segment.
            10 => snapshot = (state.clone(), log.end),
            // A restart: the snapshot, and what follows it.
            _ => {
                state = Producers::from_bytes(&snapshot.0.to_bytes()).ok_or("unreadable")?;
                if without != Without::Replay {
                    for (mark, offset, time) in &log.batches {
                        state.apply(mark, *offset, *time);
                    }
                }
            }
        }
        check(&log)?;
    }
    // Invariant 24.
    let mut fold = log.fold(log.end);
    fold.pass(state.end());
    match state == fold {
        true => Ok(()),
        false => Err("the state is not the fold of the log".into()),
    }
}

/// Invariants 23 and 26, of the log as readers see it.
fn check(log: &Log) -> Result<(), Broken> {
    let mut seen = BTreeSet::new();
    let mut last: BTreeMap<u64, u32> = BTreeMap::new();
    for (mark, offset, _) in &log.batches {
        let stamp = mark.producer.unwrap();
        for n in 0..mark.count {
            if !seen.insert((stamp.id, stamp.base_sequence + n)) {
                return Err(format!("{stamp:?} is in the log twice, again at {offset}"));
            }
        }
        let due = last.insert(stamp.id, stamp.base_sequence + mark.count);
        if due.unwrap_or(0) != stamp.base_sequence {
            return Err(format!("{stamp:?} stands at {offset}, {due:?} was due"));
        }
    }
    Ok(())
}

#[test]
fn what_is_sent_again_and_again_in_any_order_is_in_the_log_once_and_in_order() {
    for seed in 0..400 {
        assert_eq!(run(seed, Without::Nothing), Ok(()), "seed {seed}");
    }
}

#[test]
fn each_rule_that_is_left_out_is_missed() {
    for without in [
        Without::Judging,
        Without::Order,
        Without::RollBack,
        Without::AfterTheAppend,
        Without::Supposing,
        Without::Replay,
    ] {
        let noticed = (0..400).any(|seed| run(seed, without).is_err());
        assert!(noticed, "nobody misses {without:?}");
    }
}

#[test]
fn a_state_restored_at_any_point_and_led_on_is_the_one_that_never_stopped() {
    let mut rng = Rng(3);
    let mut log = Log::default();
    for i in 0..80u8 {
        let batch = match rng.below(4) {
            0 => keyed(i, i),
            _ => mark(rng.below(3), u16::from(i / 50), u32::from(i), 2),
        };
        log.append(batch, i64::from(i) * 50 * MINUTE);
    }
    let whole = log.fold(log.end);
    for (_, from, _) in &log.batches {
        let bytes = log.fold(from.0).to_bytes();
        let mut state = Producers::from_bytes(&bytes).unwrap();
        for (mark, offset, time) in &log.batches {
            state.apply(mark, *offset, *time);
            if *from <= *offset {
                let end = offset.0 + u64::from(mark.count);
                assert_eq!(state, log.fold(end), "from {from} at {offset}");
            }
        }
        assert_eq!(state, whole);
    }
}
