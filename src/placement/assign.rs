//! Places for new partitions.

use super::leaders::even_out;
use crate::types::NodeId;

/// A node that may get replicas, and what it carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLoad {
    /// The node.
    pub id: NodeId,
    /// Where it stands; a node without a rack stands alone.
    pub rack: Option<String>,
    /// Replicas that it holds.
    pub partitions: u64,
    /// Partitions that it leads.
    pub leaders: u64,
}

/// Places for `count` new partitions of `replication_factor` copies each, clipped to the number
/// of nodes; the first of each is to lead. Copies of a partition are on different nodes, and in
/// different racks as far as there are racks; then the nodes that carry least come first. Empty
/// without nodes.
pub fn assign(nodes: &[NodeLoad], replication_factor: u32, count: u32) -> Vec<Vec<NodeId>> {
    if nodes.is_empty() {
        return Vec::new();
    }
    let copies = (replication_factor as usize).clamp(1, nodes.len());
    let mut carried: Vec<u64> = nodes.iter().map(|node| node.partitions).collect();
    let mut led: Vec<u64> = nodes.iter().map(|node| node.leaders).collect();
    let mut places: Vec<Vec<usize>> = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let mut chosen: Vec<usize> = Vec::with_capacity(copies);
        for _ in 0..copies {
            let crowded = |n: usize| {
                let rack = nodes[n].rack.as_ref();
                rack.is_some()
                    && chosen
                        .iter()
                        .any(|&other| nodes[other].rack.as_ref() == rack)
            };
            let next = (0..nodes.len())
                .filter(|n| !chosen.contains(n))
                .min_by_key(|&n| (crowded(n), carried[n], led[n], nodes[n].id));
            if let Some(next) = next {
                carried[next] += 1;
                chosen.push(next);
            }
        }
        chosen.sort_by_key(|&n| (led[n], nodes[n].id));
        if let Some(&leader) = chosen.first() {
            led[leader] += 1;
        }
        places.push(chosen);
    }
    let mut leader: Vec<usize> = places
        .iter()
        .filter_map(|place| place.first().copied())
        .collect();
    even_out(&mut leader, &places, &mut led, usize::MAX);
    let lead = |(mut place, leader): (Vec<usize>, usize)| {
        if let Some(at) = place.iter().position(|&n| n == leader) {
            place.swap(0, at);
        }
        place.into_iter().map(|n| nodes[n].id).collect()
    };
    places.into_iter().zip(leader).map(lead).collect()
}
