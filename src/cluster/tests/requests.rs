//! Requests between nodes that hold the secret: answers, streams, deaths and returns.

use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Frame;
use tokio::sync::Barrier;

use super::*;
use crate::types::Outcome;

#[tokio::test]
async fn a_request_arrives_with_who_sent_it_and_is_answered() {
    let secret = ClusterSecret::generate();
    let node = Node::echoing(&secret, 2).await;
    let (peers, tasks) = peers(&secret, 1);
    let peer = peers.peer(NodeId(2), &node.address.to_string());
    assert_eq!(*peer.link(Lane::Control).borrow(), Link::Idle);
    for lane in [Lane::Control, Lane::Bulk] {
        let answer = peer.call(lane, "/a/b", "hi".into(), PATIENCE).await;
        assert_eq!(answer.unwrap(), "/a/b from 1 10 Some(7): hi");
        assert_eq!(*peer.link(lane).borrow(), Link::Connected(hello(2)));
    }
    let seen = peer.connect(Lane::Control, PATIENCE).await.unwrap();
    assert_eq!(seen, hello(2));
    let probed = peers.probe(NodeId(2), peer.address(), PATIENCE).await;
    assert_eq!(probed, Probe::Alive(hello(2)));
    assert_eq!((node.handled(), node.refused.handshakes()), (2, 0));
    node.stop().await;
    assert_eq!(tasks.shutdown(PATIENCE).await, Ok(()));
}

#[tokio::test]
async fn a_node_learns_its_cluster_and_incarnation_while_its_connection_is_open() {
    let secret = ClusterSecret::generate();
    let node = Node::echoing(&secret, 2).await;
    let tasks = Tasks::new();
    let joining = Hello {
        cluster: None,
        incarnation: Incarnation(0),
        ..hello(1)
    };
    let (now, own) = watch::channel(joining);
    let peers = Peers::new(&secret, own, tasks);
    let peer = peers.peer(NodeId(2), &node.address.to_string());
    let call = || peer.call(Lane::Control, "/join", Bytes::new(), PATIENCE);
    assert_eq!(call().await.unwrap(), "/join from 1 0 None: ");
    now.send_replace(hello(1));
    assert_eq!(call().await.unwrap(), "/join from 1 10 Some(7): ");
    now.send_replace(Hello {
        cluster: Some(Uuid::from_u128(8)),
        ..hello(1)
    });
    let refused = call().await.unwrap_err();
    assert!(
        matches!(
            refused,
            PeerError::Refused(Refusal::OtherCluster { cluster: CLUSTER })
        ),
        "{refused}"
    );
    assert_eq!(refused.outcome(), Outcome::Refused);
    assert_eq!(node.handled(), 2);
}

#[tokio::test]
async fn a_node_of_another_cluster_or_with_anothers_address_gets_nothing() {
    let secret = ClusterSecret::generate();
    let stranger = Hello {
        cluster: Some(Uuid::from_u128(8)),
        ..hello(2)
    };
    let node = Node::start(&secret, stranger.clone(), echo).await;
    let address = node.address.to_string();
    let (peers, _tasks) = peers(&secret, 1);
    let call = |node| {
        let peer = peers.peer(NodeId(node), &address);
        async move { peer.call(Lane::Control, "/x", Bytes::new(), PATIENCE).await }
    };
    let error = call(2).await.unwrap_err();
    assert!(
        matches!(&error, PeerError::NotConnected { why, .. }
            if matches!(&**why, ConnectError::OtherCluster(found) if **found == stranger)),
        "{error}"
    );
    assert_eq!(error.outcome(), Outcome::Refused);
    let probed = peers.probe(NodeId(2), &address, PATIENCE).await;
    assert_eq!(probed, Probe::Other(stranger));
    assert_eq!(node.handled(), 0);

    let node = Node::echoing(&secret, 3).await;
    let address = node.address.to_string();
    let peer = peers.peer(NodeId(2), &address);
    let error = peer
        .call(Lane::Control, "/x", Bytes::new(), PATIENCE)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, PeerError::NotConnected { why, .. }
            if matches!(&**why, ConnectError::OtherNode(found) if **found == hello(3))),
        "{error}"
    );
    let probed = peers.probe(NodeId(2), &address, PATIENCE).await;
    assert_eq!(probed, Probe::Other(hello(3)));
    assert_eq!(node.handled(), 0);
}

#[tokio::test]
async fn a_thousand_requests_share_one_connection_at_the_same_time() {
    const CALLS: usize = 1000;
    let secret = ClusterSecret::generate();
    // Answers nobody before all are there.
    let all = Arc::new(Barrier::new(CALLS));
    let node = Node::start(&secret, hello(2), move |caller, request| {
        let all = all.clone();
        async move {
            all.wait().await;
            echo(caller, request).await
        }
        .boxed()
    })
    .await;
    let (peers, _tasks) = peers(&secret, 1);
    let peer = peers.peer(NodeId(2), &node.address.to_string());
    peer.connect(Lane::Control, PATIENCE).await.unwrap();
    let calls = (0..CALLS).map(|n| {
        let peer = &peer;
        async move {
            let answer = peer.call(Lane::Control, "/n", n.to_string().into(), PATIENCE);
            assert_eq!(answer.await.unwrap(), format!("/n from 1 10 Some(7): {n}"));
        }
    });
    futures_util::future::join_all(calls).await;
    assert_eq!(node.handled(), CALLS);
}

/// A body of pseudo-random pieces that counts what it has given away.
struct Source {
    left: u64,
    made: Arc<AtomicU64>,
}

const PIECE: u64 = 1 << 16;

fn piece(at: u64) -> Bytes {
    let first = u8::try_from(at % 251).unwrap();
    let mut bytes = vec![first; usize::try_from(PIECE).unwrap()];
    bytes[..8].copy_from_slice(&at.to_le_bytes());
    bytes.into()
}

impl hyper::body::Body for Source {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        let at = self.made.fetch_add(1, Ordering::SeqCst);
        Poll::Ready(Some(Ok(Frame::data(piece(at)))))
    }
}

/// Reads a body to its end; at no moment may more than `bound` bytes be under way.
async fn drain(mut body: Incoming, made: &AtomicU64, bound: u64) -> u64 {
    let (mut read, mut waiting) = (0, Vec::new());
    while let Some(frame) = body.frame().await {
        waiting.extend_from_slice(&frame.unwrap().into_data().unwrap());
        while PIECE <= waiting.len() as u64 {
            let rest = waiting.split_off(usize::try_from(PIECE).unwrap());
            assert_eq!(waiting, piece(read / PIECE));
            waiting = rest;
            read += PIECE;
        }
        let under_way = made.load(Ordering::SeqCst) * PIECE - read;
        assert!(under_way < bound, "{under_way} bytes are under way");
    }
    assert!(waiting.is_empty());
    read
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_64_mib_flow_both_ways_and_only_windows_of_them_are_in_memory() {
    const PIECES: u64 = 1024;
    // Stream window, send buffer, and what the kernel holds for a loopback connection.
    const BOUND: u64 = 16 << 20;
    let secret = ClusterSecret::generate();
    let (up, down) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (sent_up, sent_down) = (up.clone(), down.clone());
    let node = Node::start(&secret, hello(2), move |_, request| {
        let (up, made) = (sent_up.clone(), sent_down.clone());
        async move {
            let read = drain(request.into_body(), &up, BOUND).await;
            assert_eq!(read, PIECES * PIECE);
            let left = PIECES;
            Response::new(Source { left, made }.boxed_unsync())
        }
        .boxed()
    })
    .await;
    let (peers, _tasks) = peers(&secret, 1);
    let peer = peers.peer(NodeId(2), &node.address.to_string());
    let source = Source {
        left: PIECES,
        made: up.clone(),
    };
    let answer = peer.stream(Lane::Bulk, "/copy", source.boxed_unsync(), PATIENCE);
    let answer = answer.await.unwrap();
    let read = drain(answer.into_body(), &down, BOUND).await;
    assert_eq!(read, PIECES * PIECE);
    assert_eq!(node.refused.frames(), 0);
}

#[tokio::test]
async fn an_answer_that_is_no_success_comes_with_its_body() {
    let secret = ClusterSecret::generate();
    let node = Node::start(&secret, hello(2), |_, _| {
        let mut response = Response::new(full("not now"));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        std::future::ready(response).boxed()
    })
    .await;
    let (peers, _tasks) = peers(&secret, 1);
    let peer = peers.peer(NodeId(2), &node.address.to_string());
    let error = peer
        .call(Lane::Control, "/x", Bytes::new(), PATIENCE)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, PeerError::Answered { status: 503, body } if body == "not now"),
        "{error}"
    );
    let invalid = peer
        .call(Lane::Control, "/a b", Bytes::new(), PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(invalid, PeerError::Invalid(_)), "{invalid}");
    assert_eq!(node.handled(), 1);
}

#[tokio::test]
async fn a_process_that_is_killed_is_missed_at_once_and_found_again_when_it_is_back() {
    let secret = ClusterSecret::generate();
    // Its own runtime, so that it can end as a killed process does: with all sockets, at once.
    let killed = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let (secret_there, started) = (secret.clone(), arrived);
    let node = killed
        .spawn(async move {
            Node::start(&secret_there, hello(2), move |_, _| {
                started.send(()).unwrap();
                std::future::pending().boxed()
            })
            .await
        })
        .await
        .unwrap();
    let (peers, _tasks) = peers(&secret, 1);
    let address = node.address.to_string();
    let peer = peers.peer(NodeId(2), &address);
    let mut link = peer.link(Lane::Control);
    let call = || peer.call(Lane::Control, "/x", Bytes::new(), PATIENCE);
    let in_flight = call();
    let kill = async {
        arrivals.recv().await.unwrap();
        killed.shutdown_background();
    };
    let (outcome, ()) = tokio::join!(in_flight, kill);
    let error = outcome.unwrap_err();
    assert!(matches!(error, PeerError::Broken { .. }), "{error}");
    assert_eq!(error.outcome(), Outcome::Unknown);
    let lost = link.wait_for(|link| matches!(link, Link::Lost(_)));
    tokio::time::timeout(Duration::from_millis(500), lost)
        .await
        .unwrap()
        .unwrap();

    // A dying process may lose its listener a little later than its connections.
    let gone = async {
        loop {
            let error = call().await.unwrap_err();
            assert_eq!(error.outcome(), Outcome::Refused);
            if matches!(&error, PeerError::NotConnected { why, .. }
                if matches!(**why, ConnectError::NothingListens))
            {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    let probed = peers.probe(NodeId(2), &address, PATIENCE).await;
    assert_eq!(probed, Probe::Refused);

    let listener = TcpListener::bind(node.address).await.unwrap();
    let back = Node::start_on(listener, &secret, hello(2), echo);
    let returned = async {
        while call().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, returned).await.unwrap();
    assert_eq!(*link.borrow_and_update(), Link::Connected(hello(2)));
    back.stop().await;
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_silent_and_not_refused() {
    let secret = ClusterSecret::generate();
    // The kernel takes the connection, and nobody ever accepts it.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (peers, _tasks) = peers(&secret, 1);
    let patience = Duration::from_millis(100);
    let probed = peers.probe(NodeId(2), &address, patience).await;
    assert_eq!(probed, Probe::Silent);
    let peer = peers.peer(NodeId(2), &address);
    let error = peer
        .call(Lane::Control, "/x", Bytes::new(), patience)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, PeerError::NotConnected { why, .. }
            if matches!(**why, ConnectError::TimedOut)),
        "{error}"
    );
}

#[tokio::test]
async fn a_deadline_ends_a_request_whose_effect_is_then_unknown() {
    let secret = ClusterSecret::generate();
    let node = Node::start(&secret, hello(2), |_, _| std::future::pending().boxed()).await;
    let (peers, _tasks) = peers(&secret, 1);
    let peer = peers.peer(NodeId(2), &node.address.to_string());
    peer.connect(Lane::Control, PATIENCE).await.unwrap();
    let error = peer
        .call(
            Lane::Control,
            "/x",
            Bytes::new(),
            Duration::from_millis(200),
        )
        .await
        .unwrap_err();
    assert!(matches!(error, PeerError::TimedOut(NodeId(2))), "{error}");
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert_eq!(
        *peer.link(Lane::Control).borrow(),
        Link::Connected(hello(2))
    );
}

#[tokio::test]
async fn a_node_that_moves_or_leaves_is_connected_to_no_longer() {
    let secret = ClusterSecret::generate();
    let (here, there) = (
        Node::echoing(&secret, 2).await,
        Node::echoing(&secret, 2).await,
    );
    let (peers, tasks) = peers(&secret, 1);
    let peer = peers.peer(NodeId(2), &here.address.to_string());
    peer.connect(Lane::Bulk, PATIENCE).await.unwrap();
    let again = peers.peer(NodeId(2), &here.address.to_string());
    again.connect(Lane::Bulk, PATIENCE).await.unwrap();
    drop((peer, again));
    assert_eq!(tasks.running(), 2);
    let moved = peers.peer(NodeId(2), &there.address.to_string());
    moved.connect(Lane::Bulk, PATIENCE).await.unwrap();
    until("two tasks", || tasks.running() == 2).await;
    drop(moved);
    peers.forget(NodeId(2));
    until("no task", || tasks.running() == 0).await;
}
