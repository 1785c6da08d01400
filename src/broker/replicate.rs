//! Replication between two nodes: one stream for each leader's node that this one follows.
//!
//! The follower's requests flow one way, the leader's answers the other; each partition has one
//! question open at most, so that a stream holds what its partitions have to say and nothing
//! else. A leader answers when there is something to tell: an idle partition costs nothing.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use tokio::sync::{mpsc, watch};

use super::Broker;
use super::lifecycle::Inner;
use super::peer::frames::{Messages, body, frame};
use super::peer::wire::{FetchRequest, FetchResponse, PartitionKey, REPLICATE};
use crate::cluster::{Body, Lane};
use crate::partition::{PartitionHandle, Ready, Request, Upstream};
use crate::replication::FetchAnswer;
use crate::storage::ReplicaBatches;
use crate::types::NodeId;

/// Bytes of records in one answer.
const ANSWER_BYTES: usize = 1024 * 1024;
/// Messages of a stream that may wait to be sent.
const WAITING: usize = 4;
/// How long the beginning of a stream may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a follower waits before it connects again.
const RETRY: Duration = Duration::from_millis(50);

/// Which partitions follow a leader on which node. Published by the task that owns the topics.
pub(super) type Following = BTreeMap<NodeId, BTreeMap<PartitionKey, PartitionHandle>>;

/// Keeps a stream to each node that leads something this one follows.
pub(super) async fn run(broker: Weak<Inner>, mut following: watch::Receiver<Following>) {
    let Some(tasks) = broker.upgrade().map(|inner| inner.tasks.clone()) else {
        return;
    };
    let stop = tasks.stopping();
    let mut streams: BTreeMap<NodeId, watch::Sender<BTreeMap<PartitionKey, PartitionHandle>>> =
        BTreeMap::new();
    loop {
        let wanted = following.borrow_and_update().clone();
        streams.retain(|node, _| wanted.contains_key(node));
        for (node, partitions) in wanted {
            let stream = streams.entry(node).or_insert_with(|| {
                let (partitions, seen) = watch::channel(BTreeMap::new());
                tasks.spawn("replicate", follow(broker.clone(), node, seen));
                partitions
            });
            stream.send_replace(partitions);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = following.changed() => if changed.is_err() { return },
        }
    }
}

/// Connects to one leader's node, again and again, until nothing here follows it.
async fn follow(
    broker: Weak<Inner>,
    node: NodeId,
    mut partitions: watch::Receiver<BTreeMap<PartitionKey, PartitionHandle>>,
) {
    let Some(stop) = broker.upgrade().map(|inner| inner.tasks.stopping()) else {
        return;
    };
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            ended = stream(&broker, node, &mut partitions) => if ended { return },
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// One connection's life. Returns whether nothing here follows that node any more.
async fn stream(
    broker: &Weak<Inner>,
    node: NodeId,
    partitions: &mut watch::Receiver<BTreeMap<PartitionKey, PartitionHandle>>,
) -> bool {
    let found = broker.upgrade().and_then(|inner| {
        let peer = inner.peering.peer(node)?;
        Some((peer, inner.copying.clone()))
    });
    let Some((peer, copying)) = found else {
        return partitions.has_changed().is_err();
    };
    let (outgoing, messages) = mpsc::channel(WAITING);
    let opened = peer.stream(Lane::Bulk, REPLICATE, body(messages), PATIENCE);
    let mut answers = match opened.await {
        Ok(response) if response.status().is_success() => Messages::new(response.into_body()),
        _ => return partitions.has_changed().is_err(),
    };
    let (requests, mut asked) = mpsc::unbounded_channel::<Request>();
    let way = Upstream {
        leader: node,
        requests,
    };
    let mut joined: BTreeMap<PartitionKey, PartitionHandle> = BTreeMap::new();
    let sending = async move {
        while let Some((key, request)) = asked.recv().await.map(|request| {
            let key = PartitionKey {
                topic: request.from.reader().topic_id(),
                partition: request.from.name().partition,
            };
            (key, request)
        }) {
            let message = FetchRequest {
                key,
                fetch: request.fetch,
                wants: request.wants,
            };
            let Ok(message) = frame(&message, &[]) else {
                return;
            };
            if outgoing.send(message).await.is_err() {
                return;
            }
        }
    };
    tokio::pin!(sending);
    partitions.mark_changed();
    let ended = loop {
        tokio::select! {
            () = &mut sending => break false,
            changed = partitions.changed() => {
                if changed.is_err() {
                    break true;
                }
                let wanted = partitions.borrow_and_update().clone();
                for (key, handle) in &wanted {
                    if joined.get(key).is_none_or(|known| !known.is_same(handle)) {
                        handle.follow(way.clone());
                    }
                }
                for (key, handle) in &joined {
                    if !wanted.contains_key(key) {
                        handle.unfollow(way.clone());
                    }
                }
                joined = wanted;
            }
            answer = answers.next::<FetchResponse>() => match answer {
                Ok(Some((response, mut batches))) => {
                    if let Some(handle) = joined.get(&response.key) {
                        // What waits for the disk waits here, and at the leader, not in memory.
                        let units = (batches.len() / 1024) as u32;
                        let room = match units {
                            0 => None,
                            units => copying.clone().acquire_many_owned(units).await.ok(),
                        };
                        let producers = (response.producers as usize).min(batches.len());
                        let batches = ReplicaBatches {
                            producers: batches.split_to(producers),
                            batches,
                            begins_chain: response.begins_chain,
                        };
                        handle.copied(response.fetch, response.answer, batches, room);
                    }
                }
                Ok(None) => break false,
                Err(error) => {
                    tracing::debug!(%node, %error, "the stream from a leader broke");
                    break false;
                }
            }
        }
    };
    for handle in joined.values() {
        handle.unfollow(way.clone());
    }
    ended
}

/// The leader's end of a stream: requests come in `incoming`, answers go out in the body.
pub(super) fn serve(broker: &Broker, incoming: Incoming) -> Body {
    let (outgoing, messages) = mpsc::channel(WAITING);
    let (session, ready) = mpsc::unbounded_channel();
    let weak = std::sync::Arc::downgrade(&broker.inner);
    let tasks = &broker.inner.tasks;
    let requests = hear(weak.clone(), incoming, session, outgoing.clone());
    tasks.spawn("replicate-requests", requests);
    tasks.spawn("replicate-answers", tell(weak, ready, outgoing));
    body(messages)
}

async fn hear(
    broker: Weak<Inner>,
    incoming: Incoming,
    session: mpsc::UnboundedSender<Ready>,
    outgoing: mpsc::Sender<Bytes>,
) {
    let Some(stop) = broker.upgrade().map(|inner| inner.tasks.stopping()) else {
        return;
    };
    let mut requests = Messages::new(incoming);
    loop {
        let request = tokio::select! {
            () = stop.cancelled() => return,
            () = session.closed() => return,
            request = requests.next::<FetchRequest>() => request,
        };
        let (Ok(Some((request, _))), Some(inner)) = (request, broker.upgrade()) else {
            return;
        };
        let broker = Broker { inner };
        if let Some(handle) = broker.hosted(request.key) {
            handle.fetch(request.fetch, request.wants, session.clone());
            continue;
        }
        // Not here yet, or not any more: the follower asks again once it knows more.
        let FetchRequest { key, fetch, wants } = request;
        let answer = FetchAnswer::NotLeader;
        let response = FetchResponse {
            key,
            fetch,
            answer,
            begins_chain: false,
            producers: 0,
        };
        if let (true, Ok(message)) = (wants, frame(&response, &[]))
            && outgoing.send(message).await.is_err()
        {
            return;
        }
    }
}

async fn tell(
    broker: Weak<Inner>,
    mut ready: mpsc::UnboundedReceiver<Ready>,
    outgoing: mpsc::Sender<Bytes>,
) {
    let Some(stop) = broker.upgrade().map(|inner| inner.tasks.stopping()) else {
        return;
    };
    loop {
        let next = tokio::select! {
            () = stop.cancelled() => return,
            () = outgoing.closed() => return,
            next = ready.recv() => next,
        };
        let Some(Ready {
            from,
            fetch,
            answer,
        }) = next
        else {
            return;
        };
        let batches = match answer {
            FetchAnswer::Ok { .. } => {
                // A log that begins in the middle cannot tell what came before.
                let begins = fetch.last_epoch.is_none();
                from.read_replica(fetch.fetch_offset, ANSWER_BYTES, begins)
                    .await
            }
            _ => Ok(ReplicaBatches::default()),
        };
        let batches = match batches {
            Ok(batches) => batches,
            Err(error) => {
                tracing::warn!(partition = %from.name(), %error, "a follower cannot be served");
                ReplicaBatches::default()
            }
        };
        // Read while another took the lead, the batches may be another reign's.
        let role = from.role();
        let answer = match role.leads && role.epoch == fetch.leader_epoch {
            true => answer,
            false => FetchAnswer::NotLeader,
        };
        let batches = match answer {
            FetchAnswer::Ok { .. } => batches,
            _ => ReplicaBatches::default(),
        };
        let key = PartitionKey {
            topic: from.reader().topic_id(),
            partition: from.name().partition,
        };
        let response = FetchResponse {
            key,
            fetch,
            answer,
            begins_chain: batches.begins_chain,
            producers: batches.producers.len() as u32,
        };
        let message = match batches.producers.is_empty() {
            true => frame(&response, &batches.batches),
            false => frame(&response, &[batches.producers, batches.batches].concat()),
        };
        let Ok(message) = message else {
            return;
        };
        if outgoing.send(message).await.is_err() {
            return;
        }
    }
}
