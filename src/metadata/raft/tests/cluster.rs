//! Several members in one process. Everything is real but the wires between them, which can be
//! cut, and lose answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tempfile::TempDir;
use tokio::time::timeout;
use uuid::Uuid;

use crate::metadata::raft::Proposal;
use crate::metadata::{
    ApplyError, BarrierError, Command, Loss, MembershipError, OpenError, RaftRpc, RaftTransport,
    Registration, Store, StoreOptions, Unreachable, View,
};
use crate::types::{Incarnation, NodeId, Timestamp, TopicId, TopicName, TopicSettings};

/// Longer than anything here takes, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Wires {
    stores: BTreeMap<NodeId, Store>,
    /// From whom to whom nothing gets through.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Requests whose answers are lost.
    unanswered: Option<RaftRpc>,
}

/// One member's end of the wires.
#[derive(Clone, Default)]
struct Wire {
    own: Arc<OnceLock<NodeId>>,
    wires: Arc<Mutex<Wires>>,
}

impl RaftTransport for Wire {
    fn call(
        &self,
        to: NodeId,
        rpc: RaftRpc,
        body: Bytes,
    ) -> BoxFuture<'_, Result<Bytes, Unreachable>> {
        let lost = |sent, why: &str| Unreachable {
            sent,
            why: why.into(),
        };
        Box::pin(async move {
            let own = *self.own.get().ok_or(lost(false, "not connected yet"))?;
            let reach = |wires: &Wires, from, to| {
                let store = wires.stores.get(&to).cloned();
                store.filter(|_| !wires.cut.contains(&(from, to)))
            };
            let store = reach(&self.wires.lock().unwrap(), own, to);
            let store = store.ok_or(lost(false, "no way there"))?;
            let answer = store.handle(rpc, body).await;
            drop(store);
            let wires = self.wires.lock().unwrap();
            if wires.cut.contains(&(to, own)) || wires.unanswered == Some(rpc) {
                return Err(lost(true, "no way back"));
            }
            answer.map_err(|error| lost(true, &error.to_string()))
        })
    }
}

/// Asks until there is an answer.
async fn until<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let answer = timeout(PATIENCE, asking).await;
    answer.unwrap_or_else(|_| panic!("there never was {what}"))
}

struct Member {
    place: TempDir,
    id: NodeId,
    store: Option<Store>,
}

impl Member {
    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }
}

struct Cluster {
    wires: Arc<Mutex<Wires>>,
    members: Vec<Member>,
    snapshot_every: u64,
    checksum_every: u64,
    deadline: Duration,
    lease: Duration,
}

impl Cluster {
    /// So many members, none of which is part of a cluster yet.
    async fn new(members: usize) -> Self {
        let mut cluster = Self {
            wires: Arc::default(),
            members: Vec::new(),
            snapshot_every: 5000,
            checksum_every: 1000,
            deadline: Duration::from_secs(10),
            lease: StoreOptions::default().lease,
        };
        for _ in 0..members {
            cluster.join().await;
        }
        cluster
    }

    /// A cluster of so many voters, led by the first.
    async fn of_voters(members: usize) -> Self {
        let cluster = Self::new(members).await;
        cluster.store(0).bootstrap().await.unwrap();
        cluster.leader().await;
        for at in 1..members {
            cluster.add_voter(at).await;
        }
        cluster
    }

    fn store(&self, at: usize) -> &Store {
        self.members[at].store()
    }

    async fn join(&mut self) -> usize {
        let place = tempfile::tempdir().unwrap();
        let store = self.open(&place).await.unwrap();
        let id = store.node();
        let store = Some(store);
        self.members.push(Member { place, id, store });
        self.members.len() - 1
    }

    async fn open(&self, place: &TempDir) -> Result<Store, OpenError> {
        let wire = Wire {
            wires: self.wires.clone(),
            ..Wire::default()
        };
        let options = StoreOptions {
            transport: Arc::new(wire.clone()),
            address: place.path().display().to_string(),
            snapshot_every: self.snapshot_every,
            checksum_every: self.checksum_every,
            deadline: self.deadline,
            lease: self.lease,
            ..StoreOptions::default()
        };
        let path = place.path().join("metadata.db");
        let store = Store::open_member(&path, options).await?;
        wire.own.set(store.node()).unwrap();
        let mut wires = self.wires.lock().unwrap();
        wires.stores.insert(store.node(), store.clone());
        Ok(store)
    }

    /// Stops a member without a word to anybody.
    async fn kill(&mut self, at: usize) {
        let member = &mut self.members[at];
        self.wires.lock().unwrap().stores.remove(&member.id);
        let owner = member.store().inner.owner.downgrade();
        drop(member.store.take());
        // Then its files are free.
        until("its end", async || owner.upgrade().is_none().then_some(())).await;
    }

    async fn restart(&mut self, at: usize) {
        let store = self.open(&self.members[at].place).await.unwrap();
        self.members[at].store = Some(store);
    }

    fn cut_off(&self, at: usize) {
        let (id, mut wires) = (self.members[at].id, self.wires.lock().unwrap());
        for other in &self.members {
            wires.cut.extend([(id, other.id), (other.id, id)]);
        }
    }

    fn heal(&self) {
        let mut wires = self.wires.lock().unwrap();
        wires.cut.clear();
        wires.unanswered = None;
    }

    /// Who leads, once all that run and are not cut off say the same.
    async fn leader(&self) -> usize {
        let cut: BTreeSet<NodeId> = {
            let wires = self.wires.lock().unwrap();
            wires.cut.iter().map(|(from, _)| *from).collect()
        };
        let cut_off = |id: NodeId| {
            let all = |other: &Member| self.wires.lock().unwrap().cut.contains(&(id, other.id));
            cut.contains(&id) && self.members.iter().all(all)
        };
        let agreed = || {
            let known: BTreeSet<Option<NodeId>> = self
                .members
                .iter()
                .filter(|member| member.store.is_some() && !cut_off(member.id))
                // Who was never added knows nobody.
                .filter(|member| !member.store().status().voters.is_empty())
                .map(|member| *member.store().leader().borrow())
                .collect();
            let [Some(leader)] = known.iter().collect::<Vec<_>>()[..] else {
                return None;
            };
            let running = |member: &Member| member.id == *leader && member.store.is_some();
            let at = self.members.iter().position(running);
            at.filter(|_| !cut_off(*leader))
        };
        until("a leader", async || agreed()).await
    }

    async fn add_voter(&self, at: usize) {
        let id = self.members[at].id;
        let add = async || {
            // A busy machine may see another leader any moment.
            let leader = self.store(self.leader().await);
            if !leader.status().learners.contains(&id) {
                leader.add_learner(id, "somewhere").await.ok()?;
            }
            leader.promote(id).await.ok()
        };
        until("a voter", add).await;
    }

    /// The view of every member, each of which has come as far as the leader.
    async fn views(&self) -> Vec<Arc<View>> {
        let mut views = Vec::new();
        for member in self.members.iter().filter(|member| member.store.is_some()) {
            member.store().read_barrier().await.unwrap();
            views.push(view(member.store()));
        }
        views
    }

    async fn assert_all_alike(&self) -> Arc<View> {
        let views = self.views().await;
        for view in &views {
            assert_eq!(view, &views[0]);
        }
        views[0].clone()
    }

    fn voters(&self, at: usize) -> usize {
        self.store(at).status().voters.len()
    }
}

fn view(store: &Store) -> Arc<View> {
    store.view().borrow().clone()
}

fn name(n: u128) -> TopicName {
    format!("t{n}").as_str().try_into().unwrap()
}

fn create(n: u128) -> Command {
    Command::CreateTopic {
        name: name(n),
        id: TopicId(Uuid::from_u128(n)),
        settings: TopicSettings {
            partitions: 1,
            ..TopicSettings::default()
        },
        at: Timestamp(1),
    }
}

/// The first commands of every test: a node that topics can be put on.
async fn prepare(store: &Store) {
    let registration = Registration {
        id: NodeId(1),
        name: "b1".parse().unwrap(),
        disk: Uuid::from_u128(1),
        process: Uuid::from_u128(1),
        http: String::new(),
        peer: String::new(),
        rack: None,
        clean: true,
        loss: Loss::None,
        at: Timestamp(1),
    };
    store
        .apply(Command::RegisterNode(registration))
        .await
        .unwrap();
    let incarnation = Incarnation(1);
    let id = NodeId(1);
    store
        .apply(Command::ActivateNode { id, incarnation })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_taken_on_every_member_and_seen_on_all() {
    let cluster = Cluster::of_voters(3).await;
    prepare(cluster.store(1)).await;
    for n in 0..9 {
        let store = cluster.store(n % 3);
        store.apply(create(n as u128)).await.unwrap();
        // Who got the answer sees it at once, wherever the leader is.
        assert!(view(store).topic(&name(n as u128)).is_some());
        assert!(matches!(
            cluster.store((n + 1) % 3).apply(create(n as u128)).await,
            Err(ApplyError::Rejected(_))
        ));
    }
    assert_eq!(cluster.assert_all_alike().await.topic_count(), 9);
    let status = cluster.store(0).status();
    assert_eq!(status.leader, Some(cluster.members[0].id));
    assert_eq!(status.voters.len(), 3);
    assert_eq!(status.lag.len(), 2);
    assert_eq!(status.addresses.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn i10_nothing_acknowledged_is_lost_with_a_leader() {
    let mut cluster = Cluster::of_voters(3).await;
    prepare(cluster.store(0)).await;
    let mut acknowledged = 0;
    for _ in 0..2 {
        let leader = cluster.leader().await;
        for _ in 0..10 {
            let follower = cluster.store((leader + 1) % 3);
            follower.apply(create(acknowledged)).await.unwrap();
            acknowledged += 1;
        }
        cluster.kill(leader).await;
        let next = cluster.leader().await;
        assert_ne!(next, leader);
        cluster
            .store(next)
            .apply(create(acknowledged))
            .await
            .unwrap();
        acknowledged += 1;
        cluster.restart(leader).await;
        let view = cluster.assert_all_alike().await;
        assert_eq!(view.topic_count() as u128, acknowledged);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_can_neither_acknowledge_nor_answer() {
    let mut cluster = Cluster::new(0).await;
    cluster.deadline = Duration::from_secs(3);
    for _ in 0..3 {
        cluster.join().await;
    }
    cluster.store(0).bootstrap().await.unwrap();
    for at in 1..3 {
        cluster.add_voter(at).await;
    }
    prepare(cluster.store(0)).await;

    cluster.cut_off(0);
    let old = cluster.store(0).clone();
    let (applied, barrier) = tokio::join!(old.apply(create(1)), old.read_barrier());
    assert!(
        matches!(applied, Err(ApplyError::Unknown(_) | ApplyError::NoLeader)),
        "{applied:?}"
    );
    assert_eq!(barrier, Err(BarrierError::NoLeader));
    let leader = cluster.leader().await;
    assert_ne!(leader, 0);
    cluster.store(leader).apply(create(2)).await.unwrap();
    assert!(view(&old).topic(&name(2)).is_none());

    cluster.heal();
    drop(old);
    let view = cluster.assert_all_alike().await;
    assert!(view.topic(&name(2)).is_some());
    // It was never on a majority.
    assert!(view.topic(&name(1)).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_answer_is_lost_is_known_by_what_it_did() {
    let cluster = Cluster::of_voters(3).await;
    prepare(cluster.store(0)).await;
    cluster.wires.lock().unwrap().unanswered = Some(RaftRpc::Propose);
    let follower = cluster.store((cluster.leader().await + 1) % 3);
    follower.apply(create(1)).await.unwrap();
    assert!(matches!(
        follower.apply(create(1)).await,
        Err(ApplyError::Rejected(_))
    ));
    cluster.heal();
    assert_eq!(cluster.assert_all_alike().await.topic_count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_members_come_back_with_what_they_had() {
    let mut cluster = Cluster::of_voters(3).await;
    prepare(cluster.store(0)).await;
    for n in 0..10 {
        cluster.store(0).apply(create(n)).await.unwrap();
    }
    let before = cluster.assert_all_alike().await;
    for at in 0..3 {
        cluster.kill(at).await;
    }
    for at in 0..3 {
        cluster.restart(at).await;
    }
    let leader = cluster.leader().await;
    assert_eq!(cluster.assert_all_alike().await, before);
    cluster.store(leader).apply(create(10)).await.unwrap();
    assert_eq!(cluster.assert_all_alike().await.topic_count(), 11);
    assert_eq!(cluster.voters(leader), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn m8_a_member_that_comes_late_gets_a_snapshot() {
    let mut cluster = Cluster::new(0).await;
    cluster.snapshot_every = 20;
    cluster.join().await;
    let store = cluster.store(0).clone();
    store.bootstrap().await.unwrap();
    prepare(&store).await;
    for n in 0..60 {
        store.apply(create(n)).await.unwrap();
    }
    let purged = |metrics: &openraft::RaftMetrics<_>| metrics.purged.is_some();
    let wait = store.inner.raft.wait(Some(PATIENCE));
    wait.metrics(purged, "a log that is cut").await.unwrap();

    let late = cluster.join().await;
    let id = cluster.members[late].id;
    store.add_learner(id, "somewhere").await.unwrap();
    cluster.assert_all_alike().await;
    let late_status = cluster.store(late).status();
    assert!(late_status.snapshot.is_some(), "{late_status:?}");
    assert_eq!(cluster.assert_all_alike().await.topic_count(), 60);

    // It has it on disk, and goes on from there.
    cluster.kill(late).await;
    store.apply(create(60)).await.unwrap();
    cluster.restart(late).await;
    assert_eq!(cluster.assert_all_alike().await.topic_count(), 61);
    // Of the snapshots two are kept.
    let names = std::fs::read_dir(cluster.members[0].place.path().join("raft")).unwrap();
    let names = names.filter(|name| {
        let name = name.as_ref().unwrap().file_name();
        name.to_str().unwrap().ends_with(".snapshot")
    });
    assert!(names.count() <= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn m9_members_come_and_go_one_at_a_time_and_never_too_many() {
    let mut cluster = Cluster::of_voters(3).await;
    prepare(cluster.store(0)).await;
    let leader = cluster.store(0).clone();
    assert_eq!(
        leader.bootstrap().await,
        Err(MembershipError::AlreadyMember)
    );
    let ids: Vec<NodeId> = cluster.members.iter().map(|member| member.id).collect();
    assert_eq!(
        cluster.store(1).demote(ids[2]).await,
        Err(MembershipError::NotLeader(Some(ids[0])))
    );
    assert_eq!(
        leader.promote(NodeId(1)).await,
        Err(MembershipError::NotMember(NodeId(1)))
    );

    // With one of three dead, the other two are needed; also when it died this very moment.
    cluster.kill(2).await;
    let refused = leader.demote(ids[1]).await.unwrap_err();
    assert_eq!(
        refused,
        MembershipError::NoMajority {
            voters: 2,
            alive: 1
        }
    );

    leader.apply(create(1)).await.unwrap();
    for id in [ids[2], ids[1]] {
        leader.demote(id).await.unwrap();
        leader.remove_learner(id).await.unwrap();
    }
    assert_eq!(leader.status().voters, [ids[0]].into());
    assert!(leader.status().learners.is_empty());
    cluster.kill(1).await;
    leader.apply(create(2)).await.unwrap();
    assert_eq!(view(&leader).topic_count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_handed_over_on_request() {
    let cluster = Cluster::of_voters(3).await;
    prepare(cluster.store(0)).await;
    let to = cluster.members[1].id;
    cluster.store(0).transfer_leadership(to).await.unwrap();
    for member in &cluster.members {
        let mut leader = member.store().leader();
        let handed = leader.wait_for(|leader| *leader == Some(to));
        timeout(PATIENCE, handed).await.expect("kept").unwrap();
    }
    assert!(cluster.store(1).is_leader() && !cluster.store(0).is_leader());
    cluster.store(0).apply(create(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_has_ended_is_succeeded_without_waiting_for_its_lease() {
    let mut cluster = Cluster::new(0).await;
    // By itself nobody would stand for election as long as this test may take.
    cluster.lease = 4 * PATIENCE;
    for _ in 0..3 {
        cluster.join().await;
    }
    cluster.store(0).bootstrap().await.unwrap();
    for at in 1..3 {
        cluster.add_voter(at).await;
    }
    prepare(cluster.store(0)).await;
    let ended = cluster.members[0].id;
    cluster.kill(0).await;
    for at in 1..3 {
        cluster.store(at).leader_has_ended(ended).await;
    }
    let leader = cluster.leader().await;
    cluster.store(leader).apply(create(1)).await.unwrap();
    // Nobody stands against a leader that is not the one that ended.
    let term = cluster.store(leader).status().term;
    for at in 1..3 {
        cluster.store(at).leader_has_ended(ended).await;
    }
    cluster.store(leader).apply(create(2)).await.unwrap();
    assert_eq!(cluster.store(leader).status().term, term);
}

#[tokio::test(flavor = "multi_thread")]
async fn m4_members_compare_their_states_and_one_that_differs_stops_for_good() {
    let mut cluster = Cluster::new(0).await;
    cluster.checksum_every = 10;
    for _ in 0..2 {
        cluster.join().await;
    }
    cluster.store(0).bootstrap().await.unwrap();
    cluster.add_voter(1).await;
    prepare(cluster.store(0)).await;
    for n in 0..40 {
        cluster.store(0).apply(create(n)).await.unwrap();
    }
    // Their own checksums agree.
    assert_eq!(cluster.assert_all_alike().await.topic_count(), 40);

    let index = cluster.store(0).status().applied.unwrap() / 10 * 10;
    let false_checksum = Proposal::Checksum {
        version: env!("CARGO_PKG_VERSION").into(),
        index,
        hash: 1,
    };
    let raft = cluster.store(0).inner.raft.clone();
    raft.client_write_ff(false_checksum, None).await.unwrap();
    drop(raft);
    for at in 0..2 {
        let stopped = cluster.store(at).stopped();
        timeout(PATIENCE, stopped).await.expect("it goes on");
        assert!(matches!(
            cluster.store(at).apply(create(99)).await,
            Err(ApplyError::Closed(_))
        ));
    }
    cluster.kill(0).await;
    let refused = cluster.open(&cluster.members[0].place).await;
    assert!(
        matches!(refused, Err(OpenError::Diverged { .. })),
        "{refused:?}"
    );
}
