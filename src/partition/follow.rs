//! A follower's part of the task: one question at a time to whoever leads.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use super::handle::{PartitionHandle, Request};
use super::job::Job;
use crate::replication::{EpochCache, Fetch, FetchAnswer, Follower, Step, TruncationRefused};
use crate::storage::ReplicaBatches;
use crate::types::{NodeId, Offset};

/// Where requests to each node go. They outlive what a partition does: the streams between nodes
/// tell of themselves once, also to one that leads at that moment.
pub(super) type Upstreams = BTreeMap<NodeId, mpsc::UnboundedSender<Request>>;

/// A leader's answer.
pub(super) struct Heard {
    pub(super) request: Fetch,
    pub(super) answer: FetchAnswer,
    pub(super) batches: ReplicaBatches,
    /// What the batches take of the memory for all that is copied.
    pub(super) room: Option<OwnedSemaphorePermit>,
}

pub(super) struct Follow {
    pub(super) core: Follower,
    /// The question that has no answer yet.
    asked: Option<Fetch>,
    /// An answer that waits for the log to come back from a job.
    heard: Option<Heard>,
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
    pub(super) fn new(core: Follower) -> Self {
        Self {
            core,
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

    /// The way to a node has changed: what was asked over the old one is not answered.
    pub(super) fn way_changed(&mut self, to: NodeId) {
        if self.core.record().leader == Some(to) {
            self.asked = None;
        }
    }

    /// Asks for what comes next, unless a question is open.
    pub(super) fn ask(&mut self, own: &PartitionHandle, epochs: &EpochCache, ways: &Upstreams) {
        let open = self.asked.is_some() || self.heard.is_some();
        if !open && !self.moving && self.retry_at.is_none() {
            self.asked = self.send(own, epochs, ways, true);
        }
    }

    /// Tells the leader what has become durable (F4).
    pub(super) fn tell_durable(
        &self,
        own: &PartitionHandle,
        epochs: &EpochCache,
        ways: &Upstreams,
    ) {
        self.send(own, epochs, ways, false);
    }

    fn send(
        &self,
        own: &PartitionHandle,
        epochs: &EpochCache,
        ways: &Upstreams,
        wants: bool,
    ) -> Option<Fetch> {
        let (leader, fetch) = self.core.request(epochs.last_epoch())?;
        let request = Request {
            from: own.clone(),
            fetch,
            wants,
        };
        let sent = ways.get(&leader)?.send(request);
        sent.is_ok().then_some(fetch)
    }

    /// The view changed: an open question was put to another reign.
    pub(super) fn reign_changed(&mut self) {
        self.asked = None;
        self.heard = None;
        self.retry_at = None;
    }

    pub(super) fn heard(&mut self, heard: Heard) {
        if self.asked == Some(heard.request) {
            self.asked = None;
            self.heard = Some(heard);
        }
    }

    /// What the last answer asks of the log, which must be at hand.
    pub(super) fn next(&mut self, own: &PartitionHandle, epochs: &EpochCache) -> Next {
        let Some(heard) = self.heard.take() else {
            return Next::Nothing;
        };
        let Heard {
            request,
            answer,
            batches,
            room,
        } = heard;
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
                Next::Run(Job::Copy {
                    batches,
                    log_start,
                    room,
                })
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
