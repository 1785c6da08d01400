//! Time, the network, and everything that goes wrong.

mod nodes;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};

use super::controller::{Controller, Founding, State, index};
use super::history::{History, Seen};
use super::node::{Entry, Log, Node, Role};
use super::{Mutant, Rng};
use crate::replication::control::create;
use crate::replication::{
    AlterAnswer, AlterPartition, Effect, Fetch, FetchAnswer, Leader, Standing, Step,
};
use crate::types::*;

/// How many nodes there are; and the number by which links name the controller.
const NODES: usize = 3;
const CONTROLLER: usize = NODES;
/// When trouble ends, when producers end, and when all must be well. Milliseconds.
const TROUBLE: u64 = 2_500;
const QUIET: u64 = TROUBLE + 1_500;
const HEALED: u64 = QUIET + 1_000;
/// Most records in one answer.
const BATCH: usize = 6;

#[derive(Debug, Clone)]
enum Message {
    Fetch {
        partition: usize,
        fetch: Fetch,
        process: u64,
        wants: bool,
    },
    Fetched {
        partition: usize,
        request: Fetch,
        process: u64,
        answer: FetchAnswer,
        records: Vec<Entry>,
    },
    Alter {
        partition: usize,
        request: AlterPartition,
        process: u64,
    },
    Altered {
        partition: usize,
        attempt: u64,
        process: u64,
        answer: AlterAnswer,
    },
    Register {
        process: u64,
        lossy: bool,
    },
    Registered {
        process: u64,
        incarnation: Incarnation,
        version: usize,
    },
    State {
        version: usize,
    },
}

#[derive(Debug, Clone)]
enum Event {
    Tick(usize),
    Produce,
    Detect,
    Trouble,
    Restart(usize),
    Mend(usize, usize),
    Arrive {
        from: usize,
        to: usize,
        message: Message,
    },
    Synced {
        node: usize,
        partition: usize,
        process: u64,
        version: u64,
        end: usize,
    },
}

#[derive(Debug)]
pub(super) struct World {
    rng: Rng,
    mutant: Option<Mutant>,
    now: u64,
    /// By time and order of making.
    events: BTreeMap<(u64, u64), Event>,
    made: u64,
    controller: Controller,
    /// The process of each node that was registered last.
    processes: [u64; NODES],
    /// Since when each node has not answered the controller.
    silent: [Option<u64>; NODES],
    nodes: Vec<Node>,
    /// Links that lose everything: from, to.
    cut: BTreeSet<(usize, usize)>,
    history: History,
    values: u64,
    /// Crashes that may still come; what is only replicated survives one (PROTOCOL 2.0).
    crashes: u64,
}

impl World {
    pub(super) fn new(seed: u64, mutant: Option<Mutant>, real: Option<&Founding>) -> Self {
        let mut rng = Rng(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let fsync = mutant.is_some() || rng.percent(75);
        let durability = match fsync {
            true => Durability::Fsync,
            false => Durability::Replicated,
        };
        let min = match mutant.is_none() && fsync && rng.percent(25) {
            true => 1,
            false => 2,
        };
        let partitions = 1 + rng.below(2) as usize;
        let ids: Vec<NodeId> = (1..=NODES as u32).map(NodeId).collect();
        let record = |partition: usize| {
            let replica = |at: usize| Replica {
                node: ids[(partition + at) % NODES],
                generation: 1,
            };
            let replicas: Vec<Replica> = (0..NODES).map(replica).collect();
            create(&replicas, LeaderEpoch(1), |_| true)
        };
        let standing = |id: &NodeId| Standing {
            incarnation: Incarnation(id.0.into()),
            unfenced: true,
            may_join: true,
        };
        let state = State {
            records: (0..partitions).map(record).collect(),
            nodes: ids.iter().map(standing).collect(),
            min,
            durability,
        };
        let real = real.map(|real| real(&state));
        let mut world = Self {
            rng,
            mutant,
            now: 0,
            events: BTreeMap::new(),
            made: 0,
            controller: Controller::new(state, mutant, real),
            processes: [1; NODES],
            silent: [None; NODES],
            nodes: ids.iter().map(|id| Node::new(*id, partitions)).collect(),
            cut: BTreeSet::new(),
            history: History::new(partitions, durability, mutant),
            values: 0,
            crashes: if fsync { u64::MAX } else { 1 },
        };
        for node in 0..NODES {
            let known = world.controller.now.nodes[node].incarnation;
            world.nodes[node].incarnation = Some(known);
            world.apply(node, 0);
            world.after(node as u64, Event::Tick(node));
        }
        for event in [Event::Produce, Event::Detect, Event::Trouble] {
            world.after(10, event);
        }
        world
    }

    pub(super) fn run(mut self) -> Result<Seen, String> {
        while let Some(((at, _), event)) = self.events.pop_first() {
            if HEALED < at {
                break;
            }
            self.now = at;
            let version = self.controller.version();
            self.happen(event);
            if version != self.controller.version() {
                self.tell();
            }
            self.history.check(&self.controller.now, &self.nodes);
            if self.history.broken.is_some() {
                break;
            }
        }
        self.history.check_healed(&self.controller.now, &self.nodes);
        match self.history.broken {
            Some(broken) => Err(format!("at {} ms, {broken}", self.now)),
            None => Ok(self.history.seen),
        }
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.made += 1;
        self.events.insert((self.now + delay, self.made), event);
    }

    fn in_trouble(&self) -> bool {
        self.now < TROUBLE
    }

    fn any(&mut self) -> usize {
        self.rng.below(NODES as u64) as usize
    }

    fn any_partition(&mut self) -> usize {
        let partitions = self.controller.now.records.len() as u64;
        self.rng.below(partitions) as usize
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        let trouble = self.in_trouble();
        if trouble && self.rng.percent(4) {
            return;
        }
        let copies = 1 + u64::from(trouble && self.rng.percent(4));
        for _ in 0..copies {
            let delay = match trouble && self.rng.percent(6) {
                true => self.rng.between(20, 400),
                false => self.rng.between(1, 8),
            };
            let message = message.clone();
            self.after(delay, Event::Arrive { from, to, message });
        }
    }

    /// Metadata reaches nodes late, or not at all: they ask again.
    fn tell(&mut self) {
        let version = self.controller.version();
        for node in 0..NODES {
            self.send(CONTROLLER, node, Message::State { version });
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick(node) => {
                let wait = self.rng.between(15, 25);
                self.after(wait, Event::Tick(node));
                if self.nodes[node].answers(self.now) {
                    self.tick(node);
                }
            }
            Event::Produce => {
                if self.now < QUIET {
                    let wait = self.rng.between(4, 20);
                    self.after(wait, Event::Produce);
                    self.produce();
                }
            }
            Event::Detect => {
                self.after(20, Event::Detect);
                self.detect();
            }
            Event::Trouble => {
                if self.in_trouble() {
                    let wait = self.rng.between(20, 160);
                    self.after(wait, Event::Trouble);
                    self.trouble();
                }
            }
            Event::Restart(node) => self.restart(node),
            Event::Mend(from, to) => {
                self.cut.remove(&(from, to));
            }
            Event::Arrive { from, to, message } => {
                if self.in_trouble() && self.cut.contains(&(from, to)) {
                    return;
                }
                if to == CONTROLLER {
                    return self.decide(from, message);
                }
                if self.defer(to, || Event::Arrive {
                    from,
                    to,
                    message: message.clone(),
                }) {
                    return;
                }
                if self.nodes[to].up {
                    self.hear(from, to, message);
                }
            }
            Event::Synced {
                node,
                partition,
                process,
                version,
                end,
            } => {
                let again = Event::Synced {
                    node,
                    partition,
                    process,
                    version,
                    end,
                };
                if !self.defer(node, || again) && self.nodes[node].process == process {
                    self.synced(node, partition, version, end);
                }
            }
        }
    }

    /// What happens to a node that stands still, happens to it later.
    fn defer(&mut self, node: usize, event: impl FnOnce() -> Event) -> bool {
        let until = self.nodes[node].paused_until;
        let paused = self.nodes[node].up && self.now < until;
        if paused {
            self.after(until - self.now, event());
        }
        paused
    }
}
