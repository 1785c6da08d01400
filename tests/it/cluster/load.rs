//! Producers and readers that go on whatever happens to the nodes, and note what comes of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pilgrimage::client::{Client, ClientError, ProduceOptions, Publish, Read, Start};
use pilgrimage::types::{self, Offset, Partition, TopicName};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::PARTITIONS;
use super::history::{History, Outcome, Seen, Sent, value};

/// Two for each partition, so that they compete.
const PRODUCERS: usize = 2 * PARTITIONS as usize;
/// A producer sends no faster than this: the machine has to carry three nodes as well.
const PACE: Duration = Duration::from_millis(10);
/// How long a client waits before it turns to another node.
pub(super) const REQUEST: Duration = Duration::from_secs(3);

/// What went wrong, in the nodes' words, and how often.
pub(super) type Refusals = BTreeMap<String, usize>;

pub(super) struct Load {
    began: Instant,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Vec<AtomicU64>>,
    producers: Vec<JoinHandle<(Vec<Sent>, Refusals)>>,
    readers: Vec<JoinHandle<Vec<Seen>>>,
}

impl Load {
    /// Starts to send to and read from all partitions of `topic`, through any of these nodes.
    pub(super) fn start(clients: &[Client], topic: &TopicName) -> Self {
        let (began, stop) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let acknowledged = (0..PARTITIONS).map(|_| AtomicU64::new(0)).collect();
        let acknowledged: Arc<Vec<AtomicU64>> = Arc::new(acknowledged);
        let producer = |producer: usize| Producer {
            producer,
            clients: clients.to_vec(),
            topic: topic.clone(),
            began,
            stop: stop.clone(),
            acknowledged: acknowledged.clone(),
        };
        let reader = |partition| read(clients.to_vec(), topic.clone(), partition, stop.clone());
        let producers = (0..PRODUCERS).map(producer);
        let producers = producers.map(|producer| tokio::spawn(producer.run()));
        Self {
            producers: producers.collect(),
            readers: (0..PARTITIONS).map(|p| tokio::spawn(reader(p))).collect(),
            began,
            stop,
            acknowledged,
        }
    }

    /// Now, on the clock of the history.
    pub(super) fn now(&self) -> u64 {
        nanos(self.began)
    }

    /// Records acknowledged so far, by partition.
    pub(super) fn acknowledged(&self) -> Vec<u64> {
        let counts = self.acknowledged.iter();
        counts.map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// Ends once everybody has heard of what they sent last.
    pub(super) async fn end(self) -> (History, Refusals) {
        self.stop.store(true, Ordering::Relaxed);
        let (mut history, mut refusals) = (History::default(), Refusals::new());
        for producer in self.producers {
            let (sent, refused) = producer.await.unwrap();
            history.sent.extend(sent);
            for (code, times) in refused {
                *refusals.entry(code).or_default() += times;
            }
        }
        for reader in self.readers {
            history.seen.extend(reader.await.unwrap());
        }
        (history, refusals)
    }
}

fn nanos(began: Instant) -> u64 {
    began.elapsed().as_nanos() as u64
}

/// The code of an error, or what kind of error it is.
pub(super) fn code(error: &ClientError) -> String {
    match (error.code(), error) {
        (Some(code), _) => code.to_string(),
        (None, ClientError::Connect { .. }) => "no connection".into(),
        (None, ClientError::Timeout { .. }) => "no answer".into(),
        (None, ClientError::Transport { .. }) => "connection broke".into(),
        (None, error) => error.to_string(),
    }
}

struct Producer {
    producer: usize,
    clients: Vec<Client>,
    topic: TopicName,
    began: Instant,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Vec<AtomicU64>>,
}

impl Producer {
    async fn run(self) -> (Vec<Sent>, Refusals) {
        let partition = self.producer as u32 % PARTITIONS;
        let options = ProduceOptions {
            partition: Some(Partition(partition)),
            ..ProduceOptions::default()
        };
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut history, mut refusals) = (Vec::new(), Refusals::new());
        // Those of one partition begin at different nodes.
        let mut at = self.producer / PARTITIONS as usize + self.producer;
        while !self.stop.load(Ordering::Relaxed) {
            pace.tick().await;
            let sequence = history.len() as u64;
            let message = Publish::new(value(self.producer, sequence));
            let client = &self.clients[at % self.clients.len()];
            let from = nanos(self.began);
            let answer = client.publish(&self.topic, &message, &options).await;
            let to = nanos(self.began);
            let outcome = match answer {
                Ok(published) => {
                    self.acknowledged[partition as usize].fetch_add(1, Ordering::Relaxed);
                    Outcome::Acknowledged(published.position.unwrap().offset)
                }
                Err(error) => {
                    *refusals.entry(code(&error)).or_default() += 1;
                    // Another node may do better.
                    at += 1;
                    match error.outcome() {
                        types::Outcome::Refused => Outcome::Refused,
                        // Nothing here is sent twice: what was there before may be this record.
                        types::Outcome::Unknown | types::Outcome::Applied => Outcome::Unknown,
                    }
                }
            };
            history.push(Sent {
                producer: self.producer,
                sequence,
                partition,
                from,
                to,
                outcome,
            });
        }
        (history, refusals)
    }
}

/// Reads a partition from its beginning to its end and on, each page from another node.
async fn read(
    clients: Vec<Client>,
    topic: TopicName,
    partition: u32,
    stop: Arc<AtomicBool>,
) -> Vec<Seen> {
    let (mut history, mut next) = (Vec::new(), 0);
    let mut turns = clients.iter().cycle();
    let mut pace = tokio::time::interval(10 * PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while let Some(client) = turns.next().filter(|_| !stop.load(Ordering::Relaxed)) {
        pace.tick().await;
        let read = Read {
            from: Start::Offset(Offset(next)),
            limit: Some(1_000),
            ..Read::default()
        };
        // What is not answered is asked for again.
        let Ok(page) = client.read(&topic, Some(Partition(partition)), &read).await else {
            continue;
        };
        let values = page.records.iter().map(|record| {
            let text = record.value.as_ref().unwrap().get();
            serde_json::from_str::<String>(text).unwrap()
        });
        let values: Vec<String> = values.collect();
        // Without a hole: the page begins where it was asked to, and goes on from there.
        let offsets = page.records.iter().map(|record| record.offset);
        let due = next..next + values.len() as u64;
        assert!(offsets.eq(due.clone()), "a page of {partition} from {next}");
        next = due.end;
        if !values.is_empty() {
            history.push(Seen {
                partition,
                from: due.start,
                values,
            });
        }
    }
    history
}
