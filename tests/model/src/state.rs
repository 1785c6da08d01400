//! Everything that can differ between two moments.

use crate::log::Log;
use crate::node::{Node, Nodes, PerNode};

/// A partition record, as far as a replica has learnt it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct View {
    pub(crate) leader: Option<Node>,
    pub(crate) leader_epoch: u8,
    pub(crate) partition_epoch: u8,
    pub(crate) isr: Nodes,
}

/// What a leader knows of a follower that has fetched in its epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Progress {
    /// What counts for the high watermark: the durable end, or with `durability=replicated` the end
    /// (F5).
    pub(crate) acknowledged: u8,
    pub(crate) incarnation: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Replica {
    pub(crate) up: bool,
    pub(crate) incarnation: u8,
    pub(crate) log: Log,
    pub(crate) high_watermark: u8,
    pub(crate) view: View,
    /// Leader only.
    pub(crate) followers: PerNode<Option<Progress>>,
    /// Leader only: the ISR that it has proposed.
    pub(crate) proposed: Option<Nodes>,
    /// Leader only: how often it has sent the proposal.
    pub(crate) attempts: u8,
    /// Leader only: its end when it was elected (LESO).
    pub(crate) leader_start: u8,
}

impl Replica {
    /// Whether it takes itself for the leader.
    pub(crate) fn leads(&self, own: Node) -> bool {
        self.up && self.view.leader == Some(own)
    }

    pub(crate) fn forget_proposal(&mut self) {
        self.proposed = None;
        self.attempts = 0;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FetchRequest {
    pub(crate) to: Node,
    pub(crate) leader_epoch: u8,
    pub(crate) offset: u8,
    pub(crate) acknowledged: u8,
    pub(crate) last_epoch: u8,
    pub(crate) incarnation: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FetchAnswer {
    pub(crate) leader_epoch: u8,
    pub(crate) offset: u8,
    pub(crate) content: Content,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Content {
    Data { log: Log, high_watermark: u8 },
    Diverging { epoch: u8, end: u8 },
}

/// AlterPartition (I2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Proposal {
    pub(crate) leader_epoch: u8,
    pub(crate) partition_epoch: u8,
    pub(crate) isr: Nodes,
    pub(crate) incarnation: u8,
    /// Who is let in, in which incarnation.
    pub(crate) added: Option<(Node, u8)>,
}

/// The answer to an AlterPartition (I4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Verdict {
    pub(crate) ruling: Ruling,
    /// Partition epoch of the proposal.
    pub(crate) proposed_at: u8,
    pub(crate) leader_epoch: u8,
    /// The controller's, after its ruling.
    pub(crate) partition_epoch: u8,
    pub(crate) isr: Nodes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Ruling {
    Accepted,
    Stale,
    Ineligible,
}

/// The partition record and what the controller knows of the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Controller {
    pub(crate) leader: Option<Node>,
    pub(crate) leader_epoch: u8,
    pub(crate) partition_epoch: u8,
    pub(crate) isr: Nodes,
    pub(crate) elr: Nodes,
    pub(crate) incarnations: PerNode<u8>,
    pub(crate) fenced: Nodes,
    pub(crate) next_incarnation: u8,
}

impl Controller {
    pub(crate) fn view(&self) -> View {
        View {
            leader: self.leader,
            leader_epoch: self.leader_epoch,
            partition_epoch: self.partition_epoch,
            isr: self.isr,
        }
    }
}

/// A question for the tail that has not been answered yet (R2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TailRead {
    pub(crate) leader: Node,
    pub(crate) leader_epoch: u8,
    /// What was committed when the question came.
    pub(crate) committed: u8,
    pub(crate) confirmed: Nodes,
}

/// How much of the bounds has been used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Spent {
    pub(crate) values: u8,
    pub(crate) crashes: u8,
    pub(crate) fences: u8,
    pub(crate) proposals: u8,
    pub(crate) reads: u8,
    pub(crate) stale_fetches: u8,
}

/// One moment of the partition: the replicas, the controller, what is on its way between them, and
/// what an observer who sees everything has noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct State {
    pub(crate) controller: Controller,
    pub(crate) replicas: PerNode<Replica>,
    /// By follower.
    pub(crate) requests: PerNode<Option<FetchRequest>>,
    /// By follower.
    pub(crate) answers: PerNode<Option<FetchAnswer>>,
    /// By leader.
    pub(crate) proposals: PerNode<Option<Proposal>>,
    /// By leader.
    pub(crate) verdicts: PerNode<Option<Verdict>>,
    pub(crate) read: Option<TailRead>,
    /// The observer's: what was ever below a leader's high watermark.
    pub(crate) committed: Log,
    /// The observer's: a leader has committed something else than another before it.
    pub(crate) committed_twice: bool,
    /// The observer's: a tail was told that is shorter than what had been committed.
    pub(crate) short_tail: bool,
    pub(crate) spent: Spent,
}

impl State {
    /// Node 0 leads, every log is empty.
    pub(crate) fn first(isr: Nodes) -> Self {
        let leader = Node::ALL[0];
        let controller = Controller {
            leader: Some(leader),
            leader_epoch: 1,
            partition_epoch: 1,
            isr,
            elr: Nodes::NONE,
            incarnations: PerNode([1; 3]),
            fenced: Nodes::NONE,
            next_incarnation: 2,
        };
        let replica = Replica {
            up: true,
            incarnation: 1,
            log: Log::default(),
            high_watermark: 0,
            view: controller.view(),
            followers: PerNode::default(),
            proposed: None,
            attempts: 0,
            leader_start: 0,
        };
        Self {
            controller,
            replicas: PerNode([replica; 3]),
            requests: PerNode::default(),
            answers: PerNode::default(),
            proposals: PerNode::default(),
            verdicts: PerNode::default(),
            read: None,
            committed: Log::default(),
            committed_twice: false,
            short_tail: false,
            spent: Spent::default(),
        }
    }
}
