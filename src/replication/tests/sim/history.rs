//! What happened, known to nobody inside; and whether it may have.

use std::collections::BTreeMap;

use super::Mutant;
use super::controller::{State, index};
use super::node::{Entry, Node, Role};
use crate::replication::{Leader, control};
use crate::types::*;

macro_rules! seen {
    ($($name:ident),* $(,)?) => {
        /// How often each rare path was taken.
        #[derive(Debug, Default, Clone, PartialEq, Eq)]
        pub(super) struct Seen {
            $(pub(super) $name: u64,)*
        }

        impl Seen {
            pub(super) fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// The paths that were never taken.
            pub(super) fn never(&self) -> Vec<&'static str> {
                let all = [$((stringify!($name), self.$name)),*];
                all.iter().filter(|(_, count)| *count == 0).map(|(name, _)| *name).collect()
            }
        }
    };
}

seen!(
    appended,
    acknowledged,
    reigns,
    truncations,
    records_cut,
    power_cuts,
    kills,
    pauses,
    false_alarms,
    elected_from_elr,
    shrunk,
    expanded,
    stale,
    ineligible,
    retried,
    reassigned,
    placed,
    copies_dropped,
    refused_below_min,
    late_answers,
);

#[derive(Debug)]
pub(super) struct History {
    pub(super) seen: Seen,
    /// The first invariant that broke.
    pub(super) broken: Option<String>,
    mutant: Option<Mutant>,
    durability: Durability,
    /// What was below any leader's high watermark, by partition.
    committed: Vec<Vec<Entry>>,
    /// Every record ever written, by partition, offset and epoch.
    written: BTreeMap<(usize, usize, LeaderEpoch), u64>,
    /// The epoch that the controller is in, by partition.
    current: Vec<LeaderEpoch>,
    /// Who led, by partition and epoch.
    reigns: BTreeMap<(usize, LeaderEpoch), (NodeId, Incarnation)>,
    /// Whether the metadata or the committed records changed since the last check.
    pub(super) dirty: bool,
}

impl History {
    pub(super) fn new(partitions: usize, durability: Durability, mutant: Option<Mutant>) -> Self {
        Self {
            seen: Seen::default(),
            broken: None,
            mutant,
            durability,
            committed: vec![Vec::new(); partitions],
            written: BTreeMap::new(),
            current: vec![LeaderEpoch(1); partitions],
            reigns: BTreeMap::new(),
            dirty: true,
        }
    }

    pub(super) fn expect(&mut self, holds: bool, invariant: &str, what: impl FnOnce() -> String) {
        if !holds && self.broken.is_none() {
            self.broken = Some(format!("invariant {invariant}: {}", what()));
        }
    }

    /// A record is in a log (8, 9).
    pub(super) fn wrote(&mut self, partition: usize, log: &[Entry]) {
        let at = log.len() - 1;
        let entry = log[at];
        let value = *self
            .written
            .entry((partition, at, entry.epoch))
            .or_insert(entry.value);
        self.expect(value == entry.value, "8", || {
            format!("offset {at} of {partition} is {value} and {entry:?}")
        });
        let ordered = at == 0 || log[at - 1].epoch <= entry.epoch;
        self.expect(ordered, "9", || {
            format!("epochs go back at {at} of {partition}")
        });
    }

    /// A node begins to lead (1, 11).
    pub(super) fn reign_began(
        &mut self,
        partition: usize,
        node: NodeId,
        incarnation: Incarnation,
        epoch: LeaderEpoch,
        log: &[Entry],
    ) {
        self.seen.reigns += 1;
        let who = (node, incarnation);
        let first = *self.reigns.entry((partition, epoch)).or_insert(who);
        self.expect(first == who, "1", || {
            format!("{first:?} and {who:?} both lead {partition} in {epoch}")
        });
        // Who hears of its election after the next one may lack what that one committed.
        let late = epoch < self.current[partition];
        let complete = late || log.starts_with(&self.committed[partition]);
        let committed = self.committed[partition].len();
        self.expect(complete, "11", || {
            format!("{node} leads {partition} in {epoch} without all {committed} committed records")
        });
    }

    /// A leader's high watermark rose (10, 14, 15, 18).
    pub(super) fn high_watermark(
        &mut self,
        partition: usize,
        leader: &Leader,
        from: usize,
        nodes: &[Node],
        own: &[Entry],
    ) {
        let to = leader.log().high_watermark.0 as usize;
        let epoch = leader.epoch();
        self.dirty = true;
        self.expect(from < to, "14", || {
            format!("the high watermark went from {from} to {to}")
        });
        let view = &leader.view;
        // A mutant lies to the leader about the minimum.
        let min = match self.mutant {
            Some(Mutant::NoMinIsrForHwm) => 2,
            _ => view.min_insync as usize,
        };
        let isr = view.record.isr.len();
        self.expect(min <= isr, "15", || {
            format!("{isr} in sync committed {to} of {partition}")
        });

        let has = |node: &Node| {
            let copy = &node.copies[partition];
            let end = match self.durability {
                Durability::Fsync => copy.log.durable,
                Durability::Replicated => copy.log.entries.len(),
            };
            to <= end && copy.log.entries[from..to] == own[from..to]
        };
        // A copy that was given up may be gone; those that stay have what it had (G-1).
        let is_copy = |node: &&Node| {
            let replica = view.record.replica(node.id);
            replica.is_some_and(|replica| replica.generation == node.copies[partition].generation)
        };
        let lossless = self.durability == Durability::Fsync;
        let counted = || leader.maximal_isr().map(|node| &nodes[index(node)]);
        let lacking: Vec<NodeId> = counted()
            .filter(is_copy)
            .filter(|node| lossless || node.up)
            .filter(|node| !has(node))
            .map(|node| node.id)
            .collect();
        let copies = nodes.iter().filter(|node| has(node)).count();
        self.expect(!lossless || min <= copies, "18", || {
            format!("{to} of {partition} committed on {copies} disks")
        });
        self.expect(!lossless || lacking.is_empty(), "14", || {
            format!("{to} of {partition} committed without {lacking:?} in epoch {epoch}")
        });

        let committed = &mut self.committed[partition];
        let known = committed.len().clamp(from, to);
        let same = committed[from.min(known)..known] == own[from.min(known)..known];
        if committed.len() < to {
            committed.extend_from_slice(&own[known..to]);
        }
        self.expect(same, "10", || {
            format!("epoch {epoch} commits other records of {partition} in {from}..{to}")
        });
    }

    /// A producer was told that its record is safe (17).
    pub(super) fn acknowledged(&mut self, partition: usize, offset: usize, value: u64) {
        self.seen.acknowledged += 1;
        let found = self.committed[partition]
            .get(offset)
            .map(|entry| entry.value);
        self.expect(found == Some(value), "17", || {
            format!("{value} was acknowledged at {offset} of {partition}, where {found:?} is")
        });
    }

    /// A follower cuts its log (16).
    pub(super) fn cuts(&mut self, partition: usize, node: NodeId, log: &[Entry], to: usize) {
        self.seen.truncations += 1;
        self.seen.records_cut += (log.len() - to) as u64;
        let committed = &self.committed[partition];
        let is_committed = |at: &usize| committed.get(*at) == Some(&log[*at]);
        let lost = (to..log.len()).find(is_committed);
        self.expect(lost.is_none(), "16", || {
            format!("{node} cuts {partition} to {to}: {lost:?} is committed")
        });
    }

    /// A partition's record changed, or not (2, 3, 4).
    pub(super) fn record_changed(
        &mut self,
        partition: usize,
        old: &PartitionRecord,
        new: &PartitionRecord,
        min: u32,
    ) {
        self.dirty = true;
        self.current[partition] = new.leader_epoch;
        let grows = old.leader_epoch <= new.leader_epoch
            && (old.partition_epoch < new.partition_epoch || old == new)
            && (old.leader == new.leader || old.leader_epoch < new.leader_epoch);
        self.expect(grows || self.mutant.is_some(), "2", || {
            format!("{old:?} became {new:?}")
        });
        let sound = control::check(new, min);
        let judged = self.mutant != Some(Mutant::ElrNotCleared);
        self.expect(sound.is_ok() || !judged, "3, 4", || {
            format!("{partition}: {sound:?} {new:?}")
        });
    }

    /// What must hold after every event (3, 4, 12, 13).
    pub(super) fn check(&mut self, now: &State, nodes: &[Node]) {
        for (partition, record) in now.records.iter().enumerate() {
            self.check_leader(partition, record, now, nodes);
        }
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        for (partition, record) in now.records.iter().enumerate() {
            let fenced = record.isr.iter().find(|node| !now.unfenced(**node));
            self.expect(fenced.is_none(), "3", || {
                format!("{fenced:?} is fenced and in sync")
            });
            for &node in record.isr.union(&record.elr) {
                self.check_candidate(partition, node, now, nodes);
            }
        }
    }

    fn check_leader(
        &mut self,
        partition: usize,
        record: &PartitionRecord,
        now: &State,
        nodes: &[Node],
    ) {
        let Some(leading) = record.leader.map(|leader| &nodes[index(leader)]) else {
            return;
        };
        let Role::Leader(leader) = &leading.copies[partition].role else {
            return;
        };
        let enough = now.min as usize <= leader.record().isr.len();
        if !leading.up || leader.epoch() != record.leader_epoch || !enough {
            return;
        }
        let mut complete = record.isr.union(&record.elr);
        let outside = complete.find(|node| leader.maximal_isr().all(|member| member != **node));
        self.expect(outside.is_none(), "13", || {
            format!("{outside:?} may be elected, and its leader does not count on it: {record:?}")
        });
    }

    fn check_candidate(&mut self, partition: usize, id: NodeId, now: &State, nodes: &[Node]) {
        let node = &nodes[index(id)];
        let copy = &node.copies[partition];
        let end = match self.durability {
            Durability::Fsync => copy.log.durable,
            // A dead node's page cache is gone; it will say so when it registers (N3).
            Durability::Replicated if !node.up || !node.is_registered(now) => return,
            Durability::Replicated => copy.log.entries.len(),
        };
        let committed = &self.committed[partition];
        let complete = committed.len() <= end && copy.log.entries.starts_with(committed);
        let (has, of) = (end, committed.len());
        self.expect(complete, "12", || {
            format!("{id} may lead {partition} with {has} of {of} committed records")
        });
    }

    /// What must hold once all is healed (42, 44, and what was committed is everywhere).
    pub(super) fn check_healed(&mut self, now: &State, nodes: &[Node]) {
        for (partition, record) in now.records.iter().enumerate() {
            let all = record.replicas.iter().map(|replica| replica.node).collect();
            self.expect(record.leader.is_some(), "42", || {
                format!("nobody leads: {record:?}")
            });
            self.expect(record.isr == all, "44", || {
                format!("not all are in sync: {record:?}")
            });
            let committed = self.committed[partition].clone();
            for id in all {
                let copy = &nodes[index(id)].copies[partition];
                let same = copy.log.entries == committed && copy.hwm() == committed.len();
                self.expect(same, "44", || {
                    let (end, hwm, of) = (copy.log.entries.len(), copy.hwm(), committed.len());
                    format!("{id} has {end} records, {hwm} of {of} committed, of {partition}")
                });
                if let Role::Leader(leader) = &copy.role {
                    self.expect(leader.pending.is_none(), "45", || {
                        format!("{:?}", leader.pending)
                    });
                }
            }
        }
    }
}
