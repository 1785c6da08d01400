//! Gossip: which nodes there are, where, and who has not been heard of lately.
//!
//! All of it is a hint. Nothing that is heard here moves leadership, replicas or settings
//! (PROTOCOL E4); it says whom to connect to, and whom to look at.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use chitchat::transport::{Socket, Transport};
use chitchat::{
    ChitchatConfig, ChitchatHandle, ChitchatId, ChitchatMessage, Deserializable,
    FailureDetectorConfig, NodeState, Serializable, spawn_chitchat,
};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::Refused;
use super::datagram::{DATAGRAM_BYTES, Opened, Sealer};
use super::secret::{ClusterSecret, Purpose};
use crate::tasks::Tasks;
use crate::types::{BrokerId, NodeId};

/// Time between two rounds of gossip.
pub const GOSSIP_INTERVAL: Duration = Duration::from_millis(200);
/// Bytes of one value: each node carries the values of all.
const VALUE_BYTES: usize = 256;
/// Values that wait to be spread.
const WAITING: usize = 64;
/// A node counts as dead after this many of its usual intervals without a sign of it. Signs come
/// about twice in a round, directly and through others: two seconds at 200 ms.
const SILENT_INTERVALS: f64 = 20.0;
/// How long a dead node is remembered, so that it is recognised when it returns.
const MEMORY: Duration = Duration::from_secs(3600);
/// One protocol for all clusters: the secret keeps them apart, and a node that joins does not know
/// the id yet.
const PROTOCOL: &str = "pilgrimage/1";

const NAME: &str = "name";

/// What a node says of itself, besides its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GossipKey {
    /// The address for clients.
    Http,
    /// The address for other nodes.
    Peer,
    /// The cluster that it belongs to.
    Cluster,
    /// The program's version.
    Version,
    /// How busy it is, in the words of the layer that reads it.
    Load,
}

impl GossipKey {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Peer => "peer",
            Self::Cluster => "cluster",
            Self::Version => "version",
            Self::Load => "load",
        }
    }
}

/// How to take part in gossip.
#[derive(Debug, Clone)]
pub struct GossipOptions {
    /// This node.
    pub node: NodeId,
    /// What people call it.
    pub name: BrokerId,
    /// Grows with each start of the node: the later one of two processes is the one that counts.
    pub generation: u64,
    /// Where to listen (UDP). Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where others reach this node, if that is another address.
    pub advertise: Option<SocketAddr>,
    /// Where to look for others (`host:port`).
    pub seeds: Vec<String>,
    /// What lets a node take part.
    pub secret: ClusterSecret,
    /// Time between two rounds, [`GOSSIP_INTERVAL`] but in tests.
    pub interval: Duration,
    /// What to say from the beginning.
    pub values: Vec<(GossipKey, String)>,
}

/// What is known of a node that is heard of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GossipEntry {
    /// What people call it.
    pub name: BrokerId,
    /// Its process: a later one has a higher generation.
    pub generation: u64,
    /// Where it gossips.
    pub gossip: SocketAddr,
    /// Its address for clients.
    pub http: Option<String>,
    /// Its address for other nodes.
    pub peer: Option<String>,
    /// Its cluster; none before it has joined one.
    pub cluster: Option<Uuid>,
    /// The program's version.
    pub version: Option<String>,
    /// How busy it is.
    pub load: Option<String>,
    /// Since when this process has been heard of without a break.
    pub since: Instant,
}

/// The nodes that are heard of, this one among them.
pub type Live = BTreeMap<NodeId, GossipEntry>;

/// Why gossip does not begin, or a value is not spread.
#[derive(Debug, thiserror::Error)]
pub enum GossipError {
    /// The address cannot be listened at.
    #[error("cannot gossip at {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system says.
        source: io::Error,
    },
    /// The protocol did not begin.
    #[error("gossip did not begin: {0}")]
    Start(String),
    /// Gossip is for small values.
    #[error("{0} bytes are too many to gossip, at most {VALUE_BYTES} are allowed")]
    TooLong(usize),
    /// Gossip has ended.
    #[error("gossip has ended")]
    Ended,
}

/// This node's part in gossip. Ends with the tasks that it was started with.
#[derive(Debug, Clone)]
pub struct Gossip {
    address: SocketAddr,
    values: mpsc::Sender<(GossipKey, String)>,
    live: watch::Receiver<Live>,
    refused: Refused,
}

impl Gossip {
    /// Begins to gossip.
    ///
    /// # Errors
    /// When the address cannot be listened at, or a value is too long.
    pub async fn start(options: GossipOptions, tasks: &Tasks) -> Result<Self, GossipError> {
        let failed = |source| GossipError::Listen {
            address: options.listen,
            source,
        };
        let socket = std::net::UdpSocket::bind(options.listen).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        let mut values = vec![(NAME.to_owned(), options.name.to_string())];
        for (key, value) in options.values {
            values.push((key.as_str().to_owned(), short(value)?));
        }
        let advertise = options.advertise.unwrap_or(address);
        let config = ChitchatConfig {
            chitchat_id: ChitchatId::new(options.node.to_string(), options.generation, advertise),
            cluster_id: PROTOCOL.to_owned(),
            gossip_interval: options.interval,
            listen_addr: address,
            seed_nodes: options.seeds,
            failure_detector_config: FailureDetectorConfig {
                phi_threshold: SILENT_INTERVALS,
                sampling_window_size: 100,
                max_interval: options.interval * 10,
                initial_interval: options.interval,
                dead_node_grace_period: MEMORY,
            },
            marked_for_deletion_grace_period: MEMORY,
            catchup_callback: None,
            extra_liveness_predicate: None,
        };
        let refused = Refused::default();
        let transport = Sealed {
            socket,
            key: options.secret.key(Purpose::Gossip),
            node: options.node,
            refused: refused.clone(),
        };
        let handle = spawn_chitchat(config, values, &transport)
            .await
            .map_err(|error| GossipError::Start(error.to_string()))?;
        let (values, to_spread) = mpsc::channel(WAITING);
        let (publish, live) = watch::channel(Live::new());
        let task = follow(handle, to_spread, publish, tasks.stopping());
        tasks.spawn("gossip", task);
        Ok(Self {
            address,
            values,
            live,
            refused,
        })
    }

    /// Where this node listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Says something to all nodes: they hear of it within some rounds.
    ///
    /// # Errors
    /// When the value is too long, or gossip has ended.
    pub async fn set(&self, key: GossipKey, value: String) -> Result<(), GossipError> {
        let value = short(value)?;
        let sent = self.values.send((key, value)).await;
        sent.map_err(|_| GossipError::Ended)
    }

    /// The nodes that are heard of, as that changes.
    pub fn live(&self) -> watch::Receiver<Live> {
        self.live.clone()
    }

    /// What was refused.
    pub fn refused(&self) -> &Refused {
        &self.refused
    }
}

fn short(value: String) -> Result<String, GossipError> {
    if VALUE_BYTES < value.len() {
        return Err(GossipError::TooLong(value.len()));
    }
    Ok(value)
}

/// Publishes who is heard of and spreads what this node says, until `stop`.
async fn follow(
    handle: ChitchatHandle,
    mut values: mpsc::Receiver<(GossipKey, String)>,
    publish: watch::Sender<Live>,
    stop: CancellationToken,
) {
    let mut nodes = handle
        .with_chitchat(|chitchat| chitchat.live_nodes_watcher())
        .await;
    let ended = handle.termination_watcher();
    let mut ended = std::pin::pin!(ended);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            outcome = ended.as_mut() => {
                tracing::error!(?outcome, "gossip has ended by itself");
                publish.send_replace(Live::new());
                return;
            }
            changed = nodes.changed() => {
                if changed.is_err() {
                    break;
                }
                let heard = nodes.borrow_and_update().clone();
                publish.send_modify(|live| *live = entries(&heard, live));
            }
            value = values.recv() => {
                let Some((key, value)) = value else {
                    break;
                };
                handle
                    .with_chitchat(|chitchat| chitchat.self_node_state().set(key.as_str(), &value))
                    .await;
            }
        }
    }
    if let Err(error) = handle.shutdown().await {
        tracing::warn!(%error, "gossip did not end well");
    }
}

/// One entry for each node, of its latest process.
fn entries(heard: &BTreeMap<ChitchatId, NodeState>, before: &Live) -> Live {
    let mut live = Live::new();
    for (id, state) in heard {
        // What does not say who it is yet is nobody to others.
        let Some((node, mut entry)) = entry(id, state) else {
            continue;
        };
        if live
            .get(&node)
            .is_some_and(|other: &GossipEntry| entry.generation < other.generation)
        {
            continue;
        }
        if let Some(known) = before
            .get(&node)
            .filter(|e| e.generation == entry.generation)
        {
            entry.since = known.since;
        }
        live.insert(node, entry);
    }
    live
}

fn entry(id: &ChitchatId, state: &NodeState) -> Option<(NodeId, GossipEntry)> {
    let value = |key: GossipKey| state.get(key.as_str()).map(str::to_owned);
    let entry = GossipEntry {
        name: state.get(NAME)?.parse().ok()?,
        generation: id.generation_id,
        gossip: id.gossip_advertise_addr,
        http: value(GossipKey::Http),
        peer: value(GossipKey::Peer),
        cluster: value(GossipKey::Cluster).and_then(|text| text.parse().ok()),
        version: value(GossipKey::Version),
        load: value(GossipKey::Load),
        since: Instant::now(),
    };
    Some((NodeId(id.node_id.parse().ok()?), entry))
}

/// UDP that only holders of the secret can speak on.
struct Sealed {
    socket: std::net::UdpSocket,
    key: Zeroizing<[u8; 32]>,
    node: NodeId,
    refused: Refused,
}

#[async_trait]
impl Transport for Sealed {
    async fn open(&self, _: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        Ok(Box::new(SealedSocket {
            socket: UdpSocket::from_std(self.socket.try_clone()?)?,
            sealer: Sealer::new(&self.key, self.node, self.refused.clone()),
            incoming: vec![0; DATAGRAM_BYTES].into(),
            outgoing: Vec::new(),
        }))
    }
}

struct SealedSocket {
    socket: UdpSocket,
    sealer: Sealer,
    incoming: Box<[u8]>,
    outgoing: Vec<u8>,
}

#[async_trait]
impl Socket for SealedSocket {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        self.outgoing.clear();
        message.serialize(&mut self.outgoing);
        match self.sealer.seal(to, &self.outgoing) {
            // Lost, as any datagram may be: an unreachable node is no reason to stop.
            Some(datagram) => {
                if let Err(error) = self.socket.send_to(&datagram, to).await {
                    tracing::debug!(%to, %error, "gossip was not sent");
                }
            }
            None => tracing::warn!(%to, "gossip is too long for a datagram"),
        }
        Ok(())
    }

    /// Safe to be dropped at any wait: a datagram is taken and dealt with in one step.
    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        loop {
            let (length, from) = match self.socket.recv_from(&mut self.incoming).await {
                Ok(received) => received,
                Err(error) => {
                    // Without a pause an error that stays would keep this thread busy.
                    tracing::debug!(%error, "receiving gossip failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let datagram = self.incoming.get(..length).unwrap_or_default();
            match self.sealer.open(from, datagram) {
                Opened::Gossip(content) => {
                    match ChitchatMessage::deserialize(&mut content.as_slice()) {
                        Ok(message) => return Ok((from, message)),
                        Err(error) => tracing::warn!(%from, %error, "gossip is malformed"),
                    }
                }
                Opened::Reply(reply) => {
                    // Lost when the socket is busy: the other side asks again.
                    let _ = self.socket.try_send_to(&reply, from);
                }
                Opened::Nothing => {}
            }
        }
    }
}
