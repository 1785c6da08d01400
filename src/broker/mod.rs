//! Use cases (layer 5): the embedded API.

/// A broker embedded in this process.
#[derive(Debug, Clone)]
pub struct Broker;
