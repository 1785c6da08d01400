//! The task that owns the database, its only connection and the state in memory.
//!
//! It applies what Raft has committed, many entries to a transaction, and publishes the view that
//! shows them once they are on stable storage. How far it has come is part of the same
//! transaction, so that no entry is applied twice or left out (PROTOCOL M4).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use openraft::EntryPayload;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, query};
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

use super::command::{Applied, Rejected};
use super::database::is_full;
use super::raft::{self, Entry, LogId, Membership, Proposal};
use super::rows::{self, ReadError};
use super::state::State;
use super::state::snapshot::Snapshot;
use super::view::View;
use crate::types::{BrokerId, Offset, Partition, TopicId};

/// Messages that are taken from the mailbox at once.
const BATCH: usize = 64;
/// Hashes that are remembered until the leader's comes.
const CHECKSUMS: usize = 16;

/// What became of a command.
pub(super) type Outcome = Result<Applied, Rejected>;

/// How far the state has come in the log, and who forms the cluster there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) applied: Option<LogId>,
    pub(super) membership: Membership,
    /// Whether this node's state was found to differ from the cluster's.
    pub(super) diverged: bool,
}

/// The hash of the state after an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Checksum {
    pub(super) index: u64,
    pub(super) hash: u64,
}

/// Why entries could not be applied.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum OwnerError {
    /// There is no room. The state is as it was: the same entries may be tried again.
    #[error("no room on disk for the metadata")]
    Full,
    /// The database failed.
    #[error("writing the metadata")]
    Failed(#[source] Arc<sqlx::Error>),
    /// The cluster's state is another than this node's.
    #[error("this node's metadata differs from the cluster's")]
    Diverged,
    /// The owner has ended.
    #[error("the metadata's owner has ended")]
    Gone,
}

pub(super) enum Message {
    /// Tell what becomes of the command of this name, once it is applied here.
    Expect(Uuid, oneshot::Sender<Outcome>),
    Apply(Arc<Vec<Entry>>, oneshot::Sender<Result<(), OwnerError>>),
    /// Put this state in place of all there is.
    Install(
        Box<(State, Progress)>,
        oneshot::Sender<Result<(), OwnerError>>,
    ),
    Snapshot(oneshot::Sender<(Progress, Snapshot)>),
    Progress(oneshot::Sender<Progress>),
    Position(
        BrokerId,
        String,
        TopicId,
        oneshot::Sender<Vec<(Partition, Offset)>>,
    ),
    /// The directory belongs to the cluster of this id from now on.
    Join(Uuid, oneshot::Sender<Result<(), OwnerError>>),
    Close(oneshot::Sender<()>),
}

/// Invariant between messages: `state` and `progress`, the database and the published view say
/// the same.
pub(super) struct Owner {
    conn: SqliteConnection,
    state: State,
    progress: Progress,
    publish: watch::Sender<Arc<View>>,
    /// After so many entries each node hashes its state (M4).
    checksum_every: u64,
    /// The newest checksum, for the leader to propose.
    checksum: watch::Sender<Option<Checksum>>,
    checksums: VecDeque<Checksum>,
    expected: HashMap<Uuid, oneshot::Sender<Outcome>>,
    /// Resolves when the Raft log's writer has ended.
    log_ended: oneshot::Receiver<()>,
}

/// What an owner tells without being asked.
pub(super) struct News {
    pub(super) view: watch::Receiver<Arc<View>>,
    pub(super) checksum: watch::Receiver<Option<Checksum>>,
}

impl Owner {
    pub(super) fn new(
        conn: SqliteConnection,
        state: State,
        progress: Progress,
        checksum_every: u64,
        log_ended: oneshot::Receiver<()>,
    ) -> (Self, News) {
        let (publish, view) = watch::channel(Arc::new(state.view.clone()));
        let (checksum, newest) = watch::channel(None);
        let owner = Self {
            conn,
            state,
            progress,
            publish,
            checksum_every: checksum_every.max(1),
            checksum,
            checksums: VecDeque::new(),
            expected: HashMap::new(),
            log_ended,
        };
        let checksum = newest;
        (owner, News { view, checksum })
    }

    pub(super) async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut closing = None;
        while closing.is_none() && 0 < messages.recv_many(&mut batch, BATCH).await {
            for message in batch.drain(..) {
                match message {
                    Message::Close(reply) => closing = Some(reply),
                    message => {
                        if let Err(error) = self.handle(message).await {
                            tracing::error!(
                                %error,
                                "the metadata store has failed and takes no more commands"
                            );
                            return;
                        }
                    }
                }
            }
        }
        messages.close();
        // Whoever waits for an answer gets none, rather than waiting for ever.
        self.expected.clear();
        while messages.recv_many(&mut batch, BATCH).await != 0 {
            batch.clear();
        }
        // Until its writer has ended, the directory must stay locked: by this connection.
        (&mut self.log_ended).await.ok();
        // The log is replayed on the next start if this fails; nothing is lost.
        if let Err(error) = query("PRAGMA wal_checkpoint(TRUNCATE)")
            .execute(&mut self.conn)
            .await
        {
            tracing::warn!(%error, "the metadata's write-ahead log was left behind");
        }
        self.conn.close().await.ok();
        drop(messages);
        if let Some(reply) = closing {
            reply.send(()).ok();
        }
    }

    /// Handles one message. An error means that the state of the database is unknown.
    async fn handle(&mut self, message: Message) -> Result<(), OwnerError> {
        match message {
            Message::Expect(id, reply) => {
                if self.expected.len() == self.expected.capacity() {
                    // Those who have given up, before the table grows.
                    self.expected.retain(|_, reply| !reply.is_closed());
                }
                self.expected.insert(id, reply);
            }
            Message::Apply(entries, reply) => {
                let applied = self.apply(&entries).await;
                reply.send(applied.clone()).ok();
                if let Err(error @ (OwnerError::Failed(_) | OwnerError::Diverged)) = applied {
                    return Err(error);
                }
            }
            Message::Install(new, reply) => {
                let installed = self.install(*new).await;
                reply.send(installed.clone()).ok();
                if let Err(error @ OwnerError::Failed(_)) = installed {
                    return Err(error);
                }
            }
            Message::Snapshot(reply) => {
                reply
                    .send((self.progress.clone(), self.state.to_snapshot()))
                    .ok();
            }
            Message::Progress(reply) => drop(reply.send(self.progress.clone())),
            Message::Position(broker, group, topic, reply) => {
                reply
                    .send(self.state.positions(&broker, &group, topic))
                    .ok();
            }
            Message::Join(cluster, reply) => {
                let written = rows::write_cluster(&mut self.conn, cluster).await;
                let written = written.map_err(|error| OwnerError::Failed(Arc::new(error)));
                drop(reply.send(written));
            }
            Message::Close(_) => {}
        }
        Ok(())
    }

    async fn apply(&mut self, entries: &[Entry]) -> Result<(), OwnerError> {
        let mut changes = Vec::new();
        let mut outcomes = Vec::new();
        let mut hashes = Vec::new();
        let before = self.state.view.clone();
        for entry in entries {
            match &entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Membership(membership) => {
                    self.progress.membership =
                        Membership::new(Some(entry.log_id), membership.clone());
                }
                EntryPayload::Normal(Proposal::Command { id, command }) => {
                    outcomes.push((*id, self.state.apply(command, &mut changes)));
                }
                EntryPayload::Normal(Proposal::Checksum {
                    version,
                    index,
                    hash,
                }) => {
                    let own = self.checksums.iter().chain(&hashes);
                    let own = own.into_iter().find(|own| own.index == *index);
                    if version == env!("CARGO_PKG_VERSION")
                        && own.is_some_and(|own| own.hash != *hash)
                    {
                        self.progress.diverged = true;
                    }
                }
            }
            self.progress.applied = Some(entry.log_id);
            let index = entry.log_id.index;
            // A node alone has nobody to compare with.
            if index.is_multiple_of(self.checksum_every)
                && 1 < self.progress.membership.nodes().count()
            {
                let hash = self.state.hash();
                hashes.push(Checksum { index, hash });
            }
        }
        if let Err(error) = self.commit(&changes, false).await {
            let full = is_full(&error);
            let error = Arc::new(error);
            if !full {
                return Err(OwnerError::Failed(error));
            }
            self.reload().await.map_err(OwnerError::Failed)?;
            return Err(OwnerError::Full);
        }
        if self.progress.diverged {
            tracing::error!(
                applied = self.progress.applied.map(|id| id.index),
                "this node's metadata differs from the cluster's: it stops, and must join again \
                 with an empty directory"
            );
            return Err(OwnerError::Diverged);
        }
        for checksum in hashes {
            self.checksums.push_back(checksum);
            self.checksum.send_replace(Some(checksum));
        }
        let surplus = self.checksums.len().saturating_sub(CHECKSUMS);
        self.checksums.drain(..surplus);
        self.publish(&before);
        for (id, outcome) in outcomes {
            if let Some(reply) = self.expected.remove(&id) {
                reply.send(outcome).ok();
            }
        }
        Ok(())
    }

    async fn install(&mut self, (state, progress): (State, Progress)) -> Result<(), OwnerError> {
        let before = std::mem::replace(&mut self.state, state).view;
        self.progress = progress;
        let rows = self.state.rows();
        if let Err(error) = self.commit(&rows, true).await {
            let full = is_full(&error);
            let error = Arc::new(error);
            if !full {
                return Err(OwnerError::Failed(error));
            }
            self.reload().await.map_err(OwnerError::Failed)?;
            return Err(OwnerError::Full);
        }
        self.checksums.clear();
        self.publish(&before);
        Ok(())
    }

    async fn commit(
        &mut self,
        changes: &[super::state::Change],
        replace: bool,
    ) -> Result<(), sqlx::Error> {
        // Plain statements, not sqlx's transaction: SQLite rolls back by itself when the disk is
        // full, and sqlx would go on counting a transaction that is no more.
        query("BEGIN IMMEDIATE").execute(&mut self.conn).await?;
        if replace {
            raft::delete_state(&mut self.conn).await?;
        }
        rows::write_changes(&mut self.conn, changes).await?;
        rows::write_progress(&mut self.conn, &self.state).await?;
        raft::write_progress(&mut self.conn, &self.progress).await?;
        query("COMMIT").execute(&mut self.conn).await?;
        Ok(())
    }

    /// Goes back to what the database says, after a transaction that did not commit.
    async fn reload(&mut self) -> Result<(), Arc<sqlx::Error>> {
        let unreadable = |error| match error {
            ReadError::Sql(error) => Arc::new(error),
            ReadError::Damaged(why) => Arc::new(sqlx::Error::Decode(why.into())),
        };
        // An error means that SQLite has rolled back already; if not, the next BEGIN fails.
        query("ROLLBACK").execute(&mut self.conn).await.ok();
        self.state = rows::read_state(&mut self.conn).await.map_err(unreadable)?;
        let progress = raft::read_progress(&mut self.conn)
            .await
            .map_err(unreadable)?;
        self.progress = progress.unwrap_or_default();
        Ok(())
    }

    fn publish(&self, before: &View) {
        let view = self.state.view.clone();
        let wake = !view.untouched_since(before);
        if before.applied == view.applied && !wake {
            return;
        }
        self.publish.send_if_modified(|published| {
            *published = Arc::new(view);
            wake
        });
    }
}
