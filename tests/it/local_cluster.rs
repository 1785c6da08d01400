//! `start --nodes 3`: three real processes behind one command.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use pilgrimage::api::v1::Cluster;
use pilgrimage::client::{Client, ProduceOptions, Publish, Read};
use pilgrimage::types::TopicName;
use serde_json::Value;

use crate::shell::{Shell, run};
use crate::support::{Node, wait_until};

const IDS: [&str; 3] = ["broker1", "broker2", "broker3"];

/// What a broker that runs has noted about itself.
fn entry(dir: &Path, id: &str) -> Option<Value> {
    let note = dir.join("state/brokers").join(format!("{id}.json"));
    serde_json::from_slice(&std::fs::read(note).ok()?).ok()
}

/// The clients and process ids of the three nodes.
fn nodes(dir: &Path) -> Vec<(Client, u64)> {
    let nodes = IDS.map(|id| {
        let entry = entry(dir, id).unwrap();
        let client = Client::new(entry["url"].as_str().unwrap()).unwrap();
        (client, entry["pid"].as_u64().unwrap())
    });
    nodes.into()
}

fn signal(pid: u64, signal: &str) {
    let mut kill = Command::new("kill");
    assert!(
        kill.args([signal, &pid.to_string()])
            .status()
            .unwrap()
            .success()
    );
}

/// Three nodes at work that all vote, and every copy in sync.
async fn whole(client: &Client) -> bool {
    let well = |cluster: Cluster| {
        let work = |node: &pilgrimage::api::v1::ClusterNode| node.status == "active" && node.voter;
        let partitions = cluster.partitions;
        cluster.nodes.iter().filter(|node| work(node)).count() == 3
            && (partitions.without_leader, partitions.under_replicated) == (0, 0)
    };
    client.cluster().await.is_ok_and(well)
}

/// Sends one value through the first node that takes it.
async fn send(clients: &[Client], topic: &TopicName, value: String) {
    let (message, options) = (Publish::new(value), ProduceOptions::default());
    for client in clients.iter().cycle().take(60) {
        if client.publish(topic, &message, &options).await.is_ok() {
            return;
        }
    }
    panic!("no node took {message:?}");
}

/// How often each value is in the topic.
async fn values(client: &Client, topic: &TopicName) -> BTreeMap<String, usize> {
    let read = Read {
        limit: Some(10_000),
        ..Read::default()
    };
    let page = client.read(topic, None, &read).await.unwrap();
    let mut values = BTreeMap::new();
    for record in page.records {
        let value = serde_json::from_str(record.value.unwrap().get()).unwrap();
        *values.entry(value).or_default() += 1;
    }
    values
}

#[tokio::test(flavor = "multi_thread")]
async fn one_command_runs_three_nodes_that_lose_nothing_when_one_is_killed() {
    let mut shell = Shell::start(&["--nodes", "3"]).await;
    let dir = shell.dir.path().to_owned();
    let topic: TopicName = "kept".parse().unwrap();
    let before = nodes(&dir);
    let clients: Vec<_> = before.iter().map(|(client, _)| client.clone()).collect();
    // It says that it is ready when all three are.
    for client in &clients {
        assert!(whole(client).await);
    }
    let identity = clients[0].cluster().await.unwrap().cluster_id;
    shell.run(&["status", "--id", "broker3"]).ok();

    for number in 0..100 {
        send(&clients, &topic, format!("before-{number}")).await;
    }
    let settings = clients[1].topic(&topic).await.unwrap();
    assert_eq!(
        (settings.replication_factor, settings.min_insync_replicas),
        (3, 2)
    );

    signal(before[1].1, "-KILL");
    let left = [clients[0].clone(), clients[2].clone()];
    for number in 0..100 {
        send(&left, &topic, format!("without-{number}")).await;
    }
    // It comes back by itself, as another process.
    wait_until("the killed node is back", || async {
        entry(&dir, "broker2").is_some_and(|entry| entry["pid"] != before[1].1)
            && whole(&clients[1]).await
    })
    .await;
    let expected = |kinds: &[&str]| {
        let of_kind = |kind| (0..100).map(move |number| (format!("{kind}-{number}"), 1));
        kinds.iter().flat_map(of_kind).collect::<BTreeMap<_, _>>()
    };
    for client in &clients {
        assert_eq!(
            values(client, &topic).await,
            expected(&["before", "without"])
        );
    }

    assert_eq!(shell.node.terminate().code(), Some(0));
    assert!(IDS.iter().all(|id| entry(&dir, id).is_none()));
    // The same cluster again, with the same records, on other ports.
    shell.node = Node::start_in(&dir.join("data"), &["--nodes", "3"]).await;
    let again = nodes(&dir);
    for (client, _) in &again {
        wait_until("three copies in sync", || whole(client)).await;
        assert_eq!(client.cluster().await.unwrap().cluster_id, identity);
        assert_eq!(
            values(client, &topic).await,
            expected(&["before", "without"])
        );
    }

    // Who stops a node means it: it stays away, and the others go on.
    shell.run(&["stop", "--id", "broker1"]).ok();
    let left = [again[1].0.clone(), again[2].0.clone()];
    for number in 0..100 {
        send(&left, &topic, format!("stopped-{number}")).await;
    }
    assert!(entry(&dir, "broker1").is_none());
    for id in ["broker2", "broker3"] {
        shell.run(&["stop", "--id", id]).ok();
    }
    assert_eq!(shell.node.wait_end().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_end_with_the_process_that_started_them_and_are_found_again() {
    let mut shell = Shell::start(&["--nodes", "3"]).await;
    let dir = shell.dir.path().to_owned();
    let topic: TopicName = "kept".parse().unwrap();
    let (client, _) = nodes(&dir).swap_remove(0);
    send(&[client], &topic, "kept".into()).await;
    shell.node.kill();
    // The lock on a folder is free when its process has ended, however it ended.
    wait_until("the nodes end", || async {
        let free = |id: &&str| {
            let lock = std::fs::File::open(dir.join("data").join(id).join("lock")).unwrap();
            lock.try_lock().is_ok()
        };
        IDS.iter().all(free)
    })
    .await;
    shell.node = Node::start_in(&dir.join("data"), &["--nodes", "3"]).await;
    let kept = BTreeMap::from([("kept".to_owned(), 1)]);
    assert_eq!(values(&nodes(&dir)[1].0, &topic).await, kept);

    // A service manager tells all processes of a service at once: that is once, for each of them.
    for (_, pid) in nodes(&dir) {
        signal(pid, "-TERM");
    }
    assert_eq!(shell.node.terminate().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_of_several_nodes_is_not_taken_for_that_of_one_or_of_fewer() {
    let mut shell = Shell::start(&["--nodes", "2", "--id", "a"]).await;
    let dir = shell.dir.path().to_owned();
    let client = Client::new(&shell.node.url()).unwrap();
    let nodes = client.cluster().await.unwrap().nodes;
    let ids = nodes.iter().map(|node| node.id.as_str());
    assert_eq!(ids.collect::<BTreeSet<_>>(), BTreeSet::from(["a1", "a2"]));

    let start = |options: &[&str]| {
        let line = ["start", "--listen", "0", "--storage", "data"];
        run(&dir, &[&line[..], options].concat())
    };
    start(&["--nodes", "2", "--id", "a"]).failed(1, "a1 is already running");
    assert_eq!(shell.node.terminate().into_raw(), 0);
    start(&[]).failed(1, "data is the storage of several nodes: a1, a2");
    start(&["--nodes", "2", "--id", "a2"]).failed(1, "a1 would be left out");
    start(&["--nodes", "2", "--test-mode"]).failed(2, "--test-mode tests one node");
    start(&["--nodes", "2", "--join", "127.0.0.1:1"]).failed(2, "join");

    let single = run(&dir, &["start", "--test-mode", "--storage", "one"]);
    single.ok();
    let several = ["start", "--nodes", "3", "--listen", "0", "--storage", "one"];
    run(&dir, &several).failed(1, "one is the storage of a single node");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_start_ends_the_start_with_its_reason() {
    let shell = Shell::start(&["--id", "other"]).await;
    let occupied = shell.node.url().rsplit(':').next().unwrap().to_owned();
    shell
        .run(&["start", "--nodes", "2", "-s", "x", "--listen", &occupied])
        .failed(1, &format!("127.0.0.1:{occupied} is in use"));

    // The second of two cannot have its folder.
    std::fs::create_dir_all(shell.dir.path().join("y")).unwrap();
    std::fs::write(shell.dir.path().join("y/broker2"), "").unwrap();
    let ran = shell.run(&["start", "--nodes", "2", "--storage", "y", "--listen", "0"]);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains("broker2  error: "), "{}", ran.err);
    let last = "ended with exit code 1 before the cluster was ready";
    assert!(ran.err.contains(last), "{}", ran.err);
}
