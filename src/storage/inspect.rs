//! Looking at log files without opening the log: for `pilgrimage log dump` and `verify`.
//!
//! Nothing is written, cut or repaired, so it is safe beside a running node; the last segment may
//! then grow while it is looked at.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use uuid::Uuid;

use super::disk::{Disk, DiskFile, OpenMode, read_full};
use super::error::{Attempt, StorageError};
use super::segment::{FIRST, SEGMENT_HEADER_LEN, SegmentHeader, parse_file_name};
use super::walk::{Expect, Walk};
use crate::record::{Batch, Codec, HEADER_LEN, Header};
use crate::types::{Offset, Partition, TopicId};

/// Why bytes of a segment are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The first 64 bytes.
    #[error("the segment's header is damaged")]
    SegmentHeader,
    /// The records between two segments are missing.
    #[error("the segment before ends at {before}, this one begins at {base}")]
    Gap {
        /// Where the segment before ends.
        before: Offset,
        /// Where this one begins.
        base: Offset,
    },
    /// The segment does not continue the chain of the one before.
    #[error("the segment is not chained to the one before")]
    Chain,
    /// No batch header with a matching checksum.
    #[error("no batch begins here, offset {offset} should")]
    NoBatch {
        /// The offset that was expected.
        offset: Offset,
    },
    /// A sound header in the wrong place: another log, offset, epoch or predecessor.
    #[error("a batch of another place stands here, offset {offset} should")]
    Place {
        /// The offset that was expected.
        offset: Offset,
    },
    /// The payload does not match its checksum, or does not unpack.
    #[error("the payload of the batch at offset {offset} is damaged")]
    Payload {
        /// The batch's base offset.
        offset: Offset,
    },
}

/// A fault and its position in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding {
    /// Byte position.
    pub position: u64,
    /// What is wrong.
    pub fault: Fault,
}

/// What one segment holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentReport {
    /// The file.
    pub path: PathBuf,
    /// Its header; none when it is damaged.
    pub header: Option<SegmentHeader>,
    /// The first offset, as the file's name tells.
    pub base: Offset,
    /// The offset after the last intact record.
    pub end: Offset,
    /// Intact batches.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Of the batches, those packed with zstd.
    pub zstd_batches: u64,
    /// Length of the records in the batches, unpacked.
    pub unpacked_bytes: u64,
    /// Length of the file up to the end of the last intact batch.
    pub bytes: u64,
    /// Bytes reserved behind that, which hold nothing.
    pub reserved_bytes: u64,
    /// The first fault; the last segment of a log that was not closed may end in a torn batch.
    pub first_fault: Option<Finding>,
    /// How many faults there are.
    pub faults: u64,
}

/// One batch as it goes by.
#[derive(Debug)]
pub struct Seen<'a> {
    /// The segment.
    pub path: &'a Path,
    /// Where in it the batch begins.
    pub position: u64,
    /// Header and payload, both of which match their checksums.
    pub batch: &'a Batch,
}

/// The segments that `path` names, in order: itself, or those in it.
fn segments(disk: &dyn Disk, path: &Path) -> Result<Vec<(Offset, PathBuf)>, StorageError> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    if let Some(base) = parse_file_name(name) {
        return Ok(vec![(base, path.to_owned())]);
    }
    let names = disk.list(path).attempt("list", path)?;
    let mut found: Vec<_> = names
        .iter()
        .filter_map(|name| Some((parse_file_name(name)?, path.join(name))))
        .collect();
    found.sort_unstable();
    if found.is_empty() {
        let source = std::io::Error::new(ErrorKind::NotFound, "there is no segment file");
        return Err(source).attempt("look for segments in", path);
    }
    Ok(found)
}

/// Checks every checksum, the chain, and the place of every batch of a segment file or of all
/// those in a directory, and shows `see` each intact batch; that stops when it returns `false`.
///
/// # Errors
/// When there is no segment, or the disk fails. Damage is not an error but part of the report.
pub fn scan(
    disk: &dyn Disk,
    path: &Path,
    mut see: impl FnMut(Seen<'_>) -> bool,
) -> Result<Vec<SegmentReport>, StorageError> {
    let mut reports = Vec::new();
    let mut before: Option<Expect> = None;
    for (base, path) in segments(disk, path)? {
        let file = disk.open(&path, OpenMode::Read).attempt("open", &path)?;
        let mut scan = Scan::begin(&path, base, file.as_ref(), before.as_ref())?;
        let more = scan.run(before.as_ref(), &mut see)?;
        before = Some(scan.tail());
        reports.push(scan.report);
        if !more {
            break;
        }
    }
    Ok(reports)
}

/// [`scan`] without looking at the batches.
///
/// # Errors
/// As [`scan`].
pub fn verify(disk: &dyn Disk, path: &Path) -> Result<Vec<SegmentReport>, StorageError> {
    scan(disk, path, |_| true)
}

struct Scan<'a> {
    path: &'a Path,
    walk: Walk<'a>,
    len: u64,
    expect: Expect,
    report: SegmentReport,
}

impl<'a> Scan<'a> {
    fn begin(
        path: &'a Path,
        base: Offset,
        file: &'a dyn DiskFile,
        before: Option<&Expect>,
    ) -> Result<Self, StorageError> {
        let len = file.len().attempt("measure", path)?;
        let mut head = [0; SEGMENT_HEADER_LEN + HEADER_LEN];
        let have = read_full(file, &mut head, 0).attempt("read", path)?;
        let header =
            SegmentHeader::parse(&head[..have]).filter(|header| header.base_offset == base);
        let first = Header::parse_assigned(head.get(SEGMENT_HEADER_LEN..have).unwrap_or_default());
        // Without a header, its neighbours have to say whose log this is.
        let (topic_id, partition) = match (&header, before, first) {
            (Some(header), _, _) => (header.topic_id, header.partition),
            (None, Some(before), _) => (before.topic_id, before.partition),
            (None, None, Ok(first)) => (first.topic_id, first.partition),
            (None, None, Err(_)) => (TopicId(Uuid::nil()), Partition(0)),
        };
        let mut expect = Expect::after_gap(topic_id, partition, base);
        if let Some(header) = &header {
            expect.append_time = header.prev_append_time;
            if !header.after_gap {
                expect.prev_crc = Some(header.prev_crc);
            }
        }
        let report = SegmentReport {
            path: path.to_owned(),
            header,
            base,
            end: base,
            batches: 0,
            records: 0,
            zstd_batches: 0,
            unpacked_bytes: 0,
            bytes: FIRST.min(len),
            reserved_bytes: 0,
            first_fault: None,
            faults: 0,
        };
        Ok(Self {
            path,
            walk: Walk::new(file, len),
            len,
            expect,
            report,
        })
    }

    fn fault(&mut self, position: u64, fault: Fault) {
        self.report.faults += 1;
        self.report
            .first_fault
            .get_or_insert(Finding { position, fault });
    }

    /// What the next segment should begin with.
    fn tail(&self) -> Expect {
        let mut tail = self.expect.clone();
        if let Some(header) = self
            .report
            .header
            .as_ref()
            .filter(|header| header.recompressed)
        {
            tail.prev_crc = Some(header.last_crc);
        }
        tail
    }

    fn run(
        &mut self,
        before: Option<&Expect>,
        see: &mut impl FnMut(Seen<'_>) -> bool,
    ) -> Result<bool, StorageError> {
        let base = self.report.base;
        if let Some(before) = before
            && before.offset != base
        {
            self.fault(
                0,
                Fault::Gap {
                    before: before.offset,
                    base,
                },
            );
        }
        match (self.report.header.clone(), before) {
            (None, _) => self.fault(0, Fault::SegmentHeader),
            (Some(header), Some(before))
                if !header.after_gap
                    && before.prev_crc.is_some_and(|crc| crc != header.prev_crc) =>
            {
                self.fault(0, Fault::Chain);
            }
            _ => {}
        }
        let mut position = FIRST;
        loop {
            let found = self
                .walk
                .expected(position, &self.expect)
                .attempt("read", self.path)?;
            let (at, header) = match found {
                Some(header) => (position, header),
                None => {
                    let later = self
                        .walk
                        .find_later(position + 1, &self.expect)
                        .attempt("read", self.path)?;
                    let data_end = self.walk.end_of_data(position).attempt("read", self.path)?;
                    if later.is_some() || position < data_end {
                        let fault = self.diagnose(position)?;
                        self.fault(position, fault);
                    }
                    match later {
                        Some(found) => found,
                        None => {
                            self.report.reserved_bytes = self.len.saturating_sub(data_end);
                            return Ok(true);
                        }
                    }
                }
            };
            let bytes = self
                .walk
                .bytes(at, header.batch_len as usize)
                .attempt("read", self.path)?;
            let mut bytes = Bytes::copy_from_slice(bytes);
            position = at + u64::from(header.batch_len);
            self.expect.advance(&header);
            let batch = Batch::take(&mut bytes).ok().filter(records_are_sound);
            let Some(batch) = batch else {
                self.fault(
                    at,
                    Fault::Payload {
                        offset: header.base_offset,
                    },
                );
                continue;
            };
            let report = &mut self.report;
            report.batches += 1;
            report.records += u64::from(header.record_count);
            report.zstd_batches += u64::from(header.codec == Codec::Zstd);
            report.unpacked_bytes += u64::from(header.unpacked_len);
            report.bytes = position;
            report.end = header.end_offset();
            if !see(Seen {
                path: self.path,
                position: at,
                batch: &batch,
            }) {
                return Ok(false);
            }
        }
    }

    fn diagnose(&mut self, position: u64) -> Result<Fault, StorageError> {
        let offset = self.expect.offset;
        let header = self.walk.header(position).attempt("read", self.path)?;
        Ok(match header {
            None => Fault::NoBatch { offset },
            Some(header) if self.expect.is_next(&header) => Fault::Payload { offset },
            Some(_) => Fault::Place { offset },
        })
    }
}

fn records_are_sound(batch: &Batch) -> bool {
    batch
        .unpack()
        .is_ok_and(|unpacked| unpacked.records().all(|record| record.is_ok()))
}
