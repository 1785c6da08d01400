//! The owner of one partition's log.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::{Semaphore, mpsc, watch};

use super::handle::{AppendRequest, Appended, Message, PartitionHandle, Reply, State};
use super::{AppendError, MaintainError, chain};
use crate::storage::{self, PartitionLog, StorageError};
use crate::tasks::Tasks;
use crate::telemetry::Stats;
use crate::types::{Clock, Durability, LeaderEpoch, Offset, TopicPartition, limits};

/// What a partition shares with its neighbours on the node.
#[derive(Clone)]
pub struct Hosted {
    /// Where the partition's tasks run.
    pub tasks: Tasks,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// The node's counters.
    pub stats: Arc<Stats>,
    /// Fires whenever readers of the topic may see more.
    pub progress: watch::Sender<u64>,
    /// Bounds how many logs of the node write at once.
    pub writers: Arc<Semaphore>,
    /// Bounds how many segments of the node are recompressed at once.
    pub compressors: Arc<Semaphore>,
}

impl std::fmt::Debug for Hosted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hosted")
    }
}

/// Starts the task that owns `log`. It ends when it is closed, destroyed, or all handles are gone.
pub fn spawn(
    name: TopicPartition,
    log: PartitionLog,
    epoch: LeaderEpoch,
    durability: Durability,
    hosted: Hosted,
) -> PartitionHandle {
    let (mailbox, messages) = mpsc::unbounded_channel();
    let (state, state_seen) = watch::channel(State::Online);
    let hot = Arc::new(AtomicU64::new(log.log_end().0));
    let handle = PartitionHandle {
        name: name.clone(),
        epoch,
        mailbox: mailbox.clone(),
        room: Arc::new(Semaphore::new(limits::PARTITION_QUEUE_BYTES)),
        reader: log.reader(),
        state: state_seen,
        hot: hot.clone(),
    };
    let tasks = hosted.tasks.clone();
    let task = Task {
        name,
        epoch,
        durability,
        hosted,
        messages,
        mailbox: mailbox.downgrade(),
        state,
        warmth: Warmth {
            hot,
            marks: VecDeque::from([log.log_end()]),
            bytes: 0,
        },
        recompressing: false,
    };
    tasks.spawn("partition", task.run(log));
    handle
}

struct Task {
    name: TopicPartition,
    epoch: LeaderEpoch,
    durability: Durability,
    hosted: Hosted,
    messages: mpsc::UnboundedReceiver<Message>,
    mailbox: mpsc::WeakUnboundedSender<Message>,
    state: watch::Sender<State>,
    warmth: Warmth,
    recompressing: bool,
}

/// Remembers from which offset on records were written so recently that they are still cached.
struct Warmth {
    hot: Arc<AtomicU64>,
    marks: VecDeque<Offset>,
    bytes: usize,
}

/// Bytes between two marks; two marks are kept, so 1 to 2 MiB of the tail count as warm.
const WARM_BYTES: usize = 1024 * 1024;

impl Warmth {
    fn grew(&mut self, bytes: usize, end: Offset) {
        self.bytes += bytes;
        if self.bytes < WARM_BYTES {
            return;
        }
        self.bytes = 0;
        self.marks.push_back(end);
        if 2 < self.marks.len() {
            self.marks.pop_front();
        }
        if let Some(first) = self.marks.front() {
            self.hot.store(first.0, Ordering::Relaxed);
        }
    }
}

struct Waiting {
    request: AppendRequest,
    reply: Reply<Vec<Appended>, AppendError>,
    room: tokio::sync::OwnedSemaphorePermit,
}

enum End {
    Close(Reply<(), MaintainError>),
    Destroy(Reply<(), MaintainError>),
}

impl Task {
    async fn run(mut self, log: PartitionLog) {
        let mut log = Some(log);
        let mut next = None;
        loop {
            let message = match next.take() {
                Some(message) => message,
                None => match self.messages.recv().await {
                    Some(message) => message,
                    None => break,
                },
            };
            let Some(owned) = log.take() else { return };
            let end = match message {
                Message::Append {
                    request,
                    reply,
                    room,
                } => {
                    let mut group = vec![Waiting {
                        request,
                        reply,
                        room,
                    }];
                    next = self.collect(&mut group);
                    log = self.commit(owned, group).await;
                    continue;
                }
                Message::Close { reply } => End::Close(reply),
                Message::Destroy { reply } => End::Destroy(reply),
                other => {
                    log = self.maintain(owned, other).await;
                    continue;
                }
            };
            return self.end(owned, end).await;
        }
        // Every handle was dropped without a close: what was acknowledged is synced already.
        if let Some(owned) = log {
            let _ = tokio::task::spawn_blocking(move || owned.close()).await;
        }
    }

    /// Takes what else is waiting into the group. Returns the first message that does not belong.
    fn collect(&mut self, group: &mut Vec<Waiting>) -> Option<Message> {
        let mut bytes = group
            .iter()
            .map(|w| w.request.batches.iter().map(|b| b.len()).sum::<usize>())
            .sum::<usize>();
        while bytes < limits::GROUP_COMMIT_BYTES {
            match self.messages.try_recv() {
                Ok(Message::Append {
                    request,
                    reply,
                    room,
                }) => {
                    bytes += request.batches.iter().map(|b| b.len()).sum::<usize>();
                    group.push(Waiting {
                        request,
                        reply,
                        room,
                    });
                }
                Ok(other) => return Some(other),
                Err(_) => return None,
            }
        }
        None
    }

    async fn commit(&mut self, log: PartitionLog, group: Vec<Waiting>) -> Option<PartitionLog> {
        let turn = self.hosted.writers.clone().acquire_owned().await;
        let work = Commit {
            name: self.name.clone(),
            epoch: self.epoch,
            durability: self.durability,
            now: self.hosted.clock.now(),
            stats: self.hosted.stats.clone(),
        };
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work.run(log, group)
        })
        .await;
        // A panic in the storage took the log with it: nobody in the group hears an answer, which
        // says "unknown", and the partition stays offline.
        let Ok(done) = done else {
            self.offline("its writer stopped unexpectedly");
            return None;
        };
        self.warmth.grew(done.bytes, done.log.log_end());
        if done.published {
            self.hosted
                .progress
                .send_modify(|version| *version = version.wrapping_add(1));
        }
        for (reply, answer) in done.answers {
            // A requester that has gone away does not want its answer.
            let _ = reply.send(answer);
        }
        if let Some(reason) = done.poisoned {
            self.offline(&reason);
        }
        Some(done.log)
    }

    fn offline(&self, reason: &str) {
        tracing::error!(partition = %self.name, reason, "partition is offline");
        self.state.send_replace(State::Offline(reason.to_owned()));
    }

    async fn maintain(&mut self, mut log: PartitionLog, message: Message) -> Option<PartitionLog> {
        let now = self.hosted.clock.now();
        let name = self.name.clone();
        let stats = self.hosted.stats.clone();
        let install = matches!(message, Message::Recompressed(_));
        if let Message::SetOptions(_, durability) = message {
            self.durability = durability;
        }
        let done = tokio::task::spawn_blocking(move || {
            let result = maintain(&mut log, message, now, &name, &stats);
            (log, result)
        })
        .await;
        if install {
            self.recompressing = false;
        }
        let Ok((log, result)) = done else {
            self.offline("its writer stopped unexpectedly");
            return None;
        };
        if let Err(error) = &result {
            tracing::warn!(partition = %self.name, error = chain(error), "maintenance failed");
        }
        if log.is_poisoned() && *self.state.borrow() == State::Online {
            let reason = result.err().map(|error| chain(&error));
            self.offline(&reason.unwrap_or_else(|| "its storage has failed".to_owned()));
        }
        self.hosted
            .progress
            .send_modify(|version| *version = version.wrapping_add(1));
        self.recompress(&log);
        Some(log)
    }

    /// Starts to recompress one sealed segment, beside the task, if one is due.
    fn recompress(&mut self, log: &PartitionLog) {
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

    async fn end(self, log: PartitionLog, end: End) {
        let (ended, reply) = match end {
            End::Close(reply) => (
                tokio::task::spawn_blocking(move || log.close()).await,
                reply,
            ),
            End::Destroy(reply) => (
                tokio::task::spawn_blocking(move || log.destroy()).await,
                reply,
            ),
        };
        let answer = match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(MaintainError::storage(&self.name, &error)),
            Err(_) => Err(MaintainError::Closed(self.name.clone())),
        };
        let _ = reply.send(answer);
    }
}

fn maintain(
    log: &mut PartitionLog,
    message: Message,
    now: crate::types::Timestamp,
    name: &TopicPartition,
    stats: &Stats,
) -> Result<(), StorageError> {
    match message {
        Message::Trim { before, reply } => {
            let trimmed = log.trim(before);
            let _ = reply.send(trimmed.map_err(|error| MaintainError::storage(name, &error)));
            Ok(())
        }
        Message::SetOptions(options, _) => {
            log.set_options(options);
            Ok(())
        }
        Message::Maintain => {
            if log.durable_end() < log.log_end() {
                sync(log, stats)?;
            }
            let deleted = log.enforce_retention(now)?;
            stats
                .retention_deleted_bytes
                .fetch_add(deleted.bytes, Ordering::Relaxed);
            Ok(())
        }
        Message::Recompressed(Ok(Some(done))) => {
            let saved = log.install(done)?;
            stats
                .compression_saved_bytes
                .fetch_add(saved, Ordering::Relaxed);
            Ok(())
        }
        Message::Recompressed(Ok(None)) => Ok(()),
        Message::Recompressed(Err(reason)) => {
            tracing::warn!(partition = %name, reason, "a sealed segment could not be recompressed");
            Ok(())
        }
        Message::Append { .. } | Message::Close { .. } | Message::Destroy { .. } => Ok(()),
    }
}

fn sync(log: &mut PartitionLog, stats: &Stats) -> Result<Offset, StorageError> {
    let started = Instant::now();
    let end = log.sync();
    stats.fsynced(started.elapsed());
    end
}

/// One group commit, on a blocking thread.
struct Commit {
    name: TopicPartition,
    epoch: LeaderEpoch,
    durability: Durability,
    now: crate::types::Timestamp,
    stats: Arc<Stats>,
}

type Answer = (
    Reply<Vec<Appended>, AppendError>,
    Result<Vec<Appended>, AppendError>,
);

struct Committed {
    log: PartitionLog,
    answers: Vec<Answer>,
    bytes: usize,
    published: bool,
    poisoned: Option<String>,
}

impl Commit {
    fn run(self, mut log: PartitionLog, group: Vec<Waiting>) -> Committed {
        let mut answers: Vec<Answer> = Vec::with_capacity(group.len());
        let mut batches = Vec::with_capacity(group.len());
        let mut accepted = Vec::with_capacity(group.len());
        let mut rooms = Vec::with_capacity(group.len());
        let (mut bytes, mut records, mut end) = (0, 0u64, log.log_end());
        let begun = end;
        let mut mismatched = Vec::new();
        for waiting in group {
            if let Some(expected) = waiting.request.expected.filter(|&expected| expected != end) {
                mismatched.push((waiting.reply, expected, end));
                continue;
            }
            let count = waiting.request.batches.len();
            for batch in waiting.request.batches {
                let in_batch = record_count(&batch);
                end = Offset(end.0.saturating_add(in_batch));
                records += in_batch;
                bytes += batch.len();
                batches.push(batch);
            }
            accepted.push((waiting.reply, count));
            rooms.push(waiting.room);
        }
        if accepted.is_empty() {
            answers.extend(self.mismatches(mismatched));
            return Committed {
                log,
                answers,
                bytes: 0,
                published: false,
                poisoned: None,
            };
        }
        let outcome = self.append(&mut log, batches);
        let (published, poisoned) = match outcome {
            Ok(headers) => {
                self.stats.records_in.fetch_add(records, Ordering::Relaxed);
                self.stats
                    .bytes_in
                    .fetch_add(bytes as u64, Ordering::Relaxed);
                let mut headers = headers.iter();
                answers.extend(accepted.into_iter().map(|(reply, count)| {
                    (
                        reply,
                        Ok(headers.by_ref().take(count).map(Appended::from).collect()),
                    )
                }));
                (true, None)
            }
            Err(error) => {
                let poisoned = match &error {
                    AppendError::Sync { reason, .. } | AppendError::Offline { reason, .. } => {
                        Some(reason.clone())
                    }
                    _ => None,
                };
                answers.extend(
                    accepted
                        .into_iter()
                        .map(|(reply, _)| (reply, Err(error.clone()))),
                );
                // Who was measured against an end that never came to be was not appended either.
                let unfounded = mismatched.extract_if(.., |(_, _, end)| *end != begun);
                let refused = not_appended(error);
                answers.extend(unfounded.map(|(reply, _, _)| (reply, Err(refused.clone()))));
                (false, poisoned)
            }
        };
        answers.extend(self.mismatches(mismatched));
        Committed {
            log,
            answers,
            bytes,
            published,
            poisoned,
        }
    }

    fn mismatches(
        &self,
        mismatched: Vec<(Reply<Vec<Appended>, AppendError>, Offset, Offset)>,
    ) -> impl Iterator<Item = Answer> {
        mismatched.into_iter().map(|(reply, expected, end)| {
            let partition = self.name.clone();
            let error = AppendError::OffsetMismatch {
                partition,
                expected,
                end,
            };
            (reply, Err(error))
        })
    }

    fn append(
        &self,
        log: &mut PartitionLog,
        batches: Vec<bytes::BytesMut>,
    ) -> Result<Vec<crate::record::Header>, AppendError> {
        let partition = || self.name.clone();
        let headers = log
            .append(batches, self.epoch, self.now)
            .map_err(|error| match error {
                storage::AppendError::Failed(_) => AppendError::Sync {
                    partition: partition(),
                    reason: chain(&error),
                },
                storage::AppendError::Poisoned => AppendError::Offline {
                    partition: partition(),
                    reason: chain(&error),
                },
                error if error.is_full() => AppendError::NoSpace {
                    partition: partition(),
                },
                error => AppendError::Write {
                    partition: partition(),
                    reason: chain(&error),
                },
            })?;
        let end = match self.durability {
            Durability::Fsync => sync(log, &self.stats).map_err(|error| AppendError::Sync {
                partition: partition(),
                reason: chain(&error),
            })?,
            Durability::Replicated => log.log_end(),
        };
        log.publish(end);
        Ok(headers)
    }
}

/// What a group's failure means for a request that waited with it but was not written.
fn not_appended(error: AppendError) -> AppendError {
    match error {
        AppendError::Sync { partition, reason } => AppendError::Offline { partition, reason },
        error => error,
    }
}

fn record_count(batch: &[u8]) -> u64 {
    crate::record::Header::parse(batch).map_or(0, |header| u64::from(header.last_offset_delta) + 1)
}
