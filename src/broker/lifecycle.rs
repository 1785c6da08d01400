//! Opening and closing a broker, and what it does by itself in between.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use uuid::Uuid;

use super::topics::{Topic, TopicOwner, TopicRequest};
use super::{Broker, OpenError, positions};
use crate::metadata::{Applied, Command, Loss, Registration, Store, TopicEntry, View};
use crate::partition::{self, Hosted};
use crate::storage::{Disk, FileCache, LogOptions, PartitionLog, StdDisk, create_dirs};
use crate::tasks::Tasks;
use crate::telemetry::Stats;
use crate::types::{
    BrokerId, Clock, LeaderEpoch, NodeId, Partition, SystemClock, Timestamp, TimestampType,
    TopicId, TopicName, TopicPartition, TopicPatch, TopicSettings,
};

/// How a broker is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// The id by which people address it.
    pub id: BrokerId,
    /// Directory of all its data; created if absent.
    pub storage: PathBuf,
    /// Settings of topics that say nothing else.
    pub defaults: TopicSettings,
    /// Whether producing to a topic that does not exist creates it.
    pub auto_create_topics: bool,
    /// How often logs are looked at for segments to seal, delete or recompress.
    pub maintenance: Duration,
}

impl Options {
    /// Defaults for a broker of this id in this directory.
    pub fn new(id: BrokerId, storage: impl Into<PathBuf>) -> Self {
        Self {
            id,
            storage: storage.into(),
            defaults: TopicSettings::default(),
            auto_create_topics: true,
            maintenance: Duration::from_secs(5),
        }
    }
}

/// All topics by name. A `BTreeMap` of shared entries, replaced as a whole when a topic changes.
pub(super) type TopicMap = BTreeMap<TopicName, Arc<Topic>>;

pub(super) struct Inner {
    pub(super) options: Options,
    pub(super) started_at: Timestamp,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) stats: Arc<Stats>,
    pub(super) store: Store,
    pub(super) topics: Arc<ArcSwap<TopicMap>>,
    pub(super) topic_requests: mpsc::Sender<TopicRequest>,
    pub(super) position_requests: mpsc::Sender<positions::Request>,
    pub(super) space: Arc<Space>,
    pub(super) tasks: Tasks,
    /// Holds the lock on the directory, as every log and its readers do.
    _files: Arc<FileCache>,
}

/// A broker that is only dropped: what runs by itself ends, and with the last handle every
/// partition closes its log.
impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

/// Room on the disk, as last looked at.
#[derive(Debug, Default)]
pub(super) struct Space {
    pub(super) free: AtomicU64,
    pub(super) total: AtomicU64,
}

impl Space {
    /// Bytes that stay free: 8 % of the disk but at most 2 GiB (PROTOCOL D3), so that deletes,
    /// metadata and retention still work when producers have filled the rest.
    pub(super) fn is_short(&self) -> bool {
        let (free, total) = (
            self.free.load(Ordering::Relaxed),
            self.total.load(Ordering::Relaxed),
        );
        free < (total / 100 * 8).min(2 << 30)
    }

    fn look(&self, disk: &dyn Disk, storage: &Path) {
        // A disk that cannot be asked is not called full: the append itself will tell.
        if let Ok((free, total)) = disk.space(storage) {
            self.free.store(free, Ordering::Relaxed);
            self.total.store(total, Ordering::Relaxed);
        }
    }
}

/// Logs that write at once; beyond that, more threads only take turns on the same disk.
const WRITERS: usize = 32;
/// Files kept open over all partitions.
const OPEN_FILES: usize = 4096;
/// Logs opened at once.
const OPENERS: usize = 4;
/// How long a change of a topic may take to end when the broker closes.
const OWNER: Duration = Duration::from_secs(10);
/// How long a directory is waited for: a broker that was only dropped is still closing its logs.
const CLAIM: Duration = Duration::from_secs(1);

impl Broker {
    /// Opens the broker that lives in `options.storage`, or makes one there. When this returns,
    /// every partition is recovered and takes records.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing is left running.
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        options.defaults.with(&TopicPatch::default())?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let until = Instant::now() + CLAIM;
        let lock = loop {
            let storage = options.storage.clone();
            match blocking(move || claim(&storage)).await {
                Err(OpenError::InUse(_)) if Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                claimed => break claimed?,
            }
        };
        let disk: Arc<dyn Disk> = Arc::new(StdDisk);

        let metadata = options.storage.join("metadata.db");
        let broken = |reason| OpenError::Metadata {
            path: metadata.clone(),
            reason,
        };
        let store = Store::open(&metadata)
            .await
            .map_err(|error| broken(partition::chain(&error)))?;
        let started_at = clock.now();
        let node = NodeId::of_disk(store.identity().disk_id);
        let registration = Registration {
            id: node,
            name: options.id.clone(),
            disk: store.identity().disk_id,
            process: Uuid::now_v7(),
            http: String::new(),
            peer: String::new(),
            rack: None,
            // Recovery tells, log by log, and cuts nothing that was promised (S2); a node alone
            // has no other copy for which its own would have to stand back.
            clean: true,
            loss: Loss::None,
            at: started_at,
        };
        let incarnation = match store.apply(Command::RegisterNode(registration)).await {
            Ok(Applied::NodeRegistered(node)) => node.incarnation,
            Ok(other) => return Err(broken(format!("the start was answered with {other:?}"))),
            Err(error) => return Err(broken(partition::chain(&error))),
        };
        let activate = Command::ActivateNode {
            id: node,
            incarnation,
        };
        let activated = store.apply(activate).await;
        activated.map_err(|error| broken(partition::chain(&error)))?;

        let tasks = Tasks::new();
        let stats = Arc::new(Stats::default());
        let files = Arc::new(FileCache::new(OPEN_FILES).holding(lock));
        let host = Arc::new(Host {
            root: options.storage.join("topics"),
            disk: disk.clone(),
            files: files.clone(),
            node,
            hosting: Hosting {
                tasks: tasks.clone(),
                clock: clock.clone(),
                stats: stats.clone(),
                writers: Arc::new(Semaphore::new(WRITERS)),
                compressors: Arc::new(Semaphore::new(1)),
            },
        });
        let view = store.view().borrow().clone();
        for deleted in view.deleted() {
            let (host, id) = (host.clone(), deleted.id);
            if let Err(error) = blocking(move || host.remove_topic(id)).await {
                // Nobody misses the space more than the other topics: the next start tries again.
                tracing::warn!(error = partition::chain(&error), "a deleted topic");
                continue;
            }
            let forget = store.apply(Command::FinishDelete { id, node }).await;
            forget.map_err(|error| broken(partition::chain(&error)))?;
        }
        let topics = open_topics(&host, &view).await?;
        let topics = Arc::new(ArcSwap::from_pointee(topics));

        let space = Arc::new(Space::default());
        space.look(disk.as_ref(), &options.storage);
        let (topic_requests, requests) = mpsc::channel(256);
        let owner = TopicOwner::new(host, store.clone(), topics.clone(), clock.clone(), requests);
        tasks.spawn("topics", owner.run(tasks.stopping()));
        let (position_requests, requests) = mpsc::channel(1024);
        let inner = Arc::new(Inner {
            options,
            started_at,
            clock,
            stats,
            store,
            topics,
            topic_requests,
            position_requests,
            space,
            tasks: tasks.clone(),
            _files: files,
        });
        let broker = Self { inner };
        tasks.spawn(
            "positions",
            positions::run(Arc::downgrade(&broker.inner), requests),
        );
        broker.spawn_watchers(disk);
        metrics::counter!(crate::telemetry::BROKER_STARTS).increment(1);
        Ok(broker)
    }

    /// The space and maintenance clocks. They do not hold the broker: dropping its last handle ends them.
    fn spawn_watchers(&self, disk: Arc<dyn Disk>) {
        let (space, storage) = (self.inner.space.clone(), self.inner.options.storage.clone());
        let stop = self.inner.tasks.stopping();
        self.inner.tasks.spawn("disk-space", async move {
            let mut every = tokio::time::interval(Duration::from_secs(1));
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = every.tick() => {}
                }
                let (disk, space, storage) = (disk.clone(), space.clone(), storage.clone());
                let _ =
                    tokio::task::spawn_blocking(move || space.look(disk.as_ref(), &storage)).await;
            }
        });
        let (topics, stop) = (self.inner.topics.clone(), self.inner.tasks.stopping());
        let every = self.inner.options.maintenance;
        self.inner.tasks.spawn("maintenance", async move {
            let mut every = tokio::time::interval(every);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = every.tick() => {}
                }
                for topic in topics.load().values() {
                    let filled = topic
                        .partitions
                        .iter()
                        .filter(|p| p.reader().stats().bytes != 0);
                    filled.for_each(crate::partition::PartitionHandle::maintain);
                }
            }
        });
    }

    /// The id by which people address it.
    pub fn id(&self) -> &BrokerId {
        &self.inner.options.id
    }

    /// How it was opened.
    pub fn options(&self) -> &Options {
        &self.inner.options
    }

    /// What it has done since it started.
    pub fn stats(&self) -> &Stats {
        &self.inner.stats
    }

    /// Returns when the disk under the metadata has failed: what the broker agreed to can no longer
    /// be kept, so the process should end (PROTOCOL D1). Never returns because of [`close`](Self::close).
    pub async fn failed(&self) {
        self.inner.store.stopped().await;
        if self.inner.tasks.stopping().is_cancelled() {
            std::future::pending::<()>().await;
        }
    }

    /// Ends every task, syncs every log and releases the directory once the last clone is gone.
    /// Requests that still run are answered that the broker is closing. Closing twice is harmless.
    pub async fn close(&self) {
        if self.inner.tasks.stopping().is_cancelled() {
            return;
        }
        self.inner.tasks.stop();
        // What the topics' owner has begun ends first, or a topic could come after the last look.
        let owner_gone = self.inner.topic_requests.closed();
        if tokio::time::timeout(OWNER, owner_gone).await.is_err() {
            tracing::error!("a change of a topic did not end in time");
        }
        let topics = self.inner.topics.swap(Arc::default());
        let partitions = topics.values().flat_map(|topic| topic.partitions.iter());
        let mut closing = tokio::task::JoinSet::new();
        for partition in partitions {
            let partition = partition.clone();
            closing.spawn(async move {
                if let Err(error) = partition.close().await {
                    tracing::error!(error = partition::chain(&error), "close");
                }
            });
        }
        while closing.join_next().await.is_some() {}
        for topic in topics.values() {
            topic
                .progress
                .send_modify(|version| *version = version.wrapping_add(1));
        }
        if let Err(error) = self.inner.tasks.shutdown(Duration::from_secs(10)).await {
            tracing::error!(%error, "close");
        }
        self.inner.store.clone().close().await;
        metrics::counter!(crate::telemetry::BROKER_STOPS).increment(1);
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OpenError> + Send + 'static,
) -> Result<T, OpenError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(OpenError::Unusable {
            path: PathBuf::new(),
            reason: error.to_string(),
        }),
    }
}

/// Makes the directory if need be, proves that it can be written, and locks it for this process.
fn claim(storage: &Path) -> Result<File, OpenError> {
    let unusable = |error: std::io::Error| OpenError::Unusable {
        path: storage.to_owned(),
        reason: error.to_string(),
    };
    match std::fs::metadata(storage) {
        Ok(found) if !found.is_dir() => return Err(OpenError::NotADirectory(storage.to_owned())),
        Ok(_) => {}
        Err(_) => create_dirs(&StdDisk, storage).map_err(unusable)?,
    }
    let lock = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(storage.join("lock"))
        .map_err(unusable)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(storage.to_owned())),
        Err(TryLockError::Error(error)) => return Err(unusable(error)),
    }
    // A read-only or full disk shows itself here and not at the first message.
    let probe = storage.join("probe");
    std::fs::write(&probe, [0; 4096]).map_err(unusable)?;
    let synced = File::open(&probe).and_then(|file| file.sync_all());
    synced
        .and_then(|()| std::fs::remove_file(&probe))
        .map_err(unusable)?;
    Ok(lock)
}

/// What all partitions of the node share.
pub(super) struct Hosting {
    tasks: Tasks,
    clock: Arc<dyn Clock>,
    stats: Arc<Stats>,
    writers: Arc<Semaphore>,
    compressors: Arc<Semaphore>,
}

/// Opens and removes logs on behalf of the topics' owner.
pub(super) struct Host {
    root: PathBuf,
    disk: Arc<dyn Disk>,
    files: Arc<FileCache>,
    /// This node.
    pub(super) node: NodeId,
    hosting: Hosting,
}

impl Host {
    fn topic_dir(&self, id: TopicId) -> PathBuf {
        self.root.join(id.to_string())
    }

    /// Blocking. Opens the log of one partition.
    pub(super) fn open_log(
        &self,
        topic: &TopicEntry,
        partition: Partition,
    ) -> Result<PartitionLog, OpenError> {
        let dir = self.topic_dir(topic.id).join(partition.to_string());
        let options = log_options(&topic.settings);
        let opened = PartitionLog::open(
            self.disk.clone(),
            self.files.clone(),
            &dir,
            topic.id,
            partition,
            options,
        );
        let name = TopicPartition {
            topic: topic.name.clone(),
            partition,
        };
        let (log, recovery) = opened.map_err(|error| OpenError::Log {
            partition: name.clone(),
            reason: partition::chain(&error),
        })?;
        if recovery.truncated_bytes != 0 || !recovery.quarantined.is_empty() {
            tracing::warn!(partition = %name, ?recovery, "recovered");
            let truncated = &self.hosting.stats.recovery_truncated_bytes;
            truncated.fetch_add(recovery.truncated_bytes, Ordering::Relaxed);
        }
        Ok(log)
    }

    /// Starts the task that owns `log`. Must be called inside the runtime.
    pub(super) fn host(
        &self,
        topic: &TopicEntry,
        partition: Partition,
        epoch: LeaderEpoch,
        log: PartitionLog,
        progress: &tokio::sync::watch::Sender<u64>,
    ) -> partition::PartitionHandle {
        let name = TopicPartition {
            topic: topic.name.clone(),
            partition,
        };
        let hosted = Hosted {
            tasks: self.hosting.tasks.clone(),
            clock: self.hosting.clock.clone(),
            stats: self.hosting.stats.clone(),
            progress: progress.clone(),
            writers: self.hosting.writers.clone(),
            compressors: self.hosting.compressors.clone(),
        };
        partition::spawn(name, log, epoch, topic.settings.durability, hosted)
    }

    /// Blocking. Deletes what is left of a deleted topic.
    pub(super) fn remove_topic(&self, id: TopicId) -> Result<(), OpenError> {
        let dir = self.topic_dir(id);
        let gone = |done: std::io::Result<()>| match done {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            done => done,
        };
        // Durably: the metadata is about to forget the topic, and nobody would find files that a
        // power loss brings back.
        gone(std::fs::remove_dir_all(&dir))
            .and_then(|()| gone(self.disk.sync_dir(&self.root)))
            .map_err(|error| OpenError::Unusable {
                path: dir,
                reason: error.to_string(),
            })
    }
}

pub(super) fn log_options(settings: &TopicSettings) -> LogOptions {
    LogOptions {
        segment_bytes: settings.segment_bytes,
        segment_ms: settings.segment_ms,
        retention_ms: settings.retention_ms,
        retention_bytes: settings.retention_bytes,
        compression: settings.compression,
        use_append_time: settings.timestamp_type == TimestampType::Append,
        replicated: false,
    }
}

/// Opens all logs of all topics, several at once: recovery is bound by the disk, not by one core.
async fn open_topics(host: &Arc<Host>, view: &View) -> Result<TopicMap, OpenError> {
    let entries: Vec<Arc<TopicEntry>> = view.topics().cloned().collect();
    let mut wanted = Vec::new();
    for entry in &entries {
        for (partition, record) in view.partitions_of(entry.id) {
            wanted.push((entry.clone(), partition, record.leader_epoch));
        }
    }
    let share = wanted.len().div_ceil(OPENERS).max(1);
    let mut opening = Vec::new();
    for chunk in wanted.chunks(share) {
        let (host, chunk) = (host.clone(), chunk.to_vec());
        opening.push(tokio::task::spawn_blocking(move || {
            chunk
                .into_iter()
                .map(|(entry, partition, epoch)| {
                    host.open_log(&entry, partition)
                        .map(|log| (entry, partition, epoch, log))
                })
                .collect::<Result<Vec<_>, _>>()
        }));
    }
    let mut topics: TopicMap = entries
        .into_iter()
        .map(|entry| {
            (
                entry.name.clone(),
                Arc::new(Topic::without_partitions(entry)),
            )
        })
        .collect();
    for opened in opening {
        let opened = match opened.await {
            Ok(opened) => opened?,
            Err(error) => {
                return Err(OpenError::Unusable {
                    path: host.root.clone(),
                    reason: error.to_string(),
                });
            }
        };
        for (entry, partition, epoch, log) in opened {
            // Chunks are in order of topic and partition, so partitions are pushed in order.
            if let Some(topic) = topics.get_mut(&entry.name).and_then(Arc::get_mut) {
                let handle = host.host(&entry, partition, epoch, log, &topic.progress);
                topic.partitions.push(handle);
            }
        }
    }
    Ok(topics)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::tests::sim::{Faults, SimDisk};

    #[test]
    fn a_deleted_topic_is_not_forgotten_before_its_files_are_gone_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let disk = SimDisk::default();
        let host = Host {
            root: dir.path().join("topics"),
            disk: Arc::new(disk.clone()),
            files: Arc::new(FileCache::new(1)),
            node: NodeId(1),
            hosting: Hosting {
                tasks: Tasks::new(),
                clock: Arc::new(SystemClock),
                stats: Arc::default(),
                writers: Arc::new(Semaphore::new(1)),
                compressors: Arc::new(Semaphore::new(1)),
            },
        };
        let id = TopicId(Uuid::from_u128(1));
        std::fs::create_dir_all(host.topic_dir(id).join("0")).unwrap();
        disk.set_faults(Faults {
            fail_sync_after: Some(0),
            ..Faults::default()
        });
        assert!(matches!(
            host.remove_topic(id),
            Err(OpenError::Unusable { .. })
        ));
        assert!(host.remove_topic(id).is_ok(), "it can be tried again");
        assert!(!host.topic_dir(id).exists());
    }
}
