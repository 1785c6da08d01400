//! What nodes say of themselves and of the partitions that they lead, when they are asked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::broker::controller::News;
use crate::broker::load::Load;
use crate::broker::peer::wire::{PartitionKey, Progress, Report};
use crate::broker::{Broker, Status};
use crate::partition::ReplicaProgress;
use crate::types::{NodeId, Offset};

/// How a node is, in its own words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Version of the program.
    pub version: String,
    /// For how long it has been open, in milliseconds.
    pub uptime_ms: u64,
    /// What it does in a second.
    pub load: Load,
    /// Resident memory of its process, in bytes.
    pub memory: u64,
    /// Bytes of all its logs on disk.
    pub bytes: u64,
    /// Free bytes of its disk.
    pub disk_free: u64,
    /// Size of its disk.
    pub disk_total: u64,
    /// Whether its disk takes records.
    pub can_write: bool,
    /// What is wrong with it, in words.
    pub problems: Vec<String>,
    /// The nodes of which its gossip has heard lately, itself among them.
    pub hears: BTreeSet<NodeId>,
    /// Its part in the agreement on metadata.
    pub metadata: MetadataReport,
    /// On the controller: for how many milliseconds each node has given no sign of life.
    pub silent: BTreeMap<NodeId, u64>,
}

/// A node's part in the agreement on metadata.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MetadataReport {
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// The number of the reign.
    pub term: u64,
    /// Index of the last entry of its log.
    pub last_log: Option<u64>,
    /// Index of the last entry that it has applied.
    pub applied: Option<u64>,
    /// Index up to which its newest snapshot goes.
    pub snapshot: Option<u64>,
}

/// How far a partition's copies are, as its leader knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionProgress {
    /// First offset that can be read.
    pub log_start: Offset,
    /// Offset that the next record gets.
    pub log_end: Offset,
    /// Bytes of the leader's copy.
    pub bytes: u64,
    /// The followers.
    pub replicas: Vec<ReplicaProgress>,
}

impl PartitionProgress {
    /// Records of the leader's copy that a follower has, of how many; none if it was not heard of.
    pub fn copied(&self, node: NodeId) -> Option<(u64, u64)> {
        let total = self.log_end.0.saturating_sub(self.log_start.0);
        let follower = self.replicas.iter().find(|replica| replica.node == node)?;
        let copied = follower.log_end?.0.saturating_sub(self.log_start.0);
        Some((copied.min(total), total))
    }

    /// Records that a node's copy lacks: nothing on the leader, which is not among the followers.
    pub fn lag(&self, node: NodeId) -> Option<u64> {
        let (copied, total) = self.copied(node)?;
        Some(total - copied)
    }
}

/// How long a node may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the partitions of a node may take to say how far their followers are.
const PROGRESS: Duration = Duration::from_millis(500);

impl Broker {
    /// How this node is.
    pub(in crate::broker) async fn report(&self) -> NodeReport {
        let inner = &self.inner;
        let status: Status = self.status();
        let raft = inner.store.status();
        let mut hears = BTreeSet::from([inner.node]);
        if let Some(gossip) = &inner.gossip {
            hears.extend(gossip.live().borrow().keys());
        }
        let uptime = inner.clock.now().0.saturating_sub(status.started_at.0);
        NodeReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: uptime.max(0) as u64,
            load: **inner.load.load(),
            memory: self.process().memory,
            bytes: status.bytes,
            disk_free: status.disk_free,
            disk_total: status.disk_total,
            can_write: self.can_write(),
            problems: status.problems_for_all(),
            hears,
            metadata: MetadataReport {
                leader: raft.leader,
                term: raft.term,
                last_log: raft.last_log,
                applied: raft.applied,
                snapshot: raft.snapshot,
            },
            silent: self.silent().await,
        }
    }

    /// What the controller has heard, if this node is it.
    async fn silent(&self) -> BTreeMap<NodeId, u64> {
        if !self.inner.store.is_leader() {
            return BTreeMap::new();
        }
        let (reply, answer) = oneshot::channel();
        // A controller that is far behind, or is none any more, says nothing.
        let _ = self.inner.news.try_send(News::Silences(reply));
        let answer = tokio::time::timeout(PROGRESS, answer).await;
        answer.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// How far the copies are of those of these partitions that this node leads.
    pub(in crate::broker) async fn copied(
        &self,
        keys: &[PartitionKey],
    ) -> Vec<(PartitionKey, PartitionProgress)> {
        let led = keys.iter().filter_map(|key| {
            let handle = self.hosted(*key).filter(|handle| handle.role().leads)?;
            Some(async move {
                let replicas = handle.replicas().await;
                let progress = PartitionProgress {
                    log_start: handle.reader().log_start(),
                    log_end: handle.reader().log_end(),
                    bytes: handle.reader().stats().bytes,
                    replicas,
                };
                (*key, progress)
            })
        });
        // A partition whose disk hangs holds up nothing here.
        let all = futures_util::future::join_all(led);
        tokio::time::timeout(PROGRESS, all)
            .await
            .unwrap_or_default()
    }

    /// What these nodes say of themselves. Who does not answer in time is left out.
    pub(super) async fn reports(&self, nodes: Vec<NodeId>) -> BTreeMap<NodeId, NodeReport> {
        let asks = nodes.into_iter().map(|node| async move {
            if node == self.inner.node {
                return Some((node, self.report().await));
            }
            let asked = self.inner.peering.ask(node, &Report {}, Bytes::new());
            let (report, _) = tokio::time::timeout(PATIENCE, asked).await.ok()?.ok()?;
            Some((node, report))
        });
        let reports = futures_util::future::join_all(asks).await;
        reports.into_iter().flatten().collect()
    }

    /// How far the copies of these partitions are, as those say that lead them.
    pub(super) async fn progress_at(
        &self,
        by_leader: BTreeMap<NodeId, Vec<PartitionKey>>,
    ) -> BTreeMap<PartitionKey, PartitionProgress> {
        let asks = by_leader.into_iter().map(|(leader, keys)| async move {
            if leader == self.inner.node {
                return self.copied(&keys).await;
            }
            let ask = Progress { keys };
            let asked = self.inner.peering.ask(leader, &ask, Bytes::new());
            match tokio::time::timeout(PATIENCE, asked).await {
                Ok(Ok((progress, _))) => progress,
                _ => Vec::new(),
            }
        });
        let progress = futures_util::future::join_all(asks).await;
        progress.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_counted_from_the_first_record_that_is_left() {
        let follower = |node, log_end: Option<u64>| ReplicaProgress {
            node: NodeId(node),
            log_end: log_end.map(Offset),
            durable_end: None,
        };
        let progress = PartitionProgress {
            log_start: Offset(100),
            log_end: Offset(300),
            bytes: 1,
            replicas: vec![
                follower(1, Some(150)),
                follower(2, Some(20)),
                follower(3, Some(300)),
                follower(4, None),
            ],
        };
        let copied: Vec<_> = (1..=5).map(|node| progress.copied(NodeId(node))).collect();
        assert_eq!(
            copied,
            [
                Some((50, 200)),
                Some((0, 200)),
                Some((200, 200)),
                None,
                None
            ]
        );
        assert_eq!(progress.lag(NodeId(1)), Some(150));
    }
}
