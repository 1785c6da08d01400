//! Who does not hold the secret, and bytes that were changed on the way.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use super::*;
use crate::cluster::noise::{HandshakeError, initiate, respond};
use crate::types::Outcome;

fn key() -> Zeroizing<[u8; 32]> {
    Zeroizing::new([7; 32])
}

/// A stream that records what is written to it and changes one byte of it on the way.
struct Tampered {
    io: DuplexStream,
    flip: Option<usize>,
    sent: Arc<std::sync::Mutex<Vec<u8>>>,
}

impl AsyncRead for Tampered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, out)
    }
}

impl AsyncWrite for Tampered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let before = self.sent.lock().unwrap().len();
        let mut changed = bytes.to_vec();
        if let Some(at) = self.flip
            && let Some(byte) = at.checked_sub(before).and_then(|at| changed.get_mut(at))
        {
            *byte ^= 0x40;
        }
        let written = Pin::new(&mut self.io).poll_write(cx, &changed);
        if let Poll::Ready(Ok(taken)) = written {
            self.sent.lock().unwrap().extend_from_slice(&bytes[..taken]);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// What the server read and what the client read.
type Heard = (Option<Vec<u8>>, Option<Vec<u8>>);

/// A client says "ping" and "ping2", and a server answers "pong". Returns what each of them heard,
/// and what each sent.
async fn exchange(flip_up: Option<usize>, flip_down: Option<usize>) -> (Heard, Vec<u8>, Vec<u8>) {
    let (client, server) = tokio::io::duplex(1 << 18);
    let tampered = |io, flip| Tampered {
        io,
        flip,
        sent: Arc::default(),
    };
    let (client, server) = (tampered(client, flip_up), tampered(server, flip_down));
    let (up, down) = (client.sent.clone(), server.sent.clone());
    let client = async move {
        let (mut stream, peer) = initiate(client, &key(), &hello(1), Refused::default())
            .await
            .ok()?;
        assert_eq!(peer, hello(2));
        stream.write_all(b"ping").await.ok()?;
        stream.flush().await.ok()?;
        stream.write_all(b"ping2").await.ok()?;
        stream.flush().await.ok()?;
        let mut heard = vec![0; 4];
        stream.read_exact(&mut heard).await.ok()?;
        Some(heard)
    };
    let server = async move {
        let (mut stream, peer) = respond(server, &key(), &hello(2), Refused::default())
            .await
            .ok()?;
        assert_eq!(peer, hello(1));
        let mut heard = vec![0; 9];
        stream.read_exact(&mut heard).await.ok()?;
        stream.write_all(b"pong").await.ok()?;
        stream.flush().await.ok()?;
        Some(heard)
    };
    // Where a length was changed, one side waits for what never comes.
    let patience = Duration::from_secs(4);
    let client = async { tokio::time::timeout(patience, client).await.ok().flatten() };
    let server = async { tokio::time::timeout(patience, server).await.ok().flatten() };
    let (heard_down, heard_up) = tokio::join!(client, server);
    let (up, down) = (up.lock().unwrap().clone(), down.lock().unwrap().clone());
    ((heard_up, heard_down), up, down)
}

#[tokio::test]
async fn each_byte_of_an_exchange_counts_and_one_changed_is_heard_by_nobody() {
    let (heard, up, down) = exchange(None, None).await;
    let whole = (Some(b"pingping2".to_vec()), Some(b"pong".to_vec()));
    assert_eq!(heard, whole);
    assert!(
        200 < up.len() && 150 < down.len(),
        "{} {}",
        up.len(),
        down.len()
    );
    let mut cases = JoinSet::new();
    for at in 0..up.len() {
        cases.spawn(async move {
            let ((server, client), ..) = exchange(Some(at), None).await;
            assert_eq!((server, client), (None, None), "byte {at} from the client");
        });
    }
    for at in 0..down.len() {
        cases.spawn(async move {
            let ((_, client), ..) = exchange(None, Some(at)).await;
            assert_eq!(client, None, "byte {at} from the server");
        });
    }
    while let Some(case) = cases.join_next().await {
        case.unwrap();
    }
}

#[tokio::test]
async fn what_was_recorded_and_is_played_again_is_refused() {
    let (_, up, _) = exchange(None, None).await;
    for end in [up.len(), up.len() / 2] {
        let (mut attacker, server) = tokio::io::duplex(1 << 18);
        attacker.write_all(&up[..end]).await.unwrap();
        attacker.shutdown().await.unwrap();
        let outcome = respond(server, &key(), &hello(2), Refused::default()).await;
        let error = outcome.unwrap_err();
        assert!(
            matches!(error, HandshakeError::Rejected | HandshakeError::Io(_)),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_stream_that_is_cut_within_a_frame_is_an_error_and_not_an_end() {
    let (client, server) = tokio::io::duplex(1 << 18);
    let refused = Refused::default();
    let (client_key, server_key) = (key(), key());
    let (one, two) = (hello(1), hello(2));
    let (client, server) = tokio::join!(
        async {
            let (stream, _) = initiate(client, &client_key, &one, Refused::default()).await?;
            let mut stream = stream;
            stream.flush().await?;
            Ok::<_, HandshakeError>(stream)
        },
        respond(server, &server_key, &two, refused.clone())
    );
    let (mut client, (mut server, _)) = (client.unwrap(), server.unwrap());
    client.write_all(b"whole").await.unwrap();
    client.flush().await.unwrap();
    client.cut(b"half of this").await;
    let mut heard = Vec::new();
    let error = server.read_to_end(&mut heard).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(
        (heard.as_slice(), refused.frames()),
        (b"whole".as_slice(), 1)
    );
}

#[tokio::test]
async fn another_secret_sees_nothing_and_changes_nothing() {
    let secret = ClusterSecret::generate();
    let node = Node::echoing(&secret, 2).await;
    let (strangers, _tasks) = peers(&ClusterSecret::generate(), 1);
    let address = node.address.to_string();
    let peer = strangers.peer(NodeId(2), &address);
    let error = peer
        .call(Lane::Control, "/x", Bytes::new(), PATIENCE)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, PeerError::NotConnected { why, .. }
            if matches!(**why, ConnectError::Handshake(_))),
        "{error}"
    );
    assert_eq!(error.outcome(), Outcome::Refused);
    let probed = strangers.probe(NodeId(2), &address, PATIENCE).await;
    assert_eq!(probed, Probe::Silent);
    until("two refusals", || node.refused.handshakes() == 2).await;
    assert_eq!(node.handled(), 0);
}

#[tokio::test]
async fn garbage_of_all_kinds_is_refused_and_the_node_goes_on() {
    let secret = ClusterSecret::generate();
    let node = Node::echoing(&secret, 2).await;
    let (_, recorded, _) = exchange(None, None).await;
    let mut corpus: Vec<Vec<u8>> = vec![
        b"".into(),
        b"\0".into(),
        b"\0\0".into(),
        b"\xff\xff".into(),
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".into(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
        vec![0xff; 1 << 17],
    ];
    corpus.extend(
        (0..recorded.len())
            .step_by(7)
            .map(|end| recorded[..end].to_vec()),
    );
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for length in 1..64 {
        let random = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        });
        corpus.push(random.take(length * 5).collect());
    }
    let count = u64::try_from(corpus.len()).unwrap();
    for garbage in corpus {
        let mut tcp = TcpStream::connect(node.address).await.unwrap();
        // The node may close before it has been told everything.
        let _ = tcp.write_all(&garbage).await;
        let _ = tcp.shutdown().await;
        let mut heard = Vec::new();
        let _ = tcp.read_to_end(&mut heard).await;
        assert!(heard.is_empty(), "{garbage:?} was answered with {heard:?}");
    }
    until("all to be refused", || node.refused.handshakes() == count).await;
    let (peers, _tasks) = peers(&secret, 1);
    let peer = peers.peer(NodeId(2), &node.address.to_string());
    let answer = peer.call(Lane::Control, "/x", Bytes::new(), PATIENCE).await;
    assert_eq!(answer.unwrap(), "/x from 1 10 Some(7): ");
    assert_eq!(node.handled(), 1);
    node.stop().await;
}

#[tokio::test]
async fn strangers_that_say_nothing_hold_a_bounded_number_of_connections() {
    let secret = ClusterSecret::generate();
    let node = Node::echoing(&secret, 2).await;
    let mut open = Vec::new();
    for _ in 0..80 {
        open.push(TcpStream::connect(node.address).await.unwrap());
    }
    until("the rest to be refused", || node.refused.handshakes() == 16).await;
    drop(open);
    until("all to be refused", || node.refused.handshakes() == 80).await;
    let (peers, _tasks) = peers(&secret, 1);
    let peer = peers.peer(NodeId(2), &node.address.to_string());
    let answer = peer.call(Lane::Control, "/x", Bytes::new(), PATIENCE).await;
    assert_eq!(answer.unwrap(), "/x from 1 10 Some(7): ");
}
