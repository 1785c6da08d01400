//! The cheap end of a partition: appends go through its mailbox, reads go straight to the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::{AppendError, MaintainError};
use crate::producer::Original;
use crate::record::Header;
use crate::replication::{AlterAnswer, Fetch, FetchAnswer, PartitionView};
use crate::storage::{LogOptions, LogReader, ReadError, Recompressed, ReplicaBatches};
use crate::types::{
    Acks, Incarnation, LeaderEpoch, NodeId, Offset, Timestamp, TopicPartition, limits,
};

/// Whether a partition takes appends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// It does.
    Online,
    /// Its storage failed; reads go on.
    Offline(String),
}

/// Batches for one partition, appended together or not at all.
#[derive(Debug)]
pub struct AppendRequest {
    /// The batches, verified, not yet assigned.
    pub batches: Vec<BytesMut>,
    /// Append only if the partition ends here.
    pub expected: Option<Offset>,
}

/// What a node is to do with a partition, as the metadata says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// This node.
    pub node: NodeId,
    /// This process.
    pub incarnation: Incarnation,
    /// The partition's record and what belongs to it.
    pub view: PartitionView,
}

/// What a node does with a partition now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Role {
    /// It takes appends and answers readers and followers.
    pub leads: bool,
    /// It leads, and knows all that earlier leaders committed (PROTOCOL H4).
    pub caught_up: bool,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// In which reign.
    pub epoch: LeaderEpoch,
}

/// A follower's part: where its requests to the leader go. A partition keeps one for each node
/// until it is told that it is gone, whatever it does meanwhile.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Whom the requests reach.
    pub leader: NodeId,
    /// Takes them; the partition's name is with whoever holds the other end.
    pub requests: mpsc::UnboundedSender<Request>,
}

/// What a follower sends to its leader.
#[derive(Debug, Clone)]
pub struct Request {
    /// The partition that asks.
    pub from: PartitionHandle,
    /// Its position.
    pub fetch: Fetch,
    /// Whether records are wanted; if not, nothing is answered.
    pub wants: bool,
}

/// A leader's answer, before the records are read.
#[derive(Debug)]
pub struct Ready {
    /// The partition that answers.
    pub from: PartitionHandle,
    /// The question.
    pub fetch: Fetch,
    /// The answer.
    pub answer: FetchAnswer,
}

/// How far one follower is, as its leader knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaProgress {
    /// The follower.
    pub node: NodeId,
    /// Its log end; none if it was not heard in this reign.
    pub log_end: Option<Offset>,
    /// Its durable end.
    pub durable_end: Option<Offset>,
}

/// Where one batch went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appended {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Number of records.
    pub count: u32,
    /// When the leader appended it.
    pub append_time: Timestamp,
    /// It was sent before, and this is where it stands since then: the time that its records got
    /// which brought none.
    pub replayed: Option<Timestamp>,
}

impl From<&Header> for Appended {
    fn from(header: &Header) -> Self {
        Self {
            base_offset: header.base_offset,
            count: header.record_count,
            append_time: header.append_time,
            replayed: None,
        }
    }
}

impl From<Original> for Appended {
    fn from(original: Original) -> Self {
        Self {
            base_offset: original.offset,
            count: original.count,
            append_time: original.append_time,
            replayed: Some(original.arrived),
        }
    }
}

pub(super) type Reply<T, E> = oneshot::Sender<Result<T, E>>;

pub(super) enum Message {
    Append {
        request: AppendRequest,
        acks: Acks,
        reply: Reply<Vec<Appended>, AppendError>,
        room: OwnedSemaphorePermit,
    },
    /// What came early may have waited long enough.
    GiveUpEarly,
    Trim {
        before: Offset,
        reply: Reply<Offset, MaintainError>,
    },
    Assume(Box<Assignment>),
    Upstream(Upstream),
    UpstreamLost(Upstream),
    Fetch {
        fetch: Fetch,
        wants: bool,
        session: mpsc::UnboundedSender<Ready>,
    },
    Copied {
        request: Fetch,
        answer: FetchAnswer,
        batches: ReplicaBatches,
        room: Option<OwnedSemaphorePermit>,
    },
    AlterAnswered {
        attempt: u64,
        answer: AlterAnswer,
    },
    Replicas(oneshot::Sender<Vec<ReplicaProgress>>),
    SetOptions(LogOptions),
    Maintain(Option<Timestamp>),
    Recompressed(Result<Option<Recompressed>, String>),
    Close {
        reply: Reply<(), MaintainError>,
    },
    Destroy {
        reply: Reply<(), MaintainError>,
    },
}

/// A partition that this node hosts. Cheap to clone.
#[derive(Clone)]
pub struct PartitionHandle {
    pub(super) mailbox: mpsc::UnboundedSender<Message>,
    pub(super) shared: Arc<Shared>,
}

/// What all handles of a partition, and its task, have in common.
pub(super) struct Shared {
    pub(super) name: TopicPartition,
    pub(super) role: watch::Receiver<Role>,
    pub(super) room: Arc<Semaphore>,
    pub(super) reader: LogReader,
    pub(super) state: watch::Receiver<State>,
    pub(super) hot: AtomicU64,
}

impl std::fmt::Debug for PartitionHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PartitionHandle({})", self.shared.name)
    }
}

/// A request costs at least this much room, so that tiny ones are bounded in number too.
const REQUEST_ROOM: usize = 512;
/// Reads of at most this many bytes of freshly written records are done on the spot.
const INLINE_READ: usize = 256 * 1024;

impl PartitionHandle {
    /// The topic and partition.
    pub fn name(&self) -> &TopicPartition {
        &self.shared.name
    }

    /// Whether both are handles of one task.
    pub fn is_same(&self, other: &Self) -> bool {
        self.mailbox.same_channel(&other.mailbox)
    }

    /// What this node does with the partition now.
    pub fn role(&self) -> Role {
        *self.shared.role.borrow()
    }

    /// Word of each change of the role.
    pub fn roles(&self) -> watch::Receiver<Role> {
        self.shared.role.clone()
    }

    /// Makes known what the metadata says of the partition.
    pub fn assume(&self, assignment: Assignment) {
        self.tell(Message::Assume(Box::new(assignment)));
    }

    /// Gives the way to a node that leads the partition, or is about to.
    pub fn follow(&self, upstream: Upstream) {
        self.tell(Message::Upstream(upstream));
    }

    /// Takes a way back that leads nowhere any more; a newer one to the same node stays.
    pub fn unfollow(&self, upstream: Upstream) {
        self.tell(Message::UpstreamLost(upstream));
    }

    /// A follower's request to this leader. An answer, if any, goes to `session`: at once, or when
    /// there is something to tell.
    pub fn fetch(&self, fetch: Fetch, wants: bool, session: mpsc::UnboundedSender<Ready>) {
        self.tell(Message::Fetch {
            fetch,
            wants,
            session,
        });
    }

    /// The leader's answer to this follower's `request`, with its batches; `room` is given back
    /// when they are in the log, or not wanted.
    pub fn copied(
        &self,
        request: Fetch,
        answer: FetchAnswer,
        batches: ReplicaBatches,
        room: Option<OwnedSemaphorePermit>,
    ) {
        self.tell(Message::Copied {
            request,
            answer,
            batches,
            room,
        });
    }

    /// The controller's answer to an attempt to change the in-sync set.
    pub fn alter_answered(&self, attempt: u64, answer: AlterAnswer) {
        self.tell(Message::AlterAnswered { attempt, answer });
    }

    /// How far the followers are; empty unless this node leads.
    pub async fn replicas(&self) -> Vec<ReplicaProgress> {
        let (reply, answer) = oneshot::channel();
        self.tell(Message::Replicas(reply));
        answer.await.unwrap_or_default()
    }

    /// Whether it takes appends.
    pub fn state(&self) -> State {
        self.shared.state.borrow().clone()
    }

    /// The published part of the log.
    pub fn reader(&self) -> &LogReader {
        &self.shared.reader
    }

    /// Appends and waits for the acknowledgement that `acks` and the topic's durability ask for.
    ///
    /// # Errors
    /// See [`AppendError`]; [`AppendError::is_uncertain`] tells whether the records may have been
    /// appended all the same.
    pub async fn append(
        &self,
        request: AppendRequest,
        acks: Acks,
    ) -> Result<Vec<Appended>, AppendError> {
        let (reply, answer) = oneshot::channel();
        self.send_append(request, acks, reply)?;
        match tokio::time::timeout(limits::ACK_WAIT, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(AppendError::Closed {
                partition: self.shared.name.clone(),
            }),
            Err(_) => Err(AppendError::AckTimeout {
                partition: self.shared.name.clone(),
            }),
        }
    }

    /// Hands over the batches without waiting for an acknowledgement.
    ///
    /// # Errors
    /// Only those that are known at once.
    pub fn append_unacknowledged(&self, request: AppendRequest) -> Result<(), AppendError> {
        let (reply, _) = oneshot::channel();
        self.send_append(request, Acks::None, reply)
    }

    fn send_append(
        &self,
        request: AppendRequest,
        acks: Acks,
        reply: Reply<Vec<Appended>, AppendError>,
    ) -> Result<(), AppendError> {
        if let State::Offline(reason) = &*self.shared.state.borrow() {
            return Err(AppendError::Offline {
                partition: self.shared.name.clone(),
                reason: reason.clone(),
            });
        }
        let bytes = request
            .batches
            .iter()
            .map(BytesMut::len)
            .sum::<usize>()
            .max(REQUEST_ROOM);
        // A request larger than the whole queue still gets in when the queue is empty.
        let bytes = bytes.min(limits::PARTITION_QUEUE_BYTES) as u32;
        let Ok(room) = self.shared.room.clone().try_acquire_many_owned(bytes) else {
            return Err(AppendError::Overloaded {
                partition: self.shared.name.clone(),
                waiting: limits::PARTITION_QUEUE_BYTES,
            });
        };
        self.mailbox
            .send(Message::Append {
                request,
                acks,
                reply,
                room,
            })
            .map_err(|_| AppendError::Offline {
                partition: self.shared.name.clone(),
                reason: "closing".into(),
            })
    }

    /// Batches from the one that holds `from`, at most about `max_bytes`, never beyond the high watermark.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read(&self, from: Offset, max_bytes: usize) -> Result<Bytes, ReadError> {
        // What was written moments ago is in the page cache: a thread hop would cost more than the read.
        if max_bytes <= INLINE_READ && self.shared.hot.load(Ordering::Relaxed) <= from.0 {
            return self.shared.reader.read(from, max_bytes);
        }
        let reader = self.shared.reader.clone();
        let read = tokio::task::spawn_blocking(move || reader.read(from, max_bytes)).await;
        read.unwrap_or(Err(ReadError::Closed))
    }

    /// Batches for a follower: from `from`, where one begins, at most about `max_bytes`, up to the
    /// log's end. With `begins`, for a log that has nothing before them.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_replica(
        &self,
        from: Offset,
        max_bytes: usize,
        begins: bool,
    ) -> Result<ReplicaBatches, ReadError> {
        let begins = begins && from != Offset::ZERO;
        if !begins && self.shared.hot.load(Ordering::Relaxed) <= from.0 {
            return self.shared.reader.read_replica(from, max_bytes);
        }
        let reader = self.shared.reader.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut batches = reader.read_replica(from, max_bytes)?;
            if begins {
                batches.producers = reader.producers_at(from)?;
            }
            Ok(batches)
        });
        read.await.unwrap_or(Err(ReadError::Closed))
    }

    /// The first record at or after `time`, and its time.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn offset_for_timestamp(
        &self,
        time: Timestamp,
    ) -> Result<Option<(Offset, Timestamp)>, ReadError> {
        let reader = self.shared.reader.clone();
        let found = tokio::task::spawn_blocking(move || reader.offset_for_timestamp(time)).await;
        found.unwrap_or(Err(ReadError::Closed))
    }

    /// Deletes everything below `before`; returns the first offset that is left.
    ///
    /// # Errors
    /// See [`MaintainError`].
    pub async fn trim(&self, before: Offset) -> Result<Offset, MaintainError> {
        self.ask(|reply| Message::Trim { before, reply }).await
    }

    /// Makes new settings of the topic known to the log.
    pub fn set_options(&self, options: LogOptions) {
        self.tell(Message::SetOptions(options));
    }

    /// Lets the log roll, delete and recompress what is due. `now` is the time by which records
    /// are old; none if that is not known, and nothing is deleted for its age.
    pub fn maintain(&self, now: Option<Timestamp>) {
        self.tell(Message::Maintain(now));
    }

    /// Syncs the log and ends the task.
    ///
    /// # Errors
    /// See [`MaintainError`].
    pub async fn close(&self) -> Result<(), MaintainError> {
        self.ask(|reply| Message::Close { reply }).await
    }

    /// Deletes the log and ends the task.
    ///
    /// # Errors
    /// See [`MaintainError`].
    pub async fn destroy(&self) -> Result<(), MaintainError> {
        self.ask(|reply| Message::Destroy { reply }).await
    }

    /// A task that has ended wants no news.
    fn tell(&self, message: Message) {
        let _ = self.mailbox.send(message);
    }

    async fn ask<T>(
        &self,
        message: impl FnOnce(Reply<T, MaintainError>) -> Message,
    ) -> Result<T, MaintainError> {
        let (reply, answer) = oneshot::channel();
        self.tell(message(reply));
        answer
            .await
            .unwrap_or_else(|_| Err(MaintainError::Closed(self.shared.name.clone())))
    }
}
