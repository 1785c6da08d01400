//! What a log remembers of its producers is the fold of all batches that it ever had, whatever is
//! deleted, cut, copied, lost or left by a power cut (invariant 24).

use std::sync::Arc;

use super::replica::follow;
use super::sim::{Crash, Faults, Rng, SimDisk};
use super::*;
use crate::producer::Producers;
use crate::record::{Extension, Header, Key, Mark};

const DIR: &str = "/log";

fn log_options() -> LogOptions {
    LogOptions {
        retention_ms: Some(400),
        ..small_segments(2_000)
    }
}

fn open(disk: &SimDisk, options: LogOptions) -> (PartitionLog, Recovery) {
    open_on(Arc::new(disk.clone()), Path::new(DIR), options)
}

/// A batch of one of four producers, or under a key, or of nobody; all different.
fn some_batch(rng: &mut Rng, number: u32, time: i64) -> BytesMut {
    let mut extension = Extension::default();
    let mut producer = Producer::default();
    match rng.below(6) {
        0 => {}
        1 => {
            extension.key = Some(Key {
                hash: [number as u8; 16],
                fingerprint: [1; 16],
                arrived: Timestamp(time),
            });
        }
        id => {
            producer = Producer {
                id,
                epoch: (number / 40) as u16,
                base_sequence: number,
            };
        }
    }
    let mut builder = BatchBuilder::marked(0, extension);
    for _ in 0..1 + rng.below(3) {
        let value = vec![number as u8; rng.below(300) as usize];
        builder.push(&Record::binary(value), Timestamp(time));
    }
    let batch = builder.build(Codec::None, producer).unwrap();
    BytesMut::from(batch.bytes().as_ref())
}

/// A batch where the log has it.
#[derive(Debug, Clone)]
struct Placed {
    mark: Option<Mark>,
    offset: Offset,
    end: Offset,
    append_time: Timestamp,
}

/// What the log was given, from its first batch on.
#[derive(Debug, Clone, Default)]
struct History(Vec<Placed>);

impl History {
    fn add(&mut self, group: &[BytesMut], now: i64) {
        for bytes in group {
            let header = Header::parse(bytes).unwrap();
            let last = self.0.last();
            let offset = last.map_or(Offset::ZERO, |last| last.end);
            let time = last.map_or(Timestamp(now), |last| last.append_time.max(Timestamp(now)));
            self.0.push(Placed {
                mark: Mark::of(&header, bytes).unwrap(),
                offset,
                end: Offset(offset.0 + u64::from(header.record_count)),
                append_time: time,
            });
        }
    }

    fn fold(&self, to: Offset) -> Producers {
        let mut state = Producers::default();
        for batch in self.0.iter().filter(|batch| batch.offset < to) {
            if let Some(mark) = &batch.mark {
                state.apply(mark, batch.offset, batch.append_time);
            }
        }
        state.pass(to);
        state
    }
}

fn append(log: &mut PartitionLog, history: &mut History, batches: Vec<BytesMut>, now: i64) {
    history.add(&batches, now);
    log.append(batches, EPOCH, Timestamp(now)).unwrap();
}

fn check(log: &mut PartitionLog, history: &History) {
    let end = log.log_end();
    assert_eq!(*log.producers().unwrap(), history.fold(end), "at {end}");
}

/// A log over many segments, with groups that roll in their middle.
fn grown(disk: &SimDisk, options: LogOptions, groups: u32) -> (PartitionLog, History) {
    let mut rng = Rng(5);
    let mut history = History::default();
    let (mut log, _) = open(disk, options);
    for i in 0..groups {
        let time = i64::from(i) * 10;
        let group = (0..4)
            .map(|j| some_batch(&mut rng, i * 4 + j, time))
            .collect();
        append(&mut log, &mut history, group, time);
        log.sync().unwrap();
        log.publish(log.log_end());
    }
    (log, history)
}

fn state_files(disk: &SimDisk) -> usize {
    let files = disk.files().into_iter();
    files
        .filter(|path| path.extension().is_some_and(|e| e == "producers"))
        .count()
}

#[test]
fn the_state_is_the_fold_of_the_log_after_every_append_and_every_restart() {
    let disk = SimDisk::default();
    let mut rng = Rng(1);
    let mut history = History::default();
    let (mut log, _) = open(&disk, small_segments(2_000));
    for i in 0..150u32 {
        let time = i64::from(i) * 10;
        let group = (0..1 + rng.below(5)).map(|j| some_batch(&mut rng, i * 5 + j as u32, time));
        let group = group.collect::<Vec<_>>();
        append(&mut log, &mut history, group, time);
        log.sync().unwrap();
        match rng.below(4) {
            0 => check(&mut log, &history),
            1 => {
                log.close().unwrap();
                log = open(&disk, small_segments(2_000)).0;
                check(&mut log, &history);
            }
            // Nobody asks: the next batch finds out for itself.
            2 => {
                drop(log);
                log = open(&disk, small_segments(2_000)).0;
            }
            _ => {}
        }
    }
    check(&mut log, &history);
    assert!(20 < state_files(&disk), "{}", state_files(&disk));
}

#[test]
fn a_log_that_is_cut_anywhere_knows_what_it_knew_there() {
    let disk = SimDisk::default();
    let (mut log, history) = grown(&disk, small_segments(2_000), 40);
    for batch in history.0.iter().rev() {
        assert_eq!(log.truncate(batch.offset).unwrap(), batch.offset);
        check(&mut log, &history);
    }
}

#[test]
fn a_cut_and_what_is_appended_behind_it_are_known_without_being_asked_in_between() {
    let mut rng = Rng(9);
    for at in [5, 60, 100, 158] {
        let disk = SimDisk::default();
        let (mut log, mut history) = grown(&disk, small_segments(2_000), 40);
        log.truncate(history.0[at].offset).unwrap();
        history.0.truncate(at);
        for i in 0..20u32 {
            let time = 5_000 + i64::from(i);
            let group = vec![some_batch(&mut rng, 1_000 + i, time)];
            append(&mut log, &mut history, group, time);
        }
        log.sync().unwrap();
        check(&mut log, &history);
        log.close().unwrap();
        check(&mut open(&disk, small_segments(2_000)).0, &history);
    }
}

#[test]
fn retention_and_trims_forget_nobody() {
    let disk = SimDisk::default();
    let (mut log, history) = grown(&disk, log_options(), 60);
    log.enforce_retention(Timestamp(700)).unwrap();
    assert!(Offset(50) < log.log_start());
    check(&mut log, &history);
    log.close().unwrap();
    let (mut log, _) = open(&disk, log_options());
    check(&mut log, &history);
    log.trim(log.log_end()).unwrap();
    check(&mut log, &history);
    log.close().unwrap();
    let (mut log, _) = open(&disk, log_options());
    assert_eq!(log.log_start(), log.log_end());
    check(&mut log, &history);
}

#[test]
fn files_that_are_lost_or_damaged_are_made_up_for_by_the_log() {
    for damage in 0..3 {
        let disk = SimDisk::default();
        let (log, history) = grown(&disk, small_segments(2_000), 40);
        log.close().unwrap();
        for path in disk.files() {
            if path.extension().is_some_and(|e| e == "producers") {
                let mut bytes = disk.bytes(&path);
                match damage {
                    0 => disk.replace_bytes(&path, Vec::new()),
                    1 => {
                        let middle = bytes.len() / 2;
                        bytes[middle] ^= 1;
                        disk.replace_bytes(&path, bytes);
                    }
                    _ => Disk::remove(&disk, &path).unwrap(),
                }
            }
        }
        let (mut log, _) = open(&disk, small_segments(2_000));
        check(&mut log, &history);
    }
}

#[test]
fn a_file_of_another_history_is_not_believed() {
    let disk = SimDisk::default();
    let (mut log, mut history) = grown(&disk, small_segments(2_000), 40);
    let kept = disk.files().into_iter().filter_map(|path| {
        let is_state = path.extension().is_some_and(|e| e == "producers");
        is_state.then(|| (path.clone(), disk.bytes(&path)))
    });
    let kept = kept.collect::<Vec<_>>();
    log.truncate(history.0[2].offset).unwrap();
    history.0.truncate(2);
    let mut rng = Rng(77);
    for i in 0..150u32 {
        let group = vec![some_batch(&mut rng, 5_000 + i, 9_000)];
        append(&mut log, &mut history, group, 9_000);
    }
    log.close().unwrap();
    for (path, bytes) in kept {
        if disk.files().contains(&path) {
            disk.replace_bytes(&path, bytes);
        }
    }
    check(&mut open(&disk, small_segments(2_000)).0, &history);
}

#[test]
fn a_log_that_nobody_marks_has_nothing_to_remember_and_no_file_of_it() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk, small_segments(1_000));
    for i in 0..30 {
        log.append(vec![batch(&[[i; 100]])], EPOCH, Timestamp(0))
            .unwrap();
    }
    log.sync().unwrap();
    assert!(log.producers().unwrap().is_empty());
    log.close().unwrap();
    assert_eq!(state_files(&disk), 0);
    // Nor does it have to look for anything.
    let (mut log, _) = open(&disk, small_segments(1_000));
    disk.set_faults(Faults {
        fail_read_after: Some(0),
        ..Faults::default()
    });
    assert!(log.producers().unwrap().is_empty());
}

#[test]
fn recompression_keeps_every_mark() {
    let disk = SimDisk::default();
    let options = LogOptions {
        compression: Compression::Zstd,
        ..small_segments(20_000)
    };
    let (mut log, history) = grown(&disk, options.clone(), 200);
    let mut rewritten = 0;
    while let Some(candidate) = log.recompression_candidate() {
        if let Some(done) = candidate.run().unwrap() {
            rewritten += 1;
            log.install(done).unwrap();
        }
    }
    assert!(0 < rewritten);
    log.close().unwrap();
    for path in disk.files() {
        if path.extension().is_some_and(|e| e == "producers") {
            Disk::remove(&disk, &path).unwrap();
        }
    }
    check(&mut open(&disk, options).0, &history);
}

#[test]
fn a_replica_that_begins_in_the_middle_knows_what_its_leader_knew_there() {
    let options = LogOptions {
        replicated: true,
        ..log_options()
    };
    for (trim, piece) in [(30, 1), (77, 700), (150, 1 << 20)] {
        let disks = [SimDisk::default(), SimDisk::default()];
        let (mut leader, history) = grown(&disks[0], options.clone(), 60);
        leader.trim(history.0[trim].offset).unwrap();
        let start = leader.reader().replica_start();
        assert!(Offset::ZERO < start);
        let (mut log, _) = open(&disks[1], options.clone());
        log.reset_to(start).unwrap();
        let mut read = leader.reader().read_replica(start, piece).unwrap();
        read.producers = leader.reader().producers_at(start).unwrap();
        log.append_replicated(read, Timestamp(0)).unwrap();
        follow(&mut leader, &mut log, piece);
        check(&mut leader, &history);
        check(&mut log, &history);
        log.close().unwrap();
        check(&mut open(&disks[1], options.clone()).0, &history);
    }
}

/// Appends, rolls, deletes and restarts, until the disk stops.
fn live(disk: &SimDisk, seed: u64) -> History {
    let mut rng = Rng(seed);
    let mut history = History::default();
    let again = |disk: &SimDisk| {
        let files = Arc::new(FileCache::new(4));
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        PartitionLog::open(disk, files, Path::new(DIR), TOPIC, PARTITION, log_options()).ok()
    };
    let Some((mut log, _)) = again(disk) else {
        return history;
    };
    for i in 0..50u32 {
        let time = i64::from(i) * 20;
        let group: Vec<_> = (0..1 + rng.below(4))
            .map(|j| some_batch(&mut rng, i * 4 + j as u32, time))
            .collect();
        history.add(&group, time);
        let done = log.append(group, EPOCH, Timestamp(time)).is_ok();
        if !done || log.sync().is_err() {
            return history;
        }
        log.publish(log.log_end());
        let done = match rng.below(6) {
            0 => log.enforce_retention(Timestamp(time)).is_ok(),
            1 => log
                .trim(Offset(log.log_end().0 * rng.below(101) / 100))
                .is_ok(),
            2 => match log.close().ok().and_then(|()| again(disk)) {
                Some((next, _)) => {
                    log = next;
                    true
                }
                None => return history,
            },
            _ => true,
        };
        if !done {
            return history;
        }
    }
    history
}

#[test]
fn the_power_goes_after_every_change_and_nobody_is_forgotten() {
    for seed in 0..3 {
        let whole = SimDisk::default();
        live(&whole, seed);
        let changes = whole.changes();
        assert!(300 < changes, "{changes}");
        for halt in (seed..changes).step_by(5) {
            let disk = SimDisk::default();
            disk.set_faults(Faults {
                halt_after: Some(halt),
                ..Faults::default()
            });
            let history = live(&disk, seed);
            for crash in [
                Crash::DropAll,
                Crash::KeepAll,
                Crash::RandomSubset(halt),
                Crash::Tear512(halt),
            ] {
                let left = disk.crash(crash);
                let (mut log, recovery) = open(&left, log_options());
                assert_eq!(recovery.corrupt, [], "seed {seed}, {halt}, {crash:?}");
                let end = log.log_end();
                let state = log.producers().unwrap().clone();
                assert_eq!(state, history.fold(end), "seed {seed}, {halt}, {crash:?}");
            }
        }
    }
}
