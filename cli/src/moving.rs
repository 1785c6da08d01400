//! Waiting for what the cluster moves, with its progress shown.

use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use pilgrimage::api::v1::{Cluster, ReplicaMove};
use pilgrimage::client::Client;
use pilgrimage::types::{BrokerId, TopicName};

use crate::cluster;
use crate::failure::Failure;

/// Whether to wait.
#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// Wait until it is done, and show how far it is.
    #[arg(long, short)]
    pub(crate) wait: bool,
}

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// Waits until nothing of a partition is moved any more.
pub(crate) async fn partition(
    client: &Client,
    topic: &TopicName,
    partition: u32,
) -> Result<(), Failure> {
    let bar = bar("{spinner} {msg}", None);
    loop {
        let cluster = client.cluster().await?;
        let this =
            |moving: &&ReplicaMove| moving.topic == topic.as_str() && moving.partition == partition;
        let Some(moving) = cluster.moves.iter().find(this) else {
            bar.finish_and_clear();
            return Ok(());
        };
        let copies = moving.adding.iter();
        let copies = copies.map(|copy| format!("{}: {}", copy.node, cluster::copied(copy)));
        bar.set_message(copies.collect::<Vec<_>>().join("; "));
        bar.tick();
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until a node holds nothing any more. A node that was forgotten meanwhile holds nothing.
pub(crate) async fn node(client: &Client, node: &BrokerId) -> Result<(), Failure> {
    let number = client.describe_node(node).await?.number;
    empty(client, number).await
}

/// The same of the node of this number.
pub(crate) async fn empty(client: &Client, number: u32) -> Result<(), Failure> {
    let mut bar: Option<ProgressBar> = None;
    loop {
        let cluster = client.cluster().await?;
        let left = left(&cluster, number);
        let bar = bar.get_or_insert_with(|| self::bar("{bar:30} {pos}/{len} copies {msg}", left));
        let Some(left) = left.filter(|left| *left != 0) else {
            bar.finish_and_clear();
            return Ok(());
        };
        bar.set_position(bar.length().unwrap_or(left).saturating_sub(left));
        bar.set_message(format!("{} on their way", cluster.moves.len()));
        tokio::time::sleep(LOOK).await;
    }
}

fn left(cluster: &Cluster, number: u32) -> Option<u64> {
    let mut nodes = cluster.nodes.iter();
    nodes
        .find(|node| node.number == number)
        .map(|node| node.replicas)
}

/// Draws on stderr, and only where that is a terminal.
fn bar(style: &str, total: Option<u64>) -> ProgressBar {
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::new_spinner(),
    };
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar
}
