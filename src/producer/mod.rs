//! What a partition remembers of its producers (layer 2, pure): enough to append once what is sent
//! again (PROTOCOL 2.13).
//!
//! [`Producers`] is a fold of the log: it changes by the marks of the batches that are in the log,
//! in their order, and by nothing else, so that every replica that has the same log knows the same
//! (invariant 24). What may be appended is judged by a [`Draft`], which looks ahead over batches
//! that are about to be appended and is thrown away.
//!
//! Time is the log's own: the append times that leaders wrote into the batches. A step of it counts
//! for an hour at most, so that a clock that jumps ahead makes nobody forgotten.

mod draft;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;

pub use draft::{Draft, Original, Verdict};
pub use state::{EXPIRE_KEYS_MS, EXPIRE_PRODUCERS_MS, Producers, WINDOW};
