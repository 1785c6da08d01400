//! One run: a cluster, a topic, load that never ends, faults, and what must hold after them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use pilgrimage::types::{TopicName, TopicPatch};

use super::PARTITIONS;
use super::copies::same_everywhere;
use super::history::{History, Log, Outcome, broken_promises};
use super::load::{Load, Refusals};
use super::nodes::Cluster;
use crate::support::wait_until;

/// Rounds of a run: few in the default run, as many as `PILGRIMAGE_CLUSTER_ROUNDS` says on demand.
pub(super) fn rounds(few: usize) -> usize {
    let asked = std::env::var("PILGRIMAGE_CLUSTER_ROUNDS");
    asked.ok().and_then(|n| n.parse().ok()).unwrap_or(few)
}

/// One fault: when it began, when it was done, and the partitions that lost their leaders by it.
struct Strike {
    at: u64,
    done: u64,
    partitions: BTreeSet<u32>,
}

pub(super) struct Run {
    what: &'static str,
    pub(super) cluster: Cluster,
    pub(super) topic: TopicName,
    pub(super) load: Load,
    began: Instant,
    struck: Vec<Strike>,
    /// How long it took until every copy was in sync, once a fault was over.
    healed: Vec<Duration>,
}

impl Run {
    /// Small segments, so that faults also hit rolls.
    pub(super) async fn start(what: &'static str, cluster: Cluster) -> Self {
        Self::with_segments(what, cluster, 64 * 1024).await
    }

    pub(super) async fn with_segments(
        what: &'static str,
        cluster: Cluster,
        segment_bytes: u64,
    ) -> Self {
        let topic: TopicName = "kept".parse().unwrap();
        let patch = TopicPatch {
            partitions: Some(PARTITIONS),
            segment_bytes: Some(segment_bytes),
            ..TopicPatch::default()
        };
        cluster.create(&topic, patch).await;
        let load = Load::start(cluster.clients(), &topic);
        let run = Self {
            what,
            load,
            cluster,
            topic,
            began: Instant::now(),
            struck: Vec::new(),
            healed: Vec::new(),
        };
        run.progress(20).await;
        run
    }

    /// Does harm which takes the leaders of these partitions away.
    pub(super) fn strike(
        &mut self,
        partitions: impl IntoIterator<Item = u32>,
        harm: impl FnOnce(&mut Cluster),
    ) {
        let at = self.load.now();
        harm(&mut self.cluster);
        self.struck.push(Strike {
            at,
            done: self.load.now(),
            partitions: partitions.into_iter().collect(),
        });
    }

    /// Waits for `more` acknowledged records in every partition.
    pub(super) async fn progress(&self, more: u64) {
        let before = self.load.acknowledged();
        wait_until("progress in every partition", || async {
            let now = self.load.acknowledged();
            let mut both = now.iter().zip(&before);
            both.all(|(now, before)| before + more <= *now)
        })
        .await;
    }

    /// How long a fault lasts is a part of the fault.
    pub(super) async fn lasting(&self, time: Duration) {
        tokio::time::sleep(time).await; // no wait_until: time is what is asked for
    }

    /// The fault is over: waits until every copy is in sync again.
    pub(super) async fn heals(&mut self) {
        let over = Instant::now();
        self.cluster.settled(&self.topic).await;
        self.healed.push(over.elapsed());
    }

    /// Ends the load and checks that every copy holds what was promised, byte for byte the same.
    pub(super) async fn check(self) -> Checked {
        let (history, refusals) = self.load.end().await;
        self.cluster.settled(&self.topic).await;
        let described = self.cluster.clients()[0].topic(&self.topic).await;
        let id = described.unwrap().id;
        let mut log = Log::new();
        for partition in 0..PARTITIONS {
            let values = same_everywhere(&self.cluster, &id, partition).await;
            log.insert(partition, values);
        }
        for reader in self.cluster.clients() {
            assert_eq!(crate::crash::read_all(reader, &self.topic).await, log);
        }
        let mut broken = broken_promises(&history, &log);
        let count = broken.len();
        broken.truncate(20);
        assert_eq!(broken, Vec::<String>::new(), "the first of {count}");
        let checked = Checked {
            what: self.what,
            faults: self.struck.len(),
            took: self.began.elapsed(),
            failover: failover(&history, &self.struck),
            healed: self.healed,
            history,
            refusals,
        };
        checked.tell();
        assert!(
            20 * checked.faults <= checked.history.acknowledged(),
            "too little happened to prove anything"
        );
        checked
    }
}

/// A run that kept every promise.
pub(super) struct Checked {
    what: &'static str,
    faults: usize,
    took: Duration,
    /// From each fault to the first record that was sent after it and acknowledged.
    pub(super) failover: Vec<Duration>,
    healed: Vec<Duration>,
    pub(super) history: History,
    pub(super) refusals: Refusals,
}

impl Checked {
    fn tell(&self) {
        println!(
            "{}: {} rounds in {:.0?}, {} records acknowledged, {} read; none lost, doubled, \
             reordered or different on any copy. With 95 % confidence at most {:.2} % of rounds \
             break a promise.",
            self.what,
            self.faults,
            self.took,
            self.history.acknowledged(),
            self.history
                .seen
                .iter()
                .map(|seen| seen.values.len())
                .sum::<usize>(),
            (300.0 / self.faults.max(1) as f64).min(100.0),
        );
        tell_times("  first new acknowledgement after a fault", &self.failover);
        tell_times("  every copy in sync after its end", &self.healed);
        println!("  refused or unknown: {:?}", self.refusals);
    }
}

fn tell_times(what: &str, times: &[Duration]) {
    let mut times = times.to_vec();
    times.sort_unstable();
    let Some(last) = times.last() else { return };
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
    println!(
        "{what}: n {}, p50 {:.1?}, p90 {:.1?}, p99 {:.1?}, max {last:.1?}",
        times.len(),
        at(50),
        at(90),
        at(99),
    );
}

/// From each fault, and for each partition whose leader it took: how long it was until a record
/// was acknowledged that had been sent after it.
fn failover(history: &History, struck: &[Strike]) -> Vec<Duration> {
    let mut times = Vec::new();
    for strike in struck {
        for partition in &strike.partitions {
            let since = history.sent.iter().filter(|sent| {
                sent.partition == *partition
                    && strike.done < sent.from
                    && matches!(sent.outcome, Outcome::Acknowledged(_))
            });
            let first = since.map(|sent| sent.to).min();
            times.extend(first.map(|first| Duration::from_nanos(first - strike.at)));
        }
    }
    times
}
