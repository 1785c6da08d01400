//! Topics: created, changed and deleted by one owner, described by anybody.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::lifecycle::{Host, TopicMap, log_options};
use super::produce::Sticky;
use super::{Broker, ProduceError, TopicError, UnknownPartition};
use crate::metadata::{Applied, ApplyError, Command, Rejected, Store, TopicEntry};
use crate::partition::{self, PartitionHandle, State};
use crate::storage::LogStats;
use crate::types::{
    Clock, LeaderEpoch, Offset, Partition, Timestamp, TopicId, TopicName, TopicPartition,
    TopicPatch, TopicSettings,
};

/// A topic at work: its metadata and the partitions that this node hosts.
pub(super) struct Topic {
    pub(super) entry: Arc<TopicEntry>,
    /// Index = partition.
    pub(super) partitions: Vec<PartitionHandle>,
    pub(super) progress: watch::Sender<u64>,
    pub(super) sticky: Arc<Sticky>,
}

impl Topic {
    pub(super) fn without_partitions(entry: Arc<TopicEntry>) -> Self {
        Self {
            entry,
            partitions: Vec::new(),
            progress: watch::Sender::new(0),
            sticky: Arc::default(),
        }
    }

    pub(super) fn partition(
        &self,
        partition: Partition,
    ) -> Result<&PartitionHandle, UnknownPartition> {
        self.partitions
            .get(partition.0 as usize)
            .ok_or_else(|| self.unknown(partition))
    }

    pub(super) fn check_partition(
        &self,
        partition: Partition,
    ) -> Result<Partition, UnknownPartition> {
        self.partition(partition).map(|_| partition)
    }

    fn unknown(&self, partition: Partition) -> UnknownPartition {
        let partitions = self.partitions.len() as u32;
        UnknownPartition {
            topic: self.entry.name.clone(),
            partition,
            partitions,
        }
    }
}

/// A topic, its settings and its size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicDescription {
    /// Its name.
    pub name: TopicName,
    /// Its identity.
    pub id: TopicId,
    /// When it was created.
    pub created_at: Timestamp,
    /// Its effective settings.
    pub settings: TopicSettings,
    /// Records that readers can see, over all partitions.
    pub records: u64,
    /// Bytes on disk, over all partitions.
    pub bytes: u64,
    /// Bytes that the same batches had when they were appended.
    pub appended_bytes: u64,
}

/// One partition: from where to where it goes, and how it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionStatus {
    /// Its index.
    pub partition: Partition,
    /// The reign in which this node leads it.
    pub leader_epoch: LeaderEpoch,
    /// First offset that can be read.
    pub log_start: Offset,
    /// Offset after the last record that readers can see.
    pub high_watermark: Offset,
    /// Offset that the next record gets.
    pub log_end: Offset,
    /// Sizes.
    pub stats: LogStats,
    /// Whether it takes records.
    pub state: State,
}

impl Topic {
    fn describe(&self) -> TopicDescription {
        let mut description = TopicDescription {
            name: self.entry.name.clone(),
            id: self.entry.id,
            created_at: self.entry.created_at,
            settings: self.entry.settings.clone(),
            records: 0,
            bytes: 0,
            appended_bytes: 0,
        };
        for reader in self.partitions.iter().map(PartitionHandle::reader) {
            let stats = reader.stats();
            description.records += reader
                .high_watermark()
                .0
                .saturating_sub(reader.log_start().0);
            description.bytes += stats.bytes;
            description.appended_bytes += stats.appended_bytes;
        }
        description
    }
}

impl Broker {
    pub(super) fn find_topic(&self, name: &TopicName) -> Option<Arc<Topic>> {
        self.inner.topics.load().get(name).cloned()
    }

    pub(super) fn existing_topic(&self, name: &TopicName) -> Result<Arc<Topic>, TopicError> {
        self.find_topic(name)
            .ok_or_else(|| match self.inner.tasks.stopping().is_cancelled() {
                // Closing takes every topic off the map, and none of them is gone.
                true => TopicError::Closing,
                false => TopicError::NotFound(name.clone()),
            })
    }

    /// The topic, created if need be and allowed.
    pub(super) async fn topic_for_produce(
        &self,
        name: &TopicName,
    ) -> Result<Arc<Topic>, ProduceError> {
        if let Some(topic) = self.find_topic(name) {
            return Ok(topic);
        }
        if !self.inner.options.auto_create_topics {
            return Ok(self.existing_topic(name)?);
        }
        match self.put_topic(name, &TopicPatch::default()).await {
            // Somebody else was faster, with settings of their own.
            Ok(_) | Err(TopicError::Exists(_)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.existing_topic(name)?)
    }

    /// Makes a topic with the broker's defaults and `patch` laid over them. A topic that exists
    /// with the same settings is left as it is; the first value says whether it was made now.
    ///
    /// # Errors
    /// See [`TopicError`].
    pub async fn put_topic(
        &self,
        name: &TopicName,
        patch: &TopicPatch,
    ) -> Result<(bool, TopicDescription), TopicError> {
        if name.is_internal() {
            return Err(TopicError::Reserved(name.clone()));
        }
        let settings = self.inner.options.defaults.with(patch)?;
        let name = name.clone();
        self.ask(|reply| TopicRequest::Create {
            name,
            settings,
            reply,
        })
        .await
    }

    /// Changes a topic's settings.
    ///
    /// # Errors
    /// See [`TopicError`].
    pub async fn alter_topic(
        &self,
        name: &TopicName,
        patch: &TopicPatch,
    ) -> Result<TopicDescription, TopicError> {
        let (name, patch) = (name.clone(), patch.clone());
        self.ask(|reply| TopicRequest::Alter { name, patch, reply })
            .await
    }

    /// Deletes a topic and all its records.
    ///
    /// # Errors
    /// See [`TopicError`].
    pub async fn delete_topic(&self, name: &TopicName) -> Result<(), TopicError> {
        let name = name.clone();
        self.ask(|reply| TopicRequest::Delete { name, reply }).await
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, TopicError>>) -> TopicRequest,
    ) -> Result<T, TopicError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.inner.topic_requests.send(request(reply)).await;
        sent.map_err(|_| TopicError::Closing)?;
        answer.await.unwrap_or(Err(TopicError::Closing))
    }

    /// A topic, its settings and its size.
    ///
    /// # Errors
    /// [`TopicError::NotFound`].
    pub fn topic(&self, name: &TopicName) -> Result<TopicDescription, TopicError> {
        let topic = self.existing_topic(name)?;
        Ok(topic.describe())
    }

    /// Up to `limit` topics by name, those after `after` whose names begin with `prefix`, and
    /// whether there are more.
    pub fn topics(
        &self,
        after: Option<&TopicName>,
        prefix: &str,
        limit: usize,
    ) -> (Vec<TopicDescription>, bool) {
        use std::ops::Bound::{Excluded, Unbounded};
        let topics = self.inner.topics.load();
        let from = after.map_or(Unbounded, Excluded);
        let mut matching = topics
            .range::<TopicName, _>((from, Unbounded))
            .filter(|(name, _)| name.as_str().starts_with(prefix));
        let page = matching
            .by_ref()
            .take(limit)
            .map(|(_, topic)| topic.describe())
            .collect();
        (page, matching.next().is_some())
    }

    /// The partitions of a topic, in order.
    ///
    /// # Errors
    /// [`TopicError::NotFound`].
    pub fn partitions(&self, name: &TopicName) -> Result<Vec<PartitionStatus>, TopicError> {
        let topic = self.existing_topic(name)?;
        Ok(topic
            .partitions
            .iter()
            .map(|handle| PartitionStatus {
                partition: handle.name().partition,
                leader_epoch: handle.epoch(),
                log_start: handle.reader().log_start(),
                high_watermark: handle.reader().high_watermark(),
                log_end: handle.reader().log_end(),
                stats: handle.reader().stats(),
                state: handle.state(),
            })
            .collect())
    }

    /// Deletes the records of a partition below `before`; returns the first offset that is left.
    ///
    /// # Errors
    /// See [`TopicError`].
    pub async fn trim(
        &self,
        topic: &TopicName,
        partition: Partition,
        before: Offset,
    ) -> Result<Offset, TopicError> {
        let found = self.existing_topic(topic)?;
        let handle = found.partition(partition)?;
        let end = handle.reader().high_watermark();
        if end < before {
            let partition = TopicPartition {
                topic: topic.clone(),
                partition,
            };
            return Err(TopicError::BeyondEnd {
                partition,
                before,
                end,
            });
        }
        Ok(handle.trim(before).await?)
    }
}

pub(super) enum TopicRequest {
    Create {
        name: TopicName,
        settings: TopicSettings,
        reply: oneshot::Sender<Result<(bool, TopicDescription), TopicError>>,
    },
    Alter {
        name: TopicName,
        patch: TopicPatch,
        reply: oneshot::Sender<Result<TopicDescription, TopicError>>,
    },
    Delete {
        name: TopicName,
        reply: oneshot::Sender<Result<(), TopicError>>,
    },
}

/// The one place where topics come, change and go: requests are taken one after another, so that
/// metadata, files and the map of topics never disagree.
pub(super) struct TopicOwner {
    host: Arc<Host>,
    store: Store,
    topics: Arc<ArcSwap<TopicMap>>,
    clock: Arc<dyn Clock>,
    requests: mpsc::Receiver<TopicRequest>,
}

impl TopicOwner {
    pub(super) fn new(
        host: Arc<Host>,
        store: Store,
        topics: Arc<ArcSwap<TopicMap>>,
        clock: Arc<dyn Clock>,
        requests: mpsc::Receiver<TopicRequest>,
    ) -> Self {
        Self {
            host,
            store,
            topics,
            clock,
            requests,
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            let request = tokio::select! {
                () = stop.cancelled() => return,
                request = self.requests.recv() => request,
            };
            // Requesters that have gone away do not want their answers.
            match request {
                None => return,
                Some(TopicRequest::Create {
                    name,
                    settings,
                    reply,
                }) => {
                    let _ = reply.send(self.create(name, settings).await);
                }
                Some(TopicRequest::Alter { name, patch, reply }) => {
                    let _ = reply.send(self.alter(&name, patch).await);
                }
                Some(TopicRequest::Delete { name, reply }) => {
                    let _ = reply.send(self.delete(&name).await);
                }
            }
        }
    }

    async fn create(
        &self,
        name: TopicName,
        settings: TopicSettings,
    ) -> Result<(bool, TopicDescription), TopicError> {
        let create = Command::CreateTopic {
            name: name.clone(),
            id: TopicId(Uuid::now_v7()),
            settings,
            at: self.clock.now(),
        };
        let entry = match self.store.apply(create).await {
            Ok(Applied::TopicCreated(entry)) => entry,
            Err(ApplyError::Rejected(Rejected::TopicExists {
                same_settings: true,
            })) => {
                let topic = self.topics.load().get(&name).cloned();
                return topic
                    .map(|topic| (false, topic.describe()))
                    .ok_or(TopicError::NotFound(name));
            }
            Ok(other) => return Err(TopicError::Metadata(format!("unexpected answer {other:?}"))),
            Err(error) => return Err(TopicError::from_apply(&name, &error)),
        };
        let id = entry.id;
        let topic = match self
            .with_partitions(&Topic::without_partitions(entry.clone()), entry)
            .await
        {
            Ok(topic) => topic,
            Err(error) => {
                let delete = Command::DeleteTopic {
                    name: name.clone(),
                    id,
                    at: self.clock.now(),
                };
                let undone = self.store.apply(delete).await;
                undone.map_err(|error| TopicError::from_apply(&name, &error))?;
                return Err(error);
            }
        };
        let description = topic.describe();
        self.replace(name, Some(topic));
        Ok((true, description))
    }

    async fn alter(
        &self,
        name: &TopicName,
        patch: TopicPatch,
    ) -> Result<TopicDescription, TopicError> {
        let Some(before) = self.topics.load().get(name).cloned() else {
            return Err(TopicError::NotFound(name.clone()));
        };
        let alter = Command::AlterTopic {
            name: name.clone(),
            patch,
            at: self.clock.now(),
        };
        let entry = match self.store.apply(alter).await {
            Ok(Applied::TopicAltered(entry)) => entry,
            Ok(other) => return Err(TopicError::Metadata(format!("unexpected answer {other:?}"))),
            Err(ApplyError::Rejected(Rejected::InvalidSettings(error))) => return Err(error.into()),
            Err(ApplyError::Rejected(Rejected::FewerPartitions { current, asked })) => {
                let why = format!("can grow, never shrink: there are {current}, not {asked}");
                return Err(crate::types::InvalidSettings {
                    setting: "partitions".into(),
                    why,
                }
                .into());
            }
            Err(error) => return Err(TopicError::from_apply(name, &error)),
        };
        for handle in &before.partitions {
            handle.set_options(log_options(&entry.settings), entry.settings.durability);
        }
        let topic = self.with_partitions(&before, entry).await?;
        let description = topic.describe();
        self.replace(name.clone(), Some(topic));
        description_changed(&before);
        Ok(description)
    }

    /// `before` with `entry`'s settings and as many partitions as they say.
    async fn with_partitions(
        &self,
        before: &Topic,
        entry: Arc<TopicEntry>,
    ) -> Result<Topic, TopicError> {
        let (host, wanted, have) = (
            self.host.clone(),
            entry.settings.partitions,
            before.partitions.len() as u32,
        );
        let view = self.store.view().borrow().clone();
        let (settled, opening) = (entry.clone(), entry.clone());
        let logs = tokio::task::spawn_blocking(move || {
            view.partitions_of(opening.id)
                .filter(|(partition, _)| (have..wanted).contains(&partition.0))
                .map(|(partition, record)| {
                    host.open_log(&opening, partition)
                        .map(|log| (partition, record.leader_epoch, log))
                })
                .collect::<Result<Vec<_>, _>>()
        });
        let logs = match logs.await {
            Ok(Ok(logs)) => logs,
            Ok(Err(error)) => return Err(TopicError::Metadata(partition::chain(&error))),
            Err(_) => return Err(TopicError::Closing),
        };
        let mut partitions = before.partitions.clone();
        for (partition, epoch, log) in logs {
            let hosted = self
                .host
                .host(&settled, partition, epoch, log, &before.progress);
            partitions.push(hosted);
        }
        Ok(Topic {
            entry,
            partitions,
            progress: before.progress.clone(),
            sticky: before.sticky.clone(),
        })
    }

    async fn delete(&self, name: &TopicName) -> Result<(), TopicError> {
        let Some(topic) = self.topics.load().get(name).cloned() else {
            return Err(TopicError::NotFound(name.clone()));
        };
        let id = topic.entry.id;
        let delete = Command::DeleteTopic {
            name: name.clone(),
            id,
            at: self.clock.now(),
        };
        let deleted = self.store.apply(delete).await;
        deleted.map_err(|error| TopicError::from_apply(name, &error))?;
        self.replace(name.clone(), None);
        description_changed(&topic);
        for handle in &topic.partitions {
            if let Err(error) = handle.destroy().await {
                tracing::warn!(error = partition::chain(&error), "delete");
            }
        }
        let host = self.host.clone();
        let removed = tokio::task::spawn_blocking(move || host.remove_topic(id)).await;
        // What cannot be removed now is removed at the next start: the metadata remembers it.
        if let Ok(Ok(())) = removed {
            let node = self.host.node;
            let forgotten = self.store.apply(Command::FinishDelete { id, node }).await;
            forgotten.map_err(|error| TopicError::from_apply(name, &error))?;
        }
        Ok(())
    }

    fn replace(&self, name: TopicName, topic: Option<Topic>) {
        let mut topics = TopicMap::clone(&self.topics.load());
        match topic {
            Some(topic) => topics.insert(name, Arc::new(topic)),
            None => topics.remove(&name),
        };
        self.topics.store(Arc::new(topics));
    }
}

/// Wakes readers so that they see new partitions, or that the topic is gone.
fn description_changed(topic: &Topic) {
    topic
        .progress
        .send_modify(|version| *version = version.wrapping_add(1));
}
