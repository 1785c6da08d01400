//! What the owner of a log promises when the disk does not play along.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};

use super::*;
use crate::replication::{PartitionView, control};
use crate::storage::LogOptions;
use crate::storage::tests::sim::{Faults, SimDisk};
use crate::storage::tests::{EPOCH, batch, open_on, options, small_segments};
use crate::tasks::Tasks;
use crate::types::{Acks, Durability, Incarnation, NodeId, Partition, Replica, SystemClock};

async fn host(disk: &SimDisk, options: LogOptions, durability: Durability) -> PartitionHandle {
    let (log, _) = open_on(Arc::new(disk.clone()), Path::new("/log"), options);
    let hosted = Hosted {
        tasks: Tasks::new(),
        clock: Arc::new(SystemClock),
        stats: Arc::default(),
        progress: watch::Sender::new(0),
        led: watch::Sender::new(0),
        proposals: mpsc::channel(1).0,
        writers: Arc::new(Semaphore::new(1)),
        compressors: Arc::new(Semaphore::new(1)),
    };
    let name = TopicPartition {
        topic: "t".parse().unwrap(),
        partition: Partition(0),
    };
    let handle = spawn(name, log, hosted);
    let node = NodeId(1);
    let replica = Replica {
        node,
        generation: 1,
    };
    handle.assume(Assignment {
        node,
        incarnation: Incarnation(1),
        view: PartitionView {
            record: control::create(&[replica], EPOCH, |_| true),
            min_insync: 1,
            durability,
            peers: BTreeMap::new(),
        },
    });
    let mut roles = handle.roles();
    roles.wait_for(|role| role.leads).await.unwrap();
    handle
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
            "maintain" => handle.maintain(),
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
