//! The partition log on disk (layer 3).
//!
//! One [`PartitionLog`] per partition is its only writer and is owned by one task; any number of
//! [`LogReader`]s read beside it. Everything here blocks, nothing reads a wall clock, and every
//! access to files goes through [`Disk`]. The formats are specified in [`crate::docs::log_format`].
//!
//! What an fsync has confirmed is found again after a crash, byte for byte; what the disk has
//! damaged since is reported and stepped over, never served and never silently cut off.

mod append;
mod checkpoint;
mod disk;
mod epochs;
mod error;
mod files;
mod index;
pub mod inspect;
mod log;
mod producers;
mod quarantine;
mod reader;
mod recompress;
mod recovery;
mod replicate;
mod retention;
mod segment;
mod truncate;
mod walk;

pub(crate) use disk::create_dirs;
pub use disk::{Disk, DiskFile, OpenMode, StdDisk};
pub use error::{AppendError, OpenError, ReadError, ReplicateError, StorageError};
pub use files::FileCache;
pub use log::{LogOptions, PartitionLog};
pub use reader::{HighWatermark, LogReader, LogStats};
pub use recompress::{Recompressed, Recompression};
pub use recovery::Recovery;
pub use replicate::{Digest, ReplicaBatches};
pub use retention::{Deleted, destroy};
pub use segment::SegmentHeader;

#[cfg(test)]
pub(crate) mod tests;
