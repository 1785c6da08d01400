//! The power goes after every change to a follower's disk: while it appends what its leader sent,
//! cuts its log, or begins it anew. What is found is a log that it had, never a gap and never
//! damage, and it catches up.

use std::sync::Arc;

use super::replica::{follow, stored};
use super::sim::{Crash, Faults, Rng, SimDisk};
use super::*;
use crate::record::Batch;
use crate::storage::{index, segment::SegmentHeader};

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Append so many pieces of a leader's log, from where the log ends.
    Fetch(usize, u64),
    Sync,
    Wait(i64),
    /// Cut so many percent off.
    Truncate(u64),
    /// Begin anew where the leader's log begins.
    Reset(usize),
    Restart,
    Kill,
}
use Step::*;

const DIR: &str = "/data/topic/3";

fn log_options() -> LogOptions {
    LogOptions {
        replicated: true,
        ..small_segments(9_000)
    }
}

fn open(disk: &SimDisk) -> Option<(PartitionLog, Recovery)> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let files = Arc::new(FileCache::new(2));
    let dir = Path::new(DIR);
    PartitionLog::open(disk, files, dir, TOPIC, PARTITION, log_options()).ok()
}

/// Two leaders' logs that differ from the middle on; the second begins later.
fn leaders() -> [PartitionLog; 2] {
    let mut rng = Rng(7);
    let mut first = open(&SimDisk::default()).unwrap().0;
    let mut second = open(&SimDisk::default()).unwrap().0;
    for i in 0..30 {
        let values = [vec![i as u8; rng.below(3_000) as usize], vec![b'x'; 20]];
        let epoch = LeaderEpoch(1 + i / 10);
        first
            .append(vec![batch(&values)], epoch, Timestamp(i64::from(i) * 50))
            .unwrap();
        // The leader's disk is ahead of the follower's: what it says of itself proves nothing.
        first.sync().unwrap();
        if i == 16 {
            follow(&mut first, &mut second, 1 << 20);
        }
    }
    for i in 0..12u8 {
        let values = [vec![b'a' + i; rng.below(3_000) as usize]];
        second
            .append(vec![batch(&values)], LeaderEpoch(9), Timestamp(2_000))
            .unwrap();
        second.sync().unwrap();
    }
    second.publish(second.log_end());
    second.trim(Offset(9)).unwrap();
    assert!(Offset(0) < second.reader().replica_start());
    [first, second]
}

#[derive(Debug, Default)]
struct Expected {
    /// What the log held last, in the page cache too.
    batches: Vec<Batch>,
    /// How many of them must be there.
    least: usize,
    /// Where the log may be found empty.
    emptied: Option<Offset>,
}

fn run(disk: &SimDisk, leaders: &[PartitionLog; 2], steps: &[Step]) -> Expected {
    let mut expected = Expected::default();
    let Some((mut log, _)) = open(disk) else {
        return expected;
    };
    let mut now = 0;
    for step in steps {
        let done = match *step {
            Fetch(leader, pieces) => (0..pieces).all(|_| {
                let from = leaders[leader].reader();
                let Ok(read) = from.read_replica(log.log_end(), 4_000) else {
                    panic!("the leader has nothing at {}", log.log_end());
                };
                let sent = split_batches(read.batches.clone()).unwrap();
                expected.batches.extend(sent);
                log.append_replicated(read, Timestamp(now)).is_ok()
            }),
            Sync => {
                let done = log.sync().is_ok();
                if done {
                    (expected.least, expected.emptied) = (expected.batches.len(), None);
                }
                done
            }
            Wait(ms) => {
                now += ms;
                true
            }
            Truncate(_) if expected.batches.is_empty() => true,
            Truncate(percent) => {
                let keep = expected.batches.len() * (100 - percent as usize) / 100;
                let to = expected.batches[keep].header.base_offset;
                expected.least = expected.least.min(keep);
                if keep == 0 {
                    expected.emptied = Some(to);
                }
                let done = log.truncate(to).is_ok();
                if done {
                    expected.batches.truncate(keep);
                    expected.least = keep;
                }
                done
            }
            Reset(leader) => {
                let start = leaders[leader].reader().replica_start();
                expected.emptied = Some(start);
                let done = log.reset_to(start).is_ok();
                if done {
                    (expected.batches, expected.least) = (Vec::new(), 0);
                }
                done
            }
            Restart | Kill => {
                if matches!(step, Restart) && log.close().is_err() {
                    return expected;
                }
                let Some((next, recovery)) = open(disk) else {
                    return expected;
                };
                assert_eq!((recovery.corrupt, recovery.truncated_bytes), (vec![], 0));
                assert_eq!(stored(&next), expected.batches);
                expected.least = expected.batches.len();
                log = next;
                true
            }
        };
        if !done {
            return expected;
        }
        if 0 < expected.least {
            expected.emptied = None;
        }
    }
    expected
}

/// An index lags behind its segment; entries of records that were cut off would outlive them.
fn check_indexes(disk: &SimDisk, context: &str) {
    for path in disk.files() {
        let index = path.with_extension("index");
        let bytes = disk.bytes(&path);
        if path.extension().is_some_and(|e| e == "log")
            && disk.exists(&index).unwrap()
            && let Some(header) = SegmentHeader::parse(&bytes)
        {
            let loaded = index::load(disk, &index, header.crc(), header.base_offset).unwrap();
            let last = loaded.entries.last().map_or(0, |entry| entry.position);
            assert!(
                last < bytes.len() as u64,
                "{context}: {} tells of byte {last} of {}",
                index.display(),
                bytes.len()
            );
        }
    }
}

fn check(disk: &SimDisk, leaders: &mut [PartitionLog; 2], expected: &Expected, context: &str) {
    check_indexes(disk, context);
    let (mut log, recovery) = open(disk).unwrap();
    assert_eq!(recovery.corrupt, [], "{context}: {recovery:?}");
    let found = stored(&log);
    let emptied = found.is_empty()
        && expected
            .emptied
            .is_some_and(|start| start == log.log_end() && start == log.log_start());
    assert!(
        emptied || (expected.batches.starts_with(&found) && expected.least <= found.len()),
        "{context}: {} of {} batches, at least {}",
        found.len(),
        expected.batches.len(),
        expected.least
    );
    // What is found is durable.
    let (again, recovery) = open(&disk.crash(Crash::DropAll)).unwrap();
    assert_eq!(recovery.corrupt, [], "{context}, again");
    assert_eq!(stored(&again), found, "{context}, again");

    // And the log catches up with either leader, and stays so.
    for leader in leaders {
        follow(leader, &mut log, 6_000);
        let (have, theirs) = (stored(&log), stored(leader));
        // Either may begin later than the other; from there on they are the same.
        let common = have.len().min(theirs.len());
        assert!(0 < common, "{context}: following");
        assert_eq!(
            have[have.len() - common..],
            theirs[theirs.len() - common..],
            "{context}: following"
        );
        log.sync().unwrap();
        let (after, recovery) = open(&disk.crash(Crash::DropAll)).unwrap();
        assert_eq!(recovery.corrupt, [], "{context}: following");
        assert_eq!(stored(&after), have, "{context}: following");
    }
}

fn crash_everywhere(name: &str, steps: &[Step], seed: u64) {
    let mut leaders = leaders();
    let disk = SimDisk::default();
    let expected = run(&disk, &leaders, steps);
    let total = disk.changes();
    check(&disk.crash(Crash::DropAll), &mut leaders, &expected, name);
    for at in 0..=total {
        let disk = SimDisk::default();
        disk.set_faults(Faults {
            halt_after: Some(at),
            ..Faults::default()
        });
        let expected = run(&disk, &leaders, steps);
        let salt = seed.wrapping_mul(1_000_003).wrapping_add(at);
        for mode in [
            Crash::DropAll,
            Crash::KeepAll,
            Crash::KeepPrefix(at.saturating_sub(2)),
            Crash::RandomSubset(salt),
            Crash::Tear512(salt),
        ] {
            let context = format!("{name}: {mode:?} after {at} of {total}");
            check(&disk.crash(mode), &mut leaders, &expected, &context);
        }
    }
}

#[test]
fn what_a_follower_synced_survives_and_what_its_leader_synced_proves_nothing() {
    let steps = [
        Fetch(0, 3),
        Sync,
        Fetch(0, 4),
        Wait(200),
        Sync,
        Fetch(0, 3),
        Kill,
        Fetch(0, 2),
        Sync,
        Restart,
    ];
    crash_everywhere("fetch", &steps, 1);
}

#[test]
fn t2_a_truncation_that_the_power_cuts_short_leaves_a_whole_log() {
    let steps = [
        Fetch(0, 9),
        Sync,
        Wait(200),
        Truncate(10),
        Fetch(0, 1),
        Truncate(60),
        Truncate(5),
        Fetch(0, 5),
        Sync,
        Kill,
        Truncate(50),
        Restart,
        Fetch(0, 4),
        Sync,
        Truncate(100),
        Fetch(0, 2),
        Sync,
    ];
    crash_everywhere("truncate", &steps, 2);
}

#[test]
fn a_reset_that_the_power_cuts_short_leaves_the_old_log_or_an_empty_one() {
    let steps = [
        Fetch(0, 6),
        Sync,
        Wait(200),
        Reset(1),
        Fetch(1, 3),
        Sync,
        Reset(0),
        Fetch(0, 2),
        Wait(200),
        Sync,
        Reset(1),
        Kill,
        Fetch(1, 5),
        Sync,
        Reset(1),
    ];
    crash_everywhere("reset", &steps, 3);
}

#[test]
fn a_follower_survives_anything_in_any_order() {
    let seeds = std::env::var("PILGRIMAGE_CRASH_SEEDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(2);
    for seed in 200..200 + seeds {
        let mut rng = Rng(seed);
        // A log that holds one leader's records fetches from that one.
        let mut leader = 0;
        let mut steps = vec![Fetch(0, 4)];
        for _ in 0..12 {
            let step = match rng.below(12) {
                0..=2 => Fetch(leader, 1 + rng.below(3)),
                3..=4 => Sync,
                5 => Wait(rng.below(400) as i64),
                6..=7 => Truncate(1 + rng.below(90)),
                8 => {
                    leader = rng.below(2) as usize;
                    steps.push(Reset(leader));
                    Fetch(leader, 3)
                }
                9 => Restart,
                _ => Kill,
            };
            steps.push(step);
        }
        crash_everywhere(&format!("random, seed {seed}"), &steps, seed);
    }
}
