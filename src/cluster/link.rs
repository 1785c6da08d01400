//! One connection to one node, kept by one task: opened when it is needed, opened again after it
//! broke, and heard of at once when it breaks.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::Refused;
use super::noise::{self, HandshakeError, NoiseStream};
use super::peer::{Lane, Link};
use super::wire::{Body, Hello};
use crate::types::NodeId;

/// Bytes under way to a node on one connection, and on one stream of it, before it must read.
pub(super) const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// As above, of one stream.
pub(super) const STREAM_WINDOW: u32 = 4 * 1024 * 1024;
/// Bytes of one HTTP/2 frame.
pub(super) const FRAME_BYTES: u32 = 256 * 1024;
/// Bytes of one stream that wait to be written.
pub(super) const SEND_BUFFER: usize = 1024 * 1024;
/// A ping goes out after this long without traffic.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// How long the answer to a ping may take where only small messages are in front of it.
const CONTROL_PATIENCE: Duration = Duration::from_secs(2);
/// As above, behind bulk: a ping waits for all that the kernel and the windows hold, and on a slow
/// network that is seconds of records and no sign of death.
pub(super) const BULK_PATIENCE: Duration = Duration::from_secs(10);
/// Requests under way on one connection.
pub(super) const STREAMS: u32 = 1024;

/// How long opening a TCP connection may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);
/// The pause after a first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Callers that wait for one connection.
pub(super) const WAITING: usize = 1024;

/// Why there is no connection to a node.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing listens at the address: the process is not there.
    #[error("nothing listens there")]
    NothingListens,
    /// The address cannot be reached, or its name not be resolved.
    #[error("it cannot be reached: {0}")]
    Unreachable(io::Error),
    /// Nobody answered.
    #[error("nobody answered in time")]
    TimedOut,
    /// Somebody answered who is no node of this cluster, or the connection broke.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The handshake went well and HTTP/2 did not begin.
    #[error("HTTP/2 did not begin: {0}")]
    Http(#[from] hyper::Error),
    /// Another node answered: the address now belongs to that one.
    #[error("node {} ({}) answered instead", .0.node, .0.name)]
    OtherNode(Box<Hello>),
    /// A node of another cluster answered.
    #[error("node {} of cluster {} answered", .0.name, .0.cluster.unwrap_or_default())]
    OtherCluster(Box<Hello>),
    /// The process is ending and opens no connections.
    #[error("the process is ending")]
    Stopping,
}

/// What opens connections in the name of this node.
#[derive(Debug, Clone)]
pub(super) struct Dialer {
    pub(super) key: Arc<Zeroizing<[u8; 32]>>,
    pub(super) own: watch::Receiver<Hello>,
    pub(super) refused: Refused,
}

type Driver = http2::Connection<TokioIo<NoiseStream<TcpStream>>, Body, TokioExecutor>;

/// An open connection to a node.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) requests: http2::SendRequest<Body>,
    pub(super) hello: Hello,
}

impl Dialer {
    /// Opens a connection. It works as long as the second value is polled.
    pub(super) async fn dial(
        &self,
        node: NodeId,
        address: &str,
        lane: Lane,
    ) -> Result<(Connection, Driver), ConnectError> {
        let connecting = TcpStream::connect(address);
        let tcp = match tokio::time::timeout(CONNECT_PATIENCE, connecting).await {
            Err(_) => return Err(ConnectError::TimedOut),
            // A reset later on says less: a node that turns a connection away resets it too.
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return Err(ConnectError::NothingListens);
            }
            Ok(Err(error)) => return Err(ConnectError::Unreachable(error)),
            Ok(Ok(tcp)) => tcp,
        };
        // About speed only.
        let _ = tcp.set_nodelay(true);
        let own = self.own.borrow().clone();
        let (stream, hello) = noise::initiate(tcp, &self.key, &own, self.refused.clone()).await?;
        check(own.cluster, node, &hello)?;
        let (requests, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_stream_window_size(STREAM_WINDOW)
            .max_frame_size(FRAME_BYTES)
            .max_send_buf_size(SEND_BUFFER)
            .initial_max_send_streams(STREAMS as usize)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(match lane {
                Lane::Control => CONTROL_PATIENCE,
                Lane::Bulk => BULK_PATIENCE,
            })
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await?;
        Ok((Connection { requests, hello }, driver))
    }
}

/// A stolen address is worse than none: requests would reach who was not meant.
fn check(own: Option<Uuid>, node: NodeId, hello: &Hello) -> Result<(), ConnectError> {
    if !hello.may_join(own) {
        return Err(ConnectError::OtherCluster(Box::new(hello.clone())));
    }
    if hello.node != node {
        return Err(ConnectError::OtherNode(Box::new(hello.clone())));
    }
    Ok(())
}

/// Asks for the connection; the answer comes through it.
pub(super) type Ask = oneshot::Sender<Result<Connection, Arc<ConnectError>>>;

/// The task of one connection. Ends when nobody can ask any more, or with the process.
pub(super) struct Keeper {
    pub(super) dialer: Dialer,
    pub(super) node: NodeId,
    pub(super) address: Arc<str>,
    pub(super) lane: Lane,
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) current: watch::Sender<Option<Connection>>,
    pub(super) link: watch::Sender<Link>,
    pub(super) stop: CancellationToken,
}

impl Keeper {
    pub(super) async fn run(mut self) {
        let mut failures = 0_u32;
        let mut failed: Option<(Instant, Arc<ConnectError>)> = None;
        while let Some(ask) = self.next().await {
            // Who asks shortly after a failure gets the same answer, or a dead node would cost
            // each request another attempt.
            if let Some((until, error)) = &failed
                && Instant::now() < *until
            {
                // Gone when the caller's own patience ended first; so below.
                let _ = ask.send(Err(error.clone()));
                continue;
            }
            let dialed = tokio::select! {
                dialed = self.dialer.dial(self.node, &self.address, self.lane) => dialed,
                () = self.stop.cancelled() => Err(ConnectError::Stopping),
            };
            match dialed {
                Ok((connection, driver)) => {
                    (failures, failed) = (0, None);
                    self.link
                        .send_replace(Link::Connected(connection.hello.clone()));
                    self.current.send_replace(Some(connection.clone()));
                    let _ = ask.send(Ok(connection.clone()));
                    let reason = self.drive(connection, driver).await;
                    self.current.send_replace(None);
                    self.link.send_replace(Link::Lost(reason.into()));
                }
                Err(error) => {
                    let error = Arc::new(error);
                    let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(10));
                    failures = failures.saturating_add(1);
                    failed = Some((Instant::now() + pause.min(LONGEST_PAUSE), error.clone()));
                    self.link.send_replace(Link::Lost(error.to_string().into()));
                    let _ = ask.send(Err(error));
                }
            }
        }
    }

    async fn next(&mut self) -> Option<Ask> {
        tokio::select! {
            ask = self.asks.recv() => ask,
            () = self.stop.cancelled() => None,
        }
    }

    /// Works on the connection until it ends, and says why it did.
    async fn drive(&mut self, connection: Connection, driver: Driver) -> String {
        let mut driver = std::pin::pin!(driver);
        loop {
            tokio::select! {
                ended = driver.as_mut() => return match ended {
                    Ok(()) => "the node closed the connection".to_owned(),
                    Err(error) => match std::error::Error::source(&error) {
                        Some(cause) => format!("{error}: {cause}"),
                        None => error.to_string(),
                    },
                },
                ask = self.asks.recv() => match ask {
                    Some(ask) => {
                        let _ = ask.send(Ok(connection.clone()));
                    }
                    None => return "nobody needs it any more".to_owned(),
                },
                () = self.stop.cancelled() => return ConnectError::Stopping.to_string(),
            }
        }
    }
}
