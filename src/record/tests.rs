//! What the batch format promises, on bytes.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::types::{LeaderEpoch, Partition, TopicId};

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn place() -> Assignment {
    Assignment {
        topic_id: TopicId(Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff)),
        partition: Partition(3),
        leader_epoch: LeaderEpoch(7),
        base_offset: Offset(41),
        durable_at_append: Offset(40),
        append_time: Timestamp(1_700_000_000_123),
        use_append_time: false,
        prev_crc: 0xdead_beef,
    }
}

fn build(records: &[Record], codec: Codec) -> Batch {
    let mut builder = BatchBuilder::default();
    for record in records {
        builder.push(record, NOW);
    }
    builder.build(codec, Producer::default()).unwrap()
}

fn assigned(batch: Batch) -> Batch {
    let mut bytes = BytesMut::from(Bytes::from(batch).as_ref());
    assign(&mut bytes, &place()).unwrap();
    Batch::take(&mut bytes.freeze()).unwrap()
}

fn read(batch: &Batch) -> Result<Vec<StoredRecord>, BatchError> {
    batch.verify()?;
    let unpacked = batch.unpack()?;
    unpacked
        .records()
        .map(|record| record.map(|record| record.to_stored()))
        .collect()
}

fn some_records() -> Vec<Record> {
    vec![
        Record::text("hello").with_key("k"),
        Record::json(&serde_json::json!({"a": [1, 2.5, "ü"]}))
            .unwrap()
            .with_header("h", "1")
            .with_header("h", "2"),
        Record {
            value: None,
            key: Some(Bytes::from_static(b"gone")),
            ..Record::default()
        },
        Record {
            value: Some(Bytes::new()),
            timestamp: Some(Timestamp(5)),
            ..Record::default()
        },
        Record::binary(vec![0, 255, 10, 13]),
    ]
}

#[test]
fn the_layout_of_a_batch_never_changes() {
    let record = Record::text("hello").with_key("k").with_header("h", "v");
    let batch = assigned(build(&[record], Codec::None));
    let hex: String = batch
        .bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let expected = concat!(
        "504c4701",
        "5c98eb97",
        "91000000",
        "efbeadde",                         // magic, header_crc, batch_len, prev_crc
        "00112233445566778899aabbccddeeff", // topic_id
        "03000000",
        "07000000",
        "2900000000000000", // partition, leader_epoch, base_offset
        "2800000000000000",
        "7b68e5cf8b010000", // durable_at_append, append_time
        "00000000",
        "00000000", // log_flags, reserved
        "ef269eca",
        "00000000",
        "01000000",
        "11000000", // body_crc, codec and reserved, record_count, unpacked_len
        "0068e5cf8b010000",
        "0068e5cf8b010000", // base_timestamp, max_timestamp
        "0000000000000000",
        "00000000",
        "0000",
        "0000", // producer_id, base_sequence, producer_epoch, extension_len
        "00000000",
        "00000000", // key_id, last_offset_delta
        "10",
        "01",
        "00",
        "00", // record length, format, offset delta, timestamp delta
        "026b",
        "01",
        "0168",
        "0176",
        "0668656c6c6f", // key, header count, name, value, value
    );
    assert_eq!(hex, expected);
}

#[test]
fn records_come_back_exactly_and_in_order() {
    for codec in [Codec::None, Codec::Zstd] {
        let records = some_records();
        let expected: Vec<_> = records
            .iter()
            .zip(41..)
            .map(|(record, offset)| {
                let timestamp = record.timestamp.unwrap_or(NOW);
                let record = Record {
                    timestamp: Some(timestamp),
                    ..record.clone()
                };
                StoredRecord {
                    offset: Offset(offset),
                    timestamp,
                    record,
                }
            })
            .collect();
        assert_eq!(read(&assigned(build(&records, codec))).unwrap(), expected);
    }
}

#[test]
fn append_time_replaces_the_producers_time() {
    let mut bytes = BytesMut::from(Bytes::from(build(&some_records(), Codec::None)).as_ref());
    assign(
        &mut bytes,
        &Assignment {
            use_append_time: true,
            ..place()
        },
    )
    .unwrap();
    let batch = Batch::take(&mut bytes.freeze()).unwrap();
    let times: Vec<_> = read(&batch)
        .unwrap()
        .into_iter()
        .map(|record| record.timestamp)
        .collect();
    assert_eq!(times, [place().append_time; 5]);
}

#[test]
fn no_prefix_of_a_batch_is_a_batch() {
    for codec in [Codec::None, Codec::Zstd] {
        let whole = Bytes::from(assigned(build(&some_records(), codec)));
        for cut in 0..whole.len() {
            assert!(
                Batch::take(&mut whole.slice(..cut)).is_err(),
                "{cut} of {} bytes",
                whole.len()
            );
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_is_noticed() {
    for codec in [Codec::None, Codec::Zstd] {
        let whole = Bytes::from(assigned(build(&some_records(), codec)));
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let noticed = Header::parse_assigned(&bytes).is_err()
                || Batch::take(&mut Bytes::from(bytes))
                    .and_then(|batch| read(&batch))
                    .is_err();
            assert!(noticed, "bit {bit}");
        }
    }
}

#[test]
fn a_small_batch_that_unpacks_to_much_is_refused_without_the_memory() {
    let mut builder = BatchBuilder::default();
    builder.push(&Record::binary(vec![0; 1 << 20]), NOW);
    let honest = builder.build(Codec::Zstd, Producer::default()).unwrap();
    assert!(honest.bytes().len() < 2048);
    let mut bytes = honest.bytes().to_vec();
    bytes[84..88].copy_from_slice(&64u32.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[76..]);
    bytes[72..76].copy_from_slice(&crc.to_le_bytes());
    let lying = Batch::take(&mut Bytes::from(bytes)).unwrap();
    assert_eq!(lying.check(u32::MAX), Err(BatchError::Unpack(64)));
}

#[test]
fn a_producers_batch_that_breaks_a_rule_is_refused() {
    let batch = build(
        &[Record::text("ok"), Record::text("x".repeat(100))],
        Codec::None,
    );
    assert_eq!(batch.check(100), Ok(()));
    let source = InvalidRecord::TooLarge { size: 100, max: 99 };
    assert_eq!(
        batch.check(99),
        Err(BatchError::Record { index: 1, source })
    );
    let not_json = Record {
        format: Format::Json,
        ..Record::binary("{")
    };
    let source = InvalidRecord::NotJson;
    assert_eq!(
        build(&[not_json], Codec::None).check(99),
        Err(BatchError::Record { index: 0, source })
    );
}

#[test]
fn compressing_and_rechaining_change_neither_place_nor_records() {
    let records: Vec<_> = (0..100)
        .map(|i| Record::text(format!("line {i} ").repeat(10)))
        .collect();
    let plain = assigned(build(&records, Codec::None));
    let packed = plain.compressed(9).unwrap().unwrap().rechained(77);
    assert_eq!(read(&packed), read(&plain));
    assert!(packed.bytes().len() * 4 < plain.bytes().len());
    let again = Header::parse_assigned(packed.bytes()).unwrap();
    assert_eq!(
        Header {
            prev_crc: 77,
            ..again
        },
        Header {
            prev_crc: 77,
            codec: Codec::Zstd,
            batch_len: packed.header.batch_len,
            header_crc: packed.header.header_crc,
            body_crc: packed.header.body_crc,
            ..plain.header
        }
    );
    assert_eq!(packed.compressed(9), Ok(None));
}

#[test]
fn neighbours_merge_into_one_batch_with_the_same_records() {
    let mut batches = Vec::new();
    for (index, record) in some_records().into_iter().enumerate() {
        let mut bytes = BytesMut::from(Bytes::from(build(&[record], Codec::None)).as_ref());
        let base_offset = Offset(41 + index as u64);
        assign(
            &mut bytes,
            &Assignment {
                base_offset,
                ..place()
            },
        )
        .unwrap();
        batches.push(Batch::take(&mut bytes.freeze()).unwrap());
    }
    assert!(batches.windows(2).all(|pair| pair[0].may_merge(&pair[1])));
    assert!(!batches[1].may_merge(&batches[0]) && !batches[0].may_merge(&batches[2]));
    let merged = Batch::merged(&batches, 9).unwrap().unwrap();
    let apart: Vec<_> = batches
        .iter()
        .flat_map(|batch| read(batch).unwrap())
        .collect();
    assert_eq!(read(&merged).unwrap(), apart);
    assert_eq!(
        Header::parse_assigned(merged.bytes()).unwrap(),
        merged.header
    );
    assert_eq!(merged.header.end_offset(), Offset(46));
}

fn any_bytes(max: usize) -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..max).prop_map(Bytes::from)
}

fn any_record() -> impl Strategy<Value = Record> {
    let headers = proptest::collection::vec(("[a-z]{1,8}", any_bytes(20)), 0..4);
    let timestamp = proptest::option::of((0..=MAX_TIMESTAMP).prop_map(Timestamp));
    (
        proptest::option::of(any_bytes(30)),
        proptest::option::of(any_bytes(200)),
        headers,
        timestamp,
    )
        .prop_map(|(key, value, headers, timestamp)| Record {
            key,
            value,
            format: Format::Binary,
            headers,
            timestamp,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_goes_in_comes_out(records in proptest::collection::vec(any_record(), 1..20), zstd: bool) {
        let batch = build(&records, if zstd { Codec::Zstd } else { Codec::None });
        prop_assert_eq!(batch.check(1 << 20), Ok(()));
        let back: Vec<_> = read(&assigned(batch)).unwrap().into_iter().map(|stored| stored.record).collect();
        let sent: Vec<_> = records
            .into_iter()
            .map(|record| Record { timestamp: record.timestamp.or(Some(NOW)), ..record })
            .collect();
        prop_assert_eq!(back, sent);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Header::parse_assigned(&bytes);
        let _ = split_batches(Bytes::from(bytes));
    }

    #[test]
    fn arbitrary_payloads_behind_a_valid_header_never_panic(payload in any_bytes(300), count in 1u32..5, zstd: bool) {
        let mut bytes = build(&some_records(), Codec::None).bytes()[..HEADER_LEN].to_vec();
        bytes[76] = u8::from(zstd);
        bytes[80..84].copy_from_slice(&count.to_le_bytes());
        bytes[124..128].copy_from_slice(&(count - 1).to_le_bytes());
        bytes[84..88].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&payload);
        let len = bytes.len() as u32;
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[76..]);
        bytes[72..76].copy_from_slice(&crc.to_le_bytes());
        let batch = Batch::take(&mut Bytes::from(bytes)).unwrap();
        let _ = batch.check(1 << 20);
        let _ = batch.compressed(3);
    }
}
