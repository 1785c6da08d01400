//! Producing exactly once: who produces, and what is known of it when it is sent again.

use super::{Broker, ProduceError, TopicError};
use crate::metadata::{Applied, Command};
use crate::record::{Extension, Fingerprint, Key, Producer, Record, Sent, hash_key};
use crate::types::{Acks, Offset, Partition, Timestamp, limits};

/// How records are appended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Produce {
    /// What to wait for.
    pub acks: Acks,
    /// Append only if the partition ends here; needs all records in one partition. What is sent
    /// again is answered as the first time, wherever the partition ends by now.
    pub expected: Option<Offset>,
    /// How it is known that the same is sent again.
    pub once: Once,
}

/// How it is known that records are sent again: then they are not appended again, and the answer
/// is that of the first time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Once {
    /// It is not known: what is sent twice is appended twice.
    #[default]
    No,
    /// By a key that belongs to this request alone, for a day or the last 100,000 keys of a
    /// partition. Records without a key of their own go to the partition that this one chooses,
    /// so that a repetition meets the first attempt, as long as the number of partitions stays.
    Key(String),
    /// By the place among all records that the producer sends to this partition. All records are
    /// for one partition, which they name or their keys choose.
    Sequence(Producer),
}

/// What a request's batches carry, and where they may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marking {
    pub(super) extension: Extension,
    pub(super) producer: Producer,
    /// Chooses the partition of records that have no key.
    pub(super) keyless: Option<Vec<u8>>,
    /// All records must be in one partition that the request determines.
    pub(super) one_partition: bool,
}

impl Once {
    /// Checks the form of what was given.
    pub(super) fn check(&self) -> Result<(), ProduceError> {
        match self {
            Self::Key(key) if key.is_empty() || limits::IDEMPOTENCY_KEY_BYTES < key.len() => {
                Err(ProduceError::InvalidKey)
            }
            Self::Sequence(producer) if producer.id == 0 => Err(ProduceError::InvalidProducer),
            _ => Ok(()),
        }
    }

    /// Checks that where the records go does not depend on what others send meanwhile.
    pub(super) fn check_records(
        &self,
        records: &[(Option<Partition>, Record)],
    ) -> Result<(), ProduceError> {
        let anywhere = |(partition, record): &(Option<Partition>, Record)| {
            partition.is_none() && record.key.is_none()
        };
        match self {
            Self::Sequence(_) if records.iter().any(anywhere) => {
                Err(ProduceError::SequenceSpansPartitions)
            }
            _ => Ok(()),
        }
    }

    /// What the batches of a request with these records carry.
    pub(super) fn marking(
        &self,
        records: &[(Option<Partition>, Record)],
        now: Timestamp,
    ) -> Marking {
        let mut marking = Marking {
            extension: Extension::default(),
            producer: Producer::default(),
            keyless: None,
            one_partition: false,
        };
        let fingerprint = || {
            let mut sum = Fingerprint::default();
            for (partition, record) in records {
                sum.add(partition.map(|partition| partition.0), record);
            }
            sum.finish()
        };
        match self {
            Self::No => {}
            Self::Key(key) => {
                marking.keyless = Some(key.clone().into_bytes());
                marking.extension.key = Some(Key {
                    hash: hash_key(key.as_bytes()),
                    fingerprint: fingerprint(),
                    arrived: now,
                });
            }
            Self::Sequence(producer) => {
                marking.producer = *producer;
                marking.one_partition = true;
                marking.extension.sent = Some(Sent {
                    // Half of it: repetitions are told from other requests, not from forgeries.
                    fingerprint: u128::from_le_bytes(fingerprint()) as u64,
                    arrived: now,
                });
            }
        }
        marking
    }
}

impl Broker {
    /// An identity for a producer that counts what it sends: nobody else has it, in the life of
    /// the cluster. It begins in epoch 0, and in each partition with sequence number 0.
    ///
    /// # Errors
    /// When the metadata cannot be written.
    pub async fn new_producer(&self) -> Result<Producer, TopicError> {
        match self.inner.store.apply(Command::RegisterProducer).await {
            Ok(Applied::ProducerRegistered { id }) => Ok(Producer {
                id,
                ..Producer::default()
            }),
            Ok(_) => Err(TopicError::Metadata("unexpected answer".into())),
            Err(error) => Err(TopicError::Apply(error)),
        }
    }
}
