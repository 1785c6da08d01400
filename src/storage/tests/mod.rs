//! Promises of the log, against real files and a disk that can lose power at any moment.

mod basics;
mod crash;
mod damage;
mod faults;
mod golden;
mod model;
mod producers;
mod replica;
mod replica_crash;
mod replica_model;
mod scale;
pub(crate) mod sim;
mod upkeep;

use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::{Disk, FileCache, LogOptions, LogReader, PartitionLog, Recovery};
use crate::record::{BatchBuilder, Codec, Producer, Record, split_batches};
use crate::types::{Compression, LeaderEpoch, Offset, Partition, Timestamp, TopicId};

pub(crate) const TOPIC: TopicId = TopicId(uuid::Uuid::from_u128(
    0x0123_4567_89ab_cdef_0123_4567_89ab_cdef,
));
pub(crate) const PARTITION: Partition = Partition(3);
pub(crate) const EPOCH: LeaderEpoch = LeaderEpoch(1);

pub(crate) fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 256 * 1024 * 1024,
        segment_ms: 3_600_000,
        retention_ms: None,
        retention_bytes: None,
        compression: Compression::Producer,
        use_append_time: false,
        replicated: false,
    }
}

pub(crate) fn small_segments(bytes: u64) -> LogOptions {
    LogOptions {
        segment_bytes: bytes,
        ..options()
    }
}

/// A batch as a producer sends it.
pub(crate) fn batch_at(values: &[impl AsRef<[u8]>], time: i64) -> BytesMut {
    let mut builder = BatchBuilder::default();
    for value in values {
        builder.push(
            &Record::binary(Bytes::copy_from_slice(value.as_ref())),
            Timestamp(time),
        );
    }
    let batch = builder.build(Codec::None, Producer::default()).unwrap();
    BytesMut::from(batch.bytes().as_ref())
}

pub(crate) fn batch(values: &[impl AsRef<[u8]>]) -> BytesMut {
    batch_at(values, 1_000)
}

pub(crate) fn open_on(
    disk: Arc<dyn Disk>,
    dir: &Path,
    options: LogOptions,
) -> (PartitionLog, Recovery) {
    PartitionLog::open(
        disk,
        Arc::new(FileCache::new(16)),
        dir,
        TOPIC,
        PARTITION,
        options,
    )
    .unwrap()
}

/// Everything from `from` to the high watermark: offset and value of each record.
pub(crate) fn read_from(reader: &LogReader, from: Offset, max_bytes: usize) -> Vec<(u64, Bytes)> {
    let mut found = Vec::new();
    let mut next = from;
    while next < reader.high_watermark() {
        let bytes = reader.read_verified(next, max_bytes).unwrap();
        assert!(!bytes.is_empty(), "nothing at {next}");
        for batch in split_batches(bytes).unwrap() {
            batch.verify().unwrap();
            for record in batch.unpack().unwrap().records() {
                let record = record.unwrap();
                if from <= record.offset {
                    found.push((
                        record.offset.0,
                        Bytes::copy_from_slice(record.value.unwrap()),
                    ));
                }
            }
            next = batch.header.end_offset();
        }
    }
    found
}

pub(crate) fn read_all(reader: &LogReader) -> Vec<(u64, Bytes)> {
    read_from(reader, reader.log_start(), 1 << 20)
}

pub(crate) fn numbered(values: &[impl AsRef<[u8]>]) -> Vec<(u64, Bytes)> {
    (0..)
        .zip(
            values
                .iter()
                .map(|value| Bytes::copy_from_slice(value.as_ref())),
        )
        .collect()
}
