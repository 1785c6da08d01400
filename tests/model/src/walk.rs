//! Random walks: much farther than every state can be looked at, without proving anything.

use stateright::Expectation;

use crate::action::Action;
use crate::check::{Finding, Protocol};

/// Steps of one walk at most.
const STEPS: usize = 120;

/// What a number of walks found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walked {
    /// Steps in all.
    pub steps: u64,
    /// Walks that reached a third leader epoch.
    pub third_epoch: u64,
    /// Walks that committed at least two batches.
    pub two_commits: u64,
    /// The first violation; the walks end with it.
    pub violation: Option<Finding>,
}

/// Walks `walks` times from the beginning, each time until nothing is possible any more or for 120
/// steps. The same seed walks the same ways.
#[must_use]
pub fn walk(protocol: Protocol, walks: u64, seed: u64) -> Walked {
    let properties = Protocol::all_properties();
    let invariants: Vec<_> = properties
        .iter()
        .filter(|property| property.expectation == Expectation::Always)
        .collect();
    let mut random = seed | 1;
    let mut walked = Walked {
        steps: 0,
        third_epoch: 0,
        two_commits: 0,
        violation: None,
    };
    let mut possible = Vec::new();
    for _ in 0..walks {
        let (mut state, mut steps) = (protocol.first(), Vec::new());
        for _ in 0..STEPS {
            possible.clear();
            protocol.possible(&state, &mut possible);
            let Some(action) = choose(&possible, &mut random) else {
                break;
            };
            let Some(next) = protocol.after(&state, action) else {
                continue;
            };
            state = next;
            steps.push(action);
            let broken = invariants
                .iter()
                .find(|property| !(property.condition)(&protocol, &state));
            if let Some(property) = broken {
                walked.steps += steps.len() as u64;
                let property = property.name;
                walked.violation = Some(Finding { property, steps });
                return walked;
            }
        }
        walked.steps += steps.len() as u64;
        walked.third_epoch += u64::from(3 <= state.controller.leader_epoch);
        walked.two_commits += u64::from(2 <= state.committed.end());
    }
    walked
}

fn choose(possible: &[Action], random: &mut u64) -> Option<Action> {
    // xorshift64; 0 would stay 0.
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    let index = random.checked_rem(possible.len() as u64)?;
    possible.get(usize::try_from(index).ok()?).copied()
}
