//! The controller: registers, fences, elects, answers wishes; and remembers every state, because
//! nodes see old ones.

use super::Mutant;
use super::history::History;
use crate::replication::control::{self, Change};
use crate::replication::{AlterAnswer, AlterPartition, PartitionView, Standing};
use crate::types::*;

/// One state of the metadata.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) records: Vec<PartitionRecord>,
    pub(super) nodes: Vec<Standing>,
    pub(super) min: u32,
    pub(super) durability: Durability,
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

pub(super) fn index(node: NodeId) -> usize {
    node.0 as usize - 1
}

#[derive(Debug)]
pub(super) struct Controller {
    pub(super) now: State,
    /// All states so far; the last equals `now`.
    pub(super) states: Vec<State>,
    /// The state in which each node's process was registered.
    pub(super) registered: Vec<usize>,
    mutant: Option<Mutant>,
    incarnations: u64,
}

impl Controller {
    pub(super) fn new(now: State, mutant: Option<Mutant>) -> Self {
        Self {
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
        self.now.nodes[index(node)].unfenced = false;
        self.each(|record, min, unfenced| control::fence(record, node, min, unfenced));
        self.commit(history);
    }

    /// N6.
    pub(super) fn unfence(&mut self, node: NodeId, history: &mut History) {
        self.now.nodes[index(node)].unfenced = true;
        let from_elr =
            |records: &[PartitionRecord]| records.iter().filter(|r| r.leader.is_some()).count();
        let before = from_elr(&self.now.records);
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
        self.now.nodes[index(node)].unfenced = false;
        self.each(|record, min, unfenced| control::fence(record, node, min, unfenced));
        if lossy {
            self.each(|record, min, unfenced| {
                control::drop_eligibility(record, node, min, unfenced)
            });
        }
        self.incarnations += 1;
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
        let State {
            records,
            nodes,
            min,
            ..
        } = &mut self.now;
        let record = &mut records[partition];
        let before = record.clone();
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
        let _ = control::move_leader(&mut self.now.records[partition], to);
        self.commit(history);
    }

    /// G-1.
    pub(super) fn reassign(&mut self, partition: usize, target: &[NodeId], history: &mut History) {
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
        self.now.min = min;
        self.each(|record, min, _| control::min_changed(record, min));
        self.commit(history);
    }
}
