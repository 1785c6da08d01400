//! Who forms the cluster that agrees on the metadata, and how it fares: changes one step at a time
//! (PROTOCOL M9).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::alias::InstantOf;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, InitializeError, RaftError};
use openraft::impls::BasicNode;
use openraft::raft::TransferLeaderRequest;
use openraft::{ChangeMembers, Instant as _};
use tokio::time::{Instant, timeout, timeout_at};

use super::raft::{RaftRpc, Types, encode};
use super::store::{Closed, Store};
use crate::types::NodeId;

/// A learner that is further behind than this has not caught up.
const CAUGHT_UP: u64 = 100;
/// How long a voter may take to answer before it does not count as alive: several heartbeats.
const ANSWER: Duration = Duration::from_secs(1);
/// How long it may take to tell a voter that the leader's process has ended.
const TELL: Duration = Duration::from_millis(100);

/// Why the membership was not changed, or is not known to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Only the leader changes it.
    #[error("this node does not lead the metadata")]
    NotLeader(Option<NodeId>),
    /// It would have to be waited for.
    #[error("node {node} is {lag} entries behind")]
    NotCaughtUp {
        /// Who.
        node: NodeId,
        /// How far it is behind.
        lag: u64,
    },
    /// The voters that would be left could not decide anything.
    #[error("of the {voters} voters that would be left only {alive} are alive")]
    NoMajority {
        /// Voters that would be left.
        voters: usize,
        /// Those of them that are alive.
        alive: usize,
    },
    /// The node is part of a cluster already.
    #[error("this node is part of a cluster already")]
    AlreadyMember,
    /// Another change is under way.
    #[error("another change of the membership is under way")]
    InProgress,
    /// No such member, or not one of which this can be asked.
    #[error("node {0} is not a member of which that can be asked")]
    NotMember(NodeId),
    /// It was on its way when time ran out.
    #[error("the membership may have been changed: {0}")]
    Unknown(String),
    /// The store has stopped.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// How the cluster that agrees on the metadata fares, as one node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RaftStatus {
    /// The node that was asked.
    pub node: NodeId,
    /// Who leads.
    pub leader: Option<NodeId>,
    /// The term: the number of the reign.
    pub term: u64,
    /// Index of the last entry in the node's log.
    pub last_log: Option<u64>,
    /// Index of the last entry that the node has applied.
    pub applied: Option<u64>,
    /// Index up to which the node's newest snapshot goes.
    pub snapshot: Option<u64>,
    /// Index up to which the node's log is gone.
    pub purged: Option<u64>,
    /// Whether a change of those who vote has begun and not ended: old and new ones decide
    /// together until it has.
    pub is_changing: bool,
    /// Those who vote.
    pub voters: BTreeSet<NodeId>,
    /// Those who follow without a vote.
    pub learners: BTreeSet<NodeId>,
    /// Host and port of each member, as it was added.
    pub addresses: BTreeMap<NodeId, String>,
    /// On the leader: by how many entries each other member is behind; none if that is not known.
    pub lag: BTreeMap<NodeId, Option<u64>>,
}

fn node(id: u64) -> NodeId {
    // Members are only ever added under the ids of nodes.
    NodeId(u32::try_from(id).unwrap_or_default())
}

impl Store {
    /// Makes a cluster of this node alone, which has never been part of any. It leads a moment
    /// later, which is seen by [`leader`](Self::leader).
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn bootstrap(&self) -> Result<(), MembershipError> {
        let node = BasicNode::new(&self.inner.options.address);
        let members = BTreeMap::from([(u64::from(self.inner.node.0), node)]);
        match self.inner.raft.initialize(members).await {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {
                Err(MembershipError::AlreadyMember)
            }
            Err(RaftError::APIError(error)) => Err(MembershipError::Unknown(error.to_string())),
            Err(RaftError::Fatal(_)) => Err(Closed.into()),
        }
    }

    /// How the metadata's cluster fares, as this node sees it.
    pub fn status(&self) -> RaftStatus {
        let receiver = self.inner.raft.metrics();
        // Copied out: holding the borrow would hold up Raft.
        let metrics = receiver.borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let last = metrics.last_log_index;
        let replication = metrics.replication.unwrap_or_default();
        let lag = replication
            .into_iter()
            .filter(|(id, _)| *id != u64::from(self.inner.node.0))
            .map(|(id, matched)| {
                let lag = matched
                    .zip(last)
                    .map(|(matched, last)| last.saturating_sub(matched.index));
                (node(id), lag)
            });
        RaftStatus {
            node: self.inner.node,
            leader: metrics.current_leader.map(node),
            term: metrics.current_term,
            last_log: last,
            applied: metrics.last_applied.map(|id| id.index),
            snapshot: metrics.snapshot.map(|id| id.index),
            purged: metrics.purged.map(|id| id.index),
            is_changing: 1 < membership.get_joint_config().len(),
            voters: membership.voter_ids().map(node).collect(),
            learners: membership.learner_ids().map(node).collect(),
            addresses: membership
                .nodes()
                .map(|(id, at)| (node(*id), at.addr.clone()))
                .collect(),
            lag: lag.collect(),
        }
    }

    /// Adds a node that follows without a vote. It is sent everything that there is; until it has
    /// that, it is not to be promoted.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn add_learner(&self, id: NodeId, address: &str) -> Result<(), MembershipError> {
        let nodes = BTreeMap::from([(u64::from(id.0), BasicNode::new(address))]);
        self.change(ChangeMembers::AddNodes(nodes)).await
    }

    /// Gives a learner that has caught up a vote.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn promote(&self, id: NodeId) -> Result<(), MembershipError> {
        let status = self.leading()?;
        if status.voters.contains(&id) {
            return Ok(());
        }
        if !status.learners.contains(&id) {
            return Err(MembershipError::NotMember(id));
        }
        let lag = status.lag.get(&id).copied().flatten();
        match lag.unwrap_or(u64::MAX) {
            ..=CAUGHT_UP => {}
            lag => return Err(MembershipError::NotCaughtUp { node: id, lag }),
        }
        let voters = [u64::from(id.0)].into();
        self.change(ChangeMembers::AddVoterIds(voters)).await
    }

    /// Takes a voter's vote; it goes on as a learner. Refused if the voters that are left could
    /// not decide anything.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn demote(&self, id: NodeId) -> Result<(), MembershipError> {
        let mut left = self.leading()?.voters;
        if !left.remove(&id) {
            return Ok(());
        }
        let alive = self.count_alive(&left).await;
        if alive <= left.len() / 2 {
            return Err(MembershipError::NoMajority {
                voters: left.len(),
                alive,
            });
        }
        let voters = [u64::from(id.0)].into();
        self.change(ChangeMembers::RemoveVoters(voters)).await
    }

    /// Ends a change of the voters that was begun and not ended, because who drove it went away.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn finish_change(&self) -> Result<(), MembershipError> {
        if !self.leading()?.is_changing {
            return Ok(());
        }
        let nobody = ChangeMembers::AddVoterIds(BTreeSet::new());
        self.change(nobody).await
    }

    /// Removes a learner.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn remove_learner(&self, id: NodeId) -> Result<(), MembershipError> {
        if self.leading()?.voters.contains(&id) {
            return Err(MembershipError::NotMember(id));
        }
        let nodes = [u64::from(id.0)].into();
        self.change(ChangeMembers::RemoveNodes(nodes)).await
    }

    /// Asks a voter to take over. Whether it does is seen by [`leader`](Self::leader).
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn transfer_leadership(&self, to: NodeId) -> Result<(), MembershipError> {
        if !self.leading()?.voters.contains(&to) {
            return Err(MembershipError::NotMember(to));
        }
        let trigger = self.inner.raft.trigger().transfer_leader(to.0.into()).await;
        trigger.map_err(|_| Closed.into())
    }

    /// The process that led the metadata has ended, beyond doubt. Nobody waits for its lease to run
    /// out, which is for a leader that lives and is not heard: the first of the other voters stands
    /// for election at once, and those who know of the end let it.
    pub async fn leader_has_ended(&self, leader: NodeId) {
        let (vote, seen) = {
            let metrics = self.inner.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.vote, metrics.current_leader)
        };
        let mut others = self.status().voters;
        others.remove(&leader);
        let (Some(heir), true) = (others.first(), seen == Some(leader.0.into())) else {
            return;
        };
        let own = self.inner.node;
        let request = TransferLeaderRequest::new(vote, heir.0.into(), None);
        if *heir == own
            && let Ok(body) = encode(&request)
        {
            // Whoever still believes in the lease would refuse its vote.
            let told = others.iter().filter(|other| **other != own).map(|other| {
                let transport = &self.inner.options.transport;
                let telling = transport.call(*other, RaftRpc::TransferLeader, body.clone());
                timeout(TELL, telling)
            });
            futures_util::future::join_all(told).await;
        }
        // Fails if another leads by now, or the store has stopped.
        let _ = self.inner.raft.handle_transfer_leader(request).await;
    }

    /// The status, if this node leads.
    fn leading(&self) -> Result<RaftStatus, MembershipError> {
        let status = self.status();
        if status.leader == Some(self.inner.node) {
            Ok(status)
        } else {
            Err(MembershipError::NotLeader(status.leader))
        }
    }

    /// How many of these voters answer now: one that died a moment ago does not count.
    async fn count_alive(&self, voters: &BTreeSet<NodeId>) -> usize {
        let asked = InstantOf::<Types>::now();
        let deadline = Instant::now() + ANSWER;
        let mut metrics = self.inner.raft.metrics();
        loop {
            let heard = metrics
                .borrow_watched()
                .heartbeat
                .clone()
                .unwrap_or_default();
            let answers = |id: &NodeId| {
                let heard = heard.get(&id.0.into()).copied().flatten();
                *id == self.inner.node || heard.is_some_and(|at| asked < *at)
            };
            let alive = voters.iter().filter(|id| answers(id)).count();
            let changed = timeout_at(deadline, metrics.changed());
            if alive == voters.len() || !matches!(changed.await, Ok(Ok(()))) {
                return alive;
            }
        }
    }

    async fn change(&self, change: ChangeMembers<u64, BasicNode>) -> Result<(), MembershipError> {
        let raft = self.inner.raft.clone();
        // Its two steps are driven from here: giving up the wait must not stop it half way.
        let changing = tokio::spawn(async move { raft.change_membership(change, true).await });
        let changed = timeout(self.inner.options.deadline, changing)
            .await
            .map_err(|_| MembershipError::Unknown("it was not committed in time".into()))?;
        match changed {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(refusal(error)),
            Err(stopped) => Err(MembershipError::Unknown(stopped.to_string())),
        }
    }
}

fn refusal(error: RaftError<Types, ClientWriteError<Types>>) -> MembershipError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            MembershipError::NotLeader(forward.leader_id.map(node))
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => match error {
            ChangeMembershipError::InProgress(_) => MembershipError::InProgress,
            ChangeMembershipError::LearnerNotFound(missing) => {
                MembershipError::NotMember(node(missing.node_id))
            }
            error => MembershipError::Unknown(error.to_string()),
        },
        RaftError::APIError(error) => MembershipError::Unknown(error.to_string()),
        RaftError::Fatal(_) => Closed.into(),
    }
}
