//! Where replicas go, and who should lead (layer 2, pure).
//!
//! Equal inputs give equal plans: placement is decided while metadata commands are applied, and
//! every node must come to the same result.

mod assign;
mod leaders;
mod rebalance;
#[cfg(test)]
mod tests;

pub use assign::{NodeLoad, assign};
pub use leaders::{Transfer, leaders};
pub use rebalance::{Move, Node, Placed, Role, rebalance};
