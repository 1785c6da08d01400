//! Where bytes go that are cut off a log and might be wanted by somebody who investigates.

use std::io::IoSlice;
use std::ops::Range;
use std::path::PathBuf;

use super::disk::{DiskFile, OpenMode, create_dirs, read_full};
use super::error::{Attempt, StorageError};
use super::recovery::Recovery;
use super::segment::Place;
use crate::types::Offset;

/// The directory's name in the log's directory.
pub(super) const DIR: &str = "quarantine";
/// Files kept per log; the oldest goes first.
const FILES: usize = 16;
/// Bytes kept of one cut: a group commit and the batch that overshot it.
const BYTES: u64 = 64 * 1024 * 1024;

/// Copies `range` of `file` durably into the quarantine; returns where to. Names are
/// `<number>-<segment base>-<position>.cut`.
fn keep(
    place: &Place,
    file: &dyn DiskFile,
    base: Offset,
    range: Range<u64>,
) -> Result<PathBuf, StorageError> {
    let dir = place.dir.join(DIR);
    let disk = place.disk.as_ref();
    create_dirs(disk, &dir).attempt("create", &dir)?;
    let mut kept: Vec<(u64, String)> = disk
        .list(&dir)
        .attempt("list", &dir)?
        .into_iter()
        .filter_map(|name| Some((name.split('-').next()?.parse().ok()?, name)))
        .collect();
    kept.sort_unstable();
    let number = kept
        .last()
        .map_or(0, |(number, _)| number.saturating_add(1));
    for (_, name) in kept.iter().take((kept.len() + 1).saturating_sub(FILES)) {
        place.remove_quietly(&dir.join(name));
    }
    let path = dir.join(format!("{number:06}-{:020}-{}.cut", base.0, range.start));
    let copied = copy(place, file, &path, range);
    if copied.is_err() {
        place.remove_quietly(&path);
    }
    copied?;
    disk.sync_dir(&dir).attempt("fsync the directory", &dir)?;
    Ok(path)
}

/// Copies what is about to be cut off into the quarantine.
pub(super) fn keep_cut(
    place: &Place,
    file: &dyn DiskFile,
    base: Offset,
    range: Range<u64>,
    recovery: &mut Recovery,
) -> Result<(), StorageError> {
    if range.is_empty() {
        return Ok(());
    }
    let bytes = range.end - range.start;
    recovery.truncated_bytes += bytes;
    match keep(place, file, base, range.clone()) {
        Ok(path) => {
            tracing::warn!(segment = %place.segment_path(base).display(), position = range.start,
                bytes, quarantine = %path.display(), "a torn tail is cut off");
            recovery.quarantined.push(path);
            Ok(())
        }
        // Reads must come back on a full disk too, and these bytes were never acknowledged.
        Err(error) if error.is_full() => {
            tracing::error!(segment = %place.segment_path(base).display(), position = range.start,
                bytes, "a torn tail is cut off without a copy: the disk is full");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn copy(
    place: &Place,
    file: &dyn DiskFile,
    path: &std::path::Path,
    range: Range<u64>,
) -> Result<(), StorageError> {
    let to = place
        .disk
        .open(path, OpenMode::Create)
        .attempt("create", path)?;
    let mut buffer = vec![0; 256 * 1024];
    let (mut from, end) = (range.start, range.end.min(range.start + BYTES));
    let mut position = 0;
    while from < end {
        let want = usize::try_from(end - from)
            .unwrap_or(buffer.len())
            .min(buffer.len());
        let have = read_full(file, &mut buffer[..want], from).attempt("read", path)?;
        if have == 0 {
            break;
        }
        to.write_all_at(&mut [IoSlice::new(&buffer[..have])], position)
            .attempt("write", path)?;
        from += have as u64;
        position += have as u64;
    }
    to.sync_all().attempt("fsync", path)
}
