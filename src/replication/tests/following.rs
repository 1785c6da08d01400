//! What a follower asks, and what it does with the answer; and where epochs begin.

use super::*;

fn at(log_end: u64, durable_end: u64, high_watermark: u64) -> LogPosition {
    LogPosition {
        log_end: Offset(log_end),
        durable_end: Offset(durable_end),
        high_watermark: Offset(high_watermark),
    }
}

/// B follows A in epoch 4. B's log: epoch 1 from 0, epoch 3 from 5, to 8.
fn follower() -> Follower {
    let mut record = record(&[A, B]);
    record.leader_epoch = LeaderEpoch(4);
    Follower::new(B, incarnation(B), record, at(8, 7, 5))
}

fn end_of(epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
    let mut epochs = EpochCache::new();
    epochs.assign(LeaderEpoch(1), Offset(0));
    epochs.assign(LeaderEpoch(3), Offset(5));
    epochs.end_offset_for_epoch(epoch, Offset(8))
}

fn ask(follower: &Follower) -> Fetch {
    follower.request(Some(LeaderEpoch(3))).unwrap().1
}

fn hear(follower: &mut Follower, request: &Fetch, answer: FetchAnswer) -> Step {
    follower.answered(request, &answer, Offset::ZERO, end_of)
}

fn ok(high_watermark: u64) -> FetchAnswer {
    FetchAnswer::Ok {
        high_watermark: Offset(high_watermark),
        log_start: Offset::ZERO,
    }
}

fn diverging(epoch: u32, end: u64) -> FetchAnswer {
    FetchAnswer::Diverging {
        epoch: LeaderEpoch(epoch),
        end: Offset(end),
    }
}

#[test]
fn f2_a_follower_says_where_its_log_and_its_disk_end() {
    let mut follower = follower();
    assert_eq!(
        follower.request(Some(LeaderEpoch(3))),
        Some((
            A,
            Fetch {
                node: B,
                incarnation: incarnation(B),
                generation: 1,
                leader_epoch: LeaderEpoch(4),
                fetch_offset: Offset(8),
                last_epoch: Some(LeaderEpoch(3)),
                durable_offset: Offset(7),
                round: 0,
            }
        ))
    );
    follower.synced(Offset(9));
    assert_eq!(ask(&follower).durable_offset, Offset(8));
    let mut leaderless = follower.record().clone();
    leaderless.leader = None;
    leaderless.partition_epoch = PartitionEpoch(9);
    follower.view_changed(leaderless);
    assert_eq!(follower.request(None), None);
}

#[test]
fn f3_the_high_watermark_follows_the_leaders_as_far_as_the_log_goes() {
    let mut follower = follower();
    let request = ask(&follower);
    assert_eq!(hear(&mut follower, &request, ok(20)), Step::Append);
    assert_eq!(follower.log(), at(8, 7, 8));
    follower.appended(Offset(30));
    assert_eq!(follower.log(), at(30, 7, 20));
}

#[test]
fn f3_an_answer_to_another_state_of_the_log_is_not_heard() {
    let mut follower = follower();
    let late = ask(&follower);
    assert_eq!(
        hear(&mut follower, &late, diverging(3, 6)),
        Step::Truncate { to: Offset(6) }
    );
    follower.truncated(Offset(6));
    follower.appended(Offset(8));
    // The log ends where it did, in the same epoch; but what is there now may be counted on.
    assert_eq!(hear(&mut follower, &late, diverging(3, 6)), Step::Wait);
    let before = ask(&follower);
    let mut record = follower.record().clone();
    record.leader_epoch = LeaderEpoch(5);
    record.partition_epoch = PartitionEpoch(2);
    follower.view_changed(record);
    assert_eq!(hear(&mut follower, &before, ok(8)), Step::Wait);
}

#[test]
fn t2_a_follower_cuts_to_where_both_logs_last_agreed() {
    for (answer, to) in [
        (diverging(3, 7), 7),
        (diverging(2, 6), 5),
        (diverging(1, 5), 5),
    ] {
        let mut follower = follower();
        let request = ask(&follower);
        let step = hear(&mut follower, &request, answer);
        assert_eq!(step, Step::Truncate { to: Offset(to) });
    }
}

#[test]
fn t3_committed_records_are_not_removed_unless_an_election_was_unclean() {
    for answer in [
        diverging(1, 4),
        FetchAnswer::OutOfRange {
            log_start: Offset(4),
        },
    ] {
        let mut stopped = follower();
        let request = ask(&stopped);
        let refused = TruncationRefused {
            to: Offset(4),
            high_watermark: Offset(5),
            leader_epoch: LeaderEpoch(4),
        };
        assert_eq!(hear(&mut stopped, &request, answer), Step::Stop(refused));
        assert_eq!(
            (stopped.stopped(), stopped.request(None)),
            (Some(refused), None)
        );

        // Epoch 3's records were known to that election; epoch 4 came after them.
        for (unclean, allowed) in [(3, false), (4, true), (5, false)] {
            let mut record = follower().record().clone();
            record.unclean_epochs = vec![LeaderEpoch(unclean)];
            let mut follower = Follower::new(B, incarnation(B), record, at(8, 7, 5));
            let step = hear(&mut follower, &request, answer);
            assert_eq!(!matches!(step, Step::Stop(_)), allowed);
        }
    }
}

#[test]
fn a_follower_begins_anew_where_the_leaders_log_begins() {
    let mut follower = follower();
    let request = ask(&follower);
    let answer = FetchAnswer::OutOfRange {
        log_start: Offset(50),
    };
    assert_eq!(
        hear(&mut follower, &request, answer),
        Step::Restart { start: Offset(50) }
    );
    follower.restarted(Offset(50));
    assert_eq!(follower.log(), at(50, 50, 50));
}

#[test]
fn epochs_end_where_the_next_begins_and_go_with_their_records() {
    let mut epochs = EpochCache::new();
    let end =
        |epochs: &EpochCache, epoch| epochs.end_offset_for_epoch(LeaderEpoch(epoch), Offset(20));
    let found = |epoch, end| Some((LeaderEpoch(epoch), Offset(end)));
    assert_eq!(end(&epochs, 9), None);
    for (epoch, start) in [(2, 0), (2, 4), (5, 10), (4, 12), (7, 15)] {
        epochs.assign(LeaderEpoch(epoch), Offset(start));
    }
    assert_eq!(
        [1, 2, 4, 5, 6, 7, 9].map(|epoch| end(&epochs, epoch)),
        [
            None,
            found(2, 10),
            found(2, 10),
            found(5, 15),
            found(5, 15),
            found(7, 20),
            found(7, 20)
        ]
    );
    epochs.trim(Offset(12));
    assert_eq!(
        epochs.starts(),
        [(LeaderEpoch(5), Offset(12)), (LeaderEpoch(7), Offset(15))]
    );
    epochs.truncate(Offset(15));
    assert_eq!(epochs.last_epoch(), Some(LeaderEpoch(5)));
    epochs.trim(Offset(15));
    assert_eq!(epochs.starts(), [(LeaderEpoch(5), Offset(15))]);
    epochs.assign(LeaderEpoch(8), Offset(15));
    assert_eq!(epochs.starts(), [(LeaderEpoch(8), Offset(15))]);
    epochs.clear();
    assert_eq!(epochs, EpochCache::new());
}

#[test]
fn epochs_are_bounded_and_what_is_forgotten_is_not_claimed_by_others() {
    let mut epochs = EpochCache::new();
    for epoch in 0..=EpochCache::MAX as u32 {
        epochs.assign(LeaderEpoch(epoch), Offset(epoch.into()));
    }
    assert_eq!(epochs.starts().len(), EpochCache::MAX);
    let end = |epoch| epochs.end_offset_for_epoch(LeaderEpoch(epoch), Offset(1 << 40));
    assert_eq!(end(0), None);
    assert_eq!(end(1), Some((LeaderEpoch(1), Offset(2))));
}
