//! Which replicas should move.

use std::collections::BTreeMap;

use crate::types::{NodeId, PartitionRecord};

/// What a plan may do with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It may get and give replicas, and lead.
    Open,
    /// It is fenced: it keeps what it has, because it may come back, and gets nothing.
    Away,
    /// It gives everything away.
    Leaving,
}

/// A node, as plans see it. A replica on a node that is not listed is treated as on one that
/// leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The node.
    pub id: NodeId,
    /// Where it stands; a node without a rack stands alone.
    pub rack: Option<String>,
    /// What may be done with it.
    pub role: Role,
}

/// A partition, where it is, and what its topic wants.
#[derive(Debug, Clone)]
pub struct Placed<'a, K> {
    /// The partition.
    pub key: K,
    /// Where it is.
    pub record: &'a PartitionRecord,
    /// Copies wanted.
    pub replication_factor: u32,
    /// In-sync replicas without which nothing is acknowledged: a copy is not given up for
    /// nothing if fewer would be left.
    pub min_insync: u32,
}

/// New places for one partition's replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move<K> {
    /// The partition.
    pub key: K,
    /// Where its replicas shall be, in order of preference for leadership.
    pub replicas: Vec<NodeId>,
}

/// At most `limit` moves towards a cluster in which nodes that leave hold nothing, every
/// partition has its copies, no two in one rack where that can be, and the open nodes hold as
/// many replicas as one another, give or take one. What is urgent comes first; what is even stays
/// where it is. Partitions whose replicas are being moved count as if they had arrived, and are
/// left alone.
pub fn rebalance<K: Clone>(
    nodes: &[Node],
    partitions: &[Placed<'_, K>],
    limit: usize,
) -> Vec<Move<K>> {
    let mut plan = Plan::new(nodes, partitions, limit);
    for at in 0..plan.targets.len() {
        plan.repair(at);
    }
    while plan.even_out() {}
    let targets = plan.targets.into_iter().zip(partitions);
    targets
        .filter(|(target, _)| target.changed())
        .map(|(target, placed)| Move {
            key: placed.key.clone(),
            replicas: target.nodes,
        })
        .collect()
}

/// Where one partition's replicas shall be.
struct Target {
    nodes: Vec<NodeId>,
    before: Vec<NodeId>,
    leader: Option<NodeId>,
    wanted: usize,
    min: usize,
    movable: bool,
}

impl Target {
    fn changed(&self) -> bool {
        self.nodes != self.before
    }
}

struct Plan<'a> {
    nodes: BTreeMap<NodeId, &'a Node>,
    /// Replicas by node, over all targets.
    load: BTreeMap<NodeId, u64>,
    /// Numbers of the targets that have a replica there.
    holds: BTreeMap<NodeId, Vec<usize>>,
    targets: Vec<Target>,
    /// How many more targets may be changed.
    left: usize,
}

impl<'a> Plan<'a> {
    fn new<K>(nodes: &'a [Node], partitions: &[Placed<'_, K>], limit: usize) -> Self {
        let mut plan = Self {
            nodes: nodes.iter().map(|node| (node.id, node)).collect(),
            load: nodes.iter().map(|node| (node.id, 0)).collect(),
            holds: BTreeMap::new(),
            targets: Vec::with_capacity(partitions.len()),
            left: limit,
        };
        for placed in partitions {
            let record = placed.record;
            let staying = record.replicas.iter().map(|replica| replica.node);
            let before: Vec<NodeId> = staying.filter(|id| !record.removing.contains(id)).collect();
            for id in &before {
                *plan.load.entry(*id).or_default() += 1;
                plan.holds.entry(*id).or_default().push(plan.targets.len());
            }
            plan.targets.push(Target {
                nodes: before.clone(),
                before,
                leader: record.leader,
                wanted: (placed.replication_factor as usize).max(1),
                min: (placed.min_insync as usize).max(1),
                movable: record.adding.is_empty() && record.removing.is_empty(),
            });
        }
        plan
    }

    fn role(&self, id: NodeId) -> Role {
        self.nodes.get(&id).map_or(Role::Leaving, |node| node.role)
    }

    /// The rack of a node, or the node itself where it stands alone.
    fn rack(&self, id: NodeId) -> (Option<&'a str>, Option<NodeId>) {
        match self.nodes.get(&id).and_then(|node| node.rack.as_deref()) {
            Some(rack) => (Some(rack), None),
            None => (None, Some(id)),
        }
    }

    fn load(&self, id: NodeId) -> u64 {
        self.load.get(&id).copied().unwrap_or(0)
    }

    /// How many of the others share the rack of `id`.
    fn neighbours(&self, id: NodeId, others: &[NodeId]) -> usize {
        let rack = self.rack(id);
        let same = others.iter().filter(|other| **other != id);
        same.filter(|other| self.rack(**other) == rack).count()
    }

    /// The open node that a partition with copies on `others` should get: in a new rack, and with
    /// little to carry.
    fn best(&self, others: &[NodeId]) -> Option<NodeId> {
        let open = self.nodes.values().filter(|node| node.role == Role::Open);
        open.map(|node| node.id)
            .filter(|id| !others.contains(id))
            .min_by_key(|id| (self.neighbours(*id, others), self.load(*id), *id))
    }

    /// Changes one target, if the limit allows it.
    fn change(&mut self, at: usize, from: Option<NodeId>, to: Option<NodeId>) -> bool {
        let target = &mut self.targets[at];
        let fresh = !target.changed();
        if fresh && self.left == 0 {
            return false;
        }
        match (
            from.and_then(|from| target.nodes.iter().position(|id| *id == from)),
            to,
        ) {
            (Some(place), Some(to)) => target.nodes[place] = to,
            (Some(place), None) => drop(target.nodes.remove(place)),
            (None, Some(to)) => target.nodes.push(to),
            (None, None) => {}
        }
        match (fresh, target.changed()) {
            (true, true) => self.left -= 1,
            (false, false) => self.left += 1,
            _ => {}
        }
        if let Some(from) = from {
            *self.load.entry(from).or_default() -= 1;
            self.holds.entry(from).or_default().retain(|n| *n != at);
        }
        if let Some(to) = to {
            *self.load.entry(to).or_default() += 1;
            self.holds.entry(to).or_default().push(at);
        }
        true
    }

    /// Gives a partition what it lacks, one step after another, as far as the limit allows.
    fn repair(&mut self, at: usize) {
        while self.targets[at].movable {
            let Some((from, to)) = self.lack(at) else {
                return;
            };
            if !self.change(at, from, to) {
                return;
            }
        }
    }

    /// The next replica that must go, and the one that must come. Each step brings the target
    /// nearer to its end: fewer leaving replicas, the right number, fewer shared racks.
    fn lack(&self, at: usize) -> Option<(Option<NodeId>, Option<NodeId>)> {
        let target = &self.targets[at];
        let nodes = &target.nodes;
        let leaving = nodes
            .iter()
            .copied()
            .find(|id| self.role(*id) == Role::Leaving);
        if let Some(id) = leaving {
            let others: Vec<NodeId> = nodes.iter().copied().filter(|other| *other != id).collect();
            let to = (nodes.len() <= target.wanted)
                .then(|| self.best(&others))
                .flatten();
            if to.is_some() || target.min < nodes.len() {
                return Some((Some(id), to));
            }
            return None;
        }
        if target.wanted < nodes.len() {
            let worst = nodes.iter().copied().max_by_key(|id| {
                let away = self.role(*id) == Role::Away;
                let leads = target.leader == Some(*id);
                (
                    away,
                    !leads,
                    self.neighbours(*id, nodes),
                    self.load(*id),
                    *id,
                )
            });
            return Some((worst, None));
        }
        let to = self.best(nodes)?;
        if nodes.len() < target.wanted {
            return Some((None, Some(to)));
        }
        let crowded = nodes
            .iter()
            .copied()
            .filter(|id| self.neighbours(*id, nodes) != 0);
        let from = crowded.max_by_key(|id| (target.leader != Some(*id), self.load(*id), *id))?;
        (self.neighbours(to, nodes) == 0).then_some((Some(from), Some(to)))
    }

    /// Moves one replica from a node that holds much to one that holds at least two less. The
    /// sum of the squares of the loads falls with each step, so the steps come to an end.
    fn even_out(&mut self) -> bool {
        let open = self.nodes.values().filter(|node| node.role == Role::Open);
        let mut order: Vec<NodeId> = open.map(|node| node.id).collect();
        order.sort_by_key(|id| (self.load(*id), *id));
        for &from in order.iter().rev() {
            for &to in &order {
                if self.load(from) < self.load(to) + 2 {
                    break;
                }
                if let Some(at) = self.cheapest(from, to) {
                    return self.change(at, Some(from), Some(to));
                }
            }
        }
        false
    }

    /// The target that can best move a replica so: one that is not there yet, or does not lead.
    fn cheapest(&self, from: NodeId, to: NodeId) -> Option<usize> {
        let fits = |at: &usize| {
            let target = &self.targets[*at];
            let spread = |id| self.neighbours(id, &target.nodes);
            let loses_rack = {
                let rack = self.rack(to);
                let shared = |id: &&NodeId| **id != from && self.rack(**id) == rack;
                let after = target.nodes.iter().filter(shared).count();
                spread(from) < after
            };
            // A move ends once all that stay are in sync: with one away it would not.
            let all_there = target.nodes.iter().all(|id| self.role(*id) != Role::Away);
            target.movable
                && all_there
                && (self.left != 0 || target.changed())
                && !target.nodes.contains(&to)
                && !loses_rack
        };
        let held = self.holds.get(&from)?.iter().copied();
        held.filter(fits).min_by_key(|at| {
            let target = &self.targets[*at];
            let copied = target.before.contains(&from);
            (copied, target.leader == Some(from), *at)
        })
    }
}
