//! `bench`: how fast a node is, next to what the same machine does when it does less; and whether
//! what it gives back is what it was given.

mod baseline;
mod end_to_end;
mod load;
mod pace;
mod payload;
mod reading;
mod report;
mod spawn;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use pilgrimage::api::v1::Node;
use pilgrimage::client::{Acks, Client, ClientOptions};
use pilgrimage::types::{TopicName, TopicPatch, limits};

use crate::failure::Failure;
use crate::input;
use crate::output::{self, Output};
use crate::target::Target;
use load::{Load, Until, Wire, Written};
use payload::Hasher;
use reading::Reading;
use report::{Baseline, Cost, Percentiles, Rate, Report, Verified};
use spawn::Spawned;

const AFTER_HELP: &str = "\
Closed loop by default: each connection sends when its last answer is there. With --rate the loop is
open: requests are due at fixed times and latency counts from when they were due, so that a stall
counts against everything that it held up.
Every run reads everything back and compares it with what was written: a run whose answer is wrong
ends with exit code 1, however fast it was.
Baselines of the same run: the disk alone (append and fdatasync), and an HTTP server that does
nothing but read and answer (or stream the same bytes).";

/// Measure a node, next to the bare disk and bare HTTP, and verify every byte.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Write.
    Produce(Common),
    /// Write first, then measure reading it.
    Consume(Common),
    /// From a write to a reader that waits for it.
    EndToEnd(Common),
}

#[derive(Debug, Args)]
struct Common {
    /// Starts a node of its own and stops it at the end.
    #[arg(long, conflicts_with_all = ["url", "context"])]
    spawn: bool,
    /// Where the node of --spawn keeps its data, and where the disk alone is measured. Default: a
    /// temporary directory, which may well be memory and no disk.
    #[arg(long, short, value_name = "DIR")]
    storage: Option<PathBuf>,
    /// Number of records.
    #[arg(long, short = 'n', conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    records: Option<u64>,
    /// Writes for so long instead.
    #[arg(long, value_name = "SPAN", value_parser = input::span)]
    duration: Option<Duration>,
    /// Not measured, at the beginning.
    #[arg(long, value_name = "SPAN", default_value = "1s", value_parser = input::span)]
    warmup: Duration,
    /// Bytes of each value.
    #[arg(long, value_name = "SIZE", default_value = "100", value_parser = record_size)]
    record_size: u64,
    /// Records per request.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,
    /// Connections at once.
    #[arg(long, short, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Partitions of each topic.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::PARTITIONS_PER_TOPIC)))]
    partitions: u32,
    /// Topics.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    topics: u32,
    /// How records travel.
    #[arg(long, value_enum, default_value_t)]
    format: Wire,
    /// Records per second, over all connections. End to end: 200 unless told otherwise.
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// Does not wait for the disk: acks=none.
    #[arg(long)]
    acks_none: bool,
    /// Sends batches under zstd.
    #[arg(long)]
    compress: bool,
    /// Speaks HTTP/2 instead of HTTP/1.1. The bare HTTP server does, too.
    #[arg(long)]
    http2: bool,
    /// Each connection reads everything, instead of its share.
    #[arg(long)]
    fan_out: bool,
    /// Leaves out the baselines.
    #[arg(long)]
    no_baseline: bool,
    /// Leaves the topics behind.
    #[arg(long)]
    keep: bool,
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
const MESSAGES_DEFAULT: u64 = 2_000;
const MESSAGE_RATE_DEFAULT: f64 = 200.0;

impl Common {
    fn load(&self) -> Result<Load, Failure> {
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

    fn until(&self) -> Until {
        match (self.duration, self.records) {
            (Some(time), _) => Until::Time(time),
            (None, records) => Until::Records(records.unwrap_or(RECORDS_DEFAULT)),
        }
    }

    fn setting(&self, load: &Load) -> Vec<(&'static str, String)> {
        let mut setting = vec![
            ("format", format!("{:?}", load.wire).to_lowercase()),
            ("record", output::bytes(self.record_size)),
            ("batch", load.batch.to_string()),
            ("connections", load.connections.to_string()),
            ("topics", load.topics.len().to_string()),
            ("partitions", load.partitions.to_string()),
            ("acks", load.acks.as_str().to_owned()),
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

/// The node, the topics and the directory of one run.
struct Bench {
    common: Common,
    load: Load,
    hasher: Hasher,
    client: Client,
    dir: PathBuf,
    // Order matters: the node is stopped before its directory is taken away.
    _node: Option<Spawned>,
    _temporary: Option<tempfile::TempDir>,
}

/// Runs `bench`.
pub(crate) async fn run(args: BenchArgs, target: &Target, output: Output) -> Result<(), Failure> {
    let report = match args.what {
        What::Produce(common) => {
            let bench = Bench::prepare(common, target).await?;
            let report = bench.produce().await;
            bench.done(report).await?
        }
        What::Consume(common) => {
            let bench = Bench::prepare(common, target).await?;
            let report = bench.consume().await;
            bench.done(report).await?
        }
        What::EndToEnd(common) => {
            let bench = Bench::prepare(common, target).await?;
            let report = bench.end_to_end().await;
            bench.done(report).await?
        }
    };
    output.one(&report, || report.text())?;
    if report.verified.wrong.is_empty() {
        return Ok(());
    }
    Err(Failure::failed(
        "the node did not give back what it was given",
    ))
}

impl Bench {
    async fn prepare(common: Common, target: &Target) -> Result<Self, Failure> {
        let load = common.load()?;
        let cannot =
            |what: &str, error: std::io::Error| Failure::failed(format!("make {what}: {error}"));
        let (dir, temporary) = match &common.storage {
            Some(dir) => {
                std::fs::create_dir_all(dir)
                    .map_err(|error| cannot(&dir.display().to_string(), error))?;
                (dir.clone(), None)
            }
            None => {
                let temporary =
                    tempfile::tempdir().map_err(|error| cannot("a temporary directory", error))?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let node = if common.spawn {
            Some(Spawned::start(&dir.join("node")).await?)
        } else {
            None
        };
        let url = match &node {
            Some(node) => node.url.clone(),
            None => target.url()?,
        };
        let client = Client::new(&url)?;
        let settings = TopicPatch {
            partitions: Some(load.partitions),
            ..TopicPatch::default()
        };
        for topic in &load.topics {
            client.create_topic(topic, &settings).await?;
        }
        let hasher = Hasher::default();
        Ok(Self {
            common,
            load,
            hasher,
            client,
            dir,
            _node: node,
            _temporary: temporary,
        })
    }

    /// Takes the topics away again, whatever came of the run.
    async fn done(self, report: Result<Report, Failure>) -> Result<Report, Failure> {
        if !self.common.keep {
            for topic in &self.load.topics {
                if let Err(error) = self.client.delete_topic(topic).await {
                    output::remark(&format!("topic {topic} stays behind: {error}"));
                }
            }
        }
        report
    }

    fn report(
        &self,
        benchmark: &'static str,
        rate: Rate,
        request: Percentiles,
        records_per_answer: f64,
        nodes: (&Node, &Node),
        verified: Verified,
    ) -> Report {
        Report {
            benchmark,
            unit: match (benchmark, self.load.wire) {
                ("consume", Wire::Binary | Wire::Publish) => "next batch",
                ("consume", Wire::Ndjson) => "next record",
                _ => "request",
            },
            url: self.client.url().to_owned(),
            setting: self.common.setting(&self.load),
            rate,
            request,
            record: request.per(records_per_answer),
            acknowledged: None,
            node: Cost::between(nodes.0, nodes.1),
            baselines: Vec::new(),
            verified,
        }
    }

    /// Everything that was written, read back and compared.
    async fn verify(&self, written: &[&Written]) -> Result<Verified, Failure> {
        let reading = Reading {
            connections: 1,
            ..Reading::of(&self.client, &self.load).await?
        };
        let got = reading.run(self.client.url(), &self.hasher).await?;
        Ok(reading::compare(&self.load, written, &got))
    }

    async fn write(&self, load: &Load, until: Until, first: u64) -> Result<Written, Failure> {
        load::write(self.client.url(), load, until, first, &self.hasher).await
    }

    async fn produce(&self) -> Result<Report, Failure> {
        let warm = self
            .write(&self.load, Until::Time(self.common.warmup), 0)
            .await?;
        let before = self.client.node().await?;
        let written = self
            .write(&self.load, self.common.until(), warm.records)
            .await?;
        let after = self.client.node().await?;
        let verified = if self.load.acks == Acks::None {
            self.settle(warm.records + written.records).await?;
            self.verify(&[&warm, &written]).await?
        } else {
            self.verify(&[&warm, &written]).await?
        };
        let batch = self.load.batch as f64;
        let latency = written.latencies.percentiles();
        let mut report = self.report(
            "produce",
            written.rate(),
            latency,
            batch,
            (&before, &after),
            verified,
        );
        if !self.common.no_baseline {
            self.disk(&mut report, written.requests)?;
            let bare = baseline::sink(&self.load).await?;
            let same =
                load::write(&bare.url, &self.load, self.common.until(), 0, &self.hasher).await?;
            add(
                &mut report,
                "bare HTTP server, same load",
                same.rate(),
                same.latencies.percentiles(),
            );
        }
        Ok(report)
    }

    /// Without acknowledgements nothing says when the last record is there: waits for the count.
    async fn settle(&self, records: u64) -> Result<(), Failure> {
        let begun = Instant::now();
        while begun.elapsed() < SETTLE_PATIENCE {
            let there: u64 = Reading::of(&self.client, &self.load)
                .await?
                .ends
                .values()
                .sum();
            if records <= there {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    fn disk(&self, report: &mut Report, turns: u64) -> Result<(), Failure> {
        let (size, batch) = (self.load.record_size, self.load.batch);
        let (rate, latency) = baseline::disk(&self.dir, size, batch, turns)?;
        add(
            report,
            "append + fdatasync, one request each",
            rate,
            latency,
        );
        let together = self.load.connections;
        if 1 < together {
            let turns = turns.div_ceil(together as u64);
            let (rate, latency) = baseline::disk(&self.dir, size, batch * together, turns)?;
            add(
                report,
                "the same, one per round of connections",
                rate,
                latency,
            );
        }
        Ok(())
    }

    async fn consume(&self) -> Result<Report, Failure> {
        let filling = Load {
            wire: Wire::Binary,
            rate: None,
            acks: Acks::All,
            ..self.load.clone()
        };
        let written = self.write(&filling, self.common.until(), 0).await?;
        let reading = Reading {
            wire: self.load.wire,
            page: self.load.batch,
            everyone_everything: self.common.fan_out,
            ..Reading::of(&self.client, &self.load).await?
        };
        if !self.common.warmup.is_zero() {
            let tenth = reading
                .ends
                .iter()
                .map(|(&place, &end)| (place, end / 10))
                .collect();
            Reading {
                ends: tenth,
                ..reading.clone()
            }
            .run(self.client.url(), &self.hasher)
            .await?;
        }
        let before = self.client.node().await?;
        let got = reading.run(self.client.url(), &self.hasher).await?;
        let after = self.client.node().await?;
        // Values are what reading is about; where acknowledgements said they are was checked by
        // `produce`, here the offsets of both sides are compared as well.
        let verified = reading::compare(&filling, &[&written], &got);
        let per_answer = got.records as f64 / got.answers.max(1) as f64;
        let latency = got.latencies.percentiles();
        let mut report = self.report(
            "consume",
            got.rate(),
            latency,
            per_answer,
            (&before, &after),
            verified,
        );
        if !self.common.no_baseline {
            match baseline::source(&self.client, &reading).await? {
                Some(bare) => {
                    let binary = Reading {
                        wire: Wire::Binary,
                        ..reading
                    };
                    let same = binary.run(&bare.url, &self.hasher).await?;
                    let latency = same.latencies.percentiles();
                    add(
                        &mut report,
                        "bare HTTP server, same batches from memory",
                        same.rate(),
                        latency,
                    );
                }
                None => output::remark(
                    "no HTTP baseline: the records are too many to be held in memory",
                ),
            }
        }
        Ok(report)
    }

    async fn end_to_end(&self) -> Result<Report, Failure> {
        if self.load.acks == Acks::None || self.common.duration.is_some() {
            return Err(Failure::usage(
                "end-to-end takes neither --acks-none nor --duration; use --records",
            ));
        }
        let load = Load {
            wire: Wire::Publish,
            batch: 1,
            ..self.load.clone()
        };
        let records = self.common.records.unwrap_or(MESSAGES_DEFAULT);
        let rate = load.rate.unwrap_or(MESSAGE_RATE_DEFAULT);
        let warmup = (self.common.warmup.as_secs_f64() * rate).ceil() as u64;
        let before = self.client.node().await?;
        let url = self.client.url();
        let found = end_to_end::run(url, &load, records, warmup, rate, &self.hasher).await?;
        let after = self.client.node().await?;
        let latency = found.read.percentiles();
        let nodes = (&before, &after);
        let mut report = self.report(
            "end to end",
            found.rate,
            latency,
            1.0,
            nodes,
            found.verified,
        );
        report.acknowledged = Some(found.acknowledged.percentiles());
        report.setting = self.common.setting(&Load {
            rate: Some(rate),
            ..load.clone()
        });
        if !self.common.no_baseline {
            let (rate, disk) = baseline::disk(&self.dir, load.record_size, 1, records)?;
            // Here the distance in time counts, not how much fits into a second.
            let ratio = latency.p50_us / disk.p50_us.max(1e-3);
            let name = "append + fdatasync of one record";
            report.baselines.push(Baseline {
                name,
                rate,
                latency: disk,
                ratio,
            });
        }
        Ok(report)
    }
}

/// Adds a baseline; the ratio is the node's records per second to its.
fn add(report: &mut Report, name: &'static str, rate: Rate, latency: Percentiles) {
    let ratio = report.rate.records_per_second / rate.records_per_second.max(1e-9);
    report.baselines.push(Baseline {
        name,
        rate,
        latency,
        ratio,
    });
}

/// How long unacknowledged records are waited for.
const SETTLE_PATIENCE: Duration = Duration::from_secs(10);
