//! Times, retention, recompression, many idle logs.

use std::sync::Arc;

use super::sim::SimDisk;
use super::*;
use crate::record::Codec;
use crate::storage::{AppendError, Deleted, ReadError, StdDisk, StorageError, inspect};

const DIR: &str = "/log";

fn open(disk: &SimDisk, options: LogOptions) -> (PartitionLog, Recovery) {
    open_on(Arc::new(disk.clone()), Path::new(DIR), options)
}

fn append(log: &mut PartitionLog, values: &[impl AsRef<[u8]>], record_time: i64, now: i64) {
    log.append(vec![batch_at(values, record_time)], EPOCH, Timestamp(now))
        .unwrap();
    log.sync().unwrap();
    log.publish(log.log_end());
}

#[test]
fn a_time_finds_the_first_record_that_is_not_older() {
    for use_append_time in [false, true] {
        let disk = SimDisk::default();
        let options = LogOptions {
            use_append_time,
            ..small_segments(4_000)
        };
        let (mut log, _) = open(&disk, options.clone());
        // Producers' times go up and down; append times only up.
        let times = [500, 300, 900, 100, 700, 950, 20, 940, 2_000, 1_500];
        for (i, time) in times.iter().enumerate() {
            append(
                &mut log,
                &[vec![b'x'; 900], vec![b'y'; 10]],
                *time,
                10_000 + i as i64,
            );
        }
        let reader = log.reader();
        let model = |asked: i64| {
            let time = |i: usize| {
                if use_append_time {
                    10_000 + i as i64
                } else {
                    times[i]
                }
            };
            let found = (0..times.len()).find(|i| asked <= time(*i));
            found.map(|i| (Offset(2 * i as u64), Timestamp(time(i))))
        };
        for asked in (0..2_100).chain(9_990..10_020) {
            let found = reader.offset_for_timestamp(Timestamp(asked)).unwrap();
            assert_eq!(found, model(asked), "{asked}");
        }
        log.trim(Offset(5)).unwrap();
        let (offset, _) = reader.offset_for_timestamp(Timestamp(0)).unwrap().unwrap();
        assert_eq!(offset, Offset(5), "what is trimmed is not found");
        drop(log);
        let (log, _) = open(&disk, options);
        for asked in (901..2_100).chain(9_990..10_020) {
            let found = log.reader().offset_for_timestamp(Timestamp(asked)).unwrap();
            let want = model(asked).map(|(offset, time)| (offset.max(Offset(5)), time));
            if use_append_time && asked < 10_003 {
                continue;
            }
            assert_eq!(found, want, "{asked} after a restart");
        }
    }
}

#[test]
fn only_published_records_are_found_by_time() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk, options());
    append(&mut log, &["a"], 10, 10);
    log.append(vec![batch_at(&["b"], 20)], EPOCH, Timestamp(20))
        .unwrap();
    let reader = log.reader();
    assert_eq!(reader.offset_for_timestamp(Timestamp(11)).unwrap(), None);
    log.publish(log.log_end());
    let found = reader.offset_for_timestamp(Timestamp(11)).unwrap();
    assert_eq!(found, Some((Offset(1), Timestamp(20))));
}

#[test]
fn retention_deletes_whole_old_segments_and_never_the_one_being_written() {
    let disk = SimDisk::default();
    let options = LogOptions {
        retention_ms: Some(1_000),
        segment_ms: 500,
        ..small_segments(2_000)
    };
    let (mut log, _) = open(&disk, options.clone());
    for i in 0..8 {
        append(&mut log, &[vec![b'x'; 700]], i * 100, i * 100);
    }
    let reader = log.reader();
    assert_eq!(reader.stats().segments, 4);
    assert_eq!(
        log.enforce_retention(Timestamp(700)).unwrap(),
        Deleted::default()
    );
    // The newest record of the oldest segment is from 100, of the next one from 300.
    let before = reader.stats().bytes;
    let deleted = log.enforce_retention(Timestamp(1_250)).unwrap();
    assert_eq!(deleted.segments, 1);
    assert_eq!(
        reader.stats().bytes + deleted.bytes,
        before + 64,
        "and a new one was begun"
    );
    assert_eq!(reader.log_start(), Offset(2));
    assert!(matches!(
        reader.read(Offset(1), 1),
        Err(ReadError::Trimmed { start: Offset(2) })
    ));
    let all = log.enforce_retention(Timestamp(10_000)).unwrap();
    assert_eq!(all.segments, 3, "an idle log loses its last records too");
    assert_eq!((reader.log_start(), log.log_end()), (Offset(8), Offset(8)));
    assert_eq!(disk.files().len(), 2, "{:?}", disk.files());
    drop(log);
    let (mut log, _) = open(&disk, options);
    assert_eq!((log.log_start(), log.log_end()), (Offset(8), Offset(8)));
    append(&mut log, &["next"], 0, 10_000);
    assert_eq!(read_all(&log.reader()), [(8, Bytes::from_static(b"next"))]);
}

#[test]
fn retention_by_size_stops_at_the_bound_and_at_the_high_watermark() {
    let disk = SimDisk::default();
    let options = LogOptions {
        retention_bytes: Some(5_000),
        ..small_segments(2_000)
    };
    let (mut log, _) = open(&disk, options);
    for i in 0..10 {
        log.append(vec![batch(&[vec![b'x'; 700]])], EPOCH, Timestamp(i))
            .unwrap();
    }
    log.sync().unwrap();
    assert_eq!(
        log.enforce_retention(Timestamp(20)).unwrap(),
        Deleted::default()
    );
    log.publish(Offset(3));
    log.enforce_retention(Timestamp(20)).unwrap();
    assert_eq!(log.log_start(), Offset(2));
    log.publish(log.log_end());
    log.enforce_retention(Timestamp(20)).unwrap();
    let bytes = log.reader().stats().bytes;
    assert!(bytes <= 5_000 && 3_000 < bytes, "{bytes}");
}

#[test]
fn trimming_everything_frees_the_disk_and_offsets_go_on() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk, options());
    assert_eq!(
        log.trim(Offset(5)).unwrap(),
        Offset(0),
        "there is nothing to trim"
    );
    append(&mut log, &["a", "b", "c"], 0, 0);
    log.append(vec![batch(&["not yet published"])], EPOCH, Timestamp(0))
        .unwrap();
    assert_eq!(log.trim(Offset(100)).unwrap(), Offset(3));
    log.publish(log.log_end());
    assert_eq!(log.trim(Offset(100)).unwrap(), Offset(4));
    assert_eq!(log.reader().stats().bytes, 64);
    append(&mut log, &["d"], 0, 0);
    assert_eq!(read_all(&log.reader()), [(4, Bytes::from_static(b"d"))]);
}

#[test]
fn a_log_that_is_destroyed_leaves_nothing_and_its_readers_find_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("topic/0");
    let (mut log, _) = open_on(Arc::new(StdDisk), &path, small_segments(1_000));
    for i in 0..5 {
        append(&mut log, &[vec![b'x'; 700]], i, i);
    }
    let reader = log.reader();
    log.destroy().unwrap();
    assert!(!path.exists());
    assert!(matches!(
        reader.read(Offset(0), 1),
        Err(ReadError::Trimmed { start: Offset(5) })
    ));
    crate::storage::destroy(&StdDisk, &path).unwrap();
}

fn zstd(segment_bytes: u64) -> LogOptions {
    LogOptions {
        compression: Compression::Zstd,
        ..small_segments(segment_bytes)
    }
}

#[test]
fn recompression_saves_space_and_changes_no_record() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk, zstd(3_000));
    let values: Vec<String> = (0..60)
        .map(|i| {
            format!(
                "{{\"user\": {i}, \"text\": \"{}\"}}",
                "so it goes ".repeat(i % 40)
            )
        })
        .collect();
    for group in values.chunks(3) {
        append(&mut log, group, 7, 7);
    }
    let reader = log.reader();
    let before = reader.stats();
    let want = numbered(&values);
    let mut rounds = 0;
    let mut saved = 0;
    while let Some(work) = log.recompression_candidate() {
        let done = work.run().unwrap().unwrap();
        // Records that come meanwhile are not disturbed.
        append(&mut log, &["meanwhile"], 7, 7);
        saved += log.install(done).unwrap();
        rounds += 1;
        assert_eq!(read_all(&reader)[..60], want);
    }
    let after = reader.stats();
    assert!(
        3 < rounds && before.bytes < 2 * saved,
        "{rounds} {saved} {before:?}"
    );
    assert_eq!(after.bytes + saved, after.appended_bytes);
    let end = log.log_end().0;
    log.close().unwrap();

    let reports = inspect::verify(&disk, Path::new(DIR)).unwrap();
    assert_eq!(
        reports.iter().map(|report| report.faults).sum::<u64>(),
        0,
        "{reports:?}"
    );
    assert_eq!(
        reports.iter().map(|report| report.records).sum::<u64>(),
        end
    );
    assert!(
        reports
            .iter()
            .any(|report| report.zstd_batches == report.batches)
    );
    let (mut log, recovery) = open(&disk, zstd(3_000));
    assert!(recovery.clean);
    assert_eq!(log.reader().stats(), after);
    assert_eq!(read_all(&log.reader())[..60], want);
    assert_eq!(
        log.recompression_candidate().map(|_| ()),
        None,
        "each is rewritten once"
    );
    append(&mut log, &["goes on"], 7, 7);
    assert_eq!(log.log_end().0, end + 1);
}

#[test]
fn what_does_not_shrink_is_left_alone() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk, zstd(3_000));
    let mut rng = super::sim::Rng(1);
    for _ in 0..6 {
        let noise: Vec<u8> = (0..1_400).map(|_| rng.next() as u8).collect();
        append(&mut log, &[noise], 0, 0);
    }
    let files = disk.files();
    while let Some(work) = log.recompression_candidate() {
        assert!(work.run().unwrap().is_none());
    }
    assert_eq!(disk.files(), files);
    let (log, _) = open(&disk, small_segments(3_000));
    assert!(
        log.recompression_candidate().is_none(),
        "nobody asked for it"
    );
}

#[test]
fn a_damaged_segment_is_not_rewritten() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk, zstd(3_000));
    for _ in 0..6 {
        append(&mut log, &[vec![b'x'; 1_400]], 0, 0);
    }
    let path = Path::new(DIR).join("00000000000000000000.log");
    let mut bytes = disk.bytes(&path);
    bytes[500] ^= 1;
    disk.replace_bytes(&path, bytes.clone());
    let done = log.recompression_candidate().unwrap().run();
    assert!(matches!(
        done,
        Err(StorageError::Damaged { position: 64, .. })
    ));
    assert_eq!(disk.bytes(&path), bytes);
    let names = disk.list(Path::new(DIR)).unwrap();
    assert!(!names.iter().any(|name| name.ends_with(".tmp")));
}

#[test]
fn a_segment_deleted_while_it_is_rewritten_stays_deleted() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk, zstd(3_000));
    for _ in 0..6 {
        append(&mut log, &[vec![b'x'; 1_400]], 0, 0);
    }
    let done = log
        .recompression_candidate()
        .unwrap()
        .run()
        .unwrap()
        .unwrap();
    log.trim(Offset(4)).unwrap();
    assert_eq!(log.install(done).unwrap(), 0);
    assert_eq!(log.reader().stats().segments, 2);
    assert!(matches!(
        log.reader().read(Offset(0), 1),
        Err(ReadError::Trimmed { .. })
    ));
}

#[test]
fn readers_are_not_disturbed_by_rewrites_and_deletions() {
    let dir = tempfile::tempdir().unwrap();
    // So few files may be open that readers open and close them all the time.
    let files = Arc::new(FileCache::new(1));
    let (mut log, _) = PartitionLog::open(
        Arc::new(StdDisk),
        files,
        dir.path(),
        TOPIC,
        PARTITION,
        zstd(20_000),
    )
    .unwrap();
    let values: Vec<String> = (0..600)
        .map(|i| format!("{i} {}", "again and ".repeat(i % 60)))
        .collect();
    for group in values.chunks(4) {
        append(&mut log, group, 0, 0);
    }
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let (reader, values, done) = (log.reader(), &values, &done);
            scope.spawn(move || {
                let mut rng = super::sim::Rng(seed);
                let mut rounds = 0;
                while !done.load(std::sync::atomic::Ordering::Relaxed) || rounds < 50 {
                    rounds += 1;
                    let from = Offset(rng.below(600));
                    match reader.read_verified(from, 3_000) {
                        Ok(bytes) => {
                            for batch in split_batches(bytes).unwrap() {
                                for record in batch.unpack().unwrap().records() {
                                    let record = record.unwrap();
                                    let value = &values[record.offset.0 as usize];
                                    assert_eq!(record.value.unwrap(), value.as_bytes());
                                }
                            }
                        }
                        Err(ReadError::Trimmed { start }) => assert!(from < start),
                        Err(error) => panic!("{from}: {error}"),
                    }
                }
            });
        }
        while let Some(work) = log.recompression_candidate() {
            if let Some(done) = work.run().unwrap() {
                log.install(done).unwrap();
            }
        }
        for to in (0..500).step_by(25) {
            log.trim(Offset(to)).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn idle_logs_hold_no_file_open() {
    let dir = tempfile::tempdir().unwrap();
    let files = Arc::new(FileCache::new(8));
    let open = |i: u32| {
        let dir = dir.path().join(i.to_string());
        let disk = Arc::new(StdDisk);
        PartitionLog::open(disk, files.clone(), &dir, TOPIC, PARTITION, options())
            .unwrap()
            .0
    };
    let mut logs: Vec<PartitionLog> = (0..40).map(open).collect();
    for log in &mut logs {
        append(log, &["a"], 0, 0);
    }
    assert!(files.open_files() <= 9, "{}", files.open_files());
    for log in logs {
        log.close().unwrap();
    }
    let logs: Vec<PartitionLog> = (0..40).map(open).collect();
    assert!(files.open_files() <= 9, "{}", files.open_files());
    for log in &logs {
        assert_eq!(read_all(&log.reader()), numbered(&["a"]));
    }
}

#[test]
fn a_batch_larger_than_a_segment_has_one_to_itself() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk, small_segments(1_000));
    let values = [vec![b'a'; 10], vec![b'b'; 5_000], vec![b'c'; 10]];
    for value in &values {
        append(&mut log, &[value], 0, 0);
    }
    assert_eq!(log.reader().stats().segments, 3);
    assert_eq!(read_from(&log.reader(), Offset(0), 1), numbered(&values));
}

#[test]
fn old_segments_are_sealed_by_the_next_append_too() {
    let disk = SimDisk::default();
    let (mut log, _) = open(
        &disk,
        LogOptions {
            segment_ms: 100,
            ..options()
        },
    );
    for time in [0, 50, 99, 100, 150, 250] {
        append(&mut log, &["x"], time, time);
    }
    assert_eq!(log.reader().stats().segments, 3);
}

#[test]
fn the_first_append_says_what_kept_it_from_creating_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let (mut log, _) = open_on(Arc::new(StdDisk), &path.join("log"), options());
    std::fs::write(&path, b"not a directory").unwrap();
    let error = log
        .append(vec![batch(&["a"])], EPOCH, Timestamp(0))
        .unwrap_err();
    assert!(matches!(error, AppendError::NotWritten(_)), "{error:?}");
    std::fs::remove_file(&path).unwrap();
    log.append(vec![batch(&["a"])], EPOCH, Timestamp(0))
        .unwrap();
    assert_eq!(log.sync().unwrap(), Offset(1));
}

#[test]
fn batches_keep_the_codec_they_came_with() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk, zstd(1 << 20));
    let mut builder = crate::record::BatchBuilder::default();
    let record = crate::record::Record::text("again and again and again and again and again");
    (0..20).for_each(|_| builder.push(&record, Timestamp(0)));
    let packed = builder
        .build(Codec::Zstd, crate::record::Producer::default())
        .unwrap();
    log.append(
        vec![packed.bytes().as_ref().into(), batch(&["plain"])],
        EPOCH,
        Timestamp(0),
    )
    .unwrap();
    log.publish(log.log_end());
    let read = split_batches(log.reader().read(Offset(0), 1 << 20).unwrap()).unwrap();
    let codecs: Vec<Codec> = read.iter().map(|batch| batch.header.codec).collect();
    assert_eq!(codecs, [Codec::Zstd, Codec::None]);
    assert_eq!(read[0].header.body_crc, packed.header.body_crc);
}
