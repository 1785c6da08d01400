//! `start --nodes N`: a cluster on this machine, one process of this program per node.
//!
//! This process starts the nodes, passes on what they log, starts again whichever dies, and ends
//! when all have ended. A node is told to end by the end of its standard input. So it ends as well
//! when this process is killed; and a service manager's signal, which reaches both, is not taken
//! for a second one that does not wait for requests.

mod node;
mod storage;

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use pilgrimage::api::v1::{Cluster, ClusterNode};
use pilgrimage::config::{Config, ConfigError};
use pilgrimage::server::{self, ServerError};
use tokio::sync::watch;

use node::{Node, Orders};
use storage::{Formed, listed};

use crate::failure::Failure;
use crate::output;
use crate::start::{absolute, reserve};

pub(crate) use storage::keep_out;

/// Between two looks at nodes that start.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a cluster may take to be complete before it is said what is missing.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts the nodes and stays with them to the end.
pub(crate) async fn run(config: &Config) -> Result<(), Failure> {
    let formed = Formed::read(&config.storage)?;
    let configs = each_node(config)?;
    let ids: Vec<_> = configs.iter().map(|node| node.id.clone()).collect();
    storage::check(config, formed.as_ref(), &ids)?;
    // Who runs under one of the ids already must not be disturbed.
    for node in &configs {
        drop(reserve(node)?);
    }
    let mut configs = place(config, configs)?;
    storage::prepare(config)?;
    // Later on, a node that has lost its storage must not begin another cluster.
    configs[0].bootstrap = formed.is_none();
    let program = std::env::current_exe()
        .map_err(|error| Failure::failed(format!("find this program: {error}")))?;
    let nodes = configs
        .into_iter()
        .map(|config| Node::new(&program, config));
    let nodes = nodes.collect::<Result<Vec<_>, _>>()?;

    let (orders, _) = watch::channel(Orders::Form);
    let raise = |to: Orders| orders.send_modify(|order| *order = to.max(*order));
    let tended = nodes.iter().map(|node| node.tend(orders.subscribe()));
    let mut tended: FuturesUnordered<_> = tended.collect();
    let mut forming = true;
    let mut complete = pin!(complete(&nodes));
    let mut interrupted = Box::pin(server::interrupted());
    let mut failure = None;
    loop {
        tokio::select! {
            ended = tended.next() => match ended {
                None => return failure.map_or(Ok(()), Err),
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    forming = false;
                    failure.get_or_insert(error);
                    raise(Orders::End);
                }
            },
            () = &mut complete, if forming => {
                forming = false;
                if let Err(error) = (Formed { nodes: ids.clone() }).write(&config.storage) {
                    tracing::error!("the storage could not be marked as that of a cluster: {error}");
                }
                raise(Orders::Run);
                // Whether anybody reads this is not what the nodes live for.
                let _ = output::line(&greeting(config, &nodes));
            }
            () = &mut interrupted => {
                let first = *orders.borrow() < Orders::End;
                forming = false;
                raise(if first { Orders::End } else { Orders::EndNow });
                interrupted.set(server::interrupted());
            }
        }
    }
}

/// The nodes' configurations, with ports of our own choice if it is left to us.
fn each_node(config: &Config) -> Result<Vec<Config>, ConfigError> {
    let mut config = config.clone();
    if config.listen.port() == 0 {
        // Below the ports that systems hand out by themselves (from 32768 on): a node that is
        // started again finds its own still free.
        let chosen = 10_000 + uuid::Uuid::new_v4().as_u128() % 20_000;
        config.listen.set_port(chosen as u16);
    }
    config.each_node()
}

/// The nodes' configurations, with ports that are free: `nodes`, or others if the choice is ours.
fn place(config: &Config, mut nodes: Vec<Config>) -> Result<Vec<Config>, Failure> {
    let mut tries = if config.listen.port() == 0 { 100 } else { 0 };
    while let Err(error) = take(&nodes) {
        if tries == 0 {
            return Err(error);
        }
        tries -= 1;
        nodes = each_node(config)?;
    }
    Ok(nodes)
}

/// Takes every address of the nodes for a moment, to see whether all are free.
fn take(nodes: &[Config]) -> Result<(), Failure> {
    let mut taken = Vec::new();
    for node in nodes {
        let listener = TcpListener::bind(node.listen);
        taken.push(listener.map_err(|source| cannot_listen(node.listen, source))?);
        let Some(peers) = node.peer_listen else {
            continue;
        };
        let for_peers = |source| {
            let failure = cannot_listen(peers, source);
            failure.hint("other nodes reach a node there; --peer-listen chooses the first's")
        };
        taken.push(TcpListener::bind(peers).map_err(for_peers)?);
        UdpSocket::bind(peers).map_err(for_peers)?;
    }
    Ok(())
}

fn cannot_listen(address: SocketAddr, source: std::io::Error) -> Failure {
    match source.kind() {
        std::io::ErrorKind::AddrInUse => ServerError::AddressInUse(address).into(),
        _ => ServerError::Listen { address, source }.into(),
    }
}

/// Returns when every node works and is known to every other, and as many vote as may.
async fn complete(nodes: &[Node]) {
    let mut since = Instant::now();
    while let Some(missing) = missing(nodes).await {
        if PATIENCE < since.elapsed() {
            since = Instant::now();
            tracing::warn!("the cluster is not complete yet: {missing}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn missing(nodes: &[Node]) -> Option<String> {
    for node in nodes {
        match node.client.cluster().await {
            Err(error) => return Some(format!("{}: {error}", node.config.id)),
            Ok(cluster) => {
                let ids = nodes.iter().map(|node| node.config.id.as_str());
                if let Some(missing) = missing_in(&cluster, ids) {
                    return Some(format!("{} says that {missing}", node.config.id));
                }
            }
        }
    }
    None
}

fn missing_in<'a>(cluster: &Cluster, ids: impl Iterator<Item = &'a str>) -> Option<String> {
    for id in ids {
        match cluster.nodes.iter().find(|node| node.id == id) {
            None => return Some(format!("{id} has not joined")),
            Some(node) if !["active", "draining"].contains(&node.status.as_str()) => {
                return Some(format!("{id} is {}", node.status));
            }
            Some(_) => {}
        }
    }
    let stays = |node: &&ClusterNode| node.status != "draining" && !node.url.is_empty();
    let wanted = match cluster.nodes.iter().filter(stays).count() {
        0..=2 => 1,
        3 | 4 => 3,
        _ => 5,
    };
    let voters = cluster.nodes.iter().filter(|node| node.voter).count();
    match (&cluster.controller, voters < wanted) {
        (None, _) => Some("nobody controls the cluster".into()),
        (_, true) => Some(format!("{voters} of {wanted} vote")),
        (_, false) => None,
    }
}

fn greeting(config: &Config, nodes: &[Node]) -> String {
    let ids: Vec<_> = nodes.iter().map(|node| node.config.id.clone()).collect();
    let first = nodes.first().map_or("", |node| node.client.url());
    let urls: Vec<_> = nodes.iter().map(|node| node.client.url()).collect();
    let peers = nodes.iter().filter_map(|node| node.config.peer_listen);
    let peers: Vec<_> = peers.map(|peer| peer.to_string()).collect();
    let lines = output::fields(&[
        ("  Console", format!("{first}/")),
        ("  API", format!("{first}/v1")),
        ("  Docs", format!("{first}/docs")),
        ("  Nodes", urls.join(", ")),
        ("  Data", absolute(&config.storage).display().to_string()),
        ("  Peers", peers.join(", ")),
    ]);
    format!("Brokers {} are ready.\n{lines}", listed(&ids))
}

#[cfg(test)]
mod tests {
    use pilgrimage::config::Options;

    use super::*;

    #[test]
    fn ports_that_are_left_to_choose_are_free_and_below_those_that_systems_hand_out() {
        let options = Options {
            nodes: Some(3),
            listen: Some("0".into()),
            ..Options::default()
        };
        let config = Config::load(options, None).unwrap();
        let nodes = place(&config, each_node(&config).unwrap()).unwrap();
        take(&nodes).unwrap();
        assert!(
            nodes
                .iter()
                .all(|node| (10_000..32_768).contains(&node.listen.port()))
        );

        let occupied = TcpListener::bind(nodes[1].peer_listen.unwrap()).unwrap();
        let error = take(&nodes).unwrap_err();
        let address = occupied.local_addr().unwrap().to_string();
        assert!(error.message.contains(&address), "{}", error.message);
    }
}
