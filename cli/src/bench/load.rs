//! Writes under load, closed or open loop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pilgrimage::client::{
    Acks, Client, ClientError, ClientOptions, Idempotency, ProduceOptions, Publish,
};
use pilgrimage::record::{Batch, BatchBuilder, Codec, Format, Producer, Record};
use pilgrimage::types::{Clock, Partition, SystemClock, TopicName};
use tokio::task::JoinSet;

use super::pace::Pacer;
use super::payload::{Hasher, Sum, Values};
use super::report::{Latencies, Rate};
use crate::failure::Failure;

/// How records travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Wire {
    /// Batches in the log's own layout.
    #[default]
    Binary,
    /// One JSON document per request.
    Json,
    /// Lines of JSON.
    Ndjson,
    /// One record per request, its value as the body.
    Publish,
}

/// A load to put on a node.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) topics: Vec<TopicName>,
    pub(crate) partitions: u32,
    pub(crate) record_size: usize,
    pub(crate) batch: usize,
    pub(crate) connections: usize,
    pub(crate) wire: Wire,
    pub(crate) acks: Acks,
    pub(crate) compress: bool,
    /// How its clients speak.
    pub(crate) options: ClientOptions,
    /// Whether values in batches are marked as text, so that JSON gives them back as text.
    pub(crate) text: bool,
    /// Records per second over all connections; none = as fast as answers come.
    pub(crate) rate: Option<f64>,
}

/// When a load ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    Records(u64),
    Time(Duration),
}

/// A partition of one of the load's topics: index of the topic, partition.
pub(crate) type Place = (usize, u32);

/// What a load wrote.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    pub(crate) latencies: Latencies,
    pub(crate) requests: u64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) took: Duration,
    pub(crate) sums: BTreeMap<Place, Sum>,
}

impl Written {
    pub(crate) fn rate(&self) -> Rate {
        Rate::new(self.records, self.bytes, self.took)
    }
}

struct Shared {
    load: Load,
    values: Values,
    hasher: Hasher,
    /// Numbers of records are given out here, so that no two connections write the same.
    next: AtomicU64,
    end: u64,
    deadline: Option<Instant>,
    begun: Instant,
    pacer: Pacer,
}

/// Puts the load on the node at `url`. Records are numbered from `first`.
pub(crate) async fn write(
    url: &str,
    load: &Load,
    until: Until,
    first: u64,
    hasher: &Hasher,
) -> Result<Written, Failure> {
    let pacer = Pacer::start()?;
    let begun = Instant::now();
    let (end, deadline) = match until {
        Until::Records(n) => (first.saturating_add(n), None),
        Until::Time(time) => (u64::MAX, Some(begun + time)),
    };
    let shared = Arc::new(Shared {
        load: load.clone(),
        values: Values::new(load.record_size),
        hasher: hasher.clone(),
        next: AtomicU64::new(first),
        end,
        deadline,
        begun,
        pacer,
    });
    let mut connections = JoinSet::new();
    for index in 0..load.connections {
        // A client of its own is a connection of its own.
        let client = Client::with_options(url, load.options.clone())?;
        connections.spawn(connection(Arc::clone(&shared), client, index));
    }
    let mut all = Written {
        latencies: Latencies::new()?,
        requests: 0,
        records: 0,
        bytes: 0,
        took: Duration::ZERO,
        sums: BTreeMap::new(),
    };
    while let Some(done) = connections.join_next().await {
        let one = done.map_err(|error| Failure::failed(format!("a connection: {error}")))??;
        all.latencies.merge(&one.latencies);
        all.requests += one.requests;
        all.records += one.records;
        all.bytes += one.bytes;
        for (place, sum) in one.sums {
            all.sums.entry(place).or_default().merge(&sum);
        }
    }
    all.took = begun.elapsed();
    Ok(all)
}

async fn connection(shared: Arc<Shared>, client: Client, index: usize) -> Result<Written, Failure> {
    let load = &shared.load;
    let mut written = Written {
        latencies: Latencies::new()?,
        requests: 0,
        records: 0,
        bytes: 0,
        took: Duration::ZERO,
        sums: BTreeMap::new(),
    };
    // Open loop: this connection's requests are due at fixed times, whatever happened to those
    // before. A late answer then counts against every request that it held up.
    let interval = load.rate.map(|rate| {
        Duration::from_secs_f64(load.batch as f64 * load.connections as f64 / rate.max(1e-3))
    });
    let offset = interval.map(|interval| interval.mul_f64(index as f64 / load.connections as f64));
    for turn in 0_u32.. {
        let due = interval
            .zip(offset)
            .map(|(interval, offset)| shared.begun + offset + interval.saturating_mul(turn));
        if shared
            .deadline
            .is_some_and(|deadline| deadline <= due.unwrap_or_else(Instant::now))
        {
            break;
        }
        let first = shared.next.fetch_add(load.batch as u64, Ordering::Relaxed);
        if shared.end <= first {
            break;
        }
        let numbers = first..shared.end.min(first.saturating_add(load.batch as u64));
        let place = load.place_of(first / load.batch as u64);
        let request = shared.prepare(numbers.clone());
        let start = match due {
            Some(due) => {
                shared.pacer.until(due).await;
                due
            }
            None => Instant::now(),
        };
        let offsets = send(&client, load, place, request.body).await?;
        written.latencies.note(start.elapsed());
        written.requests += 1;
        written.records += numbers.end - numbers.start;
        written.bytes += (numbers.end - numbers.start) * load.record_size as u64;
        let sum = written.sums.entry(place).or_default();
        for (i, hash) in request.hashes.into_iter().enumerate() {
            sum.add(hash, offsets.of(i));
        }
    }
    Ok(written)
}

impl Load {
    /// Requests go round all partitions of all topics.
    fn place_of(&self, request: u64) -> Place {
        let places = self.topics.len() as u64 * u64::from(self.partitions);
        let place = request % places.max(1);
        (
            (place / u64::from(self.partitions)) as usize,
            (place % u64::from(self.partitions)) as u32,
        )
    }

    /// Whether answers say where each record went.
    pub(crate) fn tells_offsets(&self) -> bool {
        self.acks != Acks::None && self.wire != Wire::Ndjson
    }
}

struct Request {
    body: Body,
    hashes: Vec<u64>,
}

enum Body {
    Batch(Batch),
    Bytes(Bytes),
}

impl Shared {
    /// Builds the request before its time is taken.
    fn prepare(&self, numbers: std::ops::Range<u64>) -> Request {
        let count = (numbers.end - numbers.start) as usize;
        let size = self.load.record_size;
        let mut hashes = Vec::with_capacity(count);
        let mut value = Vec::with_capacity(size);
        let mut each = |put: &mut dyn FnMut(&[u8])| {
            for number in numbers.clone() {
                value.clear();
                self.values.put(number, &mut value);
                hashes.push(self.hasher.value(&value));
                put(&value);
            }
        };
        let body = match self.load.wire {
            Wire::Binary => {
                let now = SystemClock.now();
                let mut builder = BatchBuilder::with_capacity(count * (size + 16));
                let format = if self.load.text {
                    Format::Text
                } else {
                    Format::Binary
                };
                each(&mut |value| {
                    let value = Some(Bytes::copy_from_slice(value));
                    let record = Record {
                        value,
                        format,
                        ..Record::default()
                    };
                    builder.push(&record, now);
                });
                let codec = if self.load.compress {
                    Codec::Zstd
                } else {
                    Codec::None
                };
                match builder.build(codec, Producer::default()) {
                    Some(batch) => Body::Batch(batch),
                    None => Body::Bytes(Bytes::new()),
                }
            }
            Wire::Json => {
                let mut body = Vec::with_capacity(count * (size + 16) + 16);
                body.extend_from_slice(b"{\"records\":[");
                each(&mut |value| {
                    let comma: &[u8] = if body.ends_with(b"[") { b"" } else { b"," };
                    body.extend_from_slice(comma);
                    put_json(value, &mut body);
                });
                body.extend_from_slice(b"]}");
                Body::Bytes(body.into())
            }
            Wire::Ndjson => {
                let mut body = Vec::with_capacity(count * (size + 16));
                each(&mut |value| {
                    put_json(value, &mut body);
                    body.push(b'\n');
                });
                Body::Bytes(body.into())
            }
            Wire::Publish => {
                let mut body = Bytes::new();
                each(&mut |value| body = Bytes::copy_from_slice(value));
                Body::Bytes(body)
            }
        };
        Request { body, hashes }
    }
}

/// Values are made of letters that JSON does not escape.
fn put_json(value: &[u8], to: &mut Vec<u8>) {
    to.extend_from_slice(b"{\"value\":\"");
    to.extend_from_slice(value);
    to.extend_from_slice(b"\"}");
}

/// Where the records of a request went, as far as the answer says.
enum Offsets {
    From(u64),
    Each(Vec<u64>),
    Unknown,
}

impl Offsets {
    fn of(&self, index: usize) -> Option<u64> {
        match self {
            Self::From(base) => Some(base + index as u64),
            Self::Each(each) => each.get(index).copied(),
            Self::Unknown => None,
        }
    }
}

async fn send(
    client: &Client,
    load: &Load,
    place: Place,
    body: Body,
) -> Result<Offsets, ClientError> {
    let topic = &load.topics[place.0];
    let options = ProduceOptions {
        acks: load.acks,
        partition: Some(Partition(place.1)),
        idempotency: Idempotency::Off,
        ..ProduceOptions::default()
    };
    Ok(match body {
        Body::Batch(batch) => {
            let produced = client.produce_batches(topic, &[batch], &options).await?;
            produced
                .batches
                .first()
                .map_or(Offsets::Unknown, |at| Offsets::From(at.base_offset))
        }
        Body::Bytes(body) if load.wire == Wire::Json => {
            let produced = client.produce_json(topic, body, &options).await?;
            Offsets::Each(produced.records.iter().map(|at| at.offset).collect())
        }
        Body::Bytes(body) if load.wire == Wire::Ndjson => {
            let once = futures_util::stream::iter([Ok(body)]);
            client.produce_ndjson_stream(topic, once, &options).await?;
            Offsets::Unknown
        }
        Body::Bytes(body) => {
            let publish = Publish {
                content_type: Some("text/plain".into()),
                ..Publish::new(body)
            };
            let published = client.publish(topic, &publish, &options).await?;
            published
                .position
                .map_or(Offsets::Unknown, |at| Offsets::From(at.offset))
        }
    })
}
