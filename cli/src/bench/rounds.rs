//! Node and baselines take turns: a disk or a host whose speed drifts must not favour whoever came
//! first.

use serde::Serialize;

use super::load::Until;
use super::report::{Latencies, Percentiles, Rate};
use crate::failure::Failure;

/// What one contestant did in one round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Round {
    pub(crate) rate: Rate,
    /// Median latency, in microseconds.
    pub(crate) p50_us: f64,
}

/// What one contestant did, round by round.
#[derive(Debug, Clone)]
pub(crate) struct Rounds {
    each: Vec<Round>,
    latencies: Latencies,
}

impl Rounds {
    pub(crate) fn new() -> Result<Self, Failure> {
        Ok(Self {
            each: Vec::new(),
            latencies: Latencies::new()?,
        })
    }

    pub(crate) fn add(&mut self, rate: Rate, latencies: &Latencies) {
        let p50_us = latencies.percentiles().p50_us;
        self.each.push(Round { rate, p50_us });
        self.latencies.merge(latencies);
    }

    pub(crate) fn figures(&self) -> Figures {
        let speeds: Vec<f64> = self.speeds().collect();
        Figures {
            rate: Rate::total(self.each.iter().map(|round| round.rate)),
            records_per_second: Spread::of(&speeds),
            rounds: self.each.clone(),
            latency: self.latencies.percentiles(),
        }
    }

    fn speeds(&self) -> impl Iterator<Item = f64> {
        self.each.iter().map(|round| round.rate.records_per_second)
    }

    /// How many times as fast as `other` this one was.
    pub(crate) fn speed_over(&self, other: &Self) -> Spread {
        ratio(self.speeds().zip(other.speeds()))
    }

    /// How many times as long as with `other` the median answer took.
    pub(crate) fn median_over(&self, other: &Self) -> Spread {
        let medians = |rounds: &Self| rounds.each.iter().map(|round| round.p50_us).collect();
        let (these, others): (Vec<f64>, Vec<f64>) = (medians(self), medians(other));
        ratio(these.into_iter().zip(others))
    }
}

/// The figures of all rounds of one contestant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// All rounds together.
    pub(crate) rate: Rate,
    /// Over the rounds.
    pub(crate) records_per_second: Spread,
    pub(crate) rounds: Vec<Round>,
    /// Of all rounds together.
    pub(crate) latency: Percentiles,
}

/// The middle and both ends of what the rounds gave.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        Self {
            median: median(values),
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

/// The middle of the values; of an even number the mean of the two in the middle.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.as_slice() {
        [] => 0.0,
        odd if odd.len() % 2 == 1 => odd[half],
        even => f64::midpoint(even[half - 1], even[half]),
    }
}

/// The ratio of the medians, and the least and the greatest ratio within one round.
fn ratio(pairs: impl Iterator<Item = (f64, f64)>) -> Spread {
    let (ours, theirs): (Vec<f64>, Vec<f64>) = pairs.unzip();
    let over = |a: f64, b: f64| a / b.max(1e-9);
    let each: Vec<f64> = ours
        .iter()
        .zip(&theirs)
        .map(|(a, b)| over(*a, *b))
        .collect();
    Spread {
        median: over(median(&ours), median(&theirs)),
        ..Spread::of(&each)
    }
}

/// Who comes when in round number `round`: forwards and backwards by turns, so that over two rounds
/// everybody's mean place is the same.
pub(crate) fn order(round: usize, contestants: usize) -> Vec<usize> {
    let forwards = 0..contestants;
    if round.is_multiple_of(2) {
        forwards.collect()
    } else {
        forwards.rev().collect()
    }
}

/// Cuts `records` into `rounds` rounds that differ by one request of `batch` records at most; into
/// fewer when there are not as many requests.
pub(crate) fn shares(records: u64, batch: usize, rounds: u32) -> Vec<u64> {
    let batch = batch.max(1) as u64;
    let requests = records.div_ceil(batch);
    let rounds = u64::from(rounds).min(requests).max(1);
    let begin = |round: u64| {
        // The product of two u64s may overflow; 128 bits hold it.
        let before = u128::from(requests) * u128::from(round) / u128::from(rounds);
        let before = u64::try_from(before).unwrap_or(u64::MAX);
        before.saturating_mul(batch).min(records)
    };
    (0..rounds)
        .map(|round| begin(round + 1) - begin(round))
        .collect()
}

impl Until {
    /// Cuts a load into rounds of equal length.
    pub(crate) fn shares(self, batch: usize, rounds: u32) -> Vec<Self> {
        match self {
            Self::Time(time) => vec![Self::Time(time / rounds.max(1)); rounds as usize],
            Self::Records(records) => shares(records, batch, rounds)
                .into_iter()
                .map(Self::Records)
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_contestant_has_the_same_mean_place_over_two_rounds() {
        assert_eq!(order(0, 3), [0, 1, 2]);
        assert_eq!(order(1, 3), [2, 1, 0]);
        assert_eq!(order(2, 3), [0, 1, 2]);
    }

    #[test]
    fn shares_are_equal_to_within_a_request_and_add_up() {
        assert_eq!(shares(600, 50, 6), [100; 6]);
        assert_eq!(shares(430, 50, 6), [50, 100, 50, 100, 50, 80]);
        assert_eq!(shares(3, 1, 6), [1; 3], "no round is empty");
        assert_eq!(shares(3, 100, 6), [3]);
        assert_eq!(
            shares(u64::MAX, 1000, 1000)
                .iter()
                .map(|n| u128::from(*n))
                .sum::<u128>(),
            u128::from(u64::MAX)
        );
        assert_eq!(
            Until::Time(Duration::from_secs(3)).shares(50, 6),
            [Until::Time(Duration::from_millis(500)); 6]
        );
    }

    #[test]
    fn the_ratio_is_of_medians_and_its_ends_are_of_single_rounds() {
        let rounds = |speeds: &[u64]| {
            let mut rounds = Rounds::new().unwrap();
            for speed in speeds {
                let mut latencies = Latencies::new().unwrap();
                latencies.note(Duration::from_micros(1_000_000 / speed));
                rounds.add(
                    Rate::new(*speed, 10 * speed, Duration::from_secs(1)),
                    &latencies,
                );
            }
            rounds
        };
        let (node, bare) = (
            rounds(&[100, 300, 200, 1000]),
            rounds(&[200, 100, 400, 1000]),
        );
        assert_eq!(
            node.speed_over(&bare),
            Spread {
                median: 250.0 / 300.0,
                min: 0.5,
                max: 3.0
            }
        );
        let figures = node.figures();
        assert_eq!(
            (figures.rate, figures.records_per_second),
            (
                Rate::new(1600, 16_000, Duration::from_secs(4)),
                Spread {
                    median: 250.0,
                    min: 100.0,
                    max: 1000.0
                }
            )
        );
        assert_eq!((figures.rounds.len(), figures.latency.count), (4, 4));
        let slower = rounds(&[50]).median_over(&rounds(&[100]));
        assert!((1.99..2.01).contains(&slower.median), "{slower:?}");
        assert_eq!((slower.min, slower.max), (slower.median, slower.median));
    }
}
