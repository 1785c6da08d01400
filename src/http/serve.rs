//! Connections: accepted, bounded in number and patience, served over HTTP/1.1 or HTTP/2 on one
//! port, and drained on shutdown.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::App;
use super::face::{self, Peer};
use super::io::{Activity, Patience, PatientIo};
use crate::auth::Principal;
use crate::telemetry;
use crate::types::limits;

/// Connections that the kernel may hold for us while we are busy accepting.
const BACKLOG: i32 = 4096;
/// Bytes of a request's headers in HTTP/2.
const HEAD_BYTES: u32 = 32 * 1024;
/// Bytes of a connection that wait to be read or written, and of a request head in HTTP/1.
const BUFFER_BYTES: usize = 256 * 1024;

/// Opens a listening socket.
///
/// # Errors
/// Whatever the operating system says, "address in use" above all.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // Lets a restarted node listen at once, while the kernel still remembers old connections.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// How connections are served.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    patience: Patience,
    /// Connections served at once.
    connections: usize,
    /// How long requests may take to end once the node shuts down.
    drain: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            patience: Patience::default(),
            connections: limits::CONNECTIONS,
            drain: Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
impl Settings {
    pub(super) fn with_connections(self, connections: usize) -> Self {
        Self {
            connections,
            ..self
        }
    }

    pub(super) fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }
}

/// Accepts and serves connections until `stop`, then lets the requests that run end.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    router: Router,
    settings: Settings,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    let gauge = metrics::gauge!(telemetry::CONNECTIONS);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                pause_after(&error).await;
                continue;
            }
        };
        if settings.connections <= app.connections.load(Ordering::Relaxed) {
            turn_away(&stream);
            continue;
        }
        app.connections.fetch_add(1, Ordering::Relaxed);
        gauge.increment(1.0);
        let (app, router, gauge, stop) = (app.clone(), router.clone(), gauge.clone(), stop.clone());
        connections.spawn(async move {
            // Counts the connection out however its task ends.
            let _counted = Counted {
                app: app.clone(),
                gauge,
            };
            let Some(peer) = meet(&app, &stream, from) else {
                return;
            };
            serve_connection(stream, peer, app, router, settings.patience, stop).await;
        });
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(settings.drain, drained).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "connections cut off: they did not end in time"
        );
    }
    connections.shutdown().await;
}

struct Counted {
    app: Arc<App>,
    gauge: metrics::Gauge,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.app.connections.fetch_sub(1, Ordering::Relaxed);
        self.gauge.decrement(1.0);
    }
}

/// A connection that broke before it was accepted is nobody's loss. When the process has no file
/// descriptors left, accepting again at once would only spin.
async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    if matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted
    ) {
        return;
    }
    tracing::error!(%error, "accept failed");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

const TURNED_AWAY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
content-type: application/problem+json\r\n\
retry-after: 1\r\n\
connection: close\r\n\
content-length: 200\r\n\
\r\n\
{\"type\":\"/docs/problems#not_ready\",\"title\":\"not ready\",\"status\":503,\
\"detail\":\"the node serves as many connections as it can; try again shortly\",\
\"code\":\"not_ready\",\"retryable\":true,\"outcome\":\"refused\"}";

/// Says no without spending anything on it.
fn turn_away(stream: &TcpStream) {
    // A peer that does not take the answer sees the connection close.
    let _ = stream.try_write(TURNED_AWAY);
}

/// Sets a new connection's socket up and sees who is there.
fn meet(app: &App, stream: &TcpStream, from: SocketAddr) -> Option<Peer> {
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60));
    // Both are about speed and tidiness, not about correctness.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
    let local = stream.local_addr().ok()?.ip().to_canonical();
    Some(Peer {
        principal: Principal::Anonymous {
            loopback: from.ip().to_canonical().is_loopback(),
        },
        policy: app.policy.clone(),
        allowed: app.allowed_on(local),
    })
}

fn builder(patience: Patience) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // No pipeline_flush: with it hyper keeps its answer to a malformed head to itself.
    builder
        .http1()
        .timer(TokioTimer::new())
        // Runs from one answer to the end of the next request head; PatientIo bounds the head.
        .header_read_timeout(patience.idle)
        .max_buf_size(BUFFER_BYTES)
        .http2()
        .timer(TokioTimer::new())
        .initial_connection_window_size(16 * 1024 * 1024)
        .initial_stream_window_size(4 * 1024 * 1024)
        .max_frame_size(256 * 1024)
        .max_concurrent_streams(256)
        .max_send_buf_size(1024 * 1024)
        .max_header_list_size(HEAD_BYTES)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    builder
}

/// Serves one connection, whatever it runs over.
async fn serve_connection<IO>(
    io: IO,
    peer: Peer,
    app: Arc<App>,
    router: Router,
    patience: Patience,
    stop: CancellationToken,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Arc::new(Activity::default());
    let io = TokioIo::new(PatientIo::new(io, patience, activity.clone()));
    let peer = Arc::new(peer);
    let service = service_fn(move |request| {
        let answering = activity.begin();
        let (app, router, peer) = (app.clone(), router.clone(), peer.clone());
        async move { Ok::<_, Infallible>(face::answer(&app, router, peer, request, answering).await) }
    });
    let builder = builder(patience);
    let mut connection = std::pin::pin!(builder.serve_connection(io, service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_one_connection_too_many_is_a_whole_problem_document() {
        let text = std::str::from_utf8(TURNED_AWAY).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {}", body.len())),
            "{}",
            body.len()
        );
        let problem: crate::api::v1::Problem = serde_json::from_str(body).unwrap();
        assert_eq!(
            problem,
            crate::api::v1::Problem::new(
                crate::types::Code::NotReady,
                "the node serves as many connections as it can; try again shortly"
            )
        );
    }
}
