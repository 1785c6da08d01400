//! Three nodes on ports that they choose themselves, for tests of what works on any cluster.

use std::path::PathBuf;

use pilgrimage::client::Client;
use pilgrimage::types::{TopicName, TopicPatch};
use tokio::sync::MutexGuard;

use crate::cluster::TURN;
use crate::crash::PARTITIONS;
use crate::support::{Node, wait_until};

pub(crate) const NAMES: [&str; 3] = ["one", "two", "three"];

pub(crate) struct Cluster {
    dir: tempfile::TempDir,
    pub(crate) nodes: Vec<Node>,
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let turn = TURN.lock().await;
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Self {
            dir,
            nodes: Vec::new(),
            _turn: turn,
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

/// How many rounds a run is asked for.
pub(crate) fn rounds() -> usize {
    std::env::var("PILGRIMAGE_CLUSTER_ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(3)
}
