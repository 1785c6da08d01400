//! Who votes on the metadata: one node of a cluster of one or two, three of up to four, five of
//! more. Pure.

use std::collections::BTreeSet;

use crate::metadata::{NodeEntry, NodeStatus, View};
use crate::types::NodeId;

/// One step: a second one waits until this one is agreed on (PROTOCOL M9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// A node that follows shall vote.
    Promote(NodeId),
    /// A node that votes shall only follow.
    Demote(NodeId),
    /// A change that was begun shall be ended.
    Finish,
}

/// The next step towards the right number of voters, none if all is well. `own` leads the
/// metadata and stays a voter.
///
/// A voter that is away keeps its vote until another can have it: how many may fail is decided by
/// how many there are, and taking votes from the absent would let ever fewer decide.
pub(super) fn change(view: &View, voters: &BTreeSet<NodeId>, own: NodeId) -> Option<Change> {
    // A broker inside another node's process dies with it: it would vote for nothing new.
    let stands = |node: &NodeEntry| node.status == NodeStatus::Active && !node.http.is_empty();
    let able: BTreeSet<NodeId> = view
        .nodes()
        .filter(|node| stands(node))
        .map(|node| node.id)
        .collect();
    let belongs = |node: &NodeEntry| !node.draining && !node.http.is_empty();
    let members = view.nodes().filter(|node| belongs(node)).count();
    let known = |id: &NodeId| view.node(*id).is_some();
    if let Some(gone) = voters.iter().find(|id| !known(id) && **id != own) {
        return Some(Change::Demote(*gone));
    }
    let wanted = match members {
        0..=2 => 1,
        3 | 4 => 3,
        _ => 5,
    };
    let waiting = able.difference(voters).next().copied();
    let away = voters.iter().find(|id| !able.contains(id) && **id != own);
    match (waiting, away) {
        (Some(waiting), _) if voters.len() < wanted => Some(Change::Promote(waiting)),
        // First one more, then one less: the number that may fail never falls on the way.
        (Some(waiting), Some(_)) if voters.len() == wanted => Some(Change::Promote(waiting)),
        (_, Some(away)) if wanted < voters.len() => Some(Change::Demote(*away)),
        (_, None) if wanted < voters.len() && wanted < able.len() => {
            let mut others = voters.iter().rev().filter(|id| **id != own);
            others.next().map(|id| Change::Demote(*id))
        }
        _ => None,
    }
}
