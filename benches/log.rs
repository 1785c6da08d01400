//! What the disk path costs: one log's append + fdatasync and read, next to a bare file doing the
//! same, and a whole embedded broker with many producers waiting at once.
#![allow(missing_docs, clippy::expect_used, clippy::panic)]

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pilgrimage::Broker;
use pilgrimage::broker::{Once, Produce};
use pilgrimage::record::{BatchBuilder, Codec, Producer, Record};
use pilgrimage::storage::{FileCache, LogOptions, PartitionLog, StdDisk};
use pilgrimage::types::{
    Compression, LeaderEpoch, Offset, Partition, Timestamp, TopicId, TopicName,
};

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn batch(count: usize, size: usize) -> BytesMut {
    let mut builder = BatchBuilder::default();
    for _ in 0..count {
        builder.push(&Record::binary(vec![b'x'; size]), NOW);
    }
    builder
        .build(Codec::None, Producer::default())
        .map(|batch| BytesMut::from(batch.bytes().as_ref()))
        .unwrap_or_default()
}

fn open(dir: &std::path::Path) -> PartitionLog {
    let options = LogOptions {
        segment_bytes: 256 << 20,
        segment_ms: u64::MAX >> 1,
        retention_ms: None,
        retention_bytes: None,
        compression: Compression::Producer,
        use_append_time: false,
        replicated: false,
    };
    let topic = TopicId(uuid::Uuid::from_u128(1));
    let files = Arc::new(FileCache::new(64));
    match PartitionLog::open(Arc::new(StdDisk), files, dir, topic, Partition(0), options) {
        Ok((log, _)) => log,
        Err(error) => panic!("open: {error}"),
    }
}

fn log(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (count, size) in [(1, 100), (1000, 1024)] {
        let batch = batch(count, size);
        let mut group = c.benchmark_group(format!("append + fdatasync, {count} x {size} B"));
        group.throughput(Throughput::Bytes(batch.len() as u64));
        group.sample_size(30);
        let mut bare = File::create(dir.path().join("bare")).expect("a file");
        group.bench_function("bare file", |b| {
            b.iter(|| bare.write_all(&batch).and_then(|()| bare.sync_data()));
        });
        let mut log = open(&dir.path().join(format!("{count}-{size}")));
        group.bench_function("log", |b| {
            b.iter(|| {
                log.append(vec![batch.clone()], LeaderEpoch(1), NOW)
                    .expect("append");
                let end = log.sync().expect("sync");
                log.publish(end);
            });
        });
        group.finish();
        let reader = log.reader();
        let mut group = c.benchmark_group(format!("read 1 MiB of {count} x {size} B"));
        group.throughput(Throughput::Bytes(1 << 20));
        group.bench_function("log", |b| b.iter(|| reader.read(Offset::ZERO, 1 << 20)));
        group.finish();
        log.destroy().expect("destroy");
    }
}

fn broker(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let broker = runtime
        .block_on(Broker::new("bench", 1, 1, dir.path()))
        .expect("a broker");
    let topic: TopicName = "bench".parse().expect("a name");
    let mut group = c.benchmark_group("produce 100 B, every record acknowledged after fdatasync");
    let keys = AtomicU64::new(0);
    for (waiting, keyed) in [(1, false), (1, true), (64, false), (64, true)] {
        group.throughput(Throughput::Elements(waiting));
        let how = if keyed { ", idempotency keys" } else { "" };
        group.bench_function(format!("{waiting} waiting{how}"), |b| {
            b.to_async(&runtime).iter(|| async {
                let mut sent = tokio::task::JoinSet::new();
                for _ in 0..waiting {
                    let (broker, topic) = (broker.clone(), topic.clone());
                    let mut how = Produce::default();
                    if keyed {
                        let key = keys.fetch_add(1, Ordering::Relaxed);
                        how.once = Once::Key(format!("{key:032x}"));
                    }
                    sent.spawn(async move {
                        let record = vec![(None, Record::binary(vec![b'x'; 100]))];
                        broker.produce_once(&topic, record, &how).await
                    });
                }
                while let Some(done) = sent.join_next().await {
                    done.expect("a task").expect("an acknowledgement");
                }
            });
        });
    }
    group.finish();
    runtime.block_on(broker.close());
}

criterion_group!(benches, log, broker);
criterion_main!(benches);
