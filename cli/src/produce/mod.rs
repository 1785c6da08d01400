//! `produce`: values from arguments, lines, NDJSON or a file into a topic.

mod maker;
mod sender;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use pilgrimage::client::{Acks, Client, ClientError, ClientOptions, ProduceOptions};
use pilgrimage::record::Codec;
use pilgrimage::types::{Code, Outcome, Partition, TopicName, TopicPatch, limits};
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};

use crate::failure::Failure;
use crate::input::{self, LineError};
use crate::output::Output;
use crate::target::Target;
use maker::Maker;
use sender::{Range, Sender, Summary};

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

/// How often a batch is offered to a node that is too busy or just restarting: it was there when the
/// topic was looked up, and giving up half-way is the last thing that anybody wants.
const ATTEMPTS: u32 = 30;
/// How long a record waits for company when the input falls silent.
const LINGER: Duration = Duration::from_millis(20);
/// Longest line that may hold a record's JSON.
const LINE_BYTES_MAX: usize = limits::RECORD_BYTES_MAX as usize + limits::KEY_BYTES + 64;

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
        ..ProduceOptions::default()
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
    let codec = if args.compress {
        Codec::Zstd
    } else {
        Codec::None
    };
    let batch = args.batch as usize;
    let patient = ClientOptions {
        attempts: ATTEMPTS,
        ..ClientOptions::default()
    };
    let mut sender = Sender::new(
        Client::with_options(client.url(), patient)?,
        args.topic.clone(),
        args.acks.into(),
        codec,
        batch,
    );
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
    let result = tokio::select! {
        result = feed(args, &made, &mut sender) => result,
        _ = tokio::signal::ctrl_c() => Err(Failure::failed("interrupted")),
    };
    sender.bar.finish_and_clear();
    match result {
        Ok(()) => Ok(sender.summary),
        Err(failure) => {
            // What is still on its way is waited for, so that the count is right.
            sender.settle().await;
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
