//! How the copies of a partition agree (layer 2, pure): events in, effects out.
//!
//! [`Leader`] and [`Follower`] are the two sides of one partition's replication; the task that owns
//! the log drives them. [`control`] is what the controller does to the partition's record, inside
//! a metadata command. [`EpochCache`] says where each leader's records begin. The rules are named
//! after the protocol (F1, H2, I4, ...), whose invariants the simulation in `tests` checks.
//!
//! Offsets of one replica, from low to high: log start, high watermark, durable end, log end.
//! The high watermark of a *follower* may exceed its durable end: others hold what it has not
//! synced.

pub mod control;
mod epochs;
mod fetch;
mod follower;
mod leader;
#[cfg(test)]
pub(crate) mod tests;

pub use control::{AlterAnswer, AlterPartition, Standing};
pub use epochs::EpochCache;
pub use fetch::{Fetch, FetchAnswer, LogPosition};
pub use follower::{Follower, Step, TruncationRefused};
pub use leader::{Effect, Leader, PartitionView, Timing};
