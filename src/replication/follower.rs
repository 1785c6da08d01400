//! The follower's side of a partition: what to ask for, and what to do with the answer.

use super::fetch::{Fetch, FetchAnswer, LogPosition};
use crate::types::{Incarnation, LeaderEpoch, NodeId, Offset, PartitionRecord};

/// What the owner of the log has to do with an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Append the records that came, if any; then call [`Follower::appended`].
    Append,
    /// Cut the log to end at `to`, durably, before anything else; then call
    /// [`Follower::truncated`].
    Truncate {
        /// The new log end.
        to: Offset,
    },
    /// Empty the log and begin at `start`, durably, before anything else; then call
    /// [`Follower::restarted`].
    Restart {
        /// The new log start.
        start: Offset,
    },
    /// Nothing: the answer is late, or the metadata has to come first.
    Wait,
    /// Keep the files, touch nothing, and call for a human.
    Stop(TruncationRefused),
}

/// The leader wants committed records to be removed, though no election was unclean (T3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "invariant_violation: leader epoch {leader_epoch} wants the log cut to {to}, below the \
     committed {high_watermark}"
)]
pub struct TruncationRefused {
    /// To where.
    pub to: Offset,
    /// This replica's high watermark.
    pub high_watermark: Offset,
    /// The leader's epoch.
    pub leader_epoch: LeaderEpoch,
}

/// A partition's follower.
///
/// Its high watermark does not go down with a new leader's, which may be stale: what was committed
/// stays so. Only an unclean election takes it back.
#[derive(Debug, Clone)]
pub struct Follower {
    own: NodeId,
    incarnation: Incarnation,
    record: PartitionRecord,
    pub(super) log: LogPosition,
    /// The high watermark of the leader, as told in this epoch.
    told: Offset,
    /// Grows with every change of the log or of the leader. An answer from another round speaks of
    /// another log: a late command to cut must not hit records that were fetched, and counted,
    /// since.
    round: u64,
    stopped: Option<TruncationRefused>,
}

impl Follower {
    /// Follows whom `record` says. `log` is the log as it is now.
    pub fn new(
        own: NodeId,
        incarnation: Incarnation,
        record: PartitionRecord,
        log: LogPosition,
    ) -> Self {
        Self {
            own,
            incarnation,
            record,
            log: LogPosition {
                durable_end: log.durable_end.min(log.log_end),
                high_watermark: log.high_watermark.min(log.log_end),
                ..log
            },
            told: Offset::ZERO,
            round: 0,
            stopped: None,
        }
    }

    /// The record as this follower knows it.
    pub fn record(&self) -> &PartitionRecord {
        &self.record
    }

    /// The log's ends and the high watermark.
    pub fn log(&self) -> LogPosition {
        self.log
    }

    /// Why this replica does nothing any more.
    pub fn stopped(&self) -> Option<TruncationRefused> {
        self.stopped
    }

    /// Whom to ask, and what (F2). None without a leader, or if this node holds no replica. Ask
    /// again at once after an answer, and without wanting records after a sync (F4).
    pub fn request(&self, last_epoch: Option<LeaderEpoch>) -> Option<(NodeId, Fetch)> {
        let leader = self.record.leader.filter(|leader| *leader != self.own)?;
        let replica = self.record.replica(self.own)?;
        if self.stopped.is_some() {
            return None;
        }
        let fetch = Fetch {
            node: self.own,
            incarnation: self.incarnation,
            generation: replica.generation,
            leader_epoch: self.record.leader_epoch,
            fetch_offset: self.log.log_end,
            last_epoch,
            durable_offset: self.log.durable_end,
            round: self.round,
        };
        Some((leader, fetch))
    }

    /// The leader answered `request` (F3, T2, T3). `log_start` and `end_of` are of this replica's
    /// own log.
    pub fn answered(
        &mut self,
        request: &Fetch,
        answer: &FetchAnswer,
        log_start: Offset,
        end_of: impl FnOnce(LeaderEpoch) -> Option<(LeaderEpoch, Offset)>,
    ) -> Step {
        let same = request.round == self.round
            && request.leader_epoch == self.record.leader_epoch
            && request.fetch_offset == self.log.log_end;
        if !same || self.stopped.is_some() {
            return Step::Wait;
        }
        match *answer {
            FetchAnswer::Ok { high_watermark, .. } => {
                self.told = self.told.max(high_watermark);
                self.raise();
                Step::Append
            }
            FetchAnswer::Diverging { epoch, end } => {
                let own_end = end_of(epoch).map_or(Offset::ZERO, |(_, own_end)| own_end);
                let to = own_end.min(end);
                if self.log.log_end <= to {
                    return Step::Wait;
                }
                match to < log_start {
                    true => self.cut(request, to, Step::Restart { start: to }),
                    false => self.cut(request, to, Step::Truncate { to }),
                }
            }
            FetchAnswer::OutOfRange { log_start: start } => {
                self.cut(request, start, Step::Restart { start })
            }
            FetchAnswer::FencedEpoch { .. }
            | FetchAnswer::UnknownEpoch
            | FetchAnswer::NotLeader
            | FetchAnswer::UnknownReplica => Step::Wait,
        }
    }

    /// T3: what is committed is removed only if an unclean election came after this replica's last
    /// record.
    fn cut(&mut self, request: &Fetch, to: Offset, step: Step) -> Step {
        let since = |epoch: &LeaderEpoch| {
            request.last_epoch < Some(*epoch) && *epoch <= self.record.leader_epoch
        };
        let lost = self.record.unclean_epochs.iter().any(since);
        if to < self.log.high_watermark && !lost {
            let refused = TruncationRefused {
                to,
                high_watermark: self.log.high_watermark,
                leader_epoch: self.record.leader_epoch,
            };
            self.stopped = Some(refused);
            return Step::Stop(refused);
        }
        step
    }

    /// The leader's records are in the log, which ends at `log_end`.
    pub fn appended(&mut self, log_end: Offset) {
        if log_end != self.log.log_end {
            self.round += 1;
        }
        self.log.log_end = log_end;
        self.raise();
    }

    /// Everything below `durable_end` is on stable storage. Tell the leader (F4).
    pub fn synced(&mut self, durable_end: Offset) {
        self.log.durable_end = durable_end.min(self.log.log_end);
    }

    /// The log was cut, durably, to end at `log_end`.
    pub fn truncated(&mut self, log_end: Offset) {
        self.round += 1;
        self.log.log_end = log_end;
        self.log.durable_end = self.log.durable_end.min(log_end);
        self.log.high_watermark = self.log.high_watermark.min(log_end);
    }

    /// The log was emptied, durably, and begins at `start`.
    pub fn restarted(&mut self, start: Offset) {
        // What lies before a leader's log start was committed once, and removed since (C4).
        let high_watermark = match self.log.log_end <= start {
            true => start,
            false => self.log.high_watermark.min(start),
        };
        self.round += 1;
        self.log = LogPosition {
            log_end: start,
            durable_end: start,
            high_watermark,
        };
    }

    /// The metadata has changed, and this node still does not lead.
    pub fn view_changed(&mut self, record: PartitionRecord) {
        if record.partition_epoch < self.record.partition_epoch {
            return;
        }
        if record.leader_epoch != self.record.leader_epoch {
            self.told = Offset::ZERO;
            self.round += 1;
        }
        self.record = record;
    }

    /// F3.
    fn raise(&mut self) {
        let reached = self.told.min(self.log.log_end);
        self.log.high_watermark = self.log.high_watermark.max(reached);
    }
}
