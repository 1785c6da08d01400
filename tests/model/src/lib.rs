//! The replication protocol of one partition, small enough that every reachable state can be looked
//! at: three replicas, a controller whose records arrive late or never, nodes that are declared dead
//! without being so, crashes that take what was not synced, restarts, lost and repeated messages.
//!
//! The rule numbers (N2, H1, I4, ...) and the numbers of the invariants are those of the protocol.
//! `src/docs/replication.md` says what is modelled and what is not.
//!
//! The model is tested, too: each [`Variant`] leaves out or changes one rule, and the [`catalogue`]
//! says which invariant must break then, and after how many steps.

mod action;
pub mod catalogue;
mod check;
mod controller;
mod log;
mod node;
mod properties;
mod replica;
mod state;
mod symmetry;
mod variant;
mod walk;

pub use action::Action;
pub use check::{Bounds, Delivery, Finding, Outcome, Protocol, explore};
pub use node::{Node, Nodes};
pub use state::State;
pub use variant::Variant;
pub use walk::{Walked, walk};
