//! Reads back: to measure, and to prove that every byte is as it was written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pilgrimage::api::v1::Record;
use pilgrimage::client::{Client, ClientOptions, Next, Read, ReadBatches, Start};
use pilgrimage::types::{Offset, Partition, TopicName};
use tokio::task::JoinSet;

use super::load::{Load, Place, Wire, Written};
use super::payload::{Hasher, Sum};
use super::report::{Latencies, Rate, Verified};
use crate::failure::Failure;

/// What a reader got.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) latencies: Latencies,
    pub(crate) answers: u64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) took: Duration,
    /// One per connection and partition.
    pub(crate) sums: Vec<(Place, Sum)>,
}

impl Got {
    fn empty() -> Result<Self, Failure> {
        Ok(Self {
            latencies: Latencies::new()?,
            answers: 0,
            records: 0,
            bytes: 0,
            took: Duration::ZERO,
            sums: Vec::new(),
        })
    }

    pub(crate) fn rate(&self) -> Rate {
        Rate::new(self.records, self.bytes, self.took)
    }
}

/// How to read.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    pub(crate) topics: Vec<TopicName>,
    /// Where each partition ends.
    pub(crate) ends: BTreeMap<Place, u64>,
    pub(crate) wire: Wire,
    pub(crate) options: ClientOptions,
    /// Records of one JSON page.
    pub(crate) page: usize,
    pub(crate) connections: usize,
    /// Whether each connection reads everything, or they share the partitions.
    pub(crate) everyone_everything: bool,
    /// Up to where a server holds a partition that is shorter there than in `ends`: it is read from
    /// its beginning again, until as much was read as `ends` says. Binary only.
    pub(crate) spans: BTreeMap<Place, u64>,
}

impl Reading {
    /// Everything that stands in the topics of a load now.
    pub(crate) async fn of(client: &Client, load: &Load) -> Result<Self, Failure> {
        let mut ends = BTreeMap::new();
        for (index, topic) in load.topics.iter().enumerate() {
            for partition in client.partitions(topic).await?.partitions {
                ends.insert((index, partition.partition), partition.high_watermark);
            }
        }
        Ok(Self {
            topics: load.topics.clone(),
            ends,
            wire: Wire::Binary,
            options: load.options.clone(),
            page: 10_000,
            connections: load.connections,
            everyone_everything: false,
            spans: BTreeMap::new(),
        })
    }

    /// The first tenth of each partition.
    pub(crate) fn tenth(&self) -> Self {
        let ends = self.ends.iter().map(|(&place, &end)| (place, end / 10));
        Self {
            ends: ends.collect(),
            ..self.clone()
        }
    }

    /// Reads from the node at `url`.
    pub(crate) async fn run(&self, url: &str, hasher: &Hasher) -> Result<Got, Failure> {
        let begun = Instant::now();
        let this = Arc::new(self.clone());
        let mut connections = JoinSet::new();
        for index in 0..self.connections {
            let client = Client::with_options(url, self.options.clone())?;
            connections.spawn(connection(Arc::clone(&this), client, hasher.clone(), index));
        }
        let mut all = Got::empty()?;
        while let Some(done) = connections.join_next().await {
            let one = done.map_err(|error| Failure::failed(format!("a connection: {error}")))??;
            all.latencies.merge(&one.latencies);
            all.answers += one.answers;
            all.records += one.records;
            all.bytes += one.bytes;
            all.sums.extend(one.sums);
        }
        all.took = begun.elapsed();
        Ok(all)
    }
}

async fn connection(
    reading: Arc<Reading>,
    client: Client,
    hasher: Hasher,
    index: usize,
) -> Result<Got, Failure> {
    let mut got = Got::empty()?;
    for (turn, (&place, &end)) in reading.ends.iter().enumerate() {
        if !reading.everyone_everything && turn % reading.connections != index {
            continue;
        }
        let sum = match reading.wire {
            Wire::Binary | Wire::Publish => {
                let span = reading.spans.get(&place).copied().unwrap_or(end);
                let (mut sum, mut left) = (Sum::default(), end);
                while 0 < left && 0 < span {
                    let until = left.min(span);
                    sum.merge(&binary(&reading, &client, &hasher, place, until, &mut got).await?);
                    left -= until;
                }
                sum
            }
            Wire::Json => json(&reading, &client, &hasher, place, end, &mut got).await?,
            Wire::Ndjson => lines(&reading, &client, &hasher, place, end, &mut got).await?,
        };
        got.sums.push((place, sum));
    }
    Ok(got)
}

async fn binary(
    reading: &Reading,
    client: &Client,
    hasher: &Hasher,
    place: Place,
    end: u64,
    got: &mut Got,
) -> Result<Sum, Failure> {
    let range = ReadBatches::range(Offset::ZERO, Offset(end));
    let mut batches = client.batches(&reading.topics[place.0], Partition(place.1), range);
    let mut sum = Sum::default();
    let mut asked = Instant::now();
    while let Some(batch) = batches.next().await? {
        got.latencies.note(asked.elapsed());
        got.answers += 1;
        let damaged =
            |error| Failure::failed(format!("batch at {}: {error}", batch.header.base_offset));
        for record in batch.unpack().map_err(damaged)?.records() {
            let record = record.map_err(damaged)?;
            let value = record.value.unwrap_or_default();
            sum.add(hasher.value(value), Some(record.offset.0));
            got.records += 1;
            got.bytes += value.len() as u64;
        }
        asked = Instant::now();
    }
    Ok(sum)
}

async fn json(
    reading: &Reading,
    client: &Client,
    hasher: &Hasher,
    place: Place,
    end: u64,
    got: &mut Got,
) -> Result<Sum, Failure> {
    let (mut sum, mut from) = (Sum::default(), 0);
    while from < end {
        let read = Read {
            from: Start::Offset(Offset(from)),
            limit: Some(reading.page),
            max_bytes: Some(16 * 1024 * 1024),
            ..Read::default()
        };
        let asked = Instant::now();
        let page = client
            .read(&reading.topics[place.0], Some(Partition(place.1)), &read)
            .await?;
        got.latencies.note(asked.elapsed());
        got.answers += 1;
        for record in &page.records {
            note(record, hasher, &mut sum, got)?;
        }
        let next = page
            .next
            .parse::<Next>()?
            .of(place.1)
            .map_or(from, |next| next.0);
        if next <= from {
            return Err(Failure::failed(format!(
                "the reader stands still at offset {from} of {end}"
            )));
        }
        from = next;
    }
    Ok(sum)
}

async fn lines(
    reading: &Reading,
    client: &Client,
    hasher: &Hasher,
    place: Place,
    end: u64,
    got: &mut Got,
) -> Result<Sum, Failure> {
    let mut sum = Sum::default();
    let mut follow = client.follow(
        &reading.topics[place.0],
        Some(Partition(place.1)),
        Read::default(),
    );
    let mut next = 0;
    while next < end {
        let asked = Instant::now();
        let record = follow.next().await?;
        got.latencies.note(asked.elapsed());
        got.answers += 1;
        next = record.offset + 1;
        note(&record, hasher, &mut sum, got)?;
    }
    Ok(sum)
}

fn note(record: &Record, hasher: &Hasher, sum: &mut Sum, got: &mut Got) -> Result<(), Failure> {
    let raw = record.value.as_ref().map_or("", |value| value.get());
    // Letters that are not escaped stand between the quotes as they were written; what came as
    // bytes comes in base64.
    let text = raw
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    let Some(text) = text.filter(|text| !text.contains('\\')) else {
        return Err(Failure::failed(format!(
            "the record at offset {} is not the text that was written",
            record.offset
        )));
    };
    sum.add(hasher.value(text.as_bytes()), Some(record.offset));
    got.records += 1;
    got.bytes += text.len() as u64;
    Ok(())
}

/// Compares what stands in the log with what was written, partition by partition.
pub(crate) fn compare(load: &Load, written: &[&Written], got: &Got) -> Verified {
    let mut expected: BTreeMap<Place, Sum> = BTreeMap::new();
    for (&place, sum) in written.iter().flat_map(|written| &written.sums) {
        expected.entry(place).or_default().merge(sum);
    }
    let offsets = load.tells_offsets();
    let mut wrong = Vec::new();
    let mut seen: BTreeMap<Place, u32> = BTreeMap::new();
    for (place, sum) in &got.sums {
        *seen.entry(*place).or_default() += 1;
        let name = format!("{}/{}", load.topics[place.0], place.1);
        let written = expected.get(place).copied().unwrap_or_default();
        if !written.equals(sum, offsets) {
            let what = if written.records != sum.records {
                format!(
                    "{} records were acknowledged, {} were read",
                    written.records, sum.records
                )
            } else if written.equals(sum, false) {
                "records do not stand at the offsets that were acknowledged".to_owned()
            } else {
                "values differ from what was written".to_owned()
            };
            wrong.push(format!("{name}: {what}"));
        }
    }
    for place in expected.keys().filter(|place| !seen.contains_key(place)) {
        wrong.push(format!(
            "{}/{}: was not read",
            load.topics[place.0], place.1
        ));
    }
    Verified {
        records: got.records,
        partitions: seen.len(),
        offsets,
        wrong,
    }
}

#[cfg(test)]
mod tests {
    use pilgrimage::client::{Acks, ClientOptions};

    use super::*;

    fn load(wire: Wire) -> Load {
        Load {
            topics: vec!["t".parse().unwrap()],
            partitions: 2,
            record_size: 8,
            batch: 1,
            connections: 1,
            wire,
            acks: Acks::All,
            compress: false,
            options: ClientOptions::default(),
            text: false,
            rate: None,
        }
    }

    fn sum(hasher: &Hasher, records: &[(&str, u64)]) -> Sum {
        let mut sum = Sum::default();
        for (value, offset) in records {
            sum.add(hasher.value(value.as_bytes()), Some(*offset));
        }
        sum
    }

    #[test]
    fn a_wrong_answer_is_named_by_partition() {
        let hasher = Hasher::default();
        let written = Written {
            latencies: Latencies::new().unwrap(),
            requests: 2,
            records: 2,
            bytes: 16,
            took: Duration::ZERO,
            sums: BTreeMap::from([((0, 0), sum(&hasher, &[("a", 0), ("b", 1)]))]),
        };
        let wrong = |wire, sums: &[(Place, &[(&str, u64)])]| {
            let sums = sums
                .iter()
                .map(|(place, records)| (*place, sum(&hasher, records)))
                .collect();
            let got = Got {
                sums,
                ..Got::empty().unwrap()
            };
            compare(&load(wire), &[&written], &got).wrong
        };
        let nothing: [String; 0] = [];
        assert_eq!(
            wrong(Wire::Binary, &[((0, 0), &[("a", 0), ("b", 1)])]),
            nothing
        );
        assert_eq!(
            wrong(Wire::Binary, &[((0, 0), &[("a", 0)])]),
            ["t/0: 2 records were acknowledged, 1 were read"]
        );
        assert_eq!(
            wrong(Wire::Binary, &[((0, 0), &[("a", 0), ("c", 1)])]),
            ["t/0: values differ from what was written"]
        );
        let swapped: &[(&str, u64)] = &[("b", 0), ("a", 1)];
        assert_eq!(
            wrong(Wire::Binary, &[((0, 0), swapped)]),
            ["t/0: records do not stand at the offsets that were acknowledged"]
        );
        assert_eq!(
            wrong(Wire::Ndjson, &[((0, 0), swapped)]),
            nothing,
            "answers to NDJSON name no offsets"
        );
        assert_eq!(wrong(Wire::Binary, &[]), ["t/0: was not read"]);
        assert_eq!(
            wrong(
                Wire::Binary,
                &[((0, 0), &[("a", 0), ("b", 1)]), ((0, 1), &[("x", 0)])]
            ),
            ["t/1: 0 records were acknowledged, 1 were read"]
        );
    }
}
