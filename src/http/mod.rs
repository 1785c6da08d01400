//! HTTP (layer 6): one file per resource over the embedded broker, and the face around them.
//!
//! A request goes through [`serve`] (connections) and `face` (what holds for every request: guard,
//! panics, headers), then through `router` (access and metrics of each route) to a handler, which
//! takes it apart, calls the broker and wraps the answer.

mod assets;
mod body;
mod brokers;
mod cloudevents;
mod cluster;
mod decode;
mod direct;
mod docs;
mod error;
mod extract;
mod face;
mod io;
mod json;
mod node;
mod once;
mod openapi;
mod publish;
mod raw;
mod read;
mod records;
mod render;
mod router;
mod scan;
pub mod serve;
mod stream;
mod topics;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use axum::http::HeaderValue;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;

use self::body::Admission;
use crate::auth::Policy;
use crate::auth::guard::{AllowedHosts, InvalidEntry};
use crate::broker::{Broker, Brokers};
use crate::types::limits;

pub use self::openapi::document;
pub(crate) use self::openapi::router;

/// What the HTTP face needs to know.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Hosts, besides loopback, that this node answers for.
    pub allowed_hosts: Vec<String>,
    /// Origins whose pages may call this node.
    pub cors_origins: Vec<String>,
    /// From where callers need not say who they are.
    pub policy: Policy,
}

/// What all requests share.
pub(crate) struct App {
    broker: Broker,
    brokers: Brokers,
    policy: Policy,
    hosts: Vec<String>,
    origins: Vec<String>,
    allowed: Arc<AllowedHosts>,
    /// The allowed origins as browsers write them.
    cors: Vec<HeaderValue>,
    admission: Admission,
    /// Fires when the node begins to shut down: long answers end.
    stop: CancellationToken,
    prometheus: Option<PrometheusHandle>,
    /// Requests answered so far.
    requests: AtomicU64,
    /// Connections open now.
    connections: AtomicUsize,
}

impl App {
    /// # Errors
    /// A host or an origin that is not one.
    pub(crate) fn new(
        brokers: Brokers,
        options: Options,
        prometheus: Option<PrometheusHandle>,
        stop: CancellationToken,
    ) -> Result<Self, InvalidEntry> {
        let Options {
            allowed_hosts: hosts,
            cors_origins: origins,
            policy,
        } = options;
        let allowed = allow(&hosts, &origins, None)?;
        let cors = allowed
            .origins()
            .filter_map(|origin| HeaderValue::try_from(origin).ok())
            .collect();
        Ok(Self {
            broker: brokers.own().clone(),
            brokers,
            policy,
            hosts,
            origins,
            allowed: Arc::new(allowed),
            cors,
            admission: Admission::new(limits::INFLIGHT_PRODUCE_BYTES),
            stop,
            prometheus,
            requests: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
        })
    }

    /// The hosts that a connection to this local address may ask for: the configured ones, and the
    /// address itself, which no name server can make a web page point at.
    fn allowed_on(&self, local: std::net::IpAddr) -> Arc<AllowedHosts> {
        if local.is_loopback() {
            return self.allowed.clone();
        }
        let host = match local {
            std::net::IpAddr::V4(address) => address.to_string(),
            std::net::IpAddr::V6(address) => format!("[{address}]"),
        };
        match allow(&self.hosts, &self.origins, Some(&host)) {
            Ok(allowed) => Arc::new(allowed),
            Err(_) => self.allowed.clone(),
        }
    }
}

fn allow(
    hosts: &[String],
    origins: &[String],
    own: Option<&str>,
) -> Result<AllowedHosts, InvalidEntry> {
    let hosts = hosts.iter().map(String::as_str).chain(own);
    AllowedHosts::new(hosts)?.with_origins(origins.iter().map(String::as_str))
}

#[cfg(test)]
mod tests;
