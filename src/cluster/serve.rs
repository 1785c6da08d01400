//! The listener for other nodes: accepts sealed connections, bounded in number, and hands their
//! requests on together with who sent them.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::Refused;
use super::link::{
    BULK_PATIENCE, CONNECTION_WINDOW, FRAME_BYTES, KEEP_ALIVE, SEND_BUFFER, STREAM_WINDOW, STREAMS,
};
use super::noise;
use super::secret::{ClusterSecret, Purpose};
use super::wire::{
    Body, CLUSTER_HEADER, Hello, INCARNATION_HEADER, NODE_HEADER, PROBE_PATH, Refusal, TO_HEADER,
    full,
};
use crate::tasks::Tasks;
use crate::types::{Incarnation, NodeId};

/// Connections of nodes at once: two for each, and those of probes.
const CONNECTIONS: usize = 256;
/// Connections that have not proved anything yet. Strangers can only fill these.
const HANDSHAKES: usize = 64;
/// Bytes of a request's headers.
const HEAD_BYTES: u32 = 16 * 1024;

/// Who sent a request, as checked against the connection that it came on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The node.
    pub node: NodeId,
    /// Its registration when it sent the request; zero before it has one (PROTOCOL N2).
    pub incarnation: Incarnation,
    /// Its cluster: this node's own, or none when one of the two has not joined yet.
    pub cluster: Option<Uuid>,
}

/// Answers the requests of other nodes. Status 421 is this layer's own.
pub type Handler =
    Arc<dyn Fn(Caller, Request<Incoming>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

/// How to listen to other nodes.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// What lets a node in.
    pub secret: ClusterSecret,
    /// Who this node is now.
    pub own: watch::Receiver<Hello>,
    /// How long requests may take to end once the process ends.
    pub drain: Duration,
}

/// Listens to other nodes until the tasks are told to end.
pub fn serve(
    listener: TcpListener,
    options: ServeOptions,
    handler: Handler,
    tasks: &Tasks,
) -> Refused {
    let refused = Refused::default();
    let door = Arc::new(Door {
        key: options.secret.key(Purpose::Connections),
        own: options.own,
        handler,
        refused: refused.clone(),
        handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
        connections: Arc::new(Semaphore::new(CONNECTIONS)),
        stop: tasks.stopping(),
    });
    tasks.spawn("peer listener", accept(listener, door, options.drain));
    refused
}

struct Door {
    key: Zeroizing<[u8; 32]>,
    own: watch::Receiver<Hello>,
    handler: Handler,
    refused: Refused,
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    stop: CancellationToken,
}

async fn accept(listener: TcpListener, door: Arc<Door>, drain: Duration) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = door.stop.cancelled() => break,
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((tcp, from)) => {
                // One too many: closed without a word, and the peer tries again.
                let Ok(permit) = door.handshakes.clone().try_acquire_owned() else {
                    door.refused.handshake();
                    continue;
                };
                let door = door.clone();
                connections.spawn(async move {
                    if let Err(error) = door.meet(tcp, permit).await {
                        tracing::debug!(%from, %error, "peer connection ended");
                    }
                });
            }
            Err(error) => {
                // Without file descriptors, accepting again at once would only spin.
                tracing::warn!(%error, "accepting a peer failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(drain, ended).await.is_err() {
        tracing::debug!(connections = connections.len(), "peer connections cut off");
    }
    connections.shutdown().await;
}

impl Door {
    /// Serves one connection from its first byte to its last.
    async fn meet(
        self: Arc<Self>,
        tcp: TcpStream,
        handshake: OwnedSemaphorePermit,
    ) -> io::Result<()> {
        // About speed only.
        let _ = tcp.set_nodelay(true);
        let own = self.own.borrow().clone();
        let shaken = noise::respond(tcp, &self.key, &own, self.refused.clone());
        let shaken = tokio::select! {
            shaken = shaken => shaken,
            () = self.stop.cancelled() => return Ok(()),
        };
        let (stream, hello) = shaken.map_err(|error| {
            self.refused.handshake();
            io::Error::other(error)
        })?;
        if !hello.may_join(own.cluster) {
            // It has this node's hello and says the same to its people.
            self.refused.handshake();
            return Err(io::Error::other("a node of another cluster"));
        }
        let Ok(_counted) = self.connections.clone().try_acquire_owned() else {
            self.refused.handshake();
            return Err(io::Error::other("more connections than nodes need"));
        };
        drop(handshake);
        let (door, peer) = (self.clone(), hello.node);
        let service = service_fn(move |request| {
            let answer = door.answer(peer, request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_stream_window_size(STREAM_WINDOW)
            .max_frame_size(FRAME_BYTES)
            .max_send_buf_size(SEND_BUFFER)
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEAD_BYTES)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(BULK_PATIENCE)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        ended.map_err(io::Error::other)
    }

    fn answer(
        &self,
        peer: NodeId,
        request: Request<Incoming>,
    ) -> BoxFuture<'static, Response<Body>> {
        let own = self.own.borrow().clone();
        let answer = match caller(&own, peer, request.headers()) {
            Err(refusal) => json(StatusCode::MISDIRECTED_REQUEST, &refusal),
            Ok(_) if request.uri().path() == PROBE_PATH => json(StatusCode::OK, &own),
            Ok(caller) => return (self.handler)(caller, request),
        };
        Box::pin(std::future::ready(answer))
    }
}

/// Who sends this request to whom. A connection is of one node, and what comes on it is of that
/// node; its cluster and incarnation may come later than its connection.
fn caller(own: &Hello, peer: NodeId, headers: &HeaderMap) -> Result<Caller, Refusal> {
    let unsigned = |header: &str| Refusal::Unsigned {
        header: header.to_owned(),
    };
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let number = |name: &str| -> Result<u64, Refusal> {
        let number = text(name).and_then(|text| text.parse().ok());
        number.ok_or_else(|| unsigned(name))
    };
    if number(TO_HEADER)? != u64::from(own.node.0) {
        return Err(Refusal::OtherNode {
            node: own.node,
            name: own.name.clone(),
        });
    }
    if number(NODE_HEADER)? != u64::from(peer.0) {
        return Err(unsigned(NODE_HEADER));
    }
    let theirs = match headers.contains_key(CLUSTER_HEADER) {
        false => None,
        true => {
            let cluster = text(CLUSTER_HEADER).and_then(|text| text.parse::<Uuid>().ok());
            Some(cluster.ok_or_else(|| unsigned(CLUSTER_HEADER))?)
        }
    };
    let cluster = match (own.cluster, theirs) {
        (Some(own), Some(theirs)) if own != theirs => {
            return Err(Refusal::OtherCluster { cluster: own });
        }
        (Some(own), Some(_)) => Some(own),
        _ => None,
    };
    Ok(Caller {
        node: peer,
        incarnation: Incarnation(number(INCARNATION_HEADER)?),
        cluster,
    })
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    // Neither of the two types that come here can fail to be written.
    let mut response = Response::new(full(serde_json::to_vec(value).unwrap_or_default()));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: Uuid = Uuid::from_u128(7);

    fn own() -> Hello {
        Hello {
            cluster: Some(CLUSTER),
            node: NodeId(1),
            incarnation: Incarnation(4),
            name: "one".try_into().unwrap(),
        }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn a_request_says_who_sends_it_to_whom_or_is_refused() {
        let cluster = CLUSTER.to_string();
        let whole = [
            (TO_HEADER, "1"),
            (NODE_HEADER, "2"),
            (INCARNATION_HEADER, "9"),
            (CLUSTER_HEADER, cluster.as_str()),
        ];
        let expected = Caller {
            node: NodeId(2),
            incarnation: Incarnation(9),
            cluster: Some(CLUSTER),
        };
        assert_eq!(caller(&own(), NodeId(2), &headers(&whole)), Ok(expected));
        let joining = Caller {
            node: NodeId(2),
            incarnation: Incarnation(9),
            cluster: None,
        };
        assert_eq!(
            caller(&own(), NodeId(2), &headers(&whole[..3])),
            Ok(joining)
        );
        let other = Uuid::from_u128(8).to_string();
        let unsigned = |header: &str| Refusal::Unsigned {
            header: header.into(),
        };
        let other_node = Refusal::OtherNode {
            node: NodeId(1),
            name: "one".try_into().unwrap(),
        };
        for (at, value, refusal) in [
            (0, "3", other_node),
            (0, "x", unsigned(TO_HEADER)),
            (1, "3", unsigned(NODE_HEADER)),
            (1, "-2", unsigned(NODE_HEADER)),
            (2, "99999999999999999999", unsigned(INCARNATION_HEADER)),
            (3, "x", unsigned(CLUSTER_HEADER)),
            (
                3,
                other.as_str(),
                Refusal::OtherCluster { cluster: CLUSTER },
            ),
        ] {
            let mut changed = whole;
            changed[at].1 = value;
            assert_eq!(
                caller(&own(), NodeId(2), &headers(&changed)),
                Err(refusal),
                "{value}"
            );
        }
        for missing in 0..3 {
            let mut rest = whole.to_vec();
            let (name, _) = rest.remove(missing);
            assert_eq!(
                caller(&own(), NodeId(2), &headers(&rest)),
                Err(unsigned(name))
            );
        }
    }
}
