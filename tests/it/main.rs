//! Promises of the real binary: real processes, real sockets, real files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    unreachable_pub
)]

mod bench;
mod cli;
mod cluster;
mod console;
mod console_cluster;
mod crash;
mod disk_full;
mod idempotence;
mod local_cluster;
mod nodes;
mod operations;
mod real_input;
mod shell;
mod streams;
mod support;
mod trio;
mod webdriver;
