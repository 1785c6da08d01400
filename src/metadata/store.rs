//! The durable store: one task owns the only connection to the database.
//!
//! Commands that arrive while a transaction runs share the next one (group commit). A command is
//! answered, and the view that shows it published, only after its transaction is on stable storage.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteLockingMode, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Row, SqlSafeStr, query};
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

use super::command::{Applied, Command, Rejected};
use super::rows::{self, ReadError};
use super::state::{Change, State};
use super::view::View;
use super::wal;
use crate::types::{BrokerId, Code, Offset, Partition, TopicId};

/// Messages that may wait for the owner; whoever sends one more waits for room.
const MAILBOX: usize = 1024;
/// Most messages that share one transaction.
const BATCH: usize = 512;
/// "PILG": `PRAGMA application_id` of our databases.
const APPLICATION_ID: i32 = 0x5049_4C47;
/// Time for a process that is just ending to let go of the database.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// Who a data directory is (PROTOCOL N1). Drawn when the database is made, and never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The cluster to which the directory belongs.
    pub cluster_id: Uuid,
    /// The directory itself: a copy or a new disk under the same broker id is told apart by it.
    pub disk_id: Uuid,
}

/// Why the metadata could not be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The database.
        path: PathBuf,
    },
    /// A newer version of the program has written it.
    #[error(
        "{} was written by a newer version: it is at schema {found}, this version knows up to {known}",
        path.display()
    )]
    NewerSchema {
        /// The database.
        path: PathBuf,
        /// The schema that it has.
        found: i64,
        /// The newest schema that this program knows.
        known: i64,
    },
    /// It is a database of some other program.
    #[error("{} is not a metadata database: its application id is {found:#x}", path.display())]
    NotOurs {
        /// The database.
        path: PathBuf,
        /// The id that it carries.
        found: i32,
    },
    /// Its contents are not what was written.
    #[error("{} is damaged: {why}; restore it from a backup", path.display())]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// It could not be read or written.
    #[error("opening {}", path.display())]
    Storage {
        /// The database.
        path: PathBuf,
        /// What went wrong.
        source: sqlx::Error,
    },
    /// Its directory could not be made durable.
    #[error("syncing the directory of {}", path.display())]
    Directory {
        /// The database.
        path: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
}

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
    /// The disk has no room. The state is as it was.
    #[error("no room on disk for the metadata")]
    NoSpace(#[source] Arc<sqlx::Error>),
    /// The disk failed. The command may or may not have been applied, which the next start will
    /// tell; the store takes no more commands.
    #[error("writing the metadata")]
    Storage(#[source] Arc<sqlx::Error>),
    /// The store takes no more commands. The state is as it was.
    #[error(transparent)]
    Closed(#[from] Closed),
}

impl ApplyError {
    /// The code that clients see.
    pub fn code(&self) -> Code {
        match self {
            Self::Rejected(rejected) => rejected.code(),
            Self::NoSpace(_) => Code::InsufficientStorage,
            Self::Storage(_) => Code::StorageFailed,
            Self::Closed(_) => Code::NotReady,
        }
    }
}

enum Message {
    Apply(Command, oneshot::Sender<Result<Applied, ApplyError>>),
    Position(
        BrokerId,
        String,
        TopicId,
        oneshot::Sender<Vec<(Partition, Offset)>>,
    ),
    Close(oneshot::Sender<()>),
}

/// A handle to the store; clones speak to the same one. It stops when the last is dropped.
#[derive(Debug, Clone)]
pub struct Store {
    identity: Identity,
    mailbox: mpsc::Sender<Message>,
    view: watch::Receiver<Arc<View>>,
}

impl Store {
    /// Opens the database at `path`, making it if there is none, and brings it to the newest
    /// schema. The database stays locked against other processes until the store has stopped.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_with(path, options(path)).await
    }

    pub(super) async fn open_with(
        path: &Path,
        options: SqliteConnectOptions,
    ) -> Result<Self, OpenError> {
        let failed = |error| open_error(path, error);
        check_wal(path).await?;
        let mut conn = options.connect().await.map_err(failed)?;
        check_application(path, &mut conn).await?;
        let health = query("PRAGMA quick_check(1)")
            .fetch_all(&mut conn)
            .await
            .map_err(failed)?;
        match health
            .first()
            .map(|row| row.try_get::<String, _>(0))
            .transpose()
            .map_err(failed)?
            .as_deref()
        {
            Some("ok") => {}
            found => {
                return Err(OpenError::Damaged {
                    path: path.into(),
                    why: found.unwrap_or("no answer").into(),
                });
            }
        }
        migrate(path, &mut conn).await?;
        let unreadable = |error| match error {
            ReadError::Sql(error) => open_error(path, error),
            ReadError::Damaged(why) => OpenError::Damaged {
                path: path.into(),
                why,
            },
        };
        let identity = match rows::read_identity(&mut conn).await.map_err(unreadable)? {
            Some(identity) => identity,
            None => {
                let identity = Identity {
                    cluster_id: Uuid::new_v4(),
                    disk_id: Uuid::new_v4(),
                };
                rows::write_identity(&mut conn, &identity)
                    .await
                    .map_err(failed)?;
                identity
            }
        };
        let state = rows::read_state(&mut conn).await.map_err(unreadable)?;
        sync_directory(path)
            .await
            .map_err(|source| OpenError::Directory {
                path: path.into(),
                source,
            })?;

        let (mailbox, messages) = mpsc::channel(MAILBOX);
        let (publish, view) = watch::channel(Arc::new(state.view.clone()));
        tokio::spawn(
            Owner {
                conn,
                state,
                publish,
            }
            .run(messages),
        );
        Ok(Self {
            identity,
            mailbox,
            view,
        })
    }

    /// Who this data directory is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Applies a command. Once this returns `Ok`, the change survives a power cut and the view
    /// shows it. Dropping the future does not take the command back.
    ///
    /// # Errors
    /// See [`ApplyError`]; only [`ApplyError::Storage`] leaves open what happened.
    pub async fn apply(&self, command: Command) -> Result<Applied, ApplyError> {
        let (reply, answer) = oneshot::channel();
        self.mailbox
            .send(Message::Apply(command, reply))
            .await
            .map_err(|_| Closed)?;
        answer.await.unwrap_or(Err(ApplyError::Closed(Closed)))
    }

    /// The newest view, and word of each change of nodes, topics or partitions. Changed positions
    /// alone wake nobody.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        let mut view = self.view.clone();
        view.mark_unchanged();
        view
    }

    /// Where a group stands in a topic, by partition; a partition in which it has no position is
    /// left out. What was acknowledged before the call is seen by it.
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
        self.mailbox.send(message).await.map_err(|_| Closed)?;
        answer.await.map_err(|_| Closed)
    }

    /// Applies what is waiting, folds the write-ahead log into the database and closes it, for
    /// all handles. What comes later is refused with [`Closed`].
    pub async fn close(self) {
        let (reply, answer) = oneshot::channel();
        if self.mailbox.send(Message::Close(reply)).await.is_ok() {
            // An error means that the store stopped by itself: it is closed all the same.
            answer.await.ok();
        }
        self.stopped().await;
    }

    /// Waits until the store takes no more commands: because it was closed, or because its disk
    /// failed, after which the node cannot go on.
    pub async fn stopped(&self) {
        self.mailbox.closed().await;
    }
}

/// How the database is opened.
pub(super) fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .busy_timeout(LOCK_WAIT)
        // Two processes on one directory would tear its logs apart; the lock dies with its process.
        .locking_mode(SqliteLockingMode::Exclusive)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .pragma("cell_size_check", "ON")
        .pragma("journal_size_limit", "4194304")
        .pragma("trusted_schema", "OFF")
        .disable_statement_logging()
}

pub(super) fn migrations() -> Migrator {
    let files = [
        (
            1,
            "metadata",
            include_str!("../../migrations/0001_metadata.sql"),
        ),
        (
            2,
            "cluster",
            include_str!("../../migrations/0002_cluster.sql"),
        ),
    ];
    Migrator::with_migrations(
        files
            .into_iter()
            .map(|(version, name, sql)| {
                Migration::new(
                    version,
                    name.into(),
                    MigrationType::Simple,
                    sql.into_sql_str(),
                    false,
                )
            })
            .collect(),
    )
}

async fn check_wal(path: &Path) -> Result<(), OpenError> {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    match tokio::fs::read(wal).await {
        Ok(bytes) => wal::check(&bytes).map_err(|why| OpenError::Damaged {
            path: path.into(),
            why,
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(OpenError::Storage {
            path: path.into(),
            source: error.into(),
        }),
    }
}

async fn check_application(path: &Path, conn: &mut SqliteConnection) -> Result<(), OpenError> {
    let number = |row: SqliteRow| row.try_get::<i32, _>(0);
    let failed = |error| open_error(path, error);
    let found = query("PRAGMA application_id")
        .fetch_one(&mut *conn)
        .await
        .and_then(number)
        .map_err(failed)?;
    if found == APPLICATION_ID {
        return Ok(());
    }
    // A first start that was cut short leaves the table of migrations and nothing else.
    let tables = query("SELECT count(*) FROM sqlite_schema WHERE tbl_name <> '_sqlx_migrations'")
        .fetch_one(conn)
        .await
        .and_then(number)
        .map_err(failed)?;
    if found == 0 && tables == 0 {
        Ok(())
    } else {
        Err(OpenError::NotOurs {
            path: path.into(),
            found,
        })
    }
}

async fn migrate(path: &Path, conn: &mut SqliteConnection) -> Result<(), OpenError> {
    let migrator = migrations();
    let known = migrator
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0);
    migrator
        .run_direct(None, conn, false)
        .await
        .map_err(|error| match error {
            MigrateError::VersionMissing(found) if known < found => OpenError::NewerSchema {
                path: path.into(),
                found,
                known,
            },
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                open_error(path, error)
            }
            error => OpenError::Damaged {
                path: path.into(),
                why: error.to_string(),
            },
        })
}

fn open_error(path: &Path, error: sqlx::Error) -> OpenError {
    let path = path.to_owned();
    match primary_code(&error) {
        Some(SQLITE_BUSY | SQLITE_LOCKED) => OpenError::InUse { path },
        Some(SQLITE_CORRUPT | SQLITE_NOTADB) => OpenError::Damaged {
            path,
            why: error.to_string(),
        },
        _ => OpenError::Storage {
            path,
            source: error,
        },
    }
}

const SQLITE_BUSY: u32 = 5;
const SQLITE_LOCKED: u32 = 6;
const SQLITE_CORRUPT: u32 = 11;
const SQLITE_FULL: u32 = 13;
const SQLITE_NOTADB: u32 = 26;

/// SQLite's own code for an error, without the extension in its upper bits.
fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let extended = error.as_database_error()?.code()?.parse::<u32>().ok()?;
    Some(extended & 0xff)
}

/// Makes a new database's directory entry durable.
async fn sync_directory(path: &Path) -> std::io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    tokio::fs::File::open(directory).await?.sync_all().await
}

/// The task that owns the database. Invariant between batches: `state`, the database and the
/// published view say the same.
struct Owner {
    conn: SqliteConnection,
    state: State,
    publish: watch::Sender<Arc<View>>,
}

impl Owner {
    async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut closing = Vec::new();
        while closing.is_empty() && 0 < messages.recv_many(&mut batch, BATCH).await {
            if let Err(error) = self.handle(&mut batch, &mut closing).await {
                tracing::error!(%error, "the metadata store has failed and takes no more commands");
                return;
            }
        }
        messages.close();
        while 0 < messages.recv_many(&mut batch, BATCH).await {
            if let Err(error) = self.handle(&mut batch, &mut closing).await {
                tracing::error!(%error, "the metadata store has failed while closing");
                return;
            }
        }
        // The log is replayed on the next start if this fails; nothing is lost.
        if let Err(error) = query("PRAGMA wal_checkpoint(TRUNCATE)")
            .execute(&mut self.conn)
            .await
        {
            tracing::warn!(%error, "the metadata's write-ahead log was left behind");
        }
        self.conn.close().await.ok();
        drop(messages);
        for reply in closing {
            reply.send(()).ok();
        }
    }

    /// Handles a batch in one transaction, answering everyone after it. An error means that the
    /// state of the database is unknown.
    async fn handle(
        &mut self,
        batch: &mut Vec<Message>,
        closing: &mut Vec<oneshot::Sender<()>>,
    ) -> Result<(), Arc<sqlx::Error>> {
        let mut changes = Vec::new();
        let mut answers = Vec::new();
        let mut asked = Vec::new();
        let before = self.state.view.clone();
        for message in batch.drain(..) {
            match message {
                Message::Apply(command, reply) => {
                    answers.push((self.state.apply(&command, &mut changes), reply))
                }
                Message::Position(broker, group, topic, reply) => {
                    asked.push((broker, group, topic, reply))
                }
                Message::Close(reply) => closing.push(reply),
            }
        }
        if before.applied != self.state.view.applied
            && let Err(error) = self.commit(&changes).await
        {
            let error = Arc::new(error);
            let full = primary_code(&error) == Some(SQLITE_FULL);
            // Rejections too: they may rest on a command that is now undone.
            for (_, reply) in answers {
                let error = error.clone();
                let error = if full {
                    ApplyError::NoSpace(error)
                } else {
                    ApplyError::Storage(error)
                };
                reply.send(Err(error)).ok();
            }
            if !full {
                return Err(error);
            }
            self.reload().await?;
        } else {
            self.publish(&before);
            for (answer, reply) in answers {
                reply.send(answer.map_err(ApplyError::Rejected)).ok();
            }
        }
        for (broker, group, topic, reply) in asked {
            reply
                .send(self.state.positions(&broker, &group, topic))
                .ok();
        }
        Ok(())
    }

    async fn commit(&mut self, changes: &[Change]) -> Result<(), sqlx::Error> {
        // Plain statements, not sqlx's transaction: SQLite rolls back by itself when the disk is
        // full, and sqlx would go on counting a transaction that is no more.
        query("BEGIN IMMEDIATE").execute(&mut self.conn).await?;
        rows::write_changes(&mut self.conn, changes).await?;
        rows::write_progress(&mut self.conn, &self.state).await?;
        query("COMMIT").execute(&mut self.conn).await?;
        Ok(())
    }

    /// Goes back to what the database says, after a transaction that did not commit.
    async fn reload(&mut self) -> Result<(), Arc<sqlx::Error>> {
        // An error means that SQLite has rolled back already; if not, the next BEGIN fails.
        query("ROLLBACK").execute(&mut self.conn).await.ok();
        self.state = rows::read_state(&mut self.conn)
            .await
            .map_err(|error| match error {
                ReadError::Sql(error) => Arc::new(error),
                ReadError::Damaged(why) => Arc::new(sqlx::Error::Decode(why.into())),
            })?;
        Ok(())
    }

    fn publish(&self, before: &View) {
        let view = self.state.view.clone();
        let wake = !view.untouched_since(before);
        if before.applied == view.applied {
            return;
        }
        self.publish.send_if_modified(|published| {
            *published = Arc::new(view);
            wake
        });
    }
}
