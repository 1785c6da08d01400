//! Becoming a node of a cluster, and staying one.
//!
//! A node with an empty directory begins a cluster of its own, or asks one of the nodes that it
//! was told to join. Whoever leads the metadata takes it in as a learner; the controller makes it
//! a voter when one is wanted. At every start the node registers its process (PROTOCOL N2), and
//! leads and follows nothing before it has.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::lifecycle::{ClusterOptions, Inner};
use super::peer::wire::{Join, Joined, RAFT};
use super::peer::{AskError, Peering, ask_at};
use super::{Broker, OpenError};
use crate::cluster::{Lane, PeerError, Peers, Probe};
use crate::metadata::{
    Applied, ApplyError, Command, Loss, RaftRpc, RaftTransport, Registration, Rejected, Store,
    Unreachable,
};
use crate::partition;
use crate::types::{BrokerId, NodeId, Outcome, Timestamp};
use uuid::Uuid;

/// How long a node looks for its cluster before it gives up.
const SEARCH: Duration = Duration::from_secs(60);
/// How long it waits between two looks.
const AGAIN: Duration = Duration::from_millis(200);
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a raft message may take; raft itself gives up earlier on most.
const RAFT_PATIENCE: Duration = Duration::from_secs(10);
/// How long a piece of a snapshot may take on a slow network: as long as raft allows.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(60);

/// Carries raft's messages over the plane between nodes. It exists before the store does, whose
/// view says where the nodes are.
#[derive(Default)]
pub(super) struct Wires(std::sync::OnceLock<Peering>);

impl Wires {
    pub(super) fn connect(&self, peering: Peering) {
        // Called once, by the broker that made both.
        let _ = self.0.set(peering);
    }
}

impl RaftTransport for Wires {
    fn call(
        &self,
        to: NodeId,
        rpc: RaftRpc,
        body: Bytes,
    ) -> BoxFuture<'_, Result<Bytes, Unreachable>> {
        Box::pin(async move {
            let unknown = || Unreachable {
                sent: false,
                why: "it is not known where the node is".into(),
            };
            let peer = self.0.get().and_then(|peering| peering.peer(to));
            let peer = peer.ok_or_else(unknown)?;
            let lane = match rpc {
                RaftRpc::Snapshot => Lane::Bulk,
                _ => Lane::Control,
            };
            let path = format!("{RAFT}{}", rpc.as_str());
            let patience = match rpc {
                RaftRpc::Snapshot => SNAPSHOT_PATIENCE,
                _ => RAFT_PATIENCE,
            };
            let answer = peer.call(lane, &path, body, patience).await;
            answer.map_err(|error: PeerError| Unreachable {
                sent: error.outcome() != Outcome::Refused,
                why: partition::chain(&error),
            })
        })
    }
}

/// Who a node is, for those that it joins.
pub(super) struct Newcomer<'a> {
    pub(super) id: NodeId,
    pub(super) name: &'a BrokerId,
    pub(super) disk: Uuid,
    pub(super) peer: &'a str,
}

/// Finds the cluster that a node with an empty directory shall be part of: that of the nodes it
/// was told to join, or, if none of them has one and it may, a new one.
pub(super) async fn enter(
    store: &Store,
    peers: &Peers,
    peering: &Peering,
    options: &ClusterOptions,
    newcomer: Newcomer<'_>,
) -> Result<(), OpenError> {
    let failed = |reason: String| OpenError::Join { reason };
    let begin = async || {
        let begun = store.bootstrap().await;
        begun.map_err(|error| failed(partition::chain(&error)))
    };
    if options.join.is_empty() {
        return begin().await;
    }
    let join = Join {
        id: newcomer.id,
        name: newcomer.name.clone(),
        disk: newcomer.disk,
        peer: newcomer.peer.to_owned(),
    };
    let deadline = Instant::now() + SEARCH;
    let mut last = String::from("none of them answered");
    loop {
        // Nodes that have no cluster, for certain: they say so, or are not there.
        let mut without_cluster = 0;
        for address in &options.join {
            match ask_to_join(peers, address, &join).await {
                Ok(Joined::Welcome { cluster, members }) => {
                    peering.hear(members.iter().map(|node| (node.id, node.peer.clone())));
                    let joined = store.join(cluster).await;
                    return joined.map_err(|error| failed(partition::chain(&error)));
                }
                Ok(Joined::NoCluster) => without_cluster += 1,
                Ok(Joined::Refused(reason)) => return Err(failed(reason)),
                Ok(Joined::Later(reason)) => last = format!("{address}: {reason}"),
                Err(reason) => {
                    without_cluster += usize::from(reason == NOBODY);
                    last = format!("{address}: {reason}");
                }
            }
        }
        // One that is silent, or has a cluster without a leader, may be part of the one to join.
        if options.bootstrap && without_cluster == options.join.len() {
            return begin().await;
        }
        if deadline <= Instant::now() {
            let nodes = options.join.join(", ");
            return Err(failed(format!("no cluster was found at {nodes}: {last}")));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

const NOBODY: &str = "nobody listens there";

async fn ask_to_join(peers: &Peers, address: &str, join: &Join) -> Result<Joined, String> {
    // Nobody has that id: whoever answers says who it is.
    let found = match peers.probe(NodeId::default(), address, PATIENCE).await {
        Probe::Alive(hello) | Probe::Other(hello) => hello,
        Probe::Refused => return Err(NOBODY.into()),
        Probe::Silent => return Err("it does not answer, or has another secret".into()),
    };
    if found.node == join.id {
        return Ok(Joined::NoCluster);
    }
    let peer = peers.peer(found.node, address);
    match ask_at(&peer, join, Bytes::new(), PATIENCE).await {
        Ok((joined, _)) => Ok(joined),
        Err(AskError::NotSent(reason) | AskError::Lost(reason)) => Err(reason),
    }
}

impl Broker {
    /// A node wants to be one of the cluster.
    pub(super) async fn admit(&self, join: Join) -> Joined {
        let inner = &self.inner;
        if !inner.store.is_member().await {
            return Joined::NoCluster;
        }
        if !inner.store.is_leader() {
            let leader = *inner.store.leader().borrow();
            let Some(leader) = leader else {
                return Joined::Later("the metadata has no leader at the moment".into());
            };
            return match inner.peering.ask(leader, &join, Bytes::new()).await {
                Ok((joined, _)) => joined,
                Err(error) => Joined::Later(error.to_string()),
            };
        }
        let view = inner.store.view().borrow().clone();
        let namesake = view.node_by_name(&join.name);
        if let Some(holder) = namesake.filter(|node| node.id != join.id && node.status.is_live()) {
            return Joined::Refused(format!(
                "node {} already goes by the name {}; stop it first, or start under another id",
                holder.id, join.name
            ));
        }
        inner.peering.hear([(join.id, join.peer.clone())]);
        match inner.store.add_learner(join.id, &join.peer).await {
            Ok(()) => Joined::Welcome {
                cluster: inner.store.identity().cluster_id,
                members: view.nodes().map(|node| (**node).clone()).collect(),
            },
            Err(error) => Joined::Later(partition::chain(&error)),
        }
    }
}

impl Broker {
    /// Where other nodes reach this one, `HOST:PORT`; empty if they cannot.
    pub fn peer_address(&self) -> &str {
        &self.inner.peer_address
    }

    /// How a further broker of this process joins this one's cluster. It has no public face of
    /// its own.
    pub(super) fn company(&self) -> ClusterOptions {
        let own = &self.inner.options.cluster;
        match own.listen {
            None => ClusterOptions::default(),
            Some(listen) => ClusterOptions {
                listen: Some(SocketAddr::new(listen.ip(), 0)),
                join: vec![self.inner.peer_address.clone()],
                secret: Some(self.inner.secret.clone()),
                rack: own.rack.clone(),
                ..ClusterOptions::default()
            },
        }
    }
}

/// Registers this process with the cluster, however long it takes to find somebody who can.
pub(super) async fn register(
    inner: &Arc<Inner>,
    disk: Uuid,
    at: Timestamp,
) -> Result<(), OpenError> {
    let cluster = &inner.options.cluster;
    let process = Uuid::new_v4();
    let storage = inner.options.storage.clone();
    let clean = tokio::task::spawn_blocking(move || same_boot(&storage)).await;
    let clean = clean.unwrap_or(false);
    let deadline = Instant::now() + SEARCH;
    loop {
        let registration = Registration {
            id: inner.node,
            name: inner.options.id.clone(),
            disk,
            process,
            http: cluster.http.clone(),
            peer: inner.peer_address.clone(),
            rack: cluster.rack.clone(),
            clean,
            loss: Loss::None,
            at,
        };
        let reason = match inner.store.apply(Command::RegisterNode(registration)).await {
            Ok(Applied::NodeRegistered(node)) => {
                inner.own.send_modify(|own| {
                    own.incarnation = node.incarnation;
                    own.cluster = Some(inner.store.identity().cluster_id);
                });
                return Ok(());
            }
            Ok(other) => format!("the registration was answered with {other:?}"),
            Err(ApplyError::Rejected(
                rejected @ (Rejected::NameTaken { .. }
                | Rejected::NodeIdInUse { .. }
                | Rejected::InvalidAddress { .. }),
            )) => {
                return Err(OpenError::Join {
                    reason: rejected.to_string(),
                });
            }
            Err(error) => partition::chain(&error),
        };
        if deadline <= Instant::now() {
            return Err(OpenError::Join { reason });
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Whether what was written last is still in the page cache, if it is not on the disk: whether the
/// machine has run without a break since the process before this one started. Notes this boot for
/// the next one. What cannot be told counts as a break (PROTOCOL N3).
fn same_boot(storage: &Path) -> bool {
    let Ok(boot) = std::fs::read_to_string("/proc/sys/kernel/random/boot_id") else {
        return false;
    };
    let note = storage.join("boot");
    let same = match std::fs::read_to_string(&note) {
        Ok(noted) => noted == boot,
        // The first start of a directory has nothing to have lost.
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    let noted = std::fs::File::create(&note)
        .and_then(|mut file| {
            file.write_all(boot.as_bytes())
                .and_then(|()| file.sync_all())
        })
        .and_then(|()| std::fs::File::open(storage)?.sync_all());
    same && noted.is_ok()
}

/// Goes to work: from now on this node may lead.
pub(super) async fn activate(inner: &Arc<Inner>) {
    let activate = Command::ActivateNode {
        id: inner.node,
        incarnation: inner.own.borrow().incarnation,
    };
    // If this does not come through, the controller does it at the first sign of life.
    if let Err(error) = inner.store.apply(activate).await {
        tracing::warn!(error = partition::chain(&error), "activation");
    }
}

/// N7: gives the leaderships away before the node goes, so that nobody waits for it to be missed.
pub(super) async fn leave(inner: &Arc<Inner>) {
    let alone = inner.store.view().borrow().nodes().len() < 2;
    if alone
        || !inner.store.is_member().await
        || inner.own.borrow().incarnation == Default::default()
    {
        return;
    }
    inner.leaving.store(true, Ordering::Relaxed);
    let fence = Command::FenceNode {
        id: inner.node,
        incarnation: inner.own.borrow().incarnation,
    };
    let left = tokio::time::timeout(LEAVE, inner.store.apply(fence)).await;
    if !matches!(left, Ok(Ok(_))) {
        tracing::warn!("the cluster was not told that this node ends; it will notice");
    }
    if inner.store.is_leader() {
        let view = inner.store.view().borrow().clone();
        let live = |id: &NodeId| view.node(*id).is_some_and(|node| node.status.is_live());
        let voters = inner.store.status().voters;
        let heir = voters.into_iter().find(|id| *id != inner.node && live(id));
        if let Some(heir) = heir
            && inner.store.transfer_leadership(heir).await.is_ok()
        {
            let mut leader = inner.store.leader();
            let handed = leader.wait_for(|leader| *leader != Some(inner.node));
            let _ = tokio::time::timeout(LEAVE, handed).await;
        }
    }
}

/// How long a node tries to tell the others that it ends.
const LEAVE: Duration = Duration::from_secs(3);

/// Keeps in mind where gossip says that the other nodes are.
pub(super) async fn whereabouts(broker: Weak<Inner>) {
    let heard = broker.upgrade().and_then(|inner| {
        let live = inner.gossip.as_ref()?.live();
        Some((live, inner.peering.clone(), inner.tasks.stopping()))
    });
    let Some((mut live, peering, stop)) = heard else {
        return;
    };
    loop {
        let nodes: Vec<_> = live
            .borrow_and_update()
            .iter()
            .filter_map(|(node, entry)| Some((*node, entry.peer.clone()?)))
            .collect();
        peering.hear(nodes);
        tokio::select! {
            () = stop.cancelled() => return,
            changed = live.changed() => if changed.is_err() { return },
        }
    }
}

/// Addresses by node.
pub(super) type Addresses = BTreeMap<NodeId, String>;

impl Peering {
    /// Nodes were heard to be at these addresses.
    pub(super) fn hear(&self, nodes: impl IntoIterator<Item = (NodeId, String)>) {
        let nodes: Addresses = nodes
            .into_iter()
            .filter(|(_, address)| !address.is_empty())
            .collect();
        self.heard.rcu(|heard| {
            let mut heard = Addresses::clone(heard);
            heard.extend(nodes.clone());
            heard
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_in_between_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(same_boot(dir.path()), "the first start has lost nothing");
        assert!(same_boot(dir.path()), "killed and started again");
        std::fs::write(dir.path().join("boot"), "another boot").unwrap();
        assert!(!same_boot(dir.path()));
        assert!(same_boot(dir.path()));
    }
}
