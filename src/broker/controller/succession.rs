//! A controller that was killed is succeeded at once: who sees its connection break looks whether
//! anybody listens at its address (PROTOCOL E4), and if not, does not wait for its lease to run out.

use std::sync::Weak;
use std::time::Duration;

use crate::broker::lifecycle::Inner;
use crate::broker::peer::Peering;
use crate::cluster::{Lane, Link, Probe};
use crate::types::NodeId;

use super::PROBE;

/// How long until a controller is looked for again that was not heard.
const AGAIN: Duration = Duration::from_millis(100);

/// Watches the connection to whoever leads the metadata.
pub(in crate::broker) async fn watch(broker: Weak<Inner>) {
    let Some((node, store, peering, stop)) = broker.upgrade().map(|inner| {
        let (store, peering) = (inner.store.clone(), inner.peering.clone());
        (inner.node, store, peering, inner.tasks.stopping())
    }) else {
        return;
    };
    let mut leader = store.leader();
    loop {
        let controller = *leader.borrow_and_update();
        let controller = controller.filter(|controller| *controller != node);
        let lost = tokio::select! {
            () = stop.cancelled() => return,
            changed = leader.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            lost = lost(&peering, controller) => lost,
        };
        if has_ended(&peering, lost).await {
            tracing::warn!(node = %lost, "the controller's process has ended");
            store.leader_has_ended(lost).await;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = leader.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

/// Returns once there is no connection to the controller.
async fn lost(peering: &Peering, controller: Option<NodeId>) -> NodeId {
    let found = controller.and_then(|node| Some((node, peering.peer(node)?)));
    let Some((node, peer)) = found else {
        return std::future::pending().await;
    };
    let mut link = peer.link(Lane::Control);
    // An error means that the node has another address by now.
    let _ = link.wait_for(|link| matches!(link, Link::Lost(_))).await;
    node
}

async fn has_ended(peering: &Peering, node: NodeId) -> bool {
    let Some(address) = peering.address(node) else {
        return false;
    };
    let probe = peering.peers.probe(node, &address, PROBE).await;
    matches!(probe, Probe::Refused | Probe::Other(_))
}
