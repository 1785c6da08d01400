//! Whether this node still leads a partition (PROTOCOL R2).
//!
//! A leader that was cut off does not know that another one leads by now and acknowledges records:
//! where its own log ends says nothing. Before it answers for the end, it asks the metadata, in a
//! round that begins after the question. A round over the followers would do as well while enough
//! of them are in sync; the metadata can be asked in every case, and one round serves everybody
//! who waits, whichever partition they ask about.

use std::sync::Weak;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::Broker;
use super::lifecycle::Inner;
use super::peer::wire::NotLeader;
use super::route::RouteError;
use crate::partition::PartitionHandle;

/// Waits for the next round.
pub(super) type Waiting = oneshot::Sender<()>;
/// Those that may wait for a round to begin.
pub(super) const WAITING: usize = 4096;
/// How long a new leader may take to learn how far its predecessors had come.
const CATCH_UP: Duration = Duration::from_secs(5);

/// Asks the metadata, once for all who wait, again and again.
pub(super) async fn run(broker: Weak<Inner>, mut waiting: mpsc::Receiver<Waiting>) {
    let Some((store, stop)) = broker
        .upgrade()
        .map(|inner| (inner.store.clone(), inner.tasks.stopping()))
    else {
        return;
    };
    let mut all = Vec::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            count = waiting.recv_many(&mut all, WAITING) => if count == 0 { return },
        }
        let confirmed = tokio::select! {
            () = stop.cancelled() => return,
            confirmed = store.read_barrier() => confirmed,
        };
        for waits in all.drain(..) {
            if confirmed.is_ok() {
                // Whoever has gone away does not want to know.
                let _ = waits.send(());
            }
        }
    }
}

impl Broker {
    /// Returns once it is certain that this node has led the partition, in its present reign, at
    /// some time after the call, and that its high watermark covers all that earlier leaders
    /// acknowledged.
    ///
    /// # Errors
    /// The outer one if another leads; the inner one if nobody can tell.
    pub(super) async fn confirm_end(
        &self,
        handle: &PartitionHandle,
    ) -> Result<Result<(), RouteError>, NotLeader> {
        let role = handle.role();
        let topic = handle.reader().topic_id();
        let partition = handle.name().partition;
        let unknown = || {
            Ok(Err(RouteError::EndUnknown {
                partition: handle.name().clone(),
            }))
        };
        let (reply, round) = oneshot::channel();
        if self.inner.confirms.send(reply).await.is_err() || round.await.is_err() {
            return unknown();
        }
        let record = self
            .inner
            .store
            .view()
            .borrow()
            .partition(topic, partition)
            .cloned();
        let epoch = record.as_ref().map(|record| record.leader_epoch);
        let leader = record.and_then(|record| record.leader);
        if !role.leads || leader != Some(self.inner.node) || epoch != Some(role.epoch) {
            return Err(NotLeader {
                leader: leader.filter(|leader| *leader != self.inner.node),
                epoch: epoch.unwrap_or_default(),
            });
        }
        let mut roles = handle.roles();
        let known = roles.wait_for(|now| now.caught_up || !now.leads || now.epoch != role.epoch);
        match tokio::time::timeout(CATCH_UP, known).await {
            Ok(Ok(now)) if now.leads && now.epoch == role.epoch => Ok(Ok(())),
            Ok(_) => Err(NotLeader {
                leader: None,
                epoch: role.epoch,
            }),
            Err(_) => unknown(),
        }
    }
}
