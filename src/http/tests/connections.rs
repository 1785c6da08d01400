//! Connections: smuggled requests, large heads, slow and silent peers, too many of them.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Answer, Node, PATIENCE};
use crate::http::Options;
use crate::http::io::Patience;
use crate::http::serve::Settings;

/// Sends bytes as they are; what comes back until the server closes.
async fn exchange(node: &Node, bytes: &[u8]) -> String {
    let mut stream = node.connect().await;
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    assert!(
        end.is_ok(),
        "the connection stays open after {:?}",
        String::from_utf8_lossy(bytes)
    );
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_two_servers_could_read_differently_end_their_connection() {
    let node = Node::start().await;
    let smuggled = "GET /v1/topics/smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let post = "POST /v1/topics/t/publish HTTP/1.1\r\nhost: localhost\r\n";
    for (what, request) in [
        (
            "two lengths",
            format!("{post}content-length: 0\r\ncontent-length: 50\r\n\r\n{smuggled}"),
        ),
        (
            "a list of lengths",
            format!("{post}content-length: 0, 50\r\n\r\n{smuggled}"),
        ),
        (
            "a signed length",
            format!("{post}content-length: +0\r\n\r\n{smuggled}"),
        ),
        (
            "a hexadecimal length",
            format!("{post}content-length: 0x0\r\n\r\n{smuggled}"),
        ),
        (
            "length and chunks",
            format!(
                "{post}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"
            ),
        ),
        (
            "chunks and length",
            format!(
                "{post}transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n{smuggled}"
            ),
        ),
        (
            "an unknown coding",
            format!("{post}transfer-encoding: xchunked\r\n\r\n0\r\n\r\n{smuggled}"),
        ),
        (
            "chunked not last",
            format!("{post}transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n{smuggled}"),
        ),
        (
            "a folded header",
            format!("{post}x-a: b\r\n transfer-encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"),
        ),
        (
            "a space before the colon",
            format!("{post}content-length : 0\r\n\r\n{smuggled}"),
        ),
        (
            "a bad chunk size",
            format!("{post}transfer-encoding: chunked\r\n\r\nzz\r\n\r\n{smuggled}"),
        ),
        (
            "an overflowing chunk size",
            format!("{post}transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n{smuggled}"),
        ),
        (
            "a null in a header",
            format!("{post}x-a: a\0b\r\ncontent-length: 0\r\n\r\n{smuggled}"),
        ),
        (
            "a bare return in a header",
            format!("{post}x-a: a\rb\r\ncontent-length: 0\r\n\r\n{smuggled}"),
        ),
        (
            "an old protocol with chunks",
            format!(
                "{}transfer-encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}",
                post.replace("/1.1", "/1.0")
            ),
        ),
        ("no protocol", format!("GET /\r\n\r\n{smuggled}")),
        (
            "another protocol",
            format!("GET / HTTP/3.0\r\nhost: localhost\r\n\r\n{smuggled}"),
        ),
    ] {
        let answer = exchange(&node, request.as_bytes()).await;
        assert!(
            !answer.contains("smuggled"),
            "{what}: the second request was answered: {answer}"
        );
        assert!(answer.matches("HTTP/1.").count() <= 1, "{what}: {answer}");
    }
    let malformed = exchange(&node, b"GET /v1/node HTTP/1.1\r\nno colon\r\n\r\n").await;
    assert!(malformed.starts_with("HTTP/1.1 400"), "{malformed}");
    for (what, request) in [
        (
            "no host",
            "GET /v1/node HTTP/1.1\r\nconnection: close\r\n\r\n".to_owned(),
        ),
        (
            "two hosts",
            "GET http://localhost/v1/node HTTP/1.1\r\nhost: other\r\nconnection: close\r\n\r\n"
                .to_owned(),
        ),
    ] {
        let answer = exchange(&node, request.as_bytes()).await;
        assert_eq!(
            Answer::parse(answer.as_bytes()).problem(),
            "invalid_request",
            "{what}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_are_too_large_are_refused() {
    let node = Node::start().await;
    let large = "x".repeat(40 * 1024);
    let answer = node
        .ask("GET", "/v1/node", &[("x-large", &large)], b"")
        .await;
    assert_eq!(answer.problem(), "headers_too_large");
    let huge = format!(
        "GET /v1/node HTTP/1.1\r\nhost: localhost\r\nx-huge: {}\r\n\r\n",
        "x".repeat(1 << 20)
    );
    let answer = exchange(&node, huge.as_bytes()).await;
    // The server may hang up before the client has sent all and listens.
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
    let many = "a: b\r\n".repeat(200);
    let many = format!("GET /v1/node HTTP/1.1\r\nhost: localhost\r\n{many}\r\n");
    let answer = exchange(&node, many.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_heads_silent_connections_and_unread_answers_are_cut_off() {
    let short = Duration::from_millis(100);
    let patience = Patience {
        head: short,
        idle: short,
        unread: short,
    };
    let node = Node::with(
        Options::default(),
        Settings::default().with_patience(patience),
    )
    .await;
    for sent in [
        "",
        "G",
        "GET / HTTP/1.1\r\nhost: loc",
        "PRI * HTTP/2.0\r\n",
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ] {
        let mut stream = node.connect().await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        // Reset or closed, but not kept.
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest))
            .await
            .expect(sent);
    }
    let value = "x".repeat(1 << 20);
    for _ in 0..40 {
        node.post("/v1/topics/t/publish", "text/plain", &value)
            .await;
    }
    let mut stream = node.connect().await;
    let request =
        "GET /v1/topics/t/records?limit=100&max_bytes=67108864 HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let gone = async {
        while node
            .app
            .connections
            .load(std::sync::atomic::Ordering::Relaxed)
            != 0
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone)
        .await
        .expect("a reader that reads nothing is kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_bound_are_turned_away_and_others_served() {
    let node = Node::with(Options::default(), Settings::default().with_connections(2)).await;
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut stream = node.connect().await;
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await
            .unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        kept.push(stream);
    }
    let mut third = node.connect().await;
    assert_eq!(Answer::read(&mut third).await.problem(), "not_ready");
    kept.clear();
    let served = async { while node.get("/healthz").await.status != 200 {} };
    tokio::time::timeout(PATIENCE, served).await.unwrap();
}
