//! The Raft log as openraft sees it: entries in memory, where they are few, and on disk.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use tokio::sync::{mpsc, oneshot};

use super::record::{Encoded, Record};
use super::recovery::{self, OpenError};
use super::writer::{Done, Request, Writer};
use super::{Entry, LogId, Types, Vote};
use crate::storage::Disk;

/// Requests that may wait for the writer; whoever sends one more waits for room.
const QUEUE: usize = 1024;

/// What the log holds, including what the disk does not have yet. Purging keeps it small.
#[derive(Debug, Default)]
struct Memory {
    vote: Option<Vote>,
    purged: Option<LogId>,
    last: Option<LogId>,
    entries: BTreeMap<u64, Entry>,
}

/// A handle to the log; clones speak to the same one. Its writer ends with the last of them.
#[derive(Debug, Clone)]
pub(in crate::metadata) struct RaftLog {
    // Held only to look or to change, never across an await.
    memory: Arc<Mutex<Memory>>,
    queue: mpsc::Sender<Request>,
}

/// An opened log.
pub(in crate::metadata) struct Opened {
    pub(in crate::metadata) log: RaftLog,
    /// Whether it was made just now.
    pub(in crate::metadata) is_new: bool,
    /// Resolves when the writer has ended.
    pub(in crate::metadata) ended: oneshot::Receiver<()>,
}

impl RaftLog {
    /// Opens the log of `node` in `dir`, making it if there is none, with files of `size` bytes.
    /// Blocks.
    pub(in crate::metadata) fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        node: u64,
        size: u64,
    ) -> Result<Opened, OpenError> {
        let mut recovered = recovery::open(&disk, dir, node, size)?;
        let contents = &mut recovered.contents;
        let memory = Memory {
            vote: contents.vote,
            purged: contents.purged,
            last: contents.last,
            entries: std::mem::take(&mut contents.entries),
        };
        let is_new = recovered.is_new;
        let writer = Writer::new(disk, PathBuf::from(dir), node, size, recovered);
        let (queue, requests) = mpsc::channel(QUEUE);
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("raft-log".into())
            .spawn(move || {
                writer.run(requests);
                end.send(()).ok();
            })
            .map_err(|source| OpenError::Storage {
                dir: dir.into(),
                source,
            })?;
        Ok(Opened {
            log: Self {
                memory: Arc::new(Mutex::new(memory)),
                queue,
            },
            is_new,
            ended,
        })
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, records: Vec<(Record, Encoded)>, done: Done) -> io::Result<()> {
        let request = Request { records, done };
        let gone = |_| io::Error::other("the Raft log's writer has ended");
        self.queue.send(request).await.map_err(gone)
    }

    /// Writes one record and waits until it is durable.
    async fn write(&self, record: Record) -> io::Result<()> {
        let encoded = encode(&record)?;
        let (reply, answer) = oneshot::channel();
        self.send(vec![(record, encoded)], Done::Reply(reply))
            .await?;
        answer
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the Raft log's writer has ended")))
    }
}

fn encode(record: &Record) -> io::Result<Encoded> {
    let encoded = record.encode()?;
    if encoded.is_too_long() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "an entry that is too long for the Raft log",
        ));
    }
    Ok(encoded)
}

impl RaftLogReader<Types> for RaftLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let memory = self.memory();
        let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
        // What an empty or inverted range asks for is nothing; BTreeMap would panic.
        let empty = match bounds {
            (std::ops::Bound::Included(start), std::ops::Bound::Excluded(end)) => end <= start,
            (std::ops::Bound::Included(start), std::ops::Bound::Included(end)) => end < start,
            (std::ops::Bound::Excluded(start), std::ops::Bound::Excluded(end)) => end <= start,
            (std::ops::Bound::Excluded(start), std::ops::Bound::Included(end)) => end <= start,
            _ => false,
        };
        if empty {
            return Ok(Vec::new());
        }
        Ok(memory
            .entries
            .range(bounds)
            .map(|(_, entry)| entry.clone())
            .collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.memory().vote)
    }
}

impl RaftLogStorage<Types> for RaftLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let memory = self.memory();
        Ok(LogState {
            last_purged_log_id: memory.purged,
            last_log_id: memory.last,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.write(Record::Vote(*vote)).await?;
        self.memory().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::new();
        for entry in entries {
            let record = Record::Entry(entry);
            let encoded = encode(&record)?;
            records.push((record, encoded));
        }
        {
            let mut memory = self.memory();
            for (record, _) in &records {
                if let Record::Entry(entry) = record {
                    memory.last = Some(entry.log_id);
                    memory.entries.insert(entry.log_id.index, entry.clone());
                }
            }
        }
        self.send(records, Done::Flushed(callback)).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        {
            let mut memory = self.memory();
            let from = last_log_id.map_or(0, |last| last.index + 1);
            memory.entries.split_off(&from);
            if memory.last.is_some_and(|own| from <= own.index) {
                memory.last = last_log_id;
            }
        }
        self.write(Record::Truncate(last_log_id)).await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        {
            let mut memory = self.memory();
            memory.entries = memory.entries.split_off(&(log_id.index + 1));
            memory.purged = Some(log_id);
            if memory.last.is_none_or(|last| last.index < log_id.index) {
                memory.last = Some(log_id);
            }
        }
        self.write(Record::Purge(log_id)).await
    }
}
