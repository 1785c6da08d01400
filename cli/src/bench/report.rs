//! What a benchmark found, for people and for programs.

use std::time::Duration;

use hdrhistogram::Histogram;
use pilgrimage::api::v1::Node;
use serde::Serialize;

use super::rounds::{Figures, Round, Spread};
use crate::failure::Failure;
use crate::output;

/// Latencies with three digits of precision, up to an hour.
#[derive(Debug, Clone)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> Result<Self, Failure> {
        Histogram::new_with_bounds(1, 3_600_000_000_000, 3)
            .map(Self)
            .map_err(|error| Failure::failed(format!("make a histogram: {error}")))
    }

    pub(crate) fn note(&mut self, took: Duration) {
        self.0
            .saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        // Both have the same bounds, so that nothing can be out of range.
        let _ = self.0.add(&other.0);
    }

    pub(crate) fn percentiles(&self) -> Percentiles {
        let us = |ns: u64| ns as f64 / 1e3;
        let at = |q| us(self.0.value_at_quantile(q));
        Percentiles {
            count: self.0.len(),
            mean_us: self.0.mean() / 1e3,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: us(self.0.max()),
        }
    }
}

/// A distribution of latencies, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) count: u64,
    pub(crate) mean_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
}

impl Percentiles {
    /// The same spread over the records of a request.
    pub(crate) fn per(self, records: f64) -> Self {
        let each = |us: f64| us / records.max(1.0);
        Self {
            count: self.count,
            mean_us: each(self.mean_us),
            p50_us: each(self.p50_us),
            p90_us: each(self.p90_us),
            p99_us: each(self.p99_us),
            p999_us: each(self.p999_us),
            max_us: each(self.max_us),
        }
    }

    fn row(&self, name: &str) -> Vec<String> {
        let mut row = vec![name.to_owned(), self.count.to_string()];
        row.extend(
            [
                self.p50_us,
                self.p90_us,
                self.p99_us,
                self.p999_us,
                self.max_us,
            ]
            .map(micros),
        );
        row
    }
}

fn micros(us: f64) -> String {
    match us {
        us if us < 10.0 => format!("{us:.2} us"),
        us if us < 10_000.0 => format!("{us:.0} us"),
        us if us < 10_000_000.0 => format!("{:.1} ms", us / 1e3),
        us => format!("{:.1} s", us / 1e6),
    }
}

/// How much was moved, and how fast.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Rate {
    pub(crate) records: u64,
    /// Bytes of keys and values, nothing of the protocol.
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) records_per_second: f64,
    pub(crate) mb_per_second: f64,
}

impl Rate {
    pub(crate) fn new(records: u64, bytes: u64, took: Duration) -> Self {
        let seconds = took.as_secs_f64().max(1e-9);
        Self {
            records,
            bytes,
            seconds,
            records_per_second: records as f64 / seconds,
            mb_per_second: bytes as f64 / 1e6 / seconds,
        }
    }

    /// One after the other.
    pub(crate) fn total(rates: impl Iterator<Item = Self>) -> Self {
        let (mut records, mut bytes, mut seconds) = (0, 0, 0.0);
        for rate in rates {
            records += rate.records;
            bytes += rate.bytes;
            seconds += rate.seconds;
        }
        Self::new(records, bytes, Duration::from_secs_f64(seconds))
    }

    fn row(&self, name: &str, spread: Spread, ratio: String) -> Vec<String> {
        let megabytes = self.bytes as f64 / self.records.max(1) as f64 / 1e6;
        vec![
            name.to_owned(),
            self.records.to_string(),
            format!("{:.2} s", self.seconds),
            format!("{:.0}", spread.median),
            format!("{:.0} to {:.0}", spread.min, spread.max),
            format!("{:.1}", spread.median * megabytes),
            ratio,
        ]
    }
}

/// What the node spent meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Cost {
    pub(crate) memory_before: u64,
    pub(crate) memory_after: u64,
    pub(crate) cpu_seconds: f64,
    pub(crate) fsyncs: u64,
    pub(crate) fsync_mean_us: f64,
    pub(crate) requests: u64,
    pub(crate) log_bytes: u64,
}

impl Cost {
    pub(crate) fn between(before: &Node, after: &Node) -> Self {
        let fsyncs = after.fsyncs.saturating_sub(before.fsyncs);
        let seconds = (after.fsync_seconds - before.fsync_seconds).max(0.0);
        Self {
            memory_before: before.memory,
            memory_after: after.memory,
            cpu_seconds: (after.cpu_seconds - before.cpu_seconds).max(0.0),
            fsyncs,
            fsync_mean_us: seconds * 1e6 / fsyncs.max(1) as f64,
            requests: after.requests.saturating_sub(before.requests),
            log_bytes: after.bytes.saturating_sub(before.bytes),
        }
    }
}

/// Something that does less than a node must, under the same load.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Baseline {
    pub(crate) name: &'static str,
    /// What it does, in a sentence.
    pub(crate) does: String,
    #[serde(flatten)]
    pub(crate) figures: Figures,
    /// The node's records per second divided by this one's; end to end: the node's median latency
    /// divided by this one's. The medians of all rounds, and the ends of single rounds.
    pub(crate) ratio: Spread,
}

/// Whether what was read is what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Verified {
    pub(crate) records: u64,
    pub(crate) partitions: usize,
    /// Whether each record was also found at the offset that its acknowledgement named.
    pub(crate) offsets: bool,
    /// What is wrong; empty = every byte is as it was written.
    pub(crate) wrong: Vec<String>,
}

impl Verified {
    /// What several rounds found, as one.
    pub(crate) fn all(rounds: Vec<Self>) -> Self {
        let mut all = Self {
            records: 0,
            partitions: 0,
            offsets: true,
            wrong: Vec::new(),
        };
        for (round, found) in rounds.into_iter().enumerate() {
            all.records += found.records;
            all.partitions = all.partitions.max(found.partitions);
            all.offsets &= found.offsets;
            let named = |wrong| format!("round {}: {wrong}", round + 1);
            all.wrong.extend(found.wrong.into_iter().map(named));
        }
        all
    }
}

/// Everything that a run found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Report {
    pub(crate) benchmark: &'static str,
    /// What one latency is: that of a request, of the next batch, of the next record.
    pub(crate) unit: &'static str,
    pub(crate) url: String,
    pub(crate) setting: Vec<(&'static str, String)>,
    /// All rounds together.
    pub(crate) rate: Rate,
    /// Over the rounds.
    pub(crate) records_per_second: Spread,
    pub(crate) rounds: Vec<Round>,
    pub(crate) request: Percentiles,
    pub(crate) record: Percentiles,
    /// End to end only: from the intended start of the write to the acknowledgement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) acknowledged: Option<Percentiles>,
    pub(crate) node: Cost,
    pub(crate) baselines: Vec<Baseline>,
    pub(crate) verified: Verified,
}

impl Report {
    pub(crate) fn text(&self) -> String {
        let setting: Vec<_> = self
            .setting
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        let mut rates = vec![
            self.rate
                .row("node", self.records_per_second, String::new()),
        ];
        let mut latencies = Vec::new();
        if let Some(acknowledged) = &self.acknowledged {
            latencies.push(acknowledged.row("write acknowledged"));
            latencies.push(self.request.row("read by a waiting reader"));
        } else {
            latencies.push(self.request.row(self.unit));
            if self.unit != "next record" {
                latencies.push(self.record.row("per record of it"));
            }
        }
        let mut legend = String::new();
        for Baseline {
            name,
            does,
            figures,
            ratio,
        } in &self.baselines
        {
            let Spread { median, min, max } = ratio;
            rates.push(figures.rate.row(
                name,
                figures.records_per_second,
                format!("{median:.2}x ({min:.2} to {max:.2})"),
            ));
            latencies.push(figures.latency.row(name));
            legend.push_str(&format!("{name}: {does}\n"));
        }
        let node = &self.node;
        let per_fsync = match node.fsyncs {
            0 => "no fsync".to_owned(),
            n => format!(
                "{n} fsyncs of {} ({:.1} records each)",
                micros(node.fsync_mean_us),
                self.rate.records as f64 / n as f64
            ),
        };
        let cost = format!(
            "node: memory {} -> {}, cpu {:.2} s, {per_fsync}, {} requests, log +{}",
            output::bytes(node.memory_before),
            output::bytes(node.memory_after),
            node.cpu_seconds,
            node.requests,
            output::bytes(node.log_bytes),
        );
        let ratio = match self.acknowledged {
            Some(_) => "READ AT P50 TAKES>",
            None => "NODE IS>",
        };
        let places = if self.verified.offsets {
            ", each at the offset that was acknowledged"
        } else {
            ""
        };
        let verdict = if self.verified.wrong.is_empty() {
            format!(
                "verified: {} records in {} partitions are byte for byte what was written{places}",
                self.verified.records, self.verified.partitions
            )
        } else {
            format!("WRONG:\n  {}", self.verified.wrong.join("\n  "))
        };
        format!(
            "{} at {}: {}\n\n{}\n\n{}\n\n{legend}{cost}\n{verdict}",
            self.benchmark,
            self.url,
            setting.join(", "),
            output::table(
                &[
                    "",
                    "RECORDS>",
                    "TIME>",
                    "RECORDS/S>",
                    "MIN TO MAX>",
                    "MB/S>",
                    ratio
                ],
                rates
            ),
            output::table(
                &[
                    "LATENCY", "COUNT>", "P50>", "P90>", "P99>", "P99.9>", "MAX>"
                ],
                latencies
            ),
        )
    }
}
