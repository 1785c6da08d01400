//! Asking another node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::watch;

use super::wire::Ask;
use crate::cluster::{Peer, PeerError, Peers, decode, encode};
use crate::metadata::View;
use crate::types::{NodeId, Outcome};

/// Why another node did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::broker) enum AskError {
    /// It cannot be reached, and was not asked.
    #[error("not reached: {0}")]
    NotSent(String),
    /// It was asked, and no answer came: it may have done what it was asked for.
    #[error("no answer: {0}")]
    Lost(String),
}

/// The other nodes, where the metadata says that they are.
#[derive(Debug, Clone)]
pub(in crate::broker) struct Peering {
    pub(in crate::broker) peers: Peers,
    /// What the metadata says of them. Not the store itself, which has its messages carried by these.
    pub(in crate::broker) view: watch::Receiver<Arc<View>>,
    /// Where nodes were last heard to be; they may have moved since they registered.
    pub(in crate::broker) heard: Arc<ArcSwap<BTreeMap<NodeId, String>>>,
}

/// How long an answer may take: longer than a leader waits for its followers.
const PATIENCE: Duration = Duration::from_secs(30);

impl Peering {
    /// Where the node is, as it said itself; else as the metadata has it.
    pub(in crate::broker) fn address(&self, node: NodeId) -> Option<String> {
        if let Some(address) = self.heard.load().get(&node) {
            return Some(address.clone());
        }
        let view = self.view.borrow();
        let entry = view.node(node).filter(|entry| !entry.peer.is_empty())?;
        Some(entry.peer.clone())
    }

    /// The node, if it is known where it is.
    pub(in crate::broker) fn peer(&self, node: NodeId) -> Option<Peer> {
        let address = self.address(node)?;
        Some(self.peers.peer(node, &address))
    }

    /// Asks, and gives the answer and the bytes behind it.
    pub(in crate::broker) async fn ask<A: Ask>(
        &self,
        node: NodeId,
        ask: &A,
        bytes: Bytes,
    ) -> Result<(A::Answer, Bytes), AskError> {
        let unknown = || AskError::NotSent("its address is not known".into());
        let peer = self.peer(node).ok_or_else(unknown)?;
        ask_at(&peer, ask, bytes, PATIENCE).await
    }
}

/// Asks a node that is known by its address.
pub(in crate::broker) async fn ask_at<A: Ask>(
    peer: &Peer,
    ask: &A,
    bytes: Bytes,
    patience: Duration,
) -> Result<(A::Answer, Bytes), AskError> {
    let frame = encode(ask, &bytes).map_err(|error| AskError::NotSent(error.to_string()))?;
    let answered = peer.call(A::LANE, A::PATH, frame, patience).await;
    let frame = answered.map_err(|error| match error {
        // The plane answers so before anybody looked at the request.
        PeerError::Answered { status: 421, .. } => AskError::NotSent(error.to_string()),
        error if error.outcome() == Outcome::Refused => AskError::NotSent(error.to_string()),
        error => AskError::Lost(error.to_string()),
    })?;
    decode(frame).map_err(|error| AskError::Lost(error.to_string()))
}
