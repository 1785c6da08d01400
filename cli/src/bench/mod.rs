//! `bench`: how fast a node is, next to what the same machine does when it does less; and whether
//! what it gives back is what it was given.

mod args;
mod bare;
mod baseline;
mod end_to_end;
mod load;
mod pace;
mod payload;
mod reading;
mod report;
mod rounds;
mod spawn;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use pilgrimage::api::v1::Node;
use pilgrimage::client::{Acks, Client};
use pilgrimage::types::TopicPatch;

use crate::failure::Failure;
use crate::output::{self, Output};
use crate::target::Target;
use args::{Common, MESSAGE_RATE_DEFAULT, MESSAGES_DEFAULT};
use bare::Bare;
use load::{Load, Until, Wire, Written};
use payload::Hasher;
use reading::Reading;
use report::{Cost, Latencies, Report, Verified};
use rounds::Rounds;
use spawn::Spawned;

const AFTER_HELP: &str = "\
Closed loop by default: each connection sends when its last answer is there. With --rate the loop is
open: requests are due at fixed times and latency counts from when they were due, so that a stall
counts against everything that it held up.
Every run reads everything back and compares it with what was written: a run whose answer is wrong
ends with exit code 1, however fast it was.
Baselines of the same run: the disk alone (append and fdatasync), and an HTTP server that does
nothing but read and answer (or stream the same bytes). Node and baselines take turns, in --rounds
rounds of equal length and each round in the opposite order of the one before; the ratio that is
shown is that of the medians, then the least and the greatest of any one round. The disk alone ends
its round after the node's requests or the node's time, whichever comes first. Needs room on the disk
for three times the records.";

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
        rounds: &Rounds,
        records_per_answer: f64,
        nodes: (&Node, &Node),
        verified: Verified,
    ) -> Report {
        let figures = rounds.figures();
        Report {
            benchmark,
            unit: match (benchmark, self.load.wire) {
                ("consume", Wire::Binary | Wire::Publish) => "next batch",
                ("consume", Wire::Ndjson) => "next record",
                _ => "request",
            },
            url: self.client.url().to_owned(),
            setting: self.common.setting(&self.load),
            rate: figures.rate,
            records_per_second: figures.records_per_second,
            rounds: figures.rounds,
            request: figures.latency,
            record: figures.latency.per(records_per_answer),
            acknowledged: None,
            node: Cost::between(nodes.0, nodes.1),
            baselines: Vec::new(),
            verified,
        }
    }

    /// Everything that was written, read back and compared.
    async fn verify(&self, written: &[Written]) -> Result<Verified, Failure> {
        let reading = Reading {
            connections: 1,
            ..Reading::of(&self.client, &self.load).await?
        };
        let got = reading.run(self.client.url(), &self.hasher).await?;
        let written: Vec<&Written> = written.iter().collect();
        Ok(reading::compare(&self.load, &written, &got))
    }

    async fn write(&self, load: &Load, until: Until, first: u64) -> Result<Written, Failure> {
        load::write(self.client.url(), load, until, first, &self.hasher).await
    }

    async fn produce(&self) -> Result<Report, Failure> {
        let warm = self
            .write(&self.load, Until::Time(self.common.warmup), 0)
            .await?;
        let mut bare = self.bare_writers().await?;
        let before = self.client.node().await?;
        let (mut node, mut written) = (Rounds::new()?, vec![warm]);
        let shares = self
            .common
            .until()
            .shares(self.load.batch, self.common.rounds);
        for (round, &share) in shares.iter().enumerate() {
            for turn in rounds::order(round, 1 + bare.len()) {
                let took = written.last().map_or(Duration::MAX, |last| last.took);
                if let Some(bare) = turn.checked_sub(1).and_then(|i| bare.get_mut(i)) {
                    bare.round(&self.load, share, took, &self.hasher).await?;
                    continue;
                }
                let first = written.iter().map(|round| round.records).sum();
                let once = self.write(&self.load, share, first).await?;
                node.add(once.rate(), &once.latencies);
                if self.load.acks == Acks::None {
                    self.settle(first + once.records).await?;
                }
                written.push(once);
            }
        }
        let after = self.client.node().await?;
        let verified = self.verify(&written).await?;
        let batch = self.load.batch as f64;
        let mut report = self.report("produce", &node, batch, (&before, &after), verified);
        for bare in bare {
            let ratio = node.speed_over(&bare.rounds);
            report.baselines.push(bare.baseline(ratio));
        }
        Ok(report)
    }

    /// The baselines of writing; none when none are wanted.
    async fn bare_writers(&self) -> Result<Vec<Bare>, Failure> {
        if self.common.no_baseline {
            return Ok(Vec::new());
        }
        let Load {
            record_size: size,
            batch,
            connections: together,
            ..
        } = self.load;
        let name = "append + fdatasync, one request each";
        let mut bare = vec![Bare::disk(name, &self.dir, size, batch)?];
        if 1 < together {
            let name = "append + fdatasync, all connections at once";
            bare.push(Bare::disk(name, &self.dir, size, batch * together)?);
        }
        bare.push(Bare::sink(&self.load).await?);
        for bare in &mut bare {
            bare.warm_up(&self.load, self.common.warmup, &self.hasher)
                .await?;
        }
        Ok(bare)
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
        let mut bare = Vec::new();
        if !self.common.no_baseline {
            bare.push(Bare::source(&self.client, &reading).await?);
        }
        if !self.common.warmup.is_zero() {
            reading.tenth().run(self.client.url(), &self.hasher).await?;
            for bare in &mut bare {
                bare.warm_up(&self.load, self.common.warmup, &self.hasher)
                    .await?;
            }
        }
        let before = self.client.node().await?;
        let (mut node, mut answers, mut took) = (Rounds::new()?, 0, Duration::MAX);
        let mut verified = Vec::new();
        for round in 0..self.common.rounds as usize {
            for turn in rounds::order(round, 1 + bare.len()) {
                if let Some(bare) = turn.checked_sub(1).and_then(|i| bare.get_mut(i)) {
                    let share = self.common.until();
                    bare.round(&self.load, share, took, &self.hasher).await?;
                    continue;
                }
                let got = reading.run(self.client.url(), &self.hasher).await?;
                node.add(got.rate(), &got.latencies);
                (answers, took) = (answers + got.answers, got.took);
                // Values are what reading is about; where acknowledgements said they are was checked
                // by `produce`, here the offsets of both sides are compared as well.
                verified.push(reading::compare(&filling, &[&written], &got));
            }
        }
        let after = self.client.node().await?;
        let verified = Verified::all(verified);
        let per_answer = verified.records as f64 / answers.max(1) as f64;
        let mut report = self.report("consume", &node, per_answer, (&before, &after), verified);
        for bare in bare {
            let ratio = node.speed_over(&bare.rounds);
            report.baselines.push(bare.baseline(ratio));
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
        let mut bare = Vec::new();
        if !self.common.no_baseline {
            let name = "append + fdatasync of one record";
            let mut disk = Bare::disk(name, &self.dir, load.record_size, 1)?;
            disk.warm_up(&load, self.common.warmup, &self.hasher)
                .await?;
            bare.push(disk);
        }
        let before = self.client.node().await?;
        let (mut node, mut acknowledged) = (Rounds::new()?, Latencies::new()?);
        let (mut verified, mut took) = (Vec::new(), Duration::MAX);
        let shares = rounds::shares(records, 1, self.common.rounds);
        for (round, &share) in shares.iter().enumerate() {
            for turn in rounds::order(round, 1 + bare.len()) {
                if let Some(bare) = turn.checked_sub(1).and_then(|i| bare.get_mut(i)) {
                    let share = Until::Records(share);
                    bare.round(&load, share, took, &self.hasher).await?;
                    continue;
                }
                let warmup = if round == 0 { warmup } else { 0 };
                let url = self.client.url();
                let found = end_to_end::run(url, &load, share, warmup, rate, &self.hasher).await?;
                node.add(found.rate, &found.read);
                acknowledged.merge(&found.acknowledged);
                verified.push(found.verified);
                took = Duration::from_secs_f64(found.rate.seconds);
            }
        }
        let after = self.client.node().await?;
        let verified = Verified::all(verified);
        let mut report = self.report("end to end", &node, 1.0, (&before, &after), verified);
        report.acknowledged = Some(acknowledged.percentiles());
        report.setting = self.common.setting(&Load {
            rate: Some(rate),
            ..load
        });
        for bare in bare {
            // Here the distance in time counts, not how much fits into a second.
            let ratio = node.median_over(&bare.rounds);
            report.baselines.push(bare.baseline(ratio));
        }
        Ok(report)
    }
}

/// How long unacknowledged records are waited for.
const SETTLE_PATIENCE: Duration = Duration::from_secs(10);
