//! From a write to a reader that waits for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pilgrimage::client::{Client, Follow, Idempotency, Next, ProduceOptions, Publish, Read, Start};
use pilgrimage::types::Partition;
use tokio::task::JoinSet;

use super::load::Load;
use super::pace::Pacer;
use super::payload::{Hasher, Sum, Values, number_of};
use super::report::{Latencies, Rate, Verified};
use crate::failure::Failure;

/// How long the reader is waited for once everything is written.
const READER_PATIENCE: Duration = Duration::from_secs(10);

/// What a run found.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) rate: Rate,
    /// From the intended start of a write to its acknowledgement.
    pub(crate) acknowledged: Latencies,
    /// From the intended start of a write to the reader.
    pub(crate) read: Latencies,
    pub(crate) verified: Verified,
}

/// Write number `n` is due at `begun + n * interval`, whatever happened to those before it.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    begun: Instant,
    interval: Duration,
    /// The first so many are not measured.
    warmup: u64,
    total: u64,
}

impl Schedule {
    fn due(&self, number: u64) -> Instant {
        self.begun + Duration::from_nanos((self.interval.as_nanos() as u64).saturating_mul(number))
    }
}

/// Publishes `records` records at `rate` per second while a reader follows the partition.
pub(crate) async fn run(
    url: &str,
    load: &Load,
    records: u64,
    warmup: u64,
    rate: f64,
    hasher: &Hasher,
) -> Result<Outcome, Failure> {
    let reader = Client::with_options(url, load.options.clone())?;
    let topic = &load.topics[0];
    let end = Read {
        from: Start::Latest,
        ..Read::default()
    };
    let next: Next = reader
        .read(topic, Some(Partition(0)), &end)
        .await?
        .next
        .parse()?;
    let read = Read {
        from: Start::Next(next),
        ..Read::default()
    };
    let follow = reader.follow(topic, Some(Partition(0)), read);
    let schedule = Schedule {
        // The reader is to be connected and waiting before the first write.
        begun: Instant::now() + Duration::from_millis(100),
        interval: Duration::from_secs_f64(1.0 / rate.max(1e-3)),
        warmup,
        total: records.saturating_add(warmup),
    };
    let reading = tokio::spawn(follow_all(follow, schedule, hasher.clone()));
    let pacer = Pacer::start()?;
    let mut writers = JoinSet::new();
    let load = Arc::new(load.clone());
    for index in 0..load.connections {
        let client = Client::with_options(url, load.options.clone())?;
        writers.spawn(write(
            Arc::clone(&load),
            client,
            index as u64,
            schedule,
            pacer.clone(),
            hasher.clone(),
        ));
    }
    let (mut acknowledged, mut written) = (Latencies::new()?, Sum::default());
    while let Some(done) = writers.join_next().await {
        let (latencies, sum) =
            done.map_err(|error| Failure::failed(format!("a writer: {error}")))??;
        acknowledged.merge(&latencies);
        written.merge(&sum);
    }
    let abort = reading.abort_handle();
    let got = tokio::time::timeout(READER_PATIENCE, reading).await;
    abort.abort();
    let Ok(got) = got else {
        return Err(Failure::failed(format!(
            "the reader did not get all of the {} acknowledged records within {} s",
            written.records,
            READER_PATIENCE.as_secs()
        )));
    };
    let (read, seen, took) =
        got.map_err(|error| Failure::failed(format!("the reader: {error}")))??;
    let mut wrong = Vec::new();
    if !written.equals(&seen, true) {
        wrong.push(format!(
            "{topic}/0: {} records were acknowledged, {} were read, and they are not the same",
            written.records, seen.records
        ));
    }
    Ok(Outcome {
        rate: Rate::new(records, records * load.record_size as u64, took),
        acknowledged,
        read,
        verified: Verified {
            records: seen.records,
            partitions: 1,
            offsets: true,
            wrong,
        },
    })
}

async fn write(
    load: Arc<Load>,
    client: Client,
    index: u64,
    schedule: Schedule,
    pacer: Pacer,
    hasher: Hasher,
) -> Result<(Latencies, Sum), Failure> {
    let (mut latencies, mut sum) = (Latencies::new()?, Sum::default());
    let values = Values::new(load.record_size);
    let options = ProduceOptions {
        acks: load.acks,
        partition: Some(Partition(0)),
        idempotency: Idempotency::Off,
        ..ProduceOptions::default()
    };
    for number in (index..schedule.total).step_by(load.connections) {
        let value = values.get(number);
        let hash = hasher.value(&value);
        let publish = Publish {
            content_type: Some("text/plain".into()),
            ..Publish::new(Bytes::from(value))
        };
        pacer.until(schedule.due(number)).await;
        let published = client.publish(&load.topics[0], &publish, &options).await?;
        if schedule.warmup <= number {
            latencies.note(schedule.due(number).elapsed());
        }
        sum.add(hash, published.position.map(|at| at.offset));
    }
    Ok((latencies, sum))
}

async fn follow_all(
    mut follow: Follow,
    schedule: Schedule,
    hasher: Hasher,
) -> Result<(Latencies, Sum, Duration), Failure> {
    let (mut latencies, mut sum) = (Latencies::new()?, Sum::default());
    while sum.records < schedule.total {
        let record = follow.next().await?;
        let now = Instant::now();
        let raw = record.value.as_ref().map_or("", |value| value.get());
        let value = raw
            .strip_prefix('"')
            .and_then(|text| text.strip_suffix('"'))
            .unwrap_or(raw)
            .as_bytes();
        if let Some(number) = number_of(value).filter(|number| schedule.warmup <= *number) {
            latencies.note(now.saturating_duration_since(schedule.due(number)));
        }
        sum.add(hasher.value(value), Some(record.offset));
    }
    let took = Instant::now().saturating_duration_since(schedule.due(schedule.warmup));
    Ok((latencies, sum, took))
}
