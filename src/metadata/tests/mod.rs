//! The store's promises, on real files: what commands do (`apply`), and what disks do (`disk`);
//! and the state's alone: nodes and partitions (`cluster`), and any order of commands (`model`).

mod apply;
mod cluster;
mod disk;
mod model;
mod simulation;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sqlx::{ConnectOptions, Connection, Row};
use tempfile::TempDir;
use uuid::Uuid;

use super::database::options;
use super::state::{Change, State};
use super::*;
use crate::types::{
    BrokerId, Code, Incarnation, LeaderEpoch, NodeId, Offset, Partition, PartitionEpoch,
    PartitionRecord, Replica, Timestamp, TopicId, TopicName, TopicPatch, TopicSettings, limits,
};

fn name(name: &str) -> TopicName {
    name.try_into().unwrap()
}

fn id(n: u128) -> TopicId {
    TopicId(Uuid::from_u128(n))
}

fn broker() -> BrokerId {
    "b1".try_into().unwrap()
}

fn partitions(partitions: u32) -> TopicSettings {
    TopicSettings {
        partitions,
        ..TopicSettings::default()
    }
}

fn create(topic: &str, n: u128) -> Command {
    Command::CreateTopic {
        name: name(topic),
        id: id(n),
        settings: partitions(3),
        at: Timestamp(10),
    }
}

fn delete(topic: &str, n: u128) -> Command {
    Command::DeleteTopic {
        name: name(topic),
        id: id(n),
        at: Timestamp(30),
    }
}

fn alter(topic: &str, patch: TopicPatch) -> Command {
    Command::AlterTopic {
        name: name(topic),
        patch,
        at: Timestamp(20),
    }
}

fn set_position(group: &str, n: u128, partition: u32, offset: u64) -> Command {
    Command::SetPosition {
        broker: broker(),
        group: group.into(),
        topic_id: id(n),
        partition: Partition(partition),
        offset: Offset(offset),
        at: Timestamp(40),
    }
}

/// Node 1, the only one of most tests.
const NODE: NodeId = NodeId(1);

/// Node `n` as its process `process` registers it.
fn registration(n: u32, process: u128) -> Registration {
    Registration {
        id: NodeId(n),
        name: format!("b{n}").parse().unwrap(),
        disk: Uuid::from_u128(n.into()),
        process: Uuid::from_u128(process),
        http: format!("http://b{n}:8080"),
        peer: format!("b{n}:9090"),
        rack: None,
        clean: true,
        loss: Loss::None,
        at: Timestamp(1),
    }
}

fn register(n: u32, process: u128) -> Command {
    Command::RegisterNode(registration(n, process))
}

fn activate(n: u32, incarnation: u64) -> Command {
    Command::ActivateNode {
        id: NodeId(n),
        incarnation: Incarnation(incarnation),
    }
}

fn finish_delete(n: u128) -> Command {
    Command::FinishDelete {
        id: id(n),
        node: NODE,
    }
}

fn grow(to: u32) -> TopicPatch {
    TopicPatch {
        partitions: Some(to),
        ..TopicPatch::default()
    }
}

/// Commands of every kind, accepted and rejected.
fn history() -> Vec<Command> {
    let keep_for_ever = TopicPatch {
        retention_ms: Some(None),
        ..TopicPatch::default()
    };
    vec![
        register(1, 1),
        activate(1, 1),
        create("a", 1),
        create("b", 2),
        create("a", 3),
        alter("a", grow(5)),
        alter("a", keep_for_ever),
        alter("a", grow(2)),
        set_position("g", 1, 4, 7),
        set_position("g", 1, 4, 6),
        set_position("g", 2, 0, 1),
        set_position("g", 2, 3, 1),
        register(1, 2),
        register(1, 2),
        activate(1, 1),
        activate(1, 10),
        delete("b", 1),
        delete("b", 2),
        create("b", 4),
        set_position("h", 4, 0, u64::MAX),
        create("c", 5),
        delete("c", 5),
        finish_delete(5),
    ]
}

struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }
    fn path(&self) -> PathBuf {
        self.directory.path().join("metadata.db")
    }
    async fn open(&self) -> Store {
        Store::open(&self.path()).await.unwrap()
    }
    /// A store in which node 1 is at work.
    async fn open_active(&self) -> Store {
        let store = self.open().await;
        store.apply(register(1, 1)).await.unwrap();
        store.apply(activate(1, 1)).await.unwrap();
        store
    }
}

fn rejected(result: Result<Applied, ApplyError>) -> Rejected {
    match result {
        Err(ApplyError::Rejected(rejected)) => rejected,
        other => panic!("{other:?} was not rejected"),
    }
}

fn current(store: &Store) -> Arc<View> {
    store.view().borrow().clone()
}

/// Every row of every replicated table, as SQL literals.
async fn dump(path: &Path) -> Vec<String> {
    let mut conn = options(path).connect().await.unwrap();
    let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT IN ('node', 'raft', '_sqlx_migrations')";
    let mut rows = Vec::new();
    for table in sqlx::query(tables).fetch_all(&mut conn).await.unwrap() {
        let table: String = table.get(0);
        let columns = sqlx::query(
            "SELECT group_concat('quote(' || name || ')', '||'',''||') FROM pragma_table_info(?)",
        )
        .bind(&table)
        .fetch_one(&mut conn)
        .await
        .unwrap()
        .get::<String, _>(0);
        let select = sqlx::AssertSqlSafe(format!("SELECT {columns} FROM {table} ORDER BY 1"));
        for row in sqlx::query(select).fetch_all(&mut conn).await.unwrap() {
            rows.push(format!("{table}: {}", row.get::<String, _>(0)));
        }
    }
    conn.close().await.unwrap();
    rows
}

/// Copies what is in a directory, as a dead process leaves it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let to = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy(&file.path(), &to);
        } else {
            std::fs::copy(file.path(), to).unwrap();
        }
    }
}

/// Runs one statement on a closed database, behind the store's back.
async fn tamper(path: &Path, sql: &'static str) {
    let mut conn = options(path).foreign_keys(false).connect().await.unwrap();
    sqlx::query(sql).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

async fn refusal(path: &Path) -> String {
    Store::open(path).await.unwrap_err().to_string()
}
