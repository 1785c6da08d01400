//! The cheap end of a partition: appends go through its mailbox, reads go straight to the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::{AppendError, MaintainError};
use crate::record::Header;
use crate::storage::{LogOptions, LogReader, ReadError, Recompressed};
use crate::types::{Durability, LeaderEpoch, Offset, Timestamp, TopicPartition, limits};

/// Whether a partition takes appends.
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// Where one batch went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Number of records.
    pub count: u32,
    /// When the leader appended it.
    pub append_time: Timestamp,
}

impl From<&Header> for Appended {
    fn from(header: &Header) -> Self {
        Self {
            base_offset: header.base_offset,
            count: header.record_count,
            append_time: header.append_time,
        }
    }
}

pub(super) type Reply<T, E> = oneshot::Sender<Result<T, E>>;

pub(super) enum Message {
    Append {
        request: AppendRequest,
        reply: Reply<Vec<Appended>, AppendError>,
        room: OwnedSemaphorePermit,
    },
    Trim {
        before: Offset,
        reply: Reply<Offset, MaintainError>,
    },
    SetOptions(LogOptions, Durability),
    Maintain,
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
    pub(super) name: TopicPartition,
    pub(super) epoch: LeaderEpoch,
    pub(super) mailbox: mpsc::UnboundedSender<Message>,
    pub(super) room: Arc<Semaphore>,
    pub(super) reader: LogReader,
    pub(super) state: watch::Receiver<State>,
    pub(super) hot: Arc<AtomicU64>,
}

impl std::fmt::Debug for PartitionHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PartitionHandle({})", self.name)
    }
}

/// A request costs at least this much room, so that tiny ones are bounded in number too.
const REQUEST_ROOM: usize = 512;
/// Reads of at most this many bytes of freshly written records are done on the spot.
const INLINE_READ: usize = 256 * 1024;

impl PartitionHandle {
    /// The topic and partition.
    pub fn name(&self) -> &TopicPartition {
        &self.name
    }

    /// The reign in which this node leads the partition.
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// Whether it takes appends.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// The published part of the log.
    pub fn reader(&self) -> &LogReader {
        &self.reader
    }

    /// Appends and waits for the acknowledgement that the topic's durability asks for.
    ///
    /// # Errors
    /// See [`AppendError`]: `Overloaded`, `OffsetMismatch`, `NoSpace`, `Write` and `Offline` mean
    /// that nothing was appended; `Sync` and `Closed` mean that it may have been.
    pub async fn append(&self, request: AppendRequest) -> Result<Vec<Appended>, AppendError> {
        let (reply, answer) = oneshot::channel();
        self.send_append(request, reply)?;
        answer.await.unwrap_or_else(|_| {
            Err(AppendError::Closed {
                partition: self.name.clone(),
            })
        })
    }

    /// Hands over the batches without waiting for an acknowledgement.
    ///
    /// # Errors
    /// Only those that are known at once.
    pub fn append_unacknowledged(&self, request: AppendRequest) -> Result<(), AppendError> {
        let (reply, _) = oneshot::channel();
        self.send_append(request, reply)
    }

    fn send_append(
        &self,
        request: AppendRequest,
        reply: Reply<Vec<Appended>, AppendError>,
    ) -> Result<(), AppendError> {
        if let State::Offline(reason) = &*self.state.borrow() {
            return Err(AppendError::Offline {
                partition: self.name.clone(),
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
        let Ok(room) = self.room.clone().try_acquire_many_owned(bytes) else {
            return Err(AppendError::Overloaded {
                partition: self.name.clone(),
                waiting: limits::PARTITION_QUEUE_BYTES,
            });
        };
        self.mailbox
            .send(Message::Append {
                request,
                reply,
                room,
            })
            .map_err(|_| AppendError::Offline {
                partition: self.name.clone(),
                reason: "closing".into(),
            })
    }

    /// Batches from the one that holds `from`, at most about `max_bytes`, never beyond the high watermark.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read(&self, from: Offset, max_bytes: usize) -> Result<Bytes, ReadError> {
        // What was written moments ago is in the page cache: a thread hop would cost more than the read.
        if max_bytes <= INLINE_READ && self.hot.load(Ordering::Relaxed) <= from.0 {
            return self.reader.read(from, max_bytes);
        }
        let reader = self.reader.clone();
        let read = tokio::task::spawn_blocking(move || reader.read(from, max_bytes)).await;
        read.unwrap_or(Err(ReadError::Closed))
    }

    /// The first record at or after `time`, and its time.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn offset_for_timestamp(
        &self,
        time: Timestamp,
    ) -> Result<Option<(Offset, Timestamp)>, ReadError> {
        let reader = self.reader.clone();
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
    pub fn set_options(&self, options: LogOptions, durability: Durability) {
        self.tell(Message::SetOptions(options, durability));
    }

    /// Lets the log roll, delete and recompress what is due.
    pub fn maintain(&self) {
        self.tell(Message::Maintain);
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
            .unwrap_or_else(|_| Err(MaintainError::Closed(self.name.clone())))
    }
}
