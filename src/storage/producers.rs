//! What the log remembers of its producers (PROTOCOL P2, D7).
//!
//! [`Producers`] is a fold of the log over the marks of its batches. It is kept up as batches are
//! appended or copied, written down beside each segment as of the segment's beginning, and read
//! from there and from the batches behind when somebody asks after a start or a cut. A log that
//! never had a marked batch knows that, and pays for nothing.
//!
//! A file that is lost or damaged costs a longer look into the log. Only retention could lose what
//! a file tells, so the file of the first segment that stays is made durable before.

use std::io::IoSlice;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::disk::{OpenMode, read_full};
use super::epochs;
use super::error::{Attempt, ReadError, StorageError};
use super::log::PartitionLog;
use super::reader::{LogReader, Shared};
use super::segment::{FIRST, PRODUCERS, Place, Segment, u32_at, u64_at};
use super::walk::{Expect, Walk};
use crate::producer::Producers;
use crate::record::{Extension, HEADER_LEN, Header, Mark};
use crate::types::{Offset, Timestamp};

/// The first four bytes of a file: `PLP` and the format version.
const MAGIC: [u8; 4] = *b"PLP\x01";
/// Bytes before the state.
const FILE_HEADER: usize = 40;
/// Longer than any state can be.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What a log knows of the marks in it.
pub(super) struct Marks {
    /// Batches of the log had marks, deleted ones included, or nobody can tell.
    pub(super) any: bool,
    /// The fold of the log; none while nobody has asked.
    state: Option<Producers>,
    /// Segments that have begun and whose file is not written yet.
    due: Vec<Offset>,
}

impl Marks {
    /// A log that begins at `start` and never had any.
    pub(super) fn none(start: Offset) -> Self {
        Self {
            any: false,
            state: Some(Producers::at(start)),
            due: Vec::new(),
        }
    }

    /// What opening a log that ends at `end` found.
    pub(super) fn found(any: bool, end: Offset) -> Self {
        match any {
            false => Self::none(end),
            true => Self {
                any,
                state: None,
                due: Vec::new(),
            },
        }
    }

    /// A segment has begun.
    pub(super) fn began(&mut self, base: Offset) {
        if self.any {
            self.due.push(base);
        }
    }

    /// An append was taken back: the log ends at `end` again.
    pub(super) fn roll_back(&mut self, end: Offset) {
        self.due.retain(|base| *base < end);
        self.state.take_if(|state| end < state.end());
    }

    /// The end of the log was cut off.
    pub(super) fn cut(&mut self) {
        self.due.clear();
        if self.any {
            self.state = None;
        }
    }
}

impl PartitionLog {
    /// What is remembered of producers at the log's end. Blocking when asked for the first time
    /// after the log was opened or cut: then up to a segment's batch headers are read.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn producers(&mut self) -> Result<&Producers, StorageError> {
        let end = self.log_end();
        let mut state = match self.marks.state.take() {
            Some(state) => state,
            None => self.shared.fold_producers(end)?,
        };
        state.pass(end);
        Ok(self.marks.state.insert(state))
    }

    /// The append time that a batch gets when it is appended at `now`.
    pub fn append_time(&self, now: Timestamp) -> Timestamp {
        self.tail.append_time.max(now)
    }

    /// Batches with marks are about to be appended.
    pub(super) fn expect_marks(&mut self, marks: &[(usize, Mark)]) {
        if !marks.is_empty() {
            self.learn_marks();
            self.marks.any = true;
        }
    }

    /// Reads the state if it is needed and not known.
    pub(super) fn learn_marks(&mut self) {
        if self.marks.any
            && self.marks.state.is_none()
            && let Err(error) = self.producers()
        {
            let dir = self.place().dir.display();
            tracing::warn!(%dir, %error, "what is known of producers cannot be read from the log");
        }
    }

    /// Takes over from a leader what cannot be read from a log that begins here.
    pub(super) fn inherit_marks(&mut self, file: &[u8]) {
        if file.is_empty() || !self.shared.segments.load().is_empty() {
            return;
        }
        match parse(self.place(), self.log_end(), file) {
            Some((_, state)) => {
                self.marks = Marks {
                    any: true,
                    state: Some(state),
                    due: Vec::new(),
                };
            }
            None => {
                let dir = self.place().dir.display();
                tracing::warn!(%dir, "what the leader tells of producers is damaged");
            }
        }
    }

    /// Batches with these headers were appended; `marks` are those of some of them.
    pub(super) fn note_marks(&mut self, headers: &[Header], marks: &[(usize, Mark)]) {
        if marks.is_empty() && self.marks.due.is_empty() {
            return;
        }
        let due = std::mem::take(&mut self.marks.due);
        let mut due = due.into_iter().peekable();
        let Some(mut state) = self.marks.state.take() else {
            // Not known: it will be read, from the file of an earlier segment.
            return;
        };
        for (index, mark) in marks {
            let Some(header) = headers.get(*index) else {
                continue;
            };
            while let Some(base) = due.next_if(|base| *base <= header.base_offset) {
                self.write_producers(base, &mut state);
            }
            state.apply(mark, header.base_offset, header.append_time);
        }
        for base in due {
            self.write_producers(base, &mut state);
        }
        self.marks.state = Some(state);
    }

    /// Before the segments below `first` go: makes durable what only they and its file tell.
    pub(super) fn keep_marks(&mut self, first: &Segment) -> Result<(), StorageError> {
        let Some(header) = first.header.as_ref().filter(|header| header.marked) else {
            return Ok(());
        };
        let place = self.place();
        if place.read_producers(first).is_none() {
            let state = self.shared.fold_producers(first.base)?;
            store(place, first.base, header.prev_crc, &state)?;
        }
        let path = first.producers_path();
        let file = place.disk.open(&path, OpenMode::Write);
        let file = file.attempt("open", &path)?;
        file.sync_all().attempt("fsync", &path)?;
        place.sync_dir()
    }

    fn write_producers(&self, base: Offset, state: &mut Producers) {
        state.pass(base);
        let segments = self.shared.segments.load();
        let segment = segments.iter().rev().find(|segment| segment.base == base);
        let Some(header) = segment.and_then(|segment| segment.header.as_ref()) else {
            return;
        };
        if let Err(error) = store(self.place(), base, header.prev_crc, state) {
            tracing::warn!(%error, "what is known of producers cannot be written down");
        }
    }
}

impl LogReader {
    /// What is remembered of producers at `offset`, where a batch begins or the log ends: for a
    /// replica whose log begins there. Empty when there is nothing. Blocking; reads the headers of
    /// at most a segment's batches.
    ///
    /// # Errors
    /// As [`LogReader::read`].
    pub fn producers_at(&self, offset: Offset) -> Result<Bytes, ReadError> {
        self.attempt(|| {
            let start = self.replica_start();
            if offset < start {
                return Err(ReadError::Trimmed { start });
            }
            let state = self.shared.fold_producers(offset)?;
            let now = self.replica_start();
            if now != start {
                // Files went while they were looked for.
                return Err(ReadError::Trimmed { start: now });
            }
            Ok(match state.is_empty() {
                true => Bytes::new(),
                false => to_file(&self.shared.place, offset, 0, &state),
            })
        })
    }
}

impl Shared {
    /// The fold of the log up to `to`, where a batch begins or the log ends.
    fn fold_producers(&self, to: Offset) -> Result<Producers, StorageError> {
        let segments = self.segments.load_full();
        let upto = segments.partition_point(|segment| segment.base <= to);
        let segments = segments.get(..upto).unwrap_or_default();
        let start = segments.first().map_or(to, |first| first.base);
        let mut from = 0;
        let mut state = Producers::at(start);
        for (at, segment) in segments.iter().enumerate().rev() {
            let known = match &segment.header {
                Some(header) if !header.marked => Some(Producers::at(segment.base)),
                _ => self.place.read_producers(segment),
            };
            if let Some(known) = known {
                (from, state) = (at, known);
                break;
            }
        }
        for segment in segments.get(from..).unwrap_or_default() {
            self.fold_segment(segment, to, &mut state)?;
        }
        state.pass(to);
        Ok(state)
    }

    fn fold_segment(
        &self,
        segment: &Arc<Segment>,
        to: Offset,
        state: &mut Producers,
    ) -> Result<(), StorageError> {
        let place = &self.place;
        let path = &segment.path;
        let file = segment.open(place)?;
        let mut walk = Walk::new(file.as_ref(), segment.len());
        let mut expect = Expect::after_gap(place.topic_id, place.partition, segment.base);
        let mut position = FIRST;
        while let Some((at, header)) =
            epochs::next(&mut walk, position, &expect).attempt("read", path)?
            && header.base_offset < to
        {
            if header.is_marked() {
                let mark = mark_at(&mut walk, at, &header).attempt("read", path)?;
                state.apply(&mark, header.base_offset, header.append_time);
            }
            expect.advance(&header);
            position = at + u64::from(header.batch_len);
        }
        Ok(())
    }
}

/// The mark of the batch at `position`. What stands in a damaged body is not believed.
fn mark_at(walk: &mut Walk<'_>, position: u64, header: &Header) -> std::io::Result<Mark> {
    if header.extension_len != 0 && walk.body_is_intact(position, header)? {
        let len = HEADER_LEN + usize::from(header.extension_len);
        if let Ok(Some(mark)) = Mark::of(header, walk.bytes(position, len)?) {
            return Ok(mark);
        }
    }
    Ok(Mark::with(header, Extension::default()))
}

/// Writes the state as of the beginning of the segment at `base`. Not synced: it can be read from
/// the log again.
fn store(
    place: &Place,
    base: Offset,
    prev_crc: u32,
    state: &Producers,
) -> Result<(), StorageError> {
    let path = place.segment_path(base).with_extension(PRODUCERS);
    let bytes = to_file(place, base, prev_crc, state);
    place.remove_quietly(&path);
    let file = place.disk.open(&path, OpenMode::Create);
    let file = file.attempt("create", &path)?;
    file.write_all_at(&mut [IoSlice::new(&bytes)], 0)
        .attempt("write", &path)
}

fn to_file(place: &Place, base: Offset, prev_crc: u32, state: &Producers) -> Bytes {
    let mut bytes = BytesMut::zeroed(FILE_HEADER);
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[8..24].copy_from_slice(place.topic_id.0.as_bytes());
    bytes[24..28].copy_from_slice(&place.partition.0.to_le_bytes());
    bytes[28..32].copy_from_slice(&prev_crc.to_le_bytes());
    bytes[32..40].copy_from_slice(&base.0.to_le_bytes());
    bytes.put_slice(&state.to_bytes());
    let crc = crc32c::crc32c(&bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    bytes.freeze()
}

/// The chain's end and the state that a file tells, if it is of this log and place.
fn parse(place: &Place, base: Offset, file: &[u8]) -> Option<(u32, Producers)> {
    let (header, state) = file.split_at_checked(FILE_HEADER)?;
    if header[..4] != MAGIC
        || u32_at(header, 4) != crc32c::crc32c(&file[8..])
        || header[8..24] != *place.topic_id.0.as_bytes()
        || u32_at(header, 24) != place.partition.0
        || u64_at(header, 32) != base.0
    {
        return None;
    }
    let state = Producers::from_bytes(state).filter(|state| state.end() <= base)?;
    Some((u32_at(header, 28), state))
}

impl Place {
    fn read_producers(&self, segment: &Segment) -> Option<Producers> {
        let header = segment.header.as_ref().filter(|header| header.marked)?;
        let file = self
            .disk
            .open(&segment.producers_path(), OpenMode::Read)
            .ok()?;
        let len = file.len().ok().filter(|len| *len <= FILE_BYTES_MAX)?;
        let mut bytes = vec![0; usize::try_from(len).ok()?];
        let have = read_full(file.as_ref(), &mut bytes, 0).ok()?;
        bytes.truncate(have);
        let (prev_crc, state) = parse(self, segment.base, &bytes)?;
        // It tells of what came before this very segment.
        (prev_crc == header.prev_crc).then_some(state)
    }

    pub(super) fn remove_producers(&self, base: Offset) {
        self.remove_quietly(&self.segment_path(base).with_extension(PRODUCERS));
    }
}
