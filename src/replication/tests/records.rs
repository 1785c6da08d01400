//! What the controller does to a record.

use super::*;
use crate::replication::control::{
    Change, alter, begin_reassign, cancel_reassign, check, drop_eligibility, elect_unclean, fence,
    finish_reassign, min_changed, move_leader, unfence,
};

fn wish(record: &PartitionRecord, nodes: &[NodeId]) -> AlterPartition {
    let leader = record.leader.unwrap();
    AlterPartition {
        leader,
        leader_incarnation: incarnation(leader),
        leader_epoch: record.leader_epoch,
        partition_epoch: record.partition_epoch,
        attempt: 1,
        new_isr: nodes
            .iter()
            .map(|node| (*node, incarnation(*node)))
            .collect(),
    }
}

fn known(node: NodeId) -> Option<Standing> {
    Some(standing(node))
}

#[test]
fn n5_a_fenced_leader_is_succeeded_by_the_next_in_sync_replica() {
    let mut record = record(&[A, B, C]);
    assert_eq!(fence(&mut record, A, 2, |node| node != A), Change::Leader);
    assert_eq!(
        record,
        PartitionRecord {
            replicas: replicas(&[A, B, C]),
            leader: Some(B),
            leader_epoch: LeaderEpoch(2),
            partition_epoch: PartitionEpoch(2),
            isr: set(&[B, C]),
            ..PartitionRecord::default()
        }
    );
    assert_eq!(fence(&mut record, A, 2, |node| node != A), Change::None);
}

#[test]
fn n5_n6_complete_replicas_stay_eligible_below_the_minimum_and_lead_when_they_return() {
    let mut record = record(&[A, B, C]);
    let gone = |nodes: &'static [NodeId]| move |node| !nodes.contains(&node);
    assert_eq!(fence(&mut record, C, 2, gone(&[C])), Change::Record);
    assert_eq!(fence(&mut record, B, 2, gone(&[B, C])), Change::Record);
    assert_eq!((&record.isr, &record.elr), (&set(&[A]), &set(&[B])));
    assert_eq!(fence(&mut record, A, 2, gone(&[A, B, C])), Change::Leader);
    assert_eq!((record.leader, &record.elr), (None, &set(&[A, B])));
    // C left while two others could commit without it.
    assert_eq!(unfence(&mut record, C, 2, gone(&[A, B])), Change::None);
    assert_eq!(unfence(&mut record, B, 2, gone(&[A])), Change::Leader);
    assert_eq!(
        (record.leader, &record.isr, &record.elr, record.leader_epoch),
        (Some(B), &set(&[B]), &set(&[A]), LeaderEpoch(3))
    );
    assert_eq!(check(&record, 2), Ok(()));
}

#[test]
fn n3_a_replica_that_may_have_lost_records_is_not_elected_cleanly_again() {
    let mut record = record(&[A, B]);
    let nobody = |_| false;
    let _ = fence(&mut record, B, 2, |node| node == A);
    let _ = fence(&mut record, A, 2, nobody);
    assert_eq!(drop_eligibility(&mut record, A, 2, nobody), Change::Record);
    assert_eq!(drop_eligibility(&mut record, B, 2, nobody), Change::Record);
    assert_eq!(
        (&record.elr, &record.last_known_elr),
        (&set(&[]), &set(&[A, B]))
    );
    assert_eq!(unfence(&mut record, A, 2, |_| true), Change::None);
    // E3: only at an operator's word, and it is remembered.
    let epoch = LeaderEpoch(record.leader_epoch.0 + 1);
    assert_eq!(elect_unclean(&mut record, B), Change::Leader);
    assert_eq!(
        (
            record.leader,
            record.unclean_epochs.clone(),
            record.isr.clone()
        ),
        (Some(B), vec![epoch], set(&[B]))
    );
    assert_eq!(elect_unclean(&mut record, A), Change::None);
}

#[test]
fn i3_only_the_present_leader_of_the_present_record_is_heard() {
    let record = record(&[A, B, C]);
    let current = wish(&record, &[A, B]);
    let stale = [
        AlterPartition {
            leader: B,
            leader_incarnation: incarnation(B),
            ..current.clone()
        },
        AlterPartition {
            leader_incarnation: Incarnation(9),
            ..current.clone()
        },
        AlterPartition {
            leader_epoch: LeaderEpoch(0),
            ..current.clone()
        },
        AlterPartition {
            partition_epoch: PartitionEpoch(0),
            ..current.clone()
        },
    ];
    for request in stale {
        let mut after = record.clone();
        let answer = alter(&mut after, &request, 2, known);
        assert_eq!(
            answer,
            AlterAnswer::Stale {
                partition_epoch: PartitionEpoch(1)
            }
        );
        assert_eq!(after, record);
    }
    let mut after = record.clone();
    let fenced = |node| {
        Some(Standing {
            unfenced: false,
            ..standing(node)
        })
    };
    let answer = alter(&mut after, &current, 2, fenced);
    assert_eq!(
        answer,
        AlterAnswer::Stale {
            partition_epoch: PartitionEpoch(1)
        }
    );
}

#[test]
fn i3_i4_a_replica_of_another_process_may_not_join_and_all_attempts_are_void() {
    let mut record = record(&[A, B, C]);
    let _ = fence(&mut record, C, 2, |node| node != C);
    let good = wish(&record, &[A, B, C]);
    let mut old_process = good.clone();
    old_process.new_isr[2].1 = Incarnation(29);
    let refused =
        |record: &mut PartitionRecord, request: &AlterPartition| alter(record, request, 2, known);
    let answer = refused(&mut record, &old_process);
    assert_eq!(
        answer,
        AlterAnswer::Ineligible {
            partition_epoch: PartitionEpoch(3)
        }
    );
    let answer = refused(&mut record, &good);
    assert_eq!(
        answer,
        AlterAnswer::Stale {
            partition_epoch: PartitionEpoch(3)
        }
    );
    for nodes in [&[B, C][..], &[A, B, D]] {
        let request = wish(&record, nodes);
        assert!(matches!(
            refused(&mut record, &request),
            AlterAnswer::Ineligible { .. }
        ));
    }
    let draining = |node| {
        Some(Standing {
            may_join: node != C,
            ..standing(node)
        })
    };
    let request = wish(&record, &[A, B, C]);
    assert!(matches!(
        alter(&mut record, &request, 2, draining),
        AlterAnswer::Ineligible { .. }
    ));
    let request = wish(&record, &[A, B, C]);
    assert_eq!(
        alter(&mut record, &request, 2, known),
        AlterAnswer::Ok {
            partition_epoch: PartitionEpoch(7),
            isr: set(&[A, B, C])
        }
    );
}

#[test]
fn i3_what_a_leader_removes_below_the_minimum_stays_eligible_until_the_minimum_is_back() {
    let mut record = record(&[A, B, C]);
    let request = wish(&record, &[A]);
    assert!(matches!(
        alter(&mut record, &request, 2, known),
        AlterAnswer::Ok { .. }
    ));
    assert_eq!(record.elr, set(&[B, C]));
    let request = wish(&record, &[A, B]);
    assert!(matches!(
        alter(&mut record, &request, 2, known),
        AlterAnswer::Ok { .. }
    ));
    assert_eq!((&record.isr, &record.elr), (&set(&[A, B]), &set(&[])));
    assert_eq!(check(&record, 2), Ok(()));
}

#[test]
fn i6_another_minimum_makes_the_leaders_wishes_stale_and_clears_the_eligible() {
    let mut record = record(&[A, B]);
    let _ = fence(&mut record, B, 2, |node| node == A);
    assert_eq!(record.elr, set(&[B]));
    let request = wish(&record, &[A, B]);
    assert_eq!(min_changed(&mut record, 1), Change::Record);
    assert_eq!(record.elr, set(&[]));
    assert!(matches!(
        alter(&mut record, &request, 1, known),
        AlterAnswer::Stale { .. }
    ));
}

#[test]
fn e2_the_lead_moves_only_to_a_replica_in_sync() {
    let mut record = record(&[A, B, C]);
    let _ = fence(&mut record, C, 2, |node| node != C);
    assert_eq!(move_leader(&mut record, C), Change::None);
    assert_eq!(move_leader(&mut record, A), Change::None);
    assert_eq!(move_leader(&mut record, B), Change::Leader);
    assert_eq!(
        (record.leader, record.leader_epoch, record.partition_epoch),
        (Some(B), LeaderEpoch(2), PartitionEpoch(3))
    );
}

#[test]
fn g1_replicas_go_only_when_all_that_stay_are_in_sync() {
    let mut record = record(&[A, B]);
    assert_eq!(begin_reassign(&mut record, &[D, B], 7), Ok(Change::Record));
    assert_eq!((&record.adding, &record.removing), (&set(&[D]), &set(&[A])));
    assert_eq!(begin_reassign(&mut record, &[D, B], 8), Ok(Change::None));
    assert_eq!(finish_reassign(&mut record, 2, |_| true), Change::None);
    let request = wish(&record, &[A, B, D]);
    assert!(matches!(
        alter(&mut record, &request, 2, known),
        AlterAnswer::Ok { .. }
    ));
    assert_eq!(finish_reassign(&mut record, 2, |_| true), Change::Leader);
    assert_eq!(
        record,
        PartitionRecord {
            replicas: vec![
                Replica {
                    node: D,
                    generation: 7
                },
                replicas(&[B])[0]
            ],
            leader: Some(D),
            leader_epoch: LeaderEpoch(2),
            partition_epoch: PartitionEpoch(4),
            isr: set(&[B, D]),
            ..PartitionRecord::default()
        }
    );
    for target in [&[][..], &[A, A]] {
        let refused = begin_reassign(&mut record, target, 9);
        assert_eq!(refused, Err(control::ReassignRefused::InvalidTarget));
    }
}

#[test]
fn g1_a_move_is_taken_back_unless_too_few_former_replicas_are_in_sync() {
    let start = record(&[A, B]);
    let mut moving = start.clone();
    assert_eq!(
        cancel_reassign(&mut moving, 2, |_| true),
        Err(control::ReassignRefused::NotReassigning)
    );
    let _ = begin_reassign(&mut moving, &[C, D], 7);
    let mut back = moving.clone();
    assert_eq!(cancel_reassign(&mut back, 2, |_| true), Ok(Change::Leader));
    assert_eq!(
        back,
        PartitionRecord {
            leader_epoch: LeaderEpoch(2),
            partition_epoch: PartitionEpoch(3),
            replicas: replicas(&[A, B]),
            ..start
        }
    );
    let request = wish(&moving, &[A, C]);
    assert!(matches!(
        alter(&mut moving, &request, 2, known),
        AlterAnswer::Ok { .. }
    ));
    assert_eq!(
        cancel_reassign(&mut moving, 2, |_| true),
        Err(control::ReassignRefused::TooFewInSync)
    );
}

#[test]
fn a_new_partition_without_a_living_node_waits_for_any_of_its_own() {
    let mut record = control::create(&replicas(&[A, B]), LeaderEpoch(5), |_| false);
    assert_eq!((record.leader, &record.elr), (None, &set(&[A, B])));
    assert_eq!(unfence(&mut record, B, 1, |node| node == B), Change::Leader);
    assert_eq!(
        (record.leader, record.leader_epoch),
        (Some(B), LeaderEpoch(6))
    );
    assert_eq!(check(&record, 1), Ok(()));
}

#[test]
fn a_malformed_record_is_told_from_a_sound_one() {
    let sound = record(&[A, B]);
    assert_eq!(check(&sound, 2), Ok(()));
    let broken = [
        PartitionRecord {
            isr: set(&[A, B, C]),
            ..sound.clone()
        },
        PartitionRecord {
            elr: set(&[C]),
            isr: set(&[A]),
            ..sound.clone()
        },
        PartitionRecord {
            elr: set(&[B]),
            ..sound.clone()
        },
        PartitionRecord {
            leader: Some(B),
            isr: set(&[A]),
            ..sound.clone()
        },
        PartitionRecord {
            elr: set(&[B]),
            isr: set(&[A]),
            ..sound.clone()
        },
        PartitionRecord {
            replicas: replicas(&[A, A]),
            isr: set(&[A]),
            ..sound
        },
    ];
    for record in broken {
        assert!(check(&record, 1).is_err(), "{record:?}");
    }
}
