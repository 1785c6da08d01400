//! The database file: how it is opened, checked and brought to the newest schema.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteLockingMode, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Row, SqlSafeStr, query};
use uuid::Uuid;

use super::owner::Progress;
use super::raft;
use super::rows::{self, ReadError};
use super::state::State;
use super::wal;
use crate::types::NodeId;

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

impl Identity {
    /// The node that lives in the directory.
    pub fn node(&self) -> NodeId {
        NodeId::of_disk(self.disk_id)
    }
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
    /// The Raft log has lost what the node once promised to keep: it must not vote any more.
    #[error("{why}")]
    Amnesia {
        /// What is lost, and what to do.
        why: String,
    },
    /// The Raft log is not what was written, or does not belong to the database.
    #[error("{why}; let this node join its cluster again with an empty directory")]
    RaftLog {
        /// What is wrong.
        why: String,
    },
    /// The metadata could not be made to agree: Raft did not start, or a node that was to be alone
    /// is a member of a cluster of several.
    #[error("the metadata's Raft did not start: {why}")]
    Raft {
        /// What is wrong.
        why: String,
    },
    /// This node's state was found to differ from that of its cluster.
    #[error(
        "{} was found to differ from the metadata of its cluster; let this node join again with \
         an empty directory",
        path.display()
    )]
    Diverged {
        /// The database.
        path: PathBuf,
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

/// An opened database.
pub(super) struct Database {
    pub(super) conn: SqliteConnection,
    pub(super) identity: Identity,
    pub(super) state: State,
    /// None if no Raft log was ever beside it.
    pub(super) progress: Option<Progress>,
}

/// Opens the database at `path`, making it if there is none, and brings it to the newest schema.
/// It stays locked against other processes while the connection lives.
pub(super) async fn open(
    path: &Path,
    options: SqliteConnectOptions,
) -> Result<Database, OpenError> {
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
    let progress = raft::read_progress(&mut conn).await.map_err(unreadable)?;
    if progress.as_ref().is_some_and(|progress| progress.diverged) {
        return Err(OpenError::Diverged { path: path.into() });
    }
    sync_directory(path)
        .await
        .map_err(|source| OpenError::Directory {
            path: path.into(),
            source,
        })?;
    Ok(Database {
        conn,
        identity,
        state,
        progress,
    })
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
        (3, "raft", include_str!("../../migrations/0003_raft.sql")),
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

/// Whether a statement failed because there is no room.
pub(super) fn is_full(error: &sqlx::Error) -> bool {
    primary_code(error) == Some(SQLITE_FULL)
}

/// Makes a new database's directory entry durable.
async fn sync_directory(path: &Path) -> std::io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    tokio::fs::File::open(directory).await?.sync_all().await
}
