//! Nodes that talk over real sockets, with everything in the way that may be in the way.

mod gossip;
mod hostile;
mod requests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio::net::TcpListener;
use tokio::sync::watch;
use uuid::Uuid;

use super::*;
use crate::tasks::Tasks;
use crate::types::{Incarnation, NodeId};

const CLUSTER: Uuid = Uuid::from_u128(7);
/// Far longer than anything here takes: reached only when a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

fn hello(node: u32) -> Hello {
    Hello {
        cluster: Some(CLUSTER),
        node: NodeId(node),
        incarnation: Incarnation(u64::from(node) * 10),
        name: format!("node-{node}").try_into().unwrap(),
    }
}

fn own(hello: Hello) -> watch::Receiver<Hello> {
    watch::channel(hello).1
}

/// A node that listens.
struct Node {
    tasks: Tasks,
    address: SocketAddr,
    refused: Refused,
    /// Requests that reached the handler.
    handled: Arc<AtomicUsize>,
}

impl Node {
    async fn start<F>(secret: &ClusterSecret, own_hello: Hello, answer: F) -> Self
    where
        F: Fn(
                Caller,
                Request<Incoming>,
            ) -> futures_util::future::BoxFuture<'static, Response<Body>>
            + Send
            + Sync
            + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::start_on(listener, secret, own_hello, answer)
    }

    fn start_on<F>(
        listener: TcpListener,
        secret: &ClusterSecret,
        own_hello: Hello,
        answer: F,
    ) -> Self
    where
        F: Fn(
                Caller,
                Request<Incoming>,
            ) -> futures_util::future::BoxFuture<'static, Response<Body>>
            + Send
            + Sync
            + 'static,
    {
        let address = listener.local_addr().unwrap();
        let tasks = Tasks::new();
        let handled = Arc::new(AtomicUsize::new(0));
        let count = handled.clone();
        let options = ServeOptions {
            secret: secret.clone(),
            own: own(own_hello),
            drain: Duration::from_secs(1),
        };
        let handler: Handler = Arc::new(move |caller, request| {
            count.fetch_add(1, Ordering::SeqCst);
            answer(caller, request)
        });
        let refused = serve(listener, options, handler, &tasks);
        Self {
            tasks,
            address,
            refused,
            handled,
        }
    }

    async fn echoing(secret: &ClusterSecret, node: u32) -> Self {
        Self::start(secret, hello(node), echo).await
    }

    fn handled(&self) -> usize {
        self.handled.load(Ordering::SeqCst)
    }

    async fn stop(self) {
        assert_eq!(self.tasks.shutdown(Duration::from_secs(10)).await, Ok(()));
    }
}

/// Answers with path, sender and body.
fn echo(
    caller: Caller,
    request: Request<Incoming>,
) -> futures_util::future::BoxFuture<'static, Response<Body>> {
    async move {
        let path = request.uri().path().to_owned();
        let body = collect(request.into_body(), 1 << 20).await.unwrap();
        let said = format!(
            "{path} from {} {} {:?}: {}",
            caller.node,
            caller.incarnation,
            caller.cluster.map(|c| c.as_u128()),
            String::from_utf8_lossy(&body)
        );
        Response::new(full(said))
    }
    .boxed()
}

fn peers(secret: &ClusterSecret, node: u32) -> (Peers, Tasks) {
    let tasks = Tasks::new();
    (Peers::new(secret, own(hello(node)), tasks.clone()), tasks)
}

/// Waits until something holds that changes by itself.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "{what} did not come to hold");
}
