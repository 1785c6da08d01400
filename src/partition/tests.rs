//! What the owner of a log promises when the disk does not play along.

mod once;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};

use super::*;
use crate::replication::{Fetch, FetchAnswer, PartitionView, Standing, control};
use crate::storage::LogOptions;
use crate::storage::tests::sim::{Faults, SimDisk};
use crate::storage::tests::{EPOCH, batch, open_on, options, small_segments};
use crate::tasks::Tasks;
use crate::types::{
    Acks, Durability, Incarnation, LeaderEpoch, NodeId, Partition, PartitionEpoch, Replica,
    SystemClock,
};

async fn host(disk: &SimDisk, options: LogOptions, durability: Durability) -> PartitionHandle {
    let (handle, _) = spawned(disk, options);
    handle.assume(assignment(&[OWN], OWN, durability));
    let mut roles = handle.roles();
    roles.wait_for(|role| role.leads).await.unwrap();
    handle
}

const OWN: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);

/// What the metadata says when these nodes hold copies and `leader` leads, in an epoch of its own.
fn assignment(nodes: &[NodeId], leader: NodeId, durability: Durability) -> Assignment {
    let replica = |node: &NodeId| Replica {
        node: *node,
        generation: 1,
    };
    let replicas: Vec<Replica> = nodes.iter().map(replica).collect();
    let mut record = control::create(&replicas, EPOCH, |_| true);
    let _ = control::move_leader(&mut record, leader);
    let standing = Standing {
        incarnation: Incarnation(1),
        unfenced: true,
        may_join: true,
    };
    Assignment {
        node: OWN,
        incarnation: Incarnation(1),
        view: PartitionView {
            record,
            min_insync: 1,
            durability,
            peers: nodes.iter().map(|node| (*node, standing)).collect(),
        },
    }
}

fn spawned(disk: &SimDisk, options: LogOptions) -> (PartitionHandle, mpsc::Receiver<Proposal>) {
    let (log, _) = open_on(Arc::new(disk.clone()), Path::new("/log"), options);
    let (proposals, proposed) = mpsc::channel(16);
    let hosted = Hosted {
        tasks: Tasks::new(),
        clock: Arc::new(SystemClock),
        stats: Arc::default(),
        progress: watch::Sender::new(0),
        led: watch::Sender::new(0),
        proposals,
        writers: Arc::new(Semaphore::new(1)),
        compressors: Arc::new(Semaphore::new(1)),
    };
    let name = TopicPartition {
        topic: "t".parse().unwrap(),
        partition: Partition(0),
    };
    (spawn(name, log, hosted), proposed)
}

/// A way to a node, and what is asked on it.
fn way(leader: NodeId) -> (Upstream, mpsc::UnboundedReceiver<Request>) {
    let (requests, asked) = mpsc::unbounded_channel();
    (Upstream { leader, requests }, asked)
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), what)
        .await
        .expect("it never came")
}

#[tokio::test]
async fn a_leader_that_is_deposed_while_its_log_is_being_written_follows_the_next_one() {
    let disk = SimDisk::default();
    let (handle, _proposals) = spawned(&disk, options());
    handle.assume(assignment(&[OWN, OTHER], OWN, Durability::Fsync));
    let mut roles = handle.roles();
    soon(roles.wait_for(|role| role.leads)).await.unwrap();
    // The log is with its writer when the word of the new leader comes, and the way to it at once.
    let appending = handle.append(request("a", None), Acks::Leader);
    let (upstream, mut asked) = way(OTHER);
    let deposing = async {
        handle.assume(assignment(&[OWN, OTHER], OTHER, Durability::Fsync));
        handle.follow(upstream);
    };
    let _ = soon(async { tokio::join!(appending, deposing) }).await;
    let request = soon(asked.recv()).await.unwrap();
    assert_eq!(request.fetch.node, OWN);
}

#[tokio::test]
async fn the_end_of_a_way_to_one_leader_does_not_take_the_way_to_another() {
    let disk = SimDisk::default();
    let (handle, _proposals) = spawned(&disk, options());
    let third = NodeId(3);
    let nodes = [OWN, OTHER, third];
    handle.assume(assignment(&nodes, OTHER, Durability::Fsync));
    let (old, mut asked_old) = way(OTHER);
    handle.follow(old.clone());
    soon(asked_old.recv()).await.unwrap();
    let (new, mut asked_new) = way(third);
    let mut next = assignment(&nodes, third, Durability::Fsync);
    let _ = control::move_leader(&mut next.view.record, OTHER);
    let _ = control::move_leader(&mut next.view.record, third);
    handle.follow(new);
    handle.assume(next);
    handle.unfollow(old.clone());
    soon(asked_new.recv()).await.unwrap();
    // A way to the same node that was opened anew is not taken by the end of the one before.
    let (again, mut asked_again) = way(third);
    handle.follow(again);
    handle.unfollow(Upstream {
        leader: third,
        requests: mpsc::unbounded_channel().0,
    });
    soon(asked_again.recv()).await.unwrap();
}

#[tokio::test]
async fn a_log_that_gets_its_first_copy_knows_the_epochs_of_before() {
    let disk = SimDisk::default();
    let handle = host(&disk, options(), Durability::Fsync).await;
    handle.append(request("a", None), Acks::All).await.unwrap();
    handle.close().await.unwrap();

    let (handle, _proposals) = spawned(&disk, options());
    let alone = || {
        let mut alone = assignment(&[OWN], OWN, Durability::Fsync);
        alone.view.record.leader_epoch = LeaderEpoch(EPOCH.0 + 5);
        alone
    };
    handle.assume(alone());
    let mut roles = handle.roles();
    soon(roles.wait_for(|role| role.leads)).await.unwrap();
    let mut two = assignment(&[OWN, OTHER], OWN, Durability::Fsync);
    two.view.record.leader_epoch = LeaderEpoch(EPOCH.0 + 5);
    two.view.record.partition_epoch = PartitionEpoch(9);
    handle.assume(two);
    let fetch = Fetch {
        node: OTHER,
        incarnation: Incarnation(1),
        generation: 1,
        leader_epoch: LeaderEpoch(EPOCH.0 + 5),
        fetch_offset: Offset(1),
        last_epoch: Some(EPOCH),
        durable_offset: Offset(1),
        round: 0,
    };
    let (session, mut answers) = mpsc::unbounded_channel();
    loop {
        handle.fetch(fetch, true, session.clone());
        handle
            .append(request("b", None), Acks::Leader)
            .await
            .unwrap();
        match soon(answers.recv()).await.unwrap().answer {
            FetchAnswer::UnknownEpoch => {}
            answer => {
                assert!(matches!(answer, FetchAnswer::Ok { .. }), "{answer:?}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_leader_of_an_idle_partition_knows_at_once_that_it_has_caught_up() {
    let disk = SimDisk::default();
    let handle = host(&disk, options(), Durability::Fsync).await;
    let mut roles = handle.roles();
    soon(roles.wait_for(|role| role.caught_up)).await.unwrap();
}

#[tokio::test]
async fn upkeep_has_its_turn_however_many_appends_wait() {
    let disk = SimDisk::default();
    let handle = host(&disk, small_segments(4096), Durability::Fsync).await;
    handle.append(request("a", None), Acks::All).await.unwrap();
    let trimmed = std::sync::atomic::AtomicBool::new(false);
    let done = || trimmed.load(std::sync::atomic::Ordering::Relaxed);
    // Each has another append waiting before its last one is answered.
    let busy = async |_| {
        while !done() {
            handle.append(request("b", None), Acks::All).await.unwrap();
        }
    };
    let trim = async {
        handle.append(request("c", None), Acks::All).await.unwrap();
        handle.trim(Offset(1)).await.unwrap();
        trimmed.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    soon(async { tokio::join!(busy(1), busy(2), busy(3), busy(4), trim) }).await;
    assert_eq!(handle.reader().log_start(), Offset(1));
}

#[tokio::test]
async fn a_leader_whose_disk_fails_asks_to_be_replaced_until_it_is() {
    let disk = SimDisk::default();
    let (handle, mut proposals) = spawned(&disk, options());
    handle.assume(assignment(&[OWN, OTHER], OWN, Durability::Fsync));
    let mut roles = handle.roles();
    soon(roles.wait_for(|role| role.leads)).await.unwrap();
    let appended = handle.append(request("a", None), Acks::Leader).await;
    appended.unwrap();
    disk.set_faults(Faults {
        fail_sync_after: Some(0),
        ..Faults::default()
    });
    let failed = handle.append(request("b", None), Acks::Leader).await;
    assert!(
        matches!(failed, Err(AppendError::Sync { .. })),
        "{failed:?}"
    );
    let mut resigned = 0;
    while resigned < 2 {
        match soon(proposals.recv()).await.unwrap() {
            Proposal::Resign { from } => {
                assert!(from.is_same(&handle));
                resigned += 1;
            }
            Proposal::Alter { .. } => {}
        }
    }
}

fn request(value: &str, expected: Option<u64>) -> AppendRequest {
    AppendRequest {
        batches: vec![batch(&[value])],
        expected: expected.map(Offset),
    }
}

#[tokio::test]
async fn an_end_that_never_came_to_be_is_held_against_nobody() {
    let disk = SimDisk::default();
    let handle = host(&disk, options(), Durability::Fsync).await;
    disk.set_faults(Faults {
        quota: Some(0),
        ..Faults::default()
    });
    // One group: on this runtime the task runs when both have sent.
    let (first, second) = tokio::join!(
        handle.append(request("a", None), Acks::All),
        handle.append(request("b", Some(0)), Acks::All)
    );
    assert!(
        matches!(first, Err(AppendError::NoSpace { .. })),
        "{first:?}"
    );
    assert!(
        matches!(second, Err(AppendError::NoSpace { .. })),
        "{second:?}"
    );
    disk.set_faults(Faults::default());
    let (first, second, third) = tokio::join!(
        handle.append(request("a", Some(0)), Acks::All),
        handle.append(request("b", Some(0)), Acks::All),
        handle.append(request("c", Some(1)), Acks::All)
    );
    assert_eq!(first.unwrap()[0].base_offset, Offset(0));
    assert!(matches!(
        second,
        Err(AppendError::OffsetMismatch { end: Offset(1), .. })
    ));
    assert_eq!(third.unwrap()[0].base_offset, Offset(1));
}

#[tokio::test]
async fn a_partition_is_offline_as_soon_as_an_fsync_has_failed_whoever_asked_for_it() {
    for ask in ["maintain", "trim"] {
        let disk = SimDisk::default();
        let handle = host(&disk, small_segments(4096), Durability::Replicated).await;
        handle.append(request("a", None), Acks::All).await.unwrap();
        assert_eq!(handle.state(), State::Online);
        disk.set_faults(Faults {
            fail_sync_after: Some(0),
            ..Faults::default()
        });
        match ask {
            "maintain" => handle.maintain(None),
            _ => drop(handle.trim(Offset(1)).await.unwrap_err()),
        }
        let mut state = handle.shared.state.clone();
        let offline = state.wait_for(|state| matches!(state, State::Offline(_)));
        tokio::time::timeout(Duration::from_secs(10), offline)
            .await
            .expect(ask)
            .unwrap();
        let refused = handle.append(request("b", None), Acks::All).await;
        assert!(
            matches!(refused, Err(AppendError::Offline { .. })),
            "{refused:?}"
        );
        let read = handle.read(Offset(0), 1024).await.unwrap();
        assert!(!read.is_empty(), "reads go on");
    }
}
