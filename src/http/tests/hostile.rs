//! Hostile input: every refusal is a problem document, nothing panics, nothing hangs.

use std::io::Read;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Answer, Node, PATIENCE};
use crate::types::limits;

const JSON: &str = "application/json";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn methods_and_content_types_that_a_route_does_not_take_are_named() {
    let node = Node::start().await;
    for (method, path) in [
        ("POST", "/v1/topics"),
        ("GET", "/v1/topics/t/publish"),
        ("TRACE", "/v1/node"),
        ("OPTIONS", "/v1/node"),
        ("BREW", "/v1/node"),
        ("POST", "/"),
        ("DELETE", "/docs/"),
    ] {
        let answer = node.ask(method, path, &[], b"").await;
        assert_eq!(answer.problem(), "method_not_allowed", "{method} {path}");
        assert!(answer.header("allow").is_some(), "{method} {path}");
    }
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
        "é",
    ] {
        for (method, path) in [
            ("PUT", "/v1/topics/t"),
            ("POST", "/v1/topics/t/records"),
            ("POST", "/start"),
        ] {
            let answer = node
                .ask(method, path, &[("content-type", kind)], b"{}")
                .await;
            assert_eq!(
                answer.problem(),
                "unsupported_media_type",
                "{method} {path} {kind:?}"
            );
        }
    }
    let none = node
        .ask("POST", "/v1/topics/t/records", &[], b"{\"records\":[]}")
        .await;
    assert_eq!(none.problem(), "unsupported_media_type");
    let head = node.ask("HEAD", "/v1/node", &[], b"").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_and_names_out_of_range_are_refused_everywhere() {
    let node = Node::start().await;
    node.post("/v1/topics/t/publish", "text/plain", "x").await;
    let numbers = [
        "-1",
        "%2B1",
        "1.5",
        "1e3",
        "1e999",
        "NaN",
        "",
        "0x1",
        "18446744073709551616",
        "99999999999999999999999999",
    ];
    for number in numbers {
        for path in [
            format!("/v1/topics?limit={number}"),
            format!("/v1/topics/t/records?limit={number}"),
            format!("/v1/topics/t/records?max_bytes={number}"),
            format!("/v1/topics/t/records?from={number}"),
            format!("/v1/topics/t/records?from=timestamp:{number}"),
            format!("/v1/topics/t/records?from=0:{number}"),
            format!("/v1/topics/t/records?wait={number}s"),
            format!("/v1/topics/t/partitions/{number}/records/0"),
            format!("/v1/topics/t/partitions/0/records/{number}"),
        ] {
            let status = node.get(&path).await.status;
            // A plus sign is a number to the query parser, and an empty segment is another path.
            let fine = number == "%2B1" && (path.contains("?limit") || path.contains("max_bytes"));
            assert!(matches!(status, 400 | 404) || fine, "{path}: {status}");
        }
        for query in ["partition", "timestamp", "expected_offset"] {
            let path = format!("/v1/topics/t/publish?{query}={number}");
            let status = node.post(&path, "text/plain", "x").await.status;
            assert!(
                matches!(status, 400 | 404 | 412) || number == "%2B1",
                "{path}: {status}"
            );
        }
    }
    for extreme in [
        "9007199254740992",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
    ] {
        let beyond = node
            .get(&format!("/v1/topics/t/records?from={extreme}"))
            .await;
        assert_eq!(beyond.problem(), "offset_out_of_range");
        let path = format!("/v1/topics/t/partitions/0/records/{extreme}");
        assert_eq!(node.get(&path).await.problem(), "record_not_found");
        let path = format!("/v1/topics/t/publish?expected_offset={extreme}");
        assert_eq!(
            node.post(&path, "text/plain", "x").await.problem(),
            "offset_mismatch"
        );
        let path = format!("/v1/topics/t/partitions/0/records?before={extreme}");
        assert_eq!(
            node.ask("DELETE", &path, &[], b"").await.problem(),
            "offset_out_of_range"
        );
    }
    for name in [
        "%2e%2e",
        "a%2fb",
        "a%00b",
        "%0d%0aset-cookie:x",
        "a%20b",
        "%C3%A9",
        "%ff",
        &"x".repeat(250),
        "__x",
    ] {
        let put = node
            .ask("PUT", &format!("/v1/topics/{name}"), &[], b"")
            .await;
        assert!(matches!(put.status, 400 | 403), "{name}: {put:?}");
        put.problem();
    }
    assert_eq!(
        node.get("/v1/topics/t/records?unknown=1").await.problem(),
        "invalid_request"
    );
    assert_eq!(
        node.get("/v1/topics/t/records?limit=1&limit=2")
            .await
            .problem(),
        "invalid_request"
    );
    assert_eq!(
        node.get("/v1/topics/t/records?wait=61s").await.problem(),
        "invalid_request"
    );
    assert_eq!(
        node.get("/v1/topics/t/records?limit=100001")
            .await
            .problem(),
        "invalid_request"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_that_is_deep_broken_or_lying_is_refused_quickly() {
    let node = Node::start().await;
    let deep = "[".repeat(100_000);
    let record = |value: &str| format!("{{\"records\":[{{\"value\":{value}}}]}}");
    let closed = format!("{deep}{}", "]".repeat(100_000));
    for body in [
        deep.clone(),
        record(&closed),
        record("\"\\ud800\""),
        record("[\"\\udc00\"]"),
        record("1e"),
        "{".into(),
    ] {
        assert_eq!(
            node.post("/v1/topics/t/records", JSON, &body)
                .await
                .problem(),
            "invalid_body"
        );
    }
    for body in [&deep, &closed, "", "1 2", "\u{feff}1", "[\"\\ud800\"]"] {
        assert_eq!(
            node.post("/v1/topics/t/publish", JSON, body)
                .await
                .problem(),
            "invalid_body"
        );
    }
    for bad in [
        &b"\xff"[..],
        b"{\"records\":[{\"value\":\"\xc3\x28\"}]}",
        b"\0",
    ] {
        assert_eq!(
            node.post("/v1/topics/t/records", JSON, bad).await.problem(),
            "invalid_body"
        );
    }
    let many = format!(
        "{{\"records\":[{}]}}",
        "{\"value\":1},".repeat(100_001).trim_end_matches(',')
    );
    assert_eq!(
        node.post("/v1/topics/t/records", JSON, many)
            .await
            .problem(),
        "invalid_body"
    );
    let fine = record(r#"{"a":1,"a":2,"n":1e308,"big":123456789012345678901234567890}"#);
    assert_eq!(
        node.post("/v1/topics/t/records", JSON, fine).await.status,
        200
    );
    let long = record(&format!("\"{}\"", "x".repeat(10 << 20)));
    assert_eq!(
        node.post("/v1/topics/t/records", JSON, long)
            .await
            .problem(),
        "too_large"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_are_too_large_are_refused_before_they_are_read() {
    let node = Node::start().await;
    for (path, kind) in [
        ("/v1/topics/t/publish", "text/plain"),
        ("/v1/topics/t/records", JSON),
        ("/v1/topics/t/records", "application/vnd.pilgrimage.batches"),
        ("/start", JSON),
    ] {
        let mut stream = node.connect().await;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\ncontent-length: 1073741824\r\n\
             expect: 100-continue\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = Answer::read(&mut stream).await;
        assert_eq!(answer.problem(), "too_large", "{path}");
    }
    // Without a length: chunk after chunk, until the server has had enough.
    let mut stream = node.connect().await;
    let head = b"POST /v1/topics/t/publish HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let chunk = [b"100000\r\n".as_slice(), &vec![b'x'; 1 << 20], b"\r\n"].concat();
    for _ in 0..(limits::RECORD_BYTES_MAX >> 20) + 4 {
        if stream.write_all(&chunk).await.is_err() {
            break;
        }
    }
    let mut bytes = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes))
        .await
        .unwrap();
    if !bytes.is_empty() {
        assert_eq!(Answer::parse(&bytes).problem(), "too_large");
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    flate2::bufread::GzEncoder::new(bytes, flate2::Compression::best())
        .read_to_end(&mut packed)
        .unwrap();
    packed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packed_bodies_are_unpacked_and_bombs_are_not() {
    let node = Node::start().await;
    let zstd = |bytes: &[u8]| zstd::bulk::compress(bytes, 3).unwrap();
    let lines = "{\"value\":\"packed\"}\n".repeat(3000);
    for (encoding, packed) in [
        ("gzip", gzip(lines.as_bytes())),
        ("zstd", zstd(lines.as_bytes())),
    ] {
        let headers = [
            ("content-encoding", encoding),
            ("content-type", "application/x-ndjson"),
        ];
        let acked = node
            .ask("POST", "/v1/topics/t/records", &headers, &packed)
            .await;
        assert_eq!(acked.json()["acknowledged"], 3000, "{acked:?}");
    }
    let zeros = vec![b'0'; 256 << 20];
    for (encoding, bomb) in [("gzip", gzip(&zeros)), ("zstd", zstd(&zeros))] {
        for (path, kind) in [
            ("/v1/topics/t/publish", "text/plain"),
            ("/v1/topics/t/records", JSON),
            ("/v1/topics/t/records", "application/x-ndjson"),
            ("/start", JSON),
        ] {
            let headers = [("content-encoding", encoding), ("content-type", kind)];
            let answer = node.ask("POST", path, &headers, &bomb).await;
            if path == "/start" {
                assert!(matches!(answer.status, 400 | 413), "{answer:?}");
            } else {
                assert_eq!(answer.problem(), "too_large", "{path} {encoding}");
            }
        }
    }
    for encoding in ["br", "deflate", "gzip, gzip", "compress"] {
        let headers = [
            ("content-encoding", encoding),
            ("content-type", "text/plain"),
        ];
        let answer = node
            .ask("POST", "/v1/topics/t/publish", &headers, b"x")
            .await;
        assert_eq!(answer.problem(), "unsupported_media_type", "{encoding}");
    }
    let headers = [("content-encoding", "gzip"), ("content-type", "text/plain")];
    assert_eq!(
        node.ask("POST", "/v1/topics/t/publish", &headers, b"x")
            .await
            .problem(),
        "invalid_body"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn produce_bodies_beyond_the_nodes_memory_are_asked_to_come_again() {
    let node = Node::start().await;
    let held = node
        .app
        .admission
        .try_take(limits::INFLIGHT_PRODUCE_BYTES - 10)
        .unwrap();
    assert_eq!(
        node.post("/v1/topics/t/publish", "text/plain", "more than ten bytes")
            .await
            .problem(),
        "overloaded"
    );
    assert_eq!(
        node.post("/v1/topics/t/publish", "text/plain", "ten bytes.")
            .await
            .status,
        200
    );
    drop(held);
    assert_eq!(
        node.post("/v1/topics/t/publish", "text/plain", "more than ten bytes")
            .await
            .status,
        200
    );
}
