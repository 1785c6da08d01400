//! The cluster: `cluster status|reassign|lead`.

use clap::{Args, Subcommand};
use pilgrimage::api::v1::{Cluster, Copying, Finding};
use pilgrimage::types::{BrokerId, Partition, TopicName};

use crate::failure::Failure;
use crate::moving::{self, Wait};
use crate::output::{self, Output, bytes};
use crate::target::Target;

/// Show the cluster, and move what it holds.
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show what is wrong, the nodes, and what is being moved (the default).
    Status,
    /// Move a partition's replicas to these nodes; without nodes, take back a move.
    Reassign {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: u32,
        /// Nodes, the first preferred as leader.
        nodes: Vec<BrokerId>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Make an in-sync replica the leader of a partition.
    Lead {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: u32,
        /// The node.
        node: BrokerId,
        /// Of a partition that nobody leads: acknowledged records that only others have are lost.
        #[arg(long)]
        unclean: bool,
    },
}

/// Runs `cluster`.
pub(crate) async fn run(args: ClusterArgs, target: &Target, output: Output) -> Result<(), Failure> {
    let client = target.client()?;
    match args.action.unwrap_or(Action::Status) {
        Action::Status => {
            let cluster = client.cluster().await?;
            output.one(&cluster, || shown(&cluster))
        }
        Action::Reassign {
            topic,
            partition,
            nodes,
            wait,
        } => {
            client
                .reassign(&topic, Partition(partition), &nodes)
                .await?;
            if nodes.is_empty() {
                return output::line("The former replicas stay.");
            }
            if !wait.wait {
                return output::line(
                    "The replicas are on their way: see pilgrimage cluster status.",
                );
            }
            moving::partition(&client, &topic, partition).await?;
            let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
            let nodes = nodes.join(", ");
            output::line(&format!(
                "The replicas of {topic}/{partition} are on {nodes}."
            ))
        }
        Action::Lead {
            topic,
            partition,
            node,
            unclean,
        } => {
            let partition = Partition(partition);
            client.elect(&topic, partition, &node, unclean).await?;
            output::line(&format!("Node {node} leads {topic}/{partition}."))
        }
    }
}

/// A finding as people read it.
pub(crate) fn told(finding: &Finding) -> String {
    let mut text = format!("{}: {}", finding.severity, finding.text);
    if let Some(hint) = &finding.hint {
        text.push_str(&format!("\n    {hint}"));
    }
    text
}

/// How far a copy is, as people read it.
pub(crate) fn copied(copy: &Copying) -> String {
    match (copy.copied, copy.total) {
        (Some(copied), Some(total)) => {
            let percent = match total {
                0 => 100,
                total => copied * 100 / total,
            };
            let of = bytes(copy.bytes);
            format!("{percent} % ({copied} of {total} records, {of} in all)")
        }
        _ => "its leader does not say how far it is".into(),
    }
}

fn shown(cluster: &Cluster) -> String {
    let counts = &cluster.partitions;
    let controller = cluster.controller.as_deref().unwrap_or("nobody");
    let health = match cluster.findings.first() {
        None => "all is well".to_owned(),
        Some(_) => {
            let findings: Vec<String> = cluster.findings.iter().map(told).collect();
            format!("see below\n\n{}\n", findings.join("\n"))
        }
    };
    let mut text = output::fields(&[
        ("Cluster", cluster.cluster_id.clone()),
        (
            "Controller",
            format!("{controller} (term {})", cluster.term),
        ),
        (
            "Partitions",
            format!(
                "{}: {} without leader, {} under-replicated, {} below their minimum",
                counts.total,
                counts.without_leader,
                counts.under_replicated,
                counts.under_min_in_sync
            ),
        ),
        ("Health", health),
    ]);
    text.push_str("\n\n");
    text.push_str(&crate::node::table(&cluster.nodes));
    if !cluster.moves.is_empty() {
        let mut rows = Vec::new();
        for moving in &cluster.moves {
            let name = format!("{}/{}", moving.topic, moving.partition);
            let from = moving.removing.join(", ");
            if moving.adding.is_empty() {
                rows.push(vec![
                    name.clone(),
                    "-".into(),
                    from.clone(),
                    "ending".into(),
                ]);
            }
            for copy in &moving.adding {
                rows.push(vec![
                    name.clone(),
                    copy.node.clone(),
                    from.clone(),
                    copied(copy),
                ]);
            }
        }
        text.push_str("\n\n");
        text.push_str(&output::table(&["MOVING", "TO", "FROM", "COPIED"], rows));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_written_in_parts_of_the_whole() {
        let copy = |copied, total| Copying {
            node: "two".into(),
            in_sync: false,
            copied,
            total,
            bytes: 2048,
        };
        for (copy, text) in [
            (
                copy(Some(30), Some(120)),
                "25 % (30 of 120 records, 2.0 KiB in all)",
            ),
            (
                copy(Some(0), Some(0)),
                "100 % (0 of 0 records, 2.0 KiB in all)",
            ),
            (copy(None, None), "its leader does not say how far it is"),
        ] {
            assert_eq!(copied(&copy), text);
        }
    }
}
