//! Any sequence of operations on two copies of a log that follow each other, against two lists.

use proptest::collection::vec;
use proptest::prelude::*;

use super::replica::{follow, open, replicated, stored};
use super::sim::SimDisk;
use super::*;
use crate::record::Batch;

#[derive(Debug, Clone)]
enum Op {
    /// The log at hand appends as leader, maybe of a new epoch.
    Append(Vec<Vec<usize>>, bool),
    /// It follows the other one.
    Follow(usize),
    Truncate(u64),
    Reset(u64),
    Trim(u64),
    Reopen(bool),
    Sync,
    /// The other log is at hand.
    Turn,
}

fn op() -> impl Strategy<Value = Op> {
    let batch = vec(prop_oneof![0..60usize, 0..3_000usize], 1..4);
    prop_oneof![
        5 => (vec(batch, 1..4), any::<bool>()).prop_map(|(b, new)| Op::Append(b, new)),
        3 => (1..8_000usize).prop_map(Op::Follow),
        2 => any::<u64>().prop_map(Op::Truncate),
        1 => any::<u64>().prop_map(Op::Reset),
        1 => any::<u64>().prop_map(Op::Trim),
        1 => any::<bool>().prop_map(Op::Reopen),
        1 => Just(Op::Sync),
        3 => Just(Op::Turn),
    ]
}

fn cases() -> u32 {
    std::env::var("PILGRIMAGE_MODEL_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(24)
}

/// A log and what it should hold.
struct Side {
    disk: SimDisk,
    log: PartitionLog,
    batches: Vec<Batch>,
    start: u64,
    end: u64,
}

impl Side {
    fn epochs(&self) -> Vec<(LeaderEpoch, Offset)> {
        let mut epochs: Vec<(LeaderEpoch, Offset)> = Vec::new();
        for Batch { header, .. } in &self.batches {
            if epochs
                .last()
                .is_none_or(|last| last.0 < header.leader_epoch)
            {
                epochs.push((header.leader_epoch, header.base_offset));
            }
        }
        epochs
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn two_replicas_behave_like_two_lists(ops in vec(op(), 1..40)) {
        let side = || {
            let disk = SimDisk::default();
            let (log, _) = open(&disk, replicated(4_096));
            Side { disk, log, batches: Vec::new(), start: 0, end: 0 }
        };
        let (mut at_hand, mut other) = (side(), side());
        let (mut epoch, mut made) = (1, 0);
        for op in ops {
            let Side { disk, log, batches, start, end } = &mut at_hand;
            match op {
                Op::Append(group, new) => {
                    epoch += u32::from(new);
                    // An epoch has one leader: records of the other log's are not made here.
                    let theirs = other.log.last_epoch().unwrap_or_default();
                    epoch += u32::from(theirs == LeaderEpoch(epoch));
                    let group: Vec<_> = group
                        .into_iter()
                        .map(|sizes| {
                            made += 1;
                            let values: Vec<_> = sizes.iter().map(|n| vec![made as u8; *n]).collect();
                            batch(&values)
                        })
                        .collect();
                    let headers = log.append(group.clone(), LeaderEpoch(epoch), Timestamp(made)).unwrap();
                    prop_assert_eq!(headers[0].base_offset.0, *end);
                    let written = log.reader().read_replica(Offset(*end), 1 << 20).unwrap();
                    let mut written = split_batches(written.batches).unwrap();
                    while written.len() < headers.len() {
                        let next = written.last().unwrap().header.end_offset();
                        let more = log.reader().read_replica(next, 1 << 20).unwrap();
                        written.extend(split_batches(more.batches).unwrap());
                    }
                    for ((written, sent), header) in written.iter().zip(&group).zip(&headers) {
                        prop_assert_eq!(&written.bytes()[76..], &sent[76..]);
                        prop_assert_eq!(&written.header, header);
                    }
                    *end = headers.last().unwrap().end_offset().0;
                    batches.extend(written);
                }
                Op::Follow(piece) => {
                    follow(&mut other.log, log, piece);
                    prop_assert_eq!(log.log_end().0, other.end);
                    // What the leader has deleted may still be here, but nothing else.
                    let have = stored(log);
                    let theirs = stored(&other.log);
                    let common = have.len().min(theirs.len());
                    prop_assert_eq!(&have[have.len() - common..], &theirs[theirs.len() - common..]);
                    (*batches, *end) = (have, other.end);
                    *start = log.log_start().0;
                }
                Op::Truncate(to) => {
                    let to = to % (*end + 2);
                    let kept = batches.iter().take_while(|b| b.header.end_offset().0 <= to).count();
                    let first = batches.first().map_or(*end, |b| b.header.base_offset.0);
                    let want = match batches[..kept].last() {
                        _ if *end <= to => *end,
                        Some(last) => last.header.end_offset().0,
                        None => to.min(first),
                    };
                    prop_assert_eq!(log.truncate(Offset(to)).unwrap().0, want);
                    if want < *end || want <= *start {
                        batches.truncate(kept);
                    }
                    if want <= *start && want < *end {
                        (*batches, *start) = (Vec::new(), want);
                    }
                    *end = want;
                    prop_assert_eq!(log.durable_end().0 .min(want), log.durable_end().0);
                }
                Op::Reset(to) => {
                    let to = to % (*end + 9);
                    log.reset_to(Offset(to)).unwrap();
                    (*batches, *start, *end) = (Vec::new(), to, to);
                }
                Op::Trim(to) => {
                    log.sync().unwrap();
                    log.set_high_watermark(Offset(*end));
                    *start = log.trim(Offset(to % (*end + 1))).unwrap().0;
                    let from = log.reader().replica_start();
                    batches.retain(|b| from <= b.header.base_offset);
                }
                Op::Reopen(close) => {
                    log.sync().unwrap();
                    let (before, known) = (log.epochs().unwrap().to_vec(), log.last_epoch());
                    let shown = log.reader().high_watermark();
                    if close {
                        let (fresh, _) = open(&SimDisk::default(), replicated(4_096));
                        std::mem::replace(log, fresh).close().unwrap();
                    }
                    let (next, recovery) = open(disk, replicated(4_096));
                    prop_assert_eq!(recovery.corrupt, vec![]);
                    prop_assert_eq!(recovery.truncated_bytes, 0);
                    *log = next;
                    prop_assert_eq!(log.last_epoch(), known);
                    prop_assert_eq!(log.epochs().unwrap(), &before[..]);
                    let shows = log.reader().high_watermark();
                    prop_assert!(shows <= shown.max(log.log_start()));
                    prop_assert!(!close || shows == shown);
                }
                Op::Sync => {
                    prop_assert_eq!(log.sync().unwrap().0, *end);
                }
                Op::Turn => std::mem::swap(&mut at_hand, &mut other),
            }
            let Side { log, batches, start, end, .. } = &mut at_hand;
            prop_assert_eq!((log.log_start().0, log.log_end().0), (*start, *end));
            prop_assert_eq!(&stored(log), batches);
            let shown = log.reader().high_watermark();
            prop_assert!(log.log_start() <= shown && shown <= log.log_end());
            if !at_hand.batches.is_empty() {
                let want = at_hand.epochs();
                prop_assert_eq!(at_hand.log.epochs().unwrap(), &want[..]);
                prop_assert_eq!(at_hand.log.last_epoch(), want.last().map(|last| last.0));
            }
        }
    }
}
