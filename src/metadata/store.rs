//! The handle to the metadata: commands go through the Raft log into the database, on one node or
//! on many.
//!
//! Commands that arrive while the disk is busy share the next write (group commit). A command is
//! answered, and the view that shows it published, only after it is committed and on this node's
//! stable storage.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::Fatal;
use openraft::impls::BasicNode;
use openraft::storage::RaftLogStorage;
use openraft::{Config, Raft, SnapshotPolicy};
use sqlx::sqlite::SqliteConnectOptions;
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

use super::command::Rejected;
use super::database::{self, Database, Identity, OpenError};
use super::owner::{Checksum, Message, Owner, Progress};
use super::raft::{
    self, HandleError, LogError, LogId, Machine, Membership, Network, NoTransport, Proposal,
    RaftLog, RaftRpc, RaftTransport, Snapshots, Types,
};
use super::state::State;
use super::view::View;
use crate::storage::{Disk, StdDisk};
use crate::types::{BrokerId, Code, NodeId, Offset, Partition, TopicId};

/// Messages that may wait for the owner; whoever sends one more waits for room.
const MAILBOX: usize = 1024;
/// Time that a new cluster of one may take until it leads.
const FIRST_ELECTION: Duration = Duration::from_secs(10);

/// The store is closed, or has stopped after a failure of its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the metadata store is closed")]
pub struct Closed;

/// Why a command was not applied, or not known to be.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ApplyError {
    /// It breaks a rule. The state is as it was.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// The leader's disk has no room. The state is as it was.
    #[error("no room on disk for the metadata")]
    NoSpace,
    /// No leader took the command in time. The state is as it was.
    #[error("no leader of the metadata was found in time")]
    NoLeader,
    /// The command is larger than the log takes. The state is as it was.
    #[error("a command of {bytes} bytes; at most {max} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// What is allowed.
        max: usize,
    },
    /// The command was on its way when the answer was lost or time ran out: it may have been
    /// applied, or may be yet.
    #[error("the command may have been applied: {0}")]
    Unknown(String),
    /// The disk failed. The command may or may not have been applied, which the next start will
    /// tell; the store takes no more commands.
    #[error("writing the metadata: {0}")]
    Storage(String),
    /// The store takes no more commands. The state is as it was.
    #[error(transparent)]
    Closed(#[from] Closed),
}

impl ApplyError {
    /// The code that clients see.
    pub fn code(&self) -> Code {
        match self {
            Self::Rejected(rejected) => rejected.code(),
            Self::NoSpace => Code::InsufficientStorage,
            Self::TooLarge { .. } => Code::TooLarge,
            Self::Unknown(_) => Code::Internal,
            Self::Storage(_) => Code::StorageFailed,
            Self::NoLeader | Self::Closed(_) => Code::NotReady,
        }
    }
}

/// How a member of a cluster is opened.
#[derive(Clone)]
pub struct StoreOptions {
    /// The way to the other members.
    pub transport: Arc<dyn RaftTransport>,
    /// Host and port at which other members reach this one; kept in the membership for people to
    /// read.
    pub address: String,
    /// The disk on which the Raft log lives.
    pub disk: Arc<dyn Disk>,
    /// A snapshot is taken after so many entries.
    pub snapshot_every: u64,
    /// Bytes on disk below which commands are refused, so that what is committed can be applied.
    pub reserve: u64,
    /// After so many entries members compare the hashes of their states.
    pub checksum_every: u64,
    /// How long a command may take before its outcome is called unknown.
    pub deadline: Duration,
    /// How long after a leader's last word no other is elected; half of it to all of it later one
    /// stands for election.
    pub lease: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            transport: Arc::new(NoTransport),
            address: String::new(),
            disk: Arc::new(StdDisk),
            snapshot_every: 5000,
            checksum_every: 1000,
            reserve: 32 << 20,
            deadline: Duration::from_secs(10),
            lease: Duration::from_millis(800),
        }
    }
}

impl std::fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreOptions")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// A handle to the store; clones speak to the same one. It stops when the last is dropped.
#[derive(Clone)]
pub struct Store {
    pub(super) inner: Arc<Inner>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("node", &self.inner.node)
            .finish_non_exhaustive()
    }
}

pub(super) struct Inner {
    /// Changed once at most, when the node joins a cluster.
    pub(super) identity: ArcSwap<Identity>,
    pub(super) node: NodeId,
    pub(super) raft: Raft<Types, Machine>,
    pub(super) owner: mpsc::Sender<Message>,
    pub(super) view: watch::Receiver<Arc<View>>,
    pub(super) leader: watch::Receiver<Option<NodeId>>,
    pub(super) options: StoreOptions,
    /// Where the Raft log is.
    pub(super) dir: PathBuf,
}

impl Store {
    /// Opens the metadata of a node that is alone: the database at `path` and the Raft log beside
    /// it, both made if there are none. The database stays locked against other processes until
    /// the store has stopped. Returns once commands are taken.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_alone(path, database::options(path), StoreOptions::default()).await
    }

    pub(super) async fn open_alone(
        path: &Path,
        sqlite: SqliteConnectOptions,
        options: StoreOptions,
    ) -> Result<Self, OpenError> {
        let store = Self::open_with(path, sqlite, options).await?;
        let failed = |why: String| OpenError::Raft { why };
        let initialized = store.inner.raft.is_initialized().await;
        if !initialized.map_err(|error| failed(error.to_string()))? {
            let begun = store.bootstrap().await;
            begun.map_err(|error| failed(error.to_string()))?;
        }
        let node = u64::from(store.inner.node.0);
        let leads = store.inner.raft.wait(Some(FIRST_ELECTION));
        leads
            .metrics(|metrics| metrics.current_leader == Some(node), "to lead")
            .await
            .map_err(|error| failed(error.to_string()))?;
        // What a crash left committed and not applied is applied before anybody looks.
        let barrier = store.read_barrier().await;
        barrier.map_err(|error| failed(error.to_string()))?;
        Ok(store)
    }

    /// Opens the metadata of a member of a cluster. One that was never part of any waits to be
    /// added by [`add_learner`](Self::add_learner) on the leader, or for
    /// [`bootstrap`](Self::bootstrap).
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open_member(path: &Path, options: StoreOptions) -> Result<Self, OpenError> {
        Self::open_with(path, database::options(path), options).await
    }

    pub(super) async fn open_with(
        path: &Path,
        sqlite: SqliteConnectOptions,
        options: StoreOptions,
    ) -> Result<Self, OpenError> {
        let Database {
            mut conn,
            identity,
            state,
            progress,
        } = database::open(path, sqlite).await?;
        let node = identity.node();
        let raft_id = u64::from(node.0);
        let dir = path.with_file_name("raft");

        let opened = {
            let (disk, dir) = (options.disk.clone(), dir.clone());
            let open = move || RaftLog::open(disk, &dir, raft_id, raft::SEGMENT);
            let joined = tokio::task::spawn_blocking(open).await;
            let opened = joined.map_err(|error| OpenError::Raft {
                why: error.to_string(),
            })?;
            opened.map_err(log_error)?
        };
        let (mut log, log_ended) = (opened.log.clone(), opened.ended);
        let progress = match progress {
            Some(_) if opened.is_new => {
                return Err(OpenError::Amnesia {
                    why: format!(
                        "{} is gone; this node must not vote any more. Remove it from the cluster \
                         and let it join again with an empty directory",
                        dir.display()
                    ),
                });
            }
            Some(progress) => progress,
            None => {
                let progress = adopt(&mut log, &state, raft_id, &options.address).await?;
                raft::write_progress(&mut conn, &progress)
                    .await
                    .map_err(|source| OpenError::Storage {
                        path: path.into(),
                        source,
                    })?;
                progress
            }
        };
        let voters: Vec<u64> = progress.membership.voter_ids().collect();

        let (owner, messages) = mpsc::channel(MAILBOX);
        let (task, news) = Owner::new(conn, state, progress, options.checksum_every, log_ended);
        tokio::spawn(task.run(messages));
        let snapshots = Snapshots {
            disk: options.disk.clone(),
            dir: dir.clone(),
        };
        let machine = Machine::new(owner.clone(), snapshots);
        let network = Network {
            own: raft_id,
            transport: options.transport.clone(),
        };
        let failed = |why: String| OpenError::Raft { why };
        let config = config(&options).map_err(|error| failed(error.to_string()))?;
        let raft = Raft::new(raft_id, Arc::new(config), network, log, machine).await;
        let raft = raft.map_err(|error| failed(error.to_string()))?;

        let (lead, leader) = watch::channel(None);
        let inner = Arc::new(Inner {
            identity: ArcSwap::from_pointee(identity),
            node,
            raft,
            owner: owner.clone(),
            view: news.view,
            leader,
            options,
            dir,
        });
        tokio::spawn(supervise(
            Arc::downgrade(&inner),
            owner,
            lead,
            news.checksum,
        ));
        if voters == [raft_id] {
            // Nobody else can be elected: there is nothing to wait for.
            inner.raft.trigger().elect(false).await.ok();
        }
        Ok(Self { inner })
    }

    /// Who this data directory is.
    pub fn identity(&self) -> Identity {
        **self.inner.identity.load()
    }

    /// Whether the node was ever made part of a cluster.
    pub async fn is_member(&self) -> bool {
        // An error means that the store has stopped, which whoever asks finds out next.
        self.inner.raft.is_initialized().await.unwrap_or(true)
    }

    /// Makes the directory part of the cluster of this id, which has taken the node in.
    ///
    /// # Errors
    /// [`ApplyError::Closed`] if the store has stopped, [`ApplyError::Storage`] if it cannot be
    /// written.
    pub async fn join(&self, cluster_id: Uuid) -> Result<(), ApplyError> {
        let (reply, answer) = oneshot::channel();
        let join = Message::Join(cluster_id, reply);
        self.inner.owner.send(join).await.map_err(|_| Closed)?;
        let joined = answer.await.map_err(|_| Closed)?;
        joined.map_err(|error| ApplyError::Storage(error.to_string()))?;
        let disk_id = self.identity().disk_id;
        self.inner.identity.store(Arc::new(Identity {
            cluster_id,
            disk_id,
        }));
        Ok(())
    }

    /// The node that lives in it.
    pub fn node(&self) -> NodeId {
        self.inner.node
    }

    /// The newest view, and word of each change of nodes, topics or partitions. Changed positions
    /// alone wake nobody.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        let mut view = self.inner.view.clone();
        view.mark_unchanged();
        view
    }

    /// The leader of the metadata, as far as this node knows.
    pub fn leader(&self) -> watch::Receiver<Option<NodeId>> {
        self.inner.leader.clone()
    }

    /// Whether this node leads the metadata, as far as it knows: another may by now.
    pub fn is_leader(&self) -> bool {
        *self.inner.leader.borrow() == Some(self.inner.node)
    }

    /// Where a group stands in a topic, by partition; a partition in which it has no position is
    /// left out. What this node acknowledged before the call is seen by it; what others did, after
    /// a [`read_barrier`](Self::read_barrier).
    ///
    /// # Errors
    /// [`Closed`] when the store has stopped: not the same as having no position.
    pub async fn position(
        &self,
        broker: &BrokerId,
        group: &str,
        topic_id: TopicId,
    ) -> Result<Vec<(Partition, Offset)>, Closed> {
        let (reply, answer) = oneshot::channel();
        let message = Message::Position(broker.clone(), group.to_owned(), topic_id, reply);
        self.inner.owner.send(message).await.map_err(|_| Closed)?;
        answer.await.map_err(|_| Closed)
    }

    /// Answers a request that another member's transport has carried here.
    ///
    /// # Errors
    /// See [`HandleError`].
    pub async fn handle(&self, rpc: RaftRpc, body: Bytes) -> Result<Bytes, HandleError> {
        match rpc {
            RaftRpc::Propose => self.handle_propose(&body).await,
            RaftRpc::ReadIndex => self.handle_read_index().await,
            rpc => raft::handle(&self.inner.raft, rpc, &body).await,
        }
    }

    /// Applies what is waiting, folds the write-ahead log into the database and closes it, for
    /// all handles. What comes later is refused with [`Closed`].
    pub async fn close(self) {
        // It reports no error that would change what is to be done.
        self.inner.raft.shutdown().await.ok();
        let (reply, answer) = oneshot::channel();
        if self.inner.owner.send(Message::Close(reply)).await.is_ok() {
            // An error means that the store stopped by itself: it is closed all the same.
            answer.await.ok();
        }
        self.stopped().await;
    }

    /// Waits until the store takes no more commands: because it was closed, or because its disk
    /// failed, after which the node cannot go on.
    pub async fn stopped(&self) {
        self.inner.owner.closed().await;
    }
}

fn log_error(error: LogError) -> OpenError {
    let why = error.to_string();
    match error {
        LogError::Amnesia { .. } => OpenError::Amnesia { why },
        LogError::Damaged { .. } => OpenError::RaftLog { why },
        LogError::Storage { dir, source } => OpenError::Directory { path: dir, source },
    }
}

/// How far a database has come that has never seen a Raft log. One with something in it is that
/// of a node that was alone: its state becomes what the log begins with.
async fn adopt(
    log: &mut RaftLog,
    state: &State,
    node: u64,
    address: &str,
) -> Result<Progress, OpenError> {
    let failed = |source: std::io::Error| OpenError::Raft {
        why: source.to_string(),
    };
    let base = LogId::new_term_index(0, 0);
    let found = log.get_log_state().await.map_err(failed)?;
    match (found.last_purged_log_id, found.last_log_id) {
        (None, None) if *state == State::default() => return Ok(Progress::default()),
        (None, None) => log.purge(base).await.map_err(failed)?,
        // A start that was cut short right here.
        (Some(purged), Some(last)) if purged == base && last == base => {}
        _ => {
            return Err(OpenError::RaftLog {
                why: "the database that belongs to the Raft log is gone".into(),
            });
        }
    }
    let voters = vec![[node].into()];
    let nodes = BTreeMap::from([(node, BasicNode::new(address))]);
    let membership = openraft::Membership::new(voters, nodes);
    let membership = membership.map_err(|error| OpenError::Raft {
        why: error.to_string(),
    })?;
    Ok(Progress {
        applied: Some(base),
        membership: Membership::new(Some(base), membership),
        diverged: false,
    })
}

fn config(options: &StoreOptions) -> Result<Config, openraft::ConfigError> {
    let lease = u64::try_from(options.lease.as_millis()).unwrap_or(u64::MAX);
    Config {
        cluster_name: "pilgrimage".into(),
        heartbeat_interval: 100,
        election_timeout_min: lease / 2,
        // This is the lease, too.
        election_timeout_max: lease,
        install_snapshot_timeout: 60_000,
        max_payload_entries: 64,
        max_append_entries: Some(512),
        replication_lag_threshold: options.snapshot_every,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(options.snapshot_every),
        max_in_snapshot_log_to_keep: options.snapshot_every / 5,
        // A node that was cut off must not depose a leader that others can reach.
        enable_pre_vote: Some(true),
        // A leader that comes back asks again whether it still is one, as in the paper.
        enable_leader_restore: Some(false),
        ..Config::default()
    }
    .validate()
}

/// Tells who leads, proposes checksums while this node does (M4), and closes the store when Raft
/// has failed. Ends with Raft.
async fn supervise(
    store: Weak<Inner>,
    owner: mpsc::Sender<Message>,
    lead: watch::Sender<Option<NodeId>>,
    mut checksums: watch::Receiver<Option<Checksum>>,
) {
    let Some(mut metrics) = store.upgrade().map(|inner| inner.raft.metrics()) else {
        return;
    };
    loop {
        // Copied out: holding the borrow would hold up Raft.
        let (leader, state) = {
            let metrics = metrics.borrow_watched();
            (metrics.current_leader, metrics.running_state.clone())
        };
        let leader = leader.and_then(|id| u32::try_from(id).ok()).map(NodeId);
        lead.send_if_modified(|known| std::mem::replace(known, leader) != leader);
        if let Err(fatal) = state {
            lead.send_replace(None);
            if !matches!(fatal, Fatal::Stopped) {
                tracing::error!(error = %fatal, "Raft has failed; the metadata store stops");
                let (reply, closed) = oneshot::channel();
                drop(store);
                if owner.send(Message::Close(reply)).await.is_ok() {
                    closed.await.ok();
                }
            }
            return;
        }
        tokio::select! {
            changed = metrics.changed() => {
                if changed.is_err() {
                    lead.send_replace(None);
                    return;
                }
            }
            Ok(()) = checksums.changed() => {
                let newest = *checksums.borrow_and_update();
                let Some((inner, Checksum { index, hash })) = store.upgrade().zip(newest) else {
                    continue;
                };
                if leader == Some(inner.node) {
                    let version = env!("CARGO_PKG_VERSION").to_owned();
                    let proposal = Proposal::Checksum { version, index, hash };
                    // Another comes after the next thousand entries.
                    inner.raft.client_write_ff(proposal, None).await.ok();
                }
            }
        }
    }
}
