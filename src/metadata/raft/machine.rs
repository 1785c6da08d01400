//! The state machine as openraft sees it: a way to the owner of the database.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use openraft::alias::SnapshotOf;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder, Snapshot};
use tokio::sync::{mpsc, oneshot};

use super::snapshot::{self, Meta, Snapshots};
use super::{LogId, Membership, Types};
use crate::metadata::owner::{Message, OwnerError, Progress};

/// How long to wait before a full disk is tried again.
const FULL_DISK_PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(in crate::metadata) struct Machine {
    owner: mpsc::Sender<Message>,
    snapshots: Snapshots,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").finish_non_exhaustive()
    }
}

impl Machine {
    pub(in crate::metadata) fn new(owner: mpsc::Sender<Message>, snapshots: Snapshots) -> Self {
        Self { owner, snapshots }
    }

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> io::Result<T> {
        let gone = || io::Error::other(OwnerError::Gone);
        let (reply, answer) = oneshot::channel();
        let sent = self.owner.send(message(reply)).await;
        sent.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    async fn with_snapshots<T: Send + 'static>(
        &self,
        work: impl FnOnce(Snapshots) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let snapshots = self.snapshots.clone();
        tokio::task::spawn_blocking(move || work(snapshots))
            .await
            .map_err(io::Error::other)?
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, Membership)> {
        let progress = self.ask(Message::Progress).await?;
        Ok((progress.applied, progress.membership))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        let entries: Vec<EntryResponder<Types>> = entries.try_collect().await?;
        let (entries, responders): (Vec<_>, Vec<_>) = entries.into_iter().unzip();
        let entries = Arc::new(entries);
        // They are committed: they cannot be refused, only wait until there is room for them.
        loop {
            let message = |reply| Message::Apply(entries.clone(), reply);
            match self.ask(message).await? {
                Ok(()) => break,
                Err(OwnerError::Full) => {
                    tracing::error!("no room on disk for the metadata; waiting for it");
                    tokio::time::sleep(FULL_DISK_PAUSE).await;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        for responder in responders.into_iter().flatten() {
            responder.send(());
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: Bytes) -> io::Result<()> {
        let expected = meta.clone();
        let state = self
            .with_snapshots(move |snapshots| {
                // Everything is checked before anything is replaced (M8).
                let (meta, state) = snapshot::decode(&snapshot)?;
                if meta != expected {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("a snapshot of {meta} came as one of {expected}"),
                    ));
                }
                snapshots.save(&meta, &snapshot)?;
                Ok(state)
            })
            .await?;
        let progress = Progress {
            applied: meta.last_log_id,
            membership: meta.last_membership.clone(),
            diverged: false,
        };
        let message = |reply| Message::Install(Box::new((state, progress)), reply);
        self.ask(message).await?.map_err(io::Error::other)
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Types, Bytes>>> {
        let newest = self.with_snapshots(|snapshots| snapshots.newest()).await?;
        Ok(newest.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Types, Bytes>> {
        let (progress, state) = self.ask(Message::Snapshot).await?;
        let meta = Meta {
            last_log_id: progress.applied,
            last_membership: progress.membership,
        };
        self.with_snapshots(move |snapshots| {
            let snapshot = snapshot::encode(&meta, &state)?;
            snapshots.save(&meta, &snapshot)?;
            Ok(Snapshot { meta, snapshot })
        })
        .await
    }
}
