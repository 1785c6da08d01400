//! Raft between nodes: what openraft asks of the network, over a transport that somebody else
//! implements, and the answering side.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::{BoxFuture, Either, select};
use openraft::alias::SnapshotOf;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError};
use openraft::errors::{Timeout, Unreachable as OpenraftUnreachable};
use openraft::impls::BasicNode;
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2, Snapshot};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::machine::Machine;
use super::snapshot::Meta;
use super::{Types, Vote};
use crate::types::NodeId;

/// What a node asks of another's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RaftRpc {
    /// Take these entries, or know that I lead.
    AppendEntries,
    /// Vote for me.
    Vote,
    /// Would you vote for me?
    PreVote,
    /// Put this state in place of yours.
    Snapshot,
    /// Stand for election at once.
    TransferLeader,
    /// Put this command into the log.
    Propose,
    /// How far must I have come to see everything that was acknowledged by now?
    ReadIndex,
}

impl RaftRpc {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::AppendEntries,
        Self::Vote,
        Self::PreVote,
        Self::Snapshot,
        Self::TransferLeader,
        Self::Propose,
        Self::ReadIndex,
    ];

    /// The name, as it may stand in a path.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AppendEntries => "append_entries",
            Self::Vote => "vote",
            Self::PreVote => "pre_vote",
            Self::Snapshot => "snapshot",
            Self::TransferLeader => "transfer_leader",
            Self::Propose => "propose",
            Self::ReadIndex => "read_index",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rpc| rpc.as_str() == name)
    }
}

/// There is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no answer from the node: {why}")]
pub struct Unreachable {
    /// Whether the request may have arrived. If not, nothing has happened.
    pub sent: bool,
    /// What went wrong.
    pub why: String,
}

/// Carries requests to the metadata of other nodes.
pub trait RaftTransport: Send + Sync + 'static {
    /// Sends a request and waits for the answer. Whoever waits may give up: dropping the future
    /// must not harm the connection. The other side passes it to
    /// [`Store::handle`](crate::metadata::Store::handle).
    fn call(
        &self,
        to: NodeId,
        rpc: RaftRpc,
        body: Bytes,
    ) -> BoxFuture<'_, Result<Bytes, Unreachable>>;
}

/// The transport of a node that is alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoTransport;

impl RaftTransport for NoTransport {
    fn call(&self, _: NodeId, _: RaftRpc, _: Bytes) -> BoxFuture<'_, Result<Bytes, Unreachable>> {
        let alone = Unreachable {
            sent: false,
            why: "this node is alone".into(),
        };
        Box::pin(std::future::ready(Err(alone)))
    }
}

/// This node does not answer the request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    /// The body is not what the request has.
    #[error("the body is not that of a {} request: {why}", rpc.as_str())]
    Malformed {
        /// The request.
        rpc: RaftRpc,
        /// What is wrong.
        why: String,
    },
    /// The node is stopping, or has failed.
    #[error("the metadata store is closed: {0}")]
    Stopped(String),
}

pub(in crate::metadata) fn encode<T: Serialize>(value: &T) -> Result<Bytes, HandleError> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| HandleError::Stopped(error.to_string()))
}

pub(in crate::metadata) fn decode<T: DeserializeOwned>(
    rpc: RaftRpc,
    body: &[u8],
) -> Result<T, HandleError> {
    serde_json::from_slice(body).map_err(|error| HandleError::Malformed {
        rpc,
        why: error.to_string(),
    })
}

/// A snapshot with the vote under which it is sent: the length of the JSON before it, the JSON,
/// the snapshot's own bytes.
fn encode_snapshot(vote: &Vote, snapshot: &SnapshotOf<Types, Bytes>) -> Result<Bytes, HandleError> {
    let head = encode(&(vote, &snapshot.meta))?;
    let mut body = BytesMut::with_capacity(4 + head.len() + snapshot.snapshot.len());
    let length = u32::try_from(head.len()).unwrap_or(u32::MAX);
    body.put_u32_le(length);
    body.put(head);
    body.put(&snapshot.snapshot[..]);
    Ok(body.freeze())
}

fn decode_snapshot(body: &Bytes) -> Result<(Vote, SnapshotOf<Types, Bytes>), HandleError> {
    let short = || HandleError::Malformed {
        rpc: RaftRpc::Snapshot,
        why: "it is cut off".into(),
    };
    let (length, rest) = body.split_first_chunk::<4>().ok_or_else(short)?;
    let length = u32::from_le_bytes(*length) as usize;
    let head = rest.get(..length).ok_or_else(short)?;
    let (vote, meta): (Vote, Meta) = decode(RaftRpc::Snapshot, head)?;
    let snapshot = body.slice(4 + length..);
    Ok((vote, Snapshot { meta, snapshot }))
}

/// Answers a request of another node's openraft.
pub(in crate::metadata) async fn handle(
    raft: &openraft::Raft<Types, Machine>,
    rpc: RaftRpc,
    body: &Bytes,
) -> Result<Bytes, HandleError> {
    let stopped = |error: &dyn std::error::Error| HandleError::Stopped(error.to_string());
    match rpc {
        RaftRpc::AppendEntries => {
            let answer = raft.append_entries(decode(rpc, body)?).await;
            encode(&answer.map_err(|error| stopped(&error))?)
        }
        RaftRpc::Vote => {
            let answer = raft.vote(decode(rpc, body)?).await;
            encode(&answer.map_err(|error| stopped(&error))?)
        }
        RaftRpc::PreVote => {
            let answer = raft.pre_vote(decode(rpc, body)?).await;
            encode(&answer.map_err(|error| stopped(&error))?)
        }
        RaftRpc::Snapshot => {
            let (vote, snapshot) = decode_snapshot(body)?;
            let answer = raft.install_full_snapshot(vote, snapshot).await;
            encode(&answer.map_err(|error| stopped(&error))?)
        }
        RaftRpc::TransferLeader => {
            let answer = raft.handle_transfer_leader(decode(rpc, body)?).await;
            encode(&answer.map_err(|error| stopped(&error))?)
        }
        RaftRpc::Propose | RaftRpc::ReadIndex => Err(HandleError::Malformed {
            rpc,
            why: "it is not one of Raft's own".into(),
        }),
    }
}

/// Makes connections for openraft.
pub(in crate::metadata) struct Network {
    pub(in crate::metadata) own: u64,
    pub(in crate::metadata) transport: Arc<dyn RaftTransport>,
}

/// openraft's way to one other node.
pub(in crate::metadata) struct Peer {
    own: u64,
    target: u64,
    transport: Arc<dyn RaftTransport>,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _: &BasicNode) -> Peer {
        Peer {
            own: self.own,
            target,
            transport: self.transport.clone(),
        }
    }
}

impl Peer {
    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        rpc: RaftRpc,
        action: RPCTypes,
        request: &Q,
        option: &RPCOption,
    ) -> Result<A, RPCError<Types>> {
        let body = encode(request).map_err(|error| unreachable(&error))?;
        let answer = self.send(rpc, body, option.hard_ttl()).await;
        let answer = answer.ok_or_else(|| self.timeout(action, option))?;
        let answer = answer.map_err(|error| unreachable(&error))?;
        Ok(decode(rpc, &answer).map_err(|error| unreachable(&error))?)
    }

    /// None when time is up.
    async fn send(
        &self,
        rpc: RaftRpc,
        body: Bytes,
        limit: Duration,
    ) -> Option<Result<Bytes, Unreachable>> {
        let to = u32::try_from(self.target).map(NodeId);
        let Ok(to) = to else {
            let why = "no node has that id".into();
            return Some(Err(Unreachable { sent: false, why }));
        };
        let call = self.transport.call(to, rpc, body);
        tokio::time::timeout(limit, call).await.ok()
    }

    fn timeout(&self, action: RPCTypes, option: &RPCOption) -> Timeout<Types> {
        Timeout {
            action,
            id: self.own,
            target: self.target,
            timeout: option.hard_ttl(),
        }
    }
}

fn unreachable(error: &(impl std::error::Error + 'static)) -> OpenraftUnreachable<Types> {
    OpenraftUnreachable::new(error)
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        self.call(
            RaftRpc::AppendEntries,
            RPCTypes::AppendEntries,
            &request,
            &option,
        )
        .await
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.call(RaftRpc::Vote, RPCTypes::Vote, &request, &option)
            .await
    }

    // The default would grant what nobody was asked for.
    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.call(RaftRpc::PreVote, RPCTypes::Vote, &request, &option)
            .await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<Types, Bytes>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let body = encode_snapshot(&vote, &snapshot).map_err(|error| unreachable(&error))?;
        let send = std::pin::pin!(self.send(RaftRpc::Snapshot, body, option.hard_ttl()));
        let answer = match select(send, std::pin::pin!(cancel)).await {
            Either::Left((answer, _)) => answer,
            Either::Right((closed, _)) => return Err(closed.into()),
        };
        let answer = answer.ok_or_else(|| self.timeout(RPCTypes::InstallSnapshot, &option))?;
        let answer = answer.map_err(|error| unreachable(&error))?;
        Ok(decode(RaftRpc::Snapshot, &answer).map_err(|error| unreachable(&error))?)
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        self.call(
            RaftRpc::TransferLeader,
            RPCTypes::TransferLeader,
            &request,
            &option,
        )
        .await
    }
}
