//! The promises of the Raft log.

mod log;
