//! The power goes after every single change to the disk, in several ways: what was synced is
//! there, whole, once and in order, and the log goes on.

use std::sync::Arc;

use super::sim::{Crash, Faults, Rng, SimDisk};
use super::*;

/// What a workload does, one after the other.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// So many batches of one to three records of up to so many bytes.
    Append(u64, u64),
    /// Sync and publish.
    Sync,
    /// Let time pass.
    Wait(i64),
    /// Trim to so many percent of the log.
    Trim(u64),
    Retain,
    Recompress,
    /// Close properly and open again.
    Restart,
    /// Open again without a close: the process died, the page cache lived.
    Kill,
}
use Step::*;

/// What may be expected of the log.
#[derive(Debug, Default, Clone)]
struct Expected {
    /// Every record that was ever handed to `append`, by offset.
    records: Vec<Bytes>,
    /// Records that must be there.
    synced: u64,
    /// Where the log may begin.
    start: (u64, u64),
}

const DIR: &str = "/data/topic/3";

fn log_options() -> LogOptions {
    LogOptions {
        segment_ms: 10_000,
        retention_bytes: Some(12_000),
        compression: Compression::Zstd,
        ..small_segments(3_000)
    }
}

fn value(rng: &mut Rng, offset: usize, max: u64) -> Vec<u8> {
    let len = rng.below(max) as usize;
    let mut value = format!("record {offset} ").into_bytes();
    // Half of them compressible.
    let noise = rng.below(2) == 1;
    value.extend((0..len).map(|i| {
        if noise {
            rng.next() as u8
        } else {
            b'a' + (i % 7) as u8
        }
    }));
    value
}

/// Runs until the end or until the disk halts.
fn run(disk: &SimDisk, steps: &[Step], seed: u64) -> Expected {
    let mut rng = Rng(seed);
    let mut expected = Expected::default();
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let dir = Path::new(DIR);
    let open = || {
        let files = Arc::new(FileCache::new(2));
        PartitionLog::open(disk.clone(), files, dir, TOPIC, PARTITION, log_options())
    };
    let mut now = 1_000;
    let Ok((mut log, _)) = open() else {
        return expected;
    };
    for step in steps {
        let done = match *step {
            Append(batches, max) => {
                let mut group = Vec::new();
                for _ in 0..batches {
                    let values: Vec<Vec<u8>> = (0..1 + rng.below(3))
                        .map(|_| {
                            let value = value(&mut rng, expected.records.len(), max);
                            expected.records.push(value.clone().into());
                            value
                        })
                        .collect();
                    group.push(batch_at(&values, now));
                }
                log.append(group, EPOCH, Timestamp(now)).is_ok()
            }
            Sync => match log.sync() {
                Ok(end) => {
                    assert_eq!(end, log.log_end());
                    log.publish(end);
                    expected.synced = end.0;
                    true
                }
                Err(_) => false,
            },
            Wait(ms) => {
                now += ms;
                true
            }
            Trim(percent) => {
                let to = log.reader().high_watermark().0 * percent / 100;
                expected.start.1 = expected.start.1.max(to);
                let done = log.trim(Offset(to));
                expected.start.0 = expected
                    .start
                    .0
                    .max(done.as_ref().map_or(0, |start| start.0));
                done.is_ok()
            }
            Retain => {
                expected.start.1 = expected.records.len() as u64;
                let done = log.enforce_retention(Timestamp(now)).is_ok();
                if done {
                    expected.start = (log.log_start().0, log.log_start().0);
                }
                done
            }
            Recompress => match log.recompression_candidate().map(|work| work.run()) {
                Some(Ok(Some(done))) => log.install(done).is_ok(),
                Some(Err(_)) => false,
                Some(Ok(None)) | None => true,
            },
            Restart | Kill => {
                if matches!(step, Restart) && log.close().is_err() {
                    return expected;
                }
                match open() {
                    Ok((next, recovery)) => {
                        assert_eq!(recovery.corrupt, []);
                        assert_eq!(recovery.truncated_bytes, 0, "nothing was torn");
                        assert_eq!(next.log_end().0, expected.records.len() as u64);
                        // What is found when a log is opened is made durable before it is shown.
                        expected.synced = next.log_end().0;
                        log = next;
                        true
                    }
                    Err(_) => return expected,
                }
            }
        };
        if !done {
            return expected;
        }
    }
    expected
}

/// Opens what a crash left and checks every promise.
fn check(disk: &SimDisk, expected: &Expected, context: &str) {
    let (mut log, recovery) = open_on(Arc::new(disk.clone()), Path::new(DIR), log_options());
    assert_eq!(recovery.corrupt, [], "{context}: {recovery:?}");
    let (start, end) = (log.log_start().0, log.log_end().0);
    assert!(
        expected.synced <= end,
        "{context}: {end} of {} synced records",
        expected.synced
    );
    assert!(
        end <= expected.records.len() as u64,
        "{context}: {end} records were never written"
    );
    let (least, most) = expected.start;
    assert!(
        least <= start && start <= most,
        "{context}: begins at {start}, not {least}..={most}"
    );
    let want = |end: u64| {
        (start..end)
            .map(|o| (o, expected.records[o as usize].clone()))
            .collect::<Vec<_>>()
    };
    let trimmed = |found: Vec<(u64, Bytes)>| {
        found
            .into_iter()
            .filter(|(offset, _)| start <= *offset)
            .collect::<Vec<_>>()
    };
    assert_eq!(trimmed(read_all(&log.reader())), want(end), "{context}");

    // What is shown now has been made durable: it survives the next crash.
    let again = disk.crash(Crash::DropAll);
    let (second, recovery) = open_on(Arc::new(again), Path::new(DIR), log_options());
    assert_eq!(recovery.corrupt, [], "{context}, again: {recovery:?}");
    assert_eq!(second.log_end().0, end, "{context}, again");
    assert_eq!(
        trimmed(read_all(&second.reader())),
        want(end),
        "{context}, again"
    );

    // And the log goes on, with nothing left behind the tail.
    log.append(vec![batch(&["goes on"])], EPOCH, Timestamp(1 << 40))
        .unwrap();
    log.sync().unwrap();
    let disk = disk.crash(Crash::KeepAll);
    let (log, recovery) = open_on(Arc::new(disk.clone()), Path::new(DIR), log_options());
    let found = Recovery {
        log_end: Offset(end + 1),
        ..Recovery::default()
    };
    assert_eq!(recovery, found, "{context}: going on");
    log.close().unwrap();
    let disk = disk.crash(Crash::DropAll);
    let (log, recovery) = open_on(Arc::new(disk), Path::new(DIR), log_options());
    assert_eq!(
        recovery,
        Recovery {
            clean: true,
            ..found
        },
        "{context}: closed"
    );
    let mut want = want(end);
    want.push((end, Bytes::from_static(b"goes on")));
    assert_eq!(
        trimmed(read_all(&log.reader())),
        want,
        "{context}: going on"
    );
}

/// Cuts the power after every change that `steps` makes to the disk.
fn crash_everywhere(name: &str, steps: &[Step], seed: u64) {
    crash_everywhere_with(name, steps, seed, &Faults::default());
}

fn crash_everywhere_with(name: &str, steps: &[Step], seed: u64, faults: &Faults) {
    let disk = SimDisk::default();
    disk.set_faults(faults.clone());
    let expected = run(&disk, steps, seed);
    let total = disk.changes();
    check(
        &disk.crash(Crash::DropAll),
        &expected,
        &format!("{name}: at the end"),
    );
    for at in 0..=total {
        let disk = SimDisk::default();
        disk.set_faults(Faults {
            halt_after: Some(at),
            ..faults.clone()
        });
        let expected = run(&disk, steps, seed);
        let salt = seed.wrapping_mul(1_000_003).wrapping_add(at);
        for mode in [
            Crash::DropAll,
            Crash::KeepAll,
            Crash::KeepPrefix(at.saturating_sub(1)),
            Crash::KeepPrefix(at.saturating_sub(3)),
            Crash::RandomSubset(salt),
            Crash::RandomSubset(salt ^ 0xffff),
            Crash::Tear512(salt),
            Crash::Tear512(salt ^ 0xffff),
        ] {
            check(
                &disk.crash(mode),
                &expected,
                &format!("{name}, seed {seed}: {mode:?} after {at} of {total}"),
            );
        }
    }
}

#[test]
fn what_was_synced_survives_appends_and_rolls() {
    let steps = [
        Append(1, 50),
        Sync,
        Append(3, 900),
        Sync,
        Append(2, 900),
        Append(4, 1500),
        Sync,
        Append(1, 9000),
        Sync,
        Append(2, 40),
    ];
    crash_everywhere("append", &steps, 1);
}

#[test]
fn what_was_synced_survives_checkpoints_and_restarts() {
    let steps = [
        Append(2, 300),
        Sync,
        Wait(200),
        Append(1, 700),
        Sync,
        Restart,
        Append(2, 500),
        Sync,
        Wait(500),
        Append(3, 10),
        Kill,
        Append(1, 200),
        Sync,
        Wait(150),
        Append(1, 2000),
        Sync,
        Restart,
        Restart,
        Append(1, 10),
    ];
    crash_everywhere("restart", &steps, 2);
}

#[test]
fn what_was_synced_survives_trims_and_retention() {
    let steps = [
        Append(4, 900),
        Sync,
        Trim(50),
        Append(4, 1500),
        Sync,
        Trim(70),
        Wait(200),
        Append(6, 1500),
        Sync,
        Retain,
        Append(1, 20),
        Sync,
        Wait(20_000),
        Retain,
        Append(2, 900),
        Sync,
        Trim(100),
        Append(1, 5),
        Sync,
        Kill,
        Retain,
    ];
    crash_everywhere("trim", &steps, 3);
}

#[test]
fn what_was_synced_survives_recompression() {
    let steps = [
        Append(6, 1500),
        Sync,
        Append(6, 1500),
        Sync,
        Recompress,
        Append(1, 900),
        Sync,
        Recompress,
        Recompress,
        Restart,
        Recompress,
        Trim(40),
        Append(2, 900),
        Sync,
        Recompress,
        Kill,
        Recompress,
    ];
    crash_everywhere("recompress", &steps, 4);
}

#[test]
fn what_was_synced_survives_anything_in_any_order() {
    let seeds = std::env::var("PILGRIMAGE_CRASH_SEEDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(3);
    for seed in 100..100 + seeds {
        let mut rng = Rng(seed);
        let steps: Vec<Step> = (0..14)
            .map(|_| match rng.below(13) {
                0..=3 => Append(1 + rng.below(4), 1 + rng.below(1800)),
                4..=6 => Sync,
                7 => Wait(rng.below(9_000) as i64),
                8 => Trim(rng.below(101)),
                9 => Retain,
                10 => Recompress,
                11 => Restart,
                _ => Kill,
            })
            .collect();
        crash_everywhere("random", &steps, seed);
    }
}

#[test]
fn what_was_synced_survives_while_a_refused_append_is_taken_back() {
    // One append over four segments, whose writes stop short one after the other.
    let steps = [Append(1, 50), Sync, Append(2, 400), Append(9, 1500)];
    for nth in 6..11 {
        let faults = Faults {
            short_write_after: Some((nth, 700)),
            ..Faults::default()
        };
        crash_everywhere_with("refused", &steps, nth, &faults);
    }
}
