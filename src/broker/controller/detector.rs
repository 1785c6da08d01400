//! Decides which nodes are dead and which may serve again. Pure: what was heard goes in with its
//! time, probes and commands come out.
//!
//! A node is fenced because it was silent *and* direct probes failed (PROTOCOL E4): gossip, a lost
//! connection or missed heartbeats only make the controller ask. Fencing a node that lives costs a
//! moment of its leadership and never a record, so the bounds are short.

use std::collections::BTreeMap;

use crate::types::{Incarnation, NodeId};

/// Milliseconds on the controller's monotonic clock.
pub(super) type Millis = u64;

/// How patient the controller is. Times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patience {
    /// Silence after which a node is probed.
    pub(super) suspect: Millis,
    /// Probes that must fail in a row.
    pub(super) probes: u32,
    /// Silence after which a node is fenced although it answers probes: it cannot do its work.
    pub(super) silence: Millis,
    /// Fences within a minute after which a node is held down (E7).
    pub(super) flaps: usize,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            suspect: 600,
            probes: 3,
            silence: 5_000,
            flaps: 3,
        }
    }
}

/// What a probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) enum Probed {
    /// A process of that node answered.
    Alive,
    /// Nobody listens there: the process is gone.
    Refused,
    /// No answer in time.
    Silent,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// Ask the node directly, and tell [`Detector::probed`] what came of it.
    Probe(NodeId),
    /// Take the node's leaderships and in-sync places away.
    Fence(NodeId, Incarnation),
    /// Let the node serve.
    Activate(NodeId, Incarnation),
}

/// A node as the metadata has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) id: NodeId,
    pub(super) incarnation: Incarnation,
    /// Whether it may lead and be in sync now.
    pub(super) serving: bool,
}

#[derive(Debug)]
struct Watched {
    incarnation: Incarnation,
    heard: Millis,
    /// A heartbeat of this incarnation has come since the controller began to watch.
    beats: bool,
    suspected: bool,
    probing: bool,
    failed_probes: u32,
    fenced: Vec<Millis>,
    /// Whether the metadata said that it serves, when last looked at.
    served: bool,
    /// A fence is proposed and not seen in the metadata yet: it is one, however long that takes.
    fencing: Option<Millis>,
}

const MINUTE: Millis = 60_000;

/// What the controller has heard of each node since it became the controller (M7: what its
/// predecessor heard counts for nothing).
#[derive(Debug)]
pub(super) struct Detector {
    patience: Patience,
    nodes: BTreeMap<NodeId, Watched>,
    looked: Option<Millis>,
}

/// How often a fence is proposed again that the metadata does not show yet.
const AGAIN: Millis = 1_000;

impl Detector {
    pub(super) fn new(patience: Patience) -> Self {
        Self {
            patience,
            nodes: BTreeMap::new(),
            looked: None,
        }
    }

    /// A heartbeat came.
    pub(super) fn heard(&mut self, node: NodeId, incarnation: Incarnation, now: Millis) {
        let watched = self.watch(node, incarnation, now);
        // A late heartbeat of an earlier process says nothing of this one.
        if watched.incarnation == incarnation {
            watched.heard = now;
            watched.beats = true;
            watched.suspected = false;
            watched.failed_probes = 0;
        }
    }

    /// For how long each node has given no sign of life: at most since this controller's reign began.
    pub(super) fn silences(&self, now: Millis) -> BTreeMap<NodeId, Millis> {
        let nodes = self.nodes.iter();
        nodes
            .map(|(node, watched)| (*node, now.saturating_sub(watched.heard)))
            .collect()
    }

    /// Something suggests that the node is gone: its connection broke, or gossip misses it.
    pub(super) fn suspect(&mut self, node: NodeId, incarnation: Incarnation, now: Millis) {
        let watched = self.watch(node, incarnation, now);
        if watched.incarnation == incarnation {
            watched.suspected = true;
        }
    }

    /// A probe ended.
    pub(super) fn probed(&mut self, node: NodeId, found: Probed) {
        let Some(watched) = self.nodes.get_mut(&node) else {
            return;
        };
        watched.probing = false;
        match found {
            Probed::Alive => {
                watched.suspected = false;
                watched.failed_probes = 0;
            }
            Probed::Refused => watched.failed_probes = self.patience.probes,
            Probed::Silent => watched.failed_probes += 1,
        }
    }

    /// What is to be done now about the nodes that the metadata knows.
    pub(super) fn tick(&mut self, known: &[Known], now: Millis) -> Vec<Act> {
        let mut acts = Vec::new();
        self.nodes
            .retain(|id, _| known.iter().any(|node| node.id == *id));
        let patience = self.patience;
        let looked = self.looked.replace(now).unwrap_or(now);
        if patience.suspect < now.saturating_sub(looked) {
            // The controller itself stood still: that it heard nothing says nothing of the others.
            self.nodes.values_mut().for_each(|node| node.heard = now);
        }
        for node in known {
            let watched = self.watch(node.id, node.incarnation, now);
            let silent = now.saturating_sub(watched.heard);
            if !node.serving {
                // What it sent while it served is no wish to serve again: a node that leaves
                // fences itself and falls silent.
                if std::mem::take(&mut watched.served) {
                    watched.beats = false;
                }
                watched.fencing = None;
                if watched.beats && silent <= patience.suspect {
                    acts.push(Act::Activate(node.id, node.incarnation));
                }
                continue;
            }
            watched.served = true;
            if patience.probes <= watched.failed_probes || patience.silence < silent {
                match watched.fencing {
                    Some(at) if now.saturating_sub(at) < AGAIN => continue,
                    _ => {}
                }
                if watched.fencing.replace(now).is_none() {
                    watched
                        .fenced
                        .retain(|at| now.saturating_sub(*at) < 16 * MINUTE);
                    watched.fenced.push(now);
                }
                watched.failed_probes = 0;
                watched.suspected = false;
                watched.beats = false;
                acts.push(Act::Fence(node.id, node.incarnation));
            } else if (watched.suspected || patience.suspect < silent) && !watched.probing {
                watched.probing = true;
                acts.push(Act::Probe(node.id));
            }
        }
        acts
    }

    /// The node's entry; a new incarnation begins a new observation.
    fn watch(&mut self, node: NodeId, incarnation: Incarnation, now: Millis) -> &mut Watched {
        let watched = self.nodes.entry(node).or_insert_with(|| Watched {
            incarnation,
            heard: now,
            beats: false,
            suspected: false,
            probing: false,
            failed_probes: 0,
            fenced: Vec::new(),
            served: false,
            fencing: None,
        });
        if watched.incarnation < incarnation {
            watched.incarnation = incarnation;
            watched.heard = now;
            watched.beats = false;
            watched.suspected = false;
            watched.failed_probes = 0;
            watched.served = false;
            watched.fencing = None;
        }
        watched
    }

    /// E7: whether a node falls over too often to be given leaderships back. It follows meanwhile.
    pub(super) fn is_held_down(&self, node: NodeId, now: Millis) -> bool {
        let watched = self.nodes.get(&node);
        watched.is_some_and(|watched| watched.held_down(self.patience, now))
    }
}

impl Watched {
    /// A node that was fenced too often waits, twice as long each time, up to 8 minutes.
    fn held_down(&self, patience: Patience, now: Millis) -> bool {
        let recent = self.fenced.iter();
        let recent = recent.filter(|at| now.saturating_sub(**at) < 16 * MINUTE);
        let over = recent.count().saturating_sub(patience.flaps);
        let Some(last) = self.fenced.last().filter(|_| 0 < over) else {
            return false;
        };
        let wait = (MINUTE / 2) << over.min(4);
        now.saturating_sub(*last) < wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(7);
    const FIRST: Incarnation = Incarnation(1);

    fn known(incarnation: Incarnation, serving: bool) -> [Known; 1] {
        [Known {
            id: NODE,
            incarnation,
            serving,
        }]
    }

    fn watching() -> Detector {
        let mut detector = Detector::new(Patience::default());
        detector.heard(NODE, FIRST, 1_000);
        detector
    }

    #[test]
    fn a_node_that_speaks_is_left_alone_and_activated_once_it_may_serve() {
        let mut detector = watching();
        assert_eq!(
            detector.tick(&known(FIRST, false), 1_100),
            [Act::Activate(NODE, FIRST)]
        );
        for at in (1_200..10_000).step_by(250) {
            detector.heard(NODE, FIRST, at);
            assert_eq!(detector.tick(&known(FIRST, true), at + 100), []);
        }
    }

    #[test]
    fn silence_alone_asks_and_only_failed_probes_fence() {
        let mut detector = watching();
        let node = known(FIRST, true);
        assert_eq!(detector.tick(&node, 1_600), []);
        assert_eq!(detector.tick(&node, 1_601), [Act::Probe(NODE)]);
        assert_eq!(detector.tick(&node, 1_650), [], "one probe at a time");
        detector.probed(NODE, Probed::Silent);
        assert_eq!(detector.tick(&node, 1_700), [Act::Probe(NODE)]);
        detector.probed(NODE, Probed::Silent);
        assert_eq!(detector.tick(&node, 1_800), [Act::Probe(NODE)]);
        detector.probed(NODE, Probed::Silent);
        assert_eq!(detector.tick(&node, 1_900), [Act::Fence(NODE, FIRST)]);
    }

    #[test]
    fn a_refused_probe_fences_at_once_and_an_answered_one_does_not() {
        let mut detector = watching();
        let node = known(FIRST, true);
        detector.suspect(NODE, FIRST, 1_040);
        assert_eq!(detector.tick(&node, 1_050), [Act::Probe(NODE)]);
        detector.probed(NODE, Probed::Alive);
        assert_eq!(detector.tick(&node, 1_060), []);
        detector.suspect(NODE, FIRST, 1_065);
        assert_eq!(detector.tick(&node, 1_070), [Act::Probe(NODE)]);
        detector.probed(NODE, Probed::Refused);
        assert_eq!(detector.tick(&node, 1_080), [Act::Fence(NODE, FIRST)]);
    }

    #[test]
    fn a_node_that_was_lost_before_anybody_watched_is_asked_at_once() {
        let mut detector = Detector::new(Patience::default());
        detector.suspect(NODE, FIRST, 1_000);
        assert_eq!(
            detector.tick(&known(FIRST, true), 1_000),
            [Act::Probe(NODE)]
        );
    }

    #[test]
    fn a_node_that_answers_probes_but_never_reports_is_fenced_in_the_end() {
        let mut detector = watching();
        let node = known(FIRST, true);
        for at in (1_700..6_000).step_by(100) {
            if detector.tick(&node, at).contains(&Act::Probe(NODE)) {
                detector.probed(NODE, Probed::Alive);
            }
        }
        assert_eq!(detector.tick(&node, 6_001), [Act::Fence(NODE, FIRST)]);
    }

    #[test]
    fn what_an_earlier_process_sent_does_not_keep_its_successor_alive() {
        let mut detector = watching();
        let second = Incarnation(2);
        assert_eq!(detector.tick(&known(second, false), 2_000), []);
        detector.heard(NODE, FIRST, 2_100);
        assert_eq!(detector.tick(&known(second, false), 2_200), []);
        detector.heard(NODE, second, 2_300);
        assert_eq!(
            detector.tick(&known(second, false), 2_300),
            [Act::Activate(NODE, second)]
        );
    }

    #[test]
    fn a_node_that_keeps_falling_over_waits_longer_each_time() {
        let mut detector = watching();
        let mut now = 1_000;
        let mut waited = Vec::new();
        for _ in 0..6 {
            detector.heard(NODE, FIRST, now);
            detector.suspect(NODE, FIRST, now);
            detector.tick(&known(FIRST, true), now);
            detector.probed(NODE, Probed::Refused);
            assert_eq!(
                detector.tick(&known(FIRST, true), now),
                [Act::Fence(NODE, FIRST)]
            );
            let fenced = now;
            now += 100;
            detector.tick(&known(FIRST, false), now);
            detector.heard(NODE, FIRST, now);
            assert_eq!(
                detector.tick(&known(FIRST, false), now),
                [Act::Activate(NODE, FIRST)],
                "it follows at once"
            );
            while detector.is_held_down(NODE, now) {
                now += 100;
            }
            waited.push((now - fenced) / 1_000);
        }
        assert_eq!(waited, [0, 0, 0, 60, 120, 240]);
    }

    #[test]
    fn a_fence_that_takes_long_to_agree_on_is_one_fence() {
        let mut detector = watching();
        let mut fenced = Vec::new();
        for at in (1_050..11_000).step_by(50) {
            let acts = detector.tick(&known(FIRST, true), at);
            if acts == [Act::Fence(NODE, FIRST)] {
                fenced.push(at);
            }
        }
        assert_eq!(fenced, [6_050, 7_050, 8_050, 9_050, 10_050]);
        assert!(!detector.is_held_down(NODE, 11_000));
    }

    #[test]
    fn a_controller_that_stood_still_does_not_fence_whom_it_did_not_hear() {
        let mut detector = watching();
        let node = known(FIRST, true);
        assert_eq!(detector.tick(&node, 1_050), []);
        assert_eq!(detector.tick(&node, 60_000), []);
        assert_eq!(detector.tick(&node, 60_300), []);
        assert_eq!(detector.tick(&node, 60_601), [Act::Probe(NODE)]);
    }

    #[test]
    fn a_node_that_left_by_itself_is_not_called_back_by_what_it_sent_before() {
        let mut detector = watching();
        detector.tick(&known(FIRST, true), 1_050);
        detector.heard(NODE, FIRST, 1_100);
        assert_eq!(detector.tick(&known(FIRST, false), 1_150), []);
        detector.heard(NODE, FIRST, 1_200);
        assert_eq!(
            detector.tick(&known(FIRST, false), 1_250),
            [Act::Activate(NODE, FIRST)],
            "one that goes on reporting was fenced by mistake"
        );
    }

    #[test]
    fn silence_is_counted_from_the_last_sign_of_life() {
        let mut detector = watching();
        assert_eq!(detector.silences(1_250), [(NODE, 250)].into());
        detector.heard(NODE, FIRST, 1_300);
        assert_eq!(detector.silences(1_250), [(NODE, 0)].into());
    }

    #[test]
    fn a_new_controller_observes_before_it_judges() {
        let mut detector = Detector::new(Patience::default());
        let node = known(FIRST, true);
        assert_eq!(detector.tick(&node, 50_000), []);
        assert_eq!(detector.tick(&node, 50_600), []);
        assert_eq!(detector.tick(&node, 50_601), [Act::Probe(NODE)]);
    }
}
