//! Topics and the first release's console routes.

use serde_json::{Value, json};

use super::Node;

const JSON: &str = "application/json";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_is_made_once_changed_listed_and_deleted() {
    let node = Node::start().await;
    let put = |body: &'static str| {
        let kind = [("content-type", JSON)];
        let node = &node;
        async move {
            node.ask("PUT", "/v1/topics/orders", &kind, body.as_bytes())
                .await
        }
    };
    let made = put(r#"{"partitions":3}"#).await;
    assert_eq!((made.status, &made.json()["partitions"]), (201, &json!(3)));
    assert_eq!(put(r#"{"partitions":3}"#).await.status, 200);
    assert_eq!(put(r#"{"partitions":4}"#).await.problem(), "topic_exists");
    assert_eq!(
        put(r#"{"partitions":0}"#).await.problem(),
        "invalid_settings"
    );
    assert_eq!(put(r#"{"owner":"me"}"#).await.problem(), "invalid_body");
    let bare = node.ask("PUT", "/v1/topics/bare", &[], b"").await;
    assert_eq!(bare.status, 201);
    let kind = [("content-type", JSON)];
    let changed = node
        .ask(
            "PATCH",
            "/v1/topics/orders",
            &kind,
            br#"{"retention_ms":null}"#,
        )
        .await;
    assert_eq!(
        (changed.status, &changed.json()["retention_ms"]),
        (200, &Value::Null)
    );
    let fewer = node
        .ask("PATCH", "/v1/topics/orders", &kind, br#"{"partitions":1}"#)
        .await;
    assert_eq!(fewer.problem(), "invalid_settings");

    let first = node.get("/v1/topics?limit=1").await.json();
    assert_eq!(
        (&first["topics"][0]["name"], &first["next_page_token"]),
        (&json!("bare"), &json!("bare"))
    );
    let second = node.get("/v1/topics?limit=1&page_token=bare").await.json();
    assert_eq!(
        (&second["topics"][0]["name"], second.get("next_page_token")),
        (&json!("orders"), None)
    );
    assert_eq!(
        node.get("/v1/topics?prefix=ord").await.json()["topics"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let partitions = node.get("/v1/topics/orders/partitions").await.json();
    assert_eq!(partitions["partitions"][2]["leader"], "broker1");

    assert_eq!(
        node.ask("DELETE", "/v1/topics/orders", &[], b"")
            .await
            .status,
        204
    );
    assert_eq!(
        node.ask("DELETE", "/v1/topics/orders", &[], b"")
            .await
            .problem(),
        "topic_not_found"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_lists_are_compressed_for_those_who_ask() {
    let node = Node::start().await;
    for i in 0..20 {
        node.ask("PUT", &format!("/v1/topics/topic-{i}"), &[], b"")
            .await;
    }
    let plain = node.get("/v1/topics").await;
    assert_eq!(plain.header("content-encoding"), None);
    let packed = node
        .ask("GET", "/v1/topics", &[("accept-encoding", "gzip")], b"")
        .await;
    assert_eq!(packed.header("content-encoding"), Some("gzip"));
    let mut text = String::new();
    std::io::Read::read_to_string(
        &mut flate2::bufread::GzDecoder::new(&packed.body[..]),
        &mut text,
    )
    .unwrap();
    assert_eq!(text, plain.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_console_routes_answer_as_they_always_did() {
    let node = Node::start().await;
    let other = tempfile::tempdir().unwrap();
    let file = other.path().join("file");
    std::fs::write(&file, "").unwrap();
    let storage = other.path().join("b2").display().to_string();
    let start = json!({"id": "broker2", "partitions": 3, "replication": 2, "storage": storage});
    let unusable = json!({"id": "b3", "partitions": 1, "replication": 1, "storage": file});
    let none = json!({"id": "b4", "partitions": 0, "replication": 1, "storage": storage});
    let b2 = json!({"id": "broker2"});
    let send = json!({"id": "broker2", "message": "Hello, World!"});
    let stranger = json!({"id": "nobody"});
    const NOBODY: &str = "No broker is running with the given ID";
    for (path, body, status, said) in [
        ("/start", &start, 200, json!("Broker started")),
        ("/start", &start, 400, json!("Broker is already running")),
        ("/status", &b2, 200, json!(true)),
        ("/consume", &b2, 200, json!("No messages available")),
        ("/send", &send, 200, json!("Message sent")),
        ("/consume", &b2, 200, json!("Hello, World!")),
        ("/consume", &b2, 200, json!("No messages available")),
        ("/stop", &b2, 200, json!("Broker stopped")),
        ("/stop", &b2, 400, json!(NOBODY)),
        ("/status", &b2, 400, json!(NOBODY)),
        ("/send", &send, 400, json!(NOBODY)),
        ("/consume", &stranger, 400, json!(NOBODY)),
        ("/start", &start, 200, json!("Broker started")),
    ] {
        let answer = node.post(path, JSON, body.to_string()).await;
        assert_eq!(
            (answer.status, answer.json()),
            (status, said),
            "{path} {body}"
        );
        assert_eq!(answer.header("content-type"), Some(JSON));
    }
    for bad in [
        &unusable,
        &none,
        &json!({"id": "../x", "partitions": 1, "replication": 1, "storage": storage}),
        &json!(7),
    ] {
        let answer = node.post("/start", JSON, bad.to_string()).await;
        assert_eq!(answer.status, 400, "{bad}: {answer:?}");
        assert!(answer.json().is_string());
    }
    // A position that has read all there is waits for more.
    let all = json!({"id": "broker1"}).to_string();
    let first = json!({"id": "broker1", "message": "early"}).to_string();
    assert_eq!(node.post("/send", JSON, first).await.status, 200);
    assert_eq!(node.post("/consume", JSON, all).await.json(), "early");
    let long = json!({"id": "broker1", "timeout_ms": 18_446_744_073_709_551_615_u64});
    let (waited, _) = tokio::join!(node.post("/consume", JSON, long.to_string()), async {
        node.post(
            "/send",
            JSON,
            json!({"id": "broker1", "message": "late"}).to_string(),
        )
        .await
    });
    assert_eq!(waited.json(), "late");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_tells_how_it_is() {
    let node = Node::start().await;
    node.post("/v1/topics/t/publish", "text/plain", "x").await;
    let about = node.get("/v1/node").await.json();
    assert_eq!(
        (&about["id"], &about["state"], &about["topics"]),
        (&json!("broker1"), &json!("ready"), &json!(1))
    );
    assert_eq!(about["records_in"], 1);
    assert!(1 <= about["connections"].as_u64().unwrap());
    assert!(about["memory"].as_u64().unwrap() > 1 << 20);
    for path in ["/healthz", "/readyz"] {
        let health = node.get(path).await;
        assert_eq!(
            (health.status, health.json()),
            (200, json!({"status": "ok"}))
        );
    }
    let metrics = node.get("/metrics").await;
    assert!(
        metrics.text().contains("\npilgrimage_messages_total 1\n"),
        "{}",
        metrics.text()
    );
}
