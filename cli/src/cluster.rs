//! The cluster: `cluster status|drain|undrain|remove|reassign|lead`.

use clap::{Args, Subcommand};
use pilgrimage::api::v1::Cluster;
use pilgrimage::types::{BrokerId, Partition, TopicName};

use crate::failure::Failure;
use crate::output::{self, Output};
use crate::target::Target;

/// Show the cluster, and move what it holds.
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show nodes, leaders and problems (the default).
    Status,
    /// Make a node give everything away, before it leaves.
    Drain {
        /// Its id.
        node: BrokerId,
    },
    /// Let a node that was draining keep what it has.
    Undrain {
        /// Its id.
        node: BrokerId,
    },
    /// Forget a node that holds nothing and is not at work.
    Remove {
        /// Its id.
        node: BrokerId,
    },
    /// Move a partition's replicas to these nodes; without nodes, take back a move.
    Reassign {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: u32,
        /// Nodes, the first preferred as leader.
        nodes: Vec<BrokerId>,
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
        Action::Drain { node } => {
            client.drain_node(&node, true).await?;
            output::line(&format!("Node {node} gives everything away."))
        }
        Action::Undrain { node } => {
            client.drain_node(&node, false).await?;
            output::line(&format!("Node {node} keeps what it has."))
        }
        Action::Remove { node } => {
            client.remove_node(&node).await?;
            output::line(&format!("Node {node} is forgotten."))
        }
        Action::Reassign {
            topic,
            partition,
            nodes,
        } => {
            client
                .reassign(&topic, Partition(partition), &nodes)
                .await?;
            output::line(match nodes.is_empty() {
                true => "The former replicas stay.",
                false => "The replicas are on their way.",
            })
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

fn shown(cluster: &Cluster) -> String {
    let counts = &cluster.partitions;
    let controller = cluster.controller.as_deref().unwrap_or("nobody");
    let mut text = output::fields(&[
        ("Cluster", cluster.cluster_id.clone()),
        ("Controller", format!("{controller}, term {}", cluster.term)),
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
    ]);
    for node in &cluster.nodes {
        let voter = if node.voter { ", votes" } else { "" };
        text.push_str(&format!(
            "\n{}: {}{voter}, leads {} of {} replicas, {} in sync, {}",
            node.id, node.status, node.leads, node.replicas, node.in_sync, node.peer
        ));
    }
    for moving in &cluster.moves {
        text.push_str(&format!(
            "\nmoving {}/{}: to {}, from {}",
            moving.topic,
            moving.partition,
            moving.adding.join(", "),
            moving.removing.join(", ")
        ));
    }
    for problem in &cluster.problems {
        text.push_str(&format!("\nproblem: {problem}"));
    }
    text
}
