//! Pilgrimage: a partitioned, durable message log with an HTTP face.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod api;
pub mod docs;
pub mod record;
pub mod types;
