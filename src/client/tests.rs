//! Tests of the client against peers that misbehave as real networks and nodes do.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::api::v1::Problem;
use crate::record::{Assignment, Batch, BatchBuilder, Codec, Producer, Record, assign};
use crate::types::{Code, LeaderEpoch, Offset, Partition, Timestamp, TopicId, TopicName};

/// Answers each connection with the next of `answers`, closes it, and keeps the request lines.
async fn peer(answers: Vec<Vec<u8>>) -> (Client, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (mut answers, log) = (VecDeque::from(answers), Arc::clone(&seen));
    tokio::spawn(async move {
        while let Some(answer) = answers.pop_front() {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                assert_ne!(
                    socket.read_buf(&mut request).await.unwrap(),
                    0,
                    "closed within a request"
                );
            }
            let line = String::from_utf8_lossy(&request)
                .lines()
                .next()
                .unwrap()
                .to_owned();
            log.lock().unwrap().push(line);
            socket.write_all(&answer).await.unwrap();
            // What is still on its way in is taken off, or closing would reset the connection
            // before the answer is read.
            socket.shutdown().await.unwrap();
            let _ = tokio::io::copy(&mut socket, &mut tokio::io::sink()).await;
        }
    });
    let options = ClientOptions {
        patience: Duration::from_millis(400),
        ..ClientOptions::default()
    };
    (Client::with_options(&url, options).unwrap(), seen)
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {status}\r\nconnection: close\r\n{headers}\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn json(status: &str, body: &str) -> Vec<u8> {
    answer(
        status,
        &format!("content-length: {}\r\n", body.len()),
        body.as_bytes(),
    )
}

fn problem(code: Code) -> Vec<u8> {
    let body = serde_json::to_string(&Problem::new(code, "says the test")).unwrap();
    json(&format!("{} X", code.status()), &body)
}

fn topic() -> TopicName {
    "orders".parse().unwrap()
}

fn stored(base: u64, values: &[&str]) -> Batch {
    let mut builder = BatchBuilder::default();
    for value in values {
        builder.push(&Record::text(*value), Timestamp(1));
    }
    let batch = builder.build(Codec::None, Producer::default()).unwrap();
    let mut bytes = BytesMut::from(batch.bytes().as_ref());
    let to = Assignment {
        topic_id: TopicId(uuid::Uuid::nil()),
        partition: Partition(0),
        leader_epoch: LeaderEpoch(1),
        base_offset: Offset(base),
        durable_at_append: Offset(base),
        append_time: Timestamp(1),
        use_append_time: false,
        prev_crc: 0,
    };
    assign(&mut bytes, &to).unwrap();
    Batch::take(&mut bytes.freeze()).unwrap()
}

fn batches(high_watermark: u64, bodies: &[&[u8]]) -> Vec<u8> {
    answer(
        "200 OK",
        &format!("pilgrimage-high-watermark: {high_watermark}\r\n"),
        &bodies.concat(),
    )
}

#[test]
fn an_address_is_taken_with_or_without_its_scheme_and_nothing_else_is() {
    for (given, url) in [
        ("localhost:8080", "http://localhost:8080"),
        ("http://[::1]:9/", "http://[::1]:9"),
        ("http://proxy/node/1/", "http://proxy/node/1"),
    ] {
        assert_eq!(Client::new(given).unwrap().url(), url);
    }
    for bad in [
        "",
        "https://x",
        "ftp://x",
        "http://",
        "http://u:p@x",
        "http://x/?a=b",
        "http://x:99999",
        "a b",
    ] {
        assert!(
            matches!(Client::new(bad), Err(ClientError::Address { .. })),
            "{bad:?} was taken"
        );
    }
}

#[tokio::test]
async fn a_write_is_repeated_when_it_was_refused_for_the_moment() {
    let ack = r#"{"partition":0,"offset":7,"timestamp":5,"durability":"fsync"}"#;
    let (client, seen) = peer(vec![problem(Code::Overloaded), json("200 OK", ack)]).await;
    let published = client
        .publish(&topic(), &Publish::new("x"), &ProduceOptions::default())
        .await
        .unwrap();
    assert_eq!(published.position.map(|at| at.offset), Some(7));
    assert_eq!(
        seen.lock().unwrap().as_slice(),
        ["POST /v1/topics/orders/publish HTTP/1.1"; 2]
    );
}

#[tokio::test]
async fn a_write_that_may_have_happened_is_repeated_only_under_a_key() {
    for broken in [
        problem(Code::Internal),
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_vec(),
        Vec::new(),
    ] {
        let off = ProduceOptions {
            idempotency: Idempotency::Off,
            ..ProduceOptions::default()
        };
        let (client, seen) = peer(vec![broken.clone(), json("200 OK", "{}")]).await;
        let error = client
            .publish(&topic(), &Publish::new("x"), &off)
            .await
            .unwrap_err();
        assert_eq!(error.outcome(), crate::types::Outcome::Unknown, "{error}");
        assert_eq!(seen.lock().unwrap().len(), 1, "{error}");

        let ack = r#"{"partition":0,"offset":7,"timestamp":5,"durability":"fsync"}"#;
        let (client, seen) = peer(vec![broken.clone(), json("200 OK", ack)]).await;
        let published = client
            .publish(&topic(), &Publish::new("x"), &ProduceOptions::default())
            .await
            .unwrap();
        assert_eq!(published.position.map(|at| at.offset), Some(7));
        assert_eq!(seen.lock().unwrap().len(), 2);

        // That the last try was refused says nothing of the first.
        let refused = problem(Code::InsufficientStorage);
        let (client, _) = peer(vec![broken, refused.clone(), refused]).await;
        let error = client
            .publish(&topic(), &Publish::new("x"), &ProduceOptions::default())
            .await
            .unwrap_err();
        assert_eq!(error.outcome(), crate::types::Outcome::Unknown, "{error}");
    }
}

#[tokio::test]
async fn a_node_that_is_not_there_is_an_error_that_names_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = Client::new(&address.to_string())
        .unwrap()
        .node()
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, ClientError::Connect { .. }), "{text}");
    assert!(
        text.contains(&address.to_string()) && text.contains("refused"),
        "{text}"
    );
}

#[tokio::test]
async fn a_follower_that_is_cut_off_goes_on_after_the_last_record_it_gave() {
    let line = |offset: u64| {
        format!("{{\"partition\":0,\"offset\":{offset},\"timestamp\":1,\"value\":\"v\"}}\n")
    };
    let page = r#"{"records":[{"partition":0,"offset":4,"timestamp":1,"value":"v"}],"next":"0:5,1:0","high_watermark":5}"#;
    let half = format!("{}{}", line(5), &line(6)[..20]);
    let (client, seen) = peer(vec![
        json("200 OK", page),
        answer("200 OK", "", half.as_bytes()),
        answer("200 OK", "", format!("\n{}", line(6)).as_bytes()),
    ])
    .await;
    let mut follow = client.follow(
        &topic(),
        None,
        Read {
            from: Start::Latest,
            ..Read::default()
        },
    );
    let mut offsets = Vec::new();
    for _ in 0..3 {
        offsets.push(follow.next().await.unwrap().offset);
    }
    assert_eq!(offsets, [4, 5, 6]);
    assert_eq!(follow.position().unwrap().to_string(), "0:7,1:0");
    let path = "GET /v1/topics/orders/records?from=";
    assert_eq!(
        seen.lock().unwrap().as_slice(),
        [
            format!("{path}latest HTTP/1.1"),
            format!("{path}0%3A5%2C1%3A0&follow=true HTTP/1.1"),
            format!("{path}0%3A6%2C1%3A0&follow=true HTTP/1.1"),
        ]
    );
}

#[tokio::test]
async fn a_follower_of_a_topic_that_is_gone_is_told_so() {
    let (client, _) = peer(vec![problem(Code::TopicNotFound)]).await;
    let error = client
        .follow(&topic(), None, Read::default())
        .next()
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(Code::TopicNotFound));
}

#[tokio::test]
async fn batches_go_on_where_the_connection_broke_and_end_where_they_should() {
    let (first, second) = (stored(0, &["a", "b"]), stored(2, &["c"]));
    let torn = &second.bytes()[..100];
    let (client, seen) = peer(vec![
        batches(3, &[first.bytes(), torn]),
        batches(3, &[second.bytes()]),
    ])
    .await;
    let mut reader = client.batches(
        &topic(),
        Partition(0),
        ReadBatches::range(Offset(1), Offset(3)),
    );
    let mut read = Vec::new();
    while let Some(batch) = reader.next().await.unwrap() {
        read.push(batch);
    }
    assert_eq!(read, [first, second]);
    let path = "GET /v1/topics/orders/partitions/0/records?from=";
    let lines = seen.lock().unwrap().clone();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].starts_with(&format!("{path}1&")) && lines[1].starts_with(&format!("{path}2&")),
        "{lines:?}"
    );
}

#[tokio::test]
async fn a_batch_that_was_changed_on_the_way_is_not_given_out() {
    let batch = stored(0, &["a"]);
    for at in 0..batch.bytes().len() {
        let mut bytes = batch.bytes().to_vec();
        bytes[at] ^= 1;
        let (client, _) = peer(vec![batches(1, &[&bytes])]).await;
        let mut reader = client.batches(
            &topic(),
            Partition(0),
            ReadBatches::range(Offset(0), Offset(1)),
        );
        // A longer length than was sent looks like a connection that broke; all else is damage.
        let error = reader.next().await.unwrap_err();
        let told = matches!(
            error,
            ClientError::Batch { .. } | ClientError::OutOfOrder { .. }
        );
        assert!(told || (8..12).contains(&at), "byte {at}: {error}");
    }
}

#[tokio::test]
async fn a_hole_between_batches_is_an_error() {
    let (client, _) = peer(vec![batches(
        9,
        &[stored(0, &["a"]).bytes(), stored(2, &["c"]).bytes()],
    )])
    .await;
    let mut reader = client.batches(
        &topic(),
        Partition(0),
        ReadBatches::range(Offset(0), Offset(3)),
    );
    assert!(reader.next().await.unwrap().is_some());
    let error = reader.next().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "expected the batch that holds offset 1, received offsets 2 to 3"
    );
}

#[tokio::test]
async fn a_stream_of_lines_that_fails_half_way_says_how_much_was_taken() {
    let mut document = Problem::new(Code::InvalidBody, "line 3 is not JSON");
    document.acknowledged = Some(2);
    let body = format!(
        "{}\n{}\n",
        r#"{"acknowledged":2,"positions":[],"durability":"fsync","done":false}"#,
        serde_json::to_string(&document).unwrap()
    );
    let (client, _) = peer(vec![json("200 OK", &body)]).await;
    let error = client
        .produce_ndjson(&topic(), &b"{}\n"[..], &ProduceOptions::default())
        .await
        .unwrap_err();
    let ClientError::Problem { problem, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(*problem, document);
}
