//! Giving records back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::peer::wire::{Bounds, Fetch, FetchedAt, NotLeader, Resolve};
use super::topics::{Place, Topic};
use super::{Broker, FetchError, TopicError};
use crate::partition::PartitionHandle;
use crate::record::Header;
use crate::storage::ReadError;
use crate::types::{Durability, Offset, Partition, Timestamp, TopicName};

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum From {
    /// At the first record that is left.
    Earliest,
    /// After the last record.
    Latest,
    /// At this offset.
    Offset(Offset),
    /// At the first record of this time or later; after the last record when there is none.
    Timestamp(Timestamp),
}

/// Whole batches, as they stand in the log.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The batches; the first may begin below the offset asked for. Empty at the high watermark.
    pub batches: Bytes,
    /// Where the next fetch begins.
    pub next: Offset,
    /// The end of what readers may see.
    pub high_watermark: Offset,
}

impl Broker {
    fn fetch_topic(&self, name: &TopicName) -> Result<Arc<Topic>, FetchError> {
        self.existing_topic(name).map_err(|error| match error {
            TopicError::Closing => FetchError::Closing,
            _ => FetchError::TopicNotFound(name.clone()),
        })
    }

    /// The offset at which a reader that begins at `from` begins.
    ///
    /// # Errors
    /// See [`FetchError`]; an explicit offset must exist or be the next one.
    pub async fn resolve(
        &self,
        topic: &TopicName,
        partition: Partition,
        from: From,
    ) -> Result<Offset, FetchError> {
        let found = self.fetch_topic(topic)?;
        if let Some(handle) = found.leading(partition)?
            && let Ok(resolved) = self.resolve_here(handle, from).await
        {
            return resolved;
        }
        let resolved = self.at_leader(
            &found,
            partition,
            |key| Resolve { key, from },
            Bytes::new(),
            |handle| async move { Ok((self.resolve_here(&handle, from).await?, Bytes::new())) },
        );
        resolved.await?.0
    }

    /// As [`resolve`](Self::resolve), of a partition that is led here.
    pub(super) async fn resolve_here(
        &self,
        handle: &PartitionHandle,
        from: From,
    ) -> Result<Result<Offset, FetchError>, NotLeader> {
        let reader = handle.reader();
        let found = match from {
            From::Timestamp(time) => match handle.offset_for_timestamp(time).await {
                Ok(found) => found,
                Err(error) => {
                    let start = reader.log_start();
                    return Ok(Err(FetchError::from_read(handle.name(), start, error)));
                }
            },
            _ => None,
        };
        let in_doubt = match from {
            From::Earliest => false,
            From::Latest => true,
            From::Offset(asked) => reader.high_watermark() < asked,
            From::Timestamp(_) => found.is_none(),
        };
        if in_doubt && let Err(error) = self.confirm_end(handle).await? {
            return Ok(Err(error.into()));
        }
        Ok(match from {
            From::Earliest => Ok(reader.log_start()),
            From::Latest => Ok(reader.high_watermark()),
            From::Offset(asked) => {
                let partition = handle.name().clone();
                let (start, end) = (reader.log_start(), reader.high_watermark());
                if asked < start {
                    Err(FetchError::Trimmed {
                        partition,
                        asked,
                        start,
                    })
                } else if end < asked {
                    Err(FetchError::OutOfRange {
                        partition,
                        asked,
                        end,
                    })
                } else {
                    Ok(asked)
                }
            }
            From::Timestamp(_) => {
                Ok(found.map_or_else(|| reader.high_watermark(), |(offset, _)| offset))
            }
        })
    }

    /// Batches from the one that holds `from`, at most about `max_bytes` of them (at least one).
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn fetch(
        &self,
        topic: &TopicName,
        partition: Partition,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Fetched, FetchError> {
        let found = self.fetch_topic(topic)?;
        if let Some(handle) = found.leading(partition)?
            && let Ok(fetched) = self.fetch_here(handle, from, max_bytes).await
        {
            return fetched;
        }
        let (fetched, batches) = self
            .at_leader(
                &found,
                partition,
                |key| Fetch {
                    key,
                    from,
                    max_bytes,
                },
                Bytes::new(),
                |handle| async move {
                    Ok(match self.fetch_here(&handle, from, max_bytes).await? {
                        Err(error) => (Err(error), Bytes::new()),
                        Ok(fetched) => {
                            let found = FetchedAt {
                                next: fetched.next,
                                high_watermark: fetched.high_watermark,
                            };
                            (Ok(found), fetched.batches)
                        }
                    })
                },
            )
            .await?;
        let found = fetched?;
        Ok(Fetched {
            batches,
            next: found.next,
            high_watermark: found.high_watermark,
        })
    }

    /// As [`fetch`](Self::fetch), of a partition that is led here.
    pub(super) async fn fetch_here(
        &self,
        handle: &PartitionHandle,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Result<Fetched, FetchError>, NotLeader> {
        if handle.reader().high_watermark() < from
            && let Err(error) = self.confirm_end(handle).await?
        {
            return Ok(Err(error.into()));
        }
        let high_watermark = handle.reader().high_watermark();
        if from == high_watermark {
            return Ok(Ok(Fetched {
                batches: Bytes::new(),
                next: from,
                high_watermark,
            }));
        }
        let batches = match handle.read(from, max_bytes).await {
            Ok(batches) => batches,
            Err(error) => {
                if let ReadError::Corrupt { .. } = error {
                    self.inner
                        .stats
                        .corrupt_reads
                        .fetch_add(1, Ordering::Relaxed);
                }
                return Ok(Err(FetchError::from_read(handle.name(), from, error)));
            }
        };
        let next = end_of(&batches).unwrap_or(from);
        self.inner
            .stats
            .records_out
            .fetch_add(next.0.saturating_sub(from.0), Ordering::Relaxed);
        self.inner
            .stats
            .bytes_out
            .fetch_add(batches.len() as u64, Ordering::Relaxed);
        Ok(Ok(Fetched {
            batches,
            next,
            high_watermark: high_watermark.max(next),
        }))
    }

    /// Changes whenever readers of the topic may see more, or the topic goes away.
    ///
    /// # Errors
    /// [`FetchError::TopicNotFound`].
    pub fn progress(&self, topic: &TopicName) -> Result<watch::Receiver<u64>, FetchError> {
        let found = self.fetch_topic(topic)?;
        let progress = found.progress.subscribe();
        let elsewhere = |place: &Place| place.record.leader != Some(self.inner.node);
        if found.partitions.iter().any(elsewhere) {
            self.inner.watches.want(topic);
        }
        Ok(progress)
    }

    /// Number of partitions of a topic.
    ///
    /// # Errors
    /// [`FetchError::TopicNotFound`].
    pub fn partition_count(&self, topic: &TopicName) -> Result<u32, FetchError> {
        let found = self.fetch_topic(topic)?;
        Ok(found.entry.settings.partitions)
    }

    /// What an acknowledgement of this topic's records proves.
    ///
    /// # Errors
    /// [`FetchError::TopicNotFound`].
    pub fn durability(&self, topic: &TopicName) -> Result<Durability, FetchError> {
        let found = self.fetch_topic(topic)?;
        Ok(found.entry.settings.durability)
    }

    /// First readable offset and high watermark of a partition.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn bounds(
        &self,
        topic: &TopicName,
        partition: Partition,
    ) -> Result<(Offset, Offset), FetchError> {
        let found = self.fetch_topic(topic)?;
        let bounds = |handle: &PartitionHandle| {
            let reader = handle.reader();
            (reader.log_start(), reader.high_watermark())
        };
        if let Some(handle) = found.leading(partition)? {
            return Ok(bounds(handle));
        }
        let asked = self.at_leader(
            &found,
            partition,
            |key| Bounds { key },
            Bytes::new(),
            |handle| async move { Ok((bounds(&handle), Bytes::new())) },
        );
        Ok(asked.await?.0)
    }
}

/// Offset after the last batch.
fn end_of(batches: &[u8]) -> Option<Offset> {
    let (mut rest, mut end) = (batches, None);
    while let Ok(header) = Header::parse(rest) {
        end = Some(header.end_offset());
        rest = rest.get(header.batch_len as usize..)?;
    }
    end
}
