//! What a record costs before it reaches the disk: encode, check, unpack, compress.
#![allow(missing_docs)]

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pilgrimage::record::{Batch, BatchBuilder, Codec, Producer, Record, murmur2};
use pilgrimage::types::Timestamp;

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn records(count: usize, size: usize) -> Vec<Record> {
    let text = "the quick brown fox jumps over the lazy dog ".repeat(size / 44 + 1);
    (0..count)
        .map(|i| Record::text(&text[..size]).with_key(format!("key-{i}")))
        .collect()
}

fn build(records: &[Record], codec: Codec) -> Option<Batch> {
    let mut builder = BatchBuilder::default();
    for record in records {
        builder.push(record, NOW);
    }
    builder.build(codec, Producer::default())
}

fn batches(c: &mut Criterion) {
    for (count, size) in [(1, 100), (1000, 100), (1000, 1024), (1, 1 << 20)] {
        let records = records(count, size);
        let mut group = c.benchmark_group(format!("{count} x {size} B"));
        group.throughput(Throughput::Bytes((count * size) as u64));
        for (name, codec) in [("none", Codec::None), ("zstd", Codec::Zstd)] {
            group.bench_function(BenchmarkId::new("encode", name), |b| {
                b.iter(|| build(&records, codec))
            });
            let Some(batch) = build(&records, codec) else {
                continue;
            };
            group.bench_function(BenchmarkId::new("check", name), |b| {
                b.iter(|| batch.check(u32::MAX))
            });
            group.bench_function(BenchmarkId::new("read", name), |b| {
                b.iter(|| {
                    batch.unpack().map(|unpacked| {
                        unpacked
                            .records()
                            .flatten()
                            .map(|r| r.size())
                            .sum::<usize>()
                    })
                });
            });
            let bytes = batch.bytes().clone();
            group.bench_function(BenchmarkId::new("checksum", name), |b| {
                b.iter(|| Batch::take(&mut Bytes::clone(&bytes)).and_then(|batch| batch.verify()));
            });
        }
        group.finish();
    }
    c.bench_function("murmur2 of 16 B", |b| {
        b.iter(|| murmur2(std::hint::black_box(b"0123456789abcdef")))
    });
}

criterion_group!(benches, batches);
criterion_main!(benches);
