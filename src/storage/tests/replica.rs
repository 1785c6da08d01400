//! Two copies of a log: the follower's has the leader's bytes, whatever happened before.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::sim::{Crash, Faults, SimDisk};
use super::*;
use crate::record::Batch;
use crate::storage::{AppendError, ReadError, ReplicaBatches, ReplicateError, inspect};

const DIR: &str = "/log";

pub(super) fn replicated(segment_bytes: u64) -> LogOptions {
    LogOptions {
        replicated: true,
        ..small_segments(segment_bytes)
    }
}

pub(super) fn open(disk: &SimDisk, options: LogOptions) -> (PartitionLog, Recovery) {
    open_on(Arc::new(disk.clone()), Path::new(DIR), options)
}

fn append(log: &mut PartitionLog, value: &str, epoch: u32, now: i64) {
    log.append(vec![batch(&[value])], LeaderEpoch(epoch), Timestamp(now))
        .unwrap();
}

/// Everything that is stored, as it is.
pub(super) fn stored(log: &PartitionLog) -> Vec<Batch> {
    let reader = log.reader();
    let mut next = reader.replica_start();
    let mut found = Vec::new();
    while next < reader.log_end() {
        let read = reader.read_replica(next, 700).unwrap();
        for batch in split_batches(read.batches).unwrap() {
            batch.verify().unwrap();
            assert_eq!(batch.header.base_offset, next);
            next = batch.header.end_offset();
            found.push(batch);
        }
    }
    found
}

/// What a follower does until it has everything (PROTOCOL T1, T2, F3).
pub(super) fn follow(leader: &mut PartitionLog, log: &mut PartitionLog, piece: usize) {
    let from = leader.reader();
    loop {
        if let Some(last) = log.last_epoch() {
            let common = leader.end_offset_for_epoch(last).unwrap();
            let Some((epoch, end)) = common.filter(|_| from.replica_start() <= log.log_end())
            else {
                log.reset_to(from.replica_start()).unwrap();
                continue;
            };
            if epoch < last || end < log.log_end() {
                let own = log.end_offset_for_epoch(epoch).unwrap();
                let to = own.map_or(Offset::ZERO, |(_, own)| own.min(end));
                assert!(log.truncate(to).unwrap() <= to);
                continue;
            }
        } else if log.log_end() < from.replica_start() || from.log_end() < log.log_end() {
            log.reset_to(from.replica_start()).unwrap();
        }
        let read = from.read_replica(log.log_end(), piece).unwrap();
        if read.batches.is_empty() {
            return;
        }
        match log.append_replicated(read, Timestamp(0)) {
            // An empty log may begin in the middle of a batch.
            Err(ReplicateError::NotNext { found, .. }) if log.log_start() == log.log_end() => {
                assert!(found < log.log_end());
                log.reset_to(from.replica_start()).unwrap();
            }
            appended => drop(appended.unwrap()),
        }
    }
}

fn log_files(disk: &SimDisk) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let files = disk.files().into_iter();
    let logs = files.filter(|path| path.extension().is_some_and(|e| e == "log"));
    logs.map(|path| (path.clone(), disk.bytes(&path))).collect()
}

#[test]
fn a_followers_files_are_the_leaders_byte_for_byte() {
    for piece in [1, 700, 5_000, 1 << 20] {
        let (disks, options) = (
            [SimDisk::default(), SimDisk::default()],
            LogOptions {
                segment_ms: 500,
                ..replicated(3_000)
            },
        );
        let (mut leader, _) = open(&disks[0], options.clone());
        let (mut follower, _) = open(&disks[1], options);
        for i in 0..60usize {
            let values = [format!("{i}"), "x".repeat(i * 53 % 900), "y".repeat(i % 7)];
            let group = values.iter().map(|value| batch(&[value])).collect();
            let epoch = LeaderEpoch(1 + i as u32 / 20);
            leader
                .append(group, epoch, Timestamp(i as i64 * 60))
                .unwrap();
            leader.sync().unwrap();
            if i % 9 == 8 {
                follow(&mut leader, &mut follower, piece);
                assert_eq!(follower.log_end(), leader.log_end());
            }
        }
        follow(&mut leader, &mut follower, piece);
        assert_eq!(follower.epochs().unwrap(), leader.epochs().unwrap());
        leader.close().unwrap();
        follower.close().unwrap();
        let files = log_files(&disks[0]);
        assert!(5 < files.len(), "{} segments", files.len());
        assert_eq!(files, log_files(&disks[1]));
        let reports = inspect::verify(&disks[1], Path::new(DIR)).unwrap();
        assert!(reports.iter().all(|report| report.faults == 0));
    }
}

#[test]
fn f3_only_the_very_next_sound_batches_of_this_log_are_appended() {
    let (mut leader, _) = open(&SimDisk::default(), replicated(1 << 20));
    for i in 0..6 {
        append(&mut leader, &format!("value {i}"), 2 + i, 10);
    }
    let all = leader.reader().read_replica(Offset(0), 1 << 20).unwrap();
    let from = leader.reader();
    let one = |at: u64| from.read_replica(Offset(at), 1).unwrap();
    let (mut log, _) = open(&SimDisk::default(), replicated(1 << 20));
    log.append_replicated(one(0), Timestamp(0)).unwrap();
    let before = stored(&log);

    // Any changed bit anywhere, in any of the batches: none of them is taken.
    let rest = all.batches.slice(one(0).batches.len()..);
    for at in 0..rest.len() {
        let mut bytes = rest.to_vec();
        bytes[at] ^= 1 << (at % 8);
        let damaged = ReplicaBatches {
            batches: bytes.into(),
            begins_chain: false,
            producers: Bytes::new(),
        };
        log.append_replicated(damaged, Timestamp(0)).unwrap_err();
    }
    for len in 1..rest.len() {
        let cut = ReplicaBatches {
            batches: rest.slice(..len),
            begins_chain: true,
            producers: Bytes::new(),
        };
        let boundary = split_batches(cut.batches.clone()).is_ok();
        if !boundary {
            let error = log.append_replicated(cut, Timestamp(0)).unwrap_err();
            assert!(matches!(error, ReplicateError::Damaged { .. }), "{error}");
        }
    }
    // Sound batches in the wrong place.
    for at in [0, 2, 5] {
        let error = log.append_replicated(one(at), Timestamp(0)).unwrap_err();
        let want = format!("batch 0 begins at {at}, not at 1");
        assert_eq!(error.to_string(), want);
    }
    // The right offset of another history.
    let (mut other, _) = open(&SimDisk::default(), replicated(1 << 20));
    append(&mut other, "other", 1, 5);
    append(&mut other, "other", 3, 20);
    let strange = other.reader().read_replica(Offset(1), 1).unwrap();
    let error = log.append_replicated(strange, Timestamp(0)).unwrap_err();
    assert!(matches!(error, ReplicateError::Unchained { index: 0, .. }));
    // An epoch that falls, even where the chain is allowed to begin anew.
    append(&mut leader, "later", 9, 30);
    let mut late = stored(&leader)[1].clone();
    late.header.leader_epoch = LeaderEpoch(1);
    let mut bytes = BytesMut::from(&late.bytes()[..]);
    let header = late.header.clone();
    crate::record::assign(
        &mut bytes,
        &crate::record::Assignment {
            topic_id: TOPIC,
            partition: PARTITION,
            leader_epoch: LeaderEpoch(1),
            base_offset: header.base_offset,
            durable_at_append: header.durable_at_append,
            append_time: header.append_time,
            use_append_time: false,
            prev_crc: header.prev_crc,
        },
    )
    .unwrap();
    let fallen = ReplicaBatches {
        batches: bytes.freeze(),
        begins_chain: true,
        producers: Bytes::new(),
    };
    let error = log.append_replicated(fallen, Timestamp(0)).unwrap_err();
    assert!(matches!(error, ReplicateError::Unchained { .. }), "{error}");
    // Another partition's.
    let files = Arc::new(FileCache::new(4));
    let disk = Arc::new(SimDisk::default());
    let (mut foreign, _) = PartitionLog::open(
        disk,
        files,
        Path::new(DIR),
        TOPIC,
        Partition(4),
        replicated(1 << 20),
    )
    .unwrap();
    let error = foreign.append_replicated(one(0), Timestamp(0)).unwrap_err();
    assert!(matches!(error, ReplicateError::Foreign { index: 0 }));
    assert_eq!(foreign.log_end(), Offset(0));

    assert_eq!(stored(&log), before);
    follow(&mut leader, &mut log, 1 << 20);
    assert_eq!(stored(&log), stored(&leader));
}

#[test]
fn h5_a_followers_high_watermark_goes_up_and_down_within_its_log() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk, replicated(1 << 20));
    for i in 0..6 {
        append(&mut log, &format!("{i}"), 1, i);
    }
    assert_eq!(log.set_high_watermark(Offset(4)), Offset(4));
    assert_eq!(log.set_high_watermark(Offset(2)), Offset(2));
    let found = log.reader().read(Offset(3), 1);
    assert!(matches!(found, Err(ReadError::OutOfRange { end }) if end == Offset(2)));
    assert_eq!(log.set_high_watermark(Offset(60)), Offset(6));
    assert_eq!(log.trim(Offset(3)).unwrap(), Offset(3));
    assert_eq!(log.set_high_watermark(Offset(1)), Offset(3));
}

#[test]
fn a_replicated_log_shows_after_a_restart_no_more_than_was_known_to_be_committed() {
    for close in [false, true] {
        let disk = SimDisk::default();
        let (mut log, _) = open(&disk, replicated(1 << 20));
        for i in 0..10 {
            append(&mut log, &format!("{i}"), 1, i * 200);
        }
        log.set_high_watermark(Offset(6));
        log.sync().unwrap();
        log.set_high_watermark(Offset(8));
        if close {
            log.close().unwrap();
        } else {
            // An idle log notes it as well.
            log.enforce_retention(Timestamp(3_000)).unwrap();
            drop(log);
        }
        let (log, recovery) = open(&disk, replicated(1 << 20));
        assert_eq!((log.log_end(), recovery.corrupt), (Offset(10), vec![]));
        assert_eq!(log.reader().high_watermark(), Offset(8), "closed: {close}");
        drop(log);
        // Told that nobody else has a copy, everything that is found is shown.
        let (log, _) = open(&disk, small_segments(1 << 20));
        assert_eq!(log.reader().high_watermark(), Offset(10));
    }
    // Never more than there is, even if the page cache did not survive.
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk, replicated(1 << 20));
    append(&mut log, "synced", 1, 0);
    log.sync().unwrap();
    append(&mut log, "not synced", 1, 1_000);
    log.set_high_watermark(Offset(2));
    log.checkpoint();
    let (log, recovery) = open(&disk.crash(Crash::DropAll), replicated(1 << 20));
    assert_eq!((log.log_end(), recovery.corrupt), (Offset(1), vec![]));
    assert!(log.reader().high_watermark() <= Offset(1));
}

#[test]
fn a_log_that_gets_copies_is_copied_across_its_rewritten_segments_and_rewritten_no_more() {
    let zstd = |replicated| LogOptions {
        compression: Compression::Zstd,
        replicated,
        ..small_segments(4_096)
    };
    let disks = [SimDisk::default(), SimDisk::default(), SimDisk::default()];
    let (mut leader, _) = open(&disks[0], zstd(false));
    let mut values = Vec::new();
    for i in 0..60 {
        values.push(format!("{i} {}", "a line that repeats itself ".repeat(12)));
        append(&mut leader, &values[i], 1 + i as u32 / 4, i as i64);
    }
    leader.sync().unwrap();
    leader.publish(leader.log_end());
    let mut rewritten = 0;
    for _ in 0..2 {
        let work = leader.recompression_candidate().unwrap();
        rewritten += u32::from(0 < leader.install(work.run().unwrap().unwrap()).unwrap());
    }
    assert_eq!(rewritten, 2);
    let begun = leader.recompression_candidate().unwrap();
    leader.set_options(zstd(true));
    assert!(leader.recompression_candidate().is_none());
    let done = begun.run().unwrap().unwrap();
    assert_eq!(
        leader.install(done).unwrap(),
        0,
        "begun before, and too late"
    );

    let (mut first, _) = open(&disks[1], zstd(true));
    follow(&mut leader, &mut first, 1 << 20);
    let (mut second, _) = open(&disks[2], zstd(true));
    follow(&mut first, &mut second, 900);
    for (disk, mut log) in disks[1..].iter().zip([first, second]) {
        assert_eq!(stored(&log), stored(&leader));
        assert_eq!(log.epochs().unwrap(), leader.epochs().unwrap());
        log.sync().unwrap();
        drop(log);
        let reports = inspect::verify(disk, Path::new(DIR)).unwrap();
        assert!(
            reports.iter().all(|report| report.faults == 0),
            "{reports:?}"
        );
        let (mut log, recovery) = open(disk, zstd(true));
        assert_eq!(recovery.corrupt, []);
        log.set_high_watermark(log.log_end());
        assert_eq!(read_all(&log.reader()), numbered(&values));
    }
    // Cut within a rewritten segment, which goes on as any other.
    // Batches of one epoch have become one, and only whole ones are kept.
    assert_eq!(leader.truncate(Offset(6)).unwrap(), Offset(4));
    append(&mut leader, "after the cut", 99, 100);
    leader.sync().unwrap();
    let kept = stored(&leader);
    drop(leader);
    let reports = inspect::verify(&disks[0], Path::new(DIR)).unwrap();
    assert!(
        reports.iter().all(|report| report.faults == 0),
        "{reports:?}"
    );
    let (leader, recovery) = open(&disks[0], zstd(true));
    assert_eq!((recovery.corrupt, stored(&leader)), (vec![], kept));
}

#[test]
fn a_copy_begins_with_the_oldest_batch_that_is_stored_and_not_within_it() {
    let (mut leader, _) = open(&SimDisk::default(), replicated(1_000));
    for i in 0..20 {
        let values = [format!("{i}"), "x".repeat(200)];
        leader
            .append(vec![batch(&values)], EPOCH, Timestamp(i))
            .unwrap();
    }
    leader.sync().unwrap();
    leader.publish(leader.log_end());
    leader.trim(Offset(17)).unwrap();
    let reader = leader.reader();
    let start = reader.replica_start();
    assert!(Offset(0) < start && start <= Offset(17), "{start}");
    let below = reader.read_replica(Offset(start.0 - 1), 1);
    assert!(matches!(below, Err(ReadError::Trimmed { start: from }) if from == start));
    assert!(matches!(
        reader.read_replica(Offset(41), 1),
        Err(ReadError::OutOfRange { end: Offset(40) })
    ));

    let disk = SimDisk::default();
    let (mut log, _) = open(&disk, replicated(1_000));
    follow(&mut leader, &mut log, 500);
    assert_eq!(stored(&log), stored(&leader));
    assert_eq!((log.log_start(), log.last_epoch()), (start, Some(EPOCH)));
    log.sync().unwrap();
    let (mut log, recovery) = open(&disk.crash(Crash::DropAll), replicated(1_000));
    assert_eq!((recovery.corrupt, log.log_start()), (vec![], start));
    assert_eq!(stored(&log), stored(&leader));

    // Everything is deleted at the leader: what it had is still known by its epoch.
    leader.trim(Offset(40)).unwrap();
    assert_eq!(leader.log_start(), leader.log_end());
    assert_eq!(leader.last_epoch(), Some(EPOCH));
    let known = leader.end_offset_for_epoch(LeaderEpoch(7)).unwrap();
    assert_eq!(known, Some((EPOCH, Offset(40))));
    follow(&mut leader, &mut log, 500);
    log.reset_to(Offset(7)).unwrap();
    assert_eq!((log.last_epoch(), log.epochs().unwrap()), (None, &[][..]));
    let (mut log, recovery) = open(&disk, replicated(1_000));
    drop(recovery);
    assert_eq!(
        log.end_offset_for_epoch(LeaderEpoch(9))
            .unwrap()
            .map(|e| e.0),
        Some(EPOCH)
    );
}

#[test]
fn replicas_with_the_same_bytes_have_the_same_digest_and_others_have_not() {
    let (mut leader, _) = open(&SimDisk::default(), replicated(2_000));
    for i in 0..30 {
        append(&mut leader, &format!("{i} {}", "x".repeat(300)), 1, i);
    }
    leader.sync().unwrap();
    leader.publish(Offset(25));
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk, replicated(5_000));
    follow(&mut leader, &mut log, 1 << 20);
    log.set_high_watermark(Offset(25));
    let digest = |log: &PartitionLog, from, to| {
        log.reader()
            .digest(Offset(from), Offset(to), 1 << 20)
            .unwrap()
    };
    let whole = digest(&leader, 0, 30);
    assert_eq!((whole.end, whole.batches), (Offset(25), 25));
    assert_eq!(digest(&log, 0, 30), whole);
    assert_ne!(digest(&log, 1, 30).hash, whole.hash);
    let part = log.reader().digest(Offset(0), Offset(30), 1).unwrap();
    assert_eq!(part.batches, 1);
    // Another history of the same length, each batch sound.
    let (mut other, _) = open(&SimDisk::default(), replicated(2_000));
    for i in 0..30 {
        let value = if i == 11 { "y" } else { "x" };
        append(&mut other, &format!("{i} {}", value.repeat(300)), 1, i);
    }
    other.publish(Offset(25));
    assert_ne!(digest(&other, 0, 25).hash, whole.hash);
    assert_eq!(digest(&other, 0, 11), digest(&leader, 0, 11));
    // A damaged copy is not digested.
    log.sync().unwrap();
    let path = Path::new(DIR).join("00000000000000000000.log");
    let mut bytes = disk.bytes(&path);
    bytes[700] ^= 1;
    disk.replace_bytes(&path, bytes);
    let found = log.reader().digest(Offset(0), Offset(25), 1 << 20);
    assert!(matches!(found, Err(ReadError::Corrupt { .. })));
}

#[test]
fn a_disk_that_fails_in_a_truncation_or_a_reset_leaves_a_log_that_opens() {
    for nth in 0..14 {
        for reset in [false, true] {
            let disk = SimDisk::default();
            let (mut log, _) = open(&disk, replicated(1_000));
            for i in 0..12 {
                append(&mut log, &format!("{i} {}", "x".repeat(300)), 1, i);
            }
            log.sync().unwrap();
            let before = stored(&log);
            disk.set_faults(Faults {
                fail_sync_after: Some(nth),
                ..Faults::default()
            });
            let done = if reset {
                log.reset_to(Offset(40)).map(|()| Offset(40))
            } else {
                log.truncate(Offset(4))
            };
            disk.set_faults(Faults::default());
            if let Ok(end) = done {
                assert_eq!(end, log.log_end());
            } else if log.is_poisoned() {
                let error = log.append(vec![batch(&["x"])], EPOCH, Timestamp(0));
                assert!(matches!(error, Err(AppendError::Poisoned)));
            } else {
                assert_eq!(stored(&log), before, "{nth}: refused");
            }
            drop(log);
            let (log, recovery) = open(&disk, replicated(1_000));
            assert_eq!(recovery.corrupt, [], "{nth} {reset}");
            let found = stored(&log);
            let emptied = reset && found.is_empty() && log.log_end() == Offset(40);
            assert!(emptied || before.starts_with(&found), "{nth} {reset}");
            assert!(emptied || Offset(4) <= log.log_end(), "{nth} {reset}");
        }
    }
}
