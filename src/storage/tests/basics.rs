//! Appending, syncing, publishing, reading, opening again.

use std::sync::Arc;

use super::*;
use crate::storage::{AppendError, ReadError, StdDisk};

fn open(dir: &Path, options: LogOptions) -> (PartitionLog, Recovery) {
    open_on(Arc::new(StdDisk), dir, options)
}

#[test]
fn records_come_back_in_order_after_a_clean_close() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("topic/0");
    let (mut log, recovery) = open(&path, options());
    assert_eq!(
        recovery,
        Recovery {
            clean: true,
            ..Recovery::default()
        }
    );
    assert!(!path.exists(), "an empty log has no files");
    let headers = log
        .append(
            vec![batch(&["a", "b"]), batch(&["c"])],
            EPOCH,
            Timestamp(5_000),
        )
        .unwrap();
    assert_eq!(
        headers.iter().map(|h| h.base_offset.0).collect::<Vec<_>>(),
        [0, 2]
    );
    assert_eq!(headers[1].prev_crc, headers[0].header_crc);
    let reader = log.reader();
    assert_eq!(reader.high_watermark(), Offset(0));
    assert_eq!(log.durable_end(), Offset(0));
    assert_eq!(log.sync().unwrap(), Offset(3));
    log.publish(Offset(3));
    assert_eq!(read_all(&reader), numbered(&["a", "b", "c"]));
    log.close().unwrap();

    let (mut log, recovery) = open(&path, options());
    assert_eq!(
        recovery,
        Recovery {
            clean: true,
            log_end: Offset(3),
            ..Recovery::default()
        }
    );
    let next = log
        .append(vec![batch(&["d"])], EPOCH, Timestamp(4_000))
        .unwrap();
    assert_eq!(next[0].prev_crc, headers[1].header_crc);
    assert_eq!(
        next[0].append_time,
        Timestamp(5_000),
        "append times never go back"
    );
    log.sync().unwrap();
    log.publish(log.log_end());
    assert_eq!(read_all(&log.reader()), numbered(&["a", "b", "c", "d"]));
}

#[test]
fn a_log_that_was_not_closed_is_found_whole() {
    let dir = tempfile::tempdir().unwrap();
    let values: Vec<String> = (0..500)
        .map(|i| format!("value {i} {}", "x".repeat(i)))
        .collect();
    {
        let (mut log, _) = open(dir.path(), small_segments(16 * 1024));
        for (i, value) in values.iter().enumerate() {
            log.append(vec![batch(&[value])], EPOCH, Timestamp(i as i64 * 10))
                .unwrap();
            if i % 7 == 0 {
                log.sync().unwrap();
            }
        }
    }
    let (log, recovery) = open(dir.path(), small_segments(16 * 1024));
    assert_eq!(
        recovery,
        Recovery {
            log_end: Offset(500),
            ..Recovery::default()
        }
    );
    let reader = log.reader();
    assert!(3 < reader.stats().segments);
    for max_bytes in [1, 700, 5_000, 1 << 20] {
        assert_eq!(read_from(&reader, Offset(0), max_bytes), numbered(&values));
    }
    for from in 0..500 {
        let bytes = reader.read(Offset(from), 1).unwrap();
        let batches = split_batches(bytes).unwrap();
        assert_eq!(batches.len(), 1);
        assert_eq!(batches[0].header.base_offset, Offset(from));
    }
}

#[test]
fn a_read_says_why_it_has_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path(), options());
    let reader = log.reader();
    assert!(reader.read(Offset(0), 100).unwrap().is_empty());
    log.append(vec![batch(&["a", "b", "c"])], EPOCH, Timestamp(0))
        .unwrap();
    assert!(matches!(
        reader.read(Offset(1), 100),
        Err(ReadError::OutOfRange { end: Offset(0) })
    ));
    log.publish(Offset(2));
    assert!(
        reader.read(Offset(1), 100).unwrap().is_empty(),
        "half a batch is not shown"
    );
    log.publish(Offset(9));
    assert_eq!(reader.high_watermark(), Offset(3));
    log.publish(Offset(1));
    assert_eq!(reader.high_watermark(), Offset(3));
    assert_eq!(
        split_batches(reader.read(Offset(2), 1).unwrap())
            .unwrap()
            .len(),
        1
    );
    assert!(matches!(
        reader.read(Offset(4), 100),
        Err(ReadError::OutOfRange { end: Offset(3) })
    ));
    assert_eq!(log.trim(Offset(2)).unwrap(), Offset(2));
    assert!(matches!(
        reader.read(Offset(1), 100),
        Err(ReadError::Trimmed { start: Offset(2) })
    ));
    assert_eq!(
        split_batches(reader.read(Offset(2), 1).unwrap())
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn what_is_no_batch_is_refused_and_nothing_else_is_appended_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(dir.path(), options());
    let mut longer = batch(&["a"]);
    longer.extend_from_slice(b"x");
    let refused = log.append(vec![batch(&["a"]), longer], EPOCH, Timestamp(0));
    assert!(
        matches!(refused, Err(AppendError::Invalid { index: 1, .. })),
        "{refused:?}"
    );
    assert_eq!(log.log_end(), Offset(0));
    log.append(vec![batch(&["a"])], LeaderEpoch(5), Timestamp(0))
        .unwrap();
    let stale = log.append(vec![batch(&["a"])], LeaderEpoch(4), Timestamp(0));
    assert!(matches!(
        stale,
        Err(AppendError::StaleEpoch {
            current: LeaderEpoch(5),
            ..
        })
    ));
    assert_eq!(log.log_end(), Offset(1));
}
