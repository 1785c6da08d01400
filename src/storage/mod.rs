//! stub
#![allow(missing_docs, unused)]
use crate::record::Header;
use crate::types::*;
use bytes::*;
use std::path::Path;
use std::sync::Arc;
pub trait Disk: Send + Sync + 'static {
    fn space(&self, p: &Path) -> std::io::Result<(u64, u64)>;
}
pub struct StdDisk;
impl Disk for StdDisk {
    fn space(&self, p: &Path) -> std::io::Result<(u64, u64)> {
        Ok((1, 1))
    }
}
pub struct FileCache;
impl FileCache {
    pub fn new(n: usize) -> Self {
        Self
    }
}
#[derive(Debug, Clone)]
pub struct LogOptions {
    pub segment_bytes: u64,
    pub segment_ms: u64,
    pub retention_ms: Option<u64>,
    pub retention_bytes: Option<u64>,
    pub compression: Compression,
    pub use_append_time: bool,
}
pub struct PartitionLog;
#[derive(Debug)]
pub struct Recovery {
    pub truncated_bytes: u64,
    pub quarantined: Vec<String>,
}
pub struct Deleted {
    pub segments: u32,
    pub bytes: u64,
}
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("x")]
    X,
}
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("x")]
    Poisoned { dir: std::path::PathBuf },
}
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error("x")]
    Poisoned,
    #[error("x")]
    Failed(StorageError),
    #[error("x")]
    NotWritten(StorageError),
}
impl AppendError {
    pub fn is_full(&self) -> bool {
        false
    }
}
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("x")]
    OutOfRange { end: Offset },
    #[error("x")]
    Trimmed { start: Offset },
    #[error("x")]
    Corrupt { offset: Offset },
    #[error("closed")]
    Closed,
}
#[derive(Clone)]
pub struct LogReader;
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogStats {
    pub bytes: u64,
    pub appended_bytes: u64,
    pub segments: u32,
}
impl LogReader {
    pub fn log_start(&self) -> Offset {
        todo!()
    }
    pub fn high_watermark(&self) -> Offset {
        todo!()
    }
    pub fn log_end(&self) -> Offset {
        todo!()
    }
    pub fn stats(&self) -> LogStats {
        todo!()
    }
    pub fn read(&self, f: Offset, m: usize) -> Result<Bytes, ReadError> {
        todo!()
    }
    pub fn offset_for_timestamp(
        &self,
        t: Timestamp,
    ) -> Result<Option<(Offset, Timestamp)>, ReadError> {
        todo!()
    }
}
pub struct Recompression;
pub struct Recompressed;
impl Recompression {
    pub fn run(self) -> Result<Option<Recompressed>, StorageError> {
        todo!()
    }
}
impl PartitionLog {
    pub fn open(
        d: Arc<dyn Disk>,
        f: Arc<FileCache>,
        p: &Path,
        t: TopicId,
        q: Partition,
        o: LogOptions,
    ) -> Result<(Self, Recovery), OpenError> {
        todo!()
    }
    pub fn reader(&self) -> LogReader {
        todo!()
    }
    pub fn set_options(&mut self, o: LogOptions) {}
    pub fn append(
        &mut self,
        b: Vec<BytesMut>,
        e: LeaderEpoch,
        n: Timestamp,
    ) -> Result<Vec<Header>, AppendError> {
        todo!()
    }
    pub fn sync(&mut self) -> Result<Offset, StorageError> {
        todo!()
    }
    pub fn publish(&mut self, o: Offset) {}
    pub fn log_end(&self) -> Offset {
        todo!()
    }
    pub fn durable_end(&self) -> Offset {
        todo!()
    }
    pub fn trim(&mut self, b: Offset) -> Result<Offset, StorageError> {
        todo!()
    }
    pub fn enforce_retention(&mut self, n: Timestamp) -> Result<Deleted, StorageError> {
        todo!()
    }
    pub fn recompression_candidate(&self) -> Option<Recompression> {
        todo!()
    }
    pub fn install(&mut self, r: Recompressed) -> Result<u64, StorageError> {
        todo!()
    }
    pub fn close(self) -> Result<(), StorageError> {
        todo!()
    }
    pub fn destroy(self) -> Result<(), StorageError> {
        todo!()
    }
}
