//! `node`: a node, its load and its storage.

use clap::Args;

use crate::failure::Failure;
use crate::output::{self, Output, bytes};
use crate::target::Target;

/// Describe the node that commands speak to.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {}

/// Runs `node`.
pub(crate) async fn run(_: NodeArgs, target: &Target, output: Output) -> Result<(), Failure> {
    let client = target.client()?;
    let node = client.node().await?;
    output.one(&node, || {
        let saved = node.appended_bytes.saturating_sub(node.bytes);
        let per_fsync = node.fsync_seconds * 1e3 / (node.fsyncs.max(1) as f64);
        output::fields(&[
            ("Broker", node.id.clone()),
            ("Address", client.url().to_owned()),
            ("State", node.state.clone()),
            ("Version", node.version.clone()),
            ("Started", node.started_at.clone()),
            ("Brokers", node.brokers.join(", ")),
            ("Storage", node.storage.clone()),
            (
                "Topics",
                format!("{} with {} partitions", node.topics, node.partitions),
            ),
            (
                "Log",
                format!(
                    "{} ({} saved by compression)",
                    bytes(node.bytes),
                    bytes(saved)
                ),
            ),
            (
                "Disk",
                format!(
                    "{} free of {}",
                    bytes(node.disk_free),
                    bytes(node.disk_total)
                ),
            ),
            ("Memory", bytes(node.memory)),
            ("CPU", format!("{:.1} s", node.cpu_seconds)),
            (
                "In",
                format!("{} records, {}", node.records_in, bytes(node.bytes_in)),
            ),
            (
                "Out",
                format!("{} records, {}", node.records_out, bytes(node.bytes_out)),
            ),
            ("Fsyncs", format!("{}, {per_fsync:.2} ms each", node.fsyncs)),
            (
                "Requests",
                format!("{} on {} open connections", node.requests, node.connections),
            ),
        ])
    })
}
