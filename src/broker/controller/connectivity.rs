//! Moves leaderships away from nodes that live and cannot do a leader's work: the other copies do
//! not hear them (PROTOCOL E5), or their disk takes seconds (E6). Pure: what nodes report goes in
//! with its time, moves come out.

use std::collections::{BTreeMap, BTreeSet};

use super::detector::Millis;
use crate::types::{NodeId, PartitionRecord};

/// What a node says of itself with each sign of life.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::broker) struct Report {
    /// Nodes that it shares partitions with and cannot reach.
    pub(in crate::broker) unreachable: BTreeSet<NodeId>,
    /// Its disk has taken more than a second to sync for a while.
    pub(in crate::broker) slow: bool,
}

/// How long something is reported before it counts: one lost message is no cut cable.
const HOLD: Millis = 500;
/// A report that is older counts for nothing.
const FRESH: Millis = 3_000;
/// How long a node gets no leaderships back after it lost some for this.
const SHUN: Millis = 60_000;

#[derive(Debug, Default)]
struct Heard {
    at: Millis,
    unreachable: BTreeMap<NodeId, Millis>,
    slow: Option<Millis>,
}

/// What the controller has heard since it became it.
#[derive(Debug, Default)]
pub(super) struct Connectivity {
    heard: BTreeMap<NodeId, Heard>,
    shunned: BTreeMap<NodeId, Millis>,
}

impl Connectivity {
    /// A node has reported.
    pub(super) fn heard(&mut self, node: NodeId, report: Report, now: Millis) {
        let heard = self.heard.entry(node).or_default();
        heard.at = now;
        heard.slow = report.slow.then(|| heard.slow.unwrap_or(now));
        let known = std::mem::take(&mut heard.unreachable);
        let since = |node: NodeId| (node, known.get(&node).copied().unwrap_or(now));
        heard.unreachable = report.unreachable.into_iter().map(since).collect();
    }

    /// Whether anything was reported that may move a leadership: most of the time nothing is.
    pub(super) fn is_calm(&self) -> bool {
        let mut heard = self.heard.values();
        heard.all(|heard| heard.unreachable.is_empty() && heard.slow.is_none())
    }

    fn says_cut(&self, from: NodeId, to: NodeId, now: Millis) -> bool {
        self.heard.get(&from).is_some_and(|heard| {
            let since = heard.unreachable.get(&to);
            now.saturating_sub(heard.at) <= FRESH
                && since.is_some_and(|since| HOLD <= now.saturating_sub(*since))
        })
    }

    fn is_slow(&self, node: NodeId, now: Millis) -> bool {
        self.heard
            .get(&node)
            .is_some_and(|heard| now.saturating_sub(heard.at) <= FRESH && heard.slow.is_some())
    }

    /// Members of the in-sync set that can speak with `node`, itself left out.
    fn reach(&self, node: NodeId, record: &PartitionRecord, now: Millis) -> usize {
        let others = record.isr.iter().filter(|other| **other != node);
        let cut =
            |other: NodeId| self.says_cut(node, other, now) || self.says_cut(other, node, now);
        others.filter(|other| !cut(**other)).count()
    }

    /// Who should lead the partition instead, if its leader cannot do the work and another in-sync
    /// copy can do it better. `able` tells which nodes may lead.
    pub(super) fn better(
        &mut self,
        record: &PartitionRecord,
        min_insync: u32,
        able: impl Fn(NodeId) -> bool,
        now: Millis,
    ) -> Option<NodeId> {
        let leader = record.leader?;
        let reached = self.reach(leader, record, now);
        let slow = self.is_slow(leader, now);
        let needed = (min_insync.max(1) - 1) as usize;
        let cut = record.isr.len().saturating_sub(1).saturating_sub(reached);
        if !slow && cut < needed.max(1) {
            return None;
        }
        let order = record.replicas.iter().map(|replica| replica.node);
        let best = order
            .filter(|node| *node != leader && record.isr.contains(node))
            .filter(|node| able(*node) && !self.is_slow(*node, now))
            .map(|node| (self.reach(node, record, now), node))
            // The first of equals, in order of preference.
            .reduce(|best, next| if best.0 < next.0 { next } else { best });
        let (reach, node) = best?;
        let better = match slow {
            true => needed.min(reached) <= reach,
            false => reached < reach && needed <= reach,
        };
        if better {
            self.shunned.insert(leader, now);
        }
        better.then_some(node)
    }

    /// Whether a node lost leaderships for this a short while ago.
    pub(super) fn is_shunned(&self, node: NodeId, now: Millis) -> bool {
        let at = self.shunned.get(&node);
        at.is_some_and(|at| now.saturating_sub(*at) < SHUN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::control;
    use crate::types::{LeaderEpoch, Replica};

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);

    fn record() -> PartitionRecord {
        let replicas = [A, B, C].map(|node| Replica {
            node,
            generation: 1,
        });
        control::create(&replicas, LeaderEpoch(1), |_| true)
    }

    /// Everybody reports at 1,000 whom they cannot reach, and again at 1,600.
    fn told(reports: &[(NodeId, &[NodeId], bool)]) -> Connectivity {
        let mut told = Connectivity::default();
        for at in [1_000, 1_600] {
            for (node, unreachable, slow) in reports {
                let report = Report {
                    unreachable: unreachable.iter().copied().collect(),
                    slow: *slow,
                };
                told.heard(*node, report, at);
            }
        }
        told
    }

    fn better(told: &mut Connectivity, min: u32) -> Option<NodeId> {
        told.better(&record(), min, |_| true, 1_700)
    }

    #[test]
    fn a_leader_that_no_other_copy_hears_gives_way_to_one_that_hears_another() {
        let mut told = told(&[(A, &[B, C], false), (B, &[A], false), (C, &[A], false)]);
        assert_eq!(better(&mut told, 2), Some(B));
        assert!(told.is_shunned(A, 61_000));
        assert!(!told.is_shunned(A, 61_701));
    }

    #[test]
    fn word_of_one_side_is_enough_because_a_cut_in_one_direction_stops_both() {
        let mut by_leader = told(&[(A, &[B, C], false), (B, &[], false), (C, &[], false)]);
        assert_eq!(better(&mut by_leader, 2), Some(B));
        let mut by_others = told(&[(A, &[], false), (B, &[A], false), (C, &[A], false)]);
        assert_eq!(better(&mut by_others, 2), Some(B));
    }

    #[test]
    fn of_a_bridge_the_middle_leads() {
        let mut told = told(&[(A, &[C], false), (B, &[], false), (C, &[A], false)]);
        assert_eq!(better(&mut told, 2), Some(B));
    }

    #[test]
    fn a_copy_that_nobody_hears_moves_nothing() {
        let mut told = told(&[(A, &[C], false), (B, &[C], false), (C, &[A, B], false)]);
        assert_eq!(better(&mut told, 2), None);
        assert!(!told.is_shunned(A, 1_700));
    }

    #[test]
    fn one_lost_message_or_an_old_report_moves_nothing() {
        let mut once = Connectivity::default();
        let unreachable = BTreeSet::from([B, C]);
        let report = Report {
            unreachable,
            slow: false,
        };
        once.heard(A, report.clone(), 1_000);
        assert_eq!(once.better(&record(), 2, |_| true, 1_400), None);
        once.heard(A, report.clone(), 1_500);
        once.heard(A, Report::default(), 1_600);
        once.heard(A, report, 1_700);
        assert_eq!(once.better(&record(), 2, |_| true, 1_800), None);
        assert!(!once.is_calm());
        assert_eq!(once.better(&record(), 2, |_| true, 4_800), None, "stale");
    }

    #[test]
    fn a_slow_disk_gives_way_to_a_quick_one_that_may_lead() {
        let mut told = told(&[(A, &[], true), (B, &[], true), (C, &[], false)]);
        assert_eq!(better(&mut told, 2), Some(C));
        let nobody = told.better(&record(), 2, |node| node != C, 1_700);
        assert_eq!(nobody, None, "a slow leader is better than none");
    }
}
