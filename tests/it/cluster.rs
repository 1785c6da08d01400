//! Three real nodes: what one acknowledges, all keep, whichever of them is killed.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use pilgrimage::client::{Client, ProduceOptions, Publish};
use pilgrimage::types::{Outcome, Partition, TopicName, TopicPatch};

use crate::crash::{History, PARTITIONS, PRODUCERS, Sent, broken_promises, read_all};
use crate::support::{Node, command, wait_until};

pub(crate) const NAMES: [&str; 3] = ["one", "two", "three"];

pub(crate) struct Cluster {
    dir: tempfile::TempDir,
    pub(crate) nodes: Vec<Node>,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Self {
            dir,
            nodes: Vec::new(),
        };
        for name in NAMES {
            let node = cluster.run(name).await;
            cluster.nodes.push(node);
        }
        let client = cluster.nodes[0].client();
        wait_until("three voters", || async {
            let cluster = client.cluster().await;
            cluster.is_ok_and(|cluster| cluster.nodes.iter().filter(|node| node.voter).count() == 3)
        })
        .await;
        cluster
    }

    fn storage(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a node, or starts it again: it joins whoever runs.
    pub(crate) async fn run(&self, name: &str) -> Node {
        let secret = self.storage("one").join("cluster.key");
        let mut arguments = vec!["--id".to_owned(), name.to_owned()];
        let others: Vec<&str> = self.nodes.iter().map(Node::peers).collect();
        if name != "one" || self.storage("one").join("metadata.db").exists() {
            arguments.extend(["--join".to_owned(), others.join(",")]);
            let secret = secret.display().to_string();
            arguments.extend(["--cluster-secret-file".to_owned(), secret]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Node::start_in(&self.storage(name), &arguments).await
    }

    pub(crate) fn clients(&self) -> Vec<Client> {
        self.nodes.iter().map(Node::client).collect()
    }
}

pub(crate) fn replicated() -> TopicPatch {
    TopicPatch {
        partitions: Some(PARTITIONS),
        replication_factor: Some(3),
        min_insync_replicas: Some(2),
        ..TopicPatch::default()
    }
}

/// Waits until every partition has a leader and three replicas in sync, as `client`'s node sees it.
pub(crate) async fn all_in_sync(client: &Client, topic: &TopicName) {
    wait_until("three replicas in sync", || async {
        let partitions = client.partitions(topic).await;
        partitions.is_ok_and(|list| {
            let partitions = list.partitions;
            let whole = |partition: &pilgrimage::api::v1::PartitionInfo| {
                partition.leader.is_some() && partition.isr.len() == 3
            };
            partitions.len() == PARTITIONS as usize && partitions.iter().all(whole)
        })
    })
    .await;
}

async fn produce(
    clients: Vec<Client>,
    topic: TopicName,
    producer: usize,
    from: usize,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
) -> History {
    let mut history = History::new();
    let options = ProduceOptions {
        partition: Some(Partition(producer as u32 % PARTITIONS)),
        ..ProduceOptions::default()
    };
    let mut at = producer;
    while !stop.load(Ordering::Relaxed) {
        let value = format!("{producer}-{}", from + history.len());
        let client = &clients[at % clients.len()];
        let sent = match client
            .publish(&topic, &Publish::new(value.clone()), &options)
            .await
        {
            Ok(published) => {
                acknowledged.fetch_add(1, Ordering::Relaxed);
                let position = published.position.unwrap();
                Sent::Acknowledged(position.partition, position.offset)
            }
            Err(error) => {
                // Another node may be alive.
                at += 1;
                match error.outcome() {
                    Outcome::Refused => Sent::Refused,
                    Outcome::Unknown | Outcome::Applied => Sent::Unknown,
                }
            }
        };
        history.push((value, sent));
    }
    history
}

/// Kills per run: a few in the default run, more on demand.
pub(crate) fn rounds() -> usize {
    std::env::var("PILGRIMAGE_CLUSTER_ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(3)
}

#[tokio::test(flavor = "multi_thread")]
// The count is what a passed run is worth.
#[allow(clippy::print_stdout)]
async fn kill_9_of_any_node_under_load_loses_nothing_acknowledged_and_doubles_nothing() {
    let mut cluster = Cluster::start().await;
    let topic: TopicName = "kept".parse().unwrap();
    let client = cluster.nodes[0].client();
    client.create_topic(&topic, &replicated()).await.unwrap();
    all_in_sync(&client, &topic).await;
    let mut histories = vec![History::new(); PRODUCERS];
    for round in 0..rounds() {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let producing: Vec<_> = (0..PRODUCERS)
            .map(|producer| {
                tokio::spawn(produce(
                    cluster.clients(),
                    topic.clone(),
                    producer,
                    histories[producer].len(),
                    stop.clone(),
                    acknowledged.clone(),
                ))
            })
            .collect();
        let reached = |count: usize| {
            let acknowledged = acknowledged.clone();
            move || {
                let acknowledged = acknowledged.clone();
                async move { count <= acknowledged.load(Ordering::Relaxed) }
            }
        };
        wait_until("progress", reached(100)).await;
        let victim = round % NAMES.len();
        cluster.nodes[victim].kill();
        // Writes go on without it, through whichever nodes are left.
        let so_far = acknowledged.load(Ordering::Relaxed);
        wait_until("progress without the dead node", reached(so_far + 100)).await;
        stop.store(true, Ordering::Relaxed);
        for (producer, task) in producing.into_iter().enumerate() {
            histories[producer].extend(task.await.unwrap());
        }
        cluster.nodes[victim] = cluster.run(NAMES[victim]).await;
        all_in_sync(&cluster.nodes[victim].client(), &topic).await;
    }
    let acknowledged = histories.iter().flatten();
    let acknowledged = acknowledged.filter(|(_, sent)| matches!(sent, Sent::Acknowledged(..)));
    println!(
        "{} kills, {} acknowledged records, 0 may be lost",
        rounds(),
        acknowledged.count()
    );
    for node in &cluster.nodes {
        let log = read_all(&node.client(), &topic).await;
        assert_eq!(broken_promises(&histories, &log), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_through_one_node_is_read_through_every_other_at_once() {
    let cluster = Cluster::start().await;
    let topic: TopicName = "shared".parse().unwrap();
    let clients = cluster.clients();
    clients[1]
        .create_topic(&topic, &replicated())
        .await
        .unwrap();
    for (partition, writer) in clients.iter().enumerate() {
        let options = ProduceOptions {
            partition: Some(Partition(partition as u32)),
            ..ProduceOptions::default()
        };
        let message = Publish::new(format!("{partition}"));
        writer.publish(&topic, &message, &options).await.unwrap();
    }
    for reader in &clients {
        let log = read_all(reader, &topic).await;
        let values: Vec<_> = log.into_values().collect();
        assert_eq!(values, [["0"], ["1"], ["2"]]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_join_is_told_why_in_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let first = Node::start_in(&dir.path().join("one"), &["--id", "one"]).await;
    let secret = |name: &str| {
        dir.path()
            .join(name)
            .join("cluster.key")
            .display()
            .to_string()
    };
    let refused = |storage: &str, arguments: &[&str]| said(dir.path(), storage, arguments);

    let why = refused("two", &["--id", "two", "--join", first.peers()]);
    assert!(why.contains("--cluster-secret-file"), "{why}");
    let own = secret("one");
    let same_name = [
        "--id",
        "one",
        "--join",
        first.peers(),
        "--cluster-secret-file",
        &own,
    ];
    let why = refused("three", &same_name);
    assert!(why.contains("already goes by the name one"), "{why}");
    drop(first);
}

/// What a start says that does not succeed.
fn said(dir: &Path, storage: &str, arguments: &[&str]) -> String {
    // As on a machine of its own, where nobody runs under that id.
    let ended = command(&dir.join(format!("{storage}-home")))
        .args(["start", "--listen", "127.0.0.1:0", "--storage"])
        .arg(dir.join(storage))
        .args(arguments)
        .stdout(Stdio::null())
        .output()
        .unwrap();
    assert!(!ended.status.success());
    String::from_utf8(ended.stderr).unwrap()
}
