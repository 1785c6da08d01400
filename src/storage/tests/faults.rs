//! Disks that refuse: full, failing to write, failing to sync, failing to read.

use std::sync::Arc;

use super::sim::{Crash, Faults, SimDisk};
use super::*;
use crate::storage::{AppendError, ReadError, StorageError};

const DIR: &str = "/log";

fn open(disk: &SimDisk, options: LogOptions) -> (PartitionLog, Recovery) {
    open_on(Arc::new(disk.clone()), Path::new(DIR), options)
}

fn value(i: usize) -> String {
    format!("value {i} {}", "x".repeat(i * 37 % 600))
}

#[test]
fn after_a_failed_fsync_nothing_is_acknowledged_any_more() {
    // Every sync of the workload in turn: segments, directories, seals.
    for nth in 0.. {
        let disk = SimDisk::default();
        disk.set_faults(Faults {
            fail_sync_after: Some(nth),
            ..Faults::default()
        });
        let (mut log, _) = open(&disk, small_segments(1_000));
        let mut synced = 0;
        let mut failed = false;
        for i in 0..12 {
            match log.append(vec![batch(&[value(i)])], EPOCH, Timestamp(0)) {
                Ok(_) => {}
                Err(AppendError::Failed(_)) => failed = true,
                // The directory could not be made durable: nothing was begun.
                Err(AppendError::NotWritten(_)) if !log.is_poisoned() => break,
                Err(error) => panic!("{nth}: {error}"),
            }
            match log.sync() {
                Ok(end) => {
                    assert!(!failed, "{nth}: acknowledged after a failed fsync");
                    synced = end.0;
                }
                Err(StorageError::Poisoned { .. }) => assert!(failed, "{nth}"),
                Err(_) => failed = true,
            }
            if failed {
                break;
            }
        }
        if !failed && synced == 12 {
            assert!(8 < nth, "the workload syncs more often than {nth} times");
            return;
        }
        if failed {
            assert!(log.is_poisoned());
            let again = log.append(vec![batch(&["x"])], EPOCH, Timestamp(0));
            assert!(matches!(again, Err(AppendError::Poisoned)), "{nth}");
            assert!(
                matches!(log.sync(), Err(StorageError::Poisoned { .. })),
                "{nth}"
            );
            assert!(
                matches!(log.trim(Offset(0)), Err(StorageError::Poisoned { .. })),
                "{nth}"
            );
            assert!(
                matches!(log.close(), Err(StorageError::Poisoned { .. })),
                "{nth}"
            );
        }
        // A new start reads what the medium has, not what the cache pretends.
        for disk in [disk.crash(Crash::DropAll), disk] {
            disk.set_faults(Faults::default());
            let (log, recovery) = open(&disk, small_segments(1_000));
            assert_eq!(recovery.corrupt, [], "{nth}");
            assert!(synced <= log.log_end().0, "{nth}: {recovery:?}");
            let values: Vec<String> = (0..log.log_end().0 as usize).map(value).collect();
            assert_eq!(read_all(&log.reader()), numbered(&values), "{nth}");
            let found = log.log_end();
            let (again, _) = open(&disk.crash(Crash::DropAll), small_segments(1_000));
            assert_eq!(again.log_end(), found, "{nth}: what is shown is durable");
        }
    }
}

#[test]
fn a_write_that_stops_short_leaves_nothing_behind() {
    for nth in 0..40 {
        for bytes in [0, 1, 63, 64, 100, 300, 700] {
            let disk = SimDisk::default();
            disk.set_faults(Faults {
                short_write_after: Some((nth, bytes)),
                ..Faults::default()
            });
            let (mut log, _) = open(&disk, small_segments(1_000));
            let mut kept: Vec<String> = Vec::new();
            for i in 0..10 {
                // Groups that spread over several segments.
                let values = [value(i), value(i + 7), value(i + 11)];
                let group = values.iter().map(|value| batch(&[value])).collect();
                match log.append(group, EPOCH, Timestamp(i as i64 * 200)) {
                    Ok(headers) => {
                        assert_eq!(headers[0].base_offset.0, kept.len() as u64);
                        kept.extend(values);
                    }
                    Err(AppendError::NotWritten(_)) => {
                        assert_eq!(log.log_end().0, kept.len() as u64);
                    }
                    Err(error) => panic!("{nth} {bytes}: {error}"),
                }
                if i % 3 == 0 {
                    log.sync().unwrap();
                }
            }
            log.sync().unwrap();
            log.publish(log.log_end());
            assert_eq!(read_all(&log.reader()), numbered(&kept), "{nth} {bytes}");
            for mode in [Crash::KeepAll, Crash::DropAll] {
                let (log, recovery) = open(&disk.crash(mode), small_segments(1_000));
                assert_eq!((recovery.truncated_bytes, recovery.corrupt), (0, vec![]));
                assert_eq!(
                    read_all(&log.reader()),
                    numbered(&kept),
                    "{nth} {bytes} {mode:?}"
                );
            }
        }
    }
}

#[test]
fn a_full_disk_refuses_and_the_log_goes_on_when_there_is_room() {
    for quota in (200..9_000).step_by(173) {
        let disk = SimDisk::default();
        disk.set_faults(Faults {
            quota: Some(quota),
            ..Faults::default()
        });
        let (mut log, _) = open(&disk, small_segments(2_000));
        let mut kept: Vec<String> = Vec::new();
        let mut refused = 0;
        for i in 0..40 {
            match log.append(vec![batch(&[value(i)])], EPOCH, Timestamp(i as i64 * 50)) {
                Ok(_) => kept.push(value(i)),
                Err(error) => {
                    assert!(error.is_full(), "{quota}: {error}");
                    assert!(
                        matches!(error, AppendError::NotWritten(_)),
                        "{quota}: {error}"
                    );
                    refused += 1;
                }
            }
            log.sync().unwrap();
            log.publish(log.log_end());
        }
        assert!(0 < refused);
        assert_eq!(
            read_all(&log.reader()),
            numbered(&kept),
            "{quota}: reads go on"
        );
        // Deleting must work now of all times; it writes into the checkpoint that is there.
        let checkpoint = Path::new(DIR).join("checkpoint");
        if disk.exists(&checkpoint).unwrap() && disk.bytes(&checkpoint).len() == 512 + 96 {
            let half = Offset(log.log_end().0 / 2);
            let to = if quota % 2 == 0 { log.log_end() } else { half };
            assert_eq!(log.trim(to).unwrap(), to, "{quota}");
            log.enforce_retention(Timestamp(1 << 50)).unwrap();
        }
        // A restart on the full disk.
        drop(log);
        let (mut log, recovery) = open(&disk, small_segments(2_000));
        assert_eq!(
            (recovery.corrupt, log.log_end().0),
            (vec![], kept.len() as u64)
        );
        // Room again.
        disk.set_faults(Faults::default());
        log.append(vec![batch(&[value(99)])], EPOCH, Timestamp(9_000))
            .unwrap();
        kept.push(value(99));
        log.sync().unwrap();
        log.publish(log.log_end());
        let start = log.log_start().0 as usize;
        let want = numbered(&kept).split_off(start);
        assert_eq!(read_all(&log.reader())[..].last(), want.last(), "{quota}");
        log.close().unwrap();
        let (log, recovery) = open(&disk.crash(Crash::DropAll), small_segments(2_000));
        assert!(recovery.clean, "{quota}: {recovery:?}");
        let found = read_from(&log.reader(), log.log_start(), 1 << 20);
        assert_eq!(found, want, "{quota}");
    }
}

#[test]
fn a_read_error_is_an_error_and_never_wrong_bytes() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk, small_segments(1_000));
    for i in 0..10 {
        log.append(vec![batch(&[value(i)])], EPOCH, Timestamp(0))
            .unwrap();
    }
    log.sync().unwrap();
    log.publish(log.log_end());
    let reader = log.reader();
    let want = reader.read(Offset(3), 1).unwrap();
    for nth in 0..4 {
        disk.set_faults(Faults {
            fail_read_after: Some(nth),
            ..Faults::default()
        });
        match reader.read(Offset(3), 1) {
            Ok(bytes) => assert_eq!(bytes, want),
            Err(error) => assert!(matches!(error, ReadError::Io(_)), "{error}"),
        }
    }
    disk.set_faults(Faults::default());
    assert_eq!(reader.read(Offset(3), 1).unwrap(), want);
    for nth in 0..20 {
        disk.set_faults(Faults {
            fail_read_after: Some(nth),
            ..Faults::default()
        });
        let files = Arc::new(FileCache::new(4));
        let opened = PartitionLog::open(
            Arc::new(disk.clone()),
            files,
            Path::new(DIR),
            TOPIC,
            PARTITION,
            small_segments(1_000),
        );
        disk.set_faults(Faults::default());
        if let Ok((log, _)) = opened {
            assert_eq!(
                log.log_end(),
                Offset(10),
                "{nth}: an unreadable tail is not an end"
            );
        }
    }
    let (log, recovery) = open(&disk, small_segments(1_000));
    assert_eq!((log.log_end(), recovery.truncated_bytes), (Offset(10), 0));
}
