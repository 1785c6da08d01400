//! A short interregnum: when the process that leads the metadata is gone, the others need not wait
//! until they have missed it for long.
//!
//! Raft alone notices by silence, some tenths of a second later. A connection that is refused says
//! it at once. What is done about it is only to stand for election a little earlier: the votes are
//! Raft's, and a leader that others still hear keeps its place (Pre-Vote).

use std::sync::Weak;
use std::time::Duration;

use super::lifecycle::Inner;
use crate::cluster::{Lane, Link, Probe};
use crate::types::NodeId;

/// How long a look at the leader may take.
const PROBE: Duration = Duration::from_millis(150);
/// How long until a candidate stands again. Two that stand at the same moment split the votes, so
/// each waits as often as there are candidates before it.
const AGAIN: Duration = Duration::from_millis(60);

/// Watches the connection to whoever leads the metadata.
pub(super) async fn run(broker: Weak<Inner>) {
    let Some((stop, mut leaders)) = broker
        .upgrade()
        .map(|inner| (inner.tasks.stopping(), inner.store.leader()))
    else {
        return;
    };
    loop {
        let leader = *leaders.borrow_and_update();
        let gone = async {
            match leader {
                Some(leader) => gone(&broker, leader).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = leaders.changed() => if changed.is_err() { return },
            () = gone => {
                let replaced = leaders.wait_for(|now| *now != leader && now.is_some());
                tokio::select! {
                    () = stop.cancelled() => return,
                    replaced = replaced => if replaced.is_err() { return },
                    () = stand(&broker, leader) => {}
                }
            }
        }
    }
}

/// Returns when nothing listens any more where the leader was.
async fn gone(broker: &Weak<Inner>, leader: NodeId) {
    let found = broker.upgrade().and_then(|inner| {
        let peer = inner
            .peering
            .peer(leader)
            .filter(|_| leader != inner.node)?;
        Some((peer.link(Lane::Control), inner.peering.clone()))
    });
    let Some((mut link, peering)) = found else {
        return std::future::pending().await;
    };
    loop {
        let lost = link.wait_for(|link| matches!(link, Link::Lost(_))).await;
        let address = peering.address(leader);
        let (Ok(_), Some(address)) = (lost, address) else {
            return std::future::pending().await;
        };
        if matches!(
            peering.peers.probe(leader, &address, PROBE).await,
            Probe::Refused
        ) {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Stands for election until somebody leads, if this node votes.
async fn stand(broker: &Weak<Inner>, gone: Option<NodeId>) {
    loop {
        let Some(store) = broker.upgrade().map(|inner| inner.store.clone()) else {
            return;
        };
        let voters = store.status().voters;
        let candidates: Vec<NodeId> = voters.into_iter().filter(|id| Some(*id) != gone).collect();
        let rank = candidates.iter().position(|id| *id == store.node());
        // Who has no vote waits for the others to agree.
        let Some(rank) = rank else {
            return std::future::pending().await;
        };
        tokio::time::sleep(AGAIN * rank as u32).await;
        store.campaign().await;
        tokio::time::sleep(AGAIN * candidates.len() as u32).await;
    }
}
