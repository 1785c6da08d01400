//! Looks at every state that can be reached within bounds.

use stateright::{Checker, Expectation, HasDiscoveries, Model, Property};

use crate::action::Action;
use crate::node::Nodes;
use crate::state::State;
use crate::symmetry;
use crate::variant::Variant;

/// How much may happen. Everything that is not counted here may happen any number of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Batches that are appended.
    pub values: u8,
    /// Crashes.
    pub crashes: u8,
    /// Nodes that are taken for dead.
    pub fences: u8,
    /// ISR proposals that are sent, repeated ones included.
    pub proposals: u8,
    /// Questions for the tail.
    pub reads: u8,
    /// Fetches that stay on their way; of [`Delivery::Whole`] only.
    pub stale_fetches: u8,
    /// The ISR at the beginning.
    pub isr: Nodes,
    /// min.insync.
    pub min_isr: u8,
    /// How fetches travel.
    pub delivery: Delivery,
}

impl Bounds {
    /// Whether nothing can happen within these that cannot happen within `other`.
    #[must_use]
    pub fn within(&self, other: &Self) -> bool {
        let same =
            (self.isr, self.min_isr, self.delivery) == (other.isr, other.min_isr, other.delivery);
        same && self.values <= other.values
            && self.crashes <= other.crashes
            && self.fences <= other.fences
            && self.proposals <= other.proposals
            && self.reads <= other.reads
            && self.stale_fetches <= other.stale_fetches
    }
}

/// How fetches travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Question and answer are one step, or the answer is lost.
    Whole,
    /// Each is a step; one of each kind and follower is on its way at a time.
    Separate,
}

/// A variant within bounds: what is explored.
#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    /// Which protocol.
    pub variant: Variant,
    /// How much may happen.
    pub bounds: Bounds,
}

impl Protocol {
    pub(crate) fn first(&self) -> State {
        State::first(self.bounds.isr)
    }

    /// The state after an action; none when the action cannot be, after all.
    pub(crate) fn after(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        let to = &mut next;
        match action {
            Action::Append(node) => self.append(to, node),
            Action::Sync(node) => self.sync(to, node),
            Action::Fetch(node) => self.fetch(to, node, true),
            Action::FetchAnswerLost(node) => self.fetch(to, node, false),
            Action::DelayFetch(node) => {
                to.requests[node] = self.request(&to.replicas[node]);
                to.spent.stale_fetches += 1;
            }
            Action::SendFetch(node) => to.requests[node] = self.request(&to.replicas[node]),
            Action::ReceiveFetch(node) => {
                self.receive_fetch(to, node);
                if self.bounds.delivery == Delivery::Whole {
                    to.answers[node] = None;
                }
            }
            Action::ReceiveAnswer(node) => self.receive_answer(to, node),
            Action::Shrink { leader, member } => {
                let isr = to.replicas[leader].view.isr.without(member);
                self.propose(to, leader, isr)?;
            }
            Action::Expand { leader, member } => {
                let isr = to.replicas[leader].view.isr.with(member);
                self.propose(to, leader, isr)?;
            }
            Action::RetryProposal(node) => self.retry(to, node)?,
            Action::ForgetProposal(node) => self.forget_proposal(to, node),
            Action::Rule(node) => self.rule(to, node),
            Action::ReceiveVerdict(node) => self.receive_verdict(to, node),
            Action::LearnRecord(node) => self.learn_record(to, node),
            Action::Fence { node, successor } => self.fence(to, node, successor)?,
            Action::Unfence(node) => self.unfence(to, node),
            Action::Crash(node) => self.crash(to, node),
            Action::Register(node) => self.register(to, node),
            Action::RestartInEpoch(node) => self.restart_in_epoch(to, node),
            Action::AskTail(node) => self.ask_tail(to, node),
            Action::ConfirmLeader(node) => {
                let read = to.read.as_mut()?;
                read.confirmed = read.confirmed.with(node);
            }
            Action::TellTail => self.tell_tail(to)?,
        }
        Some(next)
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.first()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.possible(state, actions);
    }

    fn next_state(&self, last_state: &State, action: Action) -> Option<State> {
        self.after(last_state, action).map(symmetry::representative)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        Self::all_properties()
    }
}

/// A property that does not hold, or for `sometimes` one that does, and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The property's name.
    pub property: &'static str,
    /// The steps that lead there; with one thread none lead there faster.
    pub steps: Vec<Action>,
}

/// What an exploration found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Different states, replicas having no character.
    pub states: usize,
    /// Steps to the farthest of them, the first counted.
    pub depth: usize,
    /// What does not hold. Empty: everything was looked at, and everything holds.
    pub violations: Vec<Finding>,
    /// What happened that should be able to happen.
    pub witnesses: Vec<Finding>,
}

/// Explores breadth first until something does not hold or nothing is left.
#[must_use]
pub fn explore(protocol: Protocol, threads: usize) -> Outcome {
    let checker = protocol
        .checker()
        .threads(threads)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let properties = Protocol::all_properties();
    let witness = |name: &str| {
        let mut properties = properties.iter();
        properties.any(|p| p.name == name && p.expectation == Expectation::Sometimes)
    };
    let findings = checker.discoveries().into_iter().map(|(property, path)| {
        let steps = path.into_actions();
        Finding { property, steps }
    });
    let (mut witnesses, mut violations): (Vec<_>, Vec<_>) =
        findings.partition(|finding| witness(finding.property));
    for found in [&mut witnesses, &mut violations] {
        found.sort_by_key(|finding| (finding.steps.len(), finding.property));
    }
    Outcome {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        violations,
        witnesses,
    }
}
