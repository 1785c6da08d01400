//! Long documents: how Pilgrimage is built and what it promises.

#[doc = include_str!("log_format.md")]
pub mod log_format {}
