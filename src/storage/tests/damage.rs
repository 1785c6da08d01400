//! Bit rot, missing bytes and misplaced files: nothing wrong is ever served, nothing that was
//! durable is cut off, and everything that is whole stays readable.

use std::path::PathBuf;
use std::sync::Arc;

use super::sim::{Crash, SimDisk};
use super::*;
use crate::storage::{OpenError, ReadError, inspect};

const DIR: &str = "/log";

fn sampled(count: usize) -> impl Iterator<Item = usize> {
    // All of them when asked for; otherwise a prime stride, so that every field gets its turn.
    let stride = if std::env::var_os("PILGRIMAGE_EVERY_BYTE").is_some() {
        1
    } else {
        13
    };
    (0..count).step_by(stride)
}

fn open(disk: &SimDisk, options: LogOptions) -> (PartitionLog, Recovery) {
    open_on(Arc::new(disk.clone()), Path::new(DIR), options)
}

fn path_of(disk: &SimDisk, suffix: &str) -> PathBuf {
    disk.files()
        .into_iter()
        .find(|path| path.to_str().unwrap().ends_with(suffix))
        .unwrap()
}

/// A log of a few small segments, closed properly or not, and its records.
fn sample(closed: bool) -> (SimDisk, Vec<(u64, Bytes)>) {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk, small_segments(1_500));
    let values: Vec<Vec<u8>> = (0..24u8)
        .map(|i| vec![b'a' + i; 40 + 9 * usize::from(i)])
        .collect();
    for (i, pair) in values.chunks(2).enumerate() {
        log.append(
            vec![batch_at(pair, i as i64)],
            EPOCH,
            Timestamp(i as i64 * 60),
        )
        .unwrap();
        log.sync().unwrap();
        log.publish(log.log_end());
    }
    if closed {
        log.close().unwrap();
    }
    (disk, numbered(&values))
}

/// Reads every offset of the log by itself: what is served must be right.
fn read_each(log: &PartitionLog, want: &[(u64, Bytes)]) -> Vec<u64> {
    let reader = log.reader();
    let mut found = Vec::new();
    for offset in reader.log_start().0..reader.high_watermark().0 {
        match reader.read_verified(Offset(offset), 1) {
            Ok(bytes) => {
                let batch = split_batches(bytes).unwrap().remove(0);
                for record in batch.unpack().unwrap().records() {
                    let record = record.unwrap();
                    if record.offset.0 == offset {
                        assert_eq!(record.value.unwrap(), want[offset as usize].1);
                        found.push(offset);
                    }
                }
            }
            Err(ReadError::Corrupt { offset: first }) => assert!(first.0 <= offset),
            Err(error) => panic!("{offset}: {error}"),
        }
    }
    found
}

/// What is known to have been durable: without a close, the last checkpoint lags one batch behind.
fn known(closed: bool) -> u64 {
    if closed { 24 } else { 22 }
}

/// Opens a damaged log: it must open, serve nothing wrong, keep what was durable, and go on.
fn check(
    disk: &SimDisk,
    want: &[(u64, Bytes)],
    durable: u64,
    most_lost: usize,
    context: &str,
) -> Recovery {
    let (mut log, recovery) = open(disk, small_segments(1_500));
    let found = read_each(&log, want);
    assert!(
        want.len() <= found.len() + most_lost,
        "{context}: only {found:?} can be read, {recovery:?}"
    );
    assert!(
        durable <= log.log_end().0,
        "{context}: durable records were cut off: {recovery:?}"
    );
    let next = log.log_end();
    assert_eq!(
        recovery.truncated_bytes == 0,
        recovery.quarantined.is_empty(),
        "{context}"
    );
    log.append(
        vec![batch(&["goes on"])],
        LeaderEpoch(9),
        Timestamp(1 << 40),
    )
    .unwrap();
    log.sync().unwrap();
    log.publish(log.log_end());
    let on_disk = disk.crash(Crash::DropAll);
    let (again, _) = open(&on_disk, small_segments(1_500));
    for log in [&log, &again] {
        let bytes = log.reader().read_verified(next, 1).unwrap();
        let batch = split_batches(bytes).unwrap().remove(0);
        assert_eq!(batch.header.base_offset, next, "{context}");
        assert_eq!(
            read_each(log, &{
                let mut want = want.to_vec();
                want.resize(next.0 as usize, (0, Bytes::new()));
                want.push((next.0, Bytes::from_static(b"goes on")));
                want
            })
            .len(),
            found.len() + 1,
            "{context}"
        );
    }
    recovery
}

#[test]
fn one_flipped_bit_anywhere_costs_at_most_one_batch_and_is_never_served() {
    for closed in [true, false] {
        let (disk, want) = sample(closed);
        for path in disk.files() {
            let bytes = disk.bytes(&path);
            for at in sampled(bytes.len()) {
                let damaged = disk.crash(Crash::KeepAll);
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << (at % 8);
                damaged.replace_bytes(&path, flipped);
                check(
                    &damaged,
                    &want,
                    known(closed),
                    2,
                    &format!("{} at {at}, closed {closed}", path.display()),
                );
            }
        }
    }
}

#[test]
fn a_file_cut_short_anywhere_is_noticed_and_the_rest_is_read() {
    for closed in [true, false] {
        let (disk, want) = sample(closed);
        for path in disk.files() {
            let bytes = disk.bytes(&path);
            for len in sampled(bytes.len()) {
                let damaged = disk.crash(Crash::KeepAll);
                damaged.replace_bytes(&path, bytes[..len].to_vec());
                check(
                    &damaged,
                    &want,
                    known(closed),
                    10,
                    &format!("{} cut to {len}, closed {closed}", path.display()),
                );
            }
        }
    }
}

#[test]
fn zeroed_sectors_cost_only_what_they_hold() {
    let (disk, want) = sample(true);
    for path in disk.files() {
        let bytes = disk.bytes(&path);
        for start in (0..bytes.len()).step_by(512) {
            let damaged = disk.crash(Crash::KeepAll);
            let mut zeroed = bytes.clone();
            let end = zeroed.len().min(start + 512);
            zeroed[start..end].fill(0);
            damaged.replace_bytes(&path, zeroed);
            check(
                &damaged,
                &want,
                24,
                10,
                &format!("{} zeroed from {start}", path.display()),
            );
        }
    }
}

#[test]
fn a_log_without_its_derived_files_is_the_same_log() {
    for closed in [true, false] {
        let (disk, want) = sample(closed);
        for suffix in [".index", "checkpoint"] {
            for path in disk.files() {
                if path.to_str().unwrap().ends_with(suffix) {
                    Disk::remove(&disk, &path).unwrap();
                }
            }
            let recovery = check(&disk.crash(Crash::KeepAll), &want, 24, 0, suffix);
            assert_eq!(recovery.corrupt, [], "{suffix}");
            assert_eq!(recovery.truncated_bytes, 0, "{suffix}");
        }
    }
}

#[test]
fn a_missing_segment_is_a_hole_and_not_an_end() {
    let (disk, want) = sample(true);
    let segments: Vec<PathBuf> = disk
        .files()
        .into_iter()
        .filter(|path| path.to_str().unwrap().ends_with(".log"))
        .collect();
    for path in &segments[1..] {
        let damaged = disk.crash(Crash::KeepAll);
        Disk::remove(&damaged, path).unwrap();
        check(
            &damaged,
            &want,
            24,
            12,
            &format!("without {}", path.display()),
        );
    }
}

#[test]
fn damage_before_durable_records_is_kept_and_reported() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk, options());
    for value in ["first", "second", "third"] {
        log.append(vec![batch(&[value, "and another"])], EPOCH, Timestamp(0))
            .unwrap();
        log.sync().unwrap();
    }
    let path = path_of(&disk, ".log");
    let mut bytes = disk.bytes(&path);
    bytes[64 + 128 + 10] ^= 1;
    disk.replace_bytes(&path, bytes.clone());
    // Only the batches themselves can now tell what had been durable.
    Disk::remove(&disk, &path_of(&disk, "checkpoint")).unwrap();
    let (mut log, recovery) = open(&disk, options());
    assert_eq!(
        recovery,
        Recovery {
            log_end: Offset(6),
            corrupt: vec![Offset(0)..Offset(2)],
            ..Recovery::default()
        }
    );
    let kept = disk.bytes(&path);
    assert_eq!(kept[..], bytes[..kept.len()], "damaged bytes are evidence");
    assert!(bytes[kept.len()..].iter().all(|byte| *byte == 0));
    let reader = log.reader();
    assert!(matches!(
        reader.read_verified(Offset(1), 1),
        Err(ReadError::Corrupt { offset: Offset(0) })
    ));
    let after = read_from(&reader, Offset(2), 1 << 20);
    assert_eq!(after.len(), 4);
    let headers = log
        .append(vec![batch(&["goes on"])], EPOCH, Timestamp(0))
        .unwrap();
    assert_eq!(headers[0].base_offset, Offset(6));
    assert_eq!(
        reader.stats().segments,
        2,
        "a damaged segment takes no more records"
    );
}

#[test]
fn a_torn_tail_is_cut_and_kept_for_inspection() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk, options());
    log.append(vec![batch(&["durable"])], EPOCH, Timestamp(0))
        .unwrap();
    log.sync().unwrap();
    log.append(
        vec![batch(&["torn away, with a long enough value"])],
        EPOCH,
        Timestamp(0),
    )
    .unwrap();
    let path = path_of(&disk, ".log");
    let mut bytes = disk.bytes(&path);
    let data = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    bytes[data - 1] = 0;
    let torn = disk.crash(Crash::KeepAll);
    torn.replace_bytes(&path, bytes.clone());
    let (log, recovery) = open(&torn, options());
    assert_eq!(log.log_end(), Offset(1));
    let begun = bytes
        .windows(4)
        .rposition(|window| window == crate::record::MAGIC)
        .unwrap();
    let cut = (data - 1 - begun) as u64;
    let [kept] = &recovery.quarantined[..] else {
        panic!("{recovery:?}")
    };
    assert_eq!(torn.bytes(kept), bytes[begun..data - 1]);
    let quarantined = recovery.quarantined.clone();
    assert_eq!(
        recovery,
        Recovery {
            log_end: Offset(1),
            truncated_bytes: cut,
            quarantined,
            ..Recovery::default()
        }
    );
}

#[test]
fn a_batch_of_another_history_is_not_taken_for_this_one() {
    let history = |letter: &str| {
        let disk = SimDisk::default();
        let (mut log, _) = open(&disk, options());
        for i in 0..5 {
            let value = format!("{letter} {i}");
            log.append(vec![batch(&[value])], EPOCH, Timestamp(0))
                .unwrap();
            log.sync().unwrap();
        }
        log.close().unwrap();
        disk
    };
    let (ours, theirs) = (history("a"), history("b"));
    let path = path_of(&ours, ".log");
    let (mut bytes, other) = (ours.bytes(&path), theirs.bytes(&path));
    let third = |bytes: &[u8]| {
        let at = bytes
            .windows(4)
            .enumerate()
            .filter(|(_, w)| *w == crate::record::MAGIC);
        at.map(|(at, _)| at).collect::<Vec<_>>()[2..4].to_vec()
    };
    let (from, to) = (third(&bytes)[0], third(&bytes)[1]);
    assert_eq!(third(&bytes), third(&other));
    // A write that went astray: sound in itself, of the right log and offset.
    bytes[from..to].copy_from_slice(&other[from..to]);
    ours.replace_bytes(&path, bytes);
    let (log, _) = open(&ours, options());
    let got = log.reader().read_verified(Offset(0), 1 << 20).unwrap();
    let batches = split_batches(got).unwrap();
    assert_eq!(batches.len(), 2, "reading stops before what is not chained");
    let report = inspect::verify(&ours, Path::new(DIR)).unwrap();
    assert_eq!(
        report[0].first_fault,
        Some(inspect::Finding {
            position: from as u64,
            fault: inspect::Fault::Place { offset: Offset(2) },
        })
    );
}

#[test]
fn a_segment_of_another_partition_is_refused_by_name() {
    let (disk, _) = sample(true);
    let other = PartitionLog::open(
        Arc::new(disk.clone()),
        Arc::new(FileCache::new(4)),
        Path::new(DIR),
        TOPIC,
        Partition(4),
        options(),
    );
    assert!(matches!(other, Err(OpenError::Foreign { .. })));
}

#[test]
fn an_inspection_finds_what_is_there_and_changes_nothing() {
    let (disk, want) = sample(false);
    let before: Vec<_> = disk
        .files()
        .iter()
        .map(|path| (path.clone(), disk.bytes(path)))
        .collect();
    let changes = disk.changes();
    let mut seen = Vec::new();
    let reports = inspect::scan(&disk, Path::new(DIR), |batch| {
        for record in batch.batch.unpack().unwrap().records() {
            let record = record.unwrap();
            seen.push((
                record.offset.0,
                Bytes::copy_from_slice(record.value.unwrap()),
            ));
        }
        true
    })
    .unwrap();
    assert_eq!(seen, want);
    assert_eq!(reports.iter().map(|report| report.faults).sum::<u64>(), 0);
    assert_eq!(reports.iter().map(|report| report.records).sum::<u64>(), 24);
    assert_eq!(reports.last().unwrap().end, Offset(24));
    assert_eq!(disk.changes(), changes);
    let one = inspect::verify(&disk, &reports[1].path).unwrap();
    assert_eq!(one, [reports[1].clone()]);

    for (path, bytes) in before
        .iter()
        .filter(|(path, _)| path.to_str().unwrap().ends_with(".log"))
    {
        let data = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        for at in sampled(data) {
            let damaged = disk.crash(Crash::KeepAll);
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x40;
            damaged.replace_bytes(path, flipped);
            let faults: u64 = inspect::verify(&damaged, Path::new(DIR))
                .unwrap()
                .iter()
                .map(|r| r.faults)
                .sum();
            assert!(0 < faults, "{} at {at}", path.display());
        }
    }
}
