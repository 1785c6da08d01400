//! The promises of the Raft log, and of a cluster that agrees by it.

mod cluster;
mod log;
mod suite;
