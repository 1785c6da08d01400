//! Nodes among themselves (layer 3): the secret they share, sealed connections, requests over
//! HTTP/2, and gossip about who is there.
//!
//! What travels here is authenticated and encrypted; who does not hold the cluster secret can
//! neither read nor write anything, and can only make a node refuse what was sent. What gossip
//! says is a hint (PROTOCOL E4): it never decides about leaders, replicas or settings.

mod datagram;
mod gossip;
mod link;
mod noise;
mod peer;
mod primitives;
mod secret;
mod serve;
mod wire;

#[cfg(test)]
mod tests;

pub use gossip::{
    GOSSIP_INTERVAL, Gossip, GossipEntry, GossipError, GossipKey, GossipOptions, Live,
};
pub use link::ConnectError;
pub use noise::HandshakeError;
pub use peer::{Lane, Link, Peer, PeerError, Peers, Probe};
pub use secret::{ClusterSecret, FILE_NAME as SECRET_FILE_NAME, SecretError};
pub use serve::{Caller, Handler, ServeOptions, serve};
pub use wire::{Body, BodyError, Hello, Refusal, WireError, collect, decode, encode, full};

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry;

/// What was refused on the way in, because it did not come from a holder of the secret or was
/// damaged on the way. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Refused(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    handshakes: AtomicU64,
    frames: AtomicU64,
    datagrams: AtomicU64,
}

impl Refused {
    /// Handshakes that failed: another secret, garbage, a replay, or silence.
    pub fn handshakes(&self) -> u64 {
        self.0.handshakes.load(Ordering::Relaxed)
    }

    /// Connections that were closed because of bytes that were not what the peer had sealed.
    pub fn frames(&self) -> u64 {
        self.0.frames.load(Ordering::Relaxed)
    }

    /// Datagrams of gossip that were forged, changed, cut off or had come before.
    pub fn datagrams(&self) -> u64 {
        self.0.datagrams.load(Ordering::Relaxed)
    }

    fn datagram(&self) {
        self.0.datagrams.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(telemetry::PEER_REFUSED, "what" => "datagram").increment(1);
    }

    fn handshake(&self) {
        self.0.handshakes.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(telemetry::PEER_REFUSED, "what" => "handshake").increment(1);
    }

    fn frame(&self) {
        self.0.frames.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(telemetry::PEER_REFUSED, "what" => "frame").increment(1);
    }
}
