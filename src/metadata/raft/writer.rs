//! The one thread that writes the Raft log.
//!
//! Votes and entries go through one queue, in the order in which openraft asks for them. What has
//! come in while the disk was busy is written at once, made durable with one fdatasync, marked in
//! the guard, and only then reported (PROTOCOL M1). After an error nothing is written any more:
//! what a disk holds after a failed sync cannot be known (invariant 39).

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot};

use super::Types;
use super::guard::{Guard, Mark};
use super::record::{Encoded, Head, Record};
use super::recovery::{self, Contents, Recovered};
use crate::storage::{Disk, DiskFile, OpenMode};

/// Most requests that share a sync.
const BATCH: usize = 256;

/// A file of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) number: u64,
    /// The highest index of an entry in it, void or not: once that is purged, so is the file.
    pub(super) highest: Option<u64>,
}

/// The end of the log.
pub(super) struct Tail {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) segment: u64,
    /// Where the next record goes.
    pub(super) end: u64,
    /// Bytes that the file may have.
    pub(super) capacity: u64,
    /// Of the last record.
    pub(super) checksum: u32,
}

impl Tail {
    pub(super) fn mark(&self, contents: &Contents) -> Mark {
        Mark {
            sequence: 0,
            segment: self.segment,
            end: self.end,
            checksum: self.checksum,
            last: contents.last.map_or(0, |last| last.index),
            term: contents.vote.map_or(0, |vote| vote.leader_id.term),
        }
    }
}

/// Makes a file of `size` bytes, or more if its head would else leave no room for `need`. They
/// are reserved at once: overwriting reserved blocks needs no commit of the file system's journal.
pub(super) fn create(
    disk: &dyn Disk,
    dir: &Path,
    head: Head,
    previous: u32,
    size: u64,
    need: u64,
) -> io::Result<Tail> {
    let file = disk.open(&recovery::path(dir, head.segment), OpenMode::Create)?;
    let mut bytes = Vec::new();
    let encoded = Record::Head(head).encode()?;
    let checksum = encoded.write(previous, &mut bytes);
    let capacity = size.max(bytes.len() as u64 + need);
    file.allocate(capacity)?;
    file.write_all_at(&mut [IoSlice::new(&bytes)], 0)?;
    file.sync_all()?;
    disk.sync_dir(dir)?;
    Ok(Tail {
        file,
        segment: head.segment,
        end: bytes.len() as u64,
        capacity,
        checksum,
    })
}

/// Whom to tell when it is durable.
pub(super) enum Done {
    Flushed(IOFlushed<Types>),
    Reply(oneshot::Sender<io::Result<()>>),
}

impl Done {
    fn complete(self, result: io::Result<()>) {
        match self {
            Self::Flushed(callback) => callback.io_completed(result),
            // Nobody waits for it any more; it is done all the same.
            Self::Reply(reply) => drop(reply.send(result)),
        }
    }
}

/// Records to write, all or none of which are reported.
pub(super) struct Request {
    pub(super) records: Vec<(Record, Encoded)>,
    pub(super) done: Done,
}

pub(super) struct Writer {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    node: u64,
    /// Bytes of a new file.
    size: u64,
    /// What the log says up to its end; without the entries, which the writer does not need.
    contents: Contents,
    segments: VecDeque<Segment>,
    tail: Tail,
    guard: Guard,
    /// Records that belong at the end and are not written yet.
    buffer: Vec<u8>,
}

impl Writer {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        node: u64,
        size: u64,
        log: Recovered,
    ) -> Self {
        Self {
            disk,
            dir,
            node,
            size,
            contents: Contents {
                entries: Default::default(),
                ..log.contents
            },
            segments: log.segments.into(),
            tail: log.tail,
            guard: log.guard,
            buffer: Vec::new(),
        }
    }

    /// Writes until nobody can send any more.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let mut failed: Option<(io::ErrorKind, String)> = None;
        while let Some(first) = queue.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < BATCH
                && let Ok(next) = queue.try_recv()
            {
                batch.push(next);
            }
            if failed.is_none()
                && let Err(error) = self.write(&mut batch)
            {
                tracing::error!(%error, "the Raft log has failed and takes no more entries");
                failed = Some((error.kind(), error.to_string()));
            }
            for request in batch {
                request.done.complete(match &failed {
                    None => Ok(()),
                    Some((kind, why)) => Err(io::Error::new(*kind, why.clone())),
                });
            }
        }
    }

    fn write(&mut self, batch: &mut [Request]) -> io::Result<()> {
        let mut purged = false;
        for (record, encoded) in batch
            .iter_mut()
            .flat_map(|request| request.records.drain(..))
        {
            let need = encoded.len() as u64;
            if self.tail.capacity < self.tail.end + need {
                self.roll(need)?;
            }
            self.tail.checksum = encoded.write(self.tail.checksum, &mut self.buffer);
            self.tail.end += need;
            purged |= matches!(record, Record::Purge(_));
            if let (Record::Entry(entry), Some(segment)) = (&record, self.segments.back_mut()) {
                segment.highest = segment.highest.max(Some(entry.log_id.index));
            }
            if !self.contents.advance(record) {
                return Err(io::Error::other("a record that leaves a gap in the log"));
            }
            self.contents.entries.clear();
        }
        self.flush()?;
        self.guard.set(self.tail.mark(&self.contents))?;
        if purged {
            self.remove_purged();
        }
        Ok(())
    }

    /// Makes what is in the buffer durable.
    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let start = self.tail.end - self.buffer.len() as u64;
        let file = &self.tail.file;
        file.write_all_at(&mut [IoSlice::new(&self.buffer)], start)?;
        file.sync_data()?;
        self.buffer.clear();
        Ok(())
    }

    fn roll(&mut self, need: u64) -> io::Result<()> {
        // The new file's head says that everything before it is there.
        self.flush()?;
        let head = self.contents.head(self.tail.segment + 1, self.node);
        self.tail = create(
            &*self.disk,
            &self.dir,
            head,
            self.tail.checksum,
            self.size,
            need,
        )?;
        self.segments.push_back(Segment {
            number: head.segment,
            highest: None,
        });
        Ok(())
    }

    /// Removes the files of which nothing is needed. Should it fail, the next purge tries again.
    fn remove_purged(&mut self) {
        let purged = self.contents.purged.map(|purged| purged.index);
        while let Some(oldest) = self.segments.front()
            && oldest.number < self.tail.segment
            && oldest.highest <= purged
        {
            let path = recovery::path(&self.dir, oldest.number);
            // One at a time, so that what a crash leaves has no gap.
            if let Err(error) = self
                .disk
                .remove(&path)
                .and_then(|()| self.disk.sync_dir(&self.dir))
            {
                tracing::warn!(%error, path = %path.display(), "a purged Raft log file was left behind");
                return;
            }
            self.segments.pop_front();
        }
    }
}
