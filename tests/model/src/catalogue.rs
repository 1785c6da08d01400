//! What is explored, and what must come of it. A run that holds names how many states it has, so that
//! a model that can do less than before does not hold unnoticed.

use crate::check::{Bounds, Delivery, Outcome, Protocol, explore};
use crate::node::Nodes;
use crate::properties::{
    CANDIDATES_COMPLETE, EXPANDS, FAILS_OVER, LOG_MATCHING, QUORUMS_OVERLAP, SOMEWHERE, TAIL,
};
use crate::variant::Variant;
use crate::walk::{Walked, walk};

/// What must come of exploring everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Every invariant holds in each of so many states, among which are these.
    Holds {
        /// Different states.
        states: usize,
        /// What must be possible.
        witnesses: &'static [&'static str],
    },
    /// An invariant breaks, and after no fewer steps.
    Breaks {
        /// Which one.
        property: &'static str,
        /// Length of the shortest way there.
        steps: usize,
    },
}

/// An exploration.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// What is explored.
    pub protocol: Protocol,
    /// What must come of it.
    pub expected: Expected,
}

impl Run {
    /// Explores. More than one thread may find a way to a violation that is not the shortest.
    ///
    /// # Errors
    /// What came of it instead.
    pub fn check(&self, threads: usize) -> Result<Outcome, String> {
        let outcome = explore(self.protocol, threads);
        let as_expected = match self.expected {
            Expected::Holds { states, witnesses } => {
                let happened = |name: &&str| outcome.witnesses.iter().any(|w| w.property == *name);
                outcome.violations.is_empty()
                    && outcome.states == states
                    && witnesses.iter().all(happened)
            }
            Expected::Breaks { property, steps } => outcome
                .violations
                .iter()
                .any(|found| found.property == property && found.steps.len() == steps),
        };
        if as_expected {
            return Ok(outcome);
        }
        Err(format!("{self:#?} came out as {outcome:#?}"))
    }
}

/// Walks too long for every way to be tried.
#[derive(Clone, Copy, Debug)]
pub struct Walks {
    /// Where.
    pub protocol: Protocol,
    /// How often at least.
    pub walks: u64,
    /// The invariant that breaks, if one must.
    pub breaks: Option<&'static str>,
}

impl Walks {
    /// Walks `times` as often as it must at least.
    ///
    /// # Errors
    /// What came of it instead.
    pub fn check(&self, times: u64, seed: u64) -> Result<Walked, String> {
        let walked = walk(self.protocol, self.walks.saturating_mul(times), seed);
        let broken = walked.violation.as_ref().map(|found| found.property);
        let far = 0 < walked.third_epoch && 0 < walked.two_commits;
        if broken == self.breaks && (far || broken.is_some()) {
            return Ok(walked);
        }
        Err(format!("{self:#?}, seed {seed} came out as {walked:#?}"))
    }
}

/// `[values, crashes, fences, proposals, reads]`, from `isr` with `min_isr`.
const fn bounds(most: [u8; 5], isr: Nodes, min_isr: u8) -> Bounds {
    let [values, crashes, fences, proposals, reads] = most;
    Bounds {
        values,
        crashes,
        fences,
        proposals,
        reads,
        stale_fetches: 0,
        isr,
        min_isr,
        delivery: Delivery::Whole,
    }
}

const fn holds(
    variant: Variant,
    bounds: Bounds,
    states: usize,
    witnesses: &'static [&'static str],
) -> Run {
    let expected = Expected::Holds { states, witnesses };
    let protocol = Protocol { variant, bounds };
    Run { protocol, expected }
}

const fn breaks(variant: Variant, bounds: Bounds, property: &'static str, steps: usize) -> Run {
    let expected = Expected::Breaks { property, steps };
    let protocol = Protocol { variant, bounds };
    Run { protocol, expected }
}

const EVERY: Nodes = Nodes::EVERY;
const TWO: Nodes = Nodes::TWO;

/// The protocol as specified, soon explored. The bounds of every mutant lie within these or within those
/// of [`VARIANTS`]: what breaks there breaks for the rule that is missing.
pub const SPECIFICATION: &[Run] = &[
    holds(
        Variant::Specified,
        bounds([2, 1, 1, 0, 0], EVERY, 2),
        75_668,
        &[FAILS_OVER],
    ),
    holds(
        Variant::Specified,
        bounds([1, 1, 2, 0, 0], EVERY, 2),
        181_280,
        &[FAILS_OVER],
    ),
    holds(
        Variant::Specified,
        bounds([1, 1, 1, 1, 0], TWO, 2),
        168_326,
        &[FAILS_OVER, EXPANDS],
    ),
    holds(
        Variant::Specified,
        bounds([1, 0, 2, 0, 0], TWO, 2),
        59_757,
        &[],
    ),
    holds(
        Variant::Specified,
        bounds([1, 0, 1, 2, 0], EVERY, 2),
        302_981,
        &[FAILS_OVER, EXPANDS],
    ),
    holds(
        Variant::Specified,
        bounds([1, 0, 1, 0, 1], EVERY, 2),
        31_444,
        &[FAILS_OVER],
    ),
    holds(
        Variant::Specified,
        bounds([1, 1, 1, 1, 0], EVERY, 1),
        152_637,
        &[FAILS_OVER, EXPANDS],
    ),
];

/// Other ways that hold as well, at least within these bounds.
pub const VARIANTS: &[Run] = &[
    holds(
        Variant::IneligibleRaisesEpoch,
        bounds([1, 1, 1, 1, 0], TWO, 2),
        202_920,
        &[FAILS_OVER, EXPANDS],
    ),
    holds(
        Variant::IneligibleRaisesEpoch,
        bounds([1, 0, 1, 2, 0], EVERY, 2),
        385_147,
        &[FAILS_OVER, EXPANDS],
    ),
    holds(
        Variant::PageCacheAck,
        bounds([1, 1, 1, 1, 0], TWO, 2),
        342_904,
        &[FAILS_OVER, EXPANDS],
    ),
    holds(
        Variant::PageCacheAck,
        bounds([1, 1, 2, 0, 0], EVERY, 2),
        359_540,
        &[FAILS_OVER],
    ),
    holds(
        Variant::SameEpochRestartServesDurable,
        bounds([2, 1, 1, 0, 0], EVERY, 2),
        81_320,
        &[FAILS_OVER],
    ),
    holds(
        Variant::NoIncarnationCheck,
        bounds([1, 1, 1, 1, 0], TWO, 2),
        170_266,
        &[FAILS_OVER, EXPANDS],
    ),
];

/// What holds and takes minutes.
pub const LARGE: &[Run] = &[
    holds(
        Variant::Specified,
        bounds([1, 1, 1, 1, 1], EVERY, 2),
        2_186_016,
        &[FAILS_OVER, EXPANDS],
    ),
    holds(
        Variant::Specified,
        bounds([1, 1, 1, 2, 0], TWO, 2),
        1_218_523,
        &[FAILS_OVER, EXPANDS],
    ),
    holds(
        Variant::Specified,
        bounds([2, 1, 2, 0, 0], EVERY, 2),
        2_051_822,
        &[FAILS_OVER],
    ),
    holds(
        Variant::IneligibleRaisesEpoch,
        bounds([1, 1, 1, 2, 0], TWO, 2),
        1_627_365,
        &[FAILS_OVER, EXPANDS],
    ),
];

/// What breaks when a rule is left out.
pub const MUTANTS: &[Run] = &[
    breaks(
        Variant::PageCacheAckWithoutN3,
        bounds([1, 1, 2, 0, 0], EVERY, 2),
        CANDIDATES_COMPLETE,
        8,
    ),
    breaks(
        Variant::LeaderCountsUnsynced,
        bounds([1, 1, 2, 0, 0], EVERY, 2),
        CANDIDATES_COMPLETE,
        6,
    ),
    breaks(
        Variant::NoMaximalIsr,
        bounds([1, 0, 1, 1, 0], TWO, 2),
        CANDIDATES_COMPLETE,
        8,
    ),
    breaks(
        Variant::NoMinIsr,
        bounds([1, 0, 2, 0, 0], TWO, 2),
        CANDIDATES_COMPLETE,
        5,
    ),
    breaks(
        Variant::NoLeaderStartForExpand,
        bounds([1, 0, 1, 1, 0], TWO, 2),
        CANDIDATES_COMPLETE,
        11,
    ),
    breaks(
        Variant::PageCacheAckNoIncarnationCheck,
        bounds([1, 1, 1, 1, 0], TWO, 2),
        CANDIDATES_COMPLETE,
        10,
    ),
    breaks(
        Variant::SameEpochRestart,
        bounds([2, 1, 1, 0, 0], EVERY, 2),
        LOG_MATCHING,
        5,
    ),
    breaks(
        Variant::TruncateToHighWatermark,
        bounds([2, 0, 1, 0, 0], EVERY, 2),
        CANDIDATES_COMPLETE,
        10,
    ),
    breaks(
        Variant::TimeoutForgetsProposal,
        bounds([1, 0, 1, 1, 0], TWO, 2),
        QUORUMS_OVERLAP,
        5,
    ),
    breaks(
        Variant::IneligibleWithRetryInFlight,
        bounds([1, 0, 1, 2, 0], EVERY, 2),
        QUORUMS_OVERLAP,
        9,
    ),
    breaks(
        Variant::RefusalNotMatched,
        bounds([1, 0, 1, 2, 0], EVERY, 2),
        QUORUMS_OVERLAP,
        9,
    ),
    breaks(
        Variant::ElrStays,
        bounds([1, 0, 1, 1, 0], TWO, 2),
        QUORUMS_OVERLAP,
        6,
    ),
    breaks(
        Variant::TailWithoutConfirmation,
        bounds([1, 0, 1, 0, 1], EVERY, 2),
        TAIL,
        10,
    ),
    breaks(
        Variant::TailBeforeLeaderStart,
        bounds([1, 0, 1, 0, 1], EVERY, 2),
        TAIL,
        14,
    ),
];

const fn far(variant: Variant, crashes: u8, min_isr: u8) -> Walks {
    let bounds = Bounds {
        delivery: Delivery::Separate,
        ..bounds([4, crashes, 5, 5, 2], EVERY, min_isr)
    };
    let protocol = Protocol { variant, bounds };
    Walks {
        protocol,
        walks: 4_000,
        breaks: None,
    }
}

/// Where to walk. Data that is only in page caches does not survive the crash of every replica: that
/// is what `durability=replicated` says, and shows that walks find what is there.
pub const WALKS: &[Walks] = &[
    far(Variant::Specified, 3, 2),
    far(Variant::Specified, 3, 1),
    far(Variant::IneligibleRaisesEpoch, 3, 2),
    far(Variant::NoFetchEpoch, 2, 2),
    far(Variant::PageCacheAck, 1, 2),
    Walks {
        walks: 300_000,
        breaks: Some(SOMEWHERE),
        ..far(Variant::PageCacheAck, 3, 2)
    },
];
