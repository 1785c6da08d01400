//! The leader's side of a partition: what is committed, and who is in sync.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::control::{AlterAnswer, AlterPartition, Standing};
use super::fetch::{Fetch, FetchAnswer, LogPosition};
use crate::types::{Durability, Incarnation, LeaderEpoch, NodeId, Offset, PartitionRecord};

/// What a node knows of a partition, all of it from the same state of the metadata: a minimum of
/// another time than the in-sync set would let a leader commit what an eligible replica lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionView {
    /// The partition's record.
    pub record: PartitionRecord,
    /// The topic's `min_insync_replicas`.
    pub min_insync: u32,
    /// What the topic's acknowledgements prove.
    pub durability: Durability,
    /// The nodes that hold the replicas.
    pub peers: BTreeMap<NodeId, Standing>,
}

/// How patient a leader is. In milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How far behind a replica may be and count as in sync (I1).
    pub lag_max_ms: u64,
    /// After what time without an answer the controller is asked again (I4).
    pub retry_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lag_max_ms: 10_000,
            retry_ms: 500,
        }
    }
}

/// What the owner of the log has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Everything below is committed: show it to readers, acknowledge it.
    HighWatermark(Offset),
    /// Ask the controller, and give its answer to [`Leader::alter_answered`]; no answer is fine.
    ProposeIsr(AlterPartition),
}

/// What a follower said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    incarnation: Incarnation,
    generation: u64,
    fetch_offset: Offset,
    /// Invariant: not above `fetch_offset`.
    durable_offset: Offset,
}

/// An in-sync set that the controller may have put in place already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pending {
    isr: BTreeSet<NodeId>,
    request: AlterPartition,
    /// The first attempt for this set. The last one is `request`'s.
    first: u64,
    sent_ms: u64,
}

/// A partition's leader in one epoch.
///
/// Times are milliseconds of one monotonic clock. Invariants: the high watermark never decreases;
/// it is not above what the weakest member of the *maximal* in-sync set has (14), which is the
/// recorded set together with the proposed one: either may be in force (13).
#[derive(Debug, Clone)]
pub struct Leader {
    own: NodeId,
    incarnation: Incarnation,
    pub(super) view: PartitionView,
    timing: Timing,
    /// The log's ends, and what is committed.
    pub(super) log: LogPosition,
    /// The log end when this reign began (LESO). An earlier leader may have committed up to here.
    pub(super) reign_start: Offset,
    /// What followers said in this epoch.
    pub(super) followers: BTreeMap<NodeId, Progress>,
    pub(super) pending: Option<Pending>,
    attempts: u64,
    began_ms: u64,
    /// The log end as it was at some times, oldest first; spaced, so few.
    ends: VecDeque<(u64, Offset)>,
    deposed: bool,
}

/// Into how many parts the tolerated lag is measured.
const LAG_PARTS: u64 = 16;

impl Leader {
    /// Takes the lead as `view` says. `log` is the log as it is now; its high watermark may be
    /// stale (H4).
    pub fn new(
        own: NodeId,
        incarnation: Incarnation,
        view: PartitionView,
        log: LogPosition,
        timing: Timing,
        now_ms: u64,
    ) -> Self {
        let deposed = view.record.leader != Some(own);
        Self {
            own,
            incarnation,
            // Attempts of different reigns differ: answers to one must not pass for another's.
            attempts: u64::from(view.record.leader_epoch.0) << 32,
            view,
            timing,
            reign_start: log.log_end,
            log: LogPosition {
                durable_end: log.durable_end.min(log.log_end),
                high_watermark: log.high_watermark.min(log.log_end),
                ..log
            },
            followers: BTreeMap::new(),
            pending: None,
            began_ms: now_ms,
            ends: VecDeque::from([(now_ms, log.log_end)]),
            deposed,
        }
    }

    /// The reign.
    pub fn epoch(&self) -> LeaderEpoch {
        self.view.record.leader_epoch
    }

    /// The record as this leader knows it.
    pub fn record(&self) -> &PartitionRecord {
        &self.view.record
    }

    /// In-sync replicas without which nothing is committed, as the topic asks.
    pub fn min_insync(&self) -> u32 {
        self.view.min_insync
    }

    /// The log's ends and the high watermark.
    pub fn log(&self) -> LogPosition {
        self.log
    }

    /// Whether the view said that another reign has begun. Everything is refused from then on.
    pub fn is_deposed(&self) -> bool {
        self.deposed
    }

    /// Whether an `acks=all` append may be taken (A1): enough replicas are in sync to commit it.
    pub fn can_append_acks_all(&self) -> bool {
        !self.deposed && self.view.min_insync.max(1) as usize <= self.view.record.isr.len()
    }

    /// Whether everything before `end` is committed in this reign (A6).
    pub fn acks_all_done(&self, end: Offset) -> bool {
        !self.deposed && end <= self.log.high_watermark
    }

    /// Whether the high watermark has reached the point at which this reign began: only then does
    /// it cover all that earlier leaders committed, and may answer for the partition's end (H4).
    pub fn caught_up(&self) -> bool {
        !self.deposed && self.reign_start <= self.log.high_watermark
    }

    /// Members of the recorded and of the proposed in-sync set: whoever may be asked to lead next.
    pub fn maximal_isr(&self) -> impl Iterator<Item = NodeId> {
        let isr = &self.view.record.isr;
        let proposed = self.pending.iter().flat_map(|pending| &pending.isr);
        isr.iter()
            .chain(proposed.filter(|node| !isr.contains(node)))
            .copied()
    }

    /// How far a follower is: its log end and its durable end, as last told in this epoch.
    pub fn progress(&self, node: NodeId) -> Option<(Offset, Offset)> {
        let progress = self.followers.get(&node)?;
        Some((progress.fetch_offset, progress.durable_offset))
    }

    /// Records were appended; the log ends at `log_end`.
    pub fn appended(&mut self, log_end: Offset, effects: &mut Vec<Effect>) {
        self.log.log_end = log_end;
        self.advance(effects);
    }

    /// Everything below `durable_end` is on stable storage.
    pub fn synced(&mut self, durable_end: Offset, effects: &mut Vec<Effect>) {
        self.log.durable_end = durable_end.min(self.log.log_end);
        self.advance(effects);
    }

    /// A follower asks (F1, F2, T1). `end_of` is the log's
    /// [`end_offset_for_epoch`](super::EpochCache::end_offset_for_epoch).
    pub fn fetched(
        &mut self,
        fetch: &Fetch,
        log_start: Offset,
        end_of: impl FnOnce(LeaderEpoch) -> Option<(LeaderEpoch, Offset)>,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) -> FetchAnswer {
        if let Some(refused) = self.refusal(fetch) {
            return refused;
        }
        if fetch.fetch_offset < log_start {
            return FetchAnswer::OutOfRange { log_start };
        }
        match fetch.last_epoch {
            // An empty log differs from nothing.
            None if fetch.fetch_offset <= self.log.log_end => {}
            None => return FetchAnswer::OutOfRange { log_start },
            Some(last) => match end_of(last) {
                None => return FetchAnswer::OutOfRange { log_start },
                // T1: and what the follower says of its log counts for nothing until it was cut.
                Some((epoch, end)) if epoch < last || end < fetch.fetch_offset => {
                    return FetchAnswer::Diverging { epoch, end };
                }
                Some(_) => {}
            },
        }
        self.note(fetch);
        self.advance(effects);
        if !self.view.record.isr.contains(&fetch.node) && self.may_join(fetch.node) {
            self.propose(now_ms, effects);
        }
        FetchAnswer::Ok {
            high_watermark: self.log.high_watermark,
            log_start,
        }
    }

    fn refusal(&self, fetch: &Fetch) -> Option<FetchAnswer> {
        if self.deposed {
            return Some(FetchAnswer::NotLeader);
        }
        let current = self.epoch();
        if fetch.leader_epoch < current {
            return Some(FetchAnswer::FencedEpoch { current });
        }
        if current < fetch.leader_epoch {
            return Some(FetchAnswer::UnknownEpoch);
        }
        let replica = self.view.record.replica(fetch.node);
        let listed = replica.is_some_and(|replica| replica.generation == fetch.generation);
        let registered = self
            .view
            .peers
            .get(&fetch.node)
            .map(|node| node.incarnation);
        let heard = self
            .followers
            .get(&fetch.node)
            .map(|heard| heard.incarnation);
        let latest = registered.max(heard);
        if fetch.node == self.own || !listed || Some(fetch.incarnation) < latest {
            return Some(FetchAnswer::UnknownReplica);
        }
        None
    }

    fn note(&mut self, fetch: &Fetch) {
        let mut progress = Progress {
            incarnation: fetch.incarnation,
            generation: fetch.generation,
            fetch_offset: fetch.fetch_offset,
            durable_offset: fetch.durable_offset.min(fetch.fetch_offset),
        };
        // In an epoch, a process only adds to a log that is a prefix of the leader's: a smaller
        // position is an older request that arrived late.
        if let Some(heard) = self.followers.get(&fetch.node)
            && heard.incarnation == fetch.incarnation
        {
            progress.fetch_offset = progress.fetch_offset.max(heard.fetch_offset);
            progress.durable_offset = progress.durable_offset.max(heard.durable_offset);
        }
        self.followers.insert(fetch.node, progress);
    }

    /// The metadata has changed. Returns whether this reign goes on; if not, drop this leader.
    pub fn view_changed(&mut self, view: PartitionView, effects: &mut Vec<Effect>) -> bool {
        let known = self.view.record.partition_epoch;
        if view.record.partition_epoch < known {
            // The controller's answer came before its record did.
            self.view.peers = view.peers;
            return !self.deposed;
        }
        if view.record.leader != Some(self.own) || view.record.leader_epoch != self.epoch() {
            self.deposed = true;
            self.pending = None;
            return false;
        }
        if known < view.record.partition_epoch {
            // I4: whatever was proposed for the old record is now either in this one or void.
            self.pending = None;
        }
        self.view = view;
        let record = &self.view.record;
        self.followers.retain(|node, heard| {
            let replica = record.replica(*node);
            replica.is_some_and(|replica| replica.generation == heard.generation)
        });
        self.advance(effects);
        !self.deposed
    }

    /// The controller answered an attempt (I4). An attempt that fails on the way needs no word:
    /// it may still arrive, so what it proposed stays in the maximal in-sync set.
    pub fn alter_answered(&mut self, attempt: u64, answer: AlterAnswer, effects: &mut Vec<Effect>) {
        let Some(pending) = &self.pending else { return };
        if !(pending.first..=pending.request.attempt).contains(&attempt) {
            return;
        }
        match answer {
            AlterAnswer::Ok {
                partition_epoch,
                isr,
            } if self.view.record.partition_epoch < partition_epoch => {
                self.view.record.partition_epoch = partition_epoch;
                self.view.record.isr = isr;
                self.pending = None;
            }
            // Another attempt may have been accepted, or may be yet.
            AlterAnswer::Ineligible { .. } if pending.first == pending.request.attempt => {
                self.pending = None;
            }
            AlterAnswer::Ok { .. } | AlterAnswer::Stale { .. } | AlterAnswer::Ineligible { .. } => {
            }
        }
        self.advance(effects);
    }

    /// Time passes: call several times per `lag_max_ms` and `retry_ms`.
    pub fn tick(&mut self, now_ms: u64, effects: &mut Vec<Effect>) {
        if self.deposed {
            return;
        }
        self.remember_end(now_ms);
        if let Some(pending) = &mut self.pending {
            if pending.sent_ms.saturating_add(self.timing.retry_ms) <= now_ms {
                self.attempts += 1;
                pending.request.attempt = self.attempts;
                pending.sent_ms = now_ms;
                effects.push(Effect::ProposeIsr(pending.request.clone()));
            }
            return;
        }
        self.propose(now_ms, effects);
    }

    fn remember_end(&mut self, now_ms: u64) {
        let spacing = (self.timing.lag_max_ms / LAG_PARTS).max(1);
        let last = self.ends.back().map_or(0, |(at, _)| *at);
        if last.saturating_add(spacing) <= now_ms {
            self.ends.push_back((now_ms, self.log.log_end));
        }
        let horizon = now_ms.saturating_sub(self.timing.lag_max_ms);
        while self.ends.get(1).is_some_and(|(at, _)| *at <= horizon) {
            self.ends.pop_front();
        }
    }

    /// What counts of a follower's log (F5).
    fn position(&self, progress: &Progress) -> Offset {
        match self.view.durability {
            Durability::Fsync => progress.durable_offset,
            Durability::Replicated => progress.fetch_offset,
        }
    }

    fn own_position(&self) -> Offset {
        match self.view.durability {
            Durability::Fsync => self.log.durable_end,
            Durability::Replicated => self.log.log_end,
        }
    }

    /// H1, H2: the weakest member of the maximal in-sync set decides, and one that was not heard
    /// in this epoch blocks.
    fn advance(&mut self, effects: &mut Vec<Effect>) {
        if !self.can_append_acks_all() {
            return;
        }
        let mut candidate = self.own_position();
        for node in self.maximal_isr().filter(|node| *node != self.own) {
            match self.followers.get(&node) {
                Some(progress) => candidate = candidate.min(self.position(progress)),
                None => return,
            }
        }
        if self.log.high_watermark < candidate {
            self.log.high_watermark = candidate;
            effects.push(Effect::HighWatermark(candidate));
        }
    }

    /// I1: has all that this leader committed, and all that earlier leaders may have. That the
    /// high watermark itself has come that far is not asked: with too few in sync it cannot, until
    /// somebody joins.
    fn may_join(&self, node: NodeId) -> bool {
        let Some(progress) = self.followers.get(&node) else {
            return false;
        };
        let position = self.position(progress);
        let standing = self.view.peers.get(&node);
        self.log.high_watermark <= position
            && self.reign_start <= position
            && standing.is_some_and(|known| {
                known.unfenced && known.may_join && known.incarnation == progress.incarnation
            })
    }

    /// I1: has not, for `lag_max_ms`, been where the log ended at the time.
    fn lags(&self, node: NodeId, now_ms: u64) -> bool {
        let horizon = now_ms.saturating_sub(self.timing.lag_max_ms);
        match self.followers.get(&node) {
            None => self.began_ms.saturating_add(self.timing.lag_max_ms) <= now_ms,
            Some(progress) => self
                .ends
                .front()
                .is_some_and(|(at, end)| *at <= horizon && self.position(progress) < *end),
        }
    }

    /// Asks for the in-sync set that should be, if it is not. One wish at a time.
    fn propose(&mut self, now_ms: u64, effects: &mut Vec<Effect>) {
        if self.pending.is_some() {
            return;
        }
        let record = &self.view.record;
        let is_member = |node: NodeId| match record.isr.contains(&node) {
            true => node == self.own || !self.lags(node, now_ms),
            false => self.may_join(node),
        };
        let nodes = record.replicas.iter().map(|replica| replica.node);
        let isr: BTreeSet<NodeId> = nodes.filter(|node| is_member(*node)).collect();
        if isr == record.isr {
            return;
        }
        let process = |node: &NodeId| {
            let heard = self.followers.get(node).map(|heard| heard.incarnation);
            let known = self.view.peers.get(node).map(|known| known.incarnation);
            (*node, heard.or(known).unwrap_or_default())
        };
        self.attempts += 1;
        let request = AlterPartition {
            leader: self.own,
            leader_incarnation: self.incarnation,
            leader_epoch: record.leader_epoch,
            partition_epoch: record.partition_epoch,
            attempt: self.attempts,
            new_isr: isr.iter().map(process).collect(),
        };
        // I2: from the moment it is sent, it may be in force.
        self.pending = Some(Pending {
            isr,
            request: request.clone(),
            first: self.attempts,
            sent_ms: now_ms,
        });
        effects.push(Effect::ProposeIsr(request));
    }
}
