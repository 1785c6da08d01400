//! The controller: registers, fences, elects, answers wishes; and remembers every state, because
//! nodes see old ones.

use super::Mutant;
use super::history::History;
use crate::replication::control::{self, Change};
use crate::replication::{AlterAnswer, AlterPartition, PartitionView, Standing};
use crate::types::*;

/// What the controller wants to happen.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    Fence(NodeId),
    Unfence(NodeId),
    Register {
        node: NodeId,
        process: u64,
        lossy: bool,
    },
    Alter {
        partition: Partition,
        request: AlterPartition,
    },
    MoveLeader {
        partition: Partition,
        to: NodeId,
    },
    /// Takes a move back that is under way.
    Reassign {
        partition: Partition,
        target: Vec<NodeId>,
    },
    /// Whatever placement would do next.
    Rebalance,
    SetMin(u32),
}

/// Who decides: in place of the rules themselves, what has them built in.
pub(crate) trait Constitution: std::fmt::Debug {
    /// Does it, if it is allowed; what is not changes nothing. Answers a wish for another in-sync
    /// set, and whether a move was planned.
    fn act(&mut self, act: &Act) -> Acted;
    /// What holds now.
    fn state(&self) -> State;
}

/// Makes one that begins with a state like this.
pub(crate) type Founding = dyn Fn(&State) -> Box<dyn Constitution>;

/// What came of an act.
#[derive(Debug, Clone, Default)]
pub(crate) struct Acted {
    pub(crate) answer: Option<AlterAnswer>,
    pub(crate) planned: bool,
}

/// One state of the metadata.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) records: Vec<PartitionRecord>,
    pub(crate) nodes: Vec<Standing>,
    pub(crate) min: u32,
    pub(crate) durability: Durability,
}

impl State {
    pub(super) fn unfenced(&self, node: NodeId) -> bool {
        self.nodes[index(node)].unfenced
    }

    pub(super) fn view(&self, partition: usize, mutant: Option<Mutant>) -> PartitionView {
        let record = self.records[partition].clone();
        let nodes = record.replicas.iter().map(|replica| replica.node);
        PartitionView {
            peers: nodes.map(|node| (node, self.nodes[index(node)])).collect(),
            record,
            min_insync: match mutant {
                Some(Mutant::NoMinIsrForHwm) => 1,
                _ => self.min,
            },
            durability: match mutant {
                Some(Mutant::NoFsyncAck) => Durability::Replicated,
                _ => self.durability,
            },
        }
    }
}

pub(crate) fn index(node: NodeId) -> usize {
    node.0 as usize - 1
}

#[derive(Debug)]
pub(super) struct Controller {
    /// None: the rules themselves.
    real: Option<Box<dyn Constitution>>,
    pub(super) now: State,
    /// All states so far; the last equals `now`.
    pub(super) states: Vec<State>,
    /// The state in which each node's process was registered.
    pub(super) registered: Vec<usize>,
    mutant: Option<Mutant>,
    incarnations: u64,
}

impl Controller {
    pub(super) fn new(
        now: State,
        mutant: Option<Mutant>,
        real: Option<Box<dyn Constitution>>,
    ) -> Self {
        let now = real.as_ref().map_or(now, |real| real.state());
        Self {
            real,
            incarnations: now.nodes.len() as u64,
            registered: vec![0; now.nodes.len()],
            states: vec![now.clone()],
            now,
            mutant,
        }
    }

    /// The state's number.
    pub(super) fn version(&self) -> usize {
        self.states.len() - 1
    }

    fn commit(&mut self, history: &mut History) {
        let last = &self.states[self.states.len() - 1];
        for (partition, (old, new)) in last.records.iter().zip(&self.now.records).enumerate() {
            history.record_changed(partition, old, new, self.now.min);
        }
        self.states.push(self.now.clone());
    }

    /// Leaves it to what has the rules built in, if that is at work.
    fn act(&mut self, act: &Act, history: &mut History) -> Option<Acted> {
        let real = self.real.as_mut()?;
        let acted = real.act(act);
        self.now = real.state();
        self.commit(history);
        Some(acted)
    }

    fn each(
        &mut self,
        step: impl Fn(&mut PartitionRecord, u32, &dyn Fn(NodeId) -> bool) -> Change,
    ) {
        let State {
            records,
            nodes,
            min,
            ..
        } = &mut self.now;
        let unfenced = |node: NodeId| nodes[index(node)].unfenced;
        for record in records {
            let _ = step(record, *min, &unfenced);
        }
    }

    /// N5.
    pub(super) fn fence(&mut self, node: NodeId, history: &mut History) {
        if self.act(&Act::Fence(node), history).is_some() {
            return;
        }
        self.now.nodes[index(node)].unfenced = false;
        self.each(|record, min, unfenced| control::fence(record, node, min, unfenced));
        self.commit(history);
    }

    /// N6.
    pub(super) fn unfence(&mut self, node: NodeId, history: &mut History) {
        let from_elr =
            |records: &[PartitionRecord]| records.iter().filter(|r| r.leader.is_some()).count();
        let before = from_elr(&self.now.records);
        if self.act(&Act::Unfence(node), history).is_some() {
            history.seen.elected_from_elr += u64::from(before < from_elr(&self.now.records));
            return;
        }
        self.now.nodes[index(node)].unfenced = true;
        self.each(|record, min, unfenced| control::unfence(record, node, min, unfenced));
        history.seen.elected_from_elr += u64::from(before < from_elr(&self.now.records));
        self.commit(history);
    }

    /// N2, N3.
    pub(super) fn register(
        &mut self,
        node: NodeId,
        lossy: bool,
        history: &mut History,
    ) -> Incarnation {
        self.incarnations += 1;
        let register = Act::Register {
            node,
            process: self.incarnations,
            lossy,
        };
        if self.act(&register, history).is_some() {
            self.registered[index(node)] = self.version();
            return self.now.nodes[index(node)].incarnation;
        }
        self.now.nodes[index(node)].unfenced = false;
        self.each(|record, min, unfenced| control::fence(record, node, min, unfenced));
        if lossy {
            self.each(|record, min, unfenced| {
                control::drop_eligibility(record, node, min, unfenced)
            });
        }
        self.now.nodes[index(node)].incarnation = Incarnation(self.incarnations);
        self.commit(history);
        self.registered[index(node)] = self.version();
        Incarnation(self.incarnations)
    }

    /// I3, I4.
    pub(super) fn alter(
        &mut self,
        partition: usize,
        request: &AlterPartition,
        history: &mut History,
    ) -> AlterAnswer {
        let before = self.now.records[partition].clone();
        let alter = Act::Alter {
            partition: Partition(partition as u32),
            request: request.clone(),
        };
        if let Some(acted) = self.act(&alter, history) {
            let Some(answer) = acted.answer else {
                return AlterAnswer::Stale {
                    partition_epoch: before.partition_epoch,
                };
            };
            match &answer {
                AlterAnswer::Ok { isr, .. } => {
                    history.seen.shrunk += u64::from(isr.len() < before.isr.len());
                    history.seen.expanded += u64::from(before.isr.len() < isr.len());
                }
                AlterAnswer::Stale { .. } => history.seen.stale += 1,
                AlterAnswer::Ineligible { .. } => history.seen.ineligible += 1,
            }
            let moving =
                |record: &PartitionRecord| !record.adding.is_empty() || !record.removing.is_empty();
            let arrived = moving(&before) && !moving(&self.now.records[partition]);
            history.seen.reassigned += u64::from(arrived);
            return answer;
        }
        let State {
            records,
            nodes,
            min,
            ..
        } = &mut self.now;
        let record = &mut records[partition];
        let answer = control::alter(record, request, *min, |node| Some(nodes[index(node)]));
        match &answer {
            AlterAnswer::Ok { .. } if self.mutant == Some(Mutant::ElrNotCleared) => {
                record.elr.extend(&before.elr);
                record.elr.retain(|node| !record.isr.contains(node));
            }
            AlterAnswer::Ok { isr, .. } => {
                history.seen.shrunk += u64::from(isr.len() < before.isr.len());
                history.seen.expanded += u64::from(before.isr.len() < isr.len());
            }
            AlterAnswer::Stale { .. } => history.seen.stale += 1,
            AlterAnswer::Ineligible { .. } => {
                history.seen.ineligible += 1;
                if self.mutant == Some(Mutant::RollbackWithRetryInFlight) {
                    record.partition_epoch = before.partition_epoch;
                }
            }
        }
        let unfenced = |node: NodeId| nodes[index(node)].unfenced;
        let moved = control::finish_reassign(record, *min, unfenced);
        history.seen.reassigned += u64::from(moved != Change::None);
        self.commit(history);
        answer
    }

    pub(super) fn move_leader(&mut self, partition: usize, to: NodeId, history: &mut History) {
        let move_leader = Act::MoveLeader {
            partition: Partition(partition as u32),
            to,
        };
        if self.act(&move_leader, history).is_some() {
            return;
        }
        let _ = control::move_leader(&mut self.now.records[partition], to);
        self.commit(history);
    }

    /// What placement would do about the cluster as it is, one move.
    pub(super) fn rebalance(&mut self, history: &mut History) {
        let acted = self.act(&Act::Rebalance, history).unwrap_or_default();
        history.seen.placed += u64::from(acted.planned);
    }

    /// G-1.
    pub(super) fn reassign(&mut self, partition: usize, target: &[NodeId], history: &mut History) {
        let reassign = Act::Reassign {
            partition: Partition(partition as u32),
            target: target.to_vec(),
        };
        if self.act(&reassign, history).is_some() {
            return;
        }
        let generation = self.states.len() as u64 + 1;
        let State {
            records,
            nodes,
            min,
            ..
        } = &mut self.now;
        let record = &mut records[partition];
        let unfenced = |node: NodeId| nodes[index(node)].unfenced;
        if record.adding.is_empty() && record.removing.is_empty() {
            let _ = control::begin_reassign(record, target, generation);
            let _ = control::finish_reassign(record, *min, unfenced);
        } else {
            let _ = control::cancel_reassign(record, *min, unfenced);
        }
        self.commit(history);
    }

    /// I6: raised only where all partitions have as many in sync.
    pub(super) fn set_min(&mut self, min: u32, history: &mut History) {
        let enough = |record: &PartitionRecord| min as usize <= record.isr.len();
        if self.now.min < min && !self.now.records.iter().all(enough) {
            return;
        }
        if self.act(&Act::SetMin(min), history).is_some() {
            return;
        }
        self.now.min = min;
        self.each(|record, min, _| control::min_changed(record, min));
        self.commit(history);
    }
}
