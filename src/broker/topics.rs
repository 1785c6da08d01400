//! Topics: created, changed and deleted through the metadata, described by anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use super::peer::wire::{Describe, PartitionKey, Trim, TrimError};
use super::produce::Sticky;
use super::{Broker, ProduceError, TopicError, UnknownPartition};
use crate::metadata::{Applied, ApplyError, Command, Rejected, TopicEntry};
use crate::partition::{PartitionHandle, ReplicaProgress, State};
use crate::storage::LogStats;
use crate::types::{
    InvalidSettings, NodeId, Offset, Partition, PartitionRecord, Timestamp, TopicId, TopicName,
    TopicPartition, TopicPatch, TopicSettings,
};

/// A topic at work: its metadata, and what this node has of its partitions.
pub(super) struct Topic {
    pub(super) entry: Arc<TopicEntry>,
    /// Index = partition.
    pub(super) partitions: Vec<Place>,
    /// Changes whenever readers may see more, here or elsewhere.
    pub(super) progress: watch::Sender<u64>,
    /// Changes whenever readers may see more of what this node leads.
    pub(super) led: watch::Sender<u64>,
    pub(super) sticky: Arc<Sticky>,
}

/// One partition, as the cluster agrees, and this node's copy of it.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) record: Arc<PartitionRecord>,
    pub(super) hosted: Option<PartitionHandle>,
    /// Why this node cannot open its copy.
    pub(super) failed: Option<Arc<str>>,
}

impl Topic {
    /// The partition's handle, if this node leads it now.
    pub(super) fn leading(
        &self,
        partition: Partition,
    ) -> Result<Option<&PartitionHandle>, UnknownPartition> {
        let hosted = self.place(partition)?.hosted.as_ref();
        Ok(hosted.filter(|handle| handle.role().leads))
    }

    pub(super) fn place(&self, partition: Partition) -> Result<&Place, UnknownPartition> {
        self.partitions
            .get(partition.0 as usize)
            .ok_or_else(|| self.unknown(partition))
    }

    pub(super) fn check_partition(
        &self,
        partition: Partition,
    ) -> Result<Partition, UnknownPartition> {
        self.place(partition).map(|_| partition)
    }

    /// The partition's name for people.
    pub(super) fn name_of(&self, partition: Partition) -> TopicPartition {
        TopicPartition {
            topic: self.entry.name.clone(),
            partition,
        }
    }

    /// The partitions that this node has a copy of.
    pub(super) fn hosted(&self) -> impl Iterator<Item = &PartitionHandle> {
        self.partitions
            .iter()
            .filter_map(|place| place.hosted.as_ref())
    }

    fn unknown(&self, partition: Partition) -> UnknownPartition {
        let partitions = self.partitions.len() as u32;
        UnknownPartition {
            topic: self.entry.name.clone(),
            partition,
            partitions,
        }
    }

    /// The topic with other partitions; readers and writers stay with it.
    pub(super) fn with(&self, partitions: Vec<Place>) -> Self {
        Self {
            entry: self.entry.clone(),
            partitions,
            progress: self.progress.clone(),
            led: self.led.clone(),
            sticky: self.sticky.clone(),
        }
    }

    /// Wakes readers: there are other partitions, other leaders, or the topic is gone.
    pub(super) fn wake(&self) {
        for word in [&self.progress, &self.led] {
            word.send_modify(|version| *version = version.wrapping_add(1));
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

/// One partition: who has it, from where to where it goes, and how it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// Its index.
    pub partition: Partition,
    /// What the cluster agrees on about it.
    pub record: Arc<PartitionRecord>,
    /// First offset that can be read.
    pub log_start: Offset,
    /// Offset after the last record that readers can see.
    pub high_watermark: Offset,
    /// Offset that the next record gets.
    pub log_end: Offset,
    /// Sizes of the leader's copy.
    pub stats: LogStats,
    /// Whether it takes records.
    pub state: State,
    /// How far the followers are.
    pub replicas: Vec<ReplicaProgress>,
}

impl PartitionStatus {
    /// Records that a node's copy lacks, as the leader says; none if it was not heard of.
    pub fn lag(&self, node: NodeId) -> Option<u64> {
        let replica = self.replicas.iter().find(|replica| replica.node == node)?;
        Some(self.log_end.0.saturating_sub(replica.log_end?.0))
    }
}

impl Topic {
    fn describe(&self, partitions: &[PartitionStatus]) -> TopicDescription {
        let mut description = TopicDescription {
            name: self.entry.name.clone(),
            id: self.entry.id,
            created_at: self.entry.created_at,
            settings: self.entry.settings.clone(),
            records: 0,
            bytes: 0,
            appended_bytes: 0,
        };
        for status in partitions {
            let records = status.high_watermark.0.saturating_sub(status.log_start.0);
            description.records += records;
            description.bytes += status.stats.bytes;
            description.appended_bytes += status.stats.appended_bytes;
        }
        description
    }

    /// How a partition stands whose leader does not say.
    fn unheard(&self, partition: Partition, reason: &str) -> PartitionStatus {
        let place = self.partitions.get(partition.0 as usize);
        PartitionStatus {
            partition,
            record: place.map(|place| place.record.clone()).unwrap_or_default(),
            log_start: Offset::ZERO,
            high_watermark: Offset::ZERO,
            log_end: Offset::ZERO,
            stats: LogStats::default(),
            state: State::Offline(reason.to_owned()),
            replicas: Vec::new(),
        }
    }

    /// How the partitions stand that are led here.
    async fn led_here(&self) -> Vec<PartitionStatus> {
        let mut led = Vec::new();
        for (index, place) in self.partitions.iter().enumerate() {
            let Some(handle) = place.hosted.as_ref().filter(|handle| handle.role().leads) else {
                continue;
            };
            let replicas = match place.record.replicas.len() {
                1 => Vec::new(),
                _ => handle.replicas().await,
            };
            led.push(PartitionStatus {
                partition: Partition(index as u32),
                record: place.record.clone(),
                log_start: handle.reader().log_start(),
                high_watermark: handle.reader().high_watermark(),
                log_end: handle.reader().log_end(),
                stats: handle.reader().stats(),
                state: handle.state(),
                replicas,
            });
        }
        led
    }
}

impl Broker {
    pub(super) fn find_topic(&self, name: &TopicName) -> Option<Arc<Topic>> {
        self.inner.topics.load().get(name).cloned()
    }

    pub(super) fn topic_by_id(&self, id: TopicId) -> Option<Arc<Topic>> {
        let view = self.inner.store.view();
        let name = view
            .borrow()
            .topic_by_id(id)
            .map(|entry| entry.name.clone())?;
        self.find_topic(&name).filter(|topic| topic.entry.id == id)
    }

    /// This node's copy of the partition.
    pub(super) fn hosted(&self, key: PartitionKey) -> Option<PartitionHandle> {
        let topic = self.topic_by_id(key.topic)?;
        let place = topic.partitions.get(key.partition.0 as usize)?;
        place.hosted.clone()
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
        let create = Command::CreateTopic {
            name: name.clone(),
            id: TopicId(Uuid::now_v7()),
            settings: self.inner.options.defaults.with(patch)?,
            at: self.inner.clock.now(),
        };
        let created = match self.change(create).await {
            Ok(_) => true,
            Err(ApplyError::Rejected(Rejected::TopicExists {
                same_settings: true,
            })) => false,
            Err(error) => return Err(TopicError::from_apply(name, &error)),
        };
        Ok((created, self.topic(name).await?))
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
        let alter = Command::AlterTopic {
            name: name.clone(),
            patch: patch.clone(),
            at: self.inner.clock.now(),
        };
        match self.change(alter).await {
            Ok(_) => self.topic(name).await,
            Err(ApplyError::Rejected(Rejected::InvalidSettings(error))) => Err(error.into()),
            Err(ApplyError::Rejected(Rejected::FewerPartitions { current, asked })) => {
                let why = format!("can grow, never shrink: there are {current}, not {asked}");
                let setting = "partitions".into();
                Err(InvalidSettings { setting, why }.into())
            }
            Err(error) => Err(TopicError::from_apply(name, &error)),
        }
    }

    /// Deletes a topic and all its records. Other nodes delete their copies a moment later.
    ///
    /// # Errors
    /// See [`TopicError`].
    pub async fn delete_topic(&self, name: &TopicName) -> Result<(), TopicError> {
        let topic = self.existing_topic(name)?;
        let delete = Command::DeleteTopic {
            name: name.clone(),
            id: topic.entry.id,
            at: self.inner.clock.now(),
        };
        if let Err(error) = self.change(delete).await {
            return Err(TopicError::from_apply(name, &error));
        }
        // The disk has the room again when this returns; if it refuses, it is tried until it does.
        let (id, node) = (topic.entry.id, self.inner.node);
        drop(topic);
        let mut views = self.inner.store.view();
        let gone = views.wait_for(|view| {
            let mut deleted = view.deleted();
            !deleted.any(|deleted| deleted.id == id && deleted.holders.contains(&node))
        });
        let _ = tokio::time::timeout(REMOVE, gone).await;
        Ok(())
    }

    /// Changes the metadata, and waits until this node works by it.
    pub(super) async fn change(&self, command: Command) -> Result<Applied, ApplyError> {
        let applied = self.inner.store.apply(command).await;
        // Who is refused is told of what others have changed, and acts on it.
        if applied
            .as_ref()
            .is_err_and(|error| !matches!(error, ApplyError::Rejected(_)))
        {
            return applied;
        }
        let now = self.inner.store.view().borrow().clone();
        let mut settled = self.inner.settled.clone();
        let reached = settled.wait_for(|settled| {
            now.applied <= settled.applied
                || (now.same_topics(settled) && now.same_partitions(settled))
        });
        // A broker that closes settles nothing any more; the change is made all the same.
        let _ = tokio::time::timeout(SETTLE, reached).await;
        applied
    }

    /// A topic, its settings and its size.
    ///
    /// # Errors
    /// [`TopicError::NotFound`].
    pub async fn topic(&self, name: &TopicName) -> Result<TopicDescription, TopicError> {
        let topic = self.existing_topic(name)?;
        let statuses = self.statuses(std::slice::from_ref(&topic)).await;
        let partitions = statuses.first().map_or(&[][..], Vec::as_slice);
        Ok(topic.describe(partitions))
    }

    /// Up to `limit` topics by name, those after `after` whose names begin with `prefix`, and
    /// whether there are more.
    pub async fn topics(
        &self,
        after: Option<&TopicName>,
        prefix: &str,
        limit: usize,
    ) -> (Vec<TopicDescription>, bool) {
        use std::ops::Bound::{Excluded, Unbounded};
        let topics = self.inner.topics.load_full();
        let from = after.map_or(Unbounded, Excluded);
        let mut matching = topics
            .range::<TopicName, _>((from, Unbounded))
            .filter(|(name, _)| name.as_str().starts_with(prefix));
        let page: Vec<Arc<Topic>> = matching
            .by_ref()
            .take(limit)
            .map(|(_, topic)| topic.clone())
            .collect();
        let more = matching.next().is_some();
        let statuses = self.statuses(&page).await;
        let described = page.iter().zip(&statuses);
        (
            described
                .map(|(topic, partitions)| topic.describe(partitions))
                .collect(),
            more,
        )
    }

    /// The partitions of a topic, in order.
    ///
    /// # Errors
    /// [`TopicError::NotFound`].
    pub async fn partitions(&self, name: &TopicName) -> Result<Vec<PartitionStatus>, TopicError> {
        let topic = self.existing_topic(name)?;
        let mut statuses = self.statuses(&[topic]).await;
        Ok(statuses.pop().unwrap_or_default())
    }

    /// How the partitions of these topics stand that are led here.
    pub(super) async fn led(&self, topics: &[TopicId]) -> Vec<(TopicId, Vec<PartitionStatus>)> {
        let mut led = Vec::with_capacity(topics.len());
        for id in topics {
            if let Some(topic) = self.topic_by_id(*id) {
                led.push((*id, topic.led_here().await));
            }
        }
        led
    }

    /// How all partitions of these topics stand, as their leaders say.
    async fn statuses(&self, topics: &[Arc<Topic>]) -> Vec<Vec<PartitionStatus>> {
        let mut heard: BTreeMap<(TopicId, Partition), PartitionStatus> = BTreeMap::new();
        let mut elsewhere: BTreeMap<NodeId, BTreeSet<TopicId>> = BTreeMap::new();
        for topic in topics {
            for status in topic.led_here().await {
                heard.insert((topic.entry.id, status.partition), status);
            }
            let leaders = topic
                .partitions
                .iter()
                .filter_map(|place| place.record.leader);
            for leader in leaders.filter(|leader| *leader != self.inner.node) {
                elsewhere.entry(leader).or_default().insert(topic.entry.id);
            }
        }
        let asks = elsewhere.into_iter().map(|(node, topics)| async move {
            let topics = topics.into_iter().collect();
            let describe = Describe { topics };
            let asked = self.inner.peering.ask(node, &describe, Bytes::new());
            // Who does not say how its partitions stand is shown so.
            match tokio::time::timeout(DESCRIBE, asked).await {
                Ok(Ok((led, _))) => led,
                _ => Vec::new(),
            }
        });
        for led in futures_util::future::join_all(asks).await {
            for (id, partitions) in led {
                for status in partitions {
                    heard.insert((id, status.partition), status);
                }
            }
        }
        let all = topics.iter().map(|topic| {
            let partitions = (0..topic.partitions.len() as u32).map(Partition);
            partitions
                .map(|partition| {
                    let heard = heard.remove(&(topic.entry.id, partition));
                    heard.unwrap_or_else(|| {
                        topic.unheard(partition, "it has no leader that answers")
                    })
                })
                .collect()
        });
        all.collect()
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
        let trimmed = self.at_leader(
            &found,
            partition,
            |key| Trim { key, before },
            Bytes::new(),
            |handle| async move {
                let end = handle.reader().high_watermark();
                let trimmed = match end < before {
                    true => Err(TrimError::BeyondEnd(end)),
                    false => handle.trim(before).await.map_err(TrimError::Maintain),
                };
                Ok((trimmed, Bytes::new()))
            },
        );
        match trimmed.await?.0 {
            Ok(start) => Ok(start),
            Err(TrimError::Maintain(error)) => Err(error.into()),
            Err(TrimError::BeyondEnd(end)) => Err(TopicError::BeyondEnd {
                partition: found.name_of(partition),
                before,
                end,
            }),
        }
    }
}

/// How long a change that is made may take to show on this node.
const SETTLE: Duration = Duration::from_secs(10);
/// How long a deletion waits for this node's files to go.
const REMOVE: Duration = Duration::from_secs(5);
/// How long another node may take to say how its partitions stand.
const DESCRIBE: Duration = Duration::from_secs(2);
