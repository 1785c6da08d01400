//! Long documents: how Pilgrimage is built and what it promises.

#[doc = include_str!("log_format.md")]
pub mod log_format {}

#[doc = include_str!("architecture.md")]
pub mod architecture {}

#[doc = include_str!("delivery.md")]
pub mod delivery {}

#[doc = include_str!("replication.md")]
pub mod replication {}

#[doc = include_str!("operations.md")]
pub mod operations {}

#[doc = include_str!("performance.md")]
pub mod performance {}
