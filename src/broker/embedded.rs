//! The first steps of a program that embeds a broker: plain names, plain arguments.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;

use super::positions::ConsumeError;
use super::{Broker, FetchError, From as ReadFrom, OpenError, Options, Placed, ProduceError};
use super::{TopicDescription, TopicError};
use crate::api::v1::DEFAULT_GROUP;
use crate::record::{Batch, Record, StoredRecord};
use crate::storage::ReadError;
use crate::types::{Acks, InvalidName, Offset, Partition, TopicName, TopicPartition, TopicPatch};

impl Broker {
    /// Opens the broker `id` in the directory `storage`. Topics that say nothing else get
    /// `partitions` partitions and ask for `replication` copies; as many copies are kept as there
    /// are nodes.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn new(
        id: &str,
        partitions: u32,
        replication: u32,
        storage: impl Into<PathBuf>,
    ) -> Result<Self, OpenError> {
        let mut options = Options::new(id.parse()?, storage);
        options.defaults.partitions = partitions;
        options.defaults.replication_factor = replication;
        Self::open(options).await
    }

    /// Makes a topic with `partitions` partitions (`None`: as many as the broker's default). One
    /// that exists with the same number is left as it is.
    ///
    /// # Errors
    /// See [`TopicError`].
    pub async fn create_topic(
        &self,
        topic: &str,
        partitions: impl Into<Option<u32>>,
    ) -> Result<TopicDescription, TopicError> {
        let patch = TopicPatch {
            partitions: partitions.into(),
            ..TopicPatch::default()
        };
        Ok(self.put_topic(&name(topic)?, &patch).await?.1)
    }

    /// Sends a message and waits until it is on stable storage; the topic is created on first use.
    ///
    /// # Errors
    /// See [`ProduceError`].
    pub async fn send_message(
        &self,
        topic: &str,
        message: impl Into<Record>,
    ) -> Result<(), ProduceError> {
        self.publish_with_ack(topic, message).await.map(|_| ())
    }

    /// Sends a message, waits until it is on stable storage, and says where it stands.
    ///
    /// # Errors
    /// See [`ProduceError`].
    pub async fn publish_with_ack(
        &self,
        topic: &str,
        message: impl Into<Record>,
    ) -> Result<Placed, ProduceError> {
        let placed = self
            .produce(&name(topic)?, vec![(None, message.into())], Acks::All, None)
            .await?;
        placed
            .into_iter()
            .next()
            .ok_or_else(|| TopicError::Closing.into())
    }

    /// The next message of the topic that was not yet received, or none. The position is kept by
    /// the broker and outlives it.
    ///
    /// # Errors
    /// See [`ConsumeError`].
    pub async fn receive_message(&self, topic: &str) -> Result<Option<StoredRecord>, ConsumeError> {
        let Ok(topic) = topic.parse() else {
            return Ok(None);
        };
        let next = self.consume(&topic, DEFAULT_GROUP, Duration::ZERO).await?;
        Ok(next.map(|(_, record)| record))
    }

    /// Every message of the topic from `from` on, as it comes. Each subscription reads for itself.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn subscribe(
        &self,
        topic: &TopicName,
        from: ReadFrom,
    ) -> Result<Subscription, FetchError> {
        let progress = self.progress(topic)?;
        let mut positions = Vec::new();
        for partition in 0..self.partition_count(topic)? {
            positions.push(self.resolve(topic, Partition(partition), from).await?);
        }
        let broker = self.clone();
        Ok(Subscription {
            broker,
            topic: topic.clone(),
            positions,
            progress,
            ready: VecDeque::new(),
        })
    }
}

fn name(topic: &str) -> Result<TopicName, TopicError> {
    topic
        .parse()
        .map_err(|error: InvalidName| TopicError::InvalidName(error))
}

impl std::convert::From<&str> for Record {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl std::convert::From<String> for Record {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

/// Messages of a topic as they come, in order within each partition.
#[derive(Debug)]
pub struct Subscription {
    broker: Broker,
    topic: TopicName,
    positions: Vec<Offset>,
    progress: watch::Receiver<u64>,
    ready: VecDeque<(Partition, StoredRecord)>,
}

/// Bytes that a subscription fetches at a time and partition.
const FETCH_BYTES: usize = 64 * 1024;

impl Subscription {
    /// The next message, waiting for it as long as it takes. `None` once the topic is deleted or
    /// the broker closes. Cancel-safe: a message is handed out or kept.
    ///
    /// # Errors
    /// See [`FetchError`]; the same message is tried again by the next call.
    pub async fn next(&mut self) -> Result<Option<(Partition, StoredRecord)>, FetchError> {
        loop {
            if let Some(next) = self.ready.pop_front() {
                return Ok(Some(next));
            }
            self.progress.borrow_and_update();
            match self.fill().await {
                Err(FetchError::TopicNotFound(_) | FetchError::Closing) => return Ok(None),
                filled => filled?,
            }
            if self.ready.is_empty() && self.progress.changed().await.is_err() {
                return Ok(None);
            }
        }
    }

    async fn fill(&mut self) -> Result<(), FetchError> {
        let partitions = self.broker.partition_count(&self.topic)?;
        // Partitions that the topic has grown since begin at their first record.
        self.positions.resize(partitions as usize, Offset::ZERO);
        for index in 0..self.positions.len() {
            let partition = Partition(index as u32);
            let (at, fetched) = loop {
                let at = self.positions[index];
                let fetched = self
                    .broker
                    .fetch(&self.topic, partition, at, FETCH_BYTES)
                    .await;
                match fetched {
                    // Records may be left behind the trim, and nothing else would announce them.
                    Err(FetchError::Trimmed { start, .. }) => self.positions[index] = start,
                    fetched => break (at, fetched?),
                }
            };
            let mut batches = fetched.batches;
            let mut records = Vec::new();
            while !batches.is_empty() {
                let Some(read) = unpack(&mut batches, at) else {
                    let name = TopicPartition {
                        topic: self.topic.clone(),
                        partition,
                    };
                    return Err(FetchError::from_read(
                        &name,
                        at,
                        ReadError::Corrupt { offset: at },
                    ));
                };
                records.extend(read.into_iter().map(|record| (partition, record)));
            }
            self.ready.extend(records);
            self.positions[index] = fetched.next;
        }
        Ok(())
    }
}

/// The records of the first batch from `at` on. `None`: damaged.
fn unpack(batches: &mut bytes::Bytes, at: Offset) -> Option<Vec<StoredRecord>> {
    let batch = Batch::take(batches).ok()?;
    batch.verify().ok()?;
    let unpacked = batch.unpack().ok()?;
    let records = unpacked
        .records()
        .map(|record| record.map(|record| record.to_stored()));
    let records = records.collect::<Result<Vec<_>, _>>().ok()?;
    Some(
        records
            .into_iter()
            .filter(|record| at <= record.offset)
            .collect(),
    )
}
