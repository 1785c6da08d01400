//! The state as rows. Every row carries a checksum, because SQLite's pages carry none.

use std::sync::Arc;

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Row, query};
use uuid::Uuid;

use super::state::{Change, Position, Process, State};
use super::store::Identity;
use super::view::{DeletedTopic, Epoch, TopicEntry};
use crate::types::{
    BrokerId, LeaderEpoch, Offset, Partition, Timestamp, TopicId, TopicName, TopicSettings,
};

/// Why rows could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// The rows were read, but cannot be what was written.
    #[error("{0}")]
    Damaged(String),
}

fn damaged(table: &str, why: impl std::fmt::Display) -> ReadError {
    ReadError::Damaged(format!("table {table}: {why}"))
}

/// CRC-32C over the fields, each preceded by its length so that bytes cannot move between them.
fn checksum(fields: &[&[u8]]) -> i64 {
    let crc = fields.iter().fold(0, |crc, field| {
        let crc = crc32c::crc32c_append(crc, &(field.len() as u64).to_le_bytes());
        crc32c::crc32c_append(crc, field)
    });
    i64::from(crc)
}

fn verify(table: &str, row: &SqliteRow, expected: i64) -> Result<(), ReadError> {
    if row.try_get::<i64, _>("crc")? == expected {
        return Ok(());
    }
    Err(damaged(table, "a row does not match its checksum"))
}

/// SQLite's integers are signed; counts of ours never come near their end.
fn signed(count: u64) -> Result<i64, sqlx::Error> {
    i64::try_from(count).map_err(|error| sqlx::Error::Encode(error.into()))
}

fn unsigned<T: TryFrom<i64>>(table: &str, row: &SqliteRow, column: &str) -> Result<T, ReadError> {
    let value = row.try_get::<i64, _>(column)?;
    T::try_from(value).map_err(|_| damaged(table, format_args!("{column} is {value}")))
}

fn uuid(table: &str, row: &SqliteRow, column: &str) -> Result<Uuid, ReadError> {
    Uuid::from_slice(row.try_get::<&[u8], _>(column)?).map_err(|error| damaged(table, error))
}

fn name(table: &str, row: &SqliteRow) -> Result<TopicName, ReadError> {
    TopicName::try_from(row.try_get::<String, _>("name")?).map_err(|error| damaged(table, error))
}

fn node_checksum(identity: &Identity) -> i64 {
    checksum(&[identity.cluster_id.as_bytes(), identity.disk_id.as_bytes()])
}

/// The identity, or nothing if none was written yet.
pub(super) async fn read_identity(
    conn: &mut SqliteConnection,
) -> Result<Option<Identity>, ReadError> {
    let Some(row) = query("SELECT cluster_id, disk_id, crc FROM node")
        .fetch_optional(conn)
        .await?
    else {
        return Ok(None);
    };
    let identity = Identity {
        cluster_id: uuid("node", &row, "cluster_id")?,
        disk_id: uuid("node", &row, "disk_id")?,
    };
    verify("node", &row, node_checksum(&identity))?;
    Ok(Some(identity))
}

/// Writes the identity, once in the life of the database.
pub(super) async fn write_identity(
    conn: &mut SqliteConnection,
    identity: &Identity,
) -> Result<(), sqlx::Error> {
    query("INSERT INTO node (one, cluster_id, disk_id, crc) VALUES (1, ?, ?, ?)")
        .bind(identity.cluster_id.as_bytes().as_slice())
        .bind(identity.disk_id.as_bytes().as_slice())
        .bind(node_checksum(identity))
        .execute(conn)
        .await?;
    Ok(())
}

fn progress_checksum(applied: u64, epoch: Epoch, process: Option<Process>) -> i64 {
    let process =
        process.map(|process| (*process.id.as_bytes(), process.started_at.0.to_le_bytes()));
    let (id, started_at) = process
        .as_ref()
        .map_or((&[][..], &[][..]), |(id, at)| (id, at));
    checksum(&[
        &applied.to_le_bytes(),
        &epoch.incarnation.to_le_bytes(),
        &epoch.leader_epoch.0.to_le_bytes(),
        id,
        started_at,
    ])
}

/// Reads the whole state.
pub(super) async fn read_state(conn: &mut SqliteConnection) -> Result<State, ReadError> {
    let mut state = State::default();
    read_progress(conn, &mut state).await?;
    read_topics(conn, &mut state).await?;
    read_deleted(conn, &mut state).await?;
    read_positions(conn, &mut state).await?;
    Ok(state)
}

async fn read_progress(conn: &mut SqliteConnection, state: &mut State) -> Result<(), ReadError> {
    const TABLE: &str = "progress";
    let sql = "SELECT applied, incarnation, leader_epoch, process, started_at, crc FROM progress";
    let Some(row) = query(sql).fetch_optional(conn).await? else {
        return Ok(());
    };
    state.view.applied = unsigned(TABLE, &row, "applied")?;
    state.view.epoch = Epoch {
        incarnation: unsigned(TABLE, &row, "incarnation")?,
        leader_epoch: LeaderEpoch(unsigned(TABLE, &row, "leader_epoch")?),
    };
    state.process = match row.try_get::<Option<&[u8]>, _>("process")? {
        None => None,
        Some(_) => Some(Process {
            id: uuid(TABLE, &row, "process")?,
            started_at: Timestamp(row.try_get("started_at")?),
        }),
    };
    verify(
        TABLE,
        &row,
        progress_checksum(state.view.applied, state.view.epoch, state.process),
    )
}

/// Writes how far the commands have been applied: the last statement of every transaction.
pub(super) async fn write_progress(
    conn: &mut SqliteConnection,
    state: &State,
) -> Result<(), sqlx::Error> {
    let (applied, epoch) = (state.view.applied, state.view.epoch);
    query(
        "INSERT OR REPLACE INTO progress (one, applied, incarnation, leader_epoch, process, started_at, crc) \
         VALUES (1, ?, ?, ?, ?, ?, ?)",
    )
    .bind(signed(applied)?)
    .bind(signed(epoch.incarnation)?)
    .bind(i64::from(epoch.leader_epoch.0))
    .bind(state.process.as_ref().map(|process| process.id.as_bytes().as_slice()))
    .bind(state.process.map(|process| process.started_at.0))
    .bind(progress_checksum(applied, epoch, state.process))
    .execute(conn)
    .await?;
    Ok(())
}

fn topic_checksum(topic: &TopicEntry, settings: &str) -> i64 {
    checksum(&[
        topic.id.0.as_bytes(),
        topic.name.as_str().as_bytes(),
        settings.as_bytes(),
        &topic.created_at.0.to_le_bytes(),
        &topic.changed_at.0.to_le_bytes(),
    ])
}

async fn read_topics(conn: &mut SqliteConnection, state: &mut State) -> Result<(), ReadError> {
    const TABLE: &str = "topics";
    let sql = "SELECT id, name, settings, created_at, changed_at, crc FROM topics";
    for row in query(sql).fetch_all(conn).await? {
        let settings = row.try_get::<String, _>("settings")?;
        let topic = TopicEntry {
            name: name(TABLE, &row)?,
            id: TopicId(uuid(TABLE, &row, "id")?),
            settings: serde_json::from_str::<TopicSettings>(&settings)
                .map_err(|error| damaged(TABLE, error))?,
            created_at: Timestamp(row.try_get("created_at")?),
            changed_at: Timestamp(row.try_get("changed_at")?),
        };
        verify(TABLE, &row, topic_checksum(&topic, &settings))?;
        let name = topic.name.clone();
        if !state.add_topic(Arc::new(topic)) {
            return Err(damaged(TABLE, format_args!("topic {name} is there twice")));
        }
    }
    Ok(())
}

fn deleted_checksum(deleted: &DeletedTopic) -> i64 {
    checksum(&[
        deleted.id.0.as_bytes(),
        deleted.name.as_str().as_bytes(),
        &deleted.partitions.to_le_bytes(),
        &deleted.deleted_at.0.to_le_bytes(),
    ])
}

async fn read_deleted(conn: &mut SqliteConnection, state: &mut State) -> Result<(), ReadError> {
    const TABLE: &str = "deleted_topics";
    let sql = "SELECT id, name, partitions, deleted_at, crc FROM deleted_topics";
    for row in query(sql).fetch_all(conn).await? {
        let deleted = DeletedTopic {
            id: TopicId(uuid(TABLE, &row, "id")?),
            name: name(TABLE, &row)?,
            partitions: unsigned(TABLE, &row, "partitions")?,
            deleted_at: Timestamp(row.try_get("deleted_at")?),
        };
        verify(TABLE, &row, deleted_checksum(&deleted))?;
        // A topic that is both would have its files deleted under it.
        if state.view.topic_by_id(deleted.id).is_some() {
            return Err(damaged(
                TABLE,
                format_args!("topic {} is both live and deleted", deleted.name),
            ));
        }
        state.add_deleted(Arc::new(deleted));
    }
    Ok(())
}

fn position_checksum(position: &Position) -> i64 {
    checksum(&[
        position.topic.0.as_bytes(),
        position.broker.as_str().as_bytes(),
        position.group.as_bytes(),
        &position.partition.0.to_le_bytes(),
        &position.offset.0.to_le_bytes(),
        &position.at.0.to_le_bytes(),
    ])
}

async fn read_positions(conn: &mut SqliteConnection, state: &mut State) -> Result<(), ReadError> {
    const TABLE: &str = "positions";
    let sql =
        "SELECT topic_id, broker, group_name, partition, position, set_at, crc FROM positions";
    for row in query(sql).fetch_all(conn).await? {
        let broker = row.try_get::<String, _>("broker")?;
        let position = Position {
            topic: TopicId(uuid(TABLE, &row, "topic_id")?),
            broker: BrokerId::try_from(broker).map_err(|error| damaged(TABLE, error))?,
            group: row.try_get::<String, _>("group_name")?.into(),
            partition: Partition(unsigned(TABLE, &row, "partition")?),
            offset: Offset(unsigned(TABLE, &row, "position")?),
            at: Timestamp(row.try_get("set_at")?),
        };
        verify(TABLE, &row, position_checksum(&position))?;
        state.put_position(&position);
    }
    Ok(())
}

/// Writes one change.
pub(super) async fn write_change(
    conn: &mut SqliteConnection,
    change: &Change,
) -> Result<(), sqlx::Error> {
    match change {
        Change::PutTopic(topic) => put_topic(conn, topic).await,
        Change::DeleteTopic(deleted) => delete_topic(conn, deleted).await,
        Change::ForgetDeleted(id) => {
            query("DELETE FROM deleted_topics WHERE id = ?")
                .bind(id.0.as_bytes().as_slice())
                .execute(conn)
                .await?;
            Ok(())
        }
        Change::PutPosition(position) => put_position(conn, position).await,
    }
}

async fn put_topic(conn: &mut SqliteConnection, topic: &TopicEntry) -> Result<(), sqlx::Error> {
    let settings = serde_json::to_string(&topic.settings)
        .map_err(|error| sqlx::Error::Encode(error.into()))?;
    // Not INSERT OR REPLACE: that deletes the row first, and positions refer to it.
    query(
        "INSERT INTO topics (id, name, settings, created_at, changed_at, crc) VALUES (?, ?, ?, ?, ?, ?) \
         ON CONFLICT (id) DO UPDATE SET settings = excluded.settings, changed_at = excluded.changed_at, \
         crc = excluded.crc",
    )
    .bind(topic.id.0.as_bytes().as_slice())
    .bind(topic.name.as_str())
    .bind(settings.as_str())
    .bind(topic.created_at.0)
    .bind(topic.changed_at.0)
    .bind(topic_checksum(topic, &settings))
    .execute(conn)
    .await?;
    Ok(())
}

async fn delete_topic(
    conn: &mut SqliteConnection,
    deleted: &DeletedTopic,
) -> Result<(), sqlx::Error> {
    let id = deleted.id.0.as_bytes().as_slice();
    query("DELETE FROM positions WHERE topic_id = ?")
        .bind(id)
        .execute(&mut *conn)
        .await?;
    query("DELETE FROM topics WHERE id = ?")
        .bind(id)
        .execute(&mut *conn)
        .await?;
    query(
        "INSERT INTO deleted_topics (id, name, partitions, deleted_at, crc) VALUES (?, ?, ?, ?, ?)",
    )
    .bind(id)
    .bind(deleted.name.as_str())
    .bind(i64::from(deleted.partitions))
    .bind(deleted.deleted_at.0)
    .bind(deleted_checksum(deleted))
    .execute(conn)
    .await?;
    Ok(())
}

async fn put_position(conn: &mut SqliteConnection, position: &Position) -> Result<(), sqlx::Error> {
    query(
        "INSERT INTO positions (topic_id, broker, group_name, partition, position, set_at, crc) \
         VALUES (?, ?, ?, ?, ?, ?, ?) \
         ON CONFLICT (topic_id, broker, group_name, partition) \
         DO UPDATE SET position = excluded.position, set_at = excluded.set_at, crc = excluded.crc",
    )
    .bind(position.topic.0.as_bytes().as_slice())
    .bind(position.broker.as_str())
    .bind(&*position.group)
    .bind(i64::from(position.partition.0))
    .bind(signed(position.offset.0)?)
    .bind(position.at.0)
    .bind(position_checksum(position))
    .execute(conn)
    .await?;
    Ok(())
}
