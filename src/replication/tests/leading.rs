//! What is committed, and who is in sync.

use super::*;

fn view(record: PartitionRecord, min_insync: u32) -> PartitionView {
    let nodes = record.replicas.iter().map(|replica| replica.node);
    PartitionView {
        peers: nodes.map(|node| (node, standing(node))).collect(),
        record,
        min_insync,
        durability: Durability::Fsync,
    }
}

fn at(log_end: u64, durable_end: u64, high_watermark: u64) -> LogPosition {
    LogPosition {
        log_end: Offset(log_end),
        durable_end: Offset(durable_end),
        high_watermark: Offset(high_watermark),
    }
}

const TIMING: Timing = Timing {
    lag_max_ms: 1_000,
    retry_ms: 100,
};

fn lead(view: PartitionView, log: LogPosition) -> Leader {
    Leader::new(A, incarnation(A), view, log, TIMING, 0)
}

fn fetch(node: NodeId, end: u64, durable: u64) -> Fetch {
    Fetch {
        node,
        incarnation: incarnation(node),
        generation: 1,
        leader_epoch: LeaderEpoch(1),
        fetch_offset: Offset(end),
        last_epoch: (0 < end).then_some(LeaderEpoch(1)),
        durable_offset: Offset(durable),
        round: 0,
    }
}

/// The follower asks; the leader's log holds epoch 1 alone.
fn ask(leader: &mut Leader, fetch: &Fetch, now: u64) -> (FetchAnswer, Vec<Effect>) {
    let mut effects = Vec::new();
    let end = leader.log().log_end;
    let end_of = |epoch| (LeaderEpoch(1) <= epoch).then_some((LeaderEpoch(1), end));
    let answer = leader.fetched(fetch, Offset::ZERO, end_of, now, &mut effects);
    (answer, effects)
}

fn done(call: impl FnOnce(&mut Vec<Effect>)) -> Vec<Effect> {
    let mut effects = Vec::new();
    call(&mut effects);
    effects
}

fn proposed(effects: &[Effect]) -> AlterPartition {
    match effects {
        [Effect::ProposeIsr(request)] => request.clone(),
        other => panic!("{other:?}"),
    }
}

fn hw(offset: u64) -> Vec<Effect> {
    vec![Effect::HighWatermark(Offset(offset))]
}

#[test]
fn a_sole_replica_commits_what_its_own_disk_has() {
    let mut leader = lead(view(record(&[A]), 1), at(3, 3, 0));
    assert!(!leader.caught_up());
    assert_eq!(done(|e| leader.appended(Offset(5), e)), hw(3));
    assert!(leader.caught_up());
    assert_eq!(done(|e| leader.synced(Offset(5), e)), hw(5));
    assert_eq!(done(|e| leader.tick(5_000, e)), []);
    assert_eq!(
        (
            leader.acks_all_done(Offset(5)),
            leader.acks_all_done(Offset(6))
        ),
        (true, false)
    );
}

#[test]
fn h1_f5_the_slowest_disk_in_sync_decides_and_one_that_was_not_heard_blocks() {
    let mut leader = lead(view(record(&[A, B, C]), 2), at(0, 0, 0));
    assert_eq!(done(|e| leader.appended(Offset(9), e)), []);
    assert_eq!(done(|e| leader.synced(Offset(8), e)), []);
    assert_eq!(ask(&mut leader, &fetch(B, 9, 7), 1).1, []);
    let (answer, effects) = ask(&mut leader, &fetch(C, 9, 4), 1);
    assert_eq!(effects, hw(4));
    assert_eq!(
        answer,
        FetchAnswer::Ok {
            high_watermark: Offset(4),
            log_start: Offset::ZERO
        }
    );
    // A request that was overtaken takes nothing back.
    assert_eq!(ask(&mut leader, &fetch(C, 2, 2), 2).1, []);
    assert_eq!(ask(&mut leader, &fetch(C, 9, 9), 2).1, hw(7));
    assert_eq!(leader.progress(C), Some((Offset(9), Offset(9))));
}

#[test]
fn f5_what_is_replicated_counts_where_the_topic_asks_for_no_more() {
    let mut replicated = view(record(&[A, B]), 2);
    replicated.durability = Durability::Replicated;
    let mut leader = lead(replicated, at(0, 0, 0));
    assert_eq!(done(|e| leader.appended(Offset(9), e)), []);
    assert_eq!(ask(&mut leader, &fetch(B, 6, 0), 1).1, hw(6));
}

#[test]
fn a1_h2_nothing_is_taken_or_committed_below_the_minimum() {
    let mut alone = record(&[A, B]);
    let _ = control::fence(&mut alone, B, 2, |node| node == A);
    let mut leader = lead(view(alone, 2), at(0, 0, 0));
    assert!(!leader.can_append_acks_all());
    assert_eq!(done(|e| leader.appended(Offset(1), e)), []);
    assert_eq!(done(|e| leader.synced(Offset(1), e)), []);
}

#[test]
fn f1_other_epochs_copies_and_processes_are_refused() {
    let mut view = view(record(&[A, B]), 1);
    view.record.leader_epoch = LeaderEpoch(3);
    let mut leader = lead(view, at(0, 0, 0));
    let good = Fetch {
        leader_epoch: LeaderEpoch(3),
        ..fetch(B, 0, 0)
    };
    let cases = [
        (
            Fetch {
                leader_epoch: LeaderEpoch(2),
                ..good
            },
            FetchAnswer::FencedEpoch {
                current: LeaderEpoch(3),
            },
        ),
        (
            Fetch {
                leader_epoch: LeaderEpoch(4),
                ..good
            },
            FetchAnswer::UnknownEpoch,
        ),
        (
            Fetch {
                generation: 2,
                ..good
            },
            FetchAnswer::UnknownReplica,
        ),
        (
            Fetch {
                incarnation: Incarnation(19),
                ..good
            },
            FetchAnswer::UnknownReplica,
        ),
        (Fetch { node: C, ..good }, FetchAnswer::UnknownReplica),
        (Fetch { node: A, ..good }, FetchAnswer::UnknownReplica),
    ];
    for (request, answer) in cases {
        assert_eq!(ask(&mut leader, &request, 1), (answer, vec![]));
        assert_eq!(leader.progress(B), None);
    }
    // The next process is heard before the metadata speaks of it; then the former is not.
    let next = Fetch {
        incarnation: Incarnation(21),
        ..good
    };
    assert!(matches!(
        ask(&mut leader, &next, 1).0,
        FetchAnswer::Ok { .. }
    ));
    assert_eq!(ask(&mut leader, &good, 1).0, FetchAnswer::UnknownReplica);
}

#[test]
fn t1_a_diverging_log_gets_no_records_and_counts_for_nothing() {
    let mut view = view(record(&[A, B]), 1);
    view.record.leader_epoch = LeaderEpoch(4);
    let mut leader = lead(view, at(10, 10, 0));
    let mut epochs = EpochCache::new();
    epochs.assign(LeaderEpoch(1), Offset(2));
    epochs.assign(LeaderEpoch(3), Offset(6));
    let mut ask = |last: Option<u32>, end: u64| {
        let request = Fetch {
            leader_epoch: LeaderEpoch(4),
            last_epoch: last.map(LeaderEpoch),
            ..fetch(B, end, end)
        };
        let end_of = |epoch| epochs.end_offset_for_epoch(epoch, Offset(10));
        let answer = leader.fetched(&request, Offset(2), end_of, 1, &mut Vec::new());
        (answer, leader.progress(B).is_some())
    };
    let diverging = |epoch, end| FetchAnswer::Diverging {
        epoch: LeaderEpoch(epoch),
        end: Offset(end),
    };
    let anew = FetchAnswer::OutOfRange {
        log_start: Offset(2),
    };
    assert_eq!(ask(Some(2), 5), (diverging(1, 6), false));
    assert_eq!(ask(Some(1), 7), (diverging(1, 6), false));
    assert_eq!(ask(Some(3), 11), (diverging(3, 10), false));
    assert_eq!(ask(Some(1), 1), (anew, false));
    assert_eq!(ask(Some(0), 5), (anew, false));
    assert_eq!(ask(None, 0), (anew, false));
    assert_eq!(ask(None, 11), (anew, false));
    assert!(ask(Some(1), 6).1);
}

#[test]
fn i1_a_replica_joins_only_with_all_that_earlier_leaders_may_have_committed() {
    let mut alone = record(&[A, B]);
    let _ = control::fence(&mut alone, B, 2, |node| node == A);
    alone.leader_epoch = LeaderEpoch(1);
    // The high watermark is stale, and with one in sync it cannot move: only LESO can decide.
    let mut leader = lead(view(alone, 2), at(5, 5, 1));
    assert_eq!(ask(&mut leader, &fetch(B, 5, 4), 1).1, []);
    let request = proposed(&ask(&mut leader, &fetch(B, 5, 5), 1).1);
    assert_eq!(request.new_isr, [(A, incarnation(A)), (B, incarnation(B))]);
    // I2: proposed once; and counted already, but the minimum is not recorded yet.
    assert_eq!(ask(&mut leader, &fetch(B, 5, 5), 1).1, []);
    assert_eq!(leader.maximal_isr().collect::<Vec<_>>(), [A, B]);
    let answer = AlterAnswer::Ok {
        partition_epoch: PartitionEpoch(3),
        isr: set(&[A, B]),
    };
    assert_eq!(
        done(|e| leader.alter_answered(request.attempt, answer, e)),
        hw(5)
    );
}

#[test]
fn i1_a_process_that_the_metadata_does_not_know_does_not_join() {
    let mut alone = record(&[A, B]);
    let _ = control::fence(&mut alone, B, 1, |node| node == A);
    let mut view = view(alone, 1);
    let mut leader = lead(view.clone(), at(0, 0, 0));
    let request = Fetch {
        incarnation: Incarnation(21),
        ..fetch(B, 0, 0)
    };
    assert_eq!(ask(&mut leader, &request, 1).1, []);
    let process = Standing {
        incarnation: Incarnation(21),
        ..standing(B)
    };
    view.peers.insert(
        B,
        Standing {
            may_join: false,
            ..process
        },
    );
    assert!(leader.view_changed(view.clone(), &mut Vec::new()));
    assert_eq!(ask(&mut leader, &request, 1).1, []);
    view.peers.insert(B, process);
    assert!(leader.view_changed(view, &mut Vec::new()));
    let wish = proposed(&ask(&mut leader, &request, 1).1);
    assert_eq!(wish.new_isr[1], (B, Incarnation(21)));
}

#[test]
fn i1_who_stays_behind_leaves_and_who_idles_at_the_end_stays() {
    let mut leader = lead(view(record(&[A, B, C]), 1), at(0, 0, 0));
    ask(&mut leader, &fetch(B, 0, 0), 0);
    ask(&mut leader, &fetch(C, 0, 0), 0);
    assert_eq!(done(|e| leader.tick(5_000, e)), []);
    done(|e| leader.appended(Offset(1), e));
    for at in (5_000..6_000).step_by(100) {
        assert_eq!(done(|e| leader.tick(at, e)), []);
    }
    ask(&mut leader, &fetch(C, 1, 1), 6_000);
    assert_eq!(done(|e| leader.tick(6_000, e)), []);
    let request = proposed(&done(|e| leader.tick(6_200, e)));
    assert_eq!(request.new_isr, [(A, incarnation(A)), (C, incarnation(C))]);
}

#[test]
fn i1_who_was_never_heard_in_a_reign_leaves_after_the_tolerated_time() {
    let mut leader = lead(view(record(&[A, B]), 1), at(0, 0, 0));
    assert_eq!(done(|e| leader.tick(999, e)), []);
    let request = proposed(&done(|e| leader.tick(1_000, e)));
    assert_eq!(request.new_isr, [(A, incarnation(A))]);
}

/// A leader of A and B, in whose log one durable record waits for B, and its wish to go on alone.
fn shrinking() -> (Leader, AlterPartition) {
    let mut leader = lead(view(record(&[A, B]), 1), at(0, 0, 0));
    done(|e| leader.appended(Offset(1), e));
    done(|e| leader.synced(Offset(1), e));
    let request = proposed(&done(|e| leader.tick(1_000, e)));
    (leader, request)
}

#[test]
fn i4_an_unanswered_wish_stays_in_force_and_is_repeated_under_another_number() {
    let (mut leader, first) = shrinking();
    assert_eq!(done(|e| leader.tick(1_050, e)), []);
    let second = proposed(&done(|e| leader.tick(1_100, e)));
    assert_eq!(
        second,
        AlterPartition {
            attempt: first.attempt + 1,
            ..first.clone()
        }
    );
    let stale = AlterAnswer::Stale {
        partition_epoch: PartitionEpoch(1),
    };
    assert_eq!(
        done(|e| leader.alter_answered(second.attempt, stale, e)),
        []
    );
    // One of two was refused: the other may still come true.
    let refused = AlterAnswer::Ineligible {
        partition_epoch: PartitionEpoch(2),
    };
    assert_eq!(
        done(|e| leader.alter_answered(second.attempt, refused, e)),
        []
    );
    assert!(leader.pending.is_some());
    // Nor does an answer to no attempt of this wish say anything.
    let other = AlterAnswer::Ok {
        partition_epoch: PartitionEpoch(2),
        isr: set(&[A]),
    };
    assert_eq!(
        done(|e| leader.alter_answered(first.attempt - 1, other.clone(), e)),
        []
    );
    assert_eq!(
        done(|e| leader.alter_answered(first.attempt, other, e)),
        hw(1)
    );
    assert_eq!(leader.pending, None);
}

#[test]
fn i4_a_refusal_of_the_only_attempt_takes_the_wish_back() {
    let (mut leader, only) = shrinking();
    let refused = AlterAnswer::Ineligible {
        partition_epoch: PartitionEpoch(2),
    };
    assert_eq!(
        done(|e| leader.alter_answered(only.attempt, refused, e)),
        []
    );
    assert_eq!(leader.pending, None);
}

#[test]
fn i4_a_later_record_settles_the_wish_and_an_earlier_one_changes_nothing() {
    let (mut leader, _) = shrinking();
    let mut later = view(record(&[A, B]), 1);
    let earlier = later.clone();
    later.record.partition_epoch = PartitionEpoch(4);
    later.record.isr = set(&[A]);
    assert_eq!(done(|e| assert!(leader.view_changed(later, e))), hw(1));
    assert_eq!(leader.pending, None);
    assert_eq!(done(|e| assert!(leader.view_changed(earlier, e))), []);
    assert_eq!(leader.record().isr, set(&[A]));
}

#[test]
fn g1_a_copy_that_was_given_up_and_made_anew_starts_from_nothing() {
    let mut leader = lead(view(record(&[A, B]), 1), at(0, 0, 0));
    ask(&mut leader, &fetch(B, 0, 0), 1);
    let mut again = view(record(&[A, B]), 1);
    again.record.partition_epoch = PartitionEpoch(5);
    again.record.replicas[1].generation = 2;
    assert!(leader.view_changed(again, &mut Vec::new()));
    assert_eq!(leader.progress(B), None);
    assert_eq!(
        ask(&mut leader, &fetch(B, 0, 0), 1).0,
        FetchAnswer::UnknownReplica
    );
}

#[test]
fn a_deposed_leader_commits_acknowledges_and_answers_nothing() {
    let mut leader = lead(view(record(&[A]), 1), at(1, 0, 0));
    let mut next = view(record(&[A]), 1);
    next.record.leader_epoch = LeaderEpoch(2);
    next.record.partition_epoch = PartitionEpoch(2);
    assert!(!leader.view_changed(next, &mut Vec::new()));
    assert_eq!(done(|e| leader.synced(Offset(1), e)), []);
    assert_eq!(done(|e| leader.tick(9_000, e)), []);
    assert!(!leader.acks_all_done(Offset::ZERO));
    assert!(!leader.can_append_acks_all());
    assert_eq!(
        ask(&mut leader, &fetch(B, 0, 0), 1).0,
        FetchAnswer::NotLeader
    );
}
