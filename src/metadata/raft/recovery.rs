//! Opening the Raft log: every record is read and the chain followed to its end.
//!
//! What the guard says was once confirmed must be there, or the node does not start (PROTOCOL M3).
//! What lies behind that was never confirmed to anybody: it is kept as far as it is whole, and cut
//! off where it is not.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::guard::{self, Found, Guard, Mark};
use super::record::{self, Head, Invalid, Record};
use super::writer::{self, Segment, Tail};
use super::{Entry, LogId, Vote};
use crate::storage::{Disk, DiskFile, OpenMode, create_dirs};

/// Why the Raft log could not be opened.
#[derive(Debug, thiserror::Error)]
pub(in crate::metadata) enum OpenError {
    /// It ends before the place to which it was once known to reach.
    #[error(
        "the Raft log in {} has lost its end: it held entries up to {had} in term {term}, and ends \
         after {has}; this node must not vote any more. Remove it from the cluster and let it join \
         again with an empty directory",
        dir.display()
    )]
    Amnesia {
        dir: PathBuf,
        has: String,
        had: u64,
        term: u64,
    },
    /// It was changed behind our back.
    #[error("the Raft log in {} is damaged: {why}", dir.display())]
    Damaged { dir: PathBuf, why: String },
    /// It could not be read or written.
    #[error("opening the Raft log in {}", dir.display())]
    Storage { dir: PathBuf, source: io::Error },
}

/// What the records say, one after another.
#[derive(Debug, Clone, Default)]
pub(super) struct Contents {
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
    pub(super) last: Option<LogId>,
    pub(super) entries: BTreeMap<u64, Entry>,
}

impl Contents {
    /// Goes on by one record that is no head; false if it contradicts those before it.
    pub(super) fn advance(&mut self, record: Record) -> bool {
        match record {
            Record::Head(_) => return false,
            Record::Vote(vote) => self.vote = Some(vote),
            Record::Entry(entry) => {
                let log_id = entry.log_id;
                // A log may begin anywhere.
                if self.last.is_some_and(|last| last.index + 1 != log_id.index) {
                    return false;
                }
                self.last = Some(log_id);
                self.entries.insert(log_id.index, entry);
            }
            Record::Truncate(last) => {
                let from = last.map_or(0, |last| last.index + 1);
                self.entries.split_off(&from);
                // Entries that are not there cannot be cut off, nor do they come to be.
                if self.last.is_some_and(|own| from <= own.index) {
                    self.last = last;
                }
            }
            Record::Purge(upto) => {
                self.entries = self.entries.split_off(&(upto.index + 1));
                self.purged = Some(upto);
                if self.last.is_none_or(|last| last.index < upto.index) {
                    self.last = Some(upto);
                }
            }
        }
        true
    }

    pub(super) fn head(&self, segment: u64, node: u64) -> Head {
        Head {
            segment,
            node,
            vote: self.vote,
            purged: self.purged,
            last: self.last,
        }
    }
}

/// An opened log.
pub(super) struct Recovered {
    pub(super) contents: Contents,
    pub(super) segments: Vec<Segment>,
    pub(super) tail: Tail,
    pub(super) guard: Guard,
    /// Whether the log was made just now.
    pub(super) is_new: bool,
}

/// A walk over the files, as far as it got.
struct Walk {
    contents: Contents,
    segments: Vec<Segment>,
    /// Where the last whole record ends: file and position in it.
    end: Option<(u64, usize)>,
    checksum: Option<u32>,
    /// The last entry before the first file; it must be purged.
    before: Option<LogId>,
    reached: bool,
    stop: Option<Stop>,
}

/// Where and why a walk ended.
struct Stop {
    segment: u64,
    at: usize,
    why: String,
    damaged: bool,
    /// Whole records after that place.
    survivors: usize,
}

/// Opens the log of `node` in `dir`, making it if there is none, with files of `size` bytes.
pub(super) fn open(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    node: u64,
    size: u64,
) -> Result<Recovered, OpenError> {
    let storage = |source| OpenError::Storage {
        dir: dir.into(),
        source,
    };
    create_dirs(&**disk, dir).map_err(storage)?;
    let numbers = segments(&**disk, dir).map_err(storage)?;
    let mark = match guard::read(&**disk, dir).map_err(storage)? {
        Found::Mark(mark) => mark,
        Found::Missing | Found::Unreadable => {
            // The guard is made last: without it, nothing can have been confirmed.
            if !is_untouched(&**disk, dir, &numbers).map_err(storage)? {
                return Err(OpenError::Damaged {
                    dir: dir.into(),
                    why: format!("{} is gone or unreadable", guard::NAME),
                });
            }
            return create(disk, dir, node, size, &numbers).map_err(storage);
        }
    };
    let walk = walk(&**disk, dir, node, &numbers, mark)?;
    if !walk.reached {
        return Err(loss(dir, &walk, mark));
    }
    let index = |id: Option<LogId>| id.map(|id| id.index);
    if index(walk.contents.purged) < index(walk.before) {
        return Err(OpenError::Damaged {
            dir: dir.into(),
            why: "entries before those that are there are gone".into(),
        });
    }
    cut(disk, dir, size, &numbers, walk, mark).map_err(storage)
}

/// The numbers of the files, in order.
fn segments(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<u64>> {
    let names = disk.list(dir)?;
    let mut numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| name.strip_suffix(".raft")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

pub(super) fn path(dir: &Path, segment: u64) -> PathBuf {
    dir.join(format!("{segment:08}.raft"))
}

fn read(disk: &dyn Disk, dir: &Path, segment: u64) -> io::Result<Vec<u8>> {
    let file = disk.open(&path(dir, segment), OpenMode::Read)?;
    let length = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
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

/// Whether the files are no more than a first start leaves that was cut short.
fn is_untouched(disk: &dyn Disk, dir: &Path, numbers: &[u64]) -> io::Result<bool> {
    match numbers {
        [] => Ok(!disk.exists(&dir.join(guard::NAME))?),
        [1] => {
            let bytes = read(disk, dir, 1)?;
            let untouched =
                record::survivors(&bytes, 0).all(|record| matches!(record, Record::Head(_)));
            Ok(untouched)
        }
        _ => Ok(false),
    }
}

fn create(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    node: u64,
    size: u64,
    numbers: &[u64],
) -> io::Result<Recovered> {
    for number in numbers {
        disk.remove(&path(dir, *number))?;
    }
    let contents = Contents::default();
    let tail = writer::create(&**disk, dir, contents.head(1, node), 0, size, 0)?;
    let guard = Guard::create(&**disk, dir, tail.mark(&contents))?;
    Ok(Recovered {
        contents,
        segments: vec![Segment {
            number: 1,
            highest: None,
        }],
        tail,
        guard,
        is_new: true,
    })
}

fn walk(
    disk: &dyn Disk,
    dir: &Path,
    node: u64,
    numbers: &[u64],
    mark: Mark,
) -> Result<Walk, OpenError> {
    let mut walk = Walk {
        contents: Contents::default(),
        segments: Vec::new(),
        end: None,
        checksum: None,
        before: None,
        reached: false,
        stop: None,
    };
    for number in numbers {
        let bytes = read(disk, dir, *number).map_err(|source| OpenError::Storage {
            dir: dir.into(),
            source,
        })?;
        let next = walk.segments.last().map_or(*number, |last| last.number + 1);
        let (at, why) = if *number == next {
            walk.segment(&bytes, *number, node, mark)
                .map_err(|why| OpenError::Damaged {
                    dir: dir.into(),
                    why,
                })?
        } else {
            (0, format!("file {next} is missing"))
        };
        // A file ends where the next one goes on. If that does not, the damage is before it.
        if at == 0 && walk.stop.as_ref().is_some_and(|stop| stop.damaged) {
            break;
        }
        walk.stop = Some(Stop {
            segment: *number,
            at,
            damaged: why != Invalid::Blank.to_string(),
            why,
            survivors: record::survivors(&bytes, at).count(),
        });
        if at == 0 {
            break;
        }
    }
    Ok(walk)
}

impl Walk {
    /// Goes through one file; returns where it stopped and why.
    fn segment(
        &mut self,
        bytes: &[u8],
        number: u64,
        node: u64,
        mark: Mark,
    ) -> Result<(usize, String), String> {
        let mut at = 0;
        loop {
            let decoded = match record::read(bytes, at, self.checksum) {
                Ok(decoded) => decoded,
                Err(why) => return Ok((at, why.to_string())),
            };
            let fits = match decoded.record {
                Record::Head(head) if at == 0 => {
                    if head.node != node {
                        return Err(format!(
                            "it belongs to node {}, and this is node {node}",
                            head.node
                        ));
                    }
                    if self.segments.is_empty() {
                        self.contents.vote = head.vote;
                        self.contents.purged = head.purged;
                        self.contents.last = head.last;
                        self.before = head.last;
                    }
                    head == self.contents.head(number, node)
                }
                record => {
                    let index = match &record {
                        Record::Entry(entry) => Some(entry.log_id.index),
                        _ => None,
                    };
                    if let Some(segment) = self.segments.last_mut() {
                        segment.highest = segment.highest.max(index);
                    }
                    0 < at && self.contents.advance(record)
                }
            };
            if !fits {
                return Ok((at, Invalid::OutOfPlace.to_string()));
            }
            if at == 0 {
                self.segments.push(Segment {
                    number,
                    highest: None,
                });
            }
            at = decoded.end;
            self.end = Some((number, at));
            self.checksum = Some(decoded.checksum);
            self.reached |=
                (mark.segment, mark.end, mark.checksum) == (number, at as u64, decoded.checksum);
        }
    }
}

fn loss(dir: &Path, walk: &Walk, mark: Mark) -> OpenError {
    match &walk.stop {
        Some(stop) if 0 < stop.survivors => OpenError::Damaged {
            dir: dir.into(),
            why: format!(
                "file {} at byte {}: {}, and {} whole records follow; it held entries up to {} in \
                 term {}",
                stop.segment, stop.at, stop.why, stop.survivors, mark.last, mark.term
            ),
        },
        _ => OpenError::Amnesia {
            dir: dir.into(),
            has: walk
                .contents
                .last
                .map_or("nothing".into(), |last| last.index.to_string()),
            had: mark.last,
            term: mark.term,
        },
    }
}

/// Cuts off what comes after the last whole record, and opens the log for writing.
fn cut(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    size: u64,
    numbers: &[u64],
    walk: Walk,
    mark: Mark,
) -> io::Result<Recovered> {
    let (Some((segment, end)), Some(checksum)) = (walk.end, walk.checksum) else {
        return Err(io::Error::other("a log without a record reached its mark"));
    };
    // From the newest on, so that the rest is without a gap at any moment.
    for number in numbers.iter().rev().filter(|number| segment < **number) {
        disk.remove(&path(dir, *number))?;
        disk.sync_dir(dir)?;
    }
    let file: Arc<dyn DiskFile> = disk.open(&path(dir, segment), OpenMode::Write)?;
    let rest = read(&**disk, dir, segment)?;
    let rest = rest.get(end..).unwrap_or_default();
    if rest.iter().any(|byte| *byte != 0) {
        // Left there, it might one day stand behind records that it seems to follow.
        file.set_len(end as u64)?;
        file.sync_all()?;
    }
    let capacity = file.len()?.max(size);
    file.allocate(capacity)?;
    file.sync_all()?;
    let guard = Guard::open(&**disk, dir, mark)?;
    Ok(Recovered {
        contents: walk.contents,
        segments: walk.segments,
        tail: Tail {
            file,
            segment,
            end: end as u64,
            capacity,
            checksum,
        },
        guard,
        is_new: false,
    })
}
