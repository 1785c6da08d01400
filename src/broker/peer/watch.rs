//! Readers that wait here for records that are led elsewhere.
//!
//! A reader waits on its topic's progress and asks no node anything meanwhile. While somebody
//! waits, one stream for each topic and leading node carries word of changes here; a word too
//! many costs a look, a word too few would cost a record its reader, so whatever breaks counts as
//! a change.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::frames::Messages;
use super::wire::{WATCH, Watch};
use crate::broker::lifecycle::Inner;
use crate::broker::topics::Topic;
use crate::cluster::{Lane, encode, full};
use crate::types::{NodeId, TopicId, TopicName};

/// Wants word of a topic's changes elsewhere.
#[derive(Debug, Clone)]
pub(in crate::broker) struct Watches(mpsc::Sender<TopicName>);

/// How often it is looked whether streams are missing, or nobody listens any more.
const LOOK: Duration = Duration::from_secs(1);
/// How long the beginning of a stream may take.
const PATIENCE: Duration = Duration::from_secs(5);

impl Watches {
    /// The end to give to [`run`].
    pub(in crate::broker) fn new() -> (Self, mpsc::Receiver<TopicName>) {
        let (wanted, receiver) = mpsc::channel(256);
        (Self(wanted), receiver)
    }

    /// Somebody waits for changes of a topic that is not led here alone.
    pub(in crate::broker) fn want(&self, topic: &TopicName) {
        // Full means that the next look, at most a second later, finds it.
        let _ = self.0.try_send(topic.clone());
    }
}

type Streams = BTreeMap<(TopicId, NodeId), AbortHandle>;

/// Keeps the streams that readers need.
pub(in crate::broker) async fn run(broker: Weak<Inner>, mut wanted: mpsc::Receiver<TopicName>) {
    let Some(stop) = broker.upgrade().map(|inner| inner.tasks.stopping()) else {
        return;
    };
    let mut watched: BTreeMap<TopicId, TopicName> = BTreeMap::new();
    let mut streams = Streams::new();
    // Ends them all when it is dropped.
    let mut running = JoinSet::new();
    let mut every = tokio::time::interval(LOOK);
    loop {
        let topic = tokio::select! {
            () = stop.cancelled() => break,
            topic = wanted.recv() => topic,
            _ = every.tick() => None,
        };
        while running.try_join_next().is_some() {}
        let Some(inner) = broker.upgrade() else { break };
        let topics = inner.topics.load();
        if let Some(topic) = topic.and_then(|name| topics.get(&name)) {
            watched.insert(topic.entry.id, topic.entry.name.clone());
        }
        // One listener is the sender's own record of it.
        watched.retain(|id, name| {
            let topic = topics.get(name).filter(|topic| topic.entry.id == *id);
            topic.is_some_and(|topic| 0 < topic.progress.receiver_count())
        });
        streams.retain(|(topic, _), stream| {
            let keep = watched.contains_key(topic) && !stream.is_finished();
            if !keep {
                stream.abort();
            }
            keep
        });
        for name in watched.values() {
            let Some(topic) = topics.get(name) else {
                continue;
            };
            for node in leaders_elsewhere(topic, inner.node) {
                streams.entry((topic.entry.id, node)).or_insert_with(|| {
                    let (broker, topic) = (broker.clone(), topic.clone());
                    running.spawn(follow(broker, topic, node))
                });
            }
        }
    }
}

fn leaders_elsewhere(topic: &Topic, own: NodeId) -> std::collections::BTreeSet<NodeId> {
    let places = topic.partitions.iter();
    let leaders = places.filter_map(|place| place.record.leader);
    leaders.filter(|leader| *leader != own).collect()
}

async fn follow(broker: Weak<Inner>, topic: Arc<Topic>, node: NodeId) {
    let changed = || {
        topic
            .progress
            .send_modify(|version| *version = version.wrapping_add(1));
    };
    let peer = broker.upgrade().and_then(|inner| inner.peering.peer(node));
    let watch = Watch {
        topic: topic.entry.id,
    };
    if let (Some(peer), Ok(ask)) = (peer, encode(&watch, &[])) {
        let stream = peer.stream(Lane::Bulk, WATCH, full(ask), PATIENCE).await;
        if let Ok(answer) = stream {
            // What came before the stream was open is not told by it.
            changed();
            let mut messages = Messages::new(answer.into_body());
            while let Ok(Some(((), _))) = messages.next::<()>().await {
                changed();
            }
        }
    }
    changed();
}

/// The other end: says a word whenever readers of the topic may see more, until nobody hears it.
pub(super) async fn tell(
    mut progress: watch::Receiver<u64>,
    words: mpsc::Sender<Bytes>,
    word: Bytes,
) {
    progress.mark_unchanged();
    loop {
        tokio::select! {
            () = words.closed() => return,
            changed = progress.changed() => {
                if changed.is_err() || words.send(word.clone()).await.is_err() {
                    return;
                }
            }
        }
    }
}
