//! `log dump|verify`: log files as they lie on the disk, without a node.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use pilgrimage::record::{Codec, Format};
use pilgrimage::storage::StdDisk;
use pilgrimage::storage::inspect::{self, SegmentReport};
use serde::Serialize;

use crate::failure::Failure;
use crate::output::{self, Output, bytes};

/// Look at log files on the disk: no node is needed, none is disturbed, nothing is changed.
#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Check every checksum, the chain of batches and every position. Damage ends with exit code 1.
    Verify {
        /// A segment file, a partition's directory, or any directory above: a whole storage.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Print batches and records.
    Dump {
        /// A segment file, a partition's directory, or any directory above: a whole storage.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// Only batches, not the records in them.
        #[arg(long)]
        headers: bool,
        /// Ends after so many batches.
        #[arg(long, short = 'n', value_name = "BATCHES")]
        limit: Option<u64>,
    },
}

/// Deepest directory that is looked into for logs.
const DEPTH: usize = 6;

#[derive(Debug, Serialize)]
struct Segment {
    path: PathBuf,
    base_offset: u64,
    end_offset: u64,
    batches: u64,
    zstd_batches: u64,
    records: u64,
    bytes: u64,
    reserved_bytes: u64,
    unpacked_bytes: u64,
    faults: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_fault: Option<String>,
}

impl Segment {
    fn new(report: &SegmentReport) -> Self {
        Self {
            path: report.path.clone(),
            base_offset: report.base.0,
            end_offset: report.end.0,
            batches: report.batches,
            zstd_batches: report.zstd_batches,
            records: report.records,
            bytes: report.bytes,
            reserved_bytes: report.reserved_bytes,
            unpacked_bytes: report.unpacked_bytes,
            faults: report.faults,
            first_fault: report
                .first_fault
                .as_ref()
                .map(|finding| format!("byte {}: {}", finding.position, finding.fault)),
        }
    }
}

/// Runs `log`.
pub(crate) fn run(args: LogArgs, output: Output) -> Result<(), Failure> {
    match args.action {
        Action::Verify { paths } => verify(&paths, output),
        Action::Dump {
            paths,
            headers,
            limit,
        } => dump(&paths, !headers, limit.unwrap_or(u64::MAX), output),
    }
}

/// The logs that a path names: itself, or every directory below that holds segments.
fn logs(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let cannot =
        |error: std::io::Error| Failure::failed(format!("look into {}: {error}", path.display()));
    if std::fs::metadata(path).map_err(cannot)?.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let (mut found, mut ahead) = (Vec::new(), vec![(path.to_owned(), DEPTH)]);
    while let Some((dir, depth)) = ahead.pop() {
        let mut holds_segments = false;
        for entry in std::fs::read_dir(&dir).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            if entry.file_type().map_err(cannot)?.is_dir() {
                if depth != 0 && entry.file_name() != "quarantine" {
                    ahead.push((entry.path(), depth - 1));
                }
            } else if entry
                .path()
                .extension()
                .is_some_and(|extension| extension == "log")
            {
                holds_segments = true;
            }
        }
        if holds_segments {
            found.push(dir);
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(Failure::failed(format!(
            "there are no log files in {}",
            path.display()
        )));
    }
    Ok(found)
}

fn all_logs(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut all = Vec::new();
    for path in paths {
        all.extend(logs(path)?);
    }
    Ok(all)
}

fn cannot_read(log: &Path) -> impl FnOnce(pilgrimage::storage::StorageError) -> Failure {
    let log = log.display().to_string();
    move |error| Failure::failed(format!("read {log}: {error}"))
}

fn verify(paths: &[PathBuf], output: Output) -> Result<(), Failure> {
    let mut segments = Vec::new();
    for log in all_logs(paths)? {
        let reports = inspect::verify(&StdDisk, &log).map_err(cannot_read(&log))?;
        segments.extend(reports.iter().map(Segment::new));
    }
    output.many(&segments, || table(&segments))?;
    let damaged = segments
        .iter()
        .filter(|segment| segment.faults != 0)
        .count();
    if damaged == 0 {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "{damaged} of {} segments are not intact",
        segments.len()
    ))
    .hint("a torn end of the newest segment is cut at the next start; anything else is damage"))
}

fn table(segments: &[Segment]) -> String {
    let rows = segments
        .iter()
        .map(|s| {
            vec![
                s.path.display().to_string(),
                s.base_offset.to_string(),
                s.end_offset.to_string(),
                s.batches.to_string(),
                s.records.to_string(),
                bytes(s.bytes),
                bytes(s.unpacked_bytes),
                s.first_fault.clone().unwrap_or_else(|| "intact".into()),
            ]
        })
        .collect();
    let (records, size) = segments
        .iter()
        .fold((0, 0), |(r, b), s| (r + s.records, b + s.bytes));
    let headings = [
        "SEGMENT",
        "FIRST>",
        "END>",
        "BATCHES>",
        "RECORDS>",
        "BYTES>",
        "UNPACKED>",
        "STATE",
    ];
    format!(
        "{}\n\n{} segments, {records} records, {}",
        output::table(&headings, rows),
        segments.len(),
        bytes(size)
    )
}

#[derive(Debug, Serialize)]
struct DumpedBatch<'a> {
    segment: &'a Path,
    position: u64,
    base_offset: u64,
    end_offset: u64,
    leader_epoch: u32,
    append_time: i64,
    codec: &'static str,
    bytes: u32,
    records: u32,
}

#[derive(Debug, Serialize)]
struct DumpedRecord<'a> {
    offset: u64,
    timestamp: i64,
    format: Format,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Shown<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<(&'a str, Shown<'a>)>,
    value: Option<Shown<'a>>,
}

/// Text as it is, other bytes in hexadecimal.
#[derive(Debug)]
struct Shown<'a>(&'a [u8]);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match std::str::from_utf8(self.0) {
            Ok(text) => f.write_str(text),
            Err(_) => {
                f.write_str("hex:")?;
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

impl Serialize for Shown<'_> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

fn dump(paths: &[PathBuf], with_records: bool, limit: u64, output: Output) -> Result<(), Failure> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut left = limit;
    let mut failed = None;
    for log in all_logs(paths)? {
        let see = |seen: inspect::Seen<'_>| {
            if left == 0 {
                return false;
            }
            left -= 1;
            match put(&mut out, &seen, with_records, output) {
                Ok(()) => left != 0,
                Err(failure) => {
                    failed = Some(failure);
                    false
                }
            }
        };
        let reports = inspect::scan(&StdDisk, &log, see).map_err(cannot_read(&log))?;
        if let Some(failure) = failed.take() {
            return Err(failure);
        }
        for (report, fault) in reports
            .iter()
            .filter_map(|r| Some((r, r.first_fault.as_ref()?)))
        {
            output::remark(&format!(
                "{}: byte {}: {}",
                report.path.display(),
                fault.position,
                fault.fault
            ));
        }
        if left == 0 {
            break;
        }
    }
    Ok(out.flush()?)
}

fn put(
    out: &mut impl Write,
    seen: &inspect::Seen<'_>,
    with_records: bool,
    output: Output,
) -> Result<(), Failure> {
    let header = &seen.batch.header;
    let batch = DumpedBatch {
        segment: seen.path,
        position: seen.position,
        base_offset: header.base_offset.0,
        end_offset: header.end_offset().0,
        leader_epoch: header.leader_epoch.0,
        append_time: header.append_time.0,
        codec: match header.codec {
            Codec::None => "none",
            Codec::Zstd => "zstd",
        },
        bytes: header.batch_len,
        records: header.record_count,
    };
    if output == Output::Table {
        writeln!(
            out,
            "{} at byte {}: offsets {} to {}, {} records in {} bytes, codec {}, epoch {}, appended {}",
            batch.segment.display(),
            batch.position,
            batch.base_offset,
            batch.end_offset.saturating_sub(1),
            batch.records,
            batch.bytes,
            batch.codec,
            batch.leader_epoch,
            output::time(batch.append_time),
        )?;
    } else {
        put_one(out, &batch, output)?;
    }
    if !with_records {
        return Ok(());
    }
    let damaged =
        |error| Failure::failed(format!("batch at offset {}: {error}", header.base_offset));
    let unpacked = seen.batch.unpack().map_err(damaged)?;
    for record in unpacked.records() {
        let record = record.map_err(damaged)?;
        let dumped = DumpedRecord {
            offset: record.offset.0,
            timestamp: record.timestamp.0,
            format: record.format,
            key: record.key.map(Shown),
            headers: record
                .headers()
                .map(|(name, value)| (name, Shown(value)))
                .collect(),
            value: record.value.map(Shown),
        };
        if output == Output::Table {
            let (key, value) = (
                dumped.key.map(|key| key.to_string()),
                dumped.value.map(|v| v.to_string()),
            );
            let show = |text: Option<String>| {
                crate::consume::shown(text.unwrap_or_else(|| "-".into()).as_bytes()).into_owned()
            };
            let time = output::time(dumped.timestamp);
            writeln!(
                out,
                "  {}  {time}  {}  {}",
                dumped.offset,
                show(key),
                show(value)
            )?;
        } else {
            put_one(out, &dumped, output)?;
        }
    }
    Ok(())
}

/// One of many things: a line of JSON, or an item of a YAML list.
fn put_one(out: &mut impl Write, thing: &impl Serialize, output: Output) -> Result<(), Failure> {
    if output == Output::Yaml {
        return Ok(out.write_all(output::yaml(&[thing])?.as_bytes())?);
    }
    serde_json::to_writer(&mut *out, thing)?;
    Ok(out.write_all(b"\n")?)
}
