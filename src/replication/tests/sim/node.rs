//! A node: its disk, and the role that it plays for each partition.

use std::collections::VecDeque;

use super::Mutant;
use super::controller::{State, index};
use super::history::History;
use crate::replication::{Effect, EpochCache, Follower, Leader, LogPosition, Timing};
use crate::types::*;

pub(super) const TIMING: Timing = Timing {
    lag_max_ms: 300,
    retry_ms: 60,
};

/// A record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) epoch: LeaderEpoch,
    pub(super) value: u64,
}

/// A log: in memory, and the part of it that a power cut leaves.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) entries: Vec<Entry>,
    pub(super) durable: usize,
    pub(super) epochs: EpochCache,
    /// Grows when records are removed: a sync that began before says nothing after.
    pub(super) version: u64,
}

impl Log {
    pub(super) fn end(&self) -> Offset {
        Offset(self.entries.len() as u64)
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.epochs.assign(entry.epoch, self.end());
        self.entries.push(entry);
    }

    /// Durably.
    pub(super) fn truncate(&mut self, to: usize) {
        self.entries.truncate(to);
        self.epochs.truncate(self.end());
        self.durable = self.durable.min(to);
        self.version += 1;
    }

    pub(super) fn end_of(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        self.epochs.end_offset_for_epoch(epoch, self.end())
    }
}

#[derive(Debug)]
pub(super) enum Role {
    None,
    Leader(Box<Leader>),
    Follower(Box<Follower>),
}

/// One partition's copy.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) generation: u64,
    pub(super) log: Log,
    pub(super) role: Role,
    pub(super) syncing: bool,
    /// When the follower's last request left that is not answered.
    pub(super) asked_at: Option<u64>,
    /// Appends whose producers wait: where they end, and their values.
    pub(super) waiting: VecDeque<(usize, u64)>,
    /// The high watermark between two roles.
    remembered: usize,
    /// The high watermark on disk.
    pub(super) checkpoint: usize,
}

impl Copy {
    fn new(generation: u64) -> Self {
        Self {
            generation,
            log: Log::default(),
            role: Role::None,
            syncing: false,
            asked_at: None,
            waiting: VecDeque::new(),
            remembered: 0,
            checkpoint: 0,
        }
    }

    pub(super) fn hwm(&self) -> usize {
        match &self.role {
            Role::None => self.remembered,
            Role::Leader(leader) => leader.log().high_watermark.0 as usize,
            Role::Follower(follower) => follower.log().high_watermark.0 as usize,
        }
    }

    fn position(&self) -> LogPosition {
        LogPosition {
            log_end: self.log.end(),
            durable_end: Offset(self.log.durable as u64),
            high_watermark: Offset(self.hwm() as u64),
        }
    }
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) up: bool,
    /// Tells processes apart; nodes themselves know only incarnations.
    pub(super) process: u64,
    /// None until registered (N2).
    pub(super) incarnation: Option<Incarnation>,
    pub(super) paused_until: u64,
    /// The state of the metadata that it has applied.
    pub(super) applied: usize,
    pub(super) copies: Vec<Copy>,
    /// Whether unsynced records may be missing since the last process (N3).
    pub(super) lossy: bool,
}

impl Node {
    pub(super) fn new(id: NodeId, partitions: usize) -> Self {
        Self {
            id,
            up: true,
            process: 1,
            incarnation: Some(Incarnation(id.0.into())),
            paused_until: 0,
            applied: 0,
            copies: (0..partitions).map(|_| Copy::new(1)).collect(),
            lossy: false,
        }
    }

    /// The process ends. `keep` says how many of a log's unsynced records are found later.
    pub(super) fn crash(&mut self, mut keep: impl FnMut(usize) -> usize) {
        self.up = false;
        self.process += 1;
        for copy in &mut self.copies {
            copy.remembered = copy.checkpoint;
            copy.role = Role::None;
            let unsynced = copy.log.entries.len() - copy.log.durable;
            copy.log.truncate(copy.log.durable + keep(unsynced));
            copy.remembered = copy.remembered.min(copy.log.entries.len());
            copy.waiting.clear();
            copy.asked_at = None;
            copy.syncing = false;
        }
    }

    /// A new process recovers the logs, and syncs what it found.
    pub(super) fn start(&mut self) {
        self.up = true;
        for copy in &mut self.copies {
            copy.log.durable = copy.log.entries.len();
        }
    }

    /// The metadata is now in `state`, as far as this node knows.
    pub(super) fn apply(
        &mut self,
        partition: usize,
        state: &State,
        mutant: Option<Mutant>,
        now: u64,
        history: &mut History,
    ) -> Vec<Effect> {
        let view = state.view(partition, mutant);
        let record = &view.record;
        let mut effects = Vec::new();
        let copy = &mut self.copies[partition];
        let generation = record
            .replica(self.id)
            .map_or(0, |replica| replica.generation);
        if generation != copy.generation {
            history.seen.copies_dropped += u64::from(copy.generation != 0);
            let version = copy.log.version + 1;
            *copy = Copy::new(generation);
            copy.log.version = version;
        }
        let Some(incarnation) = self.incarnation.filter(|_| generation != 0) else {
            return effects;
        };
        copy.remembered = copy.hwm();
        if record.leader == Some(self.id) {
            if let Role::Leader(leader) = &mut copy.role
                && leader.epoch() == record.leader_epoch
            {
                leader.view_changed(view, &mut effects);
                return effects;
            }
            let log = &copy.log.entries;
            history.reign_began(partition, self.id, incarnation, record.leader_epoch, log);
            let mut leader = Leader::new(self.id, incarnation, view, copy.position(), TIMING, now);
            if mutant == Some(Mutant::NoLesoRule) {
                leader.reign_start = Offset::ZERO;
            }
            copy.role = Role::Leader(Box::new(leader));
            copy.waiting.clear();
            return effects;
        }
        let position = copy.position();
        match &mut copy.role {
            Role::Follower(follower) => {
                let news = follower.record().leader_epoch != record.leader_epoch;
                follower.view_changed(record.clone());
                if news && record.leader.is_some() && mutant == Some(Mutant::HwmTruncation) {
                    let to = copy.remembered;
                    history.cuts(partition, self.id, &copy.log.entries, to);
                    copy.log.truncate(to);
                    follower.truncated(Offset(to as u64));
                }
            }
            role @ (Role::None | Role::Leader(_)) => {
                let follower = Follower::new(self.id, incarnation, record.clone(), position);
                *role = Role::Follower(Box::new(follower));
                copy.waiting.clear();
                copy.asked_at = None;
            }
        }
        effects
    }

    /// Whether the controller can reach it.
    pub(super) fn answers(&self, now: u64) -> bool {
        self.up && self.paused_until <= now
    }

    /// Whether `state` knows this node's process.
    pub(super) fn is_registered(&self, state: &State) -> bool {
        self.incarnation == Some(state.nodes[index(self.id)].incarnation)
    }
}
