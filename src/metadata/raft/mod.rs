//! The order in which commands are applied, agreed on by Raft (PROTOCOL 2.3).
//!
//! openraft decides; what it decides on is kept here, in a log of our own: `record` is the format
//! of the files, `recovery` reads them, `writer` writes them, `guard` tells whether they are all
//! there, and `log` is what openraft sees of them. `machine`, `snapshot` and `rows` are its way to
//! the state, `network` that to other nodes.

mod guard;
mod log;
mod machine;
mod network;
mod record;
mod recovery;
mod rows;
mod snapshot;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;

use openraft::alias::{EntryOf, LogIdOf, StoredMembershipOf, VoteOf};
use openraft::impls::leader_id_std;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::command::Command;

pub(super) use log::RaftLog;
pub(super) use machine::Machine;
pub use network::{HandleError, NoTransport, RaftRpc, RaftTransport, Unreachable};
pub(super) use network::{Network, decode, encode, handle};
pub(super) use recovery::OpenError as LogError;
pub(super) use rows::{delete_state, read_progress, write_progress};
pub(super) use snapshot::Snapshots;

openraft::declare_raft_types!(
    /// What openraft is told about us. One leader per term, as in the paper, so that a term names
    /// a reign.
    pub(super) Types:
        D = Proposal,
        R = (),
        LeaderId = leader_id_std::LeaderId<Self::Term, Self::NodeId>,
);

/// Most bytes of a proposal: an answer to a follower may carry many.
pub(super) const MAX_PROPOSAL: usize = 1 << 20;
/// Bytes of a file of the log.
pub(super) const SEGMENT: u64 = 8 << 20;

pub(super) type Entry = EntryOf<Types>;
pub(super) type LogId = LogIdOf<Types>;
pub(super) type Vote = VoteOf<Types>;
pub(super) type Membership = StoredMembershipOf<Types>;

/// What an entry of the log asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Proposal {
    /// A command, under a name drawn by who proposes it: whoever applies the entry can tell the
    /// proposer, wherever in the cluster it waits, what became of it.
    #[serde(rename = "command/1")]
    Command {
        /// The name.
        id: Uuid,
        /// The command.
        command: Command,
    },
    /// What the state must be when everything before this entry has been applied (M4).
    #[serde(rename = "checksum/1")]
    Checksum {
        /// The version of the program that computed it; another may write state differently.
        version: String,
        /// Index of the last entry that it covers.
        index: u64,
        /// Hash of everything that was applied up to there.
        hash: u64,
    },
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command { id, .. } => write!(f, "command {id}"),
            Self::Checksum { index, .. } => write!(f, "checksum of {index}"),
        }
    }
}
