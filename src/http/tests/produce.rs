//! What goes in comes out the same, whatever way it goes.

use serde_json::{Value, json};

use super::Node;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_commands_lead_to_the_first_message_and_back() {
    let node = Node::start().await;
    let form = "application/x-www-form-urlencoded";
    let sent = node
        .post("/v1/topics/greetings/publish", form, "hello")
        .await;
    assert_eq!(
        (sent.status, sent.header("pilgrimage-durability")),
        (200, Some("fsync"))
    );
    let position = sent.json();
    assert_eq!(
        (
            &position["partition"],
            &position["offset"],
            &position["durability"]
        ),
        (&json!(0), &json!(0), &json!("fsync"))
    );
    let page = node.get("/v1/topics/greetings/records?from=earliest").await;
    assert_eq!(page.header("pilgrimage-next"), Some("0:1"));
    assert_eq!(page.header("pilgrimage-high-watermark"), Some("1"));
    assert_eq!(
        page.json(),
        json!({
            "records": [{"partition": 0, "offset": 0, "timestamp": position["timestamp"], "value": "hello"}],
            "next": "0:1",
            "high_watermark": 1
        })
    );
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_value_comes_back_as_it_went_in() {
    let node = Node::start().await;
    let body = r#"{"records":[
        {"key":"k","value":"text ü","headers":{"trace":"7"},"timestamp":17},
        {"value":{"a" : [1.0e5, null],  "b":"\u00fc"}},
        {"value":null,"key":"gone"},
        {"value_base64":"AP8="}]}"#;
    let sent = node
        .post("/v1/topics/t/records?acks=leader", "application/json", body)
        .await;
    assert_eq!(
        (sent.status, sent.header("pilgrimage-durability")),
        (200, Some("leader")),
        "{sent:?}"
    );
    let placed = sent.json();
    let offsets: Vec<_> = placed["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| &r["offset"])
        .collect();
    assert_eq!(offsets, [0, 1, 2, 3]);
    let page = node.get("/v1/topics/t/partitions/0/records").await;
    let time = &placed["records"][1]["timestamp"];
    assert_eq!(
        page.text(),
        format!(
            concat!(
                r#"{{"records":[{{"partition":0,"offset":0,"timestamp":17,"key":"k","value":"text ü","headers":[["trace","7"]]}},"#,
                r#"{{"partition":0,"offset":1,"timestamp":{time},"value":{{"a" : [1.0e5, null],  "b":"\u00fc"}}}},"#,
                r#"{{"partition":0,"offset":2,"timestamp":{time},"key":"gone","value":null}},"#,
                r#"{{"partition":0,"offset":3,"timestamp":{time},"value_base64":"AP8="}}],"next":"4","high_watermark":4}}"#
            ),
            time = time
        )
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_published_value_keeps_its_type_headers_and_every_byte() {
    let node = Node::start().await;
    let all: Vec<u8> = (0..=255).collect();
    let headers = [
        ("content-type", "image/png"),
        ("pilgrimage-header-trace", "7"),
        ("pilgrimage-header-trace", "8"),
        ("ce-id", "42"),
    ];
    let path = "/v1/topics/t/publish?key=k%20%C3%BC&timestamp=17";
    let sent = node.ask("POST", path, &headers, &all).await;
    assert_eq!(
        sent.json(),
        json!({"partition": 0, "offset": 0, "timestamp": 17, "durability": "fsync"})
    );
    let raw = node.get("/v1/topics/t/partitions/0/records/0").await;
    assert_eq!((raw.status, &raw.body), (200, &all));
    for (name, value) in [
        ("content-type", "image/png"),
        ("ce-id", "42"),
        ("pilgrimage-header-trace", "7"),
        ("pilgrimage-partition", "0"),
        ("pilgrimage-offset", "0"),
        ("pilgrimage-timestamp", "17"),
        ("pilgrimage-next", "1"),
        (
            "content-security-policy",
            "sandbox; default-src 'none'; frame-ancestors 'none'",
        ),
        ("content-disposition", "attachment"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(raw.header(name), Some(value), "{name}");
    }
    let first = ("accept", "application/octet-stream");
    let same = node
        .ask("GET", "/v1/topics/t/records?limit=1", &[first], b"")
        .await;
    assert_eq!((same.status, same.body), (200, all));
    let headers: Value =
        node.get("/v1/topics/t/records").await.json()["records"][0]["headers"].take();
    let mut names: Vec<_> = headers
        .as_array()
        .unwrap()
        .iter()
        .map(|h| h[0].as_str().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["ce-id", "content-type", "trace", "trace"]);
}
