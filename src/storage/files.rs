//! Open files and loaded indexes, shared by all partitions of a node and bounded together.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::disk::{Disk, DiskFile, OpenMode};
use super::error::StorageError;
use super::index::Entry;

/// Memory for the indexes of sealed segments, in bytes.
const INDEX_BYTES: u64 = 64 * 1024 * 1024;

/// Names one file for as long as the process lives. A rewritten segment gets a new id, so an open
/// descriptor is never taken for that of its successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileId(u64);

#[derive(Clone)]
struct IndexWeight;

impl Weighter<FileId, Arc<[Entry]>> for IndexWeight {
    fn weight(&self, _: &FileId, index: &Arc<[Entry]>) -> u64 {
        64 + size_of_val::<[Entry]>(index) as u64
    }
}

/// Keeps recently used files open, and closes the others. Files that somebody is reading or has
/// not yet synced stay open beyond the bound.
pub struct FileCache {
    open: Cache<FileId, Arc<dyn DiskFile>>,
    indexes: Cache<FileId, Arc<[Entry]>, IndexWeight>,
    next: AtomicU64,
    /// Nobody else may take the files' directory before the last log and reader are gone.
    _claim: Option<File>,
}

impl std::fmt::Debug for FileCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileCache")
            .field("open", &self.open.len())
            .finish_non_exhaustive()
    }
}

impl FileCache {
    /// Keeps about `max_open` files open.
    pub fn new(max_open: usize) -> Self {
        Self {
            open: Cache::new(max_open.max(1)),
            // So few items are announced that the cache is not divided: the index of the largest
            // segment has to fit into one part of it.
            indexes: Cache::with_weighter(32, INDEX_BYTES, IndexWeight),
            next: AtomicU64::new(0),
            _claim: None,
        }
    }

    /// Keeps `claim` open, and with it the lock on it, for as long as a log, a reader or a rewrite
    /// that uses this cache lives.
    #[must_use]
    pub fn holding(mut self, claim: File) -> Self {
        self._claim = Some(claim);
        self
    }

    /// Files that are kept open now.
    pub fn open_files(&self) -> usize {
        self.open.len()
    }

    pub(super) fn next_id(&self) -> FileId {
        FileId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// The file of `id`, opened if need be.
    pub(super) fn file(
        &self,
        id: FileId,
        disk: &dyn Disk,
        path: &Path,
        mode: OpenMode,
    ) -> io::Result<Arc<dyn DiskFile>> {
        self.open.get_or_insert_with(&id, || disk.open(path, mode))
    }

    pub(super) fn keep(&self, id: FileId, file: Arc<dyn DiskFile>) {
        self.open.insert(id, file);
    }

    /// The index of the sealed segment `id`, loaded if need be.
    pub(super) fn index(
        &self,
        id: FileId,
        load: impl FnOnce() -> Result<Arc<[Entry]>, StorageError>,
    ) -> Result<Arc<[Entry]>, StorageError> {
        self.indexes.get_or_insert_with(&id, load)
    }

    /// Closes the file as soon as nobody uses it: a deleted file holds its disk space until then.
    pub(super) fn forget(&self, id: FileId) {
        self.open.remove(&id);
        self.indexes.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Offset, Timestamp};

    #[test]
    fn the_index_of_the_largest_segment_is_loaded_once() {
        let files = FileCache::new(1);
        let entry = Entry {
            offset: Offset(0),
            position: 0,
            max_timestamp: Timestamp(0),
        };
        let largest: Arc<[Entry]> = vec![entry; (2 << 30) / 4096].into();
        let id = files.next_id();
        let mut loads = 0;
        for _ in 0..2 {
            let load = || {
                loads += 1;
                Ok(largest.clone())
            };
            assert_eq!(files.index(id, load).unwrap().len(), largest.len());
        }
        assert_eq!(loads, 1);
    }
}
