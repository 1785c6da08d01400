//! Durable positions: "the next message, please", for consumers that keep no state of their own.
//!
//! One task hands out the messages of a group, one after another, so that no two callers get the
//! same one; groups are spread over a few tasks, so that one that waits for a partition does not
//! hold up all others. The new position is on stable storage before the message is handed out: after a
//! crash a group goes on behind the last message it was given (at most once).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Weak;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::lifecycle::Inner;
use super::route::RouteError;
use super::topics::Topic;
use super::{Broker, FetchError};
use crate::metadata::Command;
use crate::partition;
use crate::record::{Batch, StoredRecord};
use crate::types::{Code, Offset, Partition, TopicName};

pub(super) struct Request {
    topic: TopicName,
    group: String,
    reply: oneshot::Sender<Result<Option<Consumed>, ConsumeError>>,
}

/// Where requests go: to one of a few tasks, always the same one for a group and topic.
pub(super) struct Desks(Vec<mpsc::Sender<Request>>);

/// How many tasks hand out messages.
const DESKS: usize = 16;
/// Requests that wait for each.
const WAITING: usize = 128;

impl Desks {
    /// The ends to give to [`run`], one each.
    pub(super) fn new() -> (Self, Vec<mpsc::Receiver<Request>>) {
        let (desks, requests) = (0..DESKS).map(|_| mpsc::channel(WAITING)).unzip();
        (Self(desks), requests)
    }

    fn of(&self, topic: &TopicName, group: &str) -> Option<&mpsc::Sender<Request>> {
        let mut hasher = DefaultHasher::new();
        (topic, group).hash(&mut hasher);
        self.0.get(hasher.finish() as usize % self.0.len().max(1))
    }
}

/// A message and where it stood.
pub(super) type Consumed = (Partition, StoredRecord);

/// Why the next message could not be handed out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConsumeError {
    /// It could not be read.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The position could not be kept; the message was not handed out.
    #[error("the position of {group:?} in {topic} could not be kept: {reason}")]
    Position {
        /// Whose position.
        group: String,
        /// Where.
        topic: TopicName,
        /// What the metadata said.
        reason: String,
        /// Which of the codes that is.
        code: Code,
    },
    /// The broker is closing.
    #[error("the broker is closing")]
    Closing,
}

impl Broker {
    /// The next message of `group` in `topic`, waiting up to `wait` for one. A group begins at the
    /// earliest message; a topic that does not exist has none.
    ///
    /// # Errors
    /// See [`ConsumeError`].
    pub async fn consume(
        &self,
        topic: &TopicName,
        group: &str,
        wait: Duration,
    ) -> Result<Option<(Partition, StoredRecord)>, ConsumeError> {
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            // Subscribed before the look, so that a message that comes in between is not missed.
            let progress = self.progress(topic);
            let (reply, answer) = oneshot::channel();
            let request = Request {
                topic: topic.clone(),
                group: group.to_owned(),
                reply,
            };
            let desk = self.inner.positions.of(topic, group);
            let sent = desk.ok_or(ConsumeError::Closing)?.send(request).await;
            sent.map_err(|_| ConsumeError::Closing)?;
            if let Some(consumed) = answer.await.unwrap_or(Err(ConsumeError::Closing))? {
                return Ok(Some(consumed));
            }
            let waited = match progress {
                Ok(mut progress) => {
                    let changed = async move { progress.changed().await.is_ok() };
                    tokio::time::timeout_at(deadline, changed).await
                }
                Err(_) => Ok(false),
            };
            if waited != Ok(true) {
                return Ok(None);
            }
        }
    }
}

pub(super) async fn run(broker: Weak<Inner>, mut requests: mpsc::Receiver<Request>) {
    let stop = match broker.upgrade() {
        Some(inner) => inner.tasks.stopping(),
        None => return,
    };
    loop {
        let request = tokio::select! {
            () = stop.cancelled() => return,
            request = requests.recv() => request,
        };
        let (Some(request), Some(inner)) = (request, broker.upgrade()) else {
            return;
        };
        let next = next(&Broker { inner }, &request.topic, &request.group).await;
        let _ = request.reply.send(next);
    }
}

async fn next(
    broker: &Broker,
    name: &TopicName,
    group: &str,
) -> Result<Option<Consumed>, ConsumeError> {
    let Some(topic) = broker.find_topic(name) else {
        return Ok(None);
    };
    let lost = |code: Code, error: &dyn std::error::Error| ConsumeError::Position {
        group: group.to_owned(),
        topic: name.clone(),
        reason: partition::chain(error),
        code,
    };
    let id = &broker.inner.options.id;
    let positions = broker.inner.store.position(id, group, topic.entry.id).await;
    let positions = positions.map_err(|error| lost(Code::NotReady, &error))?;
    let mut oldest: Option<Consumed> = None;
    let mut unled = None;
    for (index, place) in topic.partitions.iter().enumerate() {
        let partition = Partition(index as u32);
        // What the others have need not wait for it.
        if place.record.leader.is_none() {
            unled = Some(topic.name_of(partition));
            continue;
        }
        let at = positions
            .iter()
            .find(|(p, _)| *p == partition)
            .map_or(Offset::ZERO, |(_, at)| *at);
        let Some(record) = record_at(broker, &topic, partition, at).await? else {
            continue;
        };
        if oldest
            .as_ref()
            .is_none_or(|(_, other)| record.timestamp < other.timestamp)
        {
            oldest = Some((partition, record));
        }
    }
    let Some((partition, record)) = oldest else {
        return match unled {
            Some(partition) => Err(FetchError::from(RouteError::NoLeader { partition }).into()),
            None => Ok(None),
        };
    };
    let command = Command::SetPosition {
        broker: id.clone(),
        group: group.to_owned(),
        topic_id: topic.entry.id,
        partition,
        offset: Offset(record.offset.0 + 1),
        at: broker.inner.clock.now(),
    };
    let kept = broker.inner.store.apply(command).await;
    kept.map_err(|error| lost(error.code(), &error))?;
    Ok(Some((partition, record)))
}

/// The first record at `at` or later; what was deleted in the meantime is passed over.
async fn record_at(
    broker: &Broker,
    topic: &Topic,
    partition: Partition,
    at: Offset,
) -> Result<Option<StoredRecord>, FetchError> {
    let name = &topic.entry.name;
    let (start, end) = broker.bounds(name, partition).await?;
    let at = at.max(start);
    if end <= at {
        return Ok(None);
    }
    let fetched = match broker.fetch(name, partition, at, 1).await {
        // Trimmed in between: the next call begins behind the trim.
        Err(FetchError::Trimmed { .. }) => return Ok(None),
        fetched => fetched?,
    };
    let corrupt = || FetchError::Corrupt {
        partition: topic.name_of(partition),
        offset: at,
    };
    let batch = Batch::take(&mut fetched.batches.clone()).map_err(|_| corrupt())?;
    batch.verify().map_err(|_| corrupt())?;
    let unpacked = batch.unpack().map_err(|_| corrupt())?;
    for record in unpacked.records() {
        let record = record.map_err(|_| corrupt())?;
        if at <= record.offset {
            return Ok(Some(record.to_stored()));
        }
    }
    Ok(None)
}

impl ConsumeError {
    /// The code on the wire.
    pub fn code(&self) -> Code {
        match self {
            Self::Fetch(error) => error.code(),
            Self::Position { code, .. } => *code,
            Self::Closing => Code::NotReady,
        }
    }
}
