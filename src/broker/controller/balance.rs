//! Moves replicas and leaderships to where placement wants them, a few at a time.

use std::collections::BTreeMap;

use crate::metadata::{Command, NodeStatus, Successor, View};
use crate::placement::{self, Node, Placed, Role};
use crate::types::{NodeId, Partition, TopicId};

use super::detector::Millis;

/// Partitions whose replicas are moved at once, over the whole cluster: what is copied competes
/// with what producers send.
const MOVES: usize = 8;
/// Leaderships moved at a time.
const TRANSFERS: usize = 32;
/// How often placement is looked at.
const LOOK: Millis = 1_000;
/// How long a returning node follows before it gets leaderships back.
const SETTLE: Millis = 3_000;

/// When placement was looked at, and when the set of nodes last changed.
#[derive(Debug, Default)]
pub(super) struct Balance {
    looked: Option<Millis>,
    live: Vec<(crate::types::NodeId, NodeStatus)>,
    changed: Millis,
}

impl Balance {
    /// What should be done next; nothing if it was looked a moment ago.
    pub(super) fn plan(&mut self, view: &View, now: Millis) -> Vec<Command> {
        let due = |looked: Millis| LOOK <= now.saturating_sub(looked);
        if !self.looked.is_none_or(due) {
            return Vec::new();
        }
        self.looked = Some(now);
        let live: Vec<_> = view.nodes().map(|node| (node.id, node.status)).collect();
        if self.live != live {
            self.live = live;
            self.changed = now;
        }
        let nodes: Vec<Node> = view
            .nodes()
            .map(|node| Node {
                id: node.id,
                rack: node.rack.clone(),
                role: match node.status {
                    NodeStatus::Active if node.draining => Role::Leaving,
                    NodeStatus::Active => Role::Open,
                    NodeStatus::Draining => Role::Leaving,
                    NodeStatus::Registered | NodeStatus::Fenced if node.draining => Role::Leaving,
                    NodeStatus::Registered | NodeStatus::Fenced => Role::Away,
                },
            })
            .collect();
        if nodes.len() < 2 {
            return Vec::new();
        }
        let mut commands = moves(view, &nodes);
        // A node that has just come back first catches up; leadership follows it gradually.
        if commands.is_empty() && SETTLE <= now.saturating_sub(self.changed) {
            commands = transfers(view, &nodes);
        }
        commands
    }
}

type Key = (TopicId, Partition);

fn moves(view: &View, nodes: &[Node]) -> Vec<Command> {
    let mut moving = 0;
    let mut placed: Vec<Placed<'_, Key>> = Vec::new();
    for (topic, partition, record) in view.partitions() {
        let Some(entry) = view.topic_by_id(topic) else {
            continue;
        };
        moving += usize::from(!record.adding.is_empty() || !record.removing.is_empty());
        placed.push(Placed {
            key: (topic, partition),
            record,
            replication_factor: entry.settings.replication_factor,
            min_insync: entry.settings.min_insync_replicas,
        });
    }
    let unstuck = unstick(view, &placed);
    if !unstuck.is_empty() {
        return unstuck;
    }
    let limit = MOVES.saturating_sub(moving);
    let replaced = replacements(view, &placed, limit);
    if !replaced.is_empty() {
        return replaced;
    }
    let moves = placement::rebalance(nodes, &placed, limit);
    let commands = moves.into_iter().filter_map(|planned| {
        let (topic, partition) = planned.key;
        Some(Command::Reassign {
            topic,
            partition,
            replicas: planned.replicas,
            partition_epoch: view.partition(topic, partition)?.partition_epoch,
        })
    });
    commands.collect()
}

/// Moves that cannot end, because a copy that stays is on a node that is gone and is to leave: it
/// goes as well, and one that was to go stays in its place.
fn unstick(view: &View, placed: &[Placed<'_, Key>]) -> Vec<Command> {
    let gone = |id: NodeId| {
        let node = view.node(id);
        node.is_none_or(|node| node.draining && !node.status.is_live())
    };
    let commands = placed.iter().filter_map(|placed| {
        let record = placed.record;
        if record.adding.is_empty() && record.removing.is_empty() {
            return None;
        }
        let nodes = record.replicas.iter().map(|replica| replica.node);
        let (staying, going): (Vec<_>, Vec<_>) =
            nodes.partition(|id| !record.removing.contains(id));
        let mut replicas: Vec<NodeId> = staying.iter().copied().filter(|id| !gone(*id)).collect();
        let lost = staying.len() - replicas.len();
        if lost == 0 {
            return None;
        }
        replicas.extend(going.into_iter().filter(|id| !gone(*id)).take(lost));
        let (topic, partition) = placed.key;
        (!replicas.is_empty()).then_some(Command::Reassign {
            topic,
            partition,
            replicas,
            partition_epoch: record.partition_epoch,
        })
    });
    commands.collect()
}

/// What a node has that is replaced goes to its successor (N8), as far as that is at work and has
/// no copy yet. The rest is left to placement.
fn replacements(view: &View, placed: &[Placed<'_, Key>], limit: usize) -> Vec<Command> {
    let heirs: BTreeMap<NodeId, NodeId> = view
        .nodes()
        .filter_map(|node| match node.successor? {
            Successor::Node(heir) => Some((node.id, heir)),
            Successor::Any => None,
        })
        .filter(|(_, heir)| {
            let heir = view.node(*heir);
            heir.is_some_and(|heir| heir.status == NodeStatus::Active && !heir.draining)
        })
        .collect();
    if heirs.is_empty() {
        return Vec::new();
    }
    let commands = placed.iter().filter_map(|placed| {
        let record = placed.record;
        if !record.adding.is_empty() || !record.removing.is_empty() {
            return None;
        }
        let mut replicas: Vec<NodeId> = record.replicas.iter().map(|r| r.node).collect();
        let (at, heir) = replicas
            .iter()
            .enumerate()
            .find_map(|(at, node)| Some((at, *heirs.get(node)?)))?;
        if replicas.contains(&heir) {
            return None;
        }
        replicas[at] = heir;
        let (topic, partition) = placed.key;
        Some(Command::Reassign {
            topic,
            partition,
            replicas,
            partition_epoch: record.partition_epoch,
        })
    });
    commands.take(limit).collect()
}

fn transfers(view: &View, nodes: &[Node]) -> Vec<Command> {
    let records: Vec<_> = view
        .partitions()
        .map(|(topic, partition, record)| ((topic, partition), &**record))
        .collect();
    let transfers = placement::leaders(nodes, &records, TRANSFERS);
    let commands = transfers.into_iter().filter_map(|transfer| {
        let (topic, partition) = transfer.key;
        Some(Command::MoveLeader {
            topic,
            partition,
            to: transfer.to,
            partition_epoch: view.partition(topic, partition)?.partition_epoch,
        })
    });
    commands.collect()
}
