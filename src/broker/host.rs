//! Opens and removes the logs that this node hosts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use super::OpenError;
use super::topics::Topic;
use crate::metadata::{TopicEntry, View};
use crate::partition::{self, Hosted, PartitionHandle, Proposal};
use crate::storage::{Disk, FileCache, LogOptions, PartitionLog};
use crate::tasks::Tasks;
use crate::telemetry::Stats;
use crate::types::{
    Clock, NodeId, Partition, PartitionRecord, TimestampType, TopicId, TopicPartition,
    TopicSettings,
};

/// What all partitions of the node share.
pub(super) struct Hosting {
    pub(super) tasks: Tasks,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) stats: Arc<Stats>,
    pub(super) writers: Arc<Semaphore>,
    pub(super) compressors: Arc<Semaphore>,
    pub(super) proposals: mpsc::Sender<Proposal>,
}

/// Opens and removes logs.
pub(super) struct Host {
    pub(super) root: PathBuf,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) files: Arc<FileCache>,
    pub(super) hosting: Hosting,
}

impl Host {
    pub(super) fn topic_dir(&self, id: TopicId) -> PathBuf {
        self.root.join(id.to_string())
    }

    /// Blocking. Opens the log of one partition.
    pub(super) fn open_log(
        &self,
        topic: &TopicEntry,
        partition: Partition,
        record: &PartitionRecord,
    ) -> Result<PartitionLog, OpenError> {
        let dir = self.topic_dir(topic.id).join(partition.to_string());
        let opened = PartitionLog::open(
            self.disk.clone(),
            self.files.clone(),
            &dir,
            topic.id,
            partition,
            log_options(&topic.settings, record),
        );
        let name = TopicPartition {
            topic: topic.name.clone(),
            partition,
        };
        let (log, recovery) = opened.map_err(|error| OpenError::Log {
            partition: name.clone(),
            reason: partition::chain(&error),
        })?;
        if recovery.truncated_bytes != 0 || !recovery.quarantined.is_empty() {
            tracing::warn!(partition = %name, ?recovery, "recovered");
            let truncated = &self.hosting.stats.recovery_truncated_bytes;
            truncated.fetch_add(
                recovery.truncated_bytes,
                std::sync::atomic::Ordering::Relaxed,
            );
        }
        Ok(log)
    }

    /// Starts the task that owns `log`. Must be called inside the runtime.
    pub(super) fn host(
        &self,
        topic: &Topic,
        partition: Partition,
        log: PartitionLog,
    ) -> PartitionHandle {
        let hosted = Hosted {
            tasks: self.hosting.tasks.clone(),
            clock: self.hosting.clock.clone(),
            stats: self.hosting.stats.clone(),
            progress: topic.progress.clone(),
            led: topic.led.clone(),
            writers: self.hosting.writers.clone(),
            compressors: self.hosting.compressors.clone(),
            proposals: self.hosting.proposals.clone(),
        };
        partition::spawn(topic.name_of(partition), log, hosted)
    }

    /// Blocking. Deletes what is left of a deleted topic.
    pub(super) fn remove_topic(&self, id: TopicId) -> Result<(), OpenError> {
        let dir = self.topic_dir(id);
        let gone = |done: std::io::Result<()>| match done {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            done => done,
        };
        // Durably: the metadata is about to forget the topic, and nobody would find files that a
        // power loss brings back.
        gone(std::fs::remove_dir_all(&dir))
            .and_then(|()| gone(self.disk.sync_dir(&self.root)))
            .map_err(|error| OpenError::Unusable {
                path: dir,
                reason: error.to_string(),
            })
    }
}

impl Host {
    /// Blocking. Removes copies that went to other nodes while this one was away: partitions of
    /// living topics whose record in `view`, which is newer than this process's registration, does
    /// not name this node. What `view` does not know stays (PROTOCOL M8).
    pub(super) fn sweep(&self, view: &View, node: NodeId) -> std::io::Result<()> {
        let entries = |dir: &Path| match std::fs::read_dir(dir) {
            Ok(entries) => entries.collect::<std::io::Result<Vec<_>>>(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        for topic in entries(&self.root)? {
            let id = topic
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            let Some(id) = id.map(TopicId).filter(|id| view.topic_by_id(*id).is_some()) else {
                continue;
            };
            for partition in entries(&topic.path())? {
                let number = partition
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse().ok());
                let record = number.and_then(|number| view.partition(id, Partition(number)));
                if record.is_some_and(|record| record.replica(node).is_none()) {
                    tracing::info!(path = %partition.path().display(), "a copy that is elsewhere by now goes");
                    std::fs::remove_dir_all(partition.path())?;
                }
            }
        }
        Ok(())
    }
}

pub(super) fn log_options(settings: &TopicSettings, record: &PartitionRecord) -> LogOptions {
    LogOptions {
        segment_bytes: settings.segment_bytes,
        segment_ms: settings.segment_ms,
        retention_ms: settings.retention_ms,
        retention_bytes: settings.retention_bytes,
        compression: settings.compression,
        use_append_time: settings.timestamp_type == TimestampType::Append,
        replicated: 1 < record.replicas.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::tests::sim::{Faults, SimDisk};
    use crate::types::SystemClock;
    use uuid::Uuid;

    #[test]
    fn a_deleted_topic_is_not_forgotten_before_its_files_are_gone_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let disk = SimDisk::default();
        let host = Host {
            root: dir.path().join("topics"),
            disk: Arc::new(disk.clone()),
            files: Arc::new(FileCache::new(1)),
            hosting: Hosting {
                tasks: Tasks::new(),
                clock: Arc::new(SystemClock),
                stats: Arc::default(),
                writers: Arc::new(Semaphore::new(1)),
                compressors: Arc::new(Semaphore::new(1)),
                proposals: mpsc::channel(1).0,
            },
        };
        let id = TopicId(Uuid::from_u128(1));
        std::fs::create_dir_all(host.topic_dir(id).join("0")).unwrap();
        disk.set_faults(Faults {
            fail_sync_after: Some(0),
            ..Faults::default()
        });
        assert!(matches!(
            host.remove_topic(id),
            Err(OpenError::Unusable { .. })
        ));
        assert!(host.remove_topic(id).is_ok(), "it can be tried again");
        assert!(!host.topic_dir(id).exists());
    }
}
