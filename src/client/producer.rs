//! A producer that counts what it sends, so that nothing is appended twice however often it has to
//! be sent.

use std::collections::BTreeMap;

use reqwest::Method;

use super::{Client, ClientError, ProduceOptions};
use crate::api::v1::{BatchPosition, NewProducer};
use crate::record::{self, BatchBuilder, Codec, Record};
use crate::types::{Clock, Partition, SystemClock, Timestamp, TopicName};

impl Client {
    /// An identity for a producer, which nobody else has.
    ///
    /// # Errors
    /// Any [`ClientError`]. Identities that nobody uses cost nothing.
    pub async fn new_producer(&self) -> Result<NewProducer, ClientError> {
        self.request(Method::POST, "/v1/producers")
            .repeatable(true)
            .json()
            .await
    }

    /// A producer for one topic.
    ///
    /// # Errors
    /// As [`Client::new_producer`].
    pub async fn producer(&self, topic: &TopicName) -> Result<Producer, ClientError> {
        let NewProducer { id, epoch } = self.new_producer().await?;
        Ok(Producer {
            client: self.clone(),
            topic: topic.clone(),
            id,
            epoch,
            lanes: BTreeMap::new(),
        })
    }
}

/// Sends records to a topic's partitions, each exactly once and in order. Made by
/// [`Client::producer`].
///
/// A send whose outcome is unknown is repeated, as often as [`ClientOptions::attempts`] says. When
/// it fails in the end, send the *same* records to the same partition again: they take the same
/// place, and are not appended if they had been. Other records under that place would be refused.
///
/// [`ClientOptions::attempts`]: super::ClientOptions::attempts
#[derive(Debug)]
pub struct Producer {
    client: Client,
    topic: TopicName,
    id: u64,
    epoch: u16,
    lanes: BTreeMap<Partition, Lane>,
}

/// How far the producer is in a partition.
#[derive(Debug, Default)]
struct Lane {
    next: u32,
    /// When the last batch was first sent, as long as it is not known to be in the log.
    sent: Option<Timestamp>,
}

impl Producer {
    /// Goes on through another node.
    pub fn through(&mut self, client: &Client) {
        self.client = client.clone();
    }

    /// Its identity.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Appends records to a partition, together; returns where they stand, or nothing if there are
    /// none. `options.partition` is not looked at.
    ///
    /// # Errors
    /// Any [`ClientError`]. `sequence_reuse` and `duplicate_unknown_offset`: what was sent before
    /// under this place is in the log.
    pub async fn send(
        &mut self,
        partition: Partition,
        records: &[Record],
        options: &ProduceOptions,
    ) -> Result<Option<BatchPosition>, ClientError> {
        let lane = self.lanes.entry(partition).or_default();
        // What is sent again has the same bytes, times included.
        let time = *lane.sent.get_or_insert_with(|| SystemClock.now());
        let mut builder = BatchBuilder::default();
        for record in records {
            builder.push(record, time);
        }
        let stamp = record::Producer {
            id: self.id,
            epoch: self.epoch,
            base_sequence: lane.next,
        };
        let Some(batch) = builder.build(Codec::None, stamp) else {
            return Ok(None);
        };
        let options = ProduceOptions {
            partition: Some(partition),
            ..options.clone()
        };
        let sent = [batch];
        let produced = self
            .client
            .produce_batches(&self.topic, &sent, &options)
            .await?;
        *lane = Lane {
            next: lane.next.wrapping_add(records.len() as u32),
            sent: None,
        };
        Ok(produced.batches.into_iter().next())
    }
}
