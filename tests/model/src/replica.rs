//! What replicas do: append, flush, replicate, advance the high watermark, fall and come back.

use crate::check::Protocol;
use crate::log::Entry;
use crate::node::{Node, Nodes, PerNode};
use crate::state::{
    Content, FetchAnswer, FetchRequest, Progress, Proposal, Replica, Ruling, State, TailRead,
};
use crate::variant::Variant;

impl Protocol {
    pub(crate) fn append(&self, state: &mut State, leader: Node) {
        state.spent.values += 1;
        let value = state.spent.values;
        let replica = &mut state.replicas[leader];
        let epoch = replica.view.leader_epoch;
        replica.log.push(Entry { epoch, value });
    }

    pub(crate) fn sync(&self, state: &mut State, node: Node) {
        state.replicas[node].log.sync();
        self.advance(state, node);
    }

    /// The ISR that the leader must wait for: the one it knows and the one it has proposed.
    pub(crate) fn maximal_isr(&self, leader: &Replica) -> Nodes {
        if self.variant == Variant::NoMaximalIsr {
            return leader.view.isr;
        }
        leader
            .view
            .isr
            .union(leader.proposed.unwrap_or(Nodes::NONE))
    }

    /// H1 and H2; whenever something has changed that they depend on (H3).
    fn advance(&self, state: &mut State, node: Node) {
        let leader = &state.replicas[node];
        let enough = self.bounds.min_isr <= leader.view.isr.len();
        if !leader.leads(node) || !(enough || self.variant == Variant::NoMinIsr) {
            return;
        }
        let members = self.maximal_isr(leader);
        if !members.contains(node) {
            return;
        }
        let counts_durable =
            self.variant.waits_for_disk() && self.variant != Variant::LeaderCountsUnsynced;
        let mut reached = if counts_durable {
            leader.log.durable()
        } else {
            leader.log.end()
        };
        for member in members.without(node).iter() {
            let Some(progress) = leader.followers[member] else {
                return;
            };
            reached = reached.min(progress.acknowledged);
        }
        if reached <= leader.high_watermark {
            return;
        }
        let log = leader.log;
        state.replicas[node].high_watermark = reached;
        let before = usize::from(state.committed.end());
        for (offset, &entry) in log.entries()[..reached.into()].iter().enumerate() {
            if before <= offset {
                state.committed.push(entry);
            } else if state.committed.entries()[offset] != entry {
                state.committed_twice = true;
            }
        }
    }

    /// What a follower would ask now; nothing when it knows no leader.
    pub(crate) fn request(&self, follower: &Replica) -> Option<FetchRequest> {
        let log = &follower.log;
        Some(FetchRequest {
            to: follower.view.leader?,
            leader_epoch: follower.view.leader_epoch,
            offset: log.end(),
            acknowledged: if self.variant.waits_for_disk() {
                log.durable()
            } else {
                log.end()
            },
            last_epoch: log.last_epoch(),
            incarnation: follower.incarnation,
        })
    }

    /// A whole exchange in one step. What was under way before stays under way.
    pub(crate) fn fetch(&self, state: &mut State, follower: Node, answered: bool) {
        let under_way = state.requests[follower];
        state.requests[follower] = self.request(&state.replicas[follower]);
        self.receive_fetch(state, follower);
        if answered {
            self.receive_answer(state, follower);
        }
        state.answers[follower] = None;
        state.requests[follower] = under_way;
    }

    /// F1, F2, T1.
    pub(crate) fn receive_fetch(&self, state: &mut State, follower: Node) {
        let Some(request) = state.requests[follower].take() else {
            return;
        };
        let node = request.to;
        let leader = &mut state.replicas[node];
        let same_epoch = request.leader_epoch == leader.view.leader_epoch;
        if !leader.leads(node) || !(same_epoch || self.variant == Variant::NoFetchEpoch) {
            return;
        }
        let (epoch, end) = leader.log.end_of_epoch(request.last_epoch);
        let content = if epoch < request.last_epoch || end < request.offset {
            Content::Diverging { epoch, end }
        } else {
            let served = if self.variant == Variant::SameEpochRestartServesDurable {
                leader.log.durable()
            } else {
                leader.log.end()
            };
            let log = leader.log.sent(served.max(request.offset));
            leader.followers[follower] = Some(Progress {
                acknowledged: request.acknowledged,
                incarnation: request.incarnation,
            });
            self.advance(state, node);
            let high_watermark = state.replicas[node].high_watermark;
            Content::Data {
                log,
                high_watermark,
            }
        };
        state.answers[follower] = Some(FetchAnswer {
            leader_epoch: request.leader_epoch,
            offset: request.offset,
            content,
        });
    }

    /// F3, T2.
    pub(crate) fn receive_answer(&self, state: &mut State, follower: Node) {
        let Some(answer) = state.answers[follower].take() else {
            return;
        };
        let replica = &mut state.replicas[follower];
        let follows = replica.up && replica.view.leader.is_some_and(|leader| leader != follower);
        if !follows
            || answer.leader_epoch != replica.view.leader_epoch
            || answer.offset != replica.log.end()
        {
            return;
        }
        match answer.content {
            Content::Data {
                log,
                high_watermark,
            } => {
                for &entry in log.entries().iter().skip(answer.offset.into()) {
                    replica.log.push(entry);
                }
                replica.high_watermark = high_watermark.min(replica.log.end());
            }
            Content::Diverging { epoch, end } => {
                let (_, own) = replica.log.end_of_epoch(epoch);
                replica.log.truncate(own.min(end));
                replica.high_watermark = replica.high_watermark.min(replica.log.end());
            }
        }
    }

    /// I2: from now on the proposed ISR counts, whether the controller ever sees it or not.
    pub(crate) fn propose(&self, state: &mut State, node: Node, isr: Nodes) -> Option<()> {
        let leader = &mut state.replicas[node];
        leader.proposed = Some(isr);
        leader.attempts = 1;
        self.send_proposal(state, node)
    }

    pub(crate) fn retry(&self, state: &mut State, node: Node) -> Option<()> {
        state.replicas[node].attempts += 1;
        self.send_proposal(state, node)
    }

    /// None when the leader knows nothing of the member that it wants to let in.
    fn send_proposal(&self, state: &mut State, node: Node) -> Option<()> {
        let leader = &state.replicas[node];
        let isr = leader.proposed?;
        let added = match isr.minus(leader.view.isr).iter().last() {
            Some(member) => Some((member, leader.followers[member]?.incarnation)),
            None => None,
        };
        state.proposals[node] = Some(Proposal {
            leader_epoch: leader.view.leader_epoch,
            partition_epoch: leader.view.partition_epoch,
            isr,
            incarnation: leader.incarnation,
            added,
        });
        state.spent.proposals += 1;
        Some(())
    }

    pub(crate) fn forget_proposal(&self, state: &mut State, node: Node) {
        state.replicas[node].proposed = None;
        self.advance(state, node);
    }

    /// I4.
    pub(crate) fn receive_verdict(&self, state: &mut State, node: Node) {
        let Some(verdict) = state.verdicts[node].take() else {
            return;
        };
        let leader = &mut state.replicas[node];
        if !leader.leads(node) || verdict.leader_epoch != leader.view.leader_epoch {
            return;
        }
        let own_epoch = leader.view.partition_epoch;
        let only_attempt = leader.attempts == 1;
        match (verdict.ruling, self.variant) {
            (Ruling::Accepted, _) => {
                if own_epoch < verdict.partition_epoch {
                    leader.view.partition_epoch = verdict.partition_epoch;
                    leader.view.isr = verdict.isr;
                    leader.forget_proposal();
                }
            }
            (_, Variant::RefusalNotMatched) => {
                if verdict.partition_epoch == own_epoch {
                    leader.proposed = None;
                }
            }
            (Ruling::Stale, _) | (Ruling::Ineligible, Variant::IneligibleRaisesEpoch) => {}
            (Ruling::Ineligible, variant) => {
                if verdict.proposed_at == own_epoch
                    && (only_attempt || variant == Variant::IneligibleWithRetryInFlight)
                {
                    leader.forget_proposal();
                }
            }
        }
        self.advance(state, node);
    }

    /// The newest record reaches a replica.
    pub(crate) fn learn_record(&self, state: &mut State, node: Node) {
        let view = state.controller.view();
        let replica = &mut state.replicas[node];
        if view.leader_epoch != replica.view.leader_epoch {
            replica.followers = PerNode::default();
            replica.forget_proposal();
            replica.leader_start = if view.leader == Some(node) {
                replica.log.end()
            } else {
                0
            };
            let follows = view.leader.is_some_and(|leader| leader != node);
            if self.variant == Variant::TruncateToHighWatermark && follows {
                replica.log.truncate(replica.high_watermark);
            }
        } else if replica.view.partition_epoch < view.partition_epoch {
            replica.forget_proposal();
        }
        replica.view = view;
        self.advance(state, node);
    }

    pub(crate) fn crash(&self, state: &mut State, node: Node) {
        let replica = &mut state.replicas[node];
        replica.up = false;
        replica.log.lose_unsynced();
        replica.high_watermark = 0;
        replica.followers = PerNode::default();
        replica.forget_proposal();
        replica.leader_start = 0;
        state.answers[node] = None;
        state.verdicts[node] = None;
        state.spent.crashes += 1;
    }

    /// What N2 forbids.
    pub(crate) fn restart_in_epoch(&self, state: &mut State, node: Node) {
        let view = state.controller.view();
        let replica = &mut state.replicas[node];
        replica.up = true;
        replica.view = view;
        if view.leader == Some(node) {
            replica.leader_start = replica.log.end();
        }
    }

    pub(crate) fn ask_tail(&self, state: &mut State, leader: Node) {
        state.spent.reads += 1;
        state.read = Some(TailRead {
            leader,
            leader_epoch: state.replicas[leader].view.leader_epoch,
            committed: state.committed.end(),
            confirmed: Nodes::NONE,
        });
    }

    pub(crate) fn tell_tail(&self, state: &mut State) -> Option<()> {
        let read = state.read.take()?;
        if state.replicas[read.leader].high_watermark < read.committed {
            state.short_tail = true;
        }
        Some(())
    }
}
