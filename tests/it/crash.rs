//! kill -9 under load, again and again: nothing acknowledged is lost, nothing appears twice that
//! was sent once, order per producer holds, and the next start is ready.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pilgrimage::client::{Client, ProduceOptions, Publish, Read};
use pilgrimage::types::{Outcome, Partition, TopicName, TopicPatch};

use crate::support::Node;

pub(crate) const PRODUCERS: usize = 8;
pub(crate) const PARTITIONS: u32 = 3;

/// What became of one send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// Acknowledged at this partition and offset.
    Acknowledged(u32, u64),
    /// Nobody knows.
    Unknown,
    /// It did not happen.
    Refused,
}

/// Everything one producer sent, in order. Values are `producer-sequence`.
pub(crate) type History = Vec<(String, Sent)>;

async fn produce(
    client: Client,
    topic: TopicName,
    producer: usize,
    from: usize,
    stop: Arc<AtomicBool>,
) -> History {
    let mut history = Vec::new();
    let options = ProduceOptions {
        partition: Some(Partition(producer as u32 % PARTITIONS)),
        ..ProduceOptions::default()
    };
    while !stop.load(Ordering::Relaxed) {
        let value = format!("{producer}-{}", from + history.len());
        let sent = match client
            .publish(&topic, &Publish::new(value.clone()), &options)
            .await
        {
            Ok(published) => {
                let position = published.position.unwrap();
                Sent::Acknowledged(position.partition, position.offset)
            }
            Err(error) if error.outcome() == Outcome::Refused => Sent::Refused,
            Err(_) => Sent::Unknown,
        };
        history.push((value, sent));
        // A node that is down refuses at once; do not fill the history with it.
        if sent != Sent::Unknown && !matches!(sent, Sent::Acknowledged(..)) {
            tokio::task::yield_now().await;
        }
    }
    history
}

/// The whole log: by partition, values in offset order.
pub(crate) async fn read_all(client: &Client, topic: &TopicName) -> BTreeMap<u32, Vec<String>> {
    let mut log = BTreeMap::new();
    for partition in 0..PARTITIONS {
        let mut values = Vec::new();
        let mut read = Read {
            limit: Some(10_000),
            ..Read::default()
        };
        loop {
            let page = client
                .read(topic, Some(Partition(partition)), &read)
                .await
                .unwrap();
            if page.records.is_empty() {
                break;
            }
            for record in page.records {
                assert_eq!(record.offset, values.len() as u64, "offsets are dense");
                values.push(serde_json::from_str::<String>(record.value.unwrap().get()).unwrap());
            }
            read.from = page.next.parse().unwrap();
        }
        log.insert(partition, values);
    }
    log
}

/// The checker: every broken promise, in words.
pub(crate) fn broken_promises(
    histories: &[History],
    log: &BTreeMap<u32, Vec<String>>,
) -> Vec<String> {
    let mut broken = Vec::new();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for value in log.values().flatten() {
        *seen.entry(value).or_default() += 1;
    }
    let mut last = BTreeMap::<(u32, &str), usize>::new();
    for (partition, values) in log {
        for value in values {
            let (producer, sequence) = value.split_once('-').unwrap();
            let sequence: usize = sequence.parse().unwrap();
            if let Some(before) = last.insert((*partition, producer), sequence)
                && sequence <= before
            {
                broken.push(format!("{value} stands behind {producer}-{before}"));
            }
        }
    }
    let mut known = std::collections::BTreeSet::new();
    for (value, sent) in histories.iter().flatten() {
        known.insert(value.as_str());
        let times = seen.get(value.as_str()).copied().unwrap_or(0);
        match sent {
            Sent::Acknowledged(partition, offset) => {
                if log[partition].get(*offset as usize) != Some(value) {
                    broken.push(format!(
                        "{value} was acknowledged at {partition}/{offset} and is not there"
                    ));
                }
                if times != 1 {
                    broken.push(format!(
                        "{value} was acknowledged once and is there {times} times"
                    ));
                }
            }
            Sent::Unknown if 1 < times => {
                broken.push(format!("{value} was sent once and is there {times} times"))
            }
            Sent::Refused if times != 0 => {
                broken.push(format!("{value} was refused and is there all the same"))
            }
            _ => {}
        }
    }
    broken.extend(
        seen.keys()
            .filter(|value| !known.contains(*value))
            .map(|value| format!("{value} was never sent")),
    );
    broken
}

/// Kills per run: a few in the default run, more on demand.
fn rounds() -> usize {
    std::env::var("PILGRIMAGE_CRASH_ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(8)
}

#[tokio::test(flavor = "multi_thread")]
// The count is what a passed run is worth.
#[allow(clippy::print_stdout)]
async fn kill_9_under_load_loses_nothing_acknowledged_and_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let storage = dir.path().join("data");
    let topic: TopicName = "crash".parse().unwrap();
    let mut histories = vec![History::new(); PRODUCERS];
    for round in 0..rounds() {
        let mut node = Node::start_in(&storage, &[]).await;
        let client = node.client();
        if round == 0 {
            // Small segments, so that kills also hit rolls.
            let patch = TopicPatch {
                partitions: Some(PARTITIONS),
                segment_bytes: Some(64 * 1024),
                ..TopicPatch::default()
            };
            client.create_topic(&topic, &patch).await.unwrap();
        }
        let stop = Arc::new(AtomicBool::new(false));
        let producing: Vec<_> = (0..PRODUCERS)
            .map(|producer| {
                let from = histories[producer].len();
                tokio::spawn(produce(
                    client.clone(),
                    topic.clone(),
                    producer,
                    from,
                    stop.clone(),
                ))
            })
            .collect();
        // A different amount of work before each kill: by progress, not by the clock alone.
        let enough = (round as u64 * 977) % 2000 + 50;
        let before = client.node().await.unwrap().records_in;
        crate::support::wait_until("progress", || async {
            client
                .node()
                .await
                .is_ok_and(|node| before + enough <= node.records_in)
        })
        .await;
        node.kill();
        stop.store(true, Ordering::Relaxed);
        for (producer, task) in producing.into_iter().enumerate() {
            histories[producer].extend(task.await.unwrap());
        }
    }
    let node = Node::start_in(&storage, &[]).await;
    let log = read_all(&node.client(), &topic).await;
    let acknowledged = histories
        .iter()
        .flatten()
        .filter(|(_, sent)| matches!(sent, Sent::Acknowledged(..)))
        .count();
    println!(
        "{} kills, {acknowledged} acknowledged records, 0 may be lost",
        rounds()
    );
    assert!(
        50 * rounds() <= acknowledged,
        "too little happened to prove anything: {acknowledged}"
    );
    assert_eq!(broken_promises(&histories, &log), Vec::<String>::new());
}

#[test]
fn the_checker_sees_every_kind_of_broken_promise() {
    let ok = |value: &str, offset| (value.to_owned(), Sent::Acknowledged(0, offset));
    let log = |values: &[&str]| {
        BTreeMap::from([(
            0,
            values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>(),
        )])
    };
    let good = vec![vec![
        ok("0-0", 0),
        ("0-1".to_owned(), Sent::Unknown),
        ok("0-2", 1),
    ]];
    assert_eq!(
        broken_promises(&good, &log(&["0-0", "0-2"])),
        Vec::<String>::new()
    );
    for (bad, log, why) in [
        (vec![vec![ok("0-0", 0)]], log(&[]), "lost"),
        (
            vec![vec![ok("0-0", 0), ok("0-1", 1)]],
            log(&["0-1", "0-0"]),
            "swapped",
        ),
        (vec![vec![ok("0-0", 0)]], log(&["0-0", "0-0"]), "doubled"),
        (
            vec![vec![("0-0".to_owned(), Sent::Refused)]],
            log(&["0-0"]),
            "refused but there",
        ),
        (
            vec![vec![("0-0".to_owned(), Sent::Unknown)]],
            log(&["0-0", "0-0"]),
            "unknown twice",
        ),
        (vec![vec![]], log(&["9-9"]), "never sent"),
        (
            vec![vec![ok("0-1", 1), ok("0-0", 0)]],
            log(&["0-1", "0-0"]),
            "at another offset",
        ),
    ] {
        assert_ne!(
            broken_promises(&bad, &log),
            Vec::<String>::new(),
            "{why} was not seen"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_goes_on_behind_the_last_message_it_gave_also_after_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let storage = dir.path().join("data");
    let mut node = Node::start_in(&storage, &["--id", "b1"]).await;
    let message = |text: &str| pilgrimage::api::v1::SendMessage {
        id: "b1".into(),
        message: text.into(),
        topic: None,
        key: None,
    };
    let consume = pilgrimage::api::v1::ConsumeMessage {
        id: "b1".into(),
        topic: None,
        group: None,
        timeout_ms: None,
    };
    for text in ["one", "two", "three"] {
        node.client().send_message(&message(text)).await.unwrap();
    }
    assert_eq!(
        node.client().consume_message(&consume).await.unwrap(),
        "one"
    );
    for expected in ["two", "three", "No messages available"] {
        node.kill();
        node = Node::start_in(&storage, &["--id", "b1"]).await;
        assert_eq!(
            node.client().consume_message(&consume).await.unwrap(),
            expected
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_and_exits_0() {
    let mut node = Node::start().await;
    let topic: TopicName = "drain".parse().unwrap();
    let (client, options) = (node.client(), ProduceOptions::default());
    client
        .publish(&topic, &Publish::new("kept"), &options)
        .await
        .unwrap();
    // A long poll is under way when the signal comes: it is answered, not cut.
    let waiting = tokio::spawn(async move {
        let read = Read {
            from: "latest".parse().unwrap(),
            wait: Duration::from_secs(30),
            ..Read::default()
        };
        client.read(&topic, None, &read).await
    });
    let client = node.client();
    crate::support::wait_until("the long poll", || async {
        client.node().await.is_ok_and(|node| 2 <= node.connections)
    })
    .await;
    let status = tokio::task::spawn_blocking(move || node.terminate())
        .await
        .unwrap();
    assert_eq!(status.code(), Some(0));
    waiting.await.unwrap().ok();
}
