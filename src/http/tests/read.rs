//! Reading: pages, lines, events, batches; waiting, following, filtering.

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use super::{Node, PATIENCE};
use crate::api::v1::BATCHES;
use crate::record::split_batches;
use crate::types::{TopicName, TopicPatch};

async fn node_with(records: &str) -> Node {
    let node = Node::start().await;
    let sent = node
        .post(
            "/v1/topics/t/records",
            "application/json",
            format!("{{\"records\":[{records}]}}"),
        )
        .await;
    assert_eq!(sent.status, 200, "{sent:?}");
    node
}

fn values(page: &Value) -> Vec<&Value> {
    page["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| &record["value"])
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_go_on_where_the_last_one_ended_and_miss_nothing() {
    let node = Node::start().await;
    let three = TopicPatch {
        partitions: Some(3),
        ..TopicPatch::default()
    };
    node.app
        .broker
        .put_topic(&TopicName::try_from("t").unwrap(), &three)
        .await
        .unwrap();
    let records: Vec<_> = (0..50)
        .map(|i| json!({"value": i, "partition": i % 3}))
        .collect();
    node.post(
        "/v1/topics/t/records",
        "application/json",
        json!({"records": records}).to_string(),
    )
    .await;
    let (mut seen, mut next) = (Vec::new(), "earliest".to_owned());
    loop {
        let page = node
            .get(&format!("/v1/topics/t/records?limit=7&from={next}"))
            .await
            .json();
        assert_eq!(page["high_watermark"], 50);
        if values(&page).is_empty() {
            break;
        }
        seen.extend(
            values(&page)
                .into_iter()
                .map(|value| value.as_i64().unwrap()),
        );
        next = page["next"].as_str().unwrap().to_owned();
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..50).collect::<Vec<_>>());
    assert_eq!(next, "0:17,1:17,2:16");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_run_in_the_node_and_next_passes_over_what_they_hold_back() {
    let node = node_with(
        r#"{"key":"a","value":{"n":1}},{"key":"b","value":{"n":2},"headers":{"h":"x"}},{"key":"a","value":"text"}"#,
    )
    .await;
    for (query, wanted, next) in [
        ("key=a", json!([{"n": 1}, "text"]), "0:3"),
        ("header=h:x", json!([{"n": 2}]), "0:3"),
        ("json=/n:2", json!([{"n": 2}]), "0:3"),
        ("key=a&limit=1", json!([{"n": 1}]), "0:1"),
        ("key=none", json!([]), "0:3"),
        ("from=latest", json!([]), "0:3"),
        ("from=2", json!(["text"]), "0:3"),
        ("from=timestamp:0&limit=1", json!([{"n": 1}]), "0:1"),
    ] {
        let page = node
            .get(&format!("/v1/topics/t/records?{query}"))
            .await
            .json();
        assert_eq!(
            (json!(values(&page)), page["next"].as_str()),
            (wanted, Some(next)),
            "{query}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_exist_is_told_apart() {
    let node = node_with(r#"{"value":1},{"value":2}"#).await;
    let trimmed = node
        .ask(
            "DELETE",
            "/v1/topics/t/partitions/0/records?before=1",
            &[],
            b"",
        )
        .await;
    assert_eq!(
        (trimmed.status, trimmed.json()),
        (200, json!({"log_start": 1}))
    );
    for (path, code) in [
        ("/v1/topics/none", "topic_not_found"),
        ("/v1/topics/none/records", "topic_not_found"),
        ("/v1/topics/none/partitions", "topic_not_found"),
        ("/v1/topics/t/partitions/1/records", "partition_not_found"),
        ("/v1/topics/t/partitions/0/records/2", "record_not_found"),
        ("/v1/topics/t/partitions/0/records/0", "offset_trimmed"),
        ("/v1/topics/t/partitions/0/records?from=0", "offset_trimmed"),
        (
            "/v1/topics/t/partitions/0/records?from=3",
            "offset_out_of_range",
        ),
        ("/v1/topics/t/records?from=1:0", "partition_not_found"),
        ("/v1/nothing", "route_not_found"),
        ("/nothing.js", "route_not_found"),
    ] {
        assert_eq!(node.get(path).await.problem(), code, "{path}");
    }
    let gone = node
        .get("/v1/topics/t/partitions/0/records?from=0")
        .await
        .json();
    assert_eq!(gone["start_offset"], 1);
    let beyond = node
        .get("/v1/topics/t/partitions/0/records?from=3")
        .await
        .json();
    assert_eq!(beyond["end_offset"], 2);
    let beyond = node
        .ask(
            "DELETE",
            "/v1/topics/t/partitions/0/records?before=3",
            &[],
            b"",
        )
        .await;
    assert_eq!(
        (beyond.problem(), beyond.json()["end_offset"].as_u64()),
        ("offset_out_of_range".into(), Some(2))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_waits_is_answered_by_the_next_record() {
    let node = node_with(r#"{"value":1}"#).await;
    let path = "/v1/topics/t/records?from=latest&wait=60s";
    let (page, _) = tokio::join!(node.get(path), async {
        // The wait may begin before or after: the answer is the same.
        node.post("/v1/topics/t/publish", "application/json", "2")
            .await
    });
    let page = page.json();
    // Had the record come before the reader, "latest" would lie behind it.
    if !values(&page).is_empty() {
        assert_eq!(values(&page), [&json!(2)]);
    }
    let waited = node.get("/v1/topics/t/records?from=latest&wait=20ms").await;
    assert_eq!((waited.status, values(&waited.json()).len()), (200, 0));
}

/// Reads the lines of an answer that does not end.
async fn follow(node: &Node, path: &str, headers: &str) -> BufReader<tokio::net::TcpStream> {
    let mut stream = node.connect().await;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    BufReader::new(stream)
}

async fn line_with(reader: &mut BufReader<tokio::net::TcpStream>, wanted: &str) -> String {
    loop {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, reader.read_line(&mut line))
            .await
            .unwrap()
            .unwrap();
        assert_ne!(read, 0, "the stream ended before a line with {wanted:?}");
        if line.contains(wanted) {
            return line.trim_end().to_owned();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_get_records_as_they_come_and_end_when_the_node_does() {
    let node = node_with("{\"value\":{\"a\":\n1}}").await;
    let mut lines = follow(&node, "/v1/topics/t/records?follow=true", "").await;
    assert_eq!(
        line_with(&mut lines, "content-type").await,
        "content-type: application/x-ndjson"
    );
    assert!(
        line_with(&mut lines, "\"offset\":0")
            .await
            .ends_with(r#""value":{"a": 1}}"#)
    );
    let mut events = follow(
        &node,
        "/v1/topics/t/records?from=latest",
        "accept: text/event-stream\r\n",
    )
    .await;
    line_with(&mut events, "retry: ").await;
    node.post("/v1/topics/t/publish", "text/plain", "two").await;
    line_with(&mut lines, "\"offset\":1").await;
    assert_eq!(line_with(&mut events, "id:").await, "id: 0:2");
    assert!(
        line_with(&mut events, "data:")
            .await
            .ends_with(r#""value":"two","headers":[["content-type","text/plain"]]}"#)
    );

    let mut resumed = follow(
        &node,
        "/v1/topics/t/records?from=latest",
        "accept: text/event-stream\r\nlast-event-id: 0:1\r\n",
    )
    .await;
    assert_eq!(line_with(&mut resumed, "id:").await, "id: 0:2");
    node.shutdown().await;
    for mut stream in [lines, events, resumed] {
        let mut rest = String::new();
        let end = tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut rest);
        tokio::time::timeout(PATIENCE, end).await.unwrap().unwrap();
        assert!(
            rest.ends_with("0\r\n\r\n"),
            "cut off instead of ended: {rest:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_come_as_they_stand_in_the_log_and_go_in_again() {
    let node = Node::start().await;
    for value in ["one", "two", "three"] {
        node.post("/v1/topics/t/publish", "text/plain", value).await;
    }
    let accept = [("accept", BATCHES)];
    let got = node
        .ask(
            "GET",
            "/v1/topics/t/partitions/0/records?from=1",
            &accept,
            b"",
        )
        .await;
    assert_eq!(got.header("content-type"), Some(BATCHES));
    assert_eq!(
        (
            got.header("pilgrimage-next"),
            got.header("pilgrimage-high-watermark")
        ),
        (Some("3"), Some("3"))
    );
    let batches = split_batches(got.body.clone().into()).unwrap();
    assert_eq!(
        batches
            .iter()
            .map(|batch| batch.header.base_offset.0)
            .collect::<Vec<_>>(),
        [1, 2]
    );

    let again = node
        .post("/v1/topics/copy/records", BATCHES, &got.body)
        .await;
    assert_eq!(again.json()["batches"][1]["base_offset"], 1, "{again:?}");
    let page = node.get("/v1/topics/copy/records").await.json();
    assert_eq!(values(&page), [&json!("two"), &json!("three")]);
    for cut in [1, 127, got.body.len() - 1] {
        let bad = node
            .post("/v1/topics/copy/records", BATCHES, &got.body[..cut])
            .await;
        assert_eq!(bad.problem(), "invalid_body", "{cut}");
    }
    let mut flipped = got.body.clone();
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    assert_eq!(
        node.post("/v1/topics/copy/records", BATCHES, &flipped)
            .await
            .problem(),
        "invalid_body"
    );
    assert_eq!(
        node.ask("GET", "/v1/topics/t/records", &accept, b"")
            .await
            .problem(),
        "not_acceptable"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_larger_than_what_is_held_at_once_comes_whole() {
    let node = Node::start().await;
    let value = "x".repeat(400 * 1024);
    for _ in 0..12 {
        assert_eq!(
            node.post("/v1/topics/t/publish", "text/plain", &value)
                .await
                .status,
            200
        );
    }
    let page = node
        .get("/v1/topics/t/partitions/0/records?max_bytes=67108864")
        .await;
    assert_eq!(page.header("transfer-encoding"), Some("chunked"));
    let page = page.json();
    assert_eq!(
        (values(&page).len(), &page["next"], &page["high_watermark"]),
        (12, &json!("12"), &json!(12))
    );
    let accept = [("accept", BATCHES)];
    let path = "/v1/topics/t/partitions/0/records?max_bytes=67108864";
    let batches = split_batches(node.ask("GET", path, &accept, b"").await.body.into()).unwrap();
    assert_eq!(batches.len(), 12);
}
