//! Three real nodes: what one acknowledges, all keep, whatever happens to any of them.
//!
//! Each run has load that never ends and a number of rounds, in each of which something is done to
//! the nodes: few rounds in the default run, as many as `PILGRIMAGE_CLUSTER_ROUNDS` says on
//! demand, such as
//! `PILGRIMAGE_CLUSTER_ROUNDS=100 cargo test -p pilgrimage-cli --test it cluster::kill -- --nocapture`.
//! Afterwards the copies of every partition must be the same, byte for byte, and hold what was
//! promised.

mod apart;
mod clock;
mod copies;
mod disk;
mod history;
mod kill;
mod load;
mod network;
mod nodes;
mod pause;
mod rolling;
mod run;

use std::path::Path;
use std::process::Stdio;

use pilgrimage::client::{ProduceOptions, Publish};
use pilgrimage::types::{Partition, TopicName, TopicPatch};

pub(crate) use crate::crash::PARTITIONS;
use crate::crash::read_all;
use crate::support::{Node, command};
use nodes::Cluster;
pub(crate) use nodes::TURN;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_through_one_node_is_read_through_every_other_at_once() {
    let cluster = Cluster::start().await;
    let topic: TopicName = "shared".parse().unwrap();
    let patch = TopicPatch {
        partitions: Some(PARTITIONS),
        ..TopicPatch::default()
    };
    cluster.create(&topic, patch).await;
    let clients = cluster.clients();
    for (partition, writer) in clients.iter().enumerate() {
        let options = ProduceOptions {
            partition: Some(Partition(partition as u32)),
            ..ProduceOptions::default()
        };
        let message = Publish::new(format!("{partition}"));
        writer.publish(&topic, &message, &options).await.unwrap();
    }
    for reader in clients {
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
