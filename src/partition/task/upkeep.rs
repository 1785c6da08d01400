//! What becomes of the log beside appends: recompression, failure, and its end.

use super::*;

impl Task {
    /// Starts to recompress one sealed segment, beside the task, if one is due.
    pub(super) fn recompress(&mut self, log: &PartitionLog) {
        if self.recompressing {
            return;
        }
        let Some(candidate) = log.recompression_candidate() else {
            return;
        };
        let Ok(turn) = self.hosted.compressors.clone().try_acquire_owned() else {
            return;
        };
        self.recompressing = true;
        let mailbox = self.mailbox.clone();
        self.hosted.tasks.spawn("recompress", async move {
            let done = tokio::task::spawn_blocking(move || candidate.run()).await;
            drop(turn);
            let done = match done {
                Ok(done) => done.map_err(|error| chain(&error)),
                Err(_) => Err("the compressor stopped unexpectedly".to_owned()),
            };
            if let Some(mailbox) = mailbox.upgrade() {
                let _ = mailbox.send(Message::Recompressed(done));
            }
        });
    }

    pub(super) async fn end(mut self, log: PartitionLog, end: End) {
        // Who still waits for followers is told that nobody knows.
        self.role = Role::None;
        let (ended, reply) = match end {
            End::Close(reply) => (
                tokio::task::spawn_blocking(move || log.close()).await,
                Some(reply),
            ),
            End::Destroy(reply) => (
                tokio::task::spawn_blocking(move || log.destroy()).await,
                Some(reply),
            ),
            // What was acknowledged is synced already.
            End::Dropped => (tokio::task::spawn_blocking(move || log.close()).await, None),
        };
        let name = self.shared.name.clone();
        let answer = match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(MaintainError::storage(&name, &error)),
            Err(_) => Err(MaintainError::Closed(name)),
        };
        if let Some(reply) = reply {
            let _ = reply.send(answer);
        }
    }

    pub(super) fn offline(&mut self, reason: &str) {
        if *self.state.borrow() != State::Online {
            return;
        }
        tracing::error!(partition = %self.shared.name, reason, "partition is offline");
        self.state.send_replace(State::Offline(reason.to_owned()));
        self.resign_at = Some(Instant::now());
        self.resign();
    }

    /// D1: a leader that cannot acknowledge anything any more gives way to another copy.
    pub(super) fn resign(&mut self) {
        let now = Instant::now();
        if self.resign_at.is_none_or(|at| now < at) {
            return;
        }
        self.resign_at = Some(now + RESIGN);
        let has_others = matches!(&self.role, Role::Lead(lead) if !lead.is_alone());
        if let Some(from) = self.own().filter(|_| has_others) {
            // Full means that the controller is far behind: asked again in a moment.
            let _ = self.hosted.proposals.try_send(Proposal::Resign { from });
        }
    }
}
