//! What the controller does to a partition's record (PROTOCOL 2.2, 2.8, 2.9, 2.18).
//!
//! Every function is a deterministic step inside one metadata command. Each that changes a record
//! raises its partition epoch; each that changes the leader raises the leader epoch too (E2). `min`
//! is the topic's `min_insync_replicas`; `unfenced` tells which nodes are registered and not
//! fenced, *after* what the command did to nodes.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::types::{Incarnation, LeaderEpoch, NodeId, PartitionEpoch, PartitionRecord, Replica};

/// What a step did to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[must_use = "a changed record has to be stored and told"]
pub enum Change {
    /// Nothing.
    None,
    /// It has another partition epoch.
    Record,
    /// It has another leader epoch, too.
    Leader,
}

/// What the controller knows of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The node's latest registration.
    pub incarnation: Incarnation,
    /// Whether that process is registered and not fenced.
    pub unfenced: bool,
    /// Whether its replicas may join in-sync sets: not while the node is draining (I1).
    pub may_join: bool,
}

/// A leader's wish for another in-sync set (I2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlterPartition {
    /// Who asks.
    pub leader: NodeId,
    /// Its process.
    pub leader_incarnation: Incarnation,
    /// The reign in which it asks.
    pub leader_epoch: LeaderEpoch,
    /// The record that it wants to change.
    pub partition_epoch: PartitionEpoch,
    /// Tells a leader's attempts apart; never repeats on a node for a partition.
    pub attempt: u64,
    /// The wanted members, each with the process that the leader knows to be in sync.
    pub new_isr: Vec<(NodeId, Incarnation)>,
}

/// The controller's answer to an [`AlterPartition`] (I4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlterAnswer {
    /// Done.
    Ok {
        /// The new record's number.
        partition_epoch: PartitionEpoch,
        /// The new in-sync set.
        isr: BTreeSet<NodeId>,
    },
    /// The leader, its process or the record is not the current one; nothing was changed.
    Stale {
        /// The current record's number.
        partition_epoch: PartitionEpoch,
    },
    /// A member may not join. The record got another number, so that no other attempt to change
    /// the same record can succeed later.
    Ineligible {
        /// The new record's number.
        partition_epoch: PartitionEpoch,
    },
}

/// Why replicas cannot be moved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReassignRefused {
    /// The wanted replicas are none, or name a node twice.
    #[error("the wanted replicas are none, or name a node twice")]
    InvalidTarget,
    /// Fewer replicas are wanted than must be in sync.
    #[error("fewer replicas are wanted than the {min} that must be in sync")]
    BelowMinInsync {
        /// The topic's `min_insync_replicas`.
        min: u32,
    },
    /// There is nothing to take back.
    #[error("no replicas are being moved")]
    NotReassigning,
    /// Without the replicas that came, too few in-sync copies would be left.
    #[error("too few of the former replicas are in sync to go back to them")]
    TooFewInSync,
}

/// Most epochs with a possible loss that a record remembers, the newest.
pub const UNCLEAN_EPOCHS: usize = 64;

/// The record of a new partition (or of one found on disk, whose epochs end below `epoch`). In
/// sync are the unfenced replicas; the first of them leads. If none is, all are eligible: an
/// empty log lacks nothing.
pub fn create(
    replicas: &[Replica],
    epoch: LeaderEpoch,
    unfenced: impl Fn(NodeId) -> bool,
) -> PartitionRecord {
    let nodes = || replicas.iter().map(|replica| replica.node);
    let isr: BTreeSet<NodeId> = nodes().filter(|node| unfenced(*node)).collect();
    let elr = match isr.is_empty() {
        true => nodes().collect(),
        false => BTreeSet::new(),
    };
    PartitionRecord {
        replicas: replicas.to_vec(),
        leader: nodes().find(|node| isr.contains(node)),
        leader_epoch: epoch,
        partition_epoch: PartitionEpoch(1),
        isr,
        elr,
        ..PartitionRecord::default()
    }
}

/// A node was fenced (N5): it leaves the in-sync set, and stays eligible while too few are left
/// to commit anything without it (I5).
pub fn fence(
    record: &mut PartitionRecord,
    node: NodeId,
    min: u32,
    unfenced: impl Fn(NodeId) -> bool,
) -> Change {
    let left = record.isr.remove(&node);
    let led = record.leader == Some(node);
    if !left && !led {
        return Change::None;
    }
    if led {
        let next = candidate(record, |other| other != node && unfenced(other), None);
        enthrone(record, next);
    }
    if left && !is_enough(record, min) {
        record.elr.insert(node);
    }
    settle(record, min);
    bump(record);
    match led {
        true => Change::Leader,
        false => Change::Record,
    }
}

/// A node is no longer fenced (N6): it leads what waits for it.
pub fn unfence(
    record: &mut PartitionRecord,
    node: NodeId,
    min: u32,
    unfenced: impl Fn(NodeId) -> bool,
) -> Change {
    let complete = record.isr.contains(&node) || record.elr.contains(&node);
    if record.leader.is_some() || !complete {
        return Change::None;
    }
    elect(record, min, unfenced, None)
}

/// A node may have lost records of this partition (N3): it is no longer eligible.
pub fn drop_eligibility(
    record: &mut PartitionRecord,
    node: NodeId,
    min: u32,
    unfenced: impl Fn(NodeId) -> bool,
) -> Change {
    let fenced = fence(record, node, min, unfenced);
    if !record.elr.remove(&node) {
        return fenced;
    }
    record.last_known_elr.insert(node);
    if fenced == Change::None {
        bump(record);
    }
    fenced.max(Change::Record)
}

/// Who would be elected now (E1): an in-sync replica; if there is none, an eligible one; `prefer`
/// if it can, else the first in order of preference.
pub fn candidate(
    record: &PartitionRecord,
    unfenced: impl Fn(NodeId) -> bool,
    prefer: Option<NodeId>,
) -> Option<NodeId> {
    // I5: the controller brings an eligible replica into an empty in-sync set only.
    let complete = match record.isr.is_empty() {
        true => &record.elr,
        false => &record.isr,
    };
    let order = record.replicas.iter().map(|replica| replica.node);
    let mut able = prefer
        .into_iter()
        .chain(order)
        .filter(|node| complete.contains(node) && unfenced(*node));
    able.next()
}

/// Elects a leader (E1, E2), or none if no complete replica is there. Changes nothing if the
/// outcome is what is.
pub fn elect(
    record: &mut PartitionRecord,
    min: u32,
    unfenced: impl Fn(NodeId) -> bool,
    prefer: Option<NodeId>,
) -> Change {
    let next = candidate(record, unfenced, prefer);
    if next == record.leader {
        return Change::None;
    }
    enthrone(record, next);
    settle(record, min);
    bump(record);
    Change::Leader
}

/// Makes a replica the leader that may lack committed records (E3), at an operator's word, for a
/// partition that nobody leads. What only others have is lost. Changes nothing if the partition
/// has a leader or `node` no copy.
pub fn elect_unclean(record: &mut PartitionRecord, node: NodeId) -> Change {
    if record.leader.is_some() || record.replica(node).is_none() {
        return Change::None;
    }
    record.isr = BTreeSet::from([node]);
    // They are complete no more: from now on this node's log is the partition.
    record.elr.clear();
    record.last_known_elr.clear();
    enthrone(record, Some(node));
    if record.unclean_epochs.len() == UNCLEAN_EPOCHS {
        record.unclean_epochs.remove(0);
    }
    record.unclean_epochs.push(record.leader_epoch);
    bump(record);
    Change::Leader
}

/// Gives the lead to another in-sync replica (E2). Changes nothing if `to` is not in sync, or
/// leads already.
pub fn move_leader(record: &mut PartitionRecord, to: NodeId) -> Change {
    if record.leader == Some(to) || !record.isr.contains(&to) {
        return Change::None;
    }
    enthrone(record, Some(to));
    bump(record);
    Change::Leader
}

/// A leader asks for another in-sync set (I3, I4).
pub fn alter(
    record: &mut PartitionRecord,
    request: &AlterPartition,
    min: u32,
    standing: impl Fn(NodeId) -> Option<Standing>,
) -> AlterAnswer {
    let current = record.leader == Some(request.leader)
        && record.leader_epoch == request.leader_epoch
        && record.partition_epoch == request.partition_epoch
        && standing(request.leader)
            .is_some_and(|node| node.unfenced && node.incarnation == request.leader_incarnation);
    if !current {
        return AlterAnswer::Stale {
            partition_epoch: record.partition_epoch,
        };
    }
    let isr: BTreeSet<NodeId> = request.new_isr.iter().map(|(node, _)| *node).collect();
    let may_stay_or_join = |&(node, incarnation): &(NodeId, Incarnation)| {
        record.isr.contains(&node)
            || record.replica(node).is_some()
                && standing(node).is_some_and(|known| {
                    known.unfenced && known.may_join && known.incarnation == incarnation
                })
    };
    if !isr.contains(&request.leader) || !request.new_isr.iter().all(may_stay_or_join) {
        bump(record);
        return AlterAnswer::Ineligible {
            partition_epoch: record.partition_epoch,
        };
    }
    let removed = record.isr.difference(&isr).copied();
    record.elr.extend(removed);
    record.elr.retain(|node| !isr.contains(node));
    record.last_known_elr.retain(|node| !isr.contains(node));
    record.isr = isr;
    settle(record, min);
    bump(record);
    AlterAnswer::Ok {
        partition_epoch: record.partition_epoch,
        isr: record.isr.clone(),
    }
}

/// The topic's `min_insync_replicas` became `min` (I6). To raise it, first make sure that every
/// partition has that many in sync: what was committed with fewer is on no more. The new number
/// tells the leader: until it knows of `min`, its wishes are stale.
pub fn min_changed(record: &mut PartitionRecord, min: u32) -> Change {
    settle(record, min);
    bump(record);
    Change::Record
}

/// Begins to move the partition to the nodes of `target`, in that order of preference (G-1).
/// Copies that are added get `generation`. Replaces a move that is under way.
///
/// # Errors
/// `target` is empty or names a node twice.
pub fn begin_reassign(
    record: &mut PartitionRecord,
    target: &[NodeId],
    generation: u64,
) -> Result<Change, ReassignRefused> {
    let wanted: BTreeSet<NodeId> = target.iter().copied().collect();
    if target.is_empty() || wanted.len() != target.len() {
        return Err(ReassignRefused::InvalidTarget);
    }
    let mut replicas: Vec<Replica> = Vec::with_capacity(target.len() + record.replicas.len());
    let mut adding = BTreeSet::new();
    for &node in target {
        let present = record.replica(node);
        if present.is_none() || record.adding.contains(&node) {
            adding.insert(node);
        }
        replicas.push(present.unwrap_or(Replica { node, generation }));
    }
    let going = record.replicas.iter().filter(|r| !wanted.contains(&r.node));
    let removing: BTreeSet<NodeId> = going.clone().map(|replica| replica.node).collect();
    replicas.extend(going);
    if replicas == record.replicas && adding == record.adding && removing == record.removing {
        return Ok(Change::None);
    }
    record.replicas = replicas;
    record.adding = adding;
    record.removing = removing;
    bump(record);
    Ok(Change::Record)
}

/// Ends a move whose wanted replicas are all in sync: the others go (G-1). Call it after every
/// step that can enlarge an in-sync set.
pub fn finish_reassign(
    record: &mut PartitionRecord,
    min: u32,
    unfenced: impl Fn(NodeId) -> bool,
) -> Change {
    let moving = !record.adding.is_empty() || !record.removing.is_empty();
    let stays = |replica: &Replica| !record.removing.contains(&replica.node);
    let mut staying = record.replicas.iter().filter(|replica| stays(replica));
    if !moving || !staying.all(|replica| record.isr.contains(&replica.node)) {
        return Change::None;
    }
    let going = std::mem::take(&mut record.removing);
    record.adding.clear();
    if going.is_empty() {
        bump(record);
        return Change::Record;
    }
    let prefer = record.leader;
    forget(record, &going);
    // Also where the leader stays: what it knows of the copies that went must not count again.
    let next = candidate(record, unfenced, prefer);
    enthrone(record, next);
    settle(record, min);
    bump(record);
    Change::Leader
}

/// Takes back a move: the replicas that came go again.
///
/// # Errors
/// Nothing is being moved, or too few of the former replicas are in sync.
pub fn cancel_reassign(
    record: &mut PartitionRecord,
    min: u32,
    unfenced: impl Fn(NodeId) -> bool,
) -> Result<Change, ReassignRefused> {
    if record.adding.is_empty() && record.removing.is_empty() {
        return Err(ReassignRefused::NotReassigning);
    }
    let complete = record.isr.union(&record.elr);
    let lost = complete.filter(|node| record.adding.contains(node)).count();
    let left = record.isr.difference(&record.adding).count();
    if 0 < lost && left < min.max(1) as usize {
        return Err(ReassignRefused::TooFewInSync);
    }
    let going = std::mem::take(&mut record.adding);
    record.removing.clear();
    if going.is_empty() {
        bump(record);
        return Ok(Change::Record);
    }
    let prefer = record.leader;
    forget(record, &going);
    let next = candidate(record, unfenced, prefer);
    enthrone(record, next);
    settle(record, min);
    bump(record);
    Ok(Change::Leader)
}

/// Whether a record is well-formed (invariants 3 and 4, as far as one record shows them).
///
/// # Errors
/// What is wrong with it.
pub fn check(record: &PartitionRecord, min: u32) -> Result<(), &'static str> {
    let replicas: BTreeSet<NodeId> = record.replicas.iter().map(|r| r.node).collect();
    let rules = [
        (
            replicas.len() == record.replicas.len(),
            "a node has two copies",
        ),
        (
            record.isr.is_subset(&replicas),
            "isr is not among the replicas",
        ),
        (
            record.elr.is_subset(&replicas),
            "elr is not among the replicas",
        ),
        (
            record.last_known_elr.is_subset(&replicas),
            "last_known_elr is not among the replicas",
        ),
        (
            record.adding.is_subset(&replicas),
            "adding is not among the replicas",
        ),
        (
            record.removing.is_subset(&replicas),
            "removing is not among the replicas",
        ),
        (record.isr.is_disjoint(&record.elr), "isr and elr overlap"),
        (
            record
                .leader
                .is_none_or(|leader| record.isr.contains(&leader)),
            "the leader is not in sync",
        ),
        (
            !is_enough(record, min) || record.elr.is_empty(),
            "elr is not empty, though isr has the minimum",
        ),
    ];
    match rules.iter().find(|(holds, _)| !holds) {
        Some((_, broken)) => Err(broken),
        None => Ok(()),
    }
}

fn is_enough(record: &PartitionRecord, min: u32) -> bool {
    min.max(1) as usize <= record.isr.len()
}

/// With the minimum in sync, records are committed without the others: those are complete no more.
fn settle(record: &mut PartitionRecord, min: u32) {
    if is_enough(record, min) {
        record.elr.clear();
        record.last_known_elr.clear();
    }
}

fn forget(record: &mut PartitionRecord, going: &BTreeSet<NodeId>) {
    record
        .replicas
        .retain(|replica| !going.contains(&replica.node));
    for set in [&mut record.isr, &mut record.elr, &mut record.last_known_elr] {
        set.retain(|node| !going.contains(node));
    }
}

/// Starts a reign.
fn enthrone(record: &mut PartitionRecord, next: Option<NodeId>) {
    let Some(epoch) = record.leader_epoch.0.checked_add(1) else {
        // There is no number for another reign, and two under one number would lose records.
        record.leader = None;
        return;
    };
    record.leader_epoch = LeaderEpoch(epoch);
    record.leader = next;
    if let Some(next) = next {
        record.isr.insert(next);
        record.elr.remove(&next);
    }
}

/// Four thousand million changes of one partition's record are not reached; if they were, nodes
/// would ignore further ones, and nothing would be lost.
fn bump(record: &mut PartitionRecord) {
    record.partition_epoch = PartitionEpoch(record.partition_epoch.0.saturating_add(1));
}
