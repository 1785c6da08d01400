//! The controller: the node that leads the metadata watches the others, fences the dead, lets the
//! living serve, and moves replicas where they belong. It decides nothing by itself that the
//! metadata does not check again (PROTOCOL M6): a controller that was deposed without knowing it
//! can only propose what is rejected.

mod balance;
mod connectivity;
mod detector;
mod forget;
pub(super) mod succession;
mod voters;

use std::collections::BTreeMap;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::lifecycle::Inner;
use super::peer::wire::{Heartbeat, HeartbeatAnswer};
use super::reach::Pace;
use super::{Broker, peer::Peering};
use crate::cluster::{Lane, Link, Probe};
use crate::metadata::{Applied, Command, NodeStatus, Store, View};
use crate::partition::{self, Proposal};
use crate::types::{Incarnation, NodeId};
use balance::Balance;
use connectivity::{Connectivity, Report};
use detector::{Act, Detector, Known, Patience, Probed};
use forget::Forgetting;

/// What the controller is told.
#[derive(Debug)]
pub(super) enum News {
    Heard(NodeId, Incarnation, Report),
    Probed(NodeId, Probed),
    /// Somebody wants to know for how many milliseconds each node has been silent.
    Silences(oneshot::Sender<BTreeMap<NodeId, u64>>),
}

/// How often the controller looks.
const LOOK: Duration = Duration::from_millis(50);
/// How often a node gives a sign of life (N4).
const BEAT: Duration = Duration::from_millis(200);
/// How long a sign of life may take.
const BEAT_PATIENCE: Duration = Duration::from_millis(500);
/// How often a node looks whether its disk keeps up (E6).
const PACE: Duration = Duration::from_secs(1);
/// How long a probe may take (E4).
const PROBE: Duration = Duration::from_millis(150);

impl Broker {
    /// A sign of life of another node.
    pub(super) fn heard(&self, beat: &Heartbeat) -> HeartbeatAnswer {
        if !self.inner.store.is_leader() {
            return HeartbeatAnswer::NotController(*self.inner.store.leader().borrow());
        }
        let report = Report {
            unreachable: beat.unreachable.clone(),
            slow: beat.slow,
        };
        let news = News::Heard(beat.node, beat.incarnation, report);
        // Full means that the controller is far behind; the next one comes in a moment.
        let _ = self.inner.news.try_send(news);
        HeartbeatAnswer::Heard(self.inner.clocks.told(beat.node, beat.wall))
    }
}

/// Tells whoever is the controller that this node lives.
pub(super) async fn beat(broker: Weak<Inner>) {
    let Some(stop) = broker.upgrade().map(|inner| inner.tasks.stopping()) else {
        return;
    };
    let mut every = tokio::time::interval(BEAT);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut pace, mut slow, mut looked) = (Pace::default(), false, Instant::now());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => {}
        }
        let Some(inner) = broker.upgrade() else {
            return;
        };
        if PACE <= looked.elapsed() {
            looked = Instant::now();
            slow = pace.look(&inner.stats);
        }
        let incarnation = inner.own.borrow().incarnation;
        if incarnation == Incarnation::default() || inner.leaving.load(Ordering::Relaxed) {
            continue;
        }
        let beat = Heartbeat {
            node: inner.node,
            incarnation,
            applied: inner.store.view().borrow().applied,
            can_write: !inner.space.is_short(),
            unreachable: inner.unreachable.borrow().clone(),
            slow,
            wall: inner.clock.now(),
        };
        let controller = *inner.store.leader().borrow();
        let Some(controller) = controller else {
            continue;
        };
        let answer = if controller == inner.node {
            Broker {
                inner: inner.clone(),
            }
            .heard(&beat)
        } else {
            let asked = inner.peering.ask(controller, &beat, bytes::Bytes::new());
            match tokio::time::timeout(BEAT_PATIENCE, asked).await {
                Ok(Ok((answer, _))) => answer,
                Ok(Err(_)) | Err(_) => continue,
            }
        };
        if let HeartbeatAnswer::Heard(behind) = answer {
            inner.retention_clock.learn(behind);
        }
    }
}

/// Works whenever this node leads the metadata.
pub(super) async fn run(broker: Weak<Inner>, mut news: mpsc::Receiver<News>) {
    let Some(tasks) = broker.upgrade().map(|inner| inner.tasks.clone()) else {
        return;
    };
    let stop = tasks.stopping();
    let began = Instant::now();
    let mut every = tokio::time::interval(LOOK);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut reign: Option<Reign> = None;
    loop {
        let heard = tokio::select! {
            () = stop.cancelled() => return,
            heard = news.recv() => heard,
            _ = every.tick() => None,
        };
        let Some(inner) = broker.upgrade() else {
            return;
        };
        if !inner.store.is_leader() {
            reign = None;
            continue;
        }
        let now = began.elapsed().as_millis() as u64;
        let reign = reign.get_or_insert_with(Reign::begin);
        match heard {
            Some(News::Heard(node, incarnation, report)) => {
                reign.detector.heard(node, incarnation, now);
                reign.connectivity.heard(node, report, now);
                // Signs of life come often; the look comes with the clock.
                continue;
            }
            Some(News::Probed(node, found)) => reign.detector.probed(node, found),
            Some(News::Silences(reply)) => {
                // Who asked may have gone.
                let _ = reply.send(reign.detector.silences(now));
                continue;
            }
            None => {}
        }
        let view = inner.store.view().borrow().clone();
        reign.suspect_lost(&view, &inner.peering, inner.node, now);
        let acts = reign.detector.tick(&known(&view), now);
        for act in acts {
            reign.carry_out(act, &inner, &tasks, &view);
        }
        for command in reign.relieve(&view, now) {
            reign.propose(command, &inner.store, &tasks);
        }
        for command in reign.balance.plan(&view, now) {
            if reign.is_welcome(&command, now) {
                reign.propose(command, &inner.store, &tasks);
            }
        }
        reign.keep_voters(&view, &inner, &tasks, now);
    }
}

/// Puts leaders' wishes for other in-sync sets to the controller, and brings back its answers.
pub(super) async fn propose(broker: Weak<Inner>, mut proposals: mpsc::Receiver<Proposal>) {
    let Some(tasks) = broker.upgrade().map(|inner| inner.tasks.clone()) else {
        return;
    };
    let stop = tasks.stopping();
    let turns = std::sync::Arc::new(tokio::sync::Semaphore::new(PROPOSALS));
    loop {
        let proposal = tokio::select! {
            () = stop.cancelled() => return,
            proposal = proposals.recv() => proposal,
        };
        let (Some(proposal), Some(inner), Ok(turn)) = (
            proposal,
            broker.upgrade(),
            turns.clone().acquire_owned().await,
        ) else {
            return;
        };
        let store = inner.store.clone();
        let (node, incarnation) = (inner.node, inner.own.borrow().incarnation);
        tasks.spawn("alter-partition", async move {
            let _turn = turn;
            match proposal {
                Proposal::Alter { from, request } => {
                    let attempt = request.attempt;
                    let command = Command::AlterPartition {
                        topic: from.reader().topic_id(),
                        partition: from.name().partition,
                        alter: request,
                    };
                    // No answer is an answer, too: the leader asks again (I4).
                    if let Ok(Applied::PartitionAltered(answer, _)) = store.apply(command).await {
                        from.alter_answered(attempt, answer);
                    }
                }
                Proposal::Resign { from } => {
                    let command = Command::ResignReplica {
                        topic: from.reader().topic_id(),
                        partition: from.name().partition,
                        node,
                        incarnation,
                    };
                    if let Err(error) = store.apply(command).await {
                        let error = partition::chain(&error);
                        tracing::warn!(partition = %from.name(), error, "resigning");
                    }
                }
            }
        });
    }
}

fn known(view: &View) -> Vec<Known> {
    let nodes = view.nodes().map(|node| Known {
        id: node.id,
        incarnation: node.incarnation,
        serving: node.status.is_live(),
    });
    nodes.collect()
}

/// What a controller knows, from when it became it.
struct Reign {
    detector: Detector,
    connectivity: Connectivity,
    relieved_at: u64,
    balance: Balance,
    /// Connections whose loss was counted already.
    lost: BTreeMap<NodeId, bool>,
    /// One proposal at a time for each node, and one move at a time.
    proposals: std::sync::Arc<tokio::sync::Semaphore>,
    /// One change of the voters at a time.
    voting: std::sync::Arc<tokio::sync::Semaphore>,
    voters_at: u64,
    forgetting: Forgetting,
}

/// How often the voters are looked at, in milliseconds.
const VOTERS: u64 = 500;
/// How often leaders that cannot do their work are looked for, in milliseconds.
const RELIEVE: u64 = 250;
/// Commands of the controller that may be on their way at once.
const PROPOSALS: usize = 64;

impl Reign {
    fn begin() -> Self {
        Self {
            detector: Detector::new(Patience::default()),
            connectivity: Connectivity::default(),
            relieved_at: 0,
            balance: Balance::default(),
            lost: BTreeMap::new(),
            proposals: std::sync::Arc::new(tokio::sync::Semaphore::new(PROPOSALS)),
            voting: std::sync::Arc::new(tokio::sync::Semaphore::new(1)),
            voters_at: 0,
            forgetting: Forgetting::default(),
        }
    }

    /// A connection that breaks is the first sign of a process that was killed.
    fn suspect_lost(&mut self, view: &View, peering: &Peering, own: NodeId, now: u64) {
        for node in view
            .nodes()
            .filter(|node| node.status.is_live() && node.id != own)
        {
            let Some(peer) = peering.peer(node.id) else {
                continue;
            };
            let lost = matches!(&*peer.link(Lane::Control).borrow(), Link::Lost(_));
            let before = self.lost.insert(node.id, lost).unwrap_or(false);
            if lost && !before {
                self.detector.suspect(node.id, node.incarnation, now);
            }
        }
    }

    fn carry_out(&mut self, act: Act, inner: &Inner, tasks: &crate::tasks::Tasks, view: &View) {
        match act {
            Act::Probe(node) => {
                let Some(address) = inner.peering.address(node) else {
                    return self.detector.probed(node, Probed::Silent);
                };
                let (peers, news) = (inner.peering.peers.clone(), inner.news.clone());
                tasks.spawn("probe", async move {
                    let found = match peers.probe(node, &address, PROBE).await {
                        Probe::Alive(_) => Probed::Alive,
                        // Somebody else has its address: it is not there.
                        Probe::Refused | Probe::Other(_) => Probed::Refused,
                        Probe::Silent => Probed::Silent,
                    };
                    // The controller may be gone.
                    let _ = news.send(News::Probed(node, found)).await;
                });
            }
            Act::Fence(id, incarnation) => {
                let name = view.node(id).map(|node| node.name.to_string());
                tracing::warn!(node = %id, name, "a node is taken for dead");
                metrics::counter!(crate::telemetry::NODES_FENCED).increment(1);
                self.propose(Command::FenceNode { id, incarnation }, &inner.store, tasks);
            }
            Act::Activate(id, incarnation) => {
                self.propose(
                    Command::ActivateNode { id, incarnation },
                    &inner.store,
                    tasks,
                );
            }
        }
    }

    /// E5, E6: leaderships that others can exercise better.
    fn relieve(&mut self, view: &View, now: u64) -> Vec<Command> {
        if self.connectivity.is_calm() || now.saturating_sub(self.relieved_at) < RELIEVE {
            return Vec::new();
        }
        self.relieved_at = now;
        let active = |id: NodeId| {
            view.node(id)
                .is_some_and(|node| node.status == NodeStatus::Active)
        };
        let mut commands = Vec::new();
        for (topic, partition, record) in view.partitions() {
            let Some(entry) = view.topic_by_id(topic) else {
                continue;
            };
            let min = entry.settings.min_insync_replicas;
            if let Some(to) = self.connectivity.better(record, min, active, now) {
                tracing::warn!(
                    topic = %entry.name, %partition, from = ?record.leader, %to,
                    "the leader cannot reach its followers, or its disk is slow"
                );
                commands.push(Command::MoveLeader {
                    topic,
                    partition,
                    to,
                    partition_epoch: record.partition_epoch,
                });
            }
            if commands.len() == PROPOSALS / 2 {
                break;
            }
        }
        commands
    }

    /// Whether a plan of the balancer gives leadership to a node that should have it now.
    fn is_welcome(&self, command: &Command, now: u64) -> bool {
        match command {
            Command::MoveLeader { to, .. } => {
                !self.connectivity.is_shunned(*to, now) && !self.detector.is_held_down(*to, now)
            }
            _ => true,
        }
    }

    /// Lets nodes vote on the metadata, or no more, one at a time (M9).
    fn keep_voters(&mut self, view: &View, inner: &Inner, tasks: &crate::tasks::Tasks, now: u64) {
        if now.saturating_sub(self.voters_at) < VOTERS {
            return;
        }
        let Ok(turn) = self.voting.clone().try_acquire_owned() else {
            return;
        };
        self.voters_at = now;
        let status = inner.store.status();
        let store = inner.store.clone();
        let change = match status.is_changing {
            // A change whose driver went away half way: nothing else can begin before it ends.
            true => Some(voters::Change::Finish),
            false => voters::change(view, &status.voters, inner.node),
        };
        let Some(change) = change else {
            if let Some(forget) = self.forgetting.next(view, &status, now) {
                tasks.spawn("forget-node", async move {
                    let _turn = turn;
                    forget.carry_out(&store).await;
                });
            }
            return;
        };
        tasks.spawn("voters", async move {
            let _turn = turn;
            let changed = match change {
                voters::Change::Promote(node) => store.promote(node).await,
                voters::Change::Demote(node) => store.demote(node).await,
                voters::Change::Finish => store.finish_change().await,
            };
            match changed {
                Ok(()) => tracing::info!(?change, "the voters have changed"),
                Err(error) => {
                    tracing::debug!(error = partition::chain(&error), ?change, "the voters");
                }
            }
        });
    }

    /// Proposes without waiting: what is lost is decided anew at the next look.
    fn propose(&self, command: Command, store: &Store, tasks: &crate::tasks::Tasks) {
        let Ok(turn) = self.proposals.clone().try_acquire_owned() else {
            return;
        };
        let store = store.clone();
        tasks.spawn("propose", async move {
            let _turn = turn;
            if let Err(error) = store.apply(command).await {
                tracing::debug!(
                    error = partition::chain(&error),
                    "the controller's proposal"
                );
            }
        });
    }
}
