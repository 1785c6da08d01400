//! Nodes: `node list|describe|drain|undrain|remove|replace`.

use clap::{Args, Subcommand};
use pilgrimage::api::v1::{ClusterNode, HeldPartition};
use pilgrimage::client::Client;
use pilgrimage::types::BrokerId;
use serde::Serialize;

use crate::failure::Failure;
use crate::moving::{self, Wait};
use crate::output::{self, Output, bytes};
use crate::target::Target;

/// Describe nodes, and let them come and go.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the nodes of the cluster, with their load.
    List,
    /// Describe a node and what it holds; without an id, the one that commands speak to (the default).
    Describe {
        /// Its id.
        node: Option<BrokerId>,
    },
    /// Make a node give everything away, before it leaves.
    Drain {
        /// Its id.
        node: BrokerId,
        #[command(flatten)]
        wait: Wait,
    },
    /// Let a node that was draining, or being replaced, keep what it has.
    Undrain {
        /// Its id.
        node: BrokerId,
    },
    /// Forget a node that holds nothing and is not at work.
    Remove {
        /// Its id.
        node: BrokerId,
    },
    /// Give what a node has to another one, and forget it: for a node that will not come back.
    ///
    /// Of two nodes of one id, the older is replaced by the newer: start the new one under the old
    /// one's id, then name that id alone.
    Replace {
        /// The node that goes.
        old: BrokerId,
        /// The node that gets what it has; without one, those with most room.
        new: Option<BrokerId>,
        #[command(flatten)]
        wait: Wait,
    },
}

/// Runs `node`.
pub(crate) async fn run(args: NodeArgs, target: &Target, output: Output) -> Result<(), Failure> {
    let client = target.client()?;
    match args.action.unwrap_or(Action::Describe { node: None }) {
        Action::List => {
            let nodes = client.nodes().await?.nodes;
            output.many(&nodes, || table(&nodes))
        }
        Action::Describe { node: None } => asked(&client, output).await,
        Action::Describe { node: Some(node) } => describe(&client, &node, output).await,
        Action::Drain { node, wait } => {
            client.drain_node(&node, true).await?;
            if !wait.wait {
                return output::line(&format!("Node {node} gives everything away."));
            }
            moving::node(&client, &node).await?;
            output::line(&format!("Node {node} holds nothing any more."))
        }
        Action::Undrain { node } => {
            client.drain_node(&node, false).await?;
            output::line(&format!("Node {node} keeps what it has."))
        }
        Action::Remove { node } => {
            client.remove_node(&node).await?;
            output::line(&format!("Node {node} is forgotten."))
        }
        Action::Replace { old, new, wait } => replace(&client, &old, new.as_ref(), &wait).await,
    }
}

async fn replace(
    client: &Client,
    old: &BrokerId,
    new: Option<&BrokerId>,
    wait: &Wait,
) -> Result<(), Failure> {
    client.replace_node(old, new).await?;
    // The node that goes may have lost its name to the new one.
    let nodes = client.nodes().await?.nodes;
    let named = |node: &&ClusterNode| node.id == old.as_str() || node.name == old.as_str();
    let mut going = nodes.iter().filter(named);
    let going = going.find(|node| node.replaced_by.is_some());
    let to = match new {
        Some(new) => format!("node {new}"),
        None => match going.and_then(|node| node.replaced_by.as_deref()) {
            None | Some("any") => "other nodes".into(),
            Some(heir) => format!("node {heir}"),
        },
    };
    if !wait.wait {
        return output::line(&format!(
            "What node {old} has goes to {to}; then it is forgotten, once it is not at work."
        ));
    }
    if let Some(going) = going {
        moving::empty(client, going.number).await?;
    }
    output::line(&format!("What node {old} had is on {to}."))
}

/// Nodes, one a line.
pub(crate) fn table(nodes: &[ClusterNode]) -> String {
    let rows = nodes.iter().map(|node| {
        let load = node.report.as_ref().map(|report| &report.load);
        let rate = |of: Option<f64>| match of {
            Some(rate) => format!("{}/s", bytes(rate as u64)),
            None => "-".into(),
        };
        let disk = node.report.as_ref().map(|report| {
            let free = bytes(report.disk_free);
            format!("{free} of {}", bytes(report.disk_total))
        });
        vec![
            node.id.clone(),
            state(node),
            role(node).into(),
            node.leads.to_string(),
            node.replicas.to_string(),
            node.in_sync.to_string(),
            rate(load.map(|load| load.bytes_in)),
            rate(load.map(|load| load.bytes_out)),
            disk.unwrap_or_else(|| "-".into()),
            node.url.clone(),
        ]
    });
    output::table(
        &[
            "NODE", "STATE", "METADATA", "LEADS>", "COPIES>", "IN SYNC>", "IN>", "OUT>", "FREE>",
            "URL",
        ],
        rows.collect(),
    )
}

fn role(node: &ClusterNode) -> &'static str {
    match (node.controller, node.voter) {
        (true, _) => "controller",
        (false, true) => "votes",
        (false, false) => "follows",
    }
}

/// How a node is, in a few words.
fn state(node: &ClusterNode) -> String {
    let mut state = match (node.status.as_str(), node.silent_ms) {
        ("fenced", Some(silent)) => format!("silent for {} s", silent / 1000),
        ("fenced", None) => "silent".into(),
        (status, _) => status.to_owned(),
    };
    match node.replaced_by.as_deref() {
        Some("any") => state.push_str(", being replaced"),
        Some(heir) => state.push_str(&format!(", replaced by {heir}")),
        None if node.draining && node.status != "draining" => state.push_str(", draining"),
        None => {}
    }
    state
}

/// A node and what it holds.
#[derive(Debug, Serialize)]
struct Described {
    #[serde(flatten)]
    node: ClusterNode,
    partitions: Vec<HeldPartition>,
}

async fn describe(client: &Client, id: &BrokerId, output: Output) -> Result<(), Failure> {
    let node = client.describe_node(id).await?;
    let mut partitions = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let page = client.held_by(id, token.as_deref()).await?;
        partitions.extend(page.partitions);
        match page.next_page_token {
            Some(next) => token = Some(next),
            None => break,
        }
    }
    let described = Described { node, partitions };
    output.one(&described, || shown(&described))
}

fn shown(described: &Described) -> String {
    let Described { node, partitions } = described;
    let or_none = |text: &str| match text {
        "" => "none".to_owned(),
        text => text.to_owned(),
    };
    let mut fields = vec![
        ("Node", node.id.clone()),
        ("State", state(node)),
        (
            "Number",
            format!("{}, incarnation {}", node.number, node.incarnation),
        ),
        ("Since", node.registered_at.clone()),
        ("URL", or_none(&node.url)),
        ("Peers", or_none(&node.peer)),
        ("Rack", node.rack.clone().unwrap_or_else(|| "none".into())),
        ("Metadata", role(node).into()),
        (
            "Partitions",
            format!(
                "leads {}, holds {}, {} in sync",
                node.leads, node.replicas, node.in_sync
            ),
        ),
    ];
    if let Some(report) = &node.report {
        let load = &report.load;
        fields.extend([
            ("Version", report.version.clone()),
            ("Up for", output::span(report.uptime_ms)),
            (
                "In",
                format!(
                    "{:.0} records/s, {}/s",
                    load.records_in,
                    bytes(load.bytes_in as u64)
                ),
            ),
            (
                "Out",
                format!(
                    "{:.0} records/s, {}/s",
                    load.records_out,
                    bytes(load.bytes_out as u64)
                ),
            ),
            ("Copied", format!("{}/s", bytes(load.copied_bytes as u64))),
            ("CPU", format!("{:.0} % of a core", load.cpu * 100.0)),
            ("Memory", bytes(report.memory)),
            (
                "Disk",
                format!(
                    "{} free of {}, {} of logs",
                    bytes(report.disk_free),
                    bytes(report.disk_total),
                    bytes(report.bytes)
                ),
            ),
            ("Gossip hears", report.hears.join(", ")),
            (
                "Metadata log",
                format!(
                    "term {}, entry {} of {} applied",
                    report.metadata.term,
                    report.metadata.applied.unwrap_or_default(),
                    report.metadata.last_log.unwrap_or_default()
                ),
            ),
        ]);
        for problem in &report.problems {
            fields.push(("Problem", problem.clone()));
        }
    }
    let mut text = output::fields(&fields);
    if !partitions.is_empty() {
        let rows = partitions.iter().map(|held| {
            vec![
                format!("{}/{}", held.topic, held.partition),
                held.copy.role.replace('_', " "),
                held.leader.clone().unwrap_or_else(|| "nobody".into()),
                format!("{} of {}", held.in_sync, held.replicas),
                held.copy
                    .lag
                    .map_or_else(|| "-".into(), |lag| lag.to_string()),
                held.bytes.map_or_else(|| "-".into(), bytes),
            ]
        });
        text.push_str("\n\n");
        text.push_str(&output::table(
            &["PARTITION", "ROLE", "LEADER", "IN SYNC>", "LAG>", "SIZE>"],
            rows.collect(),
        ));
    }
    text
}

/// The node that was asked, its counters and its storage.
async fn asked(client: &Client, output: Output) -> Result<(), Failure> {
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
