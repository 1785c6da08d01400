//! The bytes on disk, written down once: a change here is a change of format.

use std::sync::Arc;

use super::sim::SimDisk;
use super::*;
use crate::storage::{inspect, segment::SegmentHeader};

fn hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(32).map(|line| {
        line.iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A log of one batch of two records, synced and closed at a known time.
fn sample() -> SimDisk {
    let disk = SimDisk::default();
    let (mut log, _) = open_on(Arc::new(disk.clone()), Path::new("/log"), options());
    let values = ["hello", "world"];
    log.append(
        vec![batch_at(&values, 1_700_000_000_000)],
        LeaderEpoch(7),
        Timestamp(1_700_000_000_123),
    )
    .unwrap();
    log.close().unwrap();
    disk
}

#[test]
fn a_segment_has_these_bytes() {
    let bytes = sample().bytes(Path::new("/log/00000000000000000000.log"));
    assert_eq!(hex(&bytes), SEGMENT.trim());
}

#[test]
fn an_index_file_has_these_bytes() {
    let bytes = sample().bytes(Path::new("/log/00000000000000000000.index"));
    assert_eq!(hex(&bytes), INDEX.trim());
}

#[test]
fn a_checkpoint_has_these_bytes() {
    let bytes = sample().bytes(Path::new("/log/checkpoint"));
    assert_eq!(hex(&bytes[512..]), FIRST_SLOT.trim());
    assert_eq!(hex(&bytes[..104]), SECOND_SLOT.trim());
    assert!(bytes[104..512].iter().all(|byte| *byte == 0));
}

#[test]
fn a_recompressed_segments_header_has_these_bytes_and_no_prefix_is_one() {
    let header = SegmentHeader {
        topic_id: TOPIC,
        partition: PARTITION,
        recompressed: true,
        after_gap: true,
        marked: false,
        base_offset: Offset(0x0102_0304_0506_0708),
        prev_crc: 0x1111_2222,
        last_crc: 0x3333_4444,
        appended_bytes: 0x5555_6666,
        prev_append_time: Timestamp(1_700_000_000_123),
    };
    let bytes = header.to_bytes();
    assert_eq!(hex(&bytes), RECOMPRESSED.trim());
    assert_eq!(SegmentHeader::parse(&bytes), Some(header));
    for len in 0..bytes.len() {
        assert_eq!(SegmentHeader::parse(&bytes[..len]), None);
    }
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes;
            flipped[at] ^= 1 << bit;
            assert_eq!(
                SegmentHeader::parse(&flipped),
                None,
                "bit {bit} of byte {at}"
            );
        }
    }
}

#[test]
fn the_golden_log_is_read_as_it_was_written() {
    let disk = sample();
    let reports = inspect::verify(&disk, Path::new("/log")).unwrap();
    assert_eq!((reports[0].records, reports[0].faults), (2, 0));
    let (log, recovery) = open_on(Arc::new(disk), Path::new("/log"), options());
    assert!(recovery.clean);
    assert_eq!(read_all(&log.reader()), numbered(&["hello", "world"]));
}

// Computed by another program from the tables of the format's page.
const SEGMENT: &str = "
504c5301d560b12d0123456789abcdef0123456789abcdef0300000000000000
0000000000000000000000000000000000000000000000000000000000000080
504c4701247cb79e98000000000000000123456789abcdef0123456789abcdef
0300000007000000000000000000000000000000000000007b68e5cf8b010000
0000000000000000b79dbbc90000000002000000180000000068e5cf8b010000
0068e5cf8b010000000000000000000000000000000000000000000001000000
0b00000000000668656c6c6f0b000100000006776f726c64";
const INDEX: &str = "
504c4901e4cd48bdd560b12d0000000000000000000000000000000000000000
7ea5bae700000000000000000000000040000000000000000000000000000080";
const FIRST_SLOT: &str = "
504c4302c4aecda30123456789abcdef0123456789abcdef0300000000000000
0100000000000000000000000000000002000000000000000000000000000000
d800000000000000247cb79e070000007b68e5cf8b0100000068e5cf8b010000
0000000000000000";
const SECOND_SLOT: &str = "
504c4302464731840123456789abcdef0123456789abcdef0300000001000000
0200000000000000000000000000000002000000000000000000000000000000
d800000000000000247cb79e070000007b68e5cf8b0100000068e5cf8b010000
0000000000000000";
const RECOMPRESSED: &str = "
504c5301cd8732990123456789abcdef0123456789abcdef0300000003000000
0807060504030201222211114444333366665555000000007b68e5cf8b010000";
