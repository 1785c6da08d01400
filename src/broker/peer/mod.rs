//! What brokers ask one another, how it is asked, and how it is answered.

mod answer;
mod ask;
pub(super) mod frames;
pub(super) mod watch;
pub(super) mod wire;

pub(super) use answer::answer;
pub(super) use ask::{AskError, Peering, ask_at};
pub(super) use watch::Watches;
