//! Requests to other nodes: over connections that are shared, kept and opened again as needed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Refused;
use super::link::{Ask, ConnectError, Connection, Dialer, Keeper, WAITING};
use super::secret::{ClusterSecret, Purpose};
use super::wire::{
    Body, CLUSTER_HEADER, Hello, INCARNATION_HEADER, NODE_HEADER, PROBE_PATH, Refusal, TO_HEADER,
    collect, full,
};
use crate::tasks::Tasks;
use crate::types::{NodeId, Outcome};

/// Bytes of an answer that [`Peer::call`] takes; larger ones are streamed.
const ANSWER_BYTES: usize = 32 * 1024 * 1024;

/// The connections of this process to other nodes. Clones share them.
#[derive(Debug, Clone)]
pub struct Peers {
    dialer: Dialer,
    tasks: Tasks,
    known: Arc<ArcSwap<BTreeMap<NodeId, Peer>>>,
}

/// Which of a node's two connections a request takes. Small urgent requests do not queue behind
/// bulk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Heartbeats, votes, metadata: small and urgent.
    Control,
    /// Records, snapshots, clients' requests that are passed on.
    Bulk,
}

/// What is known of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// Not tried yet.
    Idle,
    /// Open, to the process that introduced itself so.
    Connected(Hello),
    /// It broke, or could not be opened: why, for people. A process that is killed shows here at
    /// once.
    Lost(Arc<str>),
}

/// What a look at a node shows (PROTOCOL E4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// It answered.
    Alive(Hello),
    /// Another node answered at its address, so that it is not there.
    Other(Hello),
    /// Nothing listens at its address: the process has ended.
    Refused,
    /// No answer in time, or one that proves nothing.
    Silent,
}

/// Why a request has no answer that counts.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// There is no connection, and nothing was sent.
    #[error("no connection to node {node} at {address}: {why}")]
    NotConnected {
        /// The node.
        node: NodeId,
        /// Where it was looked for.
        address: Arc<str>,
        /// What went wrong.
        why: Arc<ConnectError>,
    },
    /// The node does not take requests from here; nothing looked at the request.
    #[error("the node refuses: {0}")]
    Refused(Refusal),
    /// The request is not one that HTTP can carry.
    #[error("the request cannot be sent: {0}")]
    Invalid(String),
    /// The node answered that it did not do what was asked; its own words say what it did.
    #[error("the node answered {status}")]
    Answered {
        /// HTTP status, not a 2xx.
        status: u16,
        /// What the handler said.
        body: Bytes,
    },
    /// No answer within the deadline. The request was sent.
    #[error("no answer from node {0} in time")]
    TimedOut(NodeId),
    /// The connection broke after the request was sent, or the answer was too long.
    #[error("the answer of node {node} broke off: {why}")]
    Broken {
        /// The node.
        node: NodeId,
        /// What broke.
        why: String,
    },
}

impl PeerError {
    /// Whether the request may have had an effect. Of [`Answered`](Self::Answered) only the
    /// handler's own words can say better.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::NotConnected { .. } | Self::Refused(_) | Self::Invalid(_) => Outcome::Refused,
            Self::Answered { .. } | Self::TimedOut(_) | Self::Broken { .. } => Outcome::Unknown,
        }
    }
}

impl Peers {
    /// No connections yet. `own` says who this node is now: each request carries it.
    pub fn new(secret: &ClusterSecret, own: watch::Receiver<Hello>, tasks: Tasks) -> Self {
        Self {
            dialer: Dialer {
                key: Arc::new(secret.key(Purpose::Connections)),
                own,
                refused: Refused::default(),
            },
            tasks,
            known: Arc::default(),
        }
    }

    /// The node at an address (`host:port`), connected or not. A node that moves loses the
    /// connections to where it was, and handles taken earlier: ask for it each time.
    pub fn peer(&self, node: NodeId, address: &str) -> Peer {
        loop {
            let known = self.known.load();
            if let Some(peer) = known.get(&node)
                && &*peer.address == address
            {
                return peer.clone();
            }
            let peer = self.open(node, address);
            let mut changed = BTreeMap::clone(&known);
            changed.insert(node, peer.clone());
            let before = self.known.compare_and_swap(&*known, Arc::new(changed));
            if Arc::ptr_eq(&before, &known) {
                return peer;
            }
            // Another caller was first: its change stays, and the tasks of this one end.
        }
    }

    /// Closes the connections to a node that has left.
    pub fn forget(&self, node: NodeId) {
        self.known.rcu(|known| {
            let mut known = BTreeMap::clone(known);
            known.remove(&node);
            known
        });
    }

    /// Looks whether a node is there, on a connection of its own, from TCP to an answered request.
    pub async fn probe(&self, node: NodeId, address: &str, patience: Duration) -> Probe {
        let look = async {
            let (connection, driver) = match self.dialer.dial(node, address, Lane::Control).await {
                Ok(open) => open,
                Err(ConnectError::NothingListens) => return Probe::Refused,
                Err(ConnectError::OtherNode(hello) | ConnectError::OtherCluster(hello)) => {
                    return Probe::Other(*hello);
                }
                Err(_) => return Probe::Silent,
            };
            let own = self.dialer.own.borrow().clone();
            let Ok(request) = request(&own, node, PROBE_PATH, full(Bytes::new())) else {
                return Probe::Silent;
            };
            let mut requests = connection.requests;
            let asked = async {
                let answer = requests.send_request(request).await.ok()?;
                let body = collect(answer.into_body(), ANSWER_BYTES).await.ok()?;
                serde_json::from_slice::<Hello>(&body).ok()
            };
            tokio::select! {
                hello = asked => hello.map_or(Probe::Silent, Probe::Alive),
                _ = driver => Probe::Silent,
            }
        };
        let looked = tokio::time::timeout(patience, look).await;
        looked.unwrap_or(Probe::Silent)
    }

    fn open(&self, node: NodeId, address: &str) -> Peer {
        let address: Arc<str> = address.into();
        let stop = self.tasks.stopping();
        let connector = |lane| self.connector(node, address.clone(), lane, stop.clone());
        Peer {
            control: connector(Lane::Control),
            bulk: connector(Lane::Bulk),
            own: self.dialer.own.clone(),
            node,
            address,
        }
    }

    fn connector(
        &self,
        node: NodeId,
        address: Arc<str>,
        lane: Lane,
        stop: CancellationToken,
    ) -> Connector {
        let (asks, asked) = mpsc::channel(WAITING);
        let (current, see_current) = watch::channel(None);
        let (link, see_link) = watch::channel(Link::Idle);
        let keeper = Keeper {
            dialer: self.dialer.clone(),
            node,
            address,
            lane,
            asks: asked,
            current,
            link,
            stop,
        };
        self.tasks.spawn("peer connection", keeper.run());
        Connector {
            asks,
            current: see_current,
            link: see_link,
        }
    }
}

/// A node that requests can be sent to. Clones share the connections.
#[derive(Debug, Clone)]
pub struct Peer {
    node: NodeId,
    address: Arc<str>,
    own: watch::Receiver<Hello>,
    control: Connector,
    bulk: Connector,
}

#[derive(Debug, Clone)]
struct Connector {
    asks: mpsc::Sender<Ask>,
    current: watch::Receiver<Option<Connection>>,
    link: watch::Receiver<Link>,
}

impl Connector {
    async fn connection(&self) -> Result<Connection, Arc<ConnectError>> {
        if let Some(connection) = &*self.current.borrow()
            && !connection.requests.is_closed()
        {
            return Ok(connection.clone());
        }
        let (ask, answer) = oneshot::channel();
        let stopping = || Arc::new(ConnectError::Stopping);
        self.asks.send(ask).await.map_err(|_| stopping())?;
        answer.await.unwrap_or_else(|_| Err(stopping()))
    }
}

impl Peer {
    /// The node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Where it is.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What becomes of the connection, as it happens.
    pub fn link(&self, lane: Lane) -> watch::Receiver<Link> {
        self.connector(lane).link.clone()
    }

    /// Opens the connection unless it is open, and says who is there.
    ///
    /// # Errors
    /// [`PeerError::NotConnected`].
    pub async fn connect(&self, lane: Lane, patience: Duration) -> Result<Hello, PeerError> {
        let connection = self.connection(lane, Instant::now() + patience).await?;
        Ok(connection.hello)
    }

    /// Sends a request and waits for its answer, of at most 32 MiB.
    ///
    /// # Errors
    /// [`PeerError`]; [`PeerError::outcome`] says whether the request may have had an effect.
    pub async fn call(
        &self,
        lane: Lane,
        path: &str,
        body: Bytes,
        patience: Duration,
    ) -> Result<Bytes, PeerError> {
        let until = Instant::now() + patience;
        let answer = self.send(lane, path, full(body), until).await?;
        self.read(answer, until).await
    }

    /// Sends a request whose body or answer flows: both sides hold what fits into their windows
    /// (4 MiB). `patience` is for the beginning of the answer.
    ///
    /// # Errors
    /// As [`call`](Self::call); errors in the middle of the answer come from its body.
    pub async fn stream(
        &self,
        lane: Lane,
        path: &str,
        body: Body,
        patience: Duration,
    ) -> Result<Response<Incoming>, PeerError> {
        self.send(lane, path, body, Instant::now() + patience).await
    }

    fn connector(&self, lane: Lane) -> &Connector {
        match lane {
            Lane::Control => &self.control,
            Lane::Bulk => &self.bulk,
        }
    }

    async fn connection(&self, lane: Lane, until: Instant) -> Result<Connection, PeerError> {
        let connecting = self.connector(lane).connection();
        let why = match tokio::time::timeout_at(until, connecting).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(why)) => why,
            Err(_) => Arc::new(ConnectError::TimedOut),
        };
        Err(self.not_connected(why))
    }

    fn not_connected(&self, why: Arc<ConnectError>) -> PeerError {
        PeerError::NotConnected {
            node: self.node,
            address: self.address.clone(),
            why,
        }
    }

    /// Sends a request and waits for the head of a good answer.
    async fn send(
        &self,
        lane: Lane,
        path: &str,
        body: Body,
        until: Instant,
    ) -> Result<Response<Incoming>, PeerError> {
        let own = self.own.borrow().clone();
        let mut request = request(&own, self.node, path, body)
            .map_err(|error| PeerError::Invalid(error.to_string()))?;
        let answer = loop {
            let mut requests = self.connection(lane, until).await?.requests;
            let sent = tokio::time::timeout_at(until, requests.try_send_request(request)).await;
            match sent {
                Err(_) => return Err(PeerError::TimedOut(self.node)),
                Ok(Ok(answer)) => break answer,
                Ok(Err(mut error)) => match error.take_message() {
                    // It never left: the connection closed before. Another one may take it.
                    Some(unsent) => request = unsent,
                    None => return Err(self.broken(error.into_error())),
                },
            }
        };
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let body =
            match tokio::time::timeout_at(until, collect(answer.into_body(), ANSWER_BYTES)).await {
                Err(_) => return Err(PeerError::TimedOut(self.node)),
                Ok(body) => body.map_err(|error| self.broken(error))?,
            };
        if status == StatusCode::MISDIRECTED_REQUEST
            && let Ok(refusal) = serde_json::from_slice(&body)
        {
            return Err(PeerError::Refused(refusal));
        }
        Err(PeerError::Answered {
            status: status.as_u16(),
            body,
        })
    }

    async fn read(&self, answer: Response<Incoming>, until: Instant) -> Result<Bytes, PeerError> {
        let reading = collect(answer.into_body(), ANSWER_BYTES);
        match tokio::time::timeout_at(until, reading).await {
            Err(_) => Err(PeerError::TimedOut(self.node)),
            Ok(body) => body.map_err(|error| self.broken(error)),
        }
    }

    /// With all causes: the outermost error of HTTP/2 says only that there was one.
    fn broken(&self, error: impl std::error::Error) -> PeerError {
        let mut why = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            why = format!("{why}: {error}");
            cause = error.source();
        }
        PeerError::Broken {
            node: self.node,
            why,
        }
    }
}

/// A request with the headers that every one carries.
fn request(
    own: &Hello,
    to: NodeId,
    path: &str,
    body: Body,
) -> Result<Request<Body>, hyper::http::Error> {
    let mut builder = Request::post(format!("http://{to}{path}"))
        .header(NODE_HEADER, own.node.0)
        .header(INCARNATION_HEADER, own.incarnation.0)
        .header(TO_HEADER, to.0);
    if let Some(cluster) = own.cluster {
        builder = builder.header(CLUSTER_HEADER, cluster.to_string());
    }
    builder.body(body)
}
