//! One baseline in the rounds: what does less, and what its rounds gave.

use std::path::Path;
use std::time::Duration;

use pilgrimage::client::Client;

use super::baseline::{self, BareDisk, BareServer};
use super::load::{self, Load, Until, Wire};
use super::payload::Hasher;
use super::reading::Reading;
use super::report::Baseline;
use super::rounds::{Rounds, Spread};
use crate::failure::Failure;
use crate::output;

/// A baseline that takes part in the rounds.
#[derive(Debug)]
pub(crate) struct Bare {
    name: &'static str,
    does: String,
    machine: Machine,
    pub(crate) rounds: Rounds,
}

#[derive(Debug)]
enum Machine {
    Disk(BareDisk),
    Sink(BareServer),
    Source(BareServer, Reading),
}

impl Bare {
    fn new(name: &'static str, does: String, machine: Machine) -> Result<Self, Failure> {
        Ok(Self {
            name,
            does,
            machine,
            rounds: Rounds::new()?,
        })
    }

    /// The disk alone, in `dir`: `batch` records of `size` bytes with each write.
    pub(crate) fn disk(
        name: &'static str,
        dir: &Path,
        size: usize,
        batch: usize,
    ) -> Result<Self, Failure> {
        let does = format!(
            "writes of {}, one after another, to one file in {}, fdatasync after each",
            output::bytes(size as u64 * batch as u64),
            dir.display()
        );
        let disk = BareDisk::open(dir, size, batch)?;
        Self::new(name, does, Machine::Disk(disk))
    }

    /// HTTP alone, taking what a node would.
    pub(crate) async fn sink(load: &Load) -> Result<Self, Failure> {
        Self::new(
            "bare HTTP server, same load",
            "axum; reads each body to its end, keeps nothing and sends the same answer".to_owned(),
            Machine::Sink(baseline::sink(load).await?),
        )
    }

    /// HTTP alone, giving what a node would.
    pub(crate) async fn source(client: &Client, reading: &Reading) -> Result<Self, Failure> {
        let (server, spans) = baseline::source(client, reading).await?;
        let whole = spans == reading.ends;
        let does = if whole {
            "axum; streams the same batches from memory".to_owned()
        } else {
            format!(
                "axum; streams from memory the first {} of the same batches again and again, as many \
                 records as the node",
                output::bytes(baseline::SERVED_BYTES as u64)
            )
        };
        let reading = Reading {
            wire: Wire::Binary,
            spans,
            ..reading.clone()
        };
        let name = "bare HTTP server, same batches";
        Self::new(name, does, Machine::Source(server, reading))
    }

    /// What is not measured before the first round.
    pub(crate) async fn warm_up(
        &mut self,
        load: &Load,
        time: Duration,
        hasher: &Hasher,
    ) -> Result<(), Failure> {
        match &mut self.machine {
            Machine::Disk(disk) => {
                disk.round(1, time)?;
            }
            Machine::Sink(server) => {
                load::write(&server.url, load, Until::Time(time), 0, hasher).await?;
            }
            Machine::Source(server, reading) => {
                reading.tenth().run(&server.url, hasher).await?;
            }
        }
        Ok(())
    }

    /// One round of writing `share`, or of reading everything. `took` is how long the node's last
    /// round was: the disk alone, which may be slower by far, stops then.
    pub(crate) async fn round(
        &mut self,
        load: &Load,
        share: Until,
        took: Duration,
        hasher: &Hasher,
    ) -> Result<(), Failure> {
        let (rate, latencies) = match &mut self.machine {
            Machine::Disk(disk) => match share {
                Until::Time(time) => disk.round(u64::MAX, time)?,
                Until::Records(records) => {
                    disk.round(records.div_ceil(disk.batch() as u64), took)?
                }
            },
            Machine::Sink(server) => {
                let same = load::write(&server.url, load, share, 0, hasher).await?;
                (same.rate(), same.latencies)
            }
            Machine::Source(server, reading) => {
                let same = reading.run(&server.url, hasher).await?;
                (same.rate(), same.latencies)
            }
        };
        self.rounds.add(rate, &latencies);
        Ok(())
    }

    /// Its part of the report.
    pub(crate) fn baseline(self, ratio: Spread) -> Baseline {
        Baseline {
            name: self.name,
            does: self.does,
            figures: self.rounds.figures(),
            ratio,
        }
    }
}
