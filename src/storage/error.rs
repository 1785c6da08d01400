//! Why operations on a log fail: one enum per operation.

use std::io;
use std::path::{Path, PathBuf};

use crate::record::BatchError;
use crate::types::{LeaderEpoch, Offset};

/// Why the disk would not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried ("write", "fsync").
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// An earlier fsync of this log failed, so nothing more may be promised about it.
    #[error("the log in {} has failed earlier and takes no more records", dir.display())]
    Poisoned {
        /// The log's directory.
        dir: PathBuf,
    },
    /// Bytes on disk do not match their checksum or their place.
    #[error("{} is damaged at byte {position}", path.display())]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        position: u64,
    },
}

impl StorageError {
    /// Whether the disk (or the user's share of it) has no room.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

/// Names the attempt on the way out of an I/O call.
pub(super) trait Attempt<T> {
    fn attempt(self, action: &'static str, path: &Path) -> Result<T, StorageError>;
}

impl<T> Attempt<T> for io::Result<T> {
    fn attempt(self, action: &'static str, path: &Path) -> Result<T, StorageError> {
        self.map_err(|source| StorageError::Io {
            action,
            path: path.to_owned(),
            source,
        })
    }
}

/// Why a log cannot be opened. Damage is no reason: what can be read stays readable.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk failed.
    #[error("open the log")]
    Storage(#[from] StorageError),
    /// A segment file belongs to another topic or partition: it was moved here by mistake.
    #[error("{} belongs to another topic or partition", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
}

/// Why records were not appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// A batch cannot be one. Nothing was appended.
    #[error("batch {index} cannot be appended")]
    Invalid {
        /// Which of the batches, from 0.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: BatchError,
    },
    /// The log holds records of a later reign. Nothing was appended.
    #[error("epoch {given} is over: the log holds records of epoch {current}")]
    StaleEpoch {
        /// The caller's epoch.
        given: LeaderEpoch,
        /// The epoch of the last batch.
        current: LeaderEpoch,
    },
    /// The disk refused, and the log was cut back to where it was: nothing was appended, and
    /// the log goes on.
    #[error("append, nothing was kept")]
    NotWritten(#[source] StorageError),
    /// An earlier operation failed for good. Nothing was appended.
    #[error("the log has failed earlier and takes no more records")]
    Poisoned,
    /// The log has just failed for good: the records may or may not be found after a restart.
    #[error("append, the log has failed")]
    Failed(#[source] StorageError),
}

impl AppendError {
    /// Whether the disk had no room.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::NotWritten(source) | Self::Failed(source) if source.is_full())
    }
}

/// Why batches that a leader sent were not appended.
#[derive(Debug, thiserror::Error)]
pub enum ReplicateError {
    /// A batch is cut short or does not match its checksums: it was damaged on the way, or where
    /// it came from. Nothing was appended.
    #[error("batch {index} is damaged")]
    Damaged {
        /// Which of the batches, from 0.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: BatchError,
    },
    /// A batch belongs to another topic or partition. Nothing was appended.
    #[error("batch {index} belongs to another topic or partition")]
    Foreign {
        /// Which of the batches, from 0.
        index: usize,
    },
    /// A batch begins elsewhere than the log, or the batch before it, ends. Nothing was appended.
    /// An empty log that begins within a batch of its leader's has to begin with that batch.
    #[error("batch {index} begins at {found}, not at {expected}")]
    NotNext {
        /// Which of the batches, from 0.
        index: usize,
        /// Where it should begin.
        expected: Offset,
        /// Where it begins.
        found: Offset,
    },
    /// A batch is not chained to the one before it, or its epoch or append time falls: the two
    /// logs differ before it. Nothing was appended.
    #[error("batch {index}, at {offset}, does not continue the log")]
    Unchained {
        /// Which of the batches, from 0.
        index: usize,
        /// Where it begins.
        offset: Offset,
    },
    /// The log would not take them.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// Why a read has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Beyond the end.
    #[error("the offset lies beyond the end, {end}")]
    OutOfRange {
        /// The high watermark: the offset of the next record.
        end: Offset,
    },
    /// Deleted by retention or trim.
    #[error("the records before {start} have been deleted")]
    Trimmed {
        /// The first offset that is still there.
        start: Offset,
    },
    /// The bytes do not match their checksum and are not served.
    #[error("the records at {offset} are damaged")]
    Corrupt {
        /// The first damaged offset.
        offset: Offset,
    },
    /// The disk failed.
    #[error("read the log")]
    Io(#[from] StorageError),
    /// The reader went away before the answer came.
    #[error("the log is being closed")]
    Closed,
}
