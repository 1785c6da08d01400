//! What the controller does: fence, elect, register, rule on proposals. Each is one command of the
//! metadata log, so that nothing comes between its parts.

use crate::check::Protocol;
use crate::node::{Node, Nodes};
use crate::state::{Controller, Ruling, State, Verdict};
use crate::variant::Variant;

impl Controller {
    /// E1: the ISR, else the ELR, as far as they are not fenced.
    fn candidates(&self) -> Nodes {
        let isr = self.isr.minus(self.fenced);
        if isr.is_empty() {
            self.elr.minus(self.fenced)
        } else {
            isr
        }
    }

    /// E2. `leader` must be a candidate.
    fn elect(&mut self, leader: Option<Node>) {
        if let Some(leader) = leader {
            self.isr = self.isr.with(leader);
            self.elr = self.elr.without(leader);
        }
        self.leader = leader;
        self.leader_epoch += 1;
    }
}

impl Protocol {
    /// I3.
    pub(crate) fn rule(&self, state: &mut State, node: Node) {
        let Some(proposal) = state.proposals[node].take() else {
            return;
        };
        let controller = &mut state.controller;
        let current = controller.leader == Some(node)
            && controller.leader_epoch == proposal.leader_epoch
            && controller.partition_epoch == proposal.partition_epoch
            && controller.incarnations[node] == proposal.incarnation
            && !controller.fenced.contains(node);
        let eligible = proposal.added.is_none_or(|(member, incarnation)| {
            !controller.fenced.contains(member)
                && (controller.incarnations[member] == incarnation
                    || !self.variant.checks_incarnation())
        });
        let ruling = match (current, eligible) {
            (false, _) => Ruling::Stale,
            (true, false) => Ruling::Ineligible,
            (true, true) => Ruling::Accepted,
        };
        match ruling {
            Ruling::Accepted => {
                let removed = controller.isr.minus(proposal.isr);
                controller.isr = proposal.isr;
                controller.partition_epoch += 1;
                if controller.isr.len() < self.bounds.min_isr {
                    controller.elr = controller.elr.union(removed);
                } else if self.variant != Variant::ElrStays {
                    controller.elr = Nodes::NONE;
                }
                controller.elr = controller.elr.minus(controller.isr);
            }
            Ruling::Ineligible if self.variant == Variant::IneligibleRaisesEpoch => {
                controller.partition_epoch += 1;
            }
            Ruling::Ineligible | Ruling::Stale => {}
        }
        state.verdicts[node] = Some(Verdict {
            ruling,
            proposed_at: proposal.partition_epoch,
            leader_epoch: proposal.leader_epoch,
            partition_epoch: controller.partition_epoch,
            isr: controller.isr,
        });
    }

    /// N5. None when `successor` is not the one whose election this step stands for.
    pub(crate) fn fence(
        &self,
        state: &mut State,
        node: Node,
        successor: Option<Node>,
    ) -> Option<()> {
        state.spent.fences += 1;
        let controller = &mut state.controller;
        controller.fenced = controller.fenced.with(node);
        let member = controller.isr.contains(node);
        let leader = controller.leader == Some(node);
        if !member && !leader {
            return Some(());
        }
        controller.isr = controller.isr.without(node);
        if leader {
            let candidates = controller.candidates();
            let elected = successor.filter(|successor| candidates.contains(*successor));
            // Each candidate has a step of its own, and that nobody is elected is one step, not two.
            if elected.is_none() && (!candidates.is_empty() || successor != Some(node.next())) {
                return None;
            }
            controller.elect(elected);
        }
        if member && controller.isr.len() < self.bounds.min_isr {
            controller.elr = controller.elr.with(node);
        }
        controller.partition_epoch += 1;
        Some(())
    }

    /// N6.
    pub(crate) fn unfence(&self, state: &mut State, node: Node) {
        let controller = &mut state.controller;
        controller.fenced = controller.fenced.without(node);
        let complete = controller.isr.union(controller.elr).contains(node);
        if controller.leader.is_none() && complete {
            let elected = controller.candidates().contains(node).then_some(node);
            controller.elect(elected);
            controller.partition_epoch += 1;
        }
    }

    /// N2, N3.
    pub(crate) fn register(&self, state: &mut State, node: Node) {
        let controller = &mut state.controller;
        controller.incarnations[node] = controller.next_incarnation;
        controller.next_incarnation += 1;
        if self.variant.registration_leaves_elr() {
            controller.elr = controller.elr.without(node);
        }
        let replica = &mut state.replicas[node];
        replica.up = true;
        replica.incarnation = controller.incarnations[node];
        replica.view = controller.view();
    }
}
