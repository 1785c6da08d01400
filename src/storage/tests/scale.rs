//! Opening many logs, and a large one. Few and small by default; the numbers at scale are printed
//! with `PILGRIMAGE_LOGS=10000 PILGRIMAGE_MIB=10240 cargo test --release scale -- --nocapture`.

use std::sync::Arc;
use std::time::Instant;

use super::*;
use crate::storage::StdDisk;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(default)
}

#[test]
fn many_idle_logs_open_with_everything_they_held() {
    let dir = tempfile::tempdir().unwrap();
    let count = number("PILGRIMAGE_LOGS", 100);
    let open = |i: u64, files: &Arc<FileCache>| {
        let dir = dir.path().join(i.to_string());
        PartitionLog::open(
            Arc::new(StdDisk),
            files.clone(),
            &dir,
            TOPIC,
            PARTITION,
            options(),
        )
        .unwrap()
    };
    let files = Arc::new(FileCache::new(256));
    let begun = Instant::now();
    let logs: Vec<_> = (0..count).map(|i| open(i, &files)).collect();
    let fresh = begun.elapsed();
    drop(logs);
    for i in 0..count {
        let (mut log, _) = open(i, &files);
        log.append(vec![batch(&["a", "b"])], EPOCH, Timestamp(0))
            .unwrap();
        log.sync().unwrap();
        if i % 2 == 0 {
            log.close().unwrap();
        }
    }
    let begun = Instant::now();
    let logs: Vec<_> = (0..count).map(|i| open(i, &files)).collect();
    let again = begun.elapsed();
    assert!(logs.iter().all(|(log, _)| log.log_end() == Offset(2)));
    eprintln!("{count} logs: {fresh:?} before the first record, {again:?} with records");
}

#[test]
fn a_large_log_opens_and_reads_whole_with_and_without_its_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let mib = number("PILGRIMAGE_MIB", 48);
    let (mut log, _) = open_on(Arc::new(StdDisk), dir.path(), small_segments(16 << 20));
    let values = vec![vec![b'x'; 1000]; 1000];
    let group = batch(&values);
    for _ in 0..mib {
        log.append(vec![group.clone()], EPOCH, Timestamp(0))
            .unwrap();
    }
    log.sync().unwrap();
    let open = || {
        let begun = Instant::now();
        let (log, recovery) = open_on(Arc::new(StdDisk), dir.path(), small_segments(16 << 20));
        eprintln!("{mib} MiB: {:?}, {recovery:?}", begun.elapsed());
        log
    };
    log.close().unwrap();
    drop(open());
    let path = dir.path().join("checkpoint");
    std::fs::remove_file(path).unwrap();
    let log = open();
    let begun = Instant::now();
    let bytes = log.reader().read(Offset(mib * 500), 1 << 20).unwrap();
    eprintln!(
        "first read in the middle: {:?} for {} bytes",
        begun.elapsed(),
        bytes.len()
    );
    let begun = Instant::now();
    let (mut next, mut total) = (Offset(0), 0);
    while next < log.log_end() {
        let bytes = log.reader().read(next, 1 << 20).unwrap();
        total += bytes.len();
        next = split_batches(bytes)
            .unwrap()
            .last()
            .unwrap()
            .header
            .end_offset();
    }
    eprintln!("reading all: {:?} for {total} bytes", begun.elapsed());
    assert_eq!(next, Offset(mib * 1000));
    assert_eq!(total as u64, mib * group.len() as u64);
}
