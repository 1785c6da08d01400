//! Use cases (layer 5): the embedded API. Everything the HTTP face can do, a program that embeds a
//! [`Broker`] can do without a listener.

mod brokers;
mod clocks;
mod cluster;
mod confirm;
mod controller;
mod embedded;
mod error;
mod fetch;
mod host;
mod lifecycle;
mod load;
mod membership;
mod peer;
mod positions;
mod produce;
mod producers;
mod reach;
mod reconcile;
mod replicate;
mod route;
mod status;
#[cfg(test)]
mod tests;
mod topics;

pub use crate::types::Acks;
pub use brokers::{BrokerError, Brokers, StartOptions};
pub use cluster::{
    Asked, ClusterError, ClusterStatus, Copying, Finding, HeldPartition, MetadataReport,
    NodeDescription, NodeReport, PartitionCounts, PartitionProgress, ReplicaMove, Severity,
};
pub use embedded::Subscription;
pub use error::{FetchError, OpenError, ProduceError, TopicError, UnknownPartition};
pub use fetch::{Fetched, From};
pub use lifecycle::{ClusterOptions, Options};
pub use load::{Load, Process};
pub use positions::ConsumeError;
pub use produce::{Placed, Produced};
pub use producers::{Once, Produce};
pub use route::RouteError;
pub use status::Status;
pub use topics::{PartitionStatus, TopicDescription};

use std::sync::Arc;

use lifecycle::Inner;

/// A broker: topics, their partitions and the positions of consumers, kept in one directory.
///
/// Cheap to clone; all clones are the same broker. [`close`](Broker::close) it to release its
/// directory; a broker that is only dropped loses nothing it acknowledged.
#[derive(Clone)]
pub struct Broker {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Broker({} at {})",
            self.inner.options.id,
            self.inner.options.storage.display()
        )
    }
}
