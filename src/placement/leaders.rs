//! Who should lead.

use std::collections::VecDeque;

use super::rebalance::{Node, Role};
use crate::types::{NodeId, PartitionRecord};

/// Leadership of one partition to be moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer<K> {
    /// The partition.
    pub key: K,
    /// Who shall lead it: an in-sync replica.
    pub to: NodeId,
}

/// At most `limit` transfers after which the open nodes lead as evenly as their in-sync replicas
/// allow, and nodes that leave lead nothing that another could. Partitions without a leader, and
/// those whose replicas are being moved, are left alone. Nothing where all is even.
pub fn leaders<K: Clone>(
    nodes: &[Node],
    partitions: &[(K, &PartitionRecord)],
    limit: usize,
) -> Vec<Transfer<K>> {
    let index = |id: NodeId| nodes.iter().position(|node| node.id == id);
    let open = |n: usize| nodes[n].role == Role::Open;
    let mut load = vec![0; nodes.len()];
    let mut keys = Vec::new();
    let mut before = Vec::new();
    let mut leader = Vec::new();
    let mut places = Vec::new();
    let mut forced = 0;
    for (key, record) in partitions {
        let Some(now) = record.leader else { continue };
        let at = index(now);
        if let Some(at) = at {
            load[at] += 1;
        }
        if !record.adding.is_empty() || !record.removing.is_empty() {
            continue;
        }
        let in_sync = record.replicas.iter().map(|replica| replica.node);
        let place: Vec<usize> = in_sync
            .filter(|id| record.isr.contains(id))
            .filter_map(index)
            .filter(|&n| open(n))
            .collect();
        keys.push((key, now));
        before.push(at);
        places.push(place);
    }
    for (at, place) in before.into_iter().zip(&places) {
        // Who leaves gives to the open replica that leads least; who leads rightly stays at first.
        let least = place.iter().copied().min_by_key(|&n| (load[n], n));
        match (at, least) {
            (Some(at), _) if open(at) => leader.push(at),
            (at, Some(least)) if forced < limit => {
                forced += 1;
                if let Some(at) = at {
                    load[at] -= 1;
                }
                load[least] += 1;
                leader.push(least);
            }
            // Nobody else can, or not in this round: out of reach of the evening below.
            _ => leader.push(usize::MAX),
        }
    }
    even_out(&mut leader, &places, &mut load, limit - forced);
    let moved = keys.into_iter().zip(leader).filter_map(|((key, now), n)| {
        let to = nodes.get(n)?.id;
        (to != now).then(|| Transfer {
            key: key.clone(),
            to,
        })
    });
    moved.collect()
}

/// Evens out who leads, with at most `limit` changes: `leader[p]` is one of `places[p]`, and
/// `load[n]` counts what node `n` leads. Moves leadership along chains (a gives to b, b to c), so
/// that the result is as even as any choice can be: a node leads two more than another only if no
/// chain connects them.
pub(super) fn even_out(
    leader: &mut [usize],
    places: &[Vec<usize>],
    load: &mut [u64],
    limit: usize,
) {
    let mut left = limit;
    let mut leads: Vec<Vec<usize>> = vec![Vec::new(); load.len()];
    for (partition, &n) in leader.iter().enumerate() {
        if let Some(leads) = leads.get_mut(n) {
            leads.push(partition);
        }
    }
    let mut sources: Vec<usize> = (0..load.len()).collect();
    loop {
        sources.sort_by_key(|&n| (std::cmp::Reverse(load[n]), n));
        let chain = sources
            .iter()
            .find_map(|&from| chain(from, &leads, places, load));
        let Some(chain) = chain.filter(|chain| chain.len() <= left) else {
            return;
        };
        left -= chain.len();
        for (partition, from, to) in chain {
            leads[from].retain(|&other| other != partition);
            leads[to].push(partition);
            leader[partition] = to;
            load[from] -= 1;
            load[to] += 1;
        }
    }
}

/// The shortest chain of changes (partition, from, to) from a node to the least loaded one that
/// it can reach, if that one leads at least two less.
fn chain(
    from: usize,
    leads: &[Vec<usize>],
    places: &[Vec<usize>],
    load: &[u64],
) -> Option<Vec<(usize, usize, usize)>> {
    let mut reached: Vec<Option<(usize, usize)>> = vec![None; load.len()];
    let mut queue = VecDeque::from([from]);
    let mut least = from;
    while let Some(n) = queue.pop_front() {
        for &partition in &leads[n] {
            for &to in &places[partition] {
                if to == from || reached[to].is_some() {
                    continue;
                }
                reached[to] = Some((partition, n));
                queue.push_back(to);
                if load[to] < load[least] {
                    least = to;
                }
            }
        }
    }
    if load[from] < load[least] + 2 {
        return None;
    }
    let mut chain = Vec::new();
    let mut to = least;
    while let Some((partition, n)) = reached[to].filter(|_| to != from) {
        chain.push((partition, n, to));
        to = n;
    }
    Some(chain)
}
