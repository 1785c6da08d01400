//! Any sequence of operations, on real files, against a list in memory.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::storage::{ReadError, StdDisk};

#[derive(Debug, Clone)]
enum Op {
    Append(Vec<Vec<u8>>, bool),
    Read(u64, usize),
    Trim(u64),
    Retain,
    Recompress,
    Reopen(bool),
    FindTime(i64),
}

fn op() -> impl Strategy<Value = Op> {
    let value = prop_oneof![vec(any::<u8>(), 0..40), vec(Just(b'x'), 0..2_000)];
    prop_oneof![
        6 => (vec(value, 1..5), any::<bool>()).prop_map(|(values, one)| Op::Append(values, one)),
        4 => (any::<u64>(), 0..6_000usize).prop_map(|(at, max)| Op::Read(at, max)),
        1 => any::<u64>().prop_map(Op::Trim),
        1 => Just(Op::Retain),
        1 => Just(Op::Recompress),
        1 => any::<bool>().prop_map(Op::Reopen),
        1 => (0..300i64).prop_map(Op::FindTime),
    ]
}

fn cases() -> u32 {
    std::env::var("PILGRIMAGE_MODEL_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(16)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn a_log_behaves_like_a_list(ops in vec(op(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let options = LogOptions {
            retention_bytes: Some(20_000),
            compression: Compression::Zstd,
            ..small_segments(4_096)
        };
        let open = || open_on(Arc::new(StdDisk), &path, options.clone());
        let mut log = open().0;
        let mut model: Vec<(Vec<u8>, i64)> = Vec::new();
        let mut start = 0;
        let mut now = 0;
        for op in ops {
            now += 5;
            match op {
                Op::Append(values, one) => {
                    let batches = if one {
                        vec![batch_at(&values, now)]
                    } else {
                        values.iter().map(|value| batch_at(&[value], now)).collect()
                    };
                    let headers = log.append(batches, EPOCH, Timestamp(now)).unwrap();
                    prop_assert_eq!(headers[0].base_offset.0, model.len() as u64);
                    model.extend(values.into_iter().map(|value| (value, now)));
                    prop_assert_eq!(log.sync().unwrap().0, model.len() as u64);
                    log.publish(log.log_end());
                }
                Op::Read(at, max) => {
                    let at = at % (model.len() as u64 + 2);
                    match log.reader().read_verified(Offset(at), max) {
                        Ok(bytes) if bytes.is_empty() => prop_assert_eq!(at, model.len() as u64),
                        Ok(bytes) => {
                            let batches = split_batches(bytes).unwrap();
                            prop_assert!(batches[0].header.base_offset.0 <= at);
                            prop_assert!(at < batches[0].header.end_offset().0);
                            for batch in batches {
                                for record in batch.unpack().unwrap().records() {
                                    let record = record.unwrap();
                                    let (value, time) = &model[record.offset.0 as usize];
                                    prop_assert_eq!(record.value.unwrap(), &value[..]);
                                    prop_assert_eq!(record.timestamp.0, *time);
                                }
                            }
                        }
                        Err(ReadError::Trimmed { start: from }) => {
                            prop_assert_eq!(from.0, start);
                            prop_assert!(at < start);
                        }
                        Err(ReadError::OutOfRange { end }) => {
                            prop_assert_eq!(end.0, model.len() as u64);
                            prop_assert!(end.0 < at);
                        }
                        Err(error) => prop_assert!(false, "{error}"),
                    }
                }
                Op::Trim(to) => {
                    let to = to % (model.len() as u64 + 1);
                    start = start.max(to);
                    prop_assert_eq!(log.trim(Offset(to)).unwrap().0, start);
                }
                Op::Retain => {
                    log.enforce_retention(Timestamp(now)).unwrap();
                    prop_assert!(start <= log.log_start().0);
                    start = log.log_start().0;
                }
                Op::Recompress => {
                    if let Some(work) = log.recompression_candidate()
                        && let Some(done) = work.run().unwrap()
                    {
                        log.install(done).unwrap();
                    }
                }
                Op::Reopen(close) => {
                    if close {
                        log.close().unwrap();
                    }
                    let (next, recovery) = open();
                    prop_assert_eq!(recovery.corrupt, vec![]);
                    prop_assert_eq!(recovery.truncated_bytes, 0);
                    log = next;
                }
                Op::FindTime(time) => {
                    let want = (start as usize..model.len()).find(|at| time <= model[*at].1);
                    let want = want.map(|at| (Offset(at as u64), Timestamp(model[at].1)));
                    let found = log.reader().offset_for_timestamp(Timestamp(time)).unwrap();
                    prop_assert_eq!(found, want);
                }
            }
            let positions = (log.log_start().0, log.log_end().0, log.durable_end().0);
            prop_assert_eq!(positions, (start, model.len() as u64, model.len() as u64));
        }
        let all: Vec<_> = read_all(&log.reader())
            .into_iter()
            .filter(|(offset, _)| start <= *offset)
            .map(|(_, value)| value.to_vec())
            .collect();
        let want: Vec<_> = model[start as usize..].iter().map(|(value, _)| value.clone()).collect();
        prop_assert_eq!(all, want);
    }
}
