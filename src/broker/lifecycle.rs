//! Opening and closing a broker, and what it does by itself in between.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

use super::clocks::{ClusterClocks, RetentionClock};
use super::host::{Host, Hosting};
use super::load::{self, Load};
use super::membership::{self, Newcomer, Wires};
use super::peer::{self, Peering, Watches};
use super::reconcile::{Reconciler, Shows};
use super::replicate::Following;
use super::topics::Topic;
use super::{Broker, OpenError, confirm, controller, positions, reach, replicate};
use crate::cluster::{
    self, ClusterSecret, GOSSIP_INTERVAL, Gossip, GossipKey, GossipOptions, Hello, Peers,
    ServeOptions,
};
use crate::metadata::{Store, StoreOptions, View};
use crate::partition;
use crate::storage::{Disk, FileCache, StdDisk, create_dirs};
use crate::tasks::Tasks;
use crate::telemetry::Stats;
use crate::types::{
    BrokerId, Clock, Incarnation, NodeId, SystemClock, Timestamp, TopicName, TopicPatch,
    TopicSettings, limits,
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
    /// How it meets other nodes.
    pub cluster: ClusterOptions,
}

/// How a broker meets other nodes.
#[derive(Debug, Clone, Default)]
pub struct ClusterOptions {
    /// Where other nodes reach it, over TCP and UDP; none = nowhere: it stays alone.
    pub listen: Option<SocketAddr>,
    /// `HOST:PORT` that the others are told instead.
    pub advertise: Option<String>,
    /// Base URL of its public face; empty when it has none.
    pub http: String,
    /// Peer addresses of the cluster to join; none = an empty directory begins its own.
    pub join: Vec<String>,
    /// Begin a cluster if none of them has one.
    pub bootstrap: bool,
    /// The cluster's secret; none = in the directory, made if absent.
    pub secret: Option<ClusterSecret>,
    /// Where it stands.
    pub rack: Option<String>,
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
            cluster: ClusterOptions::default(),
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
    pub(super) node: NodeId,
    /// Who this process is to the others.
    pub(super) own: watch::Sender<Hello>,
    /// Where the others reach it; empty if they cannot.
    pub(super) peer_address: String,
    pub(super) store: Store,
    pub(super) peering: Peering,
    pub(super) secret: ClusterSecret,
    pub(super) topics: Arc<ArcSwap<TopicMap>>,
    /// The view by which this node works.
    pub(super) settled: watch::Receiver<Arc<View>>,
    pub(super) watches: Watches,
    /// Questions whether this node still leads.
    pub(super) confirms: mpsc::Sender<confirm::Waiting>,
    pub(super) news: mpsc::Sender<controller::News>,
    pub(super) gossip: Option<Gossip>,
    pub(super) positions: positions::Desks,
    pub(super) space: Arc<Space>,
    /// Room for batches that were copied and are not written yet, in KiB.
    pub(super) copying: Arc<Semaphore>,
    /// Neighbours that do not answer.
    pub(super) unreachable: watch::Sender<BTreeSet<NodeId>>,
    pub(super) retention_clock: RetentionClock,
    /// What the other nodes' clocks say, while this one is the controller.
    pub(super) clocks: ClusterClocks,
    /// Set before the node tells the cluster that it ends: from then on it gives no sign of life.
    pub(super) leaving: AtomicBool,
    pub(super) load: ArcSwap<Load>,
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

    /// Takes `bytes` off what is free until the next look, so that a burst between two looks does
    /// not take the room that deletes need.
    pub(super) fn spend(&self, bytes: usize) {
        let spent = |free: u64| Some(free.saturating_sub(bytes as u64));
        let _ = self
            .free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, spent);
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

        let secret = match &options.cluster.secret {
            Some(secret) => secret.clone(),
            None => {
                let storage = options.storage.clone();
                blocking(move || Ok(ClusterSecret::read_or_create(&storage)?)).await?
            }
        };
        let (listener, peer_address) = listen(&options.cluster).await?;
        let wires = Arc::new(Wires::default());
        let store = open_store(&options.storage, wires.clone(), &peer_address).await?;
        let (node, identity) = (store.node(), store.identity());
        let started_at = clock.now();

        let tasks = Tasks::new();
        let stats = Arc::new(Stats::default());
        let member = store.is_member().await;
        let (own, hello) = watch::channel(Hello {
            cluster: member.then_some(identity.cluster_id),
            node,
            incarnation: Incarnation::default(),
            name: options.id.clone(),
        });
        let peers = Peers::new(&secret, hello.clone(), tasks.clone());
        let peering = Peering {
            peers: peers.clone(),
            view: store.view(),
            heard: Arc::default(),
        };
        wires.connect(peering.clone());

        let files = Arc::new(FileCache::new(OPEN_FILES).holding(lock));
        let (proposals, proposed) = mpsc::channel(1024);
        let host = Arc::new(Host {
            root: options.storage.join("topics"),
            disk: disk.clone(),
            files: files.clone(),
            hosting: Hosting {
                tasks: tasks.clone(),
                clock: clock.clone(),
                stats: stats.clone(),
                writers: Arc::new(Semaphore::new(WRITERS)),
                compressors: Arc::new(Semaphore::new(1)),
                proposals,
            },
        });
        let topics = Arc::new(ArcSwap::from_pointee(TopicMap::new()));
        let (settled, see_settled) = watch::channel(Arc::new(View::default()));
        let (following, see_following) = watch::channel(Following::new());
        let shows = Shows {
            topics: topics.clone(),
            settled,
            following,
        };
        let space = Arc::new(Space::default());
        space.look(disk.as_ref(), &options.storage);
        let (watches, wanted) = Watches::new();
        let (news, told) = mpsc::channel(1024);
        let (confirms, doubts) = mpsc::channel(confirm::WAITING);
        let (positions, requests) = positions::Desks::new();
        let gossip = match &listener {
            Some(listener) => {
                let gossip = start_gossip(
                    listener,
                    &options,
                    &secret,
                    node,
                    &peer_address,
                    started_at,
                    &tasks,
                )
                .await;
                Some(gossip?)
            }
            None => None,
        };
        let inner = Arc::new(Inner {
            started_at,
            copying: Arc::new(Semaphore::new(limits::COPYING_KIB)),
            unreachable: watch::Sender::default(),
            retention_clock: RetentionClock::new(clock.clone()),
            clocks: ClusterClocks::default(),
            leaving: AtomicBool::new(false),
            clock,
            stats,
            node,
            own,
            peer_address,
            store: store.clone(),
            peering: peering.clone(),
            secret: secret.clone(),
            topics,
            settled: see_settled,
            watches,
            confirms,
            news,
            gossip,
            positions,
            space,
            load: ArcSwap::default(),
            tasks: tasks.clone(),
            _files: files,
            options,
        });
        let weak = Arc::downgrade(&inner);
        if let Some(listener) = listener {
            let serve = ServeOptions {
                secret,
                own: hello.clone(),
                drain: Duration::from_secs(1),
            };
            cluster::serve(listener, serve, peer::answer(weak.clone()), &tasks);
        }
        // Before it looks for anybody: all nodes may have other addresses than when they last met.
        tasks.spawn("whereabouts", membership::whereabouts(weak.clone()));
        let broker = Self {
            inner: inner.clone(),
        };
        let started = broker.start(host, hello, shows, identity.disk_id).await;
        if let Err(error) = started {
            broker.close().await;
            return Err(error);
        }
        tasks.spawn("confirm", confirm::run(weak.clone(), doubts));
        for requests in requests {
            tasks.spawn("positions", positions::run(weak.clone(), requests));
        }
        tasks.spawn("replication", replicate::run(weak.clone(), see_following));
        tasks.spawn("watches", peer::watch::run(weak.clone(), wanted));
        tasks.spawn("reach", reach::run(weak.clone()));
        tasks.spawn("heartbeat", controller::beat(weak.clone()));
        tasks.spawn("controller", controller::run(weak.clone(), told));
        tasks.spawn("succession", controller::succession::watch(weak.clone()));
        tasks.spawn("in-sync", controller::propose(weak.clone(), proposed));
        tasks.spawn("load", load::measure(weak.clone()));
        broker.spawn_watchers(disk);
        metrics::counter!(crate::telemetry::BROKER_STARTS).increment(1);
        Ok(broker)
    }

    /// Enters the cluster, opens the logs, registers, and goes to work.
    async fn start(
        &self,
        host: Arc<Host>,
        hello: watch::Receiver<Hello>,
        shows: Shows,
        disk: uuid::Uuid,
    ) -> Result<(), OpenError> {
        let inner = &self.inner;
        let stop = inner.tasks.stopping();
        if !inner.store.is_member().await {
            let newcomer = Newcomer {
                id: inner.node,
                name: &inner.options.id,
                disk,
                peer: &inner.peer_address,
            };
            let (store, peering) = (&inner.store, &inner.peering);
            let options = &inner.options.cluster;
            membership::enter(store, &peering.peers, peering, options, newcomer).await?;
        }
        // What was found on disk is open before the cluster hears of this process.
        let mut reconciler = Reconciler::new(host, inner.store.clone(), inner.node, hello, shows);
        let view = inner.store.view().borrow().clone();
        reconciler.reconcile(&view).await;
        membership::register(inner, disk, inner.started_at).await?;
        membership::activate(inner).await;
        let view = inner.store.view().borrow().clone();
        reconciler.reconcile(&view).await;
        reconciler.sweep(&view).await;
        inner.tasks.spawn("topics", reconciler.run(stop));
        Ok(())
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
        let (broker, stop) = (Arc::downgrade(&self.inner), self.inner.tasks.stopping());
        let every = self.inner.options.maintenance;
        self.inner.tasks.spawn("maintenance", async move {
            let mut every = tokio::time::interval(every);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = every.tick() => {}
                }
                let Some(inner) = broker.upgrade() else {
                    return;
                };
                let now = inner.retention_clock.now();
                for topic in inner.topics.load().values() {
                    let filled = topic.hosted().filter(|p| p.reader().stats().bytes != 0);
                    filled.for_each(|partition| partition.maintain(now));
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
        membership::leave(&self.inner).await;
        self.inner.tasks.stop();
        // The owner of the topics ends first, or a topic could come after the last look.
        let mut settled = self.inner.settled.clone();
        let owner_gone = async { while settled.changed().await.is_ok() {} };
        if tokio::time::timeout(OWNER, owner_gone).await.is_err() {
            tracing::error!("a change of a topic did not end in time");
        }
        let topics = self.inner.topics.swap(Arc::default());
        let partitions = topics.values().flat_map(|topic| topic.hosted());
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
        topics.values().for_each(|topic| topic.wake());
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

/// Takes the address for other nodes, and says what they are told.
async fn listen(options: &ClusterOptions) -> Result<(Option<TcpListener>, String), OpenError> {
    let Some(address) = options.listen else {
        return Ok((None, String::new()));
    };
    let failed = |error: std::io::Error| OpenError::PeerListen {
        address,
        reason: error.to_string(),
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let told = options.advertise.clone();
    Ok((Some(listener), told.unwrap_or_else(|| bound.to_string())))
}

/// Bytes that the metadata must find free to take a command. Far below what producers leave free:
/// on a full disk, topics can still be deleted.
const METADATA_ROOM: u64 = 1 << 20;

async fn open_store(storage: &Path, wires: Arc<Wires>, address: &str) -> Result<Store, OpenError> {
    let path = storage.join("metadata.db");
    let options = StoreOptions {
        transport: wires,
        address: address.to_owned(),
        reserve: METADATA_ROOM,
        ..StoreOptions::default()
    };
    let opened = Store::open_member(&path, options).await;
    opened.map_err(|error| OpenError::Metadata {
        path,
        reason: partition::chain(&error),
    })
}

async fn start_gossip(
    listener: &TcpListener,
    options: &Options,
    secret: &ClusterSecret,
    node: NodeId,
    peer_address: &str,
    generation: Timestamp,
    tasks: &Tasks,
) -> Result<Gossip, OpenError> {
    let failed = |reason: String| OpenError::Gossip { reason };
    let listen = listener
        .local_addr()
        .map_err(|error| failed(error.to_string()))?;
    let advertise = match &options.cluster.advertise {
        None => None,
        Some(advertise) => {
            let found = tokio::net::lookup_host(advertise.as_str()).await;
            let found = found.map_err(|error| failed(format!("{advertise}: {error}")))?;
            found.into_iter().next()
        }
    };
    let started = Gossip::start(
        GossipOptions {
            node,
            name: options.id.clone(),
            generation: generation.0.max(0) as u64,
            listen,
            advertise,
            seeds: options.cluster.join.clone(),
            secret: secret.clone(),
            interval: GOSSIP_INTERVAL,
            values: vec![
                (GossipKey::Http, options.cluster.http.clone()),
                (GossipKey::Peer, peer_address.to_owned()),
            ],
        },
        tasks,
    );
    started
        .await
        .map_err(|error| failed(partition::chain(&error)))
}
