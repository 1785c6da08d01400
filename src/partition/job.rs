//! What is done with a log on a blocking thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::handle::{AppendRequest, Appended, Message, Reply};
use super::once::{self, Plan, Planned};
use super::{AppendError, MaintainError, SequenceError, chain};
use crate::producer::Draft;
use crate::storage::{self, PartitionLog, ReplicaBatches, StorageError};
use crate::telemetry::Stats;
use crate::types::{Acks, Durability, LeaderEpoch, Offset, Timestamp, TopicPartition};

/// A producer that waits, and what it waits for.
pub(super) struct Waiting {
    pub(super) request: AppendRequest,
    pub(super) acks: Acks,
    pub(super) reply: Reply<Vec<Appended>, AppendError>,
    pub(super) room: OwnedSemaphorePermit,
    /// It came before the batches that are due, and is kept so long.
    pub(super) early_until: Option<tokio::time::Instant>,
}

/// A producer whose records are in the log.
pub(super) struct Written {
    pub(super) acks: Acks,
    /// It was sent before: it is not told where it stands before that is committed (P3).
    pub(super) replayed: bool,
    pub(super) end: Offset,
    pub(super) appended: Vec<Appended>,
    pub(super) reply: Reply<Vec<Appended>, AppendError>,
    pub(super) _room: OwnedSemaphorePermit,
}

pub(super) type Answer = (
    Reply<Vec<Appended>, AppendError>,
    Result<Vec<Appended>, AppendError>,
);

/// Work that needs the log.
pub(super) enum Job {
    /// A leader's group commit.
    Commit(Commit),
    /// A follower's: batches as the leader wrote them, and the leader's log start.
    Copy {
        batches: ReplicaBatches,
        log_start: Offset,
        room: Option<OwnedSemaphorePermit>,
    },
    /// Everything from here on goes (PROTOCOL T2).
    Truncate { to: Offset },
    /// Everything goes, and the log begins here.
    Restart { start: Offset },
    /// What was copied or inherited becomes durable.
    Sync,
    /// Trimming, retention, recompression, settings.
    Maintain(Message),
}

/// One group commit.
pub(super) struct Commit {
    pub(super) epoch: LeaderEpoch,
    pub(super) group: Vec<Waiting>,
}

/// What every job needs.
pub(super) struct Surroundings {
    pub(super) name: TopicPartition,
    pub(super) durability: Durability,
    pub(super) now: Timestamp,
    /// Whether this copy leads.
    pub(super) leads: bool,
    pub(super) stats: Arc<Stats>,
    /// Told as soon as the batches are written, before they are synced.
    pub(super) written: Option<oneshot::Sender<Grown>>,
}

/// What a log holds that is not synced yet.
pub(super) struct Grown {
    pub(super) end: Offset,
    /// Epochs that were copied, and where they begin.
    pub(super) epochs: Vec<(LeaderEpoch, Offset)>,
}

/// What came of a job.
pub(super) enum Outcome {
    /// In the log, and durable if the topic asks for it; `answers` are those that were refused.
    Committed {
        epoch: LeaderEpoch,
        written: Vec<Written>,
        /// Idempotent producers' batches that came before the ones that are due.
        early: Vec<(Waiting, SequenceError)>,
        answers: Vec<Answer>,
    },
    /// The copied batches are in the log, and synced if the topic asks for it.
    Copied {
        result: Result<(), String>,
        /// Epochs of the batches, and where they begin.
        epochs: Vec<(LeaderEpoch, Offset)>,
    },
    /// The log was cut, or emptied and begun anew.
    Cut {
        restarted: bool,
        result: Result<(), String>,
    },
    /// Synced.
    Synced(Result<(), String>),
    /// Maintained.
    Maintained {
        installed: bool,
        failed: Option<String>,
    },
}

/// A job's end: the log comes back, unless its thread panicked.
pub(super) struct Done {
    pub(super) log: PartitionLog,
    pub(super) outcome: Outcome,
    /// Bytes that were appended.
    pub(super) bytes: usize,
}

impl Job {
    /// Blocking.
    pub(super) fn run(self, mut log: PartitionLog, mut around: Surroundings) -> Done {
        let mut bytes = 0;
        let outcome = match self {
            Self::Commit(commit) => commit.run(&mut log, &mut around, &mut bytes),
            Self::Copy {
                batches,
                log_start,
                room: _room,
            } => {
                bytes = batches.batches.len();
                let mut epochs = Vec::new();
                let copied = copy(&mut log, batches, log_start, &mut around, &mut epochs);
                Outcome::Copied {
                    result: copied.map_err(|error| chain(error.as_ref())),
                    epochs,
                }
            }
            Self::Truncate { to } => Outcome::Cut {
                restarted: false,
                result: log.truncate(to).map(drop).map_err(|error| chain(&error)),
            },
            Self::Restart { start } => Outcome::Cut {
                restarted: true,
                result: log.reset_to(start).map_err(|error| chain(&error)),
            },
            Self::Sync => Outcome::Synced(match sync(&mut log, &around.stats) {
                Ok(_) => Ok(()),
                Err(error) => Err(chain(&error)),
            }),
            Self::Maintain(message) => {
                let installed = matches!(message, Message::Recompressed(_));
                let done = maintain(&mut log, message, &around);
                Outcome::Maintained {
                    installed,
                    failed: done.err().map(|error| chain(&error)),
                }
            }
        };
        Done {
            log,
            outcome,
            bytes,
        }
    }
}

fn copy(
    log: &mut PartitionLog,
    batches: ReplicaBatches,
    log_start: Offset,
    around: &mut Surroundings,
    epochs: &mut Vec<(LeaderEpoch, Offset)>,
) -> Result<(), Box<dyn std::error::Error>> {
    if !batches.batches.is_empty() {
        let bytes = batches.batches.len() as u64;
        for header in log.append_replicated(batches, around.now)? {
            if epochs
                .last()
                .is_none_or(|(last, _)| *last < header.leader_epoch)
            {
                epochs.push((header.leader_epoch, header.base_offset));
            }
        }
        around
            .stats
            .replicated_bytes
            .fetch_add(bytes, Ordering::Relaxed);
        if let Some(written) = around.written.take() {
            // The task may be gone; the records are in the log all the same.
            let _ = written.send(Grown {
                end: log.log_end(),
                epochs: epochs.clone(),
            });
        }
        if around.durability == Durability::Fsync {
            sync(log, &around.stats)?;
        }
    }
    // C4: what the leader has deleted goes here too.
    if log.log_start() < log_start && log_start <= log.log_end() {
        log.trim(log_start)?;
    }
    Ok(())
}

fn sync(log: &mut PartitionLog, stats: &Stats) -> Result<Offset, StorageError> {
    stats.fsyncs_begun.fetch_add(1, Ordering::Relaxed);
    let started = Instant::now();
    let end = log.sync();
    stats.fsynced(started.elapsed());
    end
}

fn maintain(
    log: &mut PartitionLog,
    message: Message,
    around: &Surroundings,
) -> Result<(), StorageError> {
    let (name, stats) = (&around.name, &around.stats);
    match message {
        Message::Trim { before, reply } => {
            let trimmed = log.trim(before);
            let _ = reply.send(trimmed.map_err(|error| MaintainError::storage(name, &error)));
        }
        Message::SetOptions(options) => log.set_options(options),
        Message::Maintain(now) => {
            if log.durable_end() < log.log_end() {
                sync(log, stats)?;
            }
            // C4: a copy deletes what its leader has deleted, and nothing by itself.
            if !around.leads {
                log.note_idle();
                return Ok(());
            }
            // By a clock that is not believed, nothing is old.
            let deleted = log.enforce_retention(now.unwrap_or_default())?;
            stats
                .retention_deleted_bytes
                .fetch_add(deleted.bytes, Ordering::Relaxed);
        }
        Message::Recompressed(Ok(Some(done))) => {
            let saved = log.install(done)?;
            stats
                .compression_saved_bytes
                .fetch_add(saved, Ordering::Relaxed);
        }
        Message::Recompressed(Err(reason)) => {
            tracing::warn!(partition = %name, reason, "a sealed segment could not be recompressed");
        }
        _ => {}
    }
    Ok(())
}

impl Commit {
    fn run(self, log: &mut PartitionLog, around: &mut Surroundings, bytes: &mut usize) -> Outcome {
        let epoch = self.epoch;
        let begun = log.log_end();
        let plan = match self.plan(log, around) {
            Ok(plan) => plan,
            Err(answers) => {
                return Outcome::Committed {
                    epoch,
                    written: Vec::new(),
                    early: Vec::new(),
                    answers,
                };
            }
        };
        let Planned {
            batches,
            records,
            taken,
            early,
            mismatched,
            mut answers,
            ..
        } = plan;
        *bytes = plan.bytes;
        let mut written = Vec::with_capacity(taken.len());
        let appended = match batches.is_empty() {
            true => Ok(Vec::new()),
            false => self::append(log, batches, epoch, around),
        };
        let mut mismatched = mismatched;
        match appended {
            Ok(headers) => {
                let stats = &around.stats;
                stats.records_in.fetch_add(records, Ordering::Relaxed);
                stats.bytes_in.fetch_add(*bytes as u64, Ordering::Relaxed);
                let mut headers = headers.iter().map(Appended::from);
                written.extend(taken.into_iter().map(|taken| taken.written(&mut headers)));
            }
            Err(error) => {
                *bytes = 0;
                // Who was measured against what never came to be was not appended either.
                let refused = not_appended(error.clone());
                for taken in taken {
                    match taken.is_replay() {
                        false => answers.push((taken.reply, Err(error.clone()))),
                        true if begun < taken.end => {
                            answers.push((taken.reply, Err(refused.clone())));
                        }
                        true => written.push(taken.written(&mut std::iter::empty())),
                    }
                }
                let unfounded = mismatched.extract_if(.., |(_, _, end)| *end != begun);
                answers.extend(unfounded.map(|(reply, _, _)| (reply, Err(refused.clone()))));
            }
        }
        answers.extend(mismatched.into_iter().map(|(reply, expected, end)| {
            let error = AppendError::OffsetMismatch {
                partition: around.name.clone(),
                expected,
                end,
            };
            (reply, Err(error))
        }));
        Outcome::Committed {
            epoch,
            written,
            early,
            answers,
        }
    }

    /// Judges the group. If what is known of producers cannot be read, nothing of it is appended.
    fn plan(self, log: &mut PartitionLog, around: &Surroundings) -> Result<Planned, Vec<Answer>> {
        let (end, now) = (log.log_end(), log.append_time(around.now));
        let draft = match once::is_marked(&self.group) {
            false => None,
            true => match log.producers() {
                Ok(producers) => Some(Draft::new(producers, now)),
                Err(error) => {
                    let error = AppendError::Write {
                        partition: around.name.clone(),
                        reason: chain(&error),
                    };
                    let answer = |waiting: Waiting| (waiting.reply, Err(error.clone()));
                    return Err(self.group.into_iter().map(answer).collect());
                }
            },
        };
        let mut plan = Plan::new(&around.name, end, draft);
        self.group
            .into_iter()
            .for_each(|waiting| plan.take(waiting));
        Ok(plan.finish())
    }
}

fn append(
    log: &mut PartitionLog,
    batches: Vec<bytes::BytesMut>,
    epoch: LeaderEpoch,
    around: &mut Surroundings,
) -> Result<Vec<crate::record::Header>, AppendError> {
    let name = around.name.clone();
    let partition = || name.clone();
    let headers = log
        .append(batches, epoch, around.now)
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
    if let Some(written) = around.written.take() {
        // The task may be gone; the records are in the log all the same.
        let _ = written.send(Grown {
            end: log.log_end(),
            epochs: Vec::new(),
        });
    }
    if around.durability == Durability::Fsync {
        sync(log, &around.stats).map_err(|error| AppendError::Sync {
            partition: partition(),
            reason: chain(&error),
        })?;
    }
    Ok(headers)
}

/// What a group's failure means for a request that waited with it but was not written.
fn not_appended(error: AppendError) -> AppendError {
    match error {
        AppendError::Sync { partition, reason } => AppendError::Offline { partition, reason },
        error => error,
    }
}
