//! A follower's part of the task: one question at a time to whoever leads.

use std::time::Duration;

use tokio::time::Instant;

use super::handle::{PartitionHandle, Request, Upstream};
use super::job::Job;
use crate::replication::{EpochCache, Fetch, FetchAnswer, Follower, Step, TruncationRefused};
use crate::storage::ReplicaBatches;
use crate::types::Offset;

pub(super) struct Follow {
    pub(super) core: Follower,
    upstream: Option<Upstream>,
    /// The question that has no answer yet.
    asked: Option<Fetch>,
    /// An answer that waits for the log to come back from a job.
    heard: Option<(Fetch, FetchAnswer, ReplicaBatches)>,
    retry_at: Option<Instant>,
    /// A job is about to move the log's end: a question put now would be about the old one.
    moving: bool,
}

/// How long a follower waits before it asks a leader again that could not answer.
const RETRY: Duration = Duration::from_millis(50);

/// What an answer asks of the log.
pub(super) enum Next {
    Nothing,
    Run(Job),
    Stop(TruncationRefused),
}

impl Follow {
    pub(super) fn new(core: Follower, upstream: Option<Upstream>) -> Self {
        Self {
            core,
            upstream,
            asked: None,
            heard: None,
            retry_at: None,
            moving: false,
        }
    }

    /// The log's end has moved, or will not: what comes next may be asked for.
    pub(super) fn settled(&mut self) {
        self.moving = false;
    }

    pub(super) fn upstream(&mut self, upstream: Option<Upstream>) {
        self.upstream = upstream;
        // Whatever was asked over the old connection is not answered over the new one.
        self.asked = None;
    }

    pub(super) fn into_upstream(self) -> Option<Upstream> {
        self.upstream
    }

    /// Asks for what comes next, unless a question is open.
    pub(super) fn ask(&mut self, own: &PartitionHandle, epochs: &EpochCache) {
        let open = self.asked.is_some() || self.heard.is_some();
        if !open && !self.moving && self.retry_at.is_none() {
            self.asked = self.send(own, epochs, true);
        }
    }

    /// Tells the leader what has become durable (F4).
    pub(super) fn tell_durable(&mut self, own: &PartitionHandle, epochs: &EpochCache) {
        self.send(own, epochs, false);
    }

    fn send(&self, own: &PartitionHandle, epochs: &EpochCache, wants: bool) -> Option<Fetch> {
        let (leader, fetch) = self.core.request(epochs.last_epoch())?;
        let upstream = self.upstream.as_ref().filter(|up| up.leader == leader)?;
        let request = Request {
            from: own.clone(),
            fetch,
            wants,
        };
        upstream.requests.send(request).is_ok().then_some(fetch)
    }

    /// The view changed: an open question was put to another reign.
    pub(super) fn reign_changed(&mut self) {
        self.asked = None;
        self.heard = None;
        self.retry_at = None;
    }

    pub(super) fn heard(&mut self, request: Fetch, answer: FetchAnswer, batches: ReplicaBatches) {
        if self.asked == Some(request) {
            self.asked = None;
            self.heard = Some((request, answer, batches));
        }
    }

    /// What the last answer asks of the log, which must be at hand.
    pub(super) fn next(&mut self, own: &PartitionHandle, epochs: &EpochCache) -> Next {
        let Some((request, answer, batches)) = self.heard.take() else {
            return Next::Nothing;
        };
        let reader = own.reader();
        let end = reader.log_end();
        let step = self
            .core
            .answered(&request, &answer, reader.replica_start(), |epoch| {
                epochs.end_offset_for_epoch(epoch, end)
            });
        let next = match (step, answer) {
            (Step::Append, FetchAnswer::Ok { log_start, .. }) => {
                if batches.batches.is_empty() && log_start <= reader.log_start() {
                    return Next::Nothing;
                }
                Next::Run(Job::Copy { batches, log_start })
            }
            (Step::Truncate { to }, _) => Next::Run(Job::Truncate { to }),
            (Step::Restart { start }, _) => Next::Run(Job::Restart { start }),
            (Step::Stop(refused), _) => Next::Stop(refused),
            (Step::Append | Step::Wait, _) => {
                self.retry_at = Some(Instant::now() + RETRY);
                Next::Nothing
            }
        };
        self.moving = matches!(next, Next::Run(_));
        next
    }

    /// Something went wrong with the log or the batches: ask again, a little later.
    pub(super) fn retry(&mut self) {
        self.retry_at = Some(Instant::now() + RETRY);
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.retry_at
    }

    pub(super) fn woken(&mut self) {
        if self.retry_at.is_some_and(|at| at <= Instant::now()) {
            self.retry_at = None;
        }
    }

    /// The high watermark as this follower knows it.
    pub(super) fn high_watermark(&self) -> Offset {
        self.core.log().high_watermark
    }
}
