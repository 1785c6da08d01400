//! What must hold in every state, and what must have happened in some, lest it held for nothing.

use stateright::Property;

use crate::check::Protocol;
use crate::log::Log;
use crate::node::{Node, Nodes};
use crate::state::State;
use crate::variant::Variant;

/// Invariants 8: entries of one epoch and offset are equal on any two replicas.
pub(crate) const LOG_MATCHING: &str = "invariant 8: equal offset and epoch, equal entry";
/// Invariant 10.
pub(crate) const COMMITTED_STAYS: &str = "invariant 10: what was committed never changes";
/// Invariant 10, as two readers see it.
pub(crate) const READERS_AGREE: &str = "invariant 10: logs agree below both high watermarks";
/// Invariant 11.
pub(crate) const LEADER_COMPLETE: &str = "invariant 11: the leader has everything committed";
/// Invariant 12.
pub(crate) const CANDIDATES_COMPLETE: &str =
    "invariant 12: members of ISR and ELR have everything committed, on disk";
/// Invariants 3 and 4.
pub(crate) const WELL_FORMED: &str = "invariants 3, 4: ISR and ELR are well formed";
/// Invariant 13.
pub(crate) const QUORUMS_OVERLAP: &str =
    "invariant 13: who is waited for includes who may be elected";
/// Invariant 18, as weak as it still holds after the acknowledgement.
pub(crate) const SOMEWHERE: &str = "invariant 18: what was committed is on some replica";
/// Invariant 20.
pub(crate) const TAIL: &str = "invariant 20: the tail is not short";

/// Shows that leaders after the first one commit.
pub(crate) const FAILS_OVER: &str = "something is committed under a second leader";
/// Shows that members come back.
pub(crate) const EXPANDS: &str = "the ISR has grown to all replicas";

impl Protocol {
    pub(crate) fn all_properties() -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always(LOG_MATCHING, |_, state| {
                pairs(state, |a, b| {
                    let mut both = a.entries().iter().zip(b.entries());
                    both.all(|(a, b)| a.epoch != b.epoch || a == b)
                })
            }),
            Property::<Self>::always(COMMITTED_STAYS, |_, state| !state.committed_twice),
            Property::<Self>::always(READERS_AGREE, |_, state| {
                Node::ALL.iter().all(|&a| {
                    let (ours, mark) = (&state.replicas[a].log, state.replicas[a].high_watermark);
                    Node::ALL.iter().all(|&b| {
                        let other = &state.replicas[b];
                        let end = usize::from(mark.min(other.high_watermark));
                        ours.entries().get(..end) == other.log.entries().get(..end)
                    })
                })
            }),
            Property::<Self>::always(LEADER_COMPLETE, |_, state| {
                let leader = state.controller.leader;
                leader.is_none_or(|leader| {
                    !in_service(state, leader)
                        || state.replicas[leader].log.starts_with(&state.committed)
                })
            }),
            Property::<Self>::always(CANDIDATES_COMPLETE, |protocol, state| {
                let mut candidates = state.controller.isr.union(state.controller.elr).iter();
                let on_disk = protocol.variant.waits_for_disk();
                candidates.all(|node| {
                    let log = &state.replicas[node].log;
                    let enough = !on_disk || state.committed.end() <= log.durable();
                    // What is not on disk is with the node only as long as that does not fall.
                    (!on_disk && !in_service(state, node))
                        || enough && log.starts_with(&state.committed)
                })
            }),
            Property::<Self>::always(WELL_FORMED, |protocol, state| {
                let controller = &state.controller;
                let few = controller.isr.len() < protocol.bounds.min_isr;
                let elr_is_needed =
                    few || controller.elr.is_empty() || protocol.variant == Variant::ElrStays;
                controller.isr.both(controller.elr).is_empty()
                    && controller.isr.both(controller.fenced).is_empty()
                    && elr_is_needed
            }),
            Property::<Self>::always(QUORUMS_OVERLAP, |protocol, state| {
                let controller = &state.controller;
                let Some(node) = controller.leader else {
                    return true;
                };
                let leader = &state.replicas[node];
                if !leader.leads(node)
                    || leader.view.leader_epoch != controller.leader_epoch
                    || leader.view.isr.len() < protocol.bounds.min_isr
                {
                    return true;
                }
                let proposed = leader.proposed.unwrap_or(Nodes::NONE);
                let waited_for = leader.view.isr.union(proposed);
                let electable = controller.isr.union(controller.elr);
                electable.minus(waited_for).is_empty()
            }),
            Property::<Self>::always(SOMEWHERE, |_, state| {
                let mut replicas = state.replicas.0.iter();
                replicas.any(|replica| replica.log.starts_with(&state.committed))
            }),
            Property::<Self>::always(TAIL, |_, state| !state.short_tail),
            Property::<Self>::sometimes(FAILS_OVER, |_, state| 2 <= state.committed.last_epoch()),
            Property::<Self>::sometimes(EXPANDS, |protocol, state| {
                let was_smaller = 0 < state.spent.fences || protocol.bounds.isr != Nodes::EVERY;
                was_smaller && state.controller.isr == Nodes::EVERY
            }),
        ]
    }
}

/// Whether a node runs in the incarnation that the controller knows.
fn in_service(state: &State, node: Node) -> bool {
    let replica = &state.replicas[node];
    replica.up && replica.incarnation == state.controller.incarnations[node]
}

fn pairs(state: &State, holds: impl Fn(&Log, &Log) -> bool) -> bool {
    let [a, b, c] = &state.replicas.0;
    [(a, b), (a, c), (b, c)]
        .iter()
        .all(|(a, b)| holds(&a.log, &b.log))
}
