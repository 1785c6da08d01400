//! Three real processes that make a cluster, each with an address of its own that it keeps over
//! restarts, and what can be done to them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};

use pilgrimage::api::v1::{Cluster as Seen, PartitionInfo, PartitionList};
use pilgrimage::client::{Client, ClientOptions};
use pilgrimage::types::{TopicName, TopicPatch};
use rustix::process::Signal;
use tokio::sync::{Mutex, MutexGuard};

use super::PARTITIONS;
use super::load::REQUEST;
use crate::support::{BINARY, Node, wait_for, wait_until};

pub(super) const NAMES: [&str; 3] = ["one", "two", "three"];
pub(super) const NODES: usize = NAMES.len();
const CLIENTS: u16 = 8080;
const PEERS: u16 = 9080;

/// One cluster at a time: on a machine with few cores, several would wait for each other so long
/// that nodes are taken for dead.
pub(crate) static TURN: Mutex<()> = Mutex::const_new(());

/// Where a node runs, and how it is started.
#[derive(Debug, Clone)]
pub(super) struct Seat {
    /// The address of the machine that it believes to be on.
    pub(super) host: String,
    pub(super) storage: PathBuf,
    /// The command that the program and its arguments are handed to.
    pub(super) before: Vec<String>,
    pub(super) environment: Vec<(&'static str, String)>,
}

impl Seat {
    fn peer(&self) -> String {
        format!("{}:{PEERS}", self.host)
    }
}

pub(super) struct Cluster {
    pub(super) seats: Vec<Seat>,
    nodes: Vec<Option<Node>>,
    clients: Vec<Client>,
    dir: tempfile::TempDir,
    _turn: Option<MutexGuard<'static, ()>>,
}

impl Cluster {
    /// On loopback, each node on an address that nobody else uses.
    pub(super) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let seats = loopback(dir.path());
        Self::seated(dir, seats).await
    }

    /// Three voters, ready when this returns.
    pub(super) async fn seated(dir: tempfile::TempDir, seats: Vec<Seat>) -> Self {
        let turn = TURN.lock().await;
        Self::within(dir, seats, Some(turn)).await
    }

    /// As [`seated`](Self::seated), by who has the turn already.
    pub(super) async fn within(
        dir: tempfile::TempDir,
        seats: Vec<Seat>,
        turn: Option<MutexGuard<'static, ()>>,
    ) -> Self {
        let options = ClientOptions {
            connect_timeout: REQUEST,
            timeout: REQUEST,
            // Each try is an event of its own.
            attempts: 1,
            ..ClientOptions::default()
        };
        let url = |seat: &Seat| format!("http://{}:{CLIENTS}", seat.host);
        let client = |seat| Client::with_options(&url(seat), options.clone()).unwrap();
        let mut cluster = Self {
            clients: seats.iter().map(client).collect(),
            nodes: seats.iter().map(|_| None).collect(),
            seats,
            dir,
            _turn: turn,
        };
        // Makes the secret that the others need.
        cluster.run(&[0]).await;
        cluster.run(&[1, 2]).await;
        wait_until("three voters", || async {
            let seen = cluster.clients[0].cluster().await;
            seen.is_ok_and(|seen| seen.nodes.iter().filter(|node| node.voter).count() == NODES)
        })
        .await;
        cluster
    }

    /// Starts nodes, or starts them again; all of them are ready when this returns.
    pub(super) async fn run(&mut self, which: &[usize]) {
        let starting = which.iter().map(|node| {
            let (command, seat) = (self.command(*node), &self.seats[*node]);
            let listen = format!("{}:{CLIENTS}", seat.host);
            async move { Node::start_as(command, &seat.storage, &listen).await }
        });
        let started = futures_util::future::join_all(starting).await;
        for (node, started) in which.iter().zip(started) {
            self.nodes[*node] = Some(started);
        }
    }

    fn command(&self, node: usize) -> Command {
        let seat = &self.seats[node];
        let mut command = match seat.before.split_first() {
            None => Command::new(BINARY),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(BINARY);
                command
            }
        };
        let mut said = File::options();
        let said = said.create(true).append(true).open(self.said(node));
        command
            .args(["start", "--id", NAMES[node], "--allow-anonymous"])
            .args(["--allowed-hosts", &seat.host])
            .env("PILGRIMAGE_STATE_DIR", self.dir.path().join("state"))
            .env_remove("PILGRIMAGE_URL")
            .envs(seat.environment.iter().map(|(name, value)| (name, value)))
            .stderr(said.unwrap());
        // Whoever comes first finds nobody to join.
        if node != 0 || seat.storage.join("metadata.db").exists() {
            let others = (0..NODES).filter(|other| *other != node);
            let others: Vec<String> = others.map(|other| self.seats[other].peer()).collect();
            let secret = self.seats[0].storage.join("cluster.key");
            command.args(["--join", &others.join(",")]);
            command.arg("--cluster-secret-file").arg(secret);
        }
        command
    }

    /// What a node says about its work, over all its lives.
    fn said(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("{}.said", NAMES[node]))
    }

    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Of all nodes, whether they run or not.
    pub(super) fn clients(&self) -> &[Client] {
        &self.clients
    }

    pub(super) fn pid(&self, node: usize) -> u32 {
        self.nodes[node].as_ref().unwrap().pid()
    }

    /// SIGKILL to all of these before the first is waited for.
    pub(super) fn kill(&mut self, which: &[usize]) {
        for node in which {
            self.nodes[*node].as_ref().unwrap().signal(Signal::KILL);
        }
        for node in which {
            self.nodes[*node].take().unwrap().kill();
        }
    }

    /// SIGTERM, and the exit status that follows.
    pub(super) async fn terminate(&mut self, node: usize) -> ExitStatus {
        let mut ending = self.nodes[node].take().unwrap();
        ending.signal(Signal::TERM);
        wait_until("the end of a node that was asked to end", || {
            let ended = ending.ended().is_some();
            async move { ended }
        })
        .await;
        ending.ended().unwrap()
    }

    /// SIGSTOP: it is there and does nothing.
    pub(super) fn pause(&self, node: usize) {
        self.nodes[node].as_ref().unwrap().signal(Signal::STOP);
    }

    pub(super) fn resume(&self, node: usize) {
        self.nodes[node].as_ref().unwrap().signal(Signal::CONT);
    }

    /// A topic with a copy on each node and two of them in sync at least, when all three are.
    pub(super) async fn create(&self, topic: &TopicName, patch: TopicPatch) {
        let patch = TopicPatch {
            replication_factor: Some(3),
            min_insync_replicas: Some(2),
            ..patch
        };
        let creating = self.clients[0].create_topic(topic, &patch);
        creating.await.unwrap();
        self.settled(topic).await;
    }

    /// Waits until all nodes see the same controller, and a leader and three copies in sync
    /// everywhere.
    pub(super) async fn settled(&self, topic: &TopicName) {
        let what = "every copy in sync, as every node sees it,";
        wait_until(what, || async {
            let views = self.clients.iter().map(|client| async move {
                let seen = client.cluster().await.ok()?;
                let list = client.partitions(topic).await.ok()?.partitions;
                let whole = |at: &PartitionInfo| at.leader.is_some() && at.isr.len() == NODES;
                let whole = !list.is_empty() && list.iter().all(whole);
                (whole && all_well(&seen)).then_some(seen.controller?)
            });
            let views = futures_util::future::join_all(views).await;
            views[0].is_some() && views.iter().all(|view| *view == views[0])
        })
        .await;
    }

    /// The node that controls the others, as any of them sees it.
    pub(super) async fn controller(&self) -> usize {
        wait_for("a controller", || async {
            let views = self.clients.iter().map(Client::cluster);
            let views = futures_util::future::join_all(views).await;
            let named = views.into_iter().flatten().find_map(|seen| seen.controller);
            named.map(|name| index(&name))
        })
        .await
    }

    /// The node that leads a partition, as any node sees it.
    pub(super) async fn leader(&self, topic: &TopicName, partition: u32) -> usize {
        wait_for("a leader", || async {
            let views = self.clients.iter().map(|client| client.partitions(topic));
            let views = futures_util::future::join_all(views).await;
            let led = |list: PartitionList| list.partitions[partition as usize].leader.clone();
            let named = views.into_iter().flatten().find_map(led);
            named.map(|name| index(&name))
        })
        .await
    }

    /// The partitions that a node leads, as any node sees it.
    pub(super) async fn led(&self, topic: &TopicName, node: usize) -> Vec<u32> {
        let mut led = Vec::new();
        for partition in 0..PARTITIONS {
            if self.leader(topic, partition).await == node {
                led.push(partition);
            }
        }
        led
    }
}

/// Shows what the nodes said last when a test fails.
impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for (node, name) in NAMES.iter().enumerate() {
            let said = std::fs::read(self.said(node)).unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            let lines: Vec<&str> = said.lines().collect();
            let last = &lines[lines.len().saturating_sub(SHOWN)..];
            println!("-- {name} said last:\n{}", last.join("\n"));
        }
    }
}

/// Lines of each node that are shown when a test fails.
const SHOWN: usize = 40;

/// Seats on loopback that no other cluster of this machine has.
pub(super) fn loopback(dir: &Path) -> Vec<Seat> {
    static CLUSTERS: AtomicU32 = AtomicU32::new(0);
    let cluster = CLUSTERS.fetch_add(1, Ordering::Relaxed);
    let net = std::process::id().wrapping_mul(8).wrapping_add(cluster) % (1 << 14);
    let seat = |node: usize| Seat {
        host: format!("127.{}.{}.{}", 64 + (net >> 8), net & 255, node + 1),
        storage: dir.join(NAMES[node]),
        before: Vec::new(),
        environment: Vec::new(),
    };
    (0..NODES).map(seat).collect()
}

fn all_well(seen: &Seen) -> bool {
    let active = seen.nodes.iter().all(|node| node.status == "active");
    active && seen.nodes.len() == NODES
}

/// The node of that name.
pub(super) fn index(name: &str) -> usize {
    NAMES.iter().position(|known| *known == name).unwrap()
}
