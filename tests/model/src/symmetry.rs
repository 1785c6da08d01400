//! Replicas have no character: states that differ by who is who only are one.

use crate::node::{Node, Nodes, PerNode};
use crate::state::State;

/// Who becomes who. All but the identity.
const RENAMINGS: [Renaming; 5] = [
    Renaming([0, 2, 1]),
    Renaming([1, 0, 2]),
    Renaming([1, 2, 0]),
    Renaming([2, 0, 1]),
    Renaming([2, 1, 0]),
];

struct Renaming([u8; 3]);

impl Renaming {
    fn node(&self, node: Node) -> Node {
        Node(self.0[usize::from(node.0)])
    }

    fn nodes(&self, nodes: Nodes) -> Nodes {
        nodes
            .iter()
            .fold(Nodes::NONE, |renamed, node| renamed.with(self.node(node)))
    }

    fn each<T: Copy>(&self, from: &PerNode<T>) -> PerNode<T> {
        let mut to = *from;
        for node in Node::ALL {
            to[self.node(node)] = from[node];
        }
        to
    }

    fn state(&self, state: &State) -> State {
        let mut to = *state;
        let controller = &mut to.controller;
        controller.leader = controller.leader.map(|node| self.node(node));
        controller.isr = self.nodes(controller.isr);
        controller.elr = self.nodes(controller.elr);
        controller.fenced = self.nodes(controller.fenced);
        controller.incarnations = self.each(&controller.incarnations);
        for replica in &mut to.replicas.0 {
            replica.view.leader = replica.view.leader.map(|node| self.node(node));
            replica.view.isr = self.nodes(replica.view.isr);
            replica.proposed = replica.proposed.map(|isr| self.nodes(isr));
            replica.followers = self.each(&replica.followers);
        }
        for request in to.requests.0.iter_mut().flatten() {
            request.to = self.node(request.to);
        }
        for proposal in to.proposals.0.iter_mut().flatten() {
            proposal.isr = self.nodes(proposal.isr);
            proposal.added = proposal
                .added
                .map(|(node, incarnation)| (self.node(node), incarnation));
        }
        for verdict in to.verdicts.0.iter_mut().flatten() {
            verdict.isr = self.nodes(verdict.isr);
        }
        if let Some(read) = &mut to.read {
            read.leader = self.node(read.leader);
            read.confirmed = self.nodes(read.confirmed);
        }
        to.replicas = self.each(&to.replicas);
        to.requests = self.each(&to.requests);
        to.answers = self.each(&to.answers);
        to.proposals = self.each(&to.proposals);
        to.verdicts = self.each(&to.verdicts);
        to
    }
}

/// The one of its equals that stands for all of them: the least.
pub(crate) fn representative(state: State) -> State {
    RENAMINGS
        .iter()
        .map(|renaming| renaming.state(&state))
        .fold(state, State::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renamed_states_have_one_representative() {
        let mut state = State::first(Nodes::TWO);
        let replica = &mut state.replicas[Node(1)];
        replica.up = false;
        replica.proposed = Some(Nodes::of(Node(2)));
        state.controller.incarnations[Node(1)] = 7;
        let expected = representative(state);
        for renaming in &RENAMINGS {
            let renamed = renaming.state(&state);
            assert_ne!(renamed, state);
            assert_eq!(representative(renamed), expected);
        }
    }
}
