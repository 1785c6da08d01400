//! Whoever is asked answers: finds the node that leads a partition and asks it, if it is another.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::peer::AskError;
use super::peer::wire::{Ask, NotLeader, PartitionKey};
use super::topics::Topic;
use super::{Broker, UnknownPartition};
use crate::partition::PartitionHandle;
use crate::types::{Code, LeaderEpoch, NodeId, Partition, TopicName, TopicPartition};

/// Where a partition is led.
pub(super) enum Site {
    Here(PartitionHandle),
    There(NodeId),
}

/// Why a partition's leader could not be asked, or did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum RouteError {
    /// No such partition.
    #[error(transparent)]
    Partition(#[from] UnknownPartition),
    /// Nobody leads it.
    #[error("{partition} has no leader: none of the replicas that may lead it is alive")]
    NoLeader {
        /// The partition.
        partition: TopicPartition,
    },
    /// The leader's node cannot be reached; nothing was sent to it.
    #[error("node {node}, which leads {partition}, cannot be reached: {reason}")]
    Unreachable {
        /// The partition.
        partition: TopicPartition,
        /// The node.
        node: NodeId,
        /// What the connection said.
        reason: String,
    },
    /// A new leader has not yet learned how far the one before it had come (PROTOCOL H4): too few
    /// copies are in sync, or the metadata cannot say whether it still leads.
    #[error("it is not certain yet where {partition} ends")]
    EndUnknown {
        /// The partition.
        partition: TopicPartition,
    },
    /// The connection to the leader's node broke before it answered.
    #[error("node {node}, which leads {partition}, did not answer: {reason}")]
    ConnectionLost {
        /// The partition.
        partition: TopicPartition,
        /// The node.
        node: NodeId,
        /// What the connection said.
        reason: String,
    },
}

impl RouteError {
    /// The code on the wire.
    pub fn code(&self) -> Code {
        match self {
            Self::Partition(_) => Code::PartitionNotFound,
            Self::NoLeader { .. } | Self::EndUnknown { .. } => Code::NoLeader,
            Self::Unreachable { .. } => Code::NodeUnreachable,
            Self::ConnectionLost { .. } => Code::ConnectionLost,
        }
    }
}

/// How long a request waits for a partition to get a leader.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a node that says it does not lead is believed before it is asked again.
const AGAIN: Duration = Duration::from_millis(20);

impl Broker {
    /// Where the partition is led, waiting a little while nobody leads it.
    pub(super) async fn site(
        &self,
        topic: &Arc<Topic>,
        partition: Partition,
    ) -> Result<Site, RouteError> {
        self.site_until(topic, partition, Instant::now() + PATIENCE)
            .await
    }

    async fn site_until(
        &self,
        topic: &Arc<Topic>,
        partition: Partition,
        deadline: Instant,
    ) -> Result<Site, RouteError> {
        // Most requests find their partition led here: they pay for nothing else.
        if let Some(handle) = topic.leading(partition)? {
            return Ok(Site::Here(handle.clone()));
        }
        let mut changes = self.inner.settled.clone();
        let mut topic = topic.clone();
        loop {
            changes.borrow_and_update();
            if let Some(newer) = self.find_topic(&topic.entry.name)
                && newer.entry.id == topic.entry.id
            {
                topic = newer;
            }
            let place = topic.place(partition)?;
            let mut roles = None;
            match place.record.leader {
                Some(leader) if leader == self.inner.node => match &place.hosted {
                    Some(handle) if handle.role().leads => {
                        return Ok(Site::Here(handle.clone()));
                    }
                    // It is about to: its task has not heard yet.
                    hosted => roles = hosted.as_ref().map(PartitionHandle::roles),
                },
                Some(leader) => return Ok(Site::There(leader)),
                None => {}
            }
            let role_changed = async {
                match &mut roles {
                    Some(roles) => roles.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            let waited = tokio::time::timeout_at(deadline, async {
                tokio::select! {
                    changed = changes.changed() => changed.is_ok(),
                    changed = role_changed => changed,
                }
            });
            if waited.await != Ok(true) {
                return Err(RouteError::NoLeader {
                    partition: topic.name_of(partition),
                });
            }
        }
    }

    /// Base URL of the node that leads the partition, if that is another one that clients can reach.
    pub fn leader_elsewhere(&self, topic: &TopicName, partition: Partition) -> Option<String> {
        let topic = self.find_topic(topic)?;
        let leader = topic.place(partition).ok()?.record.leader?;
        let view = self.inner.store.view().borrow().clone();
        let node = view
            .node(leader)
            .filter(|node| node.id != self.inner.node)?;
        Some(node.http.clone()).filter(|url| !url.is_empty())
    }

    /// Waits until another node than `node` leads the partition, or it is gone.
    async fn replaced(&self, topic: &Topic, partition: Partition, node: NodeId) {
        let mut views = self.inner.store.view();
        let replaced = views.wait_for(|view| {
            let record = view.partition(topic.entry.id, partition);
            record.is_none_or(|record| record.leader.is_some_and(|leader| leader != node))
        });
        if replaced.await.is_err() {
            // The broker closes; whoever was asked answers or not.
            std::future::pending().await
        }
    }

    /// Asks the partition's leader, wherever it is: `here` answers if that is this node. Asks anew
    /// while the answer is that the leadership is elsewhere.
    pub(super) async fn at_leader<A, T, F>(
        &self,
        topic: &Arc<Topic>,
        partition: Partition,
        ask: impl Fn(PartitionKey) -> A,
        body: Bytes,
        here: impl Fn(PartitionHandle) -> F,
    ) -> Result<(T, Bytes), RouteError>
    where
        A: Ask<Answer = Result<T, NotLeader>>,
        F: Future<Output = Result<(T, Bytes), NotLeader>>,
    {
        let deadline = Instant::now() + PATIENCE;
        let key = PartitionKey {
            topic: topic.entry.id,
            partition,
        };
        loop {
            let name = || topic.name_of(partition);
            let answered = match self.site_until(topic, partition, deadline).await? {
                Site::Here(handle) => here(handle).await,
                Site::There(node) => {
                    let question = ask(key);
                    let asking = self.inner.peering.ask(node, &question, body.clone());
                    let asked = tokio::select! {
                        biased;
                        asked = asking => asked,
                        // A node that hangs is replaced long before its connection is given up.
                        () = self.replaced(topic, partition, node) => {
                            Err(AskError::Lost("another node has taken the lead".into()))
                        }
                    };
                    match asked {
                        Ok((Ok(answer), bytes)) => Ok((answer, bytes)),
                        Ok((Err(not_leader), _)) => Err(not_leader),
                        Err(AskError::NotSent(reason)) if deadline <= Instant::now() => {
                            return Err(RouteError::Unreachable {
                                partition: name(),
                                node,
                                reason,
                            });
                        }
                        // Nothing has happened yet: by the time it is asked again, another may lead.
                        Err(AskError::NotSent(_)) => Err(NotLeader {
                            leader: None,
                            epoch: LeaderEpoch::default(),
                        }),
                        Err(AskError::Lost(_)) if A::REPEATABLE && Instant::now() < deadline => {
                            Err(NotLeader {
                                leader: None,
                                epoch: LeaderEpoch::default(),
                            })
                        }
                        Err(AskError::Lost(reason)) => {
                            return Err(RouteError::ConnectionLost {
                                partition: name(),
                                node,
                                reason,
                            });
                        }
                    }
                }
            };
            match answered {
                Ok(answered) => return Ok(answered),
                Err(_) if deadline <= Instant::now() => {
                    return Err(RouteError::NoLeader { partition: name() });
                }
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }
}
