//! Restarting one node after the other, in order, while clients go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pilgrimage::client::{Client, ProduceOptions, Publish, Read, Start};
use pilgrimage::types::{Code, Offset, Outcome, Partition, TopicName, TopicPatch};

use super::PARTITIONS;
use super::copies::same_everywhere;
use super::history::value;
use super::load::{Refusals, code};
use super::nodes::{Cluster, NODES};
use super::run::rounds;
use crate::support::wait_until;

/// The only writer of its partition, so that it knows where each of its records must go, and may
/// repeat what it has no answer for.
struct Writer {
    clients: Vec<Client>,
    topic: TopicName,
    partition: u32,
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
}

/// What a writer went through.
#[derive(Debug, Default)]
struct Told {
    written: u64,
    repeated: Refusals,
    /// From the first try to the acknowledgement.
    slowest: Duration,
}

impl Writer {
    async fn run(self) -> Told {
        let mut told = Told::default();
        let mut pace = tokio::time::interval(Duration::from_millis(5));
        while !self.stop.load(Ordering::Relaxed) {
            pace.tick().await;
            let began = Instant::now();
            self.write(told.written, &mut told.repeated).await;
            told.written += 1;
            told.slowest = told.slowest.max(began.elapsed());
            self.written.fetch_add(1, Ordering::Relaxed);
        }
        told
    }

    /// Appends the record of this offset, once, whatever answers come.
    async fn write(&self, offset: u64, repeated: &mut Refusals) {
        let text = value(self.partition as usize, offset);
        let message = Publish::new(text.clone());
        let partition = Some(Partition(self.partition));
        let options = ProduceOptions {
            partition,
            expected_offset: Some(Offset(offset)),
            ..ProduceOptions::default()
        };
        let record = Read {
            from: Start::Offset(Offset(offset)),
            limit: Some(1),
            wait: Duration::from_secs(1),
            ..Read::default()
        };
        let mut in_doubt = false;
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        let until = Instant::now() + Duration::from_secs(60);
        for client in self.clients.iter().cycle().skip(self.partition as usize) {
            pause.tick().await;
            assert!(Instant::now() < until, "{text} was not taken: {repeated:?}");
            let Err(error) = client.publish(&self.topic, &message, &options).await else {
                return;
            };
            *repeated.entry(code(&error)).or_default() += 1;
            if error.code() != Some(Code::OffsetMismatch) {
                in_doubt |= error.outcome() == Outcome::Unknown;
                assert!(error.retryable(), "{text}: {error}");
                continue;
            }
            // An earlier try was taken, and only that may stand in the way.
            assert!(in_doubt, "{text}: {error}");
            let Ok(page) = client.read(&self.topic, partition, &record).await else {
                continue;
            };
            if let Some(found) = page.records.first() {
                let found = found.value.as_ref().unwrap().get();
                assert_eq!(serde_json::from_str::<String>(found).unwrap(), text);
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_fails_no_request_of_a_client_that_tries_again() {
    let mut cluster = Cluster::start().await;
    let topic: TopicName = "kept".parse().unwrap();
    let patch = TopicPatch {
        partitions: Some(PARTITIONS),
        ..TopicPatch::default()
    };
    cluster.create(&topic, patch).await;
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let writer = |partition| Writer {
        clients: cluster.clients().to_vec(),
        topic: topic.clone(),
        partition,
        stop: stop.clone(),
        written: Arc::clone(&written),
    };
    let writers = (0..PARTITIONS).map(writer);
    let writers: Vec<_> = writers.map(|writer| tokio::spawn(writer.run())).collect();
    let rounds = rounds(1);
    for node in (0..rounds).flat_map(|_| 0..NODES) {
        let before = written.load(Ordering::Relaxed);
        wait_until("progress", || async {
            before + 100 <= written.load(Ordering::Relaxed)
        })
        .await;
        let ended = cluster.terminate(node).await;
        assert_eq!(ended.code(), Some(0), "{ended}");
        cluster.run(&[node]).await;
        cluster.settled(&topic).await;
    }
    stop.store(true, Ordering::Relaxed);
    let id = cluster.clients()[0].topic(&topic).await.unwrap().id;
    let (mut total, mut slowest, mut repeated) = (0, Duration::ZERO, Refusals::new());
    for (partition, writer) in writers.into_iter().enumerate() {
        let told = writer.await.unwrap();
        let expected: Vec<String> = (0..told.written).map(|at| value(partition, at)).collect();
        let found = same_everywhere(&cluster, &id, partition as u32).await;
        assert_eq!(found, expected, "partition {partition}");
        total += told.written;
        slowest = slowest.max(told.slowest);
        for (code, times) in told.repeated {
            *repeated.entry(code).or_default() += times;
        }
    }
    println!(
        "{rounds} rolling restarts of {NODES} nodes: {total} records, each there once; no request \
         failed for good, the slowest took {slowest:.0?} with its repetitions: {repeated:?}"
    );
}
