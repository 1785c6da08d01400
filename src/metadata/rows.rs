//! The state as rows. Every row carries a checksum, because SQLite's pages carry none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sqlx::sqlite::{Sqlite, SqliteConnection, SqliteRow};
use sqlx::{QueryBuilder, Row, query};
use uuid::Uuid;

use super::database::Identity;
use super::state::{Change, Position, State};
use super::view::{DeletedTopic, Key, NodeEntry, TopicEntry};
use crate::types::{
    BrokerId, LeaderEpoch, NodeId, Offset, Partition, PartitionRecord, Timestamp, TopicId,
    TopicName, TopicSettings,
};

/// Most partitions that one statement writes: a fenced node changes thousands at once.
const PARTITIONS_AT_ONCE: usize = 500;

/// Why rows could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// The rows were read, but cannot be what was written.
    #[error("{0}")]
    Damaged(String),
}

pub(super) fn damaged(table: &str, why: impl std::fmt::Display) -> ReadError {
    ReadError::Damaged(format!("table {table}: {why}"))
}

/// CRC-32C over the fields, each preceded by its length so that bytes cannot move between them.
pub(super) fn checksum(fields: &[&[u8]]) -> i64 {
    let crc = fields.iter().fold(0, |crc, field| {
        let crc = crc32c::crc32c_append(crc, &(field.len() as u64).to_le_bytes());
        crc32c::crc32c_append(crc, field)
    });
    i64::from(crc)
}

pub(super) fn verify(table: &str, row: &SqliteRow, expected: i64) -> Result<(), ReadError> {
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

/// Writes down the cluster of which the directory is part from now on.
pub(super) async fn write_cluster(
    conn: &mut SqliteConnection,
    cluster: Uuid,
) -> Result<(), sqlx::Error> {
    let Ok(Some(identity)) = read_identity(conn).await else {
        return Err(sqlx::Error::RowNotFound);
    };
    let identity = Identity {
        cluster_id: cluster,
        ..identity
    };
    query("UPDATE node SET cluster_id = ?, crc = ? WHERE one = 1")
        .bind(identity.cluster_id.as_bytes().as_slice())
        .bind(node_checksum(&identity))
        .execute(conn)
        .await?;
    Ok(())
}

/// Over the columns as they were before there were clusters: `incarnation`, `process` and
/// `started_at` are still covered, so that an old row is told from a damaged one.
fn progress_checksum(
    applied: u64,
    incarnation: u64,
    leader_epoch: LeaderEpoch,
    process: Option<(Uuid, i64)>,
) -> i64 {
    let process = process.map(|(id, started_at)| (*id.as_bytes(), started_at.to_le_bytes()));
    let (id, started_at) = process
        .as_ref()
        .map_or((&[][..], &[][..]), |(id, at)| (id, at));
    checksum(&[
        &applied.to_le_bytes(),
        &incarnation.to_le_bytes(),
        &leader_epoch.0.to_le_bytes(),
        id,
        started_at,
    ])
}

/// Reads the whole state.
pub(super) async fn read_state(conn: &mut SqliteConnection) -> Result<State, ReadError> {
    let mut state = State::default();
    read_progress(conn, &mut state).await?;
    read_nodes(conn, &mut state).await?;
    read_topics(conn, &mut state).await?;
    read_partitions(conn, &mut state).await?;
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
    state.solo_epoch = LeaderEpoch(unsigned(TABLE, &row, "leader_epoch")?);
    let process = match row.try_get::<Option<&[u8]>, _>("process")? {
        None => None,
        Some(_) => Some((uuid(TABLE, &row, "process")?, row.try_get("started_at")?)),
    };
    let incarnation = unsigned(TABLE, &row, "incarnation")?;
    verify(
        TABLE,
        &row,
        progress_checksum(state.view.applied, incarnation, state.solo_epoch, process),
    )
}

/// Writes how far the commands have been applied: the last statement of every transaction.
pub(super) async fn write_progress(
    conn: &mut SqliteConnection,
    state: &State,
) -> Result<(), sqlx::Error> {
    let (applied, epoch) = (state.view.applied, state.solo_epoch);
    query(
        "INSERT OR REPLACE INTO progress (one, applied, incarnation, leader_epoch, process, started_at, crc) \
         VALUES (1, ?, 0, ?, NULL, NULL, ?)",
    )
    .bind(signed(applied)?)
    .bind(i64::from(epoch.0))
    .bind(progress_checksum(applied, 0, epoch, None))
    .execute(conn)
    .await?;
    Ok(())
}

fn entry_checksum(key: &[&[u8]], entry: &str) -> i64 {
    let fields: Vec<&[u8]> = key.iter().copied().chain([entry.as_bytes()]).collect();
    checksum(&fields)
}

fn json<T: serde::Serialize>(value: &T) -> Result<String, sqlx::Error> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))
}

async fn read_nodes(conn: &mut SqliteConnection, state: &mut State) -> Result<(), ReadError> {
    const TABLE: &str = "nodes";
    let sql = "SELECT id, entry, crc FROM nodes";
    for row in query(sql).fetch_all(conn).await? {
        let id: u32 = unsigned(TABLE, &row, "id")?;
        let text = row.try_get::<String, _>("entry")?;
        verify(TABLE, &row, entry_checksum(&[&id.to_le_bytes()], &text))?;
        let node: NodeEntry = serde_json::from_str(&text).map_err(|error| damaged(TABLE, error))?;
        if node.id != NodeId(id) {
            return Err(damaged(
                TABLE,
                format_args!("node {} under id {id}", node.id),
            ));
        }
        state.add_node(Arc::new(node));
    }
    Ok(())
}

async fn put_node(conn: &mut SqliteConnection, node: &NodeEntry) -> Result<(), sqlx::Error> {
    let text = json(node)?;
    query("INSERT OR REPLACE INTO nodes (id, entry, crc) VALUES (?, ?, ?)")
        .bind(i64::from(node.id.0))
        .bind(text.as_str())
        .bind(entry_checksum(&[&node.id.0.to_le_bytes()], &text))
        .execute(conn)
        .await?;
    Ok(())
}

fn partition_checksum(topic: TopicId, partition: Partition, record: &str) -> i64 {
    entry_checksum(&[topic.0.as_bytes(), &partition.0.to_le_bytes()], record)
}

async fn read_partitions(conn: &mut SqliteConnection, state: &mut State) -> Result<(), ReadError> {
    const TABLE: &str = "partitions";
    let sql = "SELECT topic_id, partition, record, crc FROM partitions";
    for row in query(sql).fetch_all(conn).await? {
        let topic = TopicId(uuid(TABLE, &row, "topic_id")?);
        let partition = Partition(unsigned(TABLE, &row, "partition")?);
        let text = row.try_get::<String, _>("record")?;
        verify(TABLE, &row, partition_checksum(topic, partition, &text))?;
        let record: PartitionRecord =
            serde_json::from_str(&text).map_err(|error| damaged(TABLE, error))?;
        if !state.add_partition((topic, partition), Arc::new(record)) {
            let why = format_args!("topic {topic} has no partition {partition}");
            return Err(damaged(TABLE, why));
        }
    }
    Ok(())
}

async fn put_partitions(
    conn: &mut SqliteConnection,
    partitions: &[(Key, Arc<PartitionRecord>)],
) -> Result<(), sqlx::Error> {
    for some in partitions.chunks(PARTITIONS_AT_ONCE) {
        let mut rows = Vec::with_capacity(some.len());
        for ((topic, partition), record) in some {
            rows.push((*topic, *partition, json(record)?));
        }
        let mut sql = QueryBuilder::<Sqlite>::new(
            "INSERT OR REPLACE INTO partitions (topic_id, partition, record, crc) ",
        );
        sql.push_values(rows, |mut row, (topic, partition, record)| {
            let crc = partition_checksum(topic, partition, &record);
            row.push_bind(topic.0.as_bytes().to_vec())
                .push_bind(i64::from(partition.0))
                .push_bind(record)
                .push_bind(crc);
        });
        sql.build().execute(&mut *conn).await?;
    }
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

fn holder_checksum(topic: TopicId, node: NodeId) -> i64 {
    checksum(&[topic.0.as_bytes(), &node.0.to_le_bytes()])
}

async fn read_deleted(conn: &mut SqliteConnection, state: &mut State) -> Result<(), ReadError> {
    const TABLE: &str = "deleted_topics";
    const HOLDERS: &str = "deleted_holders";
    let mut holders: BTreeMap<TopicId, BTreeSet<NodeId>> = BTreeMap::new();
    let sql = "SELECT topic_id, node, crc FROM deleted_holders";
    for row in query(sql).fetch_all(&mut *conn).await? {
        let topic = TopicId(uuid(HOLDERS, &row, "topic_id")?);
        let node = NodeId(unsigned(HOLDERS, &row, "node")?);
        verify(HOLDERS, &row, holder_checksum(topic, node))?;
        holders.entry(topic).or_default().insert(node);
    }
    let sql = "SELECT id, name, partitions, deleted_at, crc FROM deleted_topics";
    for row in query(sql).fetch_all(conn).await? {
        let id = TopicId(uuid(TABLE, &row, "id")?);
        let deleted = DeletedTopic {
            id,
            name: name(TABLE, &row)?,
            partitions: unsigned(TABLE, &row, "partitions")?,
            deleted_at: Timestamp(row.try_get("deleted_at")?),
            holders: holders.remove(&id).unwrap_or_default(),
        };
        verify(TABLE, &row, deleted_checksum(&deleted))?;
        let name = deleted.name.clone();
        // A topic that is both would have its files deleted under it.
        if !state.add_deleted(Arc::new(deleted)) {
            return Err(damaged(
                TABLE,
                format_args!("topic {name} is both live and deleted"),
            ));
        }
    }
    Ok(())
}

async fn put_holders(
    conn: &mut SqliteConnection,
    deleted: &DeletedTopic,
) -> Result<(), sqlx::Error> {
    query("DELETE FROM deleted_holders WHERE topic_id = ?")
        .bind(deleted.id.0.as_bytes().as_slice())
        .execute(&mut *conn)
        .await?;
    for node in &deleted.holders {
        query("INSERT INTO deleted_holders (topic_id, node, crc) VALUES (?, ?, ?)")
            .bind(deleted.id.0.as_bytes().as_slice())
            .bind(i64::from(node.0))
            .bind(holder_checksum(deleted.id, *node))
            .execute(&mut *conn)
            .await?;
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

/// Writes changes, in their order: partitions that follow one another share statements.
pub(super) async fn write_changes(
    conn: &mut SqliteConnection,
    changes: &[Change],
) -> Result<(), sqlx::Error> {
    let mut partitions = Vec::new();
    for change in changes {
        if let Change::PutPartition(key, record) = change {
            partitions.push((*key, record.clone()));
            continue;
        }
        put_partitions(conn, &partitions).await?;
        partitions.clear();
        write_change(conn, change).await?;
    }
    put_partitions(conn, &partitions).await
}

async fn write_change(conn: &mut SqliteConnection, change: &Change) -> Result<(), sqlx::Error> {
    match change {
        Change::PutTopic(topic) => put_topic(conn, topic).await,
        Change::DeleteTopic(deleted) => delete_topic(conn, deleted).await,
        Change::PutDeleted(deleted) => put_holders(conn, deleted).await,
        Change::ForgetDeleted(id) => {
            for sql in [
                "DELETE FROM deleted_holders WHERE topic_id = ?",
                "DELETE FROM deleted_topics WHERE id = ?",
            ] {
                let delete = query(sql).bind(id.0.as_bytes().as_slice());
                delete.execute(&mut *conn).await?;
            }
            Ok(())
        }
        Change::PutPosition(position) => put_position(conn, position).await,
        Change::PutNode(node) => put_node(conn, node).await,
        Change::RemoveNode(id) => {
            let delete = query("DELETE FROM nodes WHERE id = ?").bind(i64::from(id.0));
            delete.execute(conn).await?;
            Ok(())
        }
        Change::PutPartition(key, record) => put_partitions(conn, &[(*key, record.clone())]).await,
    }
}

async fn put_topic(conn: &mut SqliteConnection, topic: &TopicEntry) -> Result<(), sqlx::Error> {
    let settings = json(&topic.settings)?;
    // Not INSERT OR REPLACE: that deletes the row first, and other rows refer to it.
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
    for sql in [
        "DELETE FROM positions WHERE topic_id = ?",
        "DELETE FROM partitions WHERE topic_id = ?",
        "DELETE FROM topics WHERE id = ?",
    ] {
        query(sql).bind(id).execute(&mut *conn).await?;
    }
    query(
        "INSERT INTO deleted_topics (id, name, partitions, deleted_at, crc) VALUES (?, ?, ?, ?, ?)",
    )
    .bind(id)
    .bind(deleted.name.as_str())
    .bind(i64::from(deleted.partitions))
    .bind(deleted.deleted_at.0)
    .bind(deleted_checksum(deleted))
    .execute(&mut *conn)
    .await?;
    put_holders(conn, deleted).await
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
