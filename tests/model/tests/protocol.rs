//! The protocol holds, and would not if one of its rules were missing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Instant;

use pilgrimage_model::Variant;
use pilgrimage_model::catalogue::{Expected, LARGE, MUTANTS, Run, SPECIFICATION, VARIANTS, WALKS};

/// Checks every run and prints what came of each (`--nocapture` shows it).
fn check(runs: &[Run], threads: usize) {
    let mut failures = Vec::new();
    for run in runs {
        let begun = Instant::now();
        match run.check(threads) {
            Ok(outcome) => eprintln!(
                "{:?}: {} states in {:.1?}, {:?}",
                run.protocol.variant,
                outcome.states,
                begun.elapsed(),
                run.expected
            ),
            Err(failure) => failures.push(failure),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn the_specification_holds_in_every_state_within_small_bounds() {
    check(SPECIFICATION, 1);
}

#[test]
fn the_variants_that_are_allowed_hold_in_every_state_within_small_bounds() {
    check(VARIANTS, 1);
}

#[test]
fn without_any_one_rule_an_invariant_breaks_in_as_few_steps_as_listed() {
    check(MUTANTS, 1);
}

#[test]
fn what_breaks_breaks_for_the_missing_rule_and_not_for_the_bounds() {
    for mutant in MUTANTS {
        let holds = |run: &&Run| {
            run.protocol.variant == mutant.protocol.variant.intact()
                && mutant.protocol.bounds.within(&run.protocol.bounds)
        };
        let intact = SPECIFICATION.iter().chain(VARIANTS).find(holds);
        assert!(
            intact.is_some_and(|run| matches!(run.expected, Expected::Holds { .. })),
            "{mutant:?}"
        );
    }
}

#[test]
fn every_variant_is_explored_or_walked() {
    let runs = [SPECIFICATION, VARIANTS, MUTANTS].concat();
    for variant in Variant::ALL {
        let explored = runs.iter().any(|run| run.protocol.variant == variant);
        let walked = WALKS.iter().any(|walks| walks.protocol.variant == variant);
        assert!(explored || walked, "{variant:?}");
    }
}

#[test]
fn far_walks_find_what_must_break_and_nothing_else() {
    for walks in WALKS {
        let walked = walks
            .check(1, 1)
            .unwrap_or_else(|failure| panic!("{failure}"));
        let violation = walked
            .violation
            .map(|found| (found.property, found.steps.len()));
        let variant = walks.protocol.variant;
        eprintln!("{variant:?}: {} steps, {violation:?}", walked.steps);
    }
}

#[test]
#[ignore = "takes minutes and gigabytes: `cargo test -p pilgrimage-model -- --ignored --nocapture`"]
fn the_specification_holds_in_every_state_within_large_bounds() {
    check(LARGE, 2);
}

#[test]
#[ignore = "takes minutes: `cargo test -p pilgrimage-model -- --ignored --nocapture`"]
fn millions_of_far_walks_find_what_must_break_and_nothing_else() {
    for walks in WALKS {
        walks
            .check(250, 2)
            .unwrap_or_else(|failure| panic!("{failure}"));
    }
}
