//! Senders that repeat what they do not know the outcome of, until they know it, while nodes are
//! killed: every record is there, once, in its sender's order, where its sender was told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pilgrimage::client::{
    Client, ClientError, ClientOptions, Idempotency, ProduceOptions, Producer, Publish,
};
use pilgrimage::record::Record;
use pilgrimage::types::{Outcome, Partition, TopicName, TopicPatch};
use tokio::sync::watch;

use crate::crash::{PARTITIONS, read_all};
use crate::support::{Node, wait_until};
use crate::trio::{Cluster, NAMES, all_in_sync, replicated, rounds};

/// Senders of each kind.
const SENDERS: usize = 4;

/// The nodes that can be asked now; none once the senders shall end.
type Nodes = watch::Receiver<Vec<Client>>;

/// What a sender sent, in order, and where it was told that it stands.
type Told = Vec<(String, (u32, u64))>;

/// As patient as a client that has other nodes to ask.
fn clients(urls: impl IntoIterator<Item = String>) -> Vec<Client> {
    let options = ClientOptions {
        attempts: 2,
        ..ClientOptions::default()
    };
    let client = |url: String| Client::with_options(&url, options.clone()).unwrap();
    urls.into_iter().map(client).collect()
}

/// The nodes one after the other, for who asks until one of them knows.
struct Turns<'a> {
    nodes: &'a Nodes,
    at: usize,
}

impl Turns<'_> {
    fn next(&mut self) -> Client {
        let nodes = self.nodes.borrow();
        self.at += 1;
        nodes[self.at % nodes.len()].clone()
    }
}

fn may_be_repeated(error: &ClientError) {
    assert!(
        error.retryable() || error.outcome() == Outcome::Unknown,
        "a repetition was refused: {error}"
    );
}

async fn publish(nodes: &Nodes, at: usize, topic: &TopicName, value: &str) -> (u32, u64) {
    // No partition is named: the key chooses it.
    let options = ProduceOptions {
        idempotency: Idempotency::Key(value.to_owned()),
        ..ProduceOptions::default()
    };
    let publish = Publish::new(value.to_owned());
    let mut turns = Turns { nodes, at };
    loop {
        match turns.next().publish(topic, &publish, &options).await {
            Ok(published) => {
                let position = published.position.unwrap();
                return (position.partition, position.offset);
            }
            Err(error) => may_be_repeated(&error),
        }
    }
}

/// Sends under idempotency keys, some of it again and twice at once.
async fn by_key(
    sender: usize,
    nodes: Nodes,
    topic: TopicName,
    stop: watch::Receiver<bool>,
    acknowledged: Arc<AtomicUsize>,
) -> Told {
    let mut told = Told::new();
    while !*stop.borrow() {
        let n = told.len();
        let value = format!("key{sender}-{n}");
        let at = publish(&nodes, sender + n, &topic, &value).await;
        if n.is_multiple_of(5) {
            let again = tokio::join!(
                publish(&nodes, sender + n + 1, &topic, &value),
                publish(&nodes, sender + n + 2, &topic, &value)
            );
            assert_eq!(again, (at, at), "{value}");
        }
        told.push((value, at));
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
    told
}

/// Sends by sequence numbers, several records at once.
async fn by_sequence(
    sender: usize,
    nodes: Nodes,
    topic: TopicName,
    stop: watch::Receiver<bool>,
    acknowledged: Arc<AtomicUsize>,
) -> Told {
    let mut told = Told::new();
    let mut turns = Turns {
        nodes: &nodes,
        at: sender,
    };
    let mut producer: Producer = loop {
        match turns.next().producer(&topic).await {
            Ok(producer) => break producer,
            Err(error) => may_be_repeated(&error),
        }
    };
    let partition = Partition(sender as u32 % PARTITIONS);
    while !*stop.borrow() {
        let n = told.len();
        let values: Vec<String> = (n..n + 1 + n % 3)
            .map(|n| format!("seq{sender}-{n}"))
            .collect();
        let records: Vec<Record> = values.iter().map(Record::text).collect();
        let options = ProduceOptions::default();
        let base = loop {
            producer.through(&turns.next());
            match producer.send(partition, &records, &options).await {
                Ok(base) => break base.unwrap(),
                Err(error) => may_be_repeated(&error),
            }
        };
        let places = base.base_offset..;
        told.extend(
            values
                .into_iter()
                .zip(places.map(|at| (base.partition, at))),
        );
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
    told
}

/// Every broken promise, in words.
fn broken_promises(told: &[Told], log: &BTreeMap<u32, Vec<String>>) -> Vec<String> {
    let mut broken = Vec::new();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for value in log.values().flatten() {
        *seen.entry(value).or_default() += 1;
    }
    for told in told {
        let mut last: BTreeMap<u32, (u64, &str)> = BTreeMap::new();
        for (value, (partition, offset)) in told {
            match seen.remove(value.as_str()) {
                None => broken.push(format!("{value} is lost")),
                Some(1) => {}
                Some(times) => broken.push(format!("{value} is there {times} times")),
            }
            let there = log.get(partition).and_then(|log| log.get(*offset as usize));
            if there != Some(value) {
                broken.push(format!("{value} is not at {partition}/{offset}"));
            }
            if let Some((before, other)) = last.insert(*partition, (*offset, value))
                && *offset <= before
            {
                broken.push(format!("{value} stands before {other}"));
            }
        }
    }
    // Every sender waits until it knows.
    broken.extend(seen.into_keys().map(|value| format!("nobody sent {value}")));
    broken
}

struct Load {
    nodes: watch::Sender<Vec<Client>>,
    stop: watch::Sender<bool>,
    acknowledged: Arc<AtomicUsize>,
    senders: Vec<tokio::task::JoinHandle<Told>>,
}

impl Load {
    fn start(urls: impl IntoIterator<Item = String>, topic: &TopicName) -> Self {
        let (nodes, seen) = watch::channel(clients(urls));
        let (stop, stopped) = watch::channel(false);
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let mut senders = Vec::new();
        for sender in 0..SENDERS {
            let all = || {
                (
                    seen.clone(),
                    topic.clone(),
                    stopped.clone(),
                    acknowledged.clone(),
                )
            };
            let (nodes, topic, stop, acks) = all();
            senders.push(tokio::spawn(by_key(sender, nodes, topic, stop, acks)));
            let (nodes, topic, stop, acks) = all();
            senders.push(tokio::spawn(by_sequence(sender, nodes, topic, stop, acks)));
        }
        Self {
            nodes,
            stop,
            acknowledged,
            senders,
        }
    }

    async fn progress(&self, by: usize) {
        let want = self.acknowledged.load(Ordering::Relaxed) + by;
        let reached = || async { want <= self.acknowledged.load(Ordering::Relaxed) };
        wait_until("progress", reached).await;
    }

    /// Ends the load and checks what it was told; then everything is sent once more, much later
    /// and in another order, and told the same.
    async fn check(self, topic: &TopicName) -> usize {
        self.stop.send_replace(true);
        let mut told = Vec::new();
        for sender in self.senders {
            told.push(sender.await.unwrap());
        }
        let nodes = self.nodes.subscribe();
        for (value, at) in told
            .iter()
            .flatten()
            .rev()
            .filter(|(v, _)| v.starts_with("key"))
        {
            assert_eq!(publish(&nodes, 0, topic, value).await, *at, "{value}");
        }
        let all = nodes.borrow().clone();
        for client in &all {
            let log = read_all(client, topic).await;
            assert_eq!(broken_promises(&told, &log), Vec::<String>::new());
        }
        told.iter().map(Vec::len).sum()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_a_node_under_senders_that_repeat_loses_nothing_and_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let storage = dir.path().join("data");
    let mut node = Node::start_in(&storage, &[]).await;
    let topic: TopicName = "once".parse().unwrap();
    // Small segments: what is remembered is written down and read again all the time.
    let patch = TopicPatch {
        partitions: Some(PARTITIONS),
        segment_bytes: Some(16 * 1024),
        ..TopicPatch::default()
    };
    node.client().create_topic(&topic, &patch).await.unwrap();
    let load = Load::start([node.url()], &topic);
    for _ in 0..rounds() {
        load.progress(100).await;
        node.kill();
        node = Node::start_in(&storage, &[]).await;
        load.nodes.send_replace(clients([node.url()]));
    }
    load.progress(100).await;
    let records = load.check(&topic).await;
    println!("{} kills, {records} records, each there once", rounds());
    assert!(node.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_leaders_under_senders_that_repeat_loses_nothing_and_doubles_nothing() {
    let mut cluster = Cluster::start().await;
    let topic: TopicName = "once".parse().unwrap();
    let client = cluster.nodes[0].client();
    client.create_topic(&topic, &replicated()).await.unwrap();
    all_in_sync(&client, &topic).await;
    let urls = |cluster: &Cluster| cluster.nodes.iter().map(Node::url).collect::<Vec<_>>();
    let load = Load::start(urls(&cluster), &topic);
    for round in 0..rounds() {
        load.progress(100).await;
        // Whoever leads a partition at the moment.
        let alive = &cluster.nodes[(round + 1) % NAMES.len()].client();
        let list = alive.partitions(&topic).await.unwrap();
        let leader = list.partitions[round % PARTITIONS as usize].leader.clone();
        let victim = NAMES
            .iter()
            .position(|name| leader.as_deref() == Some(name));
        let victim = victim.unwrap_or(round % NAMES.len());
        cluster.nodes[victim].kill();
        load.progress(100).await;
        cluster.nodes[victim] = cluster.run(NAMES[victim]).await;
        load.nodes.send_replace(clients(urls(&cluster)));
        all_in_sync(&cluster.nodes[victim].client(), &topic).await;
    }
    load.progress(100).await;
    let records = load.check(&topic).await;
    println!(
        "{} leaders killed, {records} records, each there once",
        rounds()
    );
}

#[test]
fn the_checker_finds_each_kind_of_broken_promise() {
    let told = |values: &[(&str, u32, u64)]| -> Told {
        let told = values
            .iter()
            .map(|(value, p, o)| ((*value).to_owned(), (*p, *o)));
        told.collect()
    };
    let log =
        |values: &[&str]| BTreeMap::from([(0, values.iter().map(ToString::to_string).collect())]);
    let good = told(&[("a-0", 0, 0), ("a-1", 0, 1)]);
    let broken =
        |told: &Told, values: &[&str]| broken_promises(std::slice::from_ref(told), &log(values));
    assert_eq!(broken(&good, &["a-0", "a-1"]), [""; 0]);
    for (told, values, expected) in [
        (&good, &["a-0"][..], "a-1 is lost"),
        (&good, &["a-0", "a-1", "a-1"], "a-1 is there 2 times"),
        (&good, &["a-1", "a-0"], "a-0 is not at 0/0"),
        (&good, &["a-0", "a-1", "b-0"], "nobody sent b-0"),
        (
            &told(&[("a-0", 0, 1), ("a-1", 0, 0)]),
            &["a-1", "a-0"],
            "a-1 stands before a-0",
        ),
    ] {
        let found = broken(told, values);
        assert!(found.iter().any(|b| b == expected), "{values:?}: {found:?}");
    }
}
