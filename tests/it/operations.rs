//! What the operations page tells an operator to do.

use std::path::Path;
use std::process::{Child, Stdio};

use pilgrimage::client::{ProduceOptions, Publish, Read};
use pilgrimage::types::{TopicName, TopicPatch};

use crate::support::{Node, command, free_port, wait_until};

/// Every record of a topic as JSON, as a reader gets them.
async fn everything(node: &Node, topic: &TopicName) -> String {
    let page = node
        .client()
        .read(topic, None, &Read::default())
        .await
        .unwrap();
    serde_json::to_string(&page).unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, to) = (
            entry.as_ref().unwrap().path(),
            to.join(entry.unwrap().file_name()),
        );
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(&from, &to).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_stopped_nodes_directory_is_a_complete_backup() {
    let mut node = Node::start().await;
    let topic: TopicName = "orders".parse().unwrap();
    let three = TopicPatch {
        partitions: Some(3),
        ..TopicPatch::default()
    };
    node.client().create_topic(&topic, &three).await.unwrap();
    for number in 0..50 {
        let order = Publish {
            key: Some(format!("k{number}")),
            ..Publish::new(format!("order {number}"))
        };
        node.client()
            .publish(&topic, &order, &ProduceOptions::default())
            .await
            .unwrap();
    }
    let written = everything(&node, &topic).await;
    assert_eq!(written.matches("\"order ").count(), 50);
    assert!(node.terminate().success());

    let dir = tempfile::tempdir().unwrap();
    let backup = dir.path().join("backup");
    copy(node.storage(), &backup);
    let restored = Node::start_in(&backup, &[]).await;
    assert_eq!(everything(&restored, &topic).await, written);

    // The original is none the worse for it, and the two do not share anything.
    let original = Node::start_in(node.storage(), &[]).await;
    let more = Publish::new("order 50".to_owned());
    original
        .client()
        .publish(&topic, &more, &ProduceOptions::default())
        .await
        .unwrap();
    assert_eq!(everything(&restored, &topic).await, written);
    assert_ne!(everything(&original, &topic).await, written);
}

/// The list behind `key:` of a YAML file that writes it on one line.
fn flow_list(yaml: &str, key: &str) -> Vec<String> {
    let line = yaml
        .lines()
        .find_map(|line| line.trim().strip_prefix(key))
        .unwrap();
    serde_json::from_str(line.trim()).unwrap()
}

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_compose_files_node_starts_is_healthy_and_answers_for_its_own_names_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let compose = std::fs::read_to_string(root.join("docker-compose.yml")).unwrap();
    let docker = std::fs::read_to_string(root.join("Dockerfile")).unwrap();
    let start = flow_list(&compose, "command:");
    assert_eq!(
        start,
        ["start", "--listen", "0.0.0.0:8080", "--allow-anonymous"]
    );
    let published: Vec<&str> = compose
        .lines()
        .filter(|line| line.contains(":8080:"))
        .map(str::trim)
        .collect();
    assert_eq!(published, ["- \"127.0.0.1:8080:8080\""]);
    let hosts = compose
        .lines()
        .find_map(|line| line.trim().strip_prefix("PILGRIMAGE_ALLOWED_HOSTS: "))
        .unwrap();

    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let here = |text: &String| text.replace("8080", &port.to_string());
    let mut node = command(dir.path());
    node.args(start.iter().map(here))
        .env("PILGRIMAGE_ALLOWED_HOSTS", hosts);
    node.env("PILGRIMAGE_STORAGE", dir.path().join("data"))
        .stdout(Stdio::null());
    let _node = Running(node.spawn().unwrap());

    let check = flow_list(&docker, "CMD");
    assert_eq!(check[..2], ["pilgrimage", "status"]);
    let is_healthy = || {
        let mut check_now = command(dir.path());
        check_now
            .args(check[1..].iter().map(here))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        async move { check_now.status().unwrap().success() }
    };
    wait_until("the health check of the image", is_healthy).await;

    let answer = |host: String| async move {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = http
            .get(format!("http://127.0.0.1:{port}/v1/topics"))
            .header("host", host);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(answer(format!("localhost:{port}")).await, 200);
    assert_eq!(answer(format!("pilgrimage:{port}")).await, 200);
    assert_eq!(answer(format!("evil.example:{port}")).await, 403);
}
