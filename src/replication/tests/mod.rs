//! The promises of replication, one by one; then all at once, by simulation.

mod following;
mod leading;
mod records;
pub(crate) mod sim;

use super::*;
use crate::types::*;

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);
const D: NodeId = NodeId(4);

fn replicas(nodes: &[NodeId]) -> Vec<Replica> {
    let replica = |node: &NodeId| Replica {
        node: *node,
        generation: 1,
    };
    nodes.iter().map(replica).collect()
}

/// A record of these replicas, all in sync, led by the first in epoch 1.
fn record(nodes: &[NodeId]) -> PartitionRecord {
    control::create(&replicas(nodes), LeaderEpoch(1), |_| true)
}

fn set(nodes: &[NodeId]) -> std::collections::BTreeSet<NodeId> {
    nodes.iter().copied().collect()
}

/// Node n runs its process 10 * n.
fn incarnation(node: NodeId) -> Incarnation {
    Incarnation(u64::from(node.0) * 10)
}

fn standing(node: NodeId) -> Standing {
    Standing {
        incarnation: incarnation(node),
        unfenced: true,
        may_join: true,
    }
}
