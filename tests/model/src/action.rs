//! What can happen next.

use crate::check::{Delivery, Protocol};
use crate::node::{Node, Nodes};
use crate::state::{Replica, State};
use crate::variant::Variant;

/// One thing that happens. Nodes are those of the state before: its representative may have renamed
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The leader takes a batch.
    Append(Node),
    /// A replica's flush ends.
    Sync(Node),
    /// A follower asks, the leader answers, the follower takes it.
    Fetch(Node),
    /// The same, but the answer is lost.
    FetchAnswerLost(Node),
    /// A follower asks, and the question stays on its way.
    DelayFetch(Node),
    /// A follower asks.
    SendFetch(Node),
    /// The leader gets what this follower asked.
    ReceiveFetch(Node),
    /// The follower gets the answer.
    ReceiveAnswer(Node),
    /// The leader proposes an ISR without a member.
    Shrink {
        /// Who proposes.
        leader: Node,
        /// Who goes.
        member: Node,
    },
    /// The leader proposes an ISR with a new member.
    Expand {
        /// Who proposes.
        leader: Node,
        /// Who comes.
        member: Node,
    },
    /// The leader sends its proposal again.
    RetryProposal(Node),
    /// The leader gives up its proposal because no answer came.
    ForgetProposal(Node),
    /// The controller rules on this leader's proposal.
    Rule(Node),
    /// The leader gets the ruling.
    ReceiveVerdict(Node),
    /// A replica learns the newest record; it may have missed others.
    LearnRecord(Node),
    /// The controller takes a node for dead, rightly or not.
    Fence {
        /// Who is fenced.
        node: Node,
        /// Who follows it as the leader, if it was.
        successor: Option<Node>,
    },
    /// The controller takes a node for alive again.
    Unfence(Node),
    /// A node falls.
    Crash(Node),
    /// A fallen node comes back with a new incarnation (N2).
    Register(Node),
    /// A fallen node comes back as if nothing had been.
    RestartInEpoch(Node),
    /// A client asks this leader for the tail.
    AskTail(Node),
    /// A replica confirms to the asked leader that it still is one.
    ConfirmLeader(Node),
    /// The asked leader tells the tail.
    TellTail,
}

impl Protocol {
    /// Everything that can happen in a state.
    pub(crate) fn possible(&self, state: &State, out: &mut Vec<Action>) {
        for node in Node::ALL {
            self.possible_fetches(state, node, out);
            self.possible_proposals(state, node, out);
            self.possible_failures(state, node, out);
            self.possible_reads(state, node, out);
        }
        if self.may_tell_tail(state) {
            out.push(Action::TellTail);
        }
    }

    fn possible_fetches(&self, state: &State, node: Node, out: &mut Vec<Action>) {
        let replica = &state.replicas[node];
        let leads = replica.leads(node);
        if leads && state.spent.values < self.bounds.values && !replica.log.is_full() {
            out.push(Action::Append(node));
        }
        if replica.up && replica.log.durable() < replica.log.end() {
            out.push(Action::Sync(node));
        }
        if replica.up
            && !leads
            && let Some(request) = self.request(replica)
        {
            match self.bounds.delivery {
                Delivery::Whole => {
                    out.extend([Action::Fetch(node), Action::FetchAnswerLost(node)]);
                    if state.spent.stale_fetches < self.bounds.stale_fetches
                        && state.requests[node].is_none()
                    {
                        out.push(Action::DelayFetch(node));
                    }
                }
                Delivery::Separate => {
                    if state.requests[node] != Some(request) {
                        out.push(Action::SendFetch(node));
                    }
                }
            }
        }
        if state.requests[node].is_some() {
            out.push(Action::ReceiveFetch(node));
        }
        if state.answers[node].is_some() {
            out.push(Action::ReceiveAnswer(node));
        }
    }

    fn possible_proposals(&self, state: &State, node: Node, out: &mut Vec<Action>) {
        let replica = &state.replicas[node];
        let leads = replica.leads(node);
        let may_send = leads && state.spent.proposals < self.bounds.proposals;
        if may_send && replica.proposed.is_none() {
            for member in Node::ALL.into_iter().filter(|member| *member != node) {
                if replica.view.isr.contains(member) {
                    out.push(Action::Shrink {
                        leader: node,
                        member,
                    });
                } else if self.may_expand(replica, member) {
                    out.push(Action::Expand {
                        leader: node,
                        member,
                    });
                }
            }
        }
        if state.proposals[node].is_some() {
            out.push(Action::Rule(node));
        }
        if may_send && replica.proposed.is_some() && state.proposals[node].is_none() {
            out.push(Action::RetryProposal(node));
        }
        if state.verdicts[node].is_some() {
            out.push(Action::ReceiveVerdict(node));
        }
        if self.variant == Variant::TimeoutForgetsProposal && leads && replica.proposed.is_some() {
            out.push(Action::ForgetProposal(node));
        }
        if replica.up && replica.view.partition_epoch < state.controller.partition_epoch {
            out.push(Action::LearnRecord(node));
        }
    }

    /// I1.
    fn may_expand(&self, leader: &Replica, member: Node) -> bool {
        leader.followers[member].is_some_and(|progress| {
            leader.high_watermark <= progress.acknowledged
                && (leader.leader_start <= progress.acknowledged
                    || self.variant == Variant::NoLeaderStartForExpand)
        })
    }

    fn possible_failures(&self, state: &State, node: Node, out: &mut Vec<Action>) {
        let (replica, controller) = (&state.replicas[node], &state.controller);
        let fenced = controller.fenced.contains(node);
        if !fenced && state.spent.fences < self.bounds.fences {
            if controller.leader == Some(node) {
                let others = Node::ALL.into_iter().filter(|other| *other != node);
                out.extend(others.map(|other| Action::Fence {
                    node,
                    successor: Some(other),
                }));
            } else {
                out.push(Action::Fence {
                    node,
                    successor: None,
                });
            }
        }
        if fenced && replica.up && replica.incarnation == controller.incarnations[node] {
            out.push(Action::Unfence(node));
        }
        if replica.up && state.spent.crashes < self.bounds.crashes {
            out.push(Action::Crash(node));
        }
        if !replica.up && fenced {
            out.push(Action::Register(node));
        }
        if !replica.up && !fenced && self.variant.restarts_in_epoch() {
            out.push(Action::RestartInEpoch(node));
        }
    }

    fn possible_reads(&self, state: &State, node: Node, out: &mut Vec<Action>) {
        let replica = &state.replicas[node];
        match state.read {
            None => {
                if state.spent.reads < self.bounds.reads && replica.leads(node) {
                    out.push(Action::AskTail(node));
                }
            }
            Some(read) => {
                let agrees = replica.up
                    && replica.view.leader_epoch == read.leader_epoch
                    && replica.view.leader == Some(read.leader);
                if agrees && !read.confirmed.contains(node) {
                    out.push(Action::ConfirmLeader(node));
                }
            }
        }
    }

    /// R2.
    fn may_tell_tail(&self, state: &State) -> bool {
        let Some(read) = state.read else {
            return false;
        };
        let leader = &state.replicas[read.leader];
        if !leader.leads(read.leader) || leader.view.leader_epoch != read.leader_epoch {
            return false;
        }
        let missing = self.maximal_isr(leader).minus(read.confirmed);
        let confirmed = missing.minus(Nodes::of(read.leader)).is_empty()
            && self.bounds.min_isr <= leader.view.isr.len();
        let caught_up = leader.leader_start <= leader.high_watermark;
        (confirmed || self.variant == Variant::TailWithoutConfirmation)
            && (caught_up || self.variant == Variant::TailBeforeLeaderStart)
    }
}
