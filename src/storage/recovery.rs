//! Opening a log: what is there, what is torn, what is damaged.
//!
//! The end of a log is found by walking its batches, never by the file's length. What stops the
//! walk is either a *torn tail*, which was never acknowledged and is cut off, or *damage*, which
//! is kept, reported and stepped over. The evidence that tells them apart is in
//! `docs/log_format.md`, "Recovery".

use std::io::ErrorKind;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::checkpoint::{self, Checkpoint};
use super::disk::{DiskFile, OpenMode, read_full};
use super::error::{Attempt, OpenError, StorageError};
use super::index::{self, Entry};
use super::log::{Active, Durable, LONG_AGO, LogOptions, PartitionLog};
use super::producers::Marks;
use super::quarantine;
use super::reader::Shared;
use super::segment::{
    FIRST, PRODUCERS, Place, Points4k, SEGMENT_HEADER_LEN, Segment, SegmentHeader, base_of,
    parse_file_name,
};
use super::truncate::remove_segments;
use super::walk::{Expect, Walk};
use crate::types::{LeaderEpoch, Offset};

/// Bytes between the last point of an index and the checkpoint from which on the points between
/// are looked up again.
const POINTS_LAG: u64 = 64 * 1024;

/// What opening a log found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovery {
    /// The offset that the next record will get.
    pub log_end: Offset,
    /// Bytes cut off as a torn tail.
    pub truncated_bytes: u64,
    /// Where the bytes that were cut off have been kept.
    pub quarantined: Vec<PathBuf>,
    /// Records that were durable once and cannot be read now. Reads of them answer
    /// [`ReadError::Corrupt`](super::ReadError::Corrupt).
    pub corrupt: Vec<Range<Offset>>,
    /// The log had been closed properly, and nothing came after.
    pub clean: bool,
}

/// Where a walk was when it came to damage.
struct Damage {
    position: u64,
    expect: Expect,
    points: usize,
    max_timestamp: crate::types::Timestamp,
    /// Offset of the next intact batch.
    resumes: Offset,
    /// There is a sector that was never written.
    hole: bool,
}

/// The last segment, and where the log goes on.
struct Last {
    segment: Option<Arc<Segment>>,
    active: Option<Active>,
    tail: Expect,
    /// Batches that the checkpoint does not tell of have marks of producers, or nobody can tell.
    marked: bool,
}

pub(super) fn open(
    place: Place,
    options: LogOptions,
) -> Result<(PartitionLog, Recovery), OpenError> {
    let mut recovery = Recovery::default();
    let checkpoint = match checkpoint::load(
        place.disk.as_ref(),
        &place.dir,
        place.topic_id,
        place.partition,
    ) {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            tracing::warn!(dir = %place.dir.display(), %error, "cannot read the checkpoint");
            None
        }
    };
    if checkpoint.as_ref().is_some_and(|c| c.emptied) {
        remove_segments(&place)?;
    }
    let bases = list_segments(
        &place,
        checkpoint.as_ref().map_or(Offset::ZERO, |c| c.log_start),
    )?;
    let mut segments = Vec::with_capacity(bases.len());
    let last = match bases.split_last() {
        None => Last {
            segment: None,
            active: None,
            tail: tail_of(&place, checkpoint.as_ref()),
            marked: false,
        },
        Some((last, sealed)) => {
            for base in sealed {
                segments.push(Arc::new(open_sealed(&place, *base)?));
            }
            let before = segments.last().cloned();
            recover_last(
                &place,
                *last,
                before.as_deref(),
                checkpoint.as_ref(),
                options.replicated,
                &mut recovery,
            )?
        }
    };
    segments.extend(last.segment);
    let log_end = last.tail.offset;
    let told = checkpoint
        .as_ref()
        .map_or(Offset::ZERO, |c| c.log_start)
        .min(log_end);
    let first = segments.first().map_or(log_end, |segment| segment.base);
    if told < first && checkpoint.is_some() {
        recovery.corrupt.insert(0, told..first);
    }
    // Damage in what has been deleted is no damage.
    let log_start = told.max(first);
    recovery.corrupt.retain(|range| told < range.end);
    for range in &recovery.corrupt {
        tracing::error!(dir = %place.dir.display(), ?range, "records are damaged or missing");
    }
    recovery.log_end = log_end;
    let durable = match &last.active {
        Some(active) => Durable {
            tail: last.tail.clone(),
            segment: active.segment.base,
            position: active.len,
            max_timestamp: active.points.max_timestamp,
        },
        None => Durable::before_segment(last.tail.clone()),
    };
    let fresh = segments.is_empty() && checkpoint.is_none();
    let noted = checkpoint
        .as_ref()
        .map_or(Offset::ZERO, |c| c.high_watermark);
    let high_watermark = if options.replicated {
        noted.min(log_end).max(log_start)
    } else {
        log_end
    };
    let marked = last.marked
        || checkpoint.as_ref().is_some_and(|c| c.marked)
        || segments
            .last()
            .is_some_and(|last| last.header.as_ref().is_none_or(|header| header.marked));
    let shared = Shared::new(place, log_start, high_watermark, log_end, segments);
    let mut log = PartitionLog {
        shared: Arc::new(shared),
        options,
        active: last.active,
        now: last.tail.append_time,
        tail: last.tail,
        durable,
        generation: checkpoint.as_ref().map_or(0, |c| c.generation),
        checkpointed: None,
        epochs: None,
        marks: Marks::found(marked, log_end),
        poisoned: false,
        touched: false,
    };
    if checkpoint.is_some_and(|c| c.emptied) {
        log.note_emptied()?;
    }
    recovery.clean |= fresh;
    if !recovery.clean {
        log.touched = true;
        log.checkpoint();
    }
    Ok((log, recovery))
}

/// The base offsets of the log's segments, in order. Removes what earlier runs left behind:
/// unfinished rewrites, and segments that had been deleted by name but not yet on disk.
fn list_segments(place: &Place, log_start: Offset) -> Result<Vec<Offset>, StorageError> {
    let names = match place.disk.list(&place.dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        names => names.attempt("list", &place.dir)?,
    };
    for name in names.iter().filter(|name| name.ends_with(".tmp")) {
        place.remove_quietly(&place.dir.join(name));
    }
    let mut bases: Vec<Offset> = names
        .iter()
        .filter_map(|name| parse_file_name(name))
        .collect();
    bases.sort_unstable();
    for name in &names {
        if base_of(name, PRODUCERS).is_some_and(|base| bases.binary_search(&base).is_err()) {
            place.remove_quietly(&place.dir.join(name));
        }
    }
    let below = bases
        .windows(2)
        .take_while(|pair| pair[1] <= log_start)
        .count();
    for base in bases.drain(..below) {
        let path = place.segment_path(base);
        place.remove_quietly(&path);
        place.remove_quietly(&path.with_extension("index"));
        place.remove_producers(base);
    }
    Ok(bases)
}

fn read_header(
    place: &Place,
    file: &dyn DiskFile,
    base: Offset,
) -> Result<Option<SegmentHeader>, OpenError> {
    let path = place.segment_path(base);
    let mut bytes = [0; SEGMENT_HEADER_LEN];
    read_full(file, &mut bytes, 0).attempt("read", &path)?;
    let header = SegmentHeader::parse(&bytes);
    if let Some(header) = &header
        && (header.topic_id, header.partition, header.base_offset)
            != (place.topic_id, place.partition, base)
    {
        return Err(OpenError::Foreign { path });
    }
    Ok(header)
}

fn open_sealed(place: &Place, base: Offset) -> Result<Segment, OpenError> {
    let path = place.segment_path(base);
    let file = place
        .disk
        .open(&path, OpenMode::Read)
        .attempt("open", &path)?;
    let len = file.len().attempt("measure", &path)?;
    let header = read_header(place, file.as_ref(), base)?;
    if header.is_none() {
        tracing::error!(path = %path.display(), "the segment's header is damaged");
    }
    Ok(Segment::sealed(
        place.files.next_id(),
        path,
        base,
        header,
        len,
        None,
    ))
}

/// Where a log without segments goes on.
fn tail_of(place: &Place, checkpoint: Option<&Checkpoint>) -> Expect {
    let nothing = Expect {
        prev_crc: Some(0),
        ..Expect::after_gap(place.topic_id, place.partition, Offset::ZERO)
    };
    checkpoint.map_or(nothing, |c| Expect {
        offset: c.durable_end,
        // Only the first batch of all is chained to nothing; behind a gap nothing is known.
        prev_crc: Some(c.last_crc).filter(|crc| *crc != 0 || c.durable_end == Offset::ZERO),
        epoch: c.epoch,
        append_time: c.append_time,
        ..Expect::after_gap(place.topic_id, place.partition, Offset::ZERO)
    })
}

/// Where the log goes on behind a sealed segment, told by its last batches.
fn tail_of_sealed(place: &Place, segment: &Segment) -> Result<Expect, StorageError> {
    let last = segment.with_points(place, |points| points.last().copied())?;
    let from = last.map_or((FIRST, segment.base), |point| {
        (point.position, point.offset)
    });
    let mut expect = Expect::after_gap(place.topic_id, place.partition, from.1);
    let mut position = from.0;
    let file = segment.open(place)?;
    let mut walk = Walk::new(file.as_ref(), segment.len());
    while let Some((at, header)) = walk
        .next_intact(position, &expect)
        .attempt("read", &segment.path)?
    {
        expect.advance(&header);
        position = at + u64::from(header.batch_len);
    }
    if let Some(header) = &segment.header
        && header.recompressed
    {
        expect.prev_crc = Some(header.last_crc);
    }
    Ok(expect)
}

fn recover_last(
    place: &Place,
    base: Offset,
    before: Option<&Segment>,
    checkpoint: Option<&Checkpoint>,
    replicated: bool,
    recovery: &mut Recovery,
) -> Result<Last, OpenError> {
    let path = place.segment_path(base);
    let file = place
        .disk
        .open(&path, OpenMode::Write)
        .attempt("open", &path)?;
    let mut len = file.len().attempt("measure", &path)?;
    let header = read_header(place, file.as_ref(), base)?;
    if header.as_ref().is_some_and(|header| header.recompressed) {
        let segment = Segment::sealed(place.files.next_id(), path, base, header, len, None);
        let mut tail = tail_of_sealed(place, &segment)?;
        give_up_to(
            &mut tail,
            checkpoint.map_or(base, |c| c.durable_end),
            recovery,
        );
        return Ok(Last {
            segment: Some(Arc::new(segment)),
            active: None,
            tail,
            marked: checkpoint.is_none(),
        });
    }

    let trusted = checkpoint.filter(|c| {
        c.segment == base
            && header.is_some()
            && base <= c.durable_end
            && (FIRST..=len).contains(&c.position)
    });
    let (mut expect, start) = begin(place, base, header.as_ref(), trusted);
    let clean = trusted.is_some_and(|c| c.clean && c.position == len);
    if !clean {
        // After a failed fsync the kernel may hold pages that look clean and are not on the
        // medium: what is found now must come from there.
        file.drop_cache(start);
    }
    let (mut points, mut indexed) = (Points4k::default(), 0);
    if let (Some(header), Some(checkpoint)) = (&header, trusted) {
        (points, indexed) = load_points(place, file.as_ref(), header, start)?;
        points.max_timestamp = points.max_timestamp.max(checkpoint.max_timestamp);
    }

    let mut walk = Walk::new(file.as_ref(), len);
    let mut damages: Vec<Damage> = Vec::new();
    let mut evidence = checkpoint.map_or(Offset::ZERO, |c| c.durable_end);
    let mut position = start;
    let mut marked = false;
    if !clean {
        while let Some((at, batch)) = walk.next_intact(position, &expect).attempt("read", &path)? {
            if at != position {
                damages.push(Damage {
                    position,
                    expect: expect.clone(),
                    points: points.entries.len(),
                    max_timestamp: points.max_timestamp,
                    resumes: batch.base_offset,
                    hole: walk.has_hole(position, at).attempt("read", &path)?,
                });
            }
            // A follower's batches tell what was durable on their leader's disk.
            if !replicated {
                evidence = evidence.max(batch.durable_at_append);
            }
            marked |= batch.is_marked();
            points.see(at, &batch);
            expect.advance(&batch);
            position = at + u64::from(batch.batch_len);
        }
    }
    let data_end = if clean {
        position
    } else {
        walk.end_of_data(position).attempt("read", &path)?
    };

    // Sectors of writes that nobody synced reach the medium in any order: a batch after a hole
    // proves nothing unless something says that the hole had been durable.
    let mut cut = None;
    if let Some(torn) = damages
        .iter()
        .position(|d| d.hole && evidence <= d.expect.offset)
    {
        let damage = damages.swap_remove(torn);
        damages.truncate(torn);
        cut = Some(damage.position);
        points.entries.truncate(damage.points);
        points.max_timestamp = damage.max_timestamp;
        points.last_position = points.entries.last().map(|entry| entry.position);
        (expect, position) = (damage.expect, damage.position);
    } else if position < data_end && evidence <= expect.offset {
        cut = Some(position);
    }

    // A header that was never written, with nothing durable behind it: the segment was being
    // created when the power went.
    let unborn = header.is_none()
        && evidence <= base
        && (position == FIRST
            || !walk
                .bytes(0, SEGMENT_HEADER_LEN)
                .is_ok_and(|b| b.iter().any(|b| *b != 0)));
    if unborn {
        let data_end = walk.end_of_data(0).attempt("read", &path)?;
        quarantine::keep_cut(place, file.as_ref(), base, 0..data_end, recovery)?;
        drop(file);
        place.disk.remove(&path).attempt("remove", &path)?;
        place.remove_quietly(&path.with_extension("index"));
        place.sync_dir()?;
        let mut tail = match (checkpoint, before) {
            (Some(c), _) if c.durable_end == base => tail_of(place, checkpoint),
            (_, Some(before)) => tail_of_sealed(place, before)?,
            _ => tail_of(place, None),
        };
        give_up_to(&mut tail, base, recovery);
        return Ok(Last {
            segment: None,
            active: None,
            tail,
            marked: checkpoint.is_none_or(|c| c.durable_end != base),
        });
    }

    if let Some(cut) = cut {
        quarantine::keep_cut(place, file.as_ref(), base, cut..data_end, recovery)?;
        file.set_len(cut).attempt("cut", &path)?;
        len = cut;
    }
    for damage in &damages {
        recovery.corrupt.push(damage.expect.offset..damage.resumes);
    }
    let intact = damages.is_empty() && evidence <= expect.offset;
    let end = expect.offset;
    give_up_to(&mut expect, evidence, recovery);
    let first_append_time = if FIRST < position {
        walk.header(FIRST).attempt("read", &path)?
    } else {
        None
    };
    let first_append_time = first_append_time
        .map(|header| header.append_time)
        .or((FIRST < position).then_some(expect.append_time));
    let id = place.files.next_id();
    if let (Some(header), true) = (header.clone(), intact) {
        if trusted.is_none() || cut.is_some() || start < position {
            file.sync_all().attempt("fsync", &path)?;
            place.sync_dir()?;
        }
        recovery.clean = clean;
        let entries = std::mem::take(&mut points.entries);
        let point_count = entries.len();
        let time = points.max_timestamp;
        let segment = Arc::new(Segment::growing(
            id, path, base, header, entries, position, time,
        ));
        let active = Active {
            segment: segment.clone(),
            file: None,
            len: position,
            allocated: len,
            step: 0,
            first_append_time,
            points,
            point_count,
            indexed,
            new: false,
        };
        return Ok(Last {
            segment: Some(segment),
            active: Some(active),
            tail: expect,
            marked,
        });
    }

    // Damaged: kept as it is, to its last byte, and the log goes on in a new segment.
    let kept = position.max(if cut.is_some() { position } else { data_end });
    if kept < len {
        file.set_len(kept).attempt("cut", &path)?;
    }
    file.sync_all().attempt("fsync", &path)?;
    place.sync_dir()?;
    if let Some(header) = &header {
        let mark = Entry {
            offset: end,
            position: kept,
            max_timestamp: points.max_timestamp,
        };
        let (disk, index) = (place.disk.as_ref(), path.with_extension("index"));
        let entries = &points.entries;
        if let Err(error) = index::write(disk, &index, header.crc(), base, 0, entries, Some(&mark))
        {
            tracing::warn!(path = %index.display(), %error, "cannot write the index");
        }
    }
    let segment = Segment::sealed(id, path, base, header, kept, Some(points.max_timestamp));
    Ok(Last {
        segment: Some(Arc::new(segment)),
        active: None,
        tail: expect,
        marked,
    })
}

/// The log goes on at `durable` if it was known to reach that far: offsets are never reused.
fn give_up_to(tail: &mut Expect, durable: Offset, recovery: &mut Recovery) {
    if tail.offset < durable {
        recovery.corrupt.push(tail.offset..durable);
        (tail.offset, tail.prev_crc) = (durable, None);
    }
}

/// Where to begin walking, and what to expect there.
fn begin(
    place: &Place,
    base: Offset,
    header: Option<&SegmentHeader>,
    trusted: Option<&Checkpoint>,
) -> (Expect, u64) {
    if let Some(c) = trusted
        && FIRST < c.position
    {
        return (tail_of(place, trusted), c.position);
    }
    let mut expect = Expect::after_gap(place.topic_id, place.partition, base);
    if let Some(header) = header {
        expect.append_time = header.prev_append_time;
        if !header.after_gap {
            expect.prev_crc = Some(header.prev_crc);
        }
    }
    expect.epoch = trusted.map_or(LeaderEpoch(0), |c| c.epoch);
    (expect, FIRST)
}

/// The points below `start`, from the index file and, where that lags far behind, from the log;
/// and how many of them the index file has.
fn load_points(
    place: &Place,
    file: &dyn DiskFile,
    header: &SegmentHeader,
    start: u64,
) -> Result<(Points4k, usize), StorageError> {
    let path = place.segment_path(header.base_offset);
    let index = path.with_extension("index");
    let mut points = Points4k::default();
    if start == FIRST {
        return Ok((points, 0));
    }
    match index::load(
        place.disk.as_ref(),
        &index,
        header.crc(),
        header.base_offset,
    ) {
        Ok(loaded) if loaded.end.is_none() => points.entries = loaded.entries,
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(path = %index.display(), %error, "index cannot be read: rebuilding");
        }
    }
    points.entries.retain(|entry| entry.position < start);
    let last = points.entries.last().copied();
    points.last_position = last.map(|entry| entry.position);
    points.max_timestamp = last.map_or(LONG_AGO, |entry| entry.max_timestamp);
    let (mut position, offset) = last.map_or((FIRST, header.base_offset), |entry| {
        (entry.position, entry.offset)
    });
    let indexed = points.entries.len();
    if last.is_some() && start - position <= POINTS_LAG {
        return Ok((points, indexed));
    }
    let mut expect = Expect::after_gap(place.topic_id, place.partition, offset);
    let mut walk = Walk::new(file, start);
    while let Some((at, batch)) = walk.next_intact(position, &expect).attempt("read", &path)? {
        points.see(at, &batch);
        expect.advance(&batch);
        position = at + u64::from(batch.batch_len);
    }
    Ok((points, indexed))
}
