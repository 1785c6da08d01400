//! What is sent again is appended once, however it is sent.

use serde_json::{Value, json};

use super::{Answer, Node};
use crate::record::{BatchBuilder, Codec, Producer, Record};
use crate::types::Timestamp;

const JSON: (&str, &str) = ("content-type", "application/json");
const REPLAYED: &str = "idempotent-replayed";

/// Status, code and outcome of a refusal.
fn refusal(answer: &Answer) -> (u16, Value, Value) {
    let problem = answer.json();
    (
        answer.status,
        problem["code"].clone(),
        problem["outcome"].clone(),
    )
}

async fn values(node: &Node, topic: &str) -> Vec<Value> {
    let page = node
        .get(&format!(
            "/v1/topics/{topic}/records?from=earliest&limit=1000"
        ))
        .await;
    let page = page.json();
    let records = page["records"].as_array().unwrap().iter();
    records.map(|record| record["value"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_under_a_key_is_answered_twice_alike_and_appended_once() {
    let node = Node::start().await;
    let created = node
        .ask("PUT", "/v1/topics/t", &[JSON], br#"{"partitions":5}"#)
        .await;
    assert_eq!(created.status, 201);
    let many = json!({"records": [
        {"value": "keyless"}, {"key": "a", "value": 1}, {"key": "b", "value": null},
        {"value": "timed", "timestamp": 17}
    ]});
    for (path, kind, body) in [
        ("/v1/topics/t/publish", "text/plain", "one".to_owned()),
        ("/v1/topics/t/records", "application/json", many.to_string()),
        (
            "/v1/topics/t/records",
            "application/cloudevents+json",
            r#"{"specversion":"1.0","id":"1","source":"/x","type":"y","data":{"z":1}}"#.to_owned(),
        ),
    ] {
        let key = format!("\"{kind}\"");
        let headers = [("content-type", kind), ("idempotency-key", &key)];
        let first = node.ask("POST", path, &headers, body.as_bytes()).await;
        assert_eq!(
            (first.status, first.header(REPLAYED)),
            (200, None),
            "{first:?}"
        );
        let before = values(&node, "t").await;
        // The quotes are the header's form, not the key's.
        for key in [&key, kind] {
            let headers = [("content-type", kind), ("idempotency-key", key)];
            let again = node.ask("POST", path, &headers, body.as_bytes()).await;
            assert_eq!((again.status, again.header(REPLAYED)), (200, Some("true")));
            assert_eq!(again.text(), first.text());
        }
        assert_eq!(values(&node, "t").await, before);
    }
    assert_eq!(values(&node, "t").await.len(), 6);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_stands_for_one_request_and_nothing_else() {
    let node = Node::start().await;
    let ask = async |path: &str, key: &str, body: &str| {
        let headers = [("content-type", "text/plain"), ("idempotency-key", key)];
        node.ask("POST", path, &headers, body.as_bytes()).await
    };
    let path = "/v1/topics/t/publish";
    assert_eq!(ask(path, "k", "one").await.status, 200);
    let reused = (422, json!("idempotency_key_reuse"), json!("refused"));
    for (path, body) in [
        (path, "two"),
        ("/v1/topics/t/publish?timestamp=5", "one"),
        ("/v1/topics/t/publish?partition=0", "one"),
    ] {
        assert_eq!(refusal(&ask(path, "k", body).await), reused, "{path}");
    }
    let invalid = (400, json!("invalid_request"), json!("refused"));
    for key in ["", "\"\"", &"x".repeat(256), "\u{e9}"] {
        assert_eq!(refusal(&ask(path, key, "one").await), invalid, "{key:?}");
    }
    assert_eq!(ask(path, &"x".repeat(255), "three").await.status, 200);
    assert_eq!(values(&node, "t").await, ["one", "three"]);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_at_once_under_one_key_one_is_appended_and_all_are_told_the_same() {
    let node = std::sync::Arc::new(Node::start().await);
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let node = node.clone();
        asking.spawn(async move {
            let headers = [("content-type", "text/plain"), ("idempotency-key", "k")];
            let path = "/v1/topics/t/publish?partition=0";
            let answer = node.ask("POST", path, &headers, b"once").await;
            (answer.status, answer.text().to_owned())
        });
    }
    let answers = asking.join_all().await;
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
    assert_eq!(answers[0].0, 200);
    assert_eq!(values(&node, "t").await, ["once"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producers_sequence_is_kept_in_every_form() {
    let node = Node::start().await;
    let producer = node.ask("POST", "/v1/producers", &[], b"").await;
    assert_eq!(producer.status, 200);
    let another = node.ask("POST", "/v1/producers", &[], b"").await.json();
    let producer = producer.json();
    assert_ne!(producer["id"], another["id"]);
    assert_eq!(producer["epoch"], 0);
    let id = producer["id"].as_u64().unwrap();

    let records = async |sequence: u32, values: &[u32]| {
        let list = values.iter().map(|v| json!({"value": v, "partition": 0}));
        let list = list.collect::<Vec<_>>();
        let body = json!({"records": list, "producer": {"id": id, "sequence": sequence}});
        node.ask(
            "POST",
            "/v1/topics/t/records",
            &[JSON],
            body.to_string().as_bytes(),
        )
        .await
    };
    let publish = async |sequence: u32, epoch: u16, body: &str| {
        let (id, epoch, sequence) = (id.to_string(), epoch.to_string(), sequence.to_string());
        let headers = [
            ("content-type", "text/plain"),
            ("pilgrimage-producer-id", id.as_str()),
            ("pilgrimage-producer-epoch", &epoch),
            ("pilgrimage-producer-sequence", &sequence),
        ];
        let path = "/v1/topics/t/publish?partition=0";
        node.ask("POST", path, &headers, body.as_bytes()).await
    };
    let first = records(0, &[1, 2]).await;
    assert_eq!(first.status, 200, "{first:?}");
    let again = records(0, &[1, 2]).await;
    assert_eq!(
        (again.header(REPLAYED), again.text()),
        (Some("true"), first.text())
    );
    assert_eq!(
        refusal(&records(0, &[1, 3]).await),
        (422, json!("sequence_reuse"), json!("refused"))
    );
    assert_eq!(publish(2, 0, "three").await.status, 200);
    assert_eq!(publish(2, 0, "three").await.header(REPLAYED), Some("true"));
    assert_eq!(
        refusal(&publish(9, 0, "nine").await),
        (409, json!("out_of_order"), json!("refused"))
    );

    let mut builder = BatchBuilder::default();
    builder.push(&Record::text("four"), Timestamp(5));
    let stamp = Producer {
        id,
        epoch: 0,
        base_sequence: 3,
    };
    let batch = builder.build(Codec::None, stamp).unwrap();
    let binary = async |path: &str| {
        let kind = ("content-type", "application/vnd.pilgrimage.batches");
        node.ask("POST", path, &[kind], batch.bytes()).await
    };
    let first = binary("/v1/topics/t/records?partition=0").await;
    assert_eq!(
        (first.status, first.header(REPLAYED)),
        (200, None),
        "{first:?}"
    );
    let again = binary("/v1/topics/t/records?partition=0").await;
    assert_eq!(
        (again.header(REPLAYED), again.text()),
        (Some("true"), first.text())
    );
    // Where it goes would depend on what others send meanwhile.
    let invalid = (400, json!("invalid_request"), json!("refused"));
    assert_eq!(refusal(&binary("/v1/topics/t/records").await), invalid);

    for sequence in 4..30 {
        assert_eq!(publish(sequence, 0, "more").await.status, 200);
    }
    assert_eq!(
        refusal(&publish(2, 0, "three").await),
        (409, json!("duplicate_unknown_offset"), json!("applied"))
    );
    assert_eq!(publish(0, 1, "a new epoch").await.status, 200);
    assert_eq!(
        refusal(&publish(30, 0, "more").await),
        (409, json!("producer_fenced"), json!("refused"))
    );
    let mut expected = vec![json!(1), json!(2), json!("three"), json!("four")];
    expected.extend(vec![json!("more"); 26]);
    expected.push(json!("a new epoch"));
    assert_eq!(values(&node, "t").await, expected);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_arrives_before_its_turn_waits_for_it() {
    let node = std::sync::Arc::new(Node::start().await);
    let id = node.ask("POST", "/v1/producers", &[], b"").await.json()["id"].to_string();
    let mut sending = tokio::task::JoinSet::new();
    for sequence in (0..12).rev() {
        let (node, id) = (node.clone(), id.clone());
        sending.spawn(async move {
            let sequence = sequence.to_string();
            let headers = [
                ("content-type", "text/plain"),
                ("pilgrimage-producer-id", id.as_str()),
                ("pilgrimage-producer-sequence", &sequence),
            ];
            let path = "/v1/topics/t/publish?partition=0";
            // A client repeats what is refused for having come too early.
            loop {
                let answer = node.ask("POST", path, &headers, sequence.as_bytes()).await;
                if answer.status != 409 {
                    return answer.status;
                }
            }
        });
    }
    assert!(sending.join_all().await.iter().all(|status| *status == 200));
    let expected: Vec<_> = (0..12).map(|n| json!(n.to_string())).collect();
    assert_eq!(values(&node, "t").await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_known_again_is_refused() {
    let node = Node::start().await;
    let invalid = (400, json!("invalid_request"), json!("refused"));
    let line = b"{\"value\":1}\n";
    let record = br#"{"records":[{"value":1}]}"#;
    let both = br#"{"records":[{"value":1,"partition":0}],"producer":{"id":3,"sequence":0}}"#;
    let ndjson = ("content-type", "application/x-ndjson");
    for (headers, body) in [
        (vec![ndjson, ("idempotency-key", "k")], &line[..]),
        (
            vec![
                ndjson,
                ("pilgrimage-producer-id", "3"),
                ("pilgrimage-producer-sequence", "0"),
            ],
            line,
        ),
        // No partition is named, and no key chooses one.
        (
            vec![
                JSON,
                ("pilgrimage-producer-id", "3"),
                ("pilgrimage-producer-sequence", "0"),
            ],
            record,
        ),
        (vec![JSON, ("pilgrimage-producer-id", "3")], record),
        (vec![JSON, ("pilgrimage-producer-sequence", "3")], record),
        (
            vec![
                JSON,
                ("pilgrimage-producer-id", "x"),
                ("pilgrimage-producer-sequence", "0"),
            ],
            record,
        ),
        (
            vec![
                JSON,
                ("pilgrimage-producer-id", "0"),
                ("pilgrimage-producer-sequence", "0"),
            ],
            record,
        ),
        (vec![JSON, ("idempotency-key", "k")], both),
        (
            vec![JSON, ("idempotency-key", "a"), ("idempotency-key", "b")],
            record,
        ),
    ] {
        let answer = node
            .ask("POST", "/v1/topics/t/records", &headers, body)
            .await;
        assert_eq!(refusal(&answer), invalid, "{headers:?}");
    }
    assert_eq!(node.get("/v1/topics/t").await.status, 404);
    node.shutdown().await;
}
