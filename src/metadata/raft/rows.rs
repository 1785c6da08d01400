//! How far the state has come in the log, as a row beside the state's own.

use sqlx::sqlite::SqliteConnection;
use sqlx::{Row, query};

use super::{LogId, Membership};
use crate::metadata::owner::Progress;
use crate::metadata::rows::{ReadError, checksum, damaged, verify};

const TABLE: &str = "raft";

fn row_checksum(applied: Option<&str>, membership: &str, diverged: bool) -> i64 {
    checksum(&[
        applied.unwrap_or_default().as_bytes(),
        membership.as_bytes(),
        &[diverged.into()],
    ])
}

/// Reads the row; none if no Raft log was ever beside the database.
pub(in crate::metadata) async fn read_progress(
    conn: &mut SqliteConnection,
) -> Result<Option<Progress>, ReadError> {
    let sql = "SELECT applied, membership, diverged, crc FROM raft";
    let Some(row) = query(sql).fetch_optional(conn).await? else {
        return Ok(None);
    };
    let applied = row.try_get::<Option<String>, _>("applied")?;
    let membership = row.try_get::<String, _>("membership")?;
    let diverged = row.try_get::<bool, _>("diverged")?;
    let crc = row_checksum(applied.as_deref(), &membership, diverged);
    verify(TABLE, &row, crc)?;
    let applied = applied
        .map(|applied| serde_json::from_str::<LogId>(&applied))
        .transpose()
        .map_err(|error| damaged(TABLE, error))?;
    let membership: Membership =
        serde_json::from_str(&membership).map_err(|error| damaged(TABLE, error))?;
    Ok(Some(Progress {
        applied,
        membership,
        diverged,
    }))
}

/// Writes the row: the last statement of every transaction.
pub(in crate::metadata) async fn write_progress(
    conn: &mut SqliteConnection,
    progress: &Progress,
) -> Result<(), sqlx::Error> {
    let encode = |error: serde_json::Error| sqlx::Error::Encode(error.into());
    let applied = progress.applied.map(|id| serde_json::to_string(&id));
    let applied = applied.transpose().map_err(encode)?;
    let membership = serde_json::to_string(&progress.membership).map_err(encode)?;
    query(
        "INSERT OR REPLACE INTO raft (one, applied, membership, diverged, crc) \
         VALUES (1, ?, ?, ?, ?)",
    )
    .bind(applied.as_deref())
    .bind(membership.as_str())
    .bind(progress.diverged)
    .bind(row_checksum(
        applied.as_deref(),
        &membership,
        progress.diverged,
    ))
    .execute(conn)
    .await?;
    Ok(())
}

/// Removes every row of the state, for another to take its place in the same transaction.
pub(in crate::metadata) async fn delete_state(
    conn: &mut SqliteConnection,
) -> Result<(), sqlx::Error> {
    // Those that refer to others first.
    for sql in [
        "DELETE FROM positions",
        "DELETE FROM partitions",
        "DELETE FROM deleted_holders",
        "DELETE FROM topics",
        "DELETE FROM deleted_topics",
        "DELETE FROM nodes",
        "DELETE FROM progress",
    ] {
        query(sql).execute(&mut *conn).await?;
    }
    Ok(())
}
