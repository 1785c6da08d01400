//! What the cluster agrees on (layer 3): nodes, topics, where partitions are and who leads them, and
//! consumer positions, kept in SQLite.
//!
//! A closed [`Command`] changes the state, decided by a pure function (`state`), in an order that
//! the members of the cluster agree on by Raft (`raft`); a node alone is a cluster of one. What is
//! agreed on is written, many commands to a transaction, by the one task that owns the database
//! (`owner`). The handle to all this is the [`Store`]. Requests read the [`View`], never SQL.

mod chunked;
mod command;
mod database;
mod members;
mod owner;
mod propose;
mod raft;
mod rows;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod view;
mod wal;

pub use command::{Applied, Command, Loss, Registration, Rejected};
pub use database::{Identity, OpenError};
pub use members::{MembershipError, RaftStatus};
pub use propose::BarrierError;
pub use raft::{HandleError, NoTransport, RaftRpc, RaftTransport, Unreachable};
pub use store::{ApplyError, Closed, Store, StoreOptions};
pub use view::{DeletedTopic, NodeEntry, NodeStatus, Successor, TopicEntry, View};
