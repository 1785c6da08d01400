//! How busy a node is: rates over the last seconds, and what its process takes.

use std::collections::VecDeque;
use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Broker;
use super::lifecycle::Inner;
use crate::telemetry::Stats;

/// What a node does in a second, as the mean of the last few.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Load {
    /// Records appended.
    pub records_in: f64,
    /// Batch bytes appended.
    pub bytes_in: f64,
    /// Records handed to readers.
    pub records_out: f64,
    /// Batch bytes handed to readers.
    pub bytes_out: f64,
    /// Batch bytes copied from leaders.
    pub copied_bytes: f64,
    /// fdatasync calls on segments.
    pub fsyncs: f64,
    /// CPU time of the process: 1.0 is one core.
    pub cpu: f64,
}

/// What the process takes of its machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Process {
    /// Resident memory in bytes; 0 where the system does not tell.
    pub memory: u64,
    /// CPU time so far, in seconds; 0 where the system does not tell.
    pub cpu_seconds: f64,
}

impl Broker {
    /// What this process takes of its machine.
    pub fn process(&self) -> Process {
        Process {
            memory: resident_memory(),
            cpu_seconds: cpu_seconds(),
        }
    }
}

/// Resident memory of this process in bytes.
fn resident_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Ticks of `/proc` per second: fixed by Linux for programs, whatever the kernel's own rate.
const TICKS: f64 = 100.0;

/// CPU time of this process so far.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The program's name, in parentheses, may contain anything: fields are counted after it.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok());
    ticks.sum::<f64>() / TICKS
}

/// Time between two looks at the counters.
const LOOK: Duration = Duration::from_secs(1);
/// Looks over which a rate is the mean.
const LOOKS: usize = 5;

/// The counters at one moment, in the order of [`Load`]'s fields.
type Counters = [f64; 7];

fn counters(stats: &Stats) -> Counters {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
    [
        read(&stats.records_in),
        read(&stats.bytes_in),
        read(&stats.records_out),
        read(&stats.bytes_out),
        read(&stats.replicated_bytes),
        read(&stats.fsyncs),
        cpu_seconds(),
    ]
}

/// By how much the counters grew in a second.
fn rates(before: &Counters, now: &Counters, seconds: f64) -> Load {
    let [
        records_in,
        bytes_in,
        records_out,
        bytes_out,
        copied_bytes,
        fsyncs,
        cpu,
    ] = std::array::from_fn(|n| match 0.0 < seconds {
        true => (now[n] - before[n]).max(0.0) / seconds,
        false => 0.0,
    });
    Load {
        records_in,
        bytes_in,
        records_out,
        bytes_out,
        copied_bytes,
        fsyncs,
        cpu,
    }
}

/// Looks at the counters for as long as the broker is open.
pub(super) async fn measure(broker: Weak<Inner>) {
    let Some(stop) = broker.upgrade().map(|inner| inner.tasks.stopping()) else {
        return;
    };
    let mut every = tokio::time::interval(LOOK);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut seen: VecDeque<(Instant, Counters)> = VecDeque::with_capacity(LOOKS + 1);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => {}
        }
        let Some(inner) = broker.upgrade() else {
            return;
        };
        let (at, now) = (Instant::now(), counters(&inner.stats));
        if let Some((since, before)) = seen.front() {
            let seconds = at.duration_since(*since).as_secs_f64();
            inner.load.store(rates(before, &now, seconds).into());
        }
        if seen.len() == LOOKS {
            seen.pop_front();
        }
        seen.push_back((at, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_the_growth_of_a_counter_over_the_time_it_took() {
        let before = [100.0, 1_000.0, 0.0, 0.0, 7.0, 5.0, 2.5];
        let now = [300.0, 5_000.0, 0.0, 8.0, 7.0, 6.0, 3.5];
        let load = Load {
            records_in: 100.0,
            bytes_in: 2_000.0,
            records_out: 0.0,
            bytes_out: 4.0,
            copied_bytes: 0.0,
            fsyncs: 0.5,
            cpu: 0.5,
        };
        assert_eq!(rates(&before, &now, 2.0), load);
        assert_eq!(rates(&before, &now, 0.0), Load::default());
        assert_eq!(rates(&now, &now, 2.0), Load::default());
    }
}
