//! Batches on their way to the node, and what became of them.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::ProgressBar;
use pilgrimage::api::v1::{Ack, NewProducer, ProducedBatches};
use pilgrimage::client::{Acks, Client, ClientError, ProduceOptions};
use pilgrimage::record::{BatchBuilder, Codec, HEADER_LEN, Producer, Record};
use pilgrimage::types::{Clock, Partition, SystemClock, TopicName};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::failure::Failure;
use crate::output;

/// Records in one request are also bounded by their bytes.
const BATCH_BYTES: usize = 1024 * 1024;
/// Bytes that wait for more of their partition, over all partitions.
const BUFFERED_BYTES: usize = 32 * 1024 * 1024;
/// Requests on their way at once; never two to one partition.
const IN_FLIGHT: usize = 4;
/// What was produced.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(super) struct Summary {
    pub(super) records: u64,
    pub(super) bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) durability: Option<Ack>,
    pub(super) partitions: BTreeMap<u32, Range>,
}

/// The offsets that one partition gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Range {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) records: u64,
}

impl Summary {
    fn note(&mut self, produced: &ProducedBatches, records: u64, bytes: u64) {
        self.records += records;
        self.bytes += bytes;
        self.durability = Some(produced.durability);
        for at in &produced.batches {
            let last = at.base_offset + u64::from(at.count).saturating_sub(1);
            let range = self
                .partitions
                .entry(at.partition)
                .or_insert_with(|| Range {
                    first: at.base_offset,
                    last,
                    records: 0,
                });
            range.last = last;
            range.records += u64::from(at.count);
        }
    }

    pub(super) fn say(&self, topic: &TopicName, took: Duration) -> String {
        let records = |n: u64| {
            if n == 1 {
                "1 record".to_owned()
            } else {
                format!("{n} records")
            }
        };
        let proof = match self.durability {
            Some(Ack::Fsync) => "on stable storage",
            Some(Ack::Replicated) => "in memory of every in-sync replica",
            Some(Ack::Leader) => "held by the leader",
            Some(Ack::None) => "sent, not acknowledged",
            None => "nothing to do",
        };
        let mut text = format!(
            "{} ({}) to {topic} in {:.2} s: {proof}",
            records(self.records),
            output::bytes(self.bytes),
            took.as_secs_f64()
        );
        for (partition, range) in self.partitions.iter().take(20) {
            let offsets = if range.first == range.last {
                format!("offset {}", range.first)
            } else {
                format!("offsets {} to {}", range.first, range.last)
            };
            text.push_str(&format!(
                "\n  partition {partition}: {offsets}, {}",
                records(range.records)
            ));
        }
        if 20 < self.partitions.len() {
            text.push_str(&format!(
                "\n  and {} more partitions",
                self.partitions.len() - 20
            ));
        }
        text
    }
}

/// Sends batches: several partitions at once, one batch at a time to each.
pub(super) struct Sender {
    client: Client,
    topic: TopicName,
    acks: Acks,
    codec: Codec,
    max_records: usize,
    lanes: BTreeMap<u32, BatchBuilder>,
    /// Who sends, so that what has to be sent twice is appended once; none with acks=none.
    producer: Option<NewProducer>,
    /// The sequence number that comes next in each partition.
    next: BTreeMap<u32, u32>,
    /// Bytes that wait for more of their partition.
    pub(super) buffered: usize,
    in_flight: JoinSet<Sent>,
    busy: Vec<u32>,
    pub(super) summary: Summary,
    pub(super) bar: ProgressBar,
}

struct Sent {
    partition: u32,
    records: u64,
    bytes: u64,
    result: Result<ProducedBatches, ClientError>,
}

impl Sender {
    pub(super) fn new(
        client: Client,
        topic: TopicName,
        acks: Acks,
        codec: Codec,
        max_records: usize,
    ) -> Self {
        Self {
            client,
            topic,
            acks,
            codec,
            max_records,
            lanes: BTreeMap::new(),
            producer: None,
            next: BTreeMap::new(),
            buffered: 0,
            in_flight: JoinSet::new(),
            busy: Vec::new(),
            summary: Summary::default(),
            bar: ProgressBar::hidden(),
        }
    }

    pub(super) async fn push(&mut self, (partition, record): (u32, Record)) -> Result<(), Failure> {
        let size = record.size();
        if self
            .lanes
            .get(&partition)
            .is_some_and(|lane| BATCH_BYTES < lane.batch_len() + size)
        {
            self.send(partition).await?;
        }
        let lane = self.lanes.entry(partition).or_default();
        let before = lane.batch_len();
        lane.push(&record, SystemClock.now());
        self.buffered += lane.batch_len() - before;
        if self.max_records <= lane.len() || BATCH_BYTES <= lane.batch_len() {
            self.send(partition).await?;
        }
        if BUFFERED_BYTES < self.buffered {
            self.flush().await?;
        }
        Ok(())
    }

    /// Sends what is collected for a partition, as soon as its batch before is acknowledged.
    async fn send(&mut self, partition: u32) -> Result<(), Failure> {
        while IN_FLIGHT <= self.in_flight.len() || self.busy.contains(&partition) {
            self.wait_for_one().await?;
        }
        let Some(lane) = self.lanes.remove(&partition) else {
            return Ok(());
        };
        let (records, bytes) = (lane.len() as u64, lane.batch_len() - HEADER_LEN);
        self.buffered = self.buffered.saturating_sub(bytes);
        let stamp = self.stamp(partition, records as u32).await?;
        let Some(batch) = lane.build(self.codec, stamp) else {
            return Ok(());
        };
        let (client, topic) = (self.client.clone(), self.topic.clone());
        let options = ProduceOptions {
            acks: self.acks,
            partition: Some(Partition(partition)),
            ..ProduceOptions::default()
        };
        self.busy.push(partition);
        self.in_flight.spawn(async move {
            let result = client.produce_batches(&topic, &[batch], &options).await;
            Sent {
                partition,
                records,
                bytes: bytes as u64,
                result,
            }
        });
        Ok(())
    }

    /// The place of the next `records` records among all that go to `partition`.
    async fn stamp(&mut self, partition: u32, records: u32) -> Result<Producer, Failure> {
        if self.acks == Acks::None {
            return Ok(Producer::default());
        }
        let producer = match self.producer {
            Some(producer) => producer,
            None => *self.producer.insert(self.client.new_producer().await?),
        };
        let next = self.next.entry(partition).or_insert(0);
        let stamp = Producer {
            id: producer.id,
            epoch: producer.epoch,
            base_sequence: *next,
        };
        *next = next.wrapping_add(records);
        Ok(stamp)
    }

    async fn wait_for_one(&mut self) -> Result<(), Failure> {
        let Some(done) = self.in_flight.join_next().await else {
            return Ok(());
        };
        let sent = done.map_err(|error| Failure::failed(format!("send a batch: {error}")))?;
        self.busy.retain(|&partition| partition != sent.partition);
        self.summary.note(&sent.result?, sent.records, sent.bytes);
        self.bar
            .set_message(format!("{} records acknowledged", self.summary.records));
        Ok(())
    }

    pub(super) async fn flush(&mut self) -> Result<(), Failure> {
        let waiting: Vec<_> = self.lanes.keys().copied().collect();
        for partition in waiting {
            self.send(partition).await?;
        }
        Ok(())
    }

    pub(super) async fn finish(&mut self) -> Result<(), Failure> {
        self.flush().await?;
        while !self.in_flight.is_empty() {
            self.wait_for_one().await?;
        }
        Ok(())
    }

    /// Waits for what is on its way and counts what went well.
    pub(super) async fn settle(&mut self) {
        while let Some(done) = self.in_flight.join_next().await {
            if let Ok(Sent {
                result: Ok(produced),
                records,
                bytes,
                ..
            }) = done
            {
                self.summary.note(&produced, records, bytes);
            }
        }
    }
}
