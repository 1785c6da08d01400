//! Three nodes, a controller, and everything that can go wrong between them, from one number.
//!
//! The real [`Leader`], [`Follower`] and [`control`] run on simulated disks (a power cut takes what
//! was not synced), a network that loses, repeats, delays and reorders, metadata that arrives late
//! and skips states, nodes that pause, die and come back, false alarms, moved leaders and moved
//! replicas. [`History`](history::History) knows what was committed and checks the protocol's
//! invariants after every event; once all is healed, every replica must be in sync again.
//!
//! A failing seed is replayed with `PILGRIMAGE_SIM_SEED=n`; `PILGRIMAGE_SIM_RUNS=n` runs more.
//!
//! Mutants prove that the simulation can fail: each takes one rule away, from outside, so that
//! production code knows nothing of them.

pub(crate) mod controller;
mod history;
mod node;
mod world;

use controller::Founding;
use history::Seen;
use world::World;

/// A rule of the protocol that is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutant {
    /// F5: followers and leader count what is in the page cache.
    NoFsyncAck,
    /// F5: the leader counts its own page cache.
    LeaderCountsUnsynced,
    /// I2: a proposed in-sync set does not count until it is confirmed.
    NoMaximalIsr,
    /// H2: fewer than the minimum commit.
    NoMinIsrForHwm,
    /// I1: a replica joins that has only what this leader committed itself.
    NoLesoRule,
    /// N2: a process that died comes back in its old reign.
    SameEpochRestart,
    /// T3: a follower of a new leader cuts its log to its high watermark.
    HwmTruncation,
    /// I4: a wish that is not answered in time is forgotten.
    ClearPendingOnTimeout,
    /// I4: any refusal that names the known record takes the wish back.
    UncorrelatedAnswer,
    /// I4: one refused attempt takes the wish back though another is on its way.
    RollbackWithRetryInFlight,
    /// I3: replicas stay eligible when others can commit without them.
    ElrNotCleared,
}

const MUTANTS: [Mutant; 11] = [
    Mutant::NoFsyncAck,
    Mutant::LeaderCountsUnsynced,
    Mutant::NoMaximalIsr,
    Mutant::NoMinIsrForHwm,
    Mutant::NoLesoRule,
    Mutant::SameEpochRestart,
    Mutant::HwmTruncation,
    Mutant::ClearPendingOnTimeout,
    Mutant::UncorrelatedAnswer,
    Mutant::RollbackWithRetryInFlight,
    Mutant::ElrNotCleared,
];

/// Random numbers from a seed (SplitMix64).
#[derive(Debug, Clone)]
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from)
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

fn run(seed: u64, mutant: Option<Mutant>) -> Result<Seen, String> {
    World::new(seed, mutant, None).run()
}

/// As many runs as are asked for, or the one seed, under what has the rules built in.
pub(crate) fn survives_under(real: &Founding) {
    all_survive(&|seed| World::new(seed, None, Some(real)).run(), &[]);
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// `idle`: what cannot happen in these runs.
fn all_survive(run: &dyn Fn(u64) -> Result<Seen, String>, idle: &[&str]) {
    if let Some(seed) = number("PILGRIMAGE_SIM_SEED") {
        let outcome = run(seed);
        assert!(outcome.is_ok(), "seed {seed}: {outcome:?}");
        return;
    }
    let mut seen = Seen::default();
    for seed in 0..number("PILGRIMAGE_SIM_RUNS").unwrap_or(300) {
        match run(seed) {
            Ok(one) => seen.add(&one),
            Err(broken) => panic!("PILGRIMAGE_SIM_SEED={seed}: {broken}"),
        }
    }
    // A path that no seed takes proves nothing.
    assert_eq!(seen.never(), idle, "{seen:?}");
}

#[test]
fn acknowledged_records_survive_whatever_happens() {
    // The rules alone do not know where copies should be.
    all_survive(&|seed| run(seed, None), &["placed"]);
}

#[test]
fn a_seed_is_a_whole_run() {
    for seed in [3, 77] {
        assert_eq!(run(seed, None), run(seed, None));
    }
}

#[test]
fn every_rule_that_is_taken_away_is_missed() {
    // Most are missed by one of the first ten seeds; a refused attempt with another on its way is
    // rare. Enough seeds that a change of the simulation's dice does not matter.
    let survives = |mutant: &Mutant| (0..3_000).all(|seed| run(seed, Some(*mutant)).is_ok());
    let survivors: Vec<Mutant> = MUTANTS.into_iter().filter(survives).collect();
    assert_eq!(survivors, []);
}
