//! openraft's own tests of a log and a state machine, on ours.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::metadata::database;
use crate::metadata::owner::Owner;
use crate::metadata::raft::{Machine, RaftLog, SEGMENT, Snapshots, Types};
use crate::storage::StdDisk;

struct Builder;

impl StoreBuilder<Types, RaftLog, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, RaftLog, Machine), StorageError<Types>> {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("metadata.db");
        let database = database::open(&path, database::options(&path))
            .await
            .unwrap();
        let disk = Arc::new(StdDisk);
        let dir = place.path().join("raft");
        let opened = RaftLog::open(disk.clone(), &dir, 0, SEGMENT).unwrap();
        let (owner, messages) = mpsc::channel(8);
        let (task, _) = Owner::new(
            database.conn,
            database.state,
            database.progress.unwrap_or_default(),
            1000,
            opened.ended,
        );
        tokio::spawn(task.run(messages));
        let machine = Machine::new(owner, Snapshots { disk, dir });
        Ok((place, opened.log, machine))
    }
}

#[tokio::test]
async fn openrafts_own_suite_passes() {
    Suite::test_all(Builder).await.unwrap();
}
