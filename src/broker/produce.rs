//! Taking records in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;

use super::peer::wire::{Append, NotLeader};
use super::producers::Marking;
use super::route::{RouteError, Site};
use super::topics::Topic;
use super::{Broker, Once, Produce, ProduceError, UnknownPartition};
use crate::partition::{AppendError, AppendRequest, Appended, PartitionHandle};
use crate::record::{
    Batch, BatchBuilder, Codec, Fingerprint, Key, Record, hash_key, partition_for_key,
};
use crate::types::{
    Acks, Compression, Offset, Partition, Timestamp, TimestampType, TopicName, TopicPartition,
    limits,
};

/// The place of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Partition.
    pub partition: Partition,
    /// Offset within it.
    pub offset: Offset,
    /// Time of the record.
    pub timestamp: Timestamp,
}

/// Where records went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Produced {
    /// One place per record, in the order given; none with [`Acks::None`].
    pub places: Vec<Placed>,
    /// They had been appended before: nothing was appended now.
    pub replayed: bool,
}

/// Chooses a partition for records without a key: the same one for a while, so that small requests
/// share a write and an fdatasync, then the next (KIP-480).
#[derive(Debug, Default)]
pub(super) struct Sticky(AtomicU64);

/// Bytes after which keyless records move on to the next partition.
const STICKY_BYTES: u64 = 64 * 1024;

impl Sticky {
    fn choose(&self, bytes: usize, partitions: u32) -> u32 {
        let before = self.0.fetch_add(bytes as u64, Ordering::Relaxed);
        ((before / STICKY_BYTES) % u64::from(partitions.max(1))) as u32
    }
}

struct Pending {
    partition: u32,
    builder: BatchBuilder,
    /// Indexes of the request's records, in the order in which they were added.
    indexes: Vec<usize>,
}

impl Broker {
    /// Appends records: those of one partition together or not at all. A topic that does not exist
    /// is created, if the broker allows it.
    ///
    /// Answers one place per record, in the order given; none with [`Acks::None`].
    ///
    /// # Errors
    /// See [`ProduceError`]. Nothing is appended anywhere if any record is invalid.
    pub async fn produce(
        &self,
        topic: &TopicName,
        records: Vec<(Option<Partition>, Record)>,
        acks: Acks,
        expected: Option<Offset>,
    ) -> Result<Vec<Placed>, ProduceError> {
        let how = Produce {
            acks,
            expected,
            once: Once::No,
        };
        Ok(self.produce_once(topic, records, &how).await?.places)
    }

    /// As [`Broker::produce`], and recognises what is sent again if [`Produce::once`] says how.
    ///
    /// # Errors
    /// See [`ProduceError`]. Repeating a request whose outcome is unknown is safe.
    pub async fn produce_once(
        &self,
        topic: &TopicName,
        records: Vec<(Option<Partition>, Record)>,
        how: &Produce,
    ) -> Result<Produced, ProduceError> {
        let (acks, expected) = (how.acks, how.expected);
        how.once.check()?;
        how.once.check_records(&records)?;
        self.check_space()?;
        if self.find_topic(topic).is_none() {
            self.check_for_new_topic(topic, &records)?;
        }
        let topic = self.topic_for_produce(topic).await?;
        let now = self.inner.clock.now();
        let marking = how.once.marking(&records, now);
        let pending = distribute(&topic, &records, now, &marking)?;
        if marking.one_partition && 1 < pending.len() {
            return Err(ProduceError::SequenceSpansPartitions);
        }
        if expected.is_some() && 1 < pending.len() {
            return Err(ProduceError::ExpectedSpansPartitions);
        }
        let codec = match topic.entry.settings.compression {
            Compression::Zstd => Codec::Zstd,
            Compression::Producer => Codec::None,
        };
        let mut requests = Vec::with_capacity(pending.len());
        for group in pending {
            let partition = topic.check_partition(Partition(group.partition))?;
            if limits::BATCH_BYTES < group.builder.batch_len() {
                return Err(ProduceError::TooLarge {
                    partition: topic.name_of(partition),
                });
            }
            let Some(batch) = group.builder.build(codec, marking.producer) else {
                continue;
            };
            requests.push((
                partition,
                AppendRequest {
                    batches: vec![owned(batch)],
                    expected,
                },
                group.indexes,
            ));
        }
        let append_time = topic.entry.settings.timestamp_type == TimestampType::Append;
        let mut placed = vec![None; records.len()];
        let mut replayed = true;
        let (requests, indexes): (Vec<_>, Vec<_>) = requests
            .into_iter()
            .map(|(partition, request, indexes)| ((partition, request), indexes))
            .unzip();
        for (appended, indexes) in self
            .append_all(&topic, requests, acks)
            .await?
            .into_iter()
            .zip(indexes)
        {
            let (partition, Some(batch)) = (appended.0, appended.1.first()) else {
                continue;
            };
            replayed &= batch.replayed.is_some();
            for (delta, index) in indexes.into_iter().enumerate() {
                let arrived = batch.replayed.unwrap_or(now);
                let own = records[index].1.timestamp.unwrap_or(arrived);
                placed[index] = Some(Placed {
                    partition,
                    offset: Offset(batch.base_offset.0 + delta as u64),
                    timestamp: if append_time { batch.append_time } else { own },
                });
            }
        }
        let places: Vec<Placed> = placed.into_iter().flatten().collect();
        Ok(Produced {
            replayed: replayed && !places.is_empty(),
            places,
        })
    }

    /// Appends batches as they are, all to one partition and together or not at all. Their
    /// checksums and records are verified first; the bytes are not encoded again unless the topic
    /// asks for compression.
    ///
    /// # Errors
    /// See [`ProduceError`].
    pub async fn produce_batches(
        &self,
        topic: &TopicName,
        partition: Option<Partition>,
        batches: Vec<Batch>,
        how: &Produce,
    ) -> Result<Vec<(Partition, Appended)>, ProduceError> {
        self.check_space()?;
        let name = topic;
        let (acks, expected) = (how.acks, how.expected);
        let once = &how.once;
        once.check()?;
        let marked = batches.iter().any(|batch| batch.header.is_marked());
        // Where they go must not depend on what others send meanwhile.
        if partition.is_none() && (marked || matches!(once, Once::Sequence(_))) {
            return Err(ProduceError::SequenceSpansPartitions);
        }
        let mut keyless = None;
        if let Once::Key(key) = once {
            keyless = Some(key.as_bytes());
            if 1 < batches.len() {
                return Err(ProduceError::KeySpansBatches);
            }
        }
        let bytes = batches
            .iter()
            .map(|batch| batch.bytes().len())
            .sum::<usize>();
        let unpacked = batches
            .iter()
            .map(|batch| batch.header.unpacked_len as usize)
            .sum::<usize>();
        let found = self.find_topic(name);
        // Judged before a topic is made: a request that is refused leaves none behind.
        let settings = found
            .as_ref()
            .map_or(&self.inner.options.defaults, |topic| &topic.entry.settings);
        check_new_partition(name, partition, settings.partitions)?;
        if limits::BATCH_BYTES < bytes || limits::UNPACKED_BYTES < unpacked {
            return Err(ProduceError::TooLarge {
                partition: TopicPartition {
                    topic: name.clone(),
                    partition: partition.unwrap_or_default(),
                },
            });
        }
        let compress = settings.compression == Compression::Zstd;
        let max = settings.max_record_bytes;
        let key = match (once, batches.first()) {
            (Once::Key(key), Some(batch)) => {
                let mut sum = Fingerprint::default();
                sum.add_bytes(batch.bytes().get(76..).unwrap_or_default());
                sum.add_bytes(&partition.map_or(u32::MAX, |p| p.0).to_le_bytes());
                Some(Key {
                    hash: hash_key(key.as_bytes()),
                    fingerprint: sum.finish(),
                    arrived: self.inner.clock.now(),
                })
            }
            _ => None,
        };
        // Checking sums and parses every byte: large bodies leave the async threads alone.
        let batches = if bytes.max(unpacked) < INLINE_CHECK {
            checked(batches, max, compress, key)?
        } else {
            match tokio::task::spawn_blocking(move || checked(batches, max, compress, key)).await {
                Ok(batches) => batches?,
                Err(_) => return Err(super::TopicError::Closing.into()),
            }
        };
        let topic = self.topic_for_produce(name).await?;
        let partitions = topic.entry.settings.partitions;
        let partition = partition.unwrap_or_else(|| {
            Partition(match keyless {
                Some(key) => partition_for_key(key, partitions),
                None => topic.sticky.choose(bytes, partitions),
            })
        });
        let partition = topic.check_partition(partition)?;
        if batches.is_empty() {
            return Ok(Vec::new());
        }
        let request = AppendRequest { batches, expected };
        let requests = vec![(partition, request)];
        let mut appended = self.append_all(&topic, requests, acks).await?;
        Ok(appended
            .pop()
            .map_or_else(Vec::new, |(partition, batches)| {
                batches
                    .into_iter()
                    .map(|batch| (partition, batch))
                    .collect()
            }))
    }

    /// A request that will be refused must not leave an empty topic behind: it is judged by the
    /// settings that the topic would get before the topic is made.
    fn check_for_new_topic(
        &self,
        topic: &TopicName,
        records: &[(Option<Partition>, Record)],
    ) -> Result<(), ProduceError> {
        let defaults = &self.inner.options.defaults;
        for (index, (partition, record)) in records.iter().enumerate() {
            check_new_partition(topic, *partition, defaults.partitions)?;
            record
                .check(defaults.max_record_bytes)
                .map_err(|source| ProduceError::Record { index, source })?;
        }
        Ok(())
    }
}

fn check_new_partition(
    topic: &TopicName,
    partition: Option<Partition>,
    partitions: u32,
) -> Result<(), UnknownPartition> {
    match partition {
        Some(partition) if partitions <= partition.0 => Err(UnknownPartition {
            topic: topic.clone(),
            partition,
            partitions,
        }),
        _ => Ok(()),
    }
}

/// Bytes up to which batches are checked on the spot.
const INLINE_CHECK: usize = 64 * 1024;

fn checked(
    batches: Vec<Batch>,
    max_record_bytes: u32,
    compress: bool,
    key: Option<Key>,
) -> Result<Vec<BytesMut>, ProduceError> {
    let mut out = Vec::with_capacity(batches.len());
    for (index, batch) in batches.into_iter().enumerate() {
        batch
            .check(max_record_bytes)
            .map_err(|source| ProduceError::Batch { index, source })?;
        let batch = match key {
            Some(key) => batch
                .with_key(key)
                .map_err(|source| ProduceError::Batch { index, source })?,
            None => batch,
        };
        let smaller = match (compress, batch.header.codec) {
            (true, Codec::None) => batch
                .compressed(3)
                .map_err(|source| ProduceError::Batch { index, source })?,
            _ => None,
        };
        out.push(owned(smaller.unwrap_or(batch)));
    }
    Ok(out)
}

/// The batch's bytes to write into: copied only if somebody else still holds them.
fn owned(batch: Batch) -> BytesMut {
    Bytes::from(batch)
        .try_into_mut()
        .unwrap_or_else(|shared| BytesMut::from(shared.as_ref()))
}

fn distribute(
    topic: &Topic,
    records: &[(Option<Partition>, Record)],
    now: Timestamp,
    marking: &Marking,
) -> Result<Vec<Pending>, ProduceError> {
    let settings = &topic.entry.settings;
    let mut keyless = None;
    let mut pending: Vec<Pending> = Vec::new();
    for (index, (partition, record)) in records.iter().enumerate() {
        record
            .check(settings.max_record_bytes)
            .map_err(|source| ProduceError::Record { index, source })?;
        let partition = match (partition, &record.key) {
            (Some(partition), _) => topic.check_partition(*partition)?.0,
            (None, Some(key)) => partition_for_key(key, settings.partitions),
            (None, None) => *keyless.get_or_insert_with(|| {
                if let Some(key) = &marking.keyless {
                    return partition_for_key(key, settings.partitions);
                }
                let bytes = records.iter().map(|(_, record)| record.size() + 64).sum();
                topic.sticky.choose(bytes, settings.partitions)
            }),
        };
        let found = pending
            .iter()
            .position(|group| group.partition == partition);
        let group = found.unwrap_or_else(|| {
            let room = if records.len() == 1 {
                record.size() + 64
            } else {
                4096
            };
            let builder = BatchBuilder::marked(room, marking.extension);
            pending.push(Pending {
                partition,
                builder,
                indexes: Vec::new(),
            });
            pending.len() - 1
        });
        pending[group].builder.push(record, now);
        pending[group].indexes.push(index);
    }
    Ok(pending)
}

type PartitionAppended = (Partition, Vec<Appended>);

impl Broker {
    async fn append_all(
        &self,
        topic: &Arc<Topic>,
        mut requests: Vec<(Partition, AppendRequest)>,
        acks: Acks,
    ) -> Result<Vec<PartitionAppended>, ProduceError> {
        if requests.len() <= 1 {
            let Some((partition, request)) = requests.pop() else {
                return Ok(Vec::new());
            };
            let appended = self.append(topic, partition, request, acks).await?;
            return Ok(match acks {
                Acks::None => Vec::new(),
                Acks::All | Acks::Leader => vec![(partition, appended)],
            });
        }
        let appends = requests.into_iter().map(|(partition, request)| async move {
            let appended = self.append(topic, partition, request, acks).await;
            (partition, appended)
        });
        let appended = outcome(join_all(appends).await)?;
        Ok(match acks {
            Acks::None => Vec::new(),
            Acks::All | Acks::Leader => appended,
        })
    }

    /// Appends to one partition, wherever it is led.
    async fn append(
        &self,
        topic: &Arc<Topic>,
        partition: Partition,
        request: AppendRequest,
        acks: Acks,
    ) -> Result<Vec<Appended>, AppendFailed> {
        if let Site::Here(handle) = self.site(topic, partition).await? {
            return Ok(self.append_here(&handle, request, acks).await?);
        }
        let AppendRequest { batches, expected } = request;
        let lengths: Vec<u32> = batches.iter().map(|batch| batch.len() as u32).collect();
        let mut body = BytesMut::with_capacity(batches.iter().map(BytesMut::len).sum());
        batches
            .iter()
            .for_each(|batch| body.extend_from_slice(batch));
        let body = body.freeze();
        let appended = self.at_leader(
            topic,
            partition,
            |key| Append {
                key,
                acks,
                expected,
                lengths: lengths.clone(),
            },
            body.clone(),
            |handle| {
                // The lead has come here meanwhile.
                let mut rest = BytesMut::from(body.as_ref());
                let batches = lengths.iter().map(|length| rest.split_to(*length as usize));
                let batches = batches.collect();
                async move {
                    let request = AppendRequest { batches, expected };
                    match self.append_here(&handle, request, acks).await {
                        Err(AppendError::NotLeader { .. }) => Err(NotLeader {
                            leader: None,
                            epoch: handle.role().epoch,
                        }),
                        appended => Ok((appended, Bytes::new())),
                    }
                }
            },
        );
        Ok(appended.await?.0?)
    }

    /// Appends to a partition that this node leads.
    pub(super) async fn append_here(
        &self,
        handle: &PartitionHandle,
        request: AppendRequest,
        acks: Acks,
    ) -> Result<Vec<Appended>, AppendError> {
        if self.inner.space.is_short() {
            let partition = handle.name().clone();
            return Err(AppendError::NoSpace { partition });
        }
        let batches = request.batches.iter();
        self.inner.space.spend(batches.map(BytesMut::len).sum());
        let appended = match acks {
            Acks::None => handle.append_unacknowledged(request).map(|()| Vec::new()),
            Acks::All | Acks::Leader => handle.append(request, acks).await,
        };
        if let Err(AppendError::OffsetMismatch { .. }) = &appended
            && !matches!(self.confirm_end(handle).await, Ok(Ok(())))
        {
            // R2: where a log ends that another node leads by now says nothing of the partition.
            let partition = handle.name().clone();
            return Err(AppendError::NotLeader { partition });
        }
        appended
    }
}

/// Why one partition did not take its records, or may not have.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum AppendFailed {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Route(#[from] RouteError),
}

impl AppendFailed {
    fn is_uncertain(&self) -> bool {
        match self {
            Self::Append(error) => error.is_uncertain(),
            Self::Route(error) => matches!(error, RouteError::ConnectionLost { .. }),
        }
    }
}

impl From<AppendFailed> for ProduceError {
    fn from(failed: AppendFailed) -> Self {
        match failed {
            AppendFailed::Append(error) => Self::Append(error),
            AppendFailed::Route(error) => Self::Route(error),
        }
    }
}

/// One answer for several partitions. It says "refused" only if no partition took anything, nor
/// may have taken anything.
fn outcome(
    done: Vec<(Partition, Result<Vec<Appended>, AppendFailed>)>,
) -> Result<Vec<PartitionAppended>, ProduceError> {
    let some_appended = done.iter().any(|(_, result)| result.is_ok());
    let (mut appended, mut failed) = (Vec::with_capacity(done.len()), None);
    for (partition, result) in done {
        match result {
            Ok(batches) => appended.push((partition, batches)),
            Err(error) => match &failed {
                Some(worse) if !error.is_uncertain() || AppendFailed::is_uncertain(worse) => {}
                _ => failed = Some(error),
            },
        }
    }
    match failed {
        None => Ok(appended),
        Some(error) if some_appended => Err(ProduceError::Partial(Box::new(error.into()))),
        Some(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Outcome, TopicPartition};

    #[test]
    fn a_request_is_refused_only_if_no_partition_may_have_taken_anything() {
        let partition = TopicPartition {
            topic: "t".parse().unwrap(),
            partition: Partition(0),
        };
        let no_space = AppendError::NoSpace {
            partition: partition.clone(),
        };
        let sync = AppendError::Sync {
            partition,
            reason: "fsync".into(),
        };
        let of = |results: [Result<(), &AppendError>; 2]| {
            let done = results.map(|result| {
                let result = result
                    .map(|()| Vec::new())
                    .map_err(|error| error.clone().into());
                (Partition(0), result)
            });
            outcome(done.into()).map_err(|error| error.outcome())
        };
        assert_eq!(of([Ok(()), Ok(())]).unwrap().len(), 2);
        for (results, expected) in [
            ([Err(&no_space), Err(&no_space)], Outcome::Refused),
            ([Err(&no_space), Err(&sync)], Outcome::Unknown),
            ([Err(&sync), Err(&no_space)], Outcome::Unknown),
            ([Ok(()), Err(&no_space)], Outcome::Unknown),
            ([Err(&no_space), Ok(())], Outcome::Unknown),
        ] {
            assert_eq!(of(results).unwrap_err(), expected, "{results:?}");
        }
    }
}
