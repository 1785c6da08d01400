//! Idempotent producers' batches that arrive before those that come before them: connections give
//! no order, so they wait a short time (PROTOCOL P3).

use super::*;
use crate::partition::SequenceError;
use crate::partition::once::EARLY_WAIT;

impl Task {
    /// Keeps what came early until more is appended, or it has waited long enough. What waits holds
    /// its room in the partition's queue, so there is never much of it.
    pub(super) fn park(&mut self, early: Vec<(Waiting, SequenceError)>) {
        for (mut waiting, error) in early {
            let until = match waiting.early_until {
                Some(until) => until,
                None => {
                    let until = Instant::now() + EARLY_WAIT;
                    waiting.early_until = Some(until);
                    self.call_back(until);
                    until
                }
            };
            self.early.push(Early {
                waiting,
                until,
                error,
            });
        }
        self.give_up();
    }

    /// What came early has its turn again with the next group.
    pub(super) fn unpark(&mut self) -> Vec<Waiting> {
        let early = std::mem::take(&mut self.early);
        early.into_iter().map(|early| early.waiting).collect()
    }

    /// Answers what has waited long enough.
    pub(super) fn give_up(&mut self) {
        let now = Instant::now();
        for early in self.early.extract_if(.., |early| early.until <= now) {
            let error = AppendError::Sequence {
                partition: self.shared.name.clone(),
                reason: early.error,
            };
            // A requester that has gone away does not want its answer.
            let _ = early.waiting.reply.send(Err(error));
        }
    }

    fn call_back(&self, at: Instant) {
        let mailbox = self.mailbox.clone();
        self.hosted.tasks.spawn("early", async move {
            tokio::time::sleep_until(at).await;
            if let Some(mailbox) = mailbox.upgrade() {
                let _ = mailbox.send(Message::GiveUpEarly);
            }
        });
    }
}
