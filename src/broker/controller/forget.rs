//! Nodes that are to be forgotten: from the metadata, and from those who agree on it.

use std::collections::BTreeMap;

use super::detector::Millis;
use crate::metadata::{Command, NodeStatus, RaftStatus, Store, View};
use crate::partition;
use crate::types::NodeId;

/// How long a learner may be no node of the cluster: longer than one that joins may take to
/// register.
const STRANGER: Millis = 120_000;

/// One step. Each is safe to repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forget {
    /// It is replaced (PROTOCOL N8), holds nothing and is not at work.
    Node(NodeId),
    /// It was removed, and is still sent the metadata.
    Learner(NodeId),
}

/// Learners that are no nodes, and since when that is known.
#[derive(Debug, Default)]
pub(super) struct Forgetting {
    strangers: BTreeMap<NodeId, Millis>,
}

impl Forgetting {
    /// What can be forgotten now. A voter cannot: it is demoted first.
    pub(super) fn next(&mut self, view: &View, raft: &RaftStatus, now: Millis) -> Option<Forget> {
        let stranger = |id: &&NodeId| view.node(**id).is_none();
        let strangers: Vec<NodeId> = raft.learners.iter().filter(stranger).copied().collect();
        self.strangers.retain(|id, _| strangers.contains(id));
        for id in strangers {
            self.strangers.entry(id).or_insert(now);
        }
        let mut leaving = view.nodes().filter(|node| {
            node.successor.is_some()
                && node.status == NodeStatus::Fenced
                && !raft.voters.contains(&node.id)
        });
        let empty = |id: NodeId| {
            let mut partitions = view.partitions();
            partitions.all(|(_, _, record)| record.replica(id).is_none())
        };
        if let Some(gone) = leaving.find(|node| empty(node.id)) {
            return Some(Forget::Node(gone.id));
        }
        let mut strangers = self.strangers.iter();
        let old = strangers.find(|(_, since)| STRANGER <= now.saturating_sub(**since));
        old.map(|(id, _)| Forget::Learner(*id))
    }
}

impl Forget {
    /// What fails is decided anew at the next look.
    pub(super) async fn carry_out(self, store: &Store) {
        let (Self::Node(id) | Self::Learner(id)) = self;
        if let Self::Node(id) = self {
            match store.apply(Command::RemoveNode { id }).await {
                Ok(_) => tracing::info!(node = %id, "a node that was replaced is forgotten"),
                Err(error) => {
                    tracing::debug!(node = %id, error = partition::chain(&error), "forget");
                    return;
                }
            }
        }
        if let Err(error) = store.remove_learner(id).await {
            tracing::debug!(node = %id, error = partition::chain(&error), "forget");
        }
    }
}
