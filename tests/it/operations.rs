//! What the operations page tells an operator to do.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Stdio};

use pilgrimage::client::{Client, ProduceOptions, Publish, Read};
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

/// The settings in the block of a YAML file that begins with the line `head`.
fn settings(yaml: &str, head: &str) -> Vec<(String, String)> {
    let depth = |line: &str| line.len() - line.trim_start().len();
    let block = yaml.lines().skip_while(|line| *line != head).skip(1);
    let block = block.take_while(|line| line.is_empty() || depth(head) < depth(line));
    let pairs = block.filter_map(|line| line.trim().split_once(": "));
    let settings = pairs.filter(|(name, _)| name.starts_with("PILGRIMAGE_"));
    settings
        .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
        .collect()
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
async fn the_compose_files_nodes_form_a_healthy_cluster_that_answers_for_its_own_names_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let compose = std::fs::read_to_string(root.join("docker-compose.yml")).unwrap();
    let docker = std::fs::read_to_string(root.join("Dockerfile")).unwrap();
    let published: Vec<&str> = compose
        .lines()
        .filter(|line| line.contains(":8080\""))
        .map(str::trim)
        .collect();
    assert_eq!(
        published,
        [8080, 8081, 8082].map(|port| format!("- \"127.0.0.1:{port}:8080\""))
    );

    let dir = tempfile::tempdir().unwrap();
    let shell = flow_list(&compose, "entrypoint:");
    let draw = flow_list(&compose, "command:");
    for _ in 0..2 {
        let mut secret = std::process::Command::new(&shell[0]);
        secret.args(&shell[1..]).args(&draw).current_dir(&dir);
        assert!(secret.status().unwrap().success());
    }
    let secret = dir.path().join("cluster.key").display().to_string();

    // What Docker does with addresses and names, done with ports on one machine.
    let ports = [(); 3].map(|()| (free_port(), free_port()));
    let common = settings(&compose, "x-environment: &environment");
    assert_eq!(common.len(), 6);
    let mut nodes = Vec::new();
    for (index, (http, peers)) in ports.iter().enumerate() {
        let own = settings(&compose, &format!("  broker{}:", index + 1));
        let home = dir.path().join(format!("home{index}"));
        let mut node = command(&home);
        node.arg("start").stdout(Stdio::null());
        node.env("PILGRIMAGE_STORAGE", home.join("data"));
        for (name, value) in common.iter().chain(&own) {
            let mut value = value.replace("/secret/cluster.key", &secret);
            for (number, (_, peers)) in (1..).zip(&ports) {
                let there = format!("127.0.0.1:{peers}");
                value = value.replace(&format!("broker{number}:9080"), &there);
            }
            value = value.replace("0.0.0.0:9080", &format!("127.0.0.1:{peers}"));
            node.env(
                name,
                value.replace("0.0.0.0:8080", &format!("0.0.0.0:{http}")),
            );
        }
        nodes.push(Running(node.spawn().unwrap()));
    }

    let check = flow_list(&docker, "CMD");
    assert_eq!(check[..2], ["pilgrimage", "status"]);
    for (http, _) in ports {
        let here = |text: &String| text.replace("8080", &http.to_string());
        let is_healthy = || {
            let mut check_now = command(dir.path());
            check_now
                .args(check[1..].iter().map(here))
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            async move { check_now.status().unwrap().success() }
        };
        wait_until("the health check of the image", is_healthy).await;
    }
    let (first, _) = ports[0];
    let client = Client::new(&format!("http://127.0.0.1:{first}")).unwrap();
    wait_until("three voters", || async {
        let cluster = client.cluster().await;
        cluster.is_ok_and(|cluster| cluster.nodes.iter().filter(|node| node.voter).count() == 3)
    })
    .await;
    let cluster = client.cluster().await.unwrap();
    let urls = cluster.nodes.iter().map(|node| node.url.as_str());
    assert_eq!(
        urls.collect::<BTreeSet<_>>(),
        BTreeSet::from([
            "http://localhost:8080",
            "http://localhost:8081",
            "http://localhost:8082"
        ])
    );

    let answer = |host: String| async move {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = http
            .get(format!("http://127.0.0.1:{first}/v1/topics"))
            .header("host", host);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(answer(format!("localhost:{first}")).await, 200);
    assert_eq!(answer(format!("broker2:{first}")).await, 200);
    assert_eq!(answer(format!("evil.example:{first}")).await, 403);
}
