//! What is sent again is appended once, also when the disk or the leadership does not play along.

use bytes::BytesMut;

use super::*;
use crate::record::{BatchBuilder, Codec, Producer, Record};
use crate::types::Timestamp;

/// A batch of an idempotent producer.
fn numbered(sequence: u32, value: &str) -> AppendRequest {
    let mut builder = BatchBuilder::default();
    builder.push(&Record::text(value), Timestamp(7));
    let stamp = Producer {
        id: 5,
        epoch: 0,
        base_sequence: sequence,
    };
    let batch = builder.build(Codec::None, stamp).unwrap();
    AppendRequest {
        batches: vec![BytesMut::from(batch.bytes().as_ref())],
        expected: None,
    }
}

#[tokio::test]
async fn what_was_not_written_was_not_sent() {
    let disk = SimDisk::default();
    let handle = host(&disk, options(), Durability::Fsync).await;
    disk.set_faults(Faults {
        quota: Some(0),
        ..Faults::default()
    });
    // One group: the second is a repetition of what never came to be, the third comes after it.
    let all = tokio::join!(
        handle.append(numbered(0, "a"), Acks::All),
        handle.append(numbered(0, "a"), Acks::All),
        handle.append(numbered(1, "b"), Acks::All),
    );
    for refused in [all.0, all.1, all.2] {
        let refused = refused.unwrap_err();
        assert!(matches!(refused, AppendError::NoSpace { .. }), "{refused}");
    }
    disk.set_faults(Faults::default());
    let (first, again, second) = tokio::join!(
        handle.append(numbered(0, "a"), Acks::All),
        handle.append(numbered(0, "a"), Acks::All),
        handle.append(numbered(1, "b"), Acks::All),
    );
    let place = |appended: Result<Vec<Appended>, AppendError>| {
        let appended = appended.unwrap()[0];
        (appended.base_offset.0, appended.replayed.is_some())
    };
    assert_eq!(
        [place(first), place(again), place(second)],
        [(0, false), (0, true), (1, false)]
    );
}

#[tokio::test]
async fn what_comes_early_waits_for_its_turn_and_is_given_up_if_that_does_not_come() {
    let disk = SimDisk::default();
    let handle = host(&disk, options(), Durability::Fsync).await;
    // In one group, and each in a group of its own.
    let (third, second, first) = tokio::join!(
        handle.append(numbered(2, "c"), Acks::All),
        handle.append(numbered(1, "b"), Acks::All),
        handle.append(numbered(0, "a"), Acks::All),
    );
    let offsets = [first, second, third].map(|appended| appended.unwrap()[0].base_offset.0);
    assert_eq!(offsets, [0, 1, 2]);
    let early = handle.clone();
    let early = tokio::spawn(async move { early.append(numbered(4, "e"), Acks::All).await });
    handle
        .append(request("somebody else's", None), Acks::All)
        .await
        .unwrap();
    let late = handle.append(numbered(3, "d"), Acks::All).await.unwrap();
    let early = early.await.unwrap().unwrap();
    assert_eq!(late[0].base_offset.0 + 1, early[0].base_offset.0);
    let lost = handle
        .append(numbered(9, "j"), Acks::All)
        .await
        .unwrap_err();
    let expected = SequenceError::OutOfOrder {
        sequence: 9,
        expected: 5,
    };
    assert!(
        matches!(lost, AppendError::Sequence { reason, .. } if reason == expected),
        "{lost}"
    );
}

#[tokio::test]
async fn a_repetition_is_not_told_its_place_before_that_is_committed() {
    let disk = SimDisk::default();
    let replicated = LogOptions {
        replicated: true,
        ..options()
    };
    let (handle, _proposals) = spawned(&disk, replicated);
    handle.assume(assignment(&[OWN, OTHER], OWN, Durability::Fsync));
    let mut roles = handle.roles();
    soon(roles.wait_for(|role| role.leads)).await.unwrap();
    // The other replica never comes: nothing is committed.
    let first = handle.append(numbered(0, "a"), Acks::Leader).await.unwrap();
    assert_eq!(first[0].base_offset, Offset(0));
    let again = handle.clone();
    let again = tokio::spawn(async move { again.append(numbered(0, "a"), Acks::Leader).await });
    // Behind the repetition in the queue.
    tokio::task::yield_now().await;
    handle
        .append(request("b", None), Acks::Leader)
        .await
        .unwrap();
    handle.assume(assignment(&[OWN, OTHER], OTHER, Durability::Fsync));
    let again = again.await.unwrap();
    assert!(
        matches!(again, Err(AppendError::LeadershipLost { .. })),
        "{again:?}"
    );
}
