//! A leader's part of the task: who waits for what.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::handle::{PartitionHandle, Ready, ReplicaProgress, Shared};
use super::job::Written;
use super::{AppendError, task::Hosted};
use crate::replication::{AlterPartition, Effect, EpochCache, Fetch, FetchAnswer, Leader};
use crate::types::{Acks, LeaderEpoch, NodeId, Offset};

/// What a partition asks of the controller.
#[derive(Debug, Clone)]
pub enum Proposal {
    /// A leader wishes another in-sync set: the answer goes to
    /// [`PartitionHandle::alter_answered`].
    Alter {
        /// Who asks.
        from: PartitionHandle,
        /// What for.
        request: AlterPartition,
    },
    /// The storage of the leader's copy has failed (PROTOCOL D1): another one shall lead. Asked
    /// again until that is so.
    Resign {
        /// Who asks.
        from: PartitionHandle,
    },
}

/// A follower that has all there is and waits for more.
struct Parked {
    fetch: Fetch,
    session: mpsc::UnboundedSender<Ready>,
    /// The high watermark that it knows.
    told: Offset,
}

pub(super) struct Lead {
    pub(super) core: Leader,
    /// Producers whose records are not committed yet, in order of their ends.
    waiting: VecDeque<Written>,
    parked: BTreeMap<NodeId, Parked>,
    effects: Vec<Effect>,
    tick_at: Option<Instant>,
    tell_at: Option<Instant>,
}

/// How often a leader with something to watch looks at its followers.
const TICK: Duration = Duration::from_millis(500);
/// How long a follower that has every record may go without the newest high watermark.
const TELL: Duration = Duration::from_millis(100);

impl Lead {
    pub(super) fn new(core: Leader) -> Self {
        Self {
            core,
            waiting: VecDeque::new(),
            parked: BTreeMap::new(),
            effects: Vec::new(),
            tick_at: None,
            tell_at: None,
        }
    }

    pub(super) fn epoch(&self) -> LeaderEpoch {
        self.core.epoch()
    }

    pub(super) fn is_alone(&self) -> bool {
        self.core.record().replicas.len() == 1
    }

    /// Nothing of what waits can be promised any more.
    pub(super) fn depose(self, shared: &Shared) {
        for written in self.waiting {
            let _ = written.reply.send(Err(AppendError::LeadershipLost {
                partition: shared.name.clone(),
            }));
        }
        // The followers find out from the metadata; the answer only spares them the wait.
        for parked in self.parked.into_values() {
            drop(parked.session);
        }
    }

    /// The log has grown to `end`, unsynced: followers may have it.
    pub(super) fn appended(&mut self, end: Offset, own: Option<&PartitionHandle>) {
        self.core.appended(end, &mut self.effects);
        let Some(own) = own else { return };
        let behind = self
            .parked
            .extract_if(.., |_, parked| parked.fetch.fetch_offset < end);
        let behind: Vec<Parked> = behind.map(|(_, parked)| parked).collect();
        for parked in behind {
            self.tell(own, parked);
        }
    }

    fn tell(&self, own: &PartitionHandle, parked: Parked) {
        let answer = FetchAnswer::Ok {
            high_watermark: self.core.log().high_watermark,
            log_start: own.reader().log_start(),
        };
        // A session that has ended has no use for it.
        let _ = parked.session.send(Ready {
            from: own.clone(),
            fetch: parked.fetch,
            answer,
        });
    }

    pub(super) fn synced(&mut self, durable_end: Offset) {
        self.core.synced(durable_end, &mut self.effects);
    }

    /// Takes in producers whose records are in the log as durably as the topic asks.
    pub(super) fn written(&mut self, written: Vec<Written>) {
        for written in written {
            match written.acks {
                // What is sent again is not told its place before that is committed, whatever the
                // producer waits for (P3).
                acks if (acks == Acks::All || written.replayed)
                    && !self.core.acks_all_done(written.end) =>
                {
                    let at = self.waiting.partition_point(|w| w.end <= written.end);
                    self.waiting.insert(at, written);
                }
                _ => {
                    // A requester that has gone away does not want its answer.
                    let _ = written.reply.send(Ok(written.appended));
                }
            }
        }
    }

    pub(super) fn fetched(
        &mut self,
        fetch: Fetch,
        wants: bool,
        session: mpsc::UnboundedSender<Ready>,
        own: &PartitionHandle,
        epochs: &EpochCache,
        now_ms: u64,
    ) {
        let reader = own.reader();
        let end = self.core.log().log_end;
        let mut answer = self.core.fetched(
            &fetch,
            // Whole batches are copied: a follower that begins anew begins with one.
            reader.replica_start(),
            |epoch| epochs.end_offset_for_epoch(epoch, end),
            now_ms,
            &mut self.effects,
        );
        if let FetchAnswer::Ok { log_start, .. } = &mut answer {
            *log_start = reader.log_start();
        }
        if !wants {
            return;
        }
        let told = self.core.log().high_watermark;
        let parked = Parked {
            fetch,
            session,
            told,
        };
        match answer {
            FetchAnswer::Ok { .. } if fetch.fetch_offset == self.core.log().log_end => {
                self.parked.insert(fetch.node, parked);
            }
            answer => {
                let _ = parked.session.send(Ready {
                    from: own.clone(),
                    fetch,
                    answer,
                });
            }
        }
    }

    pub(super) fn replicas(&self, own: NodeId) -> Vec<ReplicaProgress> {
        let nodes = self
            .core
            .record()
            .replicas
            .iter()
            .map(|replica| replica.node);
        let others = nodes.filter(|node| *node != own);
        others
            .map(|node| {
                let progress = self.core.progress(node);
                ReplicaProgress {
                    node,
                    log_end: progress.map(|(end, _)| end),
                    durable_end: progress.map(|(_, durable)| durable),
                }
            })
            .collect()
    }

    /// Changes the core and gathers its effects.
    pub(super) fn with(&mut self, change: impl FnOnce(&mut Leader, &mut Vec<Effect>)) {
        change(&mut self.core, &mut self.effects);
    }

    /// Carries out what the core asked for. Returns the new high watermark, if there is one.
    pub(super) fn settle(
        &mut self,
        own: Option<&PartitionHandle>,
        hosted: &Hosted,
    ) -> Option<Offset> {
        let mut reached = None;
        for effect in self.effects.drain(..) {
            match effect {
                Effect::HighWatermark(to) => reached = Some(to),
                Effect::ProposeIsr(request) => {
                    // Full means that the controller is far behind: the core asks again.
                    if let Some(from) = own.cloned() {
                        let alter = Proposal::Alter { from, request };
                        let _ = hosted.proposals.try_send(alter);
                    }
                }
            }
        }
        if reached.is_some() && !self.parked.is_empty() && self.tell_at.is_none() {
            self.tell_at = Some(Instant::now() + TELL);
        }
        if self.is_alone() {
            self.tick_at = None;
        } else if self.tick_at.is_none() {
            self.tick_at = self.has_to_watch().then(|| Instant::now() + TICK);
        }
        reached
    }

    /// Answers whom the high watermark has reached.
    pub(super) fn acknowledge(&mut self) {
        while let Some(first) = self.waiting.front() {
            if !self.core.acks_all_done(first.end) {
                return;
            }
            if let Some(written) = self.waiting.pop_front() {
                let _ = written.reply.send(Ok(written.appended));
            }
        }
    }

    /// Whether time alone may change something: somebody is behind, out of sync, or not heard.
    fn has_to_watch(&self) -> bool {
        let record = self.core.record();
        let end = self.core.log().log_end;
        record.isr.len() < record.replicas.len()
            || self.core.maximal_isr().count() != record.isr.len()
            || !self.waiting.is_empty()
            || self.parked.len() + 1 < record.replicas.len()
            || self
                .parked
                .values()
                .any(|parked| parked.fetch.durable_offset < end)
    }

    /// When the task has to look again, if nothing else happens.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        match (self.tick_at, self.tell_at) {
            (Some(tick), Some(tell)) => Some(tick.min(tell)),
            (tick, tell) => tick.or(tell),
        }
    }

    pub(super) fn woken(&mut self, own: Option<&PartitionHandle>, now_ms: u64) {
        let now = Instant::now();
        if self.tick_at.is_some_and(|at| at <= now) {
            self.tick_at = None;
            self.core.tick(now_ms, &mut self.effects);
        }
        if self.tell_at.is_some_and(|at| at <= now) {
            self.tell_at = None;
            let high_watermark = self.core.log().high_watermark;
            let stale = self
                .parked
                .extract_if(.., |_, parked| parked.told < high_watermark);
            let stale: Vec<Parked> = stale.map(|(_, parked)| parked).collect();
            for parked in stale {
                if let Some(own) = own {
                    self.tell(own, parked);
                }
            }
        }
    }
}
