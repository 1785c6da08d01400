//! Makes this node's logs and tasks be what the metadata says (one owner, one direction: the
//! metadata is never bent to what is here).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::OpenError;
use super::host::{Host, log_options};
use super::lifecycle::TopicMap;
use super::peer::wire::PartitionKey;
use super::replicate::Following;
use super::topics::{Place, Topic};
use crate::cluster::Hello;
use crate::metadata::{Command, NodeEntry, NodeStatus, Store, TopicEntry, View};
use crate::partition::{self, Assignment, PartitionHandle};
use crate::replication::{PartitionView, Standing};
use crate::storage::PartitionLog;
use crate::types::{Incarnation, NodeId, Partition, PartitionRecord, TopicId, TopicName};

/// Logs opened at once.
const OPENERS: usize = 4;
/// How long until a log is tried again that could not be opened.
const RETRY: Duration = Duration::from_secs(5);

/// What a partition's task was told last.
struct Told {
    record: Arc<PartitionRecord>,
    entry: Arc<TopicEntry>,
    nodes: Arc<BTreeMap<NodeId, Standing>>,
    incarnation: Incarnation,
}

/// The owner of the map of topics.
pub(super) struct Reconciler {
    host: Arc<Host>,
    store: Store,
    node: NodeId,
    own: watch::Receiver<Hello>,
    topics: Arc<ArcSwap<TopicMap>>,
    settled: watch::Sender<Arc<View>>,
    following: watch::Sender<Following>,
    told: BTreeMap<PartitionKey, Told>,
    deleting: BTreeSet<TopicId>,
    /// Logs that could not be opened, and when they are tried again.
    failed: BTreeMap<PartitionKey, Instant>,
    /// Partitions that go, until their files are gone: the same directory is not opened meanwhile.
    leaving: BTreeSet<PartitionKey>,
    gone: (
        mpsc::UnboundedSender<PartitionKey>,
        mpsc::UnboundedReceiver<PartitionKey>,
    ),
}

/// Where a reconciler shows what it has done.
pub(super) struct Shows {
    pub(super) topics: Arc<ArcSwap<TopicMap>>,
    /// The view by which this node works.
    pub(super) settled: watch::Sender<Arc<View>>,
    pub(super) following: watch::Sender<Following>,
}

impl Reconciler {
    pub(super) fn new(
        host: Arc<Host>,
        store: Store,
        node: NodeId,
        own: watch::Receiver<Hello>,
        shows: Shows,
    ) -> Self {
        Self {
            host,
            store,
            node,
            own,
            topics: shows.topics,
            settled: shows.settled,
            following: shows.following,
            told: BTreeMap::new(),
            deleting: BTreeSet::new(),
            failed: BTreeMap::new(),
            leaving: BTreeSet::new(),
            gone: mpsc::unbounded_channel(),
        }
    }

    /// Removes what was left behind by copies that went elsewhere. Before [`run`](Self::run), which
    /// may be told to bring one back.
    pub(super) async fn sweep(&self, view: &Arc<View>) {
        let (host, view, node) = (self.host.clone(), view.clone(), self.node);
        let swept = tokio::task::spawn_blocking(move || host.sweep(&view, node)).await;
        if let Ok(Err(error)) = swept {
            tracing::warn!(%error, "copies that are elsewhere by now are still here");
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut views = self.store.view();
        loop {
            let view = views.borrow_and_update().clone();
            self.reconcile(&view).await;
            let again = self.failed.values().min().copied();
            tokio::select! {
                () = stop.cancelled() => return,
                changed = views.changed() => if changed.is_err() { return },
                changed = self.own.changed() => if changed.is_err() { return },
                Some(key) = self.gone.1.recv() => { self.leaving.remove(&key); }
                () = tokio::time::sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
            }
        }
    }

    /// Brings everything to what `view` says, or begins to: what takes long (opening logs, removing
    /// files) holds up no change of leadership.
    pub(super) async fn reconcile(&mut self, view: &Arc<View>) {
        let before = self.topics.load_full();
        let mut topics = TopicMap::new();
        let mut missing = Vec::new();
        let mut gone = Vec::new();
        for entry in view.topics() {
            let known = before.get(&entry.name);
            let known = known.filter(|known| known.entry.id == entry.id);
            let topic = self.topic(view, entry, known, &mut missing, &mut gone);
            topics.insert(entry.name.clone(), topic);
        }
        for topic in before.values() {
            let stays = topics.get(&topic.entry.name);
            if stays.is_none_or(|stays| stays.entry.id != topic.entry.id) {
                gone.extend(topic.hosted().cloned());
            }
        }
        for handle in gone {
            self.remove(handle);
        }
        let now = Instant::now();
        missing.retain(|(entry, partition, _)| {
            let key = PartitionKey {
                topic: entry.id,
                partition: *partition,
            };
            let waits = self.failed.get(&key).is_some_and(|again| now < *again);
            !waits && !self.leaving.contains(&key)
        });
        self.failed
            .retain(|key, _| view.partition(key.topic, key.partition).is_some());
        self.assign(view, &topics);
        let is_whole = missing.is_empty();
        self.publish(view, topics.clone(), is_whole);
        self.delete(view);
        if is_whole {
            return;
        }
        let opened = self.open(missing).await;
        for (name, logs) in opened {
            let Some(topic) = topics.get_mut(&name) else {
                continue;
            };
            let mut partitions = topic.partitions.clone();
            for (partition, log) in logs {
                let Some(place) = partitions.get_mut(partition.0 as usize) else {
                    continue;
                };
                let key = PartitionKey {
                    topic: topic.entry.id,
                    partition,
                };
                match log {
                    Ok(log) => {
                        self.failed.remove(&key);
                        place.hosted = Some(self.host.host(topic, partition, log));
                        place.failed = None;
                    }
                    Err(error) => {
                        self.failed.insert(key, Instant::now() + RETRY);
                        let reason = partition::chain(&error);
                        tracing::error!(topic = %name, %partition, reason, "a log cannot be opened");
                        place.failed = Some(reason.into());
                    }
                }
            }
            *topic = Arc::new(topic.with(partitions));
        }
        self.assign(view, &topics);
        self.publish(view, topics, true);
    }

    /// Shows requests the topics as they are now. A view counts as settled once every log that it
    /// asks for is open, or was tried.
    fn publish(&self, view: &Arc<View>, topics: TopicMap, is_settled: bool) {
        let before = self.topics.swap(Arc::new(topics));
        let now = self.topics.load();
        for topic in before.values() {
            let stays = now.get(&topic.entry.name);
            if stays.is_none_or(|stays| !Arc::ptr_eq(stays, topic)) {
                topic.wake();
            }
        }
        if is_settled {
            self.settled.send_replace(view.clone());
        }
    }

    /// Removes a copy that is not wanted here any more, beside everything else.
    fn remove(&mut self, handle: PartitionHandle) {
        let key = PartitionKey {
            topic: handle.reader().topic_id(),
            partition: handle.name().partition,
        };
        self.leaving.insert(key);
        let gone = self.gone.0.clone();
        self.host.hosting.tasks.spawn("remove-copy", async move {
            if let Err(error) = handle.destroy().await {
                tracing::warn!(
                    error = partition::chain(&error),
                    "a copy's files are still here"
                );
            }
            // The owner of the topics may have ended.
            let _ = gone.send(key);
        });
    }

    /// The topic as `view` has it, with the handles that are there already.
    fn topic(
        &self,
        view: &View,
        entry: &Arc<TopicEntry>,
        known: Option<&Arc<Topic>>,
        missing: &mut Vec<(Arc<TopicEntry>, Partition, Arc<PartitionRecord>)>,
        gone: &mut Vec<PartitionHandle>,
    ) -> Arc<Topic> {
        let mut changed = known.is_none_or(|known| !Arc::ptr_eq(&known.entry, entry));
        let mut partitions = Vec::with_capacity(entry.settings.partitions as usize);
        for (partition, record) in view.partitions_of(entry.id) {
            let place = known.and_then(|known| known.partitions.get(partition.0 as usize));
            let mut hosted = place.and_then(|place| place.hosted.clone());
            let ours = record.replica(self.node).is_some();
            if ours && hosted.is_none() {
                missing.push((entry.clone(), partition, record.clone()));
            }
            if !ours && let Some(handle) = hosted.take() {
                gone.push(handle);
            }
            changed |= place.is_none_or(|place| !Arc::ptr_eq(&place.record, record));
            partitions.push(Place {
                record: record.clone(),
                hosted,
                failed: place.and_then(|place| place.failed.clone()),
            });
        }
        match known {
            Some(known) if !changed => known.clone(),
            Some(known) => Arc::new(Topic {
                entry: entry.clone(),
                ..known.with(partitions)
            }),
            None => Arc::new(Topic {
                entry: entry.clone(),
                partitions,
                progress: watch::Sender::new(0),
                led: watch::Sender::new(0),
                sticky: Arc::default(),
            }),
        }
    }

    /// Opens logs, several at once: recovery is bound by the disk, not by one core.
    async fn open(
        &self,
        missing: Vec<(Arc<TopicEntry>, Partition, Arc<PartitionRecord>)>,
    ) -> BTreeMap<TopicName, Vec<(Partition, Result<PartitionLog, OpenError>)>> {
        let share = missing.len().div_ceil(OPENERS).max(1);
        let mut opening = Vec::new();
        for chunk in missing.chunks(share) {
            let (host, chunk) = (self.host.clone(), chunk.to_vec());
            opening.push(tokio::task::spawn_blocking(move || {
                let opened = chunk.into_iter().map(|(entry, partition, record)| {
                    let log = host.open_log(&entry, partition, &record);
                    (entry.name.clone(), partition, log)
                });
                opened.collect::<Vec<_>>()
            }));
        }
        let mut all = BTreeMap::<_, Vec<_>>::new();
        for opened in opening {
            match opened.await {
                Ok(opened) => {
                    for (name, partition, log) in opened {
                        all.entry(name).or_default().push((partition, log));
                    }
                }
                Err(error) => tracing::error!(%error, "opening logs stopped unexpectedly"),
            }
        }
        all
    }

    /// Tells every partition's task what it is to do, if that is new.
    fn assign(&mut self, view: &View, topics: &TopicMap) {
        let incarnation = self.own.borrow_and_update().incarnation;
        if incarnation == Incarnation::default() {
            // N2: nobody leads or follows before the cluster knows this process.
            return;
        }
        let nodes = Arc::new(standings(view.nodes()));
        let mut following = Following::new();
        let mut hosted = BTreeSet::new();
        for topic in topics.values() {
            for (index, place) in topic.partitions.iter().enumerate() {
                let Some(handle) = &place.hosted else {
                    continue;
                };
                let partition = Partition(index as u32);
                let key = PartitionKey {
                    topic: topic.entry.id,
                    partition,
                };
                hosted.insert(key);
                if let Some(leader) = place.record.leader.filter(|leader| *leader != self.node) {
                    let partitions = following.entry(leader).or_default();
                    partitions.insert(key, handle.clone());
                }
                let told = Told {
                    record: place.record.clone(),
                    entry: topic.entry.clone(),
                    nodes: nodes.clone(),
                    incarnation,
                };
                let before = self.told.get(&key);
                if before.is_some_and(|before| before.is(&told)) {
                    continue;
                }
                let fresh = before.is_none_or(|before| {
                    !Arc::ptr_eq(&before.entry, &told.entry)
                        || before.record.replicas.len() != told.record.replicas.len()
                });
                if fresh {
                    handle.set_options(log_options(&topic.entry.settings, &place.record));
                }
                let of_replicas = place.record.replicas.iter();
                let peers = of_replicas.filter_map(|replica| {
                    let standing = nodes.get(&replica.node)?;
                    Some((replica.node, *standing))
                });
                handle.assume(Assignment {
                    node: self.node,
                    incarnation,
                    view: PartitionView {
                        record: PartitionRecord::clone(&place.record),
                        min_insync: topic.entry.settings.min_insync_replicas,
                        durability: topic.entry.settings.durability,
                        peers: peers.collect(),
                    },
                });
                self.told.insert(key, told);
            }
        }
        self.told.retain(|key, _| hosted.contains(key));
        self.following.send_replace(following);
    }

    /// Removes the files of deleted topics, and says so.
    fn delete(&mut self, view: &View) {
        let due: Vec<TopicId> = view
            .deleted()
            .filter(|deleted| deleted.holders.contains(&self.node))
            .map(|deleted| deleted.id)
            .collect();
        self.deleting.retain(|id| due.contains(id));
        for id in due {
            // Its logs are closed first.
            let closing = self.leaving.iter().any(|key| key.topic == id);
            if closing || !self.deleting.insert(id) {
                continue;
            }
            let (host, store, node) = (self.host.clone(), self.store.clone(), self.node);
            let stop = self.host.hosting.tasks.stopping();
            self.host.hosting.tasks.spawn("delete-topic", async move {
                let removing = async {
                    loop {
                        let host = host.clone();
                        let removed = tokio::task::spawn_blocking(move || host.remove_topic(id));
                        let error = match removed.await {
                            Ok(Ok(())) => match store.apply(Command::FinishDelete { id, node }).await {
                                Ok(_) => return,
                                Err(error) => partition::chain(&error),
                            },
                            Ok(Err(error)) => partition::chain(&error),
                            Err(error) => partition::chain(&error),
                        };
                        tracing::warn!(topic = %id, error, "a deleted topic's files are still here");
                        tokio::time::sleep(RETRY).await;
                    }
                };
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = removing => {}
                }
            });
        }
    }
}

impl Told {
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.record, &other.record)
            && Arc::ptr_eq(&self.entry, &other.entry)
            && self.nodes == other.nodes
            && self.incarnation == other.incarnation
    }
}

/// What the metadata says of every node, as leaders need it.
pub(super) fn standings<'a>(
    nodes: impl Iterator<Item = &'a Arc<NodeEntry>>,
) -> BTreeMap<NodeId, Standing> {
    let standing = |node: &Arc<NodeEntry>| Standing {
        incarnation: node.incarnation,
        unfenced: node.status.is_live(),
        may_join: node.status == NodeStatus::Active,
    };
    nodes.map(|node| (node.id, standing(node))).collect()
}
