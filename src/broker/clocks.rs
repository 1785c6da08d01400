//! What time it is for decisions that delete (PROTOCOL C3).
//!
//! A wall clock may jump years ahead, and records that are a minute old would be past their
//! retention. So the time by which records are deleted is never later than what the middle one of
//! the cluster's clocks says, and none at all once this node's own clock has moved against the
//! clock that only counts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::types::{Clock, NodeId, Timestamp};

/// How far the wall clock may move against the counting one before it is no longer believed.
const JUMP_MS: i64 = 5 * 60 * 1000;
/// A reading of another node's clock that is older counts for nothing.
const FRESH_MS: i64 = 10_000;
const NONE: i64 = i64::MIN;

/// Milliseconds since the machine started, the time that it slept included.
fn counted() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let since = Duration::try_from(now).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The time by which this node may delete.
pub(super) struct RetentionClock {
    wall: Arc<dyn Clock>,
    /// Wall time minus counted time, at the start.
    anchor: i64,
    /// The cluster's time minus this node's.
    ahead: AtomicI64,
    warned: AtomicBool,
}

impl RetentionClock {
    pub(super) fn new(wall: Arc<dyn Clock>) -> Self {
        let anchor = wall.now().0.saturating_sub(counted());
        Self {
            wall,
            anchor,
            ahead: AtomicI64::new(NONE),
            warned: AtomicBool::new(false),
        }
    }

    /// The controller says how far this node's clock is behind the middle one (ahead: negative).
    pub(super) fn learn(&self, behind: i64) {
        self.ahead.store(behind, Ordering::Relaxed);
    }

    /// The time, or none while the clock cannot be believed: nothing is old then.
    pub(super) fn now(&self) -> Option<Timestamp> {
        let wall = self.wall.now();
        let ahead = Some(self.ahead.load(Ordering::Relaxed)).filter(|ahead| *ahead != NONE);
        let time = time_to_delete_by(wall, self.anchor, counted(), ahead);
        let warned = self.warned.swap(time.is_none(), Ordering::Relaxed);
        if time.is_none() && !warned {
            tracing::error!(
                "the wall clock has jumped by more than five minutes: no records are deleted by \
                 their age until it is right again, or this node is restarted"
            );
        }
        metrics::gauge!(crate::telemetry::RETENTION_PAUSED).set(if time.is_none() {
            1.0
        } else {
            0.0
        });
        time
    }
}

fn time_to_delete_by(
    wall: Timestamp,
    anchor: i64,
    counted: i64,
    ahead: Option<i64>,
) -> Option<Timestamp> {
    let moved = wall.0.saturating_sub(counted).saturating_sub(anchor);
    if moved.checked_abs().is_none_or(|moved| JUMP_MS < moved) {
        return None;
    }
    // A clock that is behind the others deletes later, which harms nobody.
    Some(Timestamp(wall.0.saturating_add(ahead.unwrap_or(0).min(0))))
}

/// What the controller knows of the nodes' clocks: wall time minus its own counted time, and when
/// it was told.
#[derive(Default)]
pub(super) struct ClusterClocks(ArcSwap<BTreeMap<NodeId, (i64, i64)>>);

impl ClusterClocks {
    /// A node says what time it is; answers how far it is behind the middle one of all clocks.
    pub(super) fn told(&self, node: NodeId, wall: Timestamp) -> i64 {
        let now = counted();
        let own = wall.0.saturating_sub(now);
        self.0.rcu(|known| {
            let mut known = BTreeMap::clone(known);
            known.insert(node, (own, now));
            known.retain(|_, (_, at)| now.saturating_sub(*at) <= FRESH_MS);
            known
        });
        let known = self.0.load();
        median(known.values().map(|(offset, _)| *offset)).saturating_sub(own)
    }
}

/// The middle one; of two, the earlier.
fn median(offsets: impl Iterator<Item = i64>) -> i64 {
    let mut offsets: Vec<i64> = offsets.collect();
    offsets.sort_unstable();
    let middle = offsets.len().saturating_sub(1) / 2;
    offsets.get(middle).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR_MS: i64 = 365 * 24 * 3600 * 1000;

    #[test]
    fn a_clock_that_jumps_stops_deleting_and_one_that_drifts_does_not() {
        let by = |wall, counted| time_to_delete_by(Timestamp(wall), 1_000_000, counted, None);
        assert_eq!(by(1_500_000, 500_000), Some(Timestamp(1_500_000)));
        assert_eq!(
            by(1_500_000 + JUMP_MS, 500_000),
            Some(Timestamp(1_500_000 + JUMP_MS))
        );
        assert_eq!(by(1_500_001 + JUMP_MS, 500_000), None);
        assert_eq!(by(1_500_000 + 10 * YEAR_MS, 500_000), None);
        assert_eq!(by(1_500_000 - 10 * YEAR_MS, 500_000), None);
        assert_eq!(by(i64::MIN, 500_000), None);
    }

    #[test]
    fn a_node_that_started_with_a_clock_ahead_deletes_by_the_time_of_the_others() {
        let by = |ahead| time_to_delete_by(Timestamp(10 * YEAR_MS), 10 * YEAR_MS, 0, ahead);
        assert_eq!(by(Some(-10 * YEAR_MS)), Some(Timestamp(0)));
        assert_eq!(by(Some(5_000)), Some(Timestamp(10 * YEAR_MS)));
    }

    #[test]
    fn the_middle_clock_counts() {
        assert_eq!(median([7].into_iter()), 7);
        assert_eq!(median([10 * YEAR_MS, 7].into_iter()), 7);
        assert_eq!(median([10 * YEAR_MS, 7, 8].into_iter()), 8);
        assert_eq!(median([-YEAR_MS, 7, 8].into_iter()), 7);
        let clocks = ClusterClocks::default();
        let now = Timestamp(1_000_000_000_000);
        clocks.told(NodeId(1), now);
        clocks.told(NodeId(2), now);
        let behind = clocks.told(NodeId(3), Timestamp(now.0 + 10 * YEAR_MS));
        assert!((behind + 10 * YEAR_MS).abs() < 60_000, "{behind}");
    }
}
