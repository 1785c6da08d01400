//! Putting a command into the Raft log, from whichever node, and reading what all have agreed on.

use std::time::Duration;

use bytes::Bytes;
use openraft::ReadPolicy;
use openraft::errors::{ClientWriteError, Fatal, LinearizableReadError, RaftError};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::command::{Applied, Command};
use super::owner::Message;
use super::raft::{self, HandleError, MAX_PROPOSAL, Proposal, RaftRpc};
use super::store::{ApplyError, Closed, Inner, Store};
use crate::types::NodeId;

/// How long to wait for word of another leader before asking again.
const PAUSE: Duration = Duration::from_millis(50);

/// What a leader says of a proposal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// It is committed.
    Committed,
    /// It was not put into the log: this node does not lead.
    NotLeader,
    /// It was not put into the log: there is no room.
    NoSpace,
    /// It was put into the log, and nobody knows what becomes of it.
    Unknown,
}

/// Nobody could say how far the cluster has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BarrierError {
    /// No leader answered in time.
    #[error("no leader of the metadata was found in time")]
    NoLeader,
    /// The store has stopped.
    #[error(transparent)]
    Closed(#[from] Closed),
}

impl Store {
    /// Applies a command, wherever the leader is. Once this returns `Ok`, the change survives a
    /// power cut, of any minority of disks, and this node's view shows it. Dropping the future
    /// does not take the command back.
    ///
    /// # Errors
    /// See [`ApplyError`]; only [`ApplyError::Unknown`] and [`ApplyError::Storage`] leave open
    /// what happened.
    pub async fn apply(&self, command: Command) -> Result<Applied, ApplyError> {
        let deadline = Instant::now() + self.inner.options.deadline;
        let id = Uuid::new_v4();
        let proposal = Proposal::Command { id, command };
        let body =
            raft::encode(&proposal).map_err(|error| ApplyError::Unknown(error.to_string()))?;
        if MAX_PROPOSAL < body.len() {
            return Err(ApplyError::TooLarge {
                bytes: body.len(),
                max: MAX_PROPOSAL,
            });
        }
        // Whichever way the command takes: once it is applied here, its outcome is known here.
        let (reply, mut outcome) = oneshot::channel();
        let expect = Message::Expect(id, reply);
        self.inner.owner.send(expect).await.map_err(|_| Closed)?;
        let proposed = tokio::select! {
            biased;
            told = &mut outcome => return told.map_or(Err(stopped()), |told| Ok(told?)),
            proposed = self.propose(proposal, body, deadline) => proposed,
        };
        proposed?;
        match timeout_at(deadline, outcome).await {
            Ok(Ok(told)) => Ok(told?),
            Ok(Err(_)) => Err(stopped()),
            Err(_) => Err(ApplyError::Unknown("it was not committed in time".into())),
        }
    }

    /// Puts a proposal into the leader's log. Ok means that it may be there.
    async fn propose(
        &self,
        proposal: Proposal,
        body: Bytes,
        deadline: Instant,
    ) -> Result<(), ApplyError> {
        let mut leader = self.leader();
        loop {
            let known = *leader.borrow_and_update();
            let answer = match known {
                None => Answer::NotLeader,
                Some(node) if node == self.inner.node => {
                    self.write(proposal.clone(), deadline).await?
                }
                Some(node) => self.forward(node, body.clone(), deadline).await,
            };
            match answer {
                Answer::Committed | Answer::Unknown => return Ok(()),
                Answer::NoSpace => return Err(ApplyError::NoSpace),
                Answer::NotLeader if deadline <= Instant::now() => {
                    return Err(ApplyError::NoLeader);
                }
                // Only what was not put into the log is asked again: nothing is applied twice.
                Answer::NotLeader => {
                    let pause = deadline.min(Instant::now() + PAUSE);
                    if let Ok(Err(_)) = timeout_at(pause, leader.changed()).await {
                        return Err(Closed.into());
                    }
                }
            }
        }
    }

    /// Puts a proposal into this node's log, if it leads.
    async fn write(&self, proposal: Proposal, deadline: Instant) -> Result<Answer, ApplyError> {
        if !self.has_room() {
            return Ok(Answer::NoSpace);
        }
        let write = self.inner.raft.client_write(proposal);
        match timeout_at(deadline, write).await {
            Ok(Ok(_)) => Ok(Answer::Committed),
            // Said before anything is appended, and only then.
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
                Ok(Answer::NotLeader)
            }
            Ok(Err(RaftError::APIError(_))) | Err(_) => Ok(Answer::Unknown),
            Ok(Err(RaftError::Fatal(Fatal::StorageError(error)))) => {
                Err(ApplyError::Storage(error.to_string()))
            }
            Ok(Err(RaftError::Fatal(_))) => Err(stopped()),
        }
    }

    async fn forward(&self, to: NodeId, body: Bytes, deadline: Instant) -> Answer {
        let call = self
            .inner
            .options
            .transport
            .call(to, RaftRpc::Propose, body);
        match timeout_at(deadline, call).await {
            Ok(Ok(answer)) => serde_json::from_slice(&answer).unwrap_or(Answer::Unknown),
            Ok(Err(error)) if !error.sent => Answer::NotLeader,
            Ok(Err(_)) | Err(_) => Answer::Unknown,
        }
    }

    /// Whether the disk has room for more than what is committed already.
    fn has_room(&self) -> bool {
        let Inner { options, dir, .. } = &*self.inner;
        // Answered from the kernel's memory, so it may be asked right here. A disk that does not
        // tell is taken at its word when it is written.
        !matches!(options.disk.space(dir), Ok((free, _)) if free < options.reserve)
    }

    pub(super) async fn handle_propose(&self, body: &Bytes) -> Result<Bytes, HandleError> {
        let proposal: Proposal = raft::decode(RaftRpc::Propose, body)?;
        if MAX_PROPOSAL < body.len() {
            return Err(HandleError::Malformed {
                rpc: RaftRpc::Propose,
                why: "it is too large".into(),
            });
        }
        let deadline = Instant::now() + self.inner.options.deadline;
        let answer = self.write(proposal, deadline).await;
        let answer = answer.map_err(|error| HandleError::Stopped(error.to_string()))?;
        raft::encode(&answer)
    }

    /// Waits until this node's view shows everything that any node had acknowledged before the
    /// call (M5).
    ///
    /// # Errors
    /// See [`BarrierError`].
    pub async fn read_barrier(&self) -> Result<(), BarrierError> {
        let deadline = Instant::now() + self.inner.options.deadline;
        let mut leader = self.leader();
        loop {
            let known = *leader.borrow_and_update();
            let index = match known {
                None => None,
                Some(node) if node == self.inner.node => timeout_at(deadline, self.read_index())
                    .await
                    .unwrap_or(Ok(None))?,
                Some(node) => {
                    let transport = &self.inner.options.transport;
                    let call = transport.call(node, RaftRpc::ReadIndex, Bytes::new());
                    match timeout_at(deadline, call).await {
                        Ok(Ok(answer)) => serde_json::from_slice(&answer).unwrap_or(None),
                        Ok(Err(_)) | Err(_) => None,
                    }
                }
            };
            if let Some(index) = index {
                let left = deadline.saturating_duration_since(Instant::now());
                let wait = self.inner.raft.wait(Some(left));
                let applied = wait
                    .applied_index_at_least(Some(index), "read barrier")
                    .await;
                return applied.map(drop).map_err(|error| match error {
                    openraft::metrics::WaitError::Timeout(..) => BarrierError::NoLeader,
                    openraft::metrics::WaitError::ShuttingDown => Closed.into(),
                });
            }
            if deadline <= Instant::now() {
                return Err(BarrierError::NoLeader);
            }
            let pause = deadline.min(Instant::now() + PAUSE);
            if let Ok(Err(_)) = timeout_at(pause, leader.changed()).await {
                return Err(Closed.into());
            }
        }
    }

    /// Index of an entry by which everything acknowledged so far was applied; none if this node
    /// cannot be sure that it leads.
    async fn read_index(&self) -> Result<Option<u64>, Closed> {
        match self.inner.raft.get_read_log_id(ReadPolicy::ReadIndex).await {
            Ok((read, _)) => Ok(Some(read.index())),
            Err(RaftError::APIError(
                LinearizableReadError::ForwardToLeader(_)
                | LinearizableReadError::QuorumNotEnough(_),
            )) => Ok(None),
            Err(RaftError::Fatal(_)) => Err(Closed),
        }
    }

    pub(super) async fn handle_read_index(&self) -> Result<Bytes, HandleError> {
        let index = self.read_index().await;
        raft::encode(&index.map_err(|error| HandleError::Stopped(error.to_string()))?)
    }
}

/// The store ended while the command was on its way.
fn stopped() -> ApplyError {
    ApplyError::Unknown("the metadata store stopped".into())
}
