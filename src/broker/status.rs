//! How a broker is.

use std::sync::atomic::Ordering;

use super::Broker;
use crate::partition::State;
use crate::types::{Partition, Timestamp};

/// How a broker is, in numbers and in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// When it was opened.
    pub started_at: Timestamp,
    /// Number of topics.
    pub topics: u64,
    /// Number of partitions.
    pub partitions: u64,
    /// Bytes of all logs on disk.
    pub bytes: u64,
    /// Bytes that the same batches had when they were appended.
    pub appended_bytes: u64,
    /// Free bytes of the disk.
    pub disk_free: u64,
    /// Size of the disk.
    pub disk_total: u64,
    /// What is wrong, in words; empty when all is well.
    pub problems: Vec<String>,
}

impl Status {
    /// The problems without what names files: that is for the log.
    pub fn problems_for_all(&self) -> Vec<String> {
        let problems = self.problems.iter().map(|problem| {
            let marks = [" is offline: ", " cannot be opened here: "];
            let what = marks.iter().find_map(|mark| problem.split_once(mark));
            match what {
                Some((what, _)) => format!("{what} is offline: its storage failed"),
                None => problem.clone(),
            }
        });
        problems.collect()
    }
}

impl Broker {
    /// How it is.
    pub fn status(&self) -> Status {
        let topics = self.inner.topics.load();
        let space = &self.inner.space;
        let mut status = Status {
            started_at: self.inner.started_at,
            topics: topics.len() as u64,
            partitions: 0,
            bytes: 0,
            appended_bytes: 0,
            disk_free: space.free.load(Ordering::Relaxed),
            disk_total: space.total.load(Ordering::Relaxed),
            problems: Vec::new(),
        };
        if self.inner.tasks.stopping().is_cancelled() {
            status.problems.push("the broker is closing".into());
        }
        if space.is_short() {
            let free = status.disk_free;
            status.problems.push(format!(
                "the disk is nearly full ({free} bytes free): records are refused"
            ));
        }
        for topic in topics.values() {
            for (index, place) in topic.partitions.iter().enumerate() {
                if let Some(reason) = &place.failed {
                    let name = topic.name_of(Partition(index as u32));
                    status
                        .problems
                        .push(format!("{name} cannot be opened here: {reason}"));
                }
            }
        }
        for handle in topics.values().flat_map(|topic| topic.hosted()) {
            let stats = handle.reader().stats();
            status.partitions += 1;
            status.bytes += stats.bytes;
            status.appended_bytes += stats.appended_bytes;
            if let State::Offline(reason) = handle.state() {
                status
                    .problems
                    .push(format!("{} is offline: {reason}", handle.name()));
            }
        }
        status
    }

    /// Whether it takes records.
    pub fn can_write(&self) -> bool {
        !self.inner.tasks.stopping().is_cancelled() && !self.inner.space.is_short()
    }

    pub(super) fn check_space(&self) -> Result<(), super::ProduceError> {
        if self.inner.space.is_short() {
            let free = self.inner.space.free.load(Ordering::Relaxed);
            return Err(super::ProduceError::DiskFull { free });
        }
        Ok(())
    }
}
