//! `produce`: values from arguments, lines, NDJSON or a file into a topic.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use pilgrimage::api::v1::{Ack, ProducedBatches};
use pilgrimage::client::{Acks, Client, ClientError, ProduceOptions};
use pilgrimage::record::{
    Batch, BatchBuilder, Codec, Format, InvalidRecord, Producer, Record, partition_for_key,
};
use pilgrimage::types::{
    Clock, Code, Outcome, Partition, SystemClock, TopicName, TopicPatch, limits,
};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};
use tokio::task::JoinSet;

use crate::failure::Failure;
use crate::input::{self, LineError};
use crate::output::{self, Output};
use crate::target::Target;

const AFTER_HELP: &str = "\
Lines and values arrive byte for byte: `pilgrimage consume --topic T --format raw` gives them back.
Records with the same key go to the same partition, in order. Records without a key all go to one
partition, so that their order is kept; --partition says which. Each acknowledgement is for what was
asked for before; when something fails, the error says how many records are acknowledged.";

/// Write records into a topic: each VALUE, or each line of stdin or of a file.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ProduceArgs {
    /// The topic. One that does not exist is created with the node's defaults.
    topic: TopicName,
    /// Values, one record each. Without any, stdin is read.
    #[arg(value_name = "VALUE", conflicts_with_all = ["file", "format"])]
    values: Vec<String>,
    /// Reads this file instead of stdin.
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// What the input is.
    #[arg(long, value_enum, default_value_t)]
    format: InputFormat,
    /// Key of every record.
    #[arg(long, short)]
    key: Option<String>,
    /// Splits each line into key and value at its first occurrence.
    #[arg(long, value_name = "TEXT", conflicts_with = "key", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    key_separator: Option<String>,
    /// Header of every record; may be repeated.
    #[arg(long = "header", short = 'H', value_name = "NAME=VALUE", value_parser = input::pair)]
    headers: Vec<(String, String)>,
    /// Puts every record into this partition.
    #[arg(long, short)]
    partition: Option<u32>,
    /// What must hold before the node acknowledges.
    #[arg(long, value_enum, default_value_t)]
    acks: AcksArg,
    /// Most records of one request.
    #[arg(long, value_name = "RECORDS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=limits::BATCH_RECORDS as i64))]
    batch: u32,
    /// Sends the records under zstd.
    #[arg(long)]
    compress: bool,
    /// Shows no progress.
    #[arg(long, short)]
    quiet: bool,
}

/// What the input of `produce` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum InputFormat {
    /// Each line is one value, byte for byte.
    #[default]
    Lines,
    /// Each line is one value in JSON, kept exactly as written.
    Json,
    /// Each line is one whole record in JSON: {"key":..,"value":..,"headers":..}.
    Ndjson,
    /// The whole file is one value.
    BinaryFile,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum AcksArg {
    /// The topic's durability, on every in-sync replica.
    #[default]
    All,
    /// The same, on the leader alone.
    Leader,
    /// Nothing.
    None,
}

impl From<AcksArg> for Acks {
    fn from(acks: AcksArg) -> Self {
        match acks {
            AcksArg::All => Self::All,
            AcksArg::Leader => Self::Leader,
            AcksArg::None => Self::None,
        }
    }
}

/// Records in one request are also bounded by their bytes.
const BATCH_BYTES: usize = 1024 * 1024;
/// Bytes that wait for more of their partition, over all partitions.
const BUFFERED_BYTES: usize = 32 * 1024 * 1024;
/// Requests on their way at once; never two to one partition.
const IN_FLIGHT: usize = 4;
/// How long a record waits for company when the input falls silent.
const LINGER: Duration = Duration::from_millis(20);
/// Longest line that may hold a record's JSON.
const LINE_BYTES_MAX: usize = limits::RECORD_BYTES_MAX as usize + limits::KEY_BYTES + 64;

/// What was produced.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
struct Summary {
    records: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    durability: Option<Ack>,
    partitions: BTreeMap<u32, Range>,
}

/// The offsets that one partition gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Range {
    first: u64,
    last: u64,
    records: u64,
}

/// Runs `produce`.
pub(crate) async fn run(args: ProduceArgs, target: &Target, output: Output) -> Result<(), Failure> {
    let client = target.client()?;
    let begun = Instant::now();
    let summary = match args.format {
        InputFormat::Ndjson => ndjson(&args, &client).await?,
        InputFormat::Lines | InputFormat::Json | InputFormat::BinaryFile => {
            values(&args, &client).await?
        }
    };
    output.one(&summary, || summary.say(&args.topic, begun.elapsed()))
}

impl Summary {
    fn note(&mut self, produced: &ProducedBatches, records: u64, bytes: u64) {
        self.records += records;
        self.bytes += bytes;
        self.durability = Some(produced.durability);
        for at in &produced.batches {
            let last = at.base_offset + u64::from(at.count).saturating_sub(1);
            let range = self
                .partitions
                .entry(at.partition)
                .or_insert_with(|| Range {
                    first: at.base_offset,
                    last,
                    records: 0,
                });
            range.last = last;
            range.records += u64::from(at.count);
        }
    }

    fn say(&self, topic: &TopicName, took: Duration) -> String {
        let records = |n: u64| {
            if n == 1 {
                "1 record".to_owned()
            } else {
                format!("{n} records")
            }
        };
        let proof = match self.durability {
            Some(Ack::Fsync) => "on stable storage",
            Some(Ack::Replicated) => "in memory of every in-sync replica",
            Some(Ack::Leader) => "held by the leader",
            Some(Ack::None) => "sent, not acknowledged",
            None => "nothing to do",
        };
        let mut text = format!(
            "{} ({}) to {topic} in {:.2} s: {proof}",
            records(self.records),
            output::bytes(self.bytes),
            took.as_secs_f64()
        );
        for (partition, range) in self.partitions.iter().take(20) {
            let offsets = if range.first == range.last {
                format!("offset {}", range.first)
            } else {
                format!("offsets {} to {}", range.first, range.last)
            };
            text.push_str(&format!(
                "\n  partition {partition}: {offsets}, {}",
                records(range.records)
            ));
        }
        if 20 < self.partitions.len() {
            text.push_str(&format!(
                "\n  and {} more partitions",
                self.partitions.len() - 20
            ));
        }
        text
    }
}

/// Where the input comes from, and how much there is if one can know.
async fn open(
    file: Option<&Path>,
) -> Result<(Pin<Box<dyn AsyncRead + Send>>, Option<u64>), Failure> {
    let Some(path) = file.filter(|path| *path != Path::new("-")) else {
        let cannot = |error: std::io::Error| Failure::failed(format!("read stdin: {error}"));
        let stdin = std::io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .map_err(cannot)?;
        let stdin = std::fs::File::from(stdin);
        let total = stdin
            .metadata()
            .ok()
            .filter(std::fs::Metadata::is_file)
            .map(|meta| meta.len());
        return Ok((Box::pin(tokio::fs::File::from_std(stdin)), total));
    };
    let cannot = |error| Failure::failed(format!("read {}: {error}", path.display()));
    let file = tokio::fs::File::open(path).await.map_err(cannot)?;
    let meta = file.metadata().await.map_err(cannot)?;
    if meta.is_dir() {
        return Err(Failure::failed(format!(
            "read {}: it is a directory",
            path.display()
        )));
    }
    Ok((Box::pin(file), meta.is_file().then_some(meta.len())))
}

fn progress(quiet: bool, total: Option<u64>) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    // Draws on stderr, and only where that is a terminal.
    let (bar, style) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{bar:30} {percent:>3}% {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {msg}",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {binary_bytes} {binary_bytes_per_sec} {msg}",
        ),
    };
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar
}

async fn ndjson(args: &ProduceArgs, client: &Client) -> Result<Summary, Failure> {
    if args.key.is_some() || args.key_separator.is_some() || !args.headers.is_empty() {
        return Err(Failure::usage(
            "with --format ndjson each line brings its own key and headers",
        ));
    }
    if args.compress {
        return Err(Failure::usage(
            "--compress is not for --format ndjson: the node makes the batches",
        ));
    }
    let (input, total) = open(args.file.as_deref()).await?;
    let bar = progress(args.quiet, total);
    let counted = bar.clone();
    let chunks = futures_util::stream::try_unfold(input, move |mut input| {
        let counted = counted.clone();
        async move {
            let mut chunk = BytesMut::with_capacity(64 * 1024);
            let n = input.read_buf(&mut chunk).await?;
            counted.inc(n as u64);
            Ok::<_, ClientError>((n != 0).then(|| (chunk.freeze(), input)))
        }
    });
    let options = ProduceOptions {
        acks: args.acks.into(),
        partition: args.partition.map(Partition),
        expected_offset: None,
    };
    let ack = client
        .produce_ndjson_stream(&args.topic, chunks, &options)
        .await
        .map_err(|error| {
            let taken = match &error {
                ClientError::Problem { problem, .. } => problem.acknowledged,
                _ => None,
            };
            with_count(error, taken)
        })?;
    bar.finish_and_clear();
    let partitions = ack.positions.iter().map(|at| {
        (
            at.partition,
            Range {
                first: at.offset,
                last: at.offset,
                records: 1,
            },
        )
    });
    // The answer names the newest record of each partition, not the first.
    let partitions = if ack.acknowledged == 1 {
        partitions.collect()
    } else {
        BTreeMap::new()
    };
    Ok(Summary {
        records: ack.acknowledged,
        bytes: bar.position(),
        durability: Some(ack.durability),
        partitions,
    })
}

/// Says how much went well before it went wrong.
fn with_count(error: ClientError, acknowledged: Option<u64>) -> Failure {
    let unknown = error.outcome() == Outcome::Unknown;
    let mut failure = Failure::from(error);
    if let Some(n) = acknowledged {
        let more = if unknown {
            "; of those after them some may have been appended"
        } else {
            ""
        };
        failure.message = format!(
            "{} (the first {n} records are acknowledged{more})",
            failure.message
        );
    }
    failure
}

async fn values(args: &ProduceArgs, client: &Client) -> Result<Summary, Failure> {
    let topic = match client.topic(&args.topic).await {
        Err(error) if error.code() == Some(Code::TopicNotFound) => {
            match client
                .create_topic(&args.topic, &TopicPatch::default())
                .await?
            {
                pilgrimage::client::Creation::Created(topic)
                | pilgrimage::client::Creation::Existed(topic) => topic,
            }
        }
        other => other?,
    };
    let mut sender = Sender {
        client: client.clone(),
        topic: args.topic.clone(),
        acks: args.acks.into(),
        codec: if args.compress {
            Codec::Zstd
        } else {
            Codec::None
        },
        max_records: args.batch as usize,
        lanes: BTreeMap::new(),
        buffered: 0,
        in_flight: JoinSet::new(),
        busy: Vec::new(),
        summary: Summary::default(),
        bar: ProgressBar::hidden(),
    };
    let made = Maker {
        partitions: topic.partitions,
        max_record_bytes: topic.max_record_bytes,
        // Any will do, but not the same one for everybody.
        sticky: uuid::Uuid::new_v4().as_fields().0 % topic.partitions.max(1),
        partition: args.partition,
        key: args.key.clone().map(Bytes::from),
        separator: args.key_separator.clone().map(String::into_bytes),
        headers: args
            .headers
            .iter()
            .map(|(name, value)| (name.clone(), Bytes::from(value.clone())))
            .collect(),
        json: args.format == InputFormat::Json,
    };
    let result = feed(args, &made, &mut sender).await;
    sender.bar.finish_and_clear();
    match result {
        Ok(()) => Ok(sender.summary),
        Err(failure) => {
            // What is still on its way is waited for, so that the count is right.
            while let Some(done) = sender.in_flight.join_next().await {
                if let Ok(Sent {
                    result: Ok(produced),
                    records,
                    bytes,
                    ..
                }) = done
                {
                    sender.summary.note(&produced, records, bytes);
                }
            }
            let n = sender.summary.records;
            Err(Failure {
                message: format!("{} ({n} records are acknowledged)", failure.message),
                ..failure
            })
        }
    }
}

async fn feed(args: &ProduceArgs, made: &Maker, sender: &mut Sender) -> Result<(), Failure> {
    let max = LINE_BYTES_MAX;
    if !args.values.is_empty() {
        for (i, value) in args.values.iter().enumerate() {
            sender
                .push(made.record(value.clone().into_bytes(), i as u64 + 1)?)
                .await?;
        }
        return sender.finish().await;
    }
    let (input, total) = open(args.file.as_deref()).await?;
    if args.format == InputFormat::BinaryFile {
        let mut value = Vec::new();
        let mut input = tokio::io::AsyncReadExt::take(input, max as u64);
        tokio::io::AsyncReadExt::read_to_end(&mut input, &mut value)
            .await
            .map_err(|e| Failure::failed(e.to_string()))?;
        sender.push(made.record(value, 1)?).await?;
        return sender.finish().await;
    }
    sender.bar = progress(args.quiet, total);
    let mut input = BufReader::with_capacity(256 * 1024, input);
    let (mut line, mut number) = (Vec::new(), 0_u64);
    loop {
        let read = input::read_line(&mut input, &mut line, max);
        let more = if sender.buffered == 0 {
            Some(read.await)
        } else {
            tokio::time::timeout(LINGER, read).await.ok()
        };
        number += 1;
        match more {
            // A silent input: what is there goes out now, a half-read line stays in `line`.
            None => {
                number -= 1;
                sender.flush().await?;
            }
            Some(Ok(true)) => {
                let value = std::mem::take(&mut line);
                sender.bar.inc(value.len() as u64 + 1);
                sender.push(made.record(value, number)?).await?;
            }
            Some(Ok(false)) => return sender.finish().await,
            Some(Err(LineError::Io(error))) => {
                return Err(Failure::failed(format!("read line {number}: {error}")));
            }
            Some(Err(error)) => return Err(Failure::failed(format!("line {number}: {error}"))),
        }
    }
}

/// Makes records out of input.
#[derive(Debug)]
struct Maker {
    partitions: u32,
    max_record_bytes: u32,
    sticky: u32,
    partition: Option<u32>,
    key: Option<Bytes>,
    separator: Option<Vec<u8>>,
    headers: Vec<(String, Bytes)>,
    json: bool,
}

impl Maker {
    fn record(&self, line: Vec<u8>, number: u64) -> Result<(u32, Record), Failure> {
        let mut value = Bytes::from(line);
        let mut key = self.key.clone();
        if let Some(separator) = &self.separator {
            let at = value
                .windows(separator.len())
                .position(|part| part == separator.as_slice());
            let Some(at) = at else {
                let separator = String::from_utf8_lossy(separator).into_owned();
                return Err(Failure::failed(format!(
                    "line {number} has no key separator {separator:?}"
                )));
            };
            key = Some(value.split_to(at));
            value = value.slice(separator.len()..);
        }
        let format = match std::str::from_utf8(&value) {
            _ if self.json => Format::Json,
            Ok(_) => Format::Text,
            Err(_) => Format::Binary,
        };
        let record = Record {
            key,
            value: Some(value),
            format,
            headers: self.headers.clone(),
            timestamp: None,
        };
        let invalid = |error: InvalidRecord| Failure::failed(format!("record {number}: {error}"));
        record.check(self.max_record_bytes).map_err(invalid)?;
        let by_key = record
            .key
            .as_ref()
            .map(|key| partition_for_key(key, self.partitions));
        Ok((self.partition.or(by_key).unwrap_or(self.sticky), record))
    }
}

/// Sends batches: several partitions at once, one batch at a time to each.
struct Sender {
    client: Client,
    topic: TopicName,
    acks: Acks,
    codec: Codec,
    max_records: usize,
    lanes: BTreeMap<u32, BatchBuilder>,
    buffered: usize,
    in_flight: JoinSet<Sent>,
    busy: Vec<u32>,
    summary: Summary,
    bar: ProgressBar,
}

struct Sent {
    partition: u32,
    records: u64,
    bytes: u64,
    result: Result<ProducedBatches, ClientError>,
}

impl Sender {
    async fn push(&mut self, (partition, record): (u32, Record)) -> Result<(), Failure> {
        let size = record.size();
        if self
            .lanes
            .get(&partition)
            .is_some_and(|lane| BATCH_BYTES < lane.batch_len() + size)
        {
            self.send(partition).await?;
        }
        let lane = self.lanes.entry(partition).or_default();
        let before = lane.batch_len();
        lane.push(&record, SystemClock.now());
        self.buffered += lane.batch_len() - before;
        if self.max_records <= lane.len() || BATCH_BYTES <= lane.batch_len() {
            self.send(partition).await?;
        }
        if BUFFERED_BYTES < self.buffered {
            self.flush().await?;
        }
        Ok(())
    }

    /// Sends what is collected for a partition, as soon as its batch before is acknowledged.
    async fn send(&mut self, partition: u32) -> Result<(), Failure> {
        while IN_FLIGHT <= self.in_flight.len() || self.busy.contains(&partition) {
            self.wait_for_one().await?;
        }
        let Some(lane) = self.lanes.remove(&partition) else {
            return Ok(());
        };
        let (records, bytes) = (lane.len() as u64, lane.batch_len());
        self.buffered = self.buffered.saturating_sub(bytes);
        let Some(batch) = lane.build(self.codec, Producer::default()) else {
            return Ok(());
        };
        let (client, topic) = (self.client.clone(), self.topic.clone());
        let options = ProduceOptions {
            acks: self.acks,
            partition: Some(Partition(partition)),
            expected_offset: None,
        };
        self.busy.push(partition);
        self.in_flight.spawn(async move {
            let batches: [Batch; 1] = [batch];
            let result = client.produce_batches(&topic, &batches, &options).await;
            Sent {
                partition,
                records,
                bytes: bytes as u64,
                result,
            }
        });
        Ok(())
    }

    async fn wait_for_one(&mut self) -> Result<(), Failure> {
        let Some(done) = self.in_flight.join_next().await else {
            return Ok(());
        };
        let sent = done.map_err(|error| Failure::failed(format!("send a batch: {error}")))?;
        self.busy.retain(|&partition| partition != sent.partition);
        self.summary.note(&sent.result?, sent.records, sent.bytes);
        self.bar
            .set_message(format!("{} records acknowledged", self.summary.records));
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        let waiting: Vec<_> = self.lanes.keys().copied().collect();
        for partition in waiting {
            self.send(partition).await?;
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), Failure> {
        self.flush().await?;
        while !self.in_flight.is_empty() {
            self.wait_for_one().await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maker() -> Maker {
        Maker {
            partitions: 3,
            max_record_bytes: 100,
            sticky: 2,
            partition: None,
            key: None,
            separator: None,
            headers: Vec::new(),
            json: false,
        }
    }

    #[test]
    fn a_line_becomes_a_value_byte_for_byte() {
        for (line, format) in [
            (&b" a\r"[..], Format::Text),
            (b"\xff\x00", Format::Binary),
            (b"", Format::Text),
        ] {
            let (partition, record) = maker().record(line.to_vec(), 1).unwrap();
            let expected = Record {
                value: Some(line.to_vec().into()),
                format,
                ..Record::default()
            };
            assert_eq!((partition, record), (2, expected));
        }
    }

    #[test]
    fn a_separator_splits_once_and_the_key_chooses_the_partition() {
        let keyed = Maker {
            separator: Some(b"::".to_vec()),
            ..maker()
        };
        let (partition, record) = keyed.record(b"foobar::a::b".to_vec(), 1).unwrap();
        assert_eq!(record, Record::text("a::b").with_key("foobar"));
        assert_eq!(partition, partition_for_key(b"foobar", 3));
        assert_eq!(
            keyed.record(b"a:b".to_vec(), 7).unwrap_err().message,
            "line 7 has no key separator \"::\""
        );
    }

    #[test]
    fn a_record_that_the_topic_would_refuse_is_not_sent() {
        let error = maker().record(vec![b'x'; 101], 3).unwrap_err();
        assert!(
            error
                .message
                .starts_with("record 3: the record has 101 bytes"),
            "{}",
            error.message
        );
        let json = Maker {
            json: true,
            ..maker()
        };
        assert!(json.record(b"{".to_vec(), 1).is_err());
    }
}
