//! What the cluster agrees on (layer 3): nodes, topics, where partitions are and who leads them, and
//! consumer positions, kept in SQLite.
//!
//! A closed [`Command`] changes the state, decided by a pure function (`state`) and written, many
//! commands to a transaction, by the one task that owns the database ([`Store`]). Requests read
//! the [`View`], never SQL.

mod chunked;
mod command;
#[allow(
    dead_code,
    unused_imports,
    reason = "the store does not write its commands through it yet"
)]
mod raft;
mod rows;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod view;
mod wal;

pub use command::{Applied, Command, Loss, Registration, Rejected};
pub use store::{ApplyError, Closed, Identity, OpenError, Store};
pub use view::{DeletedTopic, NodeEntry, NodeStatus, TopicEntry, View};
