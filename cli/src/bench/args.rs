//! What can be asked of a benchmark.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use pilgrimage::client::{Acks, ClientOptions};
use pilgrimage::types::{TopicName, limits};

use super::load::{Load, Until, Wire};
use crate::failure::Failure;
use crate::{input, output};

#[derive(Debug, Args)]
pub(super) struct Common {
    /// Starts a node of its own and stops it at the end.
    #[arg(long, conflicts_with_all = ["url", "context"])]
    pub(super) spawn: bool,
    /// Where the node of --spawn keeps its data, and where the disk alone is measured. Default: a
    /// temporary directory, which may well be memory and no disk.
    #[arg(long, short, value_name = "DIR")]
    pub(super) storage: Option<PathBuf>,
    /// Number of records, all rounds together. Those of `consume` are written once and all read in
    /// each round.
    #[arg(long, short = 'n', conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) records: Option<u64>,
    /// Writes for so long instead, all rounds together.
    #[arg(long, value_name = "SPAN", value_parser = input::span)]
    pub(super) duration: Option<Duration>,
    /// Takes the measurement in so many rounds. Each is its share of the records or of the time, for
    /// the node and then for each baseline, and every other round goes in the opposite order: what
    /// drifts meanwhile drifts for all of them.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) rounds: u32,
    /// Not measured, at the beginning.
    #[arg(long, value_name = "SPAN", default_value = "1s", value_parser = input::span)]
    pub(super) warmup: Duration,
    /// Bytes of each value.
    #[arg(long, value_name = "SIZE", default_value = "100", value_parser = record_size)]
    pub(super) record_size: u64,
    /// Records per request.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) batch: u32,
    /// Connections at once.
    #[arg(long, short, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) connections: u32,
    /// Partitions of each topic.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::PARTITIONS_PER_TOPIC)))]
    pub(super) partitions: u32,
    /// Topics.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) topics: u32,
    /// How records travel.
    #[arg(long, value_enum, default_value_t)]
    pub(super) format: Wire,
    /// Records per second, over all connections. End to end: 200 unless told otherwise.
    #[arg(long, value_parser = rate)]
    pub(super) rate: Option<f64>,
    /// Does not wait for the disk: acks=none.
    #[arg(long)]
    pub(super) acks_none: bool,
    /// Sends batches under zstd.
    #[arg(long)]
    pub(super) compress: bool,
    /// Speaks HTTP/2 instead of HTTP/1.1. The bare HTTP server does, too.
    #[arg(long)]
    pub(super) http2: bool,
    /// Each connection reads everything, instead of its share.
    #[arg(long)]
    pub(super) fan_out: bool,
    /// Leaves out the baselines.
    #[arg(long)]
    pub(super) no_baseline: bool,
    /// Leaves the topics behind.
    #[arg(long)]
    pub(super) keep: bool,
}

fn record_size(text: &str) -> Result<u64, String> {
    match input::size(text)? {
        size if (1..=limits::RECORD_BYTES_MAX.into()).contains(&size) => Ok(size),
        size => Err(format!(
            "a record has 1 to {} bytes, not {size}",
            limits::RECORD_BYTES_MAX
        )),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.01..=1e9).contains(&rate) => Ok(rate),
        _ => Err("a rate is a number of records per second, 0.01 to 1000000000".into()),
    }
}

/// Records when neither --records nor --duration is given.
const RECORDS_DEFAULT: u64 = 100_000;
/// The same for end to end, where each is a request of its own.
pub(super) const MESSAGES_DEFAULT: u64 = 2_000;
pub(super) const MESSAGE_RATE_DEFAULT: f64 = 200.0;

impl Common {
    pub(super) fn load(&self) -> Result<Load, Failure> {
        let run = uuid::Uuid::new_v4().simple().to_string();
        let topics = (0..self.topics)
            .map(|i| format!("bench-{}-{i}", &run[..12]).parse::<TopicName>())
            .collect::<Result<_, _>>()?;
        Ok(Load {
            topics,
            partitions: self.partitions,
            record_size: usize::try_from(self.record_size).unwrap_or(usize::MAX),
            batch: if self.format == Wire::Publish {
                1
            } else {
                self.batch as usize
            },
            connections: self.connections as usize,
            wire: self.format,
            acks: if self.acks_none {
                Acks::None
            } else {
                Acks::All
            },
            compress: self.compress,
            options: ClientOptions {
                http2: self.http2,
                ..ClientOptions::default()
            },
            text: matches!(self.format, Wire::Json | Wire::Ndjson),
            rate: self.rate,
        })
    }

    pub(super) fn until(&self) -> Until {
        match (self.duration, self.records) {
            (Some(time), _) => Until::Time(time),
            (None, records) => Until::Records(records.unwrap_or(RECORDS_DEFAULT)),
        }
    }

    pub(super) fn setting(&self, load: &Load) -> Vec<(&'static str, String)> {
        let mut setting = vec![
            ("format", format!("{:?}", load.wire).to_lowercase()),
            ("record", output::bytes(self.record_size)),
            ("batch", load.batch.to_string()),
            ("connections", load.connections.to_string()),
            ("topics", load.topics.len().to_string()),
            ("partitions", load.partitions.to_string()),
            ("acks", load.acks.as_str().to_owned()),
            ("rounds", self.rounds.to_string()),
            (
                "loop",
                load.rate
                    .map_or("closed".to_owned(), |rate| format!("open at {rate}/s")),
            ),
        ];
        if load.compress {
            setting.push(("codec", "zstd".to_owned()));
        }
        if self.http2 {
            setting.push(("HTTP", "2".to_owned()));
        }
        setting
    }
}
