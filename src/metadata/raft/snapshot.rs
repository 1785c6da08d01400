//! The whole state in a file: for nodes that join or were away too long, and to let the log go.
//!
//! ```text
//! 0  magic     4  "PRSN"
//! 4  checksum  4  CRC-32C over the rest
//! 8  payload      zstd over JSON
//! ```
//! A file is complete under its name or not there at all. The one before the newest is kept (M8).

use std::io::{self, BufReader, IoSlice, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use openraft::alias::SnapshotMetaOf;
use serde::{Deserialize, Serialize};

use super::Types;
use crate::metadata::state::State;
use crate::metadata::state::snapshot::Snapshot;
use crate::storage::{Disk, OpenMode};

/// "PRSN".
const MAGIC: &[u8; 4] = b"PRSN";
const HEADER: usize = 8;
const SUFFIX: &str = ".snapshot";
/// Fast, and JSON shrinks well at any level.
const LEVEL: i32 = 1;
/// Most bytes of JSON: a bound on what a damaged or false snapshot makes us allocate.
const MAX_JSON: u64 = 1 << 30;
/// Files that are kept.
const KEPT: usize = 2;

pub(super) type Meta = SnapshotMetaOf<Types>;

#[derive(Serialize, Deserialize)]
struct Contents<S> {
    meta: Meta,
    state: S,
}

fn invalid(why: impl std::fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a metadata snapshot is damaged: {why}"),
    )
}

/// The bytes of a snapshot.
pub(super) fn encode(meta: &Meta, state: &Snapshot) -> io::Result<Bytes> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&[0; 4]);
    let mut encoder = zstd::stream::write::Encoder::new(bytes, LEVEL)?;
    let meta = meta.clone();
    serde_json::to_writer(&mut encoder, &Contents { meta, state })?;
    let mut bytes = encoder.finish()?;
    let checksum = crc32c::crc32c(&bytes[HEADER..]).to_le_bytes();
    bytes[4..HEADER].copy_from_slice(&checksum);
    Ok(bytes.into())
}

fn payload(bytes: &[u8]) -> io::Result<&[u8]> {
    let (header, payload) = bytes
        .split_at_checked(HEADER)
        .ok_or_else(|| invalid("it is cut off"))?;
    if !header.starts_with(MAGIC) || !header.ends_with(&crc32c::crc32c(payload).to_le_bytes()) {
        return Err(invalid("it does not match its checksum"));
    }
    Ok(payload)
}

fn contents<S: for<'de> Deserialize<'de>>(bytes: &[u8]) -> io::Result<Contents<S>> {
    let decoder = zstd::stream::read::Decoder::new(payload(bytes)?)?;
    serde_json::from_reader(BufReader::new(decoder.take(MAX_JSON))).map_err(invalid)
}

/// What a snapshot is of, and the state.
pub(super) fn decode(bytes: &[u8]) -> io::Result<(Meta, State)> {
    let contents = contents::<Snapshot>(bytes)?;
    let state = State::from_snapshot(contents.state).map_err(invalid)?;
    Ok((contents.meta, state))
}

/// The directory of the snapshot files. Blocks.
#[derive(Clone)]
pub(in crate::metadata) struct Snapshots {
    pub(in crate::metadata) disk: Arc<dyn Disk>,
    pub(in crate::metadata) dir: PathBuf,
}

impl Snapshots {
    fn path(&self, meta: &Meta) -> PathBuf {
        let index = meta.last_log_id.map_or(0, |id| id.index);
        let term = meta.last_log_id.map_or(0, |id| id.leader_id.term);
        self.dir.join(format!("{index:020}-{term:020}{SUFFIX}"))
    }

    /// The files, the newest last.
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = self.disk.list(&self.dir)?;
        names.retain(|name| name.ends_with(SUFFIX));
        names.sort_unstable();
        Ok(names)
    }

    /// Keeps a snapshot, durably, and of the older ones only the newest.
    pub(super) fn save(&self, meta: &Meta, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(meta);
        let unfinished = self.dir.join("snapshot.new");
        if self.disk.exists(&unfinished)? {
            self.disk.remove(&unfinished)?;
        }
        let file = self.disk.open(&unfinished, OpenMode::Create)?;
        file.write_all_at(&mut [IoSlice::new(bytes)], 0)?;
        file.sync_all()?;
        self.disk.rename(&unfinished, &path)?;
        self.disk.sync_dir(&self.dir)?;
        let names = self.names()?;
        for name in names.iter().rev().skip(KEPT) {
            self.disk.remove(&self.dir.join(name))?;
        }
        Ok(())
    }

    /// The newest snapshot, if it is whole; a damaged one is as good as none, since the state is
    /// in the database too and a new one can be taken.
    pub(super) fn newest(&self) -> io::Result<Option<(Meta, Bytes)>> {
        let Some(name) = self.names()?.pop() else {
            return Ok(None);
        };
        let bytes = self.read(&self.dir.join(&name))?;
        match contents::<serde::de::IgnoredAny>(&bytes) {
            Ok(contents) => Ok(Some((contents.meta, bytes.into()))),
            Err(error) => {
                tracing::warn!(%error, name, "a snapshot is left aside");
                Ok(None)
            }
        }
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.disk.open(path, OpenMode::Read)?;
        let mut bytes = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], filled as u64) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }
}
