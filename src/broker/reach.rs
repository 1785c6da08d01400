//! Whether this node and its disk can do a leader's work, for the controller to know (PROTOCOL E5,
//! E6).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::lifecycle::Inner;
use super::peer::wire::Greet;
use crate::metadata::View;
use crate::telemetry::Stats;
use crate::types::NodeId;

/// How often the nodes that share partitions with this one are greeted, while they are few.
const EVERY: Duration = Duration::from_millis(500);
/// With more of them, each is greeted less often: the sum of greetings is bounded.
const FEW: usize = 8;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(400);
/// Greetings without an answer after which a node counts as out of reach.
const MISSED: u32 = 2;

/// Greets the neighbours again and again, and shows who does not answer.
pub(super) async fn run(broker: Weak<Inner>) {
    let Some((stop, mut views)) = broker
        .upgrade()
        .map(|inner| (inner.tasks.stopping(), inner.store.view()))
    else {
        return;
    };
    let mut missed: BTreeMap<NodeId, u32> = BTreeMap::new();
    let mut near = BTreeSet::new();
    views.mark_changed();
    loop {
        let pause = EVERY * near.len().div_ceil(FEW).max(1) as u32;
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let Some(inner) = broker.upgrade() else {
            return;
        };
        if views.has_changed().unwrap_or(false) {
            near = neighbours(&views.borrow_and_update(), inner.node);
            missed.retain(|node, _| near.contains(node));
        }
        let mut greetings = JoinSet::new();
        for node in near.iter().copied() {
            let peering = inner.peering.clone();
            greetings.spawn(async move {
                let greeting = peering.ask(node, &Greet {}, Bytes::new());
                let answered = tokio::time::timeout(PATIENCE, greeting).await;
                (node, matches!(answered, Ok(Ok(_))))
            });
        }
        while let Some(Ok((node, answered))) = greetings.join_next().await {
            let missed = missed.entry(node).or_default();
            *missed = if answered {
                0
            } else {
                missed.saturating_add(1)
            };
        }
        let unreachable = missed.iter().filter(|(_, missed)| MISSED <= **missed);
        let unreachable: BTreeSet<NodeId> = unreachable.map(|(node, _)| *node).collect();
        inner.unreachable.send_if_modified(|known| {
            let changed = *known != unreachable;
            *known = unreachable;
            changed
        });
    }
}

/// Live nodes that hold copies of what this one holds.
fn neighbours(view: &View, own: NodeId) -> BTreeSet<NodeId> {
    let mut near = BTreeSet::new();
    for (_, _, record) in view.partitions() {
        if record.replica(own).is_some() {
            near.extend(record.replicas.iter().map(|replica| replica.node));
        }
    }
    near.retain(|node| *node != own && view.node(*node).is_some_and(|node| node.status.is_live()));
    near
}

/// Windows in a row that are bad before a disk counts as slow, and good before it does no more.
const BAD: u32 = 5;
const GOOD: u32 = 10;

/// Tells a disk that has been slow for a while from one that was once (E6). Pure: one look at the
/// counters each second.
#[derive(Debug, Default)]
pub(super) struct Pace {
    begun: u64,
    ended: u64,
    late: u64,
    bad: u32,
    good: u32,
    slow: bool,
}

impl Pace {
    pub(super) fn look(&mut self, stats: &Stats) -> bool {
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        // In this order, so that a sync that begins meanwhile is not taken for one that hangs.
        let (late, ended) = (read(&stats.late_fsyncs), read(&stats.fsyncs));
        self.window(read(&stats.fsyncs_begun), ended, late)
    }

    /// The counters of syncs that have begun, ended, and taken more than a second.
    fn window(&mut self, begun: u64, ended: u64, late: u64) -> bool {
        let hung = self.ended < self.begun && ended == self.ended;
        let done = ended.saturating_sub(self.ended);
        let bad = hung || 0 < done && done <= late.saturating_sub(self.late).saturating_mul(100);
        (self.begun, self.ended, self.late) = (begun, ended, late);
        match bad {
            true => (self.bad, self.good) = (self.bad + 1, 0),
            false => (self.bad, self.good) = (0, self.good + 1),
        }
        match self.slow {
            false => self.slow = BAD <= self.bad,
            true => self.slow = self.good < GOOD,
        }
        self.slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_hangs_or_is_late_for_seconds_is_slow_until_it_is_quick_for_a_while() {
        for (done, late) in [(0, 0), (3, 1), (100, 1)] {
            let mut pace = Pace::default();
            let (mut ended, mut lates) = (10, 0);
            assert!(!pace.window(11, ended, lates));
            for second in 1..=6 {
                ended += done;
                lates += late;
                let slow = pace.window(ended + 1, ended, lates);
                assert_eq!(slow, 5 <= second, "{done} {late} {second}");
            }
            for second in 1..=11 {
                ended += 200;
                assert_eq!(pace.window(ended + 1, ended, lates), second < 10);
            }
        }
    }

    #[test]
    fn an_idle_disk_and_one_late_sync_among_many_are_not_slow() {
        let mut idle = Pace::default();
        assert!((0..20).all(|_| !idle.window(10, 10, 0)));
        let mut busy = Pace::default();
        assert!((1..20).all(|n| !busy.window(n * 200, n * 200, n)));
    }
}
