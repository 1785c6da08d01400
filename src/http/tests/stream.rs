//! NDJSON bodies: any length, in order, half bodies, bad lines.

use std::fmt::Write;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use super::{Answer, Node, PATIENCE};
use crate::api::v1::NDJSON;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_body_is_appended_in_order_and_acknowledged_once() {
    let node = Node::start().await;
    let mut body = String::new();
    for i in 0..5000 {
        writeln!(body, r#"{{"value":{i},"partition":0}}"#).unwrap();
        if i % 1000 == 0 {
            body.push_str("\r\n  \n");
        }
    }
    let acked = node
        .post("/v1/topics/t/records", NDJSON, body.trim_end())
        .await;
    assert_eq!(
        (acked.status, acked.header("pilgrimage-durability")),
        (200, Some("fsync")),
        "{acked:?}"
    );
    let ack = acked.json();
    assert_eq!(
        (&ack["acknowledged"], &ack["done"]),
        (&json!(5010), &json!(true))
    );
    assert_eq!(ack["positions"][0]["offset"], 4999);
    let page = node
        .get("/v1/topics/t/partitions/0/records?limit=100000&max_bytes=9000000")
        .await
        .json();
    let values: Vec<_> = page["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["value"].as_u64().unwrap())
        .collect();
    assert_eq!(values, (0..5000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_line_is_named_and_the_lines_acknowledged_before_it_are_kept() {
    let node = Node::start().await;
    let mut body = "{\"value\":1}\n".repeat(1500);
    body.push_str("{\"value\":}\n{\"value\":2}\n");
    let refused = node.post("/v1/topics/t/records", NDJSON, &body).await;
    assert_eq!(refused.problem(), "invalid_body");
    let problem = refused.json();
    assert_eq!(problem["line"], 1501);
    let kept =
        node.get("/v1/topics/t/partitions").await.json()["partitions"][0]["high_watermark"].clone();
    assert_eq!(problem["acknowledged"], kept);
    assert!(1000 <= kept.as_u64().unwrap(), "{kept}");

    let invalid = "{\"value\":1}\n\n{\"value\":2,\"timestamp\":-5}\n";
    let refused = node.post("/v1/topics/t/records", NDJSON, invalid).await;
    assert_eq!(
        (refused.problem(), refused.json()["line"].as_u64()),
        ("invalid_record".into(), Some(3))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_are_acknowledged_while_the_body_still_comes() {
    let node = Node::start().await;
    let mut stream = BufReader::new(node.connect().await);
    let head = format!(
        "POST /v1/topics/t/records HTTP/1.1\r\nhost: localhost\r\ncontent-type: {NDJSON}\r\naccept: {NDJSON}\r\n\
         transfer-encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    for line in 1..=3 {
        stream.write_all(b"c\r\n{\"value\":7}\n\r\n").await.unwrap();
        let ack = loop {
            let mut text = String::new();
            let read = tokio::time::timeout(PATIENCE, stream.read_line(&mut text))
                .await
                .unwrap()
                .unwrap();
            assert_ne!(read, 0);
            if text.starts_with('{') {
                break serde_json::from_str::<serde_json::Value>(&text).unwrap();
            }
        };
        assert_eq!(
            (&ack["acknowledged"], &ack["done"]),
            (&json!(line), &json!(false))
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_half_a_body_only_whole_lines_can_be_in_the_log() {
    let node = Node::start().await;
    let mut stream = node.connect().await;
    let head = format!(
        "POST /v1/topics/t/records HTTP/1.1\r\nhost: localhost\r\ncontent-type: {NDJSON}\r\ncontent-length: 1000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
        .write_all(b"{\"value\":1}\n{\"value\":12")
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest).await;
    if !rest.is_empty() {
        assert_eq!(Answer::parse(&rest).problem(), "invalid_body");
    }
    let page = node.get("/v1/topics/t/records").await.json();
    if let Some(records) = page["records"].as_array() {
        assert!(
            records.iter().all(|record| record["value"] == 1) && records.len() <= 1,
            "{records:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_can_demand_where_it_begins() {
    let node = Node::start().await;
    let body = "{\"value\":1}\n".repeat(2500);
    let first = node
        .post("/v1/topics/t/records?expected_offset=0", NDJSON, &body)
        .await;
    assert_eq!(
        (first.status, first.json()["acknowledged"].as_u64()),
        (200, Some(2500)),
        "{first:?}"
    );
    let again = node
        .post("/v1/topics/t/records?expected_offset=0", NDJSON, &body)
        .await;
    assert_eq!(
        (again.problem(), again.json()["end_offset"].as_u64()),
        ("offset_mismatch".into(), Some(2500))
    );
    assert_eq!(again.json()["acknowledged"], 0);
}
