//! Pilgrimage: a partitioned, durable message log with an HTTP face.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod api;
pub mod auth;
pub mod broker;
pub mod client;
pub mod cluster;
#[cfg(feature = "server")]
pub mod config;
pub mod docs;
#[cfg(feature = "server")]
pub mod http;
pub mod metadata;
pub mod partition;
pub mod placement;
pub mod producer;
pub mod record;
pub mod replication;
#[cfg(feature = "server")]
pub mod server;
pub mod storage;
pub mod tasks;
pub mod telemetry;
pub mod types;

pub use broker::Broker;
