//! What commands do to nodes and partitions.

mod moves;

use std::collections::BTreeSet;

use super::*;
use crate::replication::control::{AlterAnswer, AlterPartition, ReassignRefused};
use crate::types::Durability;

/// A cluster as far as commands make one.
#[derive(Default)]
struct Cluster {
    state: State,
    changes: Vec<Change>,
}

impl Cluster {
    /// With the nodes 1 to `n` at work.
    fn of(n: u32) -> Self {
        let mut cluster = Self::default();
        for n in 1..=n {
            cluster.start(n, n.into());
        }
        cluster
    }

    fn apply(&mut self, command: &Command) -> Result<Applied, Rejected> {
        let before = self.state.clone();
        let result = self.state.apply(command, &mut self.changes);
        if result.is_err() {
            assert_eq!(self.state, before, "{command:?} left something");
        }
        result
    }

    fn done(&mut self, command: Command) -> Applied {
        let text = format!("{command:?}");
        let done = self.apply(&command);
        done.unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn start(&mut self, n: u32, process: u128) -> Incarnation {
        self.start_as(registration(n, process))
    }

    fn start_as(&mut self, asked: Registration) -> Incarnation {
        let id = asked.id;
        let Applied::NodeRegistered(node) = self.done(Command::RegisterNode(asked)) else {
            panic!("not registered");
        };
        let incarnation = node.incarnation;
        self.done(Command::ActivateNode { id, incarnation });
        incarnation
    }

    fn incarnation(&self, n: u32) -> Incarnation {
        self.state.view.node(NodeId(n)).unwrap().incarnation
    }

    fn status(&self, n: u32) -> NodeStatus {
        self.state.view.node(NodeId(n)).unwrap().status
    }

    fn fence(&mut self, n: u32) {
        let (id, incarnation) = (NodeId(n), self.incarnation(n));
        self.done(Command::FenceNode { id, incarnation });
    }

    fn unfence(&mut self, n: u32) {
        let (id, incarnation) = (NodeId(n), self.incarnation(n));
        self.done(Command::ActivateNode { id, incarnation });
    }

    /// Makes topic `n` with one partition.
    fn topic(&mut self, n: u128, replication_factor: u32, min_insync_replicas: u32) {
        let settings = TopicSettings {
            replication_factor,
            min_insync_replicas,
            ..TopicSettings::default()
        };
        self.topic_with(n, settings);
    }

    fn topic_with(&mut self, n: u128, settings: TopicSettings) {
        self.done(Command::CreateTopic {
            name: name(&format!("t{n}")),
            id: id(n),
            settings,
            at: Timestamp(0),
        });
    }

    fn record(&self, n: u128) -> PartitionRecord {
        let record = self.state.view.partition(id(n), Partition(0)).unwrap();
        PartitionRecord::clone(record)
    }

    /// A leader's wish for this in-sync set, as things stand.
    fn wish(&self, n: u128, isr: &[u32]) -> AlterPartition {
        let record = self.record(n);
        let leader = record.leader.unwrap();
        AlterPartition {
            leader,
            leader_incarnation: self.incarnation(leader.0),
            leader_epoch: record.leader_epoch,
            partition_epoch: record.partition_epoch,
            attempt: 1,
            new_isr: isr
                .iter()
                .map(|n| (NodeId(*n), self.incarnation(*n)))
                .collect(),
        }
    }

    fn alter(&mut self, n: u128, alter: AlterPartition) -> AlterAnswer {
        let command = Command::AlterPartition {
            topic: id(n),
            partition: Partition(0),
            alter,
        };
        match self.done(command) {
            Applied::PartitionAltered(answer, record) => {
                assert_eq!(*record, self.record(n));
                answer
            }
            other => panic!("{other:?}"),
        }
    }

    fn reassign(&mut self, n: u128, to: &[u32]) -> Result<Applied, Rejected> {
        self.apply(&Command::Reassign {
            topic: id(n),
            partition: Partition(0),
            replicas: to.iter().copied().map(NodeId).collect(),
            partition_epoch: self.record(n).partition_epoch,
        })
    }
}

fn set(nodes: &[u32]) -> BTreeSet<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

/// Who leads, in which epoch, and who is in sync and eligible.
fn gist(record: &PartitionRecord) -> (Option<u32>, u32, BTreeSet<NodeId>, BTreeSet<NodeId>) {
    (
        record.leader.map(|leader| leader.0),
        record.leader_epoch.0,
        record.isr.clone(),
        record.elr.clone(),
    )
}

#[test]
fn every_process_of_a_node_gets_an_incarnation_of_its_own_n2() {
    let mut cluster = Cluster::default();
    let Applied::NodeRegistered(first) = cluster.done(register(1, 7)) else {
        panic!("not registered");
    };
    assert_eq!(
        (first.incarnation, first.status),
        (Incarnation(1), NodeStatus::Registered)
    );
    let again = cluster.done(register(1, 7));
    assert_eq!(again, Applied::NodeRegistered(first), "a repeated command");
    let other = cluster.start(2, 1);
    let second = cluster.start(1, 8);
    assert!(Incarnation(1) < other && other < second);
    let stale = Command::FenceNode {
        id: NodeId(1),
        incarnation: Incarnation(1),
    };
    let current = second;
    assert_eq!(
        cluster.apply(&stale),
        Err(Rejected::StaleIncarnation {
            id: NodeId(1),
            current
        })
    );
    assert_eq!(cluster.status(1), NodeStatus::Active);
}

#[test]
fn a_name_is_served_by_one_node_at_a_time() {
    let mut cluster = Cluster::of(2);
    let mut usurper = registration(3, 3);
    usurper.name = "b1".parse().unwrap();
    let taken = Rejected::NameTaken {
        name: usurper.name.clone(),
        holder: NodeId(1),
    };
    let usurp = Command::RegisterNode(usurper.clone());
    assert_eq!(cluster.apply(&usurp), Err(taken));
    cluster.fence(1);
    cluster.start_as(usurper);
    let view = &cluster.state.view;
    assert_eq!(
        view.node_by_name(&broker()).map(|node| node.id),
        Some(NodeId(3))
    );
    assert_eq!(
        view.node(NodeId(1)).map(|node| node.status),
        Some(NodeStatus::Fenced)
    );
    let taken = Rejected::NameTaken {
        name: broker(),
        holder: NodeId(3),
    };
    assert_eq!(
        cluster.apply(&register(1, 9)),
        Err(taken),
        "the old one came back"
    );

    let mut copy = registration(2, 9);
    copy.disk = Uuid::from_u128(99);
    let in_use = Rejected::NodeIdInUse { id: NodeId(2) };
    assert_eq!(cluster.apply(&Command::RegisterNode(copy)), Err(in_use));
    let mut long = registration(4, 9);
    long.peer = "x".repeat(limits::ADDRESS_BYTES + 1);
    let refused = cluster.apply(&Command::RegisterNode(long)).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidRequest);
}

#[test]
fn a_new_topic_is_spread_over_the_active_nodes_and_clipped_to_them() {
    let mut cluster = Cluster::default();
    let create = |n: u128, partitions| Command::CreateTopic {
        name: name(&format!("t{n}")),
        id: id(n),
        settings: TopicSettings {
            partitions,
            replication_factor: 2,
            ..TopicSettings::default()
        },
        at: Timestamp(0),
    };
    assert_eq!(cluster.apply(&create(1, 1)), Err(Rejected::NoNodes));
    cluster.start(1, 1);
    cluster.done(create(1, 1));
    let record = cluster.record(1);
    assert_eq!(record.replicas.len(), 1);
    assert_eq!(gist(&record), (Some(1), 1, set(&[1]), set(&[])));

    for n in 2..=4 {
        cluster.start(n, n.into());
    }
    cluster.fence(4);
    cluster.done(create(2, 6));
    let records: Vec<_> = cluster.state.view.partitions_of(id(2)).collect();
    assert_eq!(records.len(), 6);
    for (_, record) in &records {
        let nodes: BTreeSet<NodeId> = record.replicas.iter().map(|r| r.node).collect();
        assert_eq!((nodes.len(), &nodes), (2, &record.isr));
        assert!(!nodes.contains(&NodeId(4)), "a fenced node got a replica");
        assert_eq!(record.leader, Some(record.replicas[0].node));
    }
    // With the replica of topic 1 on node 1, 13 replicas and 7 leaders over 3 nodes.
    let count = |n: u32| {
        let all = cluster.state.view.partitions();
        let records: Vec<_> = all.map(|(_, _, record)| record).collect();
        let holds = records.iter().filter(|r| r.replica(NodeId(n)).is_some());
        let leads = records.iter().filter(|r| r.leader == Some(NodeId(n)));
        (holds.count(), leads.count())
    };
    for n in 1..=3 {
        let (holds, leads) = count(n);
        assert!(
            (4..=5).contains(&holds) && (2..=3).contains(&leads),
            "{n}: {holds}, {leads}"
        );
    }
}

#[test]
fn a_fenced_leader_is_succeeded_in_the_same_command_n5_e1() {
    let mut cluster = Cluster::of(3);
    cluster.topic(1, 3, 2);
    let leader = cluster.record(1).leader.unwrap().0;
    let others: Vec<u32> = (1..=3).filter(|n| *n != leader).collect();
    cluster.fence(leader);
    let next = cluster.record(1).leader.unwrap().0;
    assert_eq!(
        gist(&cluster.record(1)),
        (Some(next), 2, set(&others), set(&[])),
        "two are enough: the fenced one is not eligible"
    );
    cluster.fence(next);
    let last = *others.iter().find(|n| **n != next).unwrap();
    assert_eq!(
        gist(&cluster.record(1)),
        (Some(last), 3, set(&[last]), set(&[next]))
    );
    cluster.fence(last);
    assert_eq!(
        gist(&cluster.record(1)),
        (None, 4, set(&[]), set(&[next, last]))
    );
    // Fencing twice, as a deposed controller might, changes nothing (M6).
    let before = cluster.state.view.clone();
    cluster.fence(last);
    assert!(cluster.state.view.same_partitions(&before));

    cluster.unfence(leader);
    assert_eq!(cluster.record(1).leader, None, "it is not complete");
    cluster.unfence(next);
    assert_eq!(
        gist(&cluster.record(1)),
        (Some(next), 5, set(&[next]), set(&[last]))
    );
}

#[test]
fn a_restart_of_the_only_node_raises_every_epoch_s5() {
    let mut cluster = Cluster::of(1);
    cluster.topic(1, 1, 1);
    let mut epoch = cluster.record(1).leader_epoch;
    for process in 10..13 {
        cluster.start(1, process);
        let record = cluster.record(1);
        assert!(epoch < record.leader_epoch);
        epoch = record.leader_epoch;
        assert_eq!(gist(&record), (Some(1), epoch.0, set(&[1]), set(&[])));
    }
}

#[test]
fn a_node_that_lost_records_does_not_lead_what_it_lost_n3() {
    let unsynced = |replication_factor| TopicSettings {
        durability: Durability::Replicated,
        replication_factor,
        min_insync_replicas: replication_factor,
        ..TopicSettings::default()
    };
    // Whether node 1 leads again what it alone had complete.
    let leads = |clean: bool, loss: Loss| {
        let mut cluster = Cluster::of(1);
        cluster.topic(1, 1, 1);
        cluster.topic(2, 1, 1);
        cluster.topic_with(3, unsynced(1));
        cluster.start(2, 2);
        cluster.topic_with(4, unsynced(2));
        cluster.fence(2);
        cluster.fence(1);
        let mut lossy = registration(2, 8);
        lossy.loss = Loss::All;
        cluster.start_as(lossy);
        let mut again = registration(1, 9);
        (again.clean, again.loss) = (clean, loss);
        cluster.start_as(again);
        [1, 2, 3, 4].map(|n| {
            let record = cluster.record(n);
            let leads = record.leader == Some(NodeId(1));
            assert_ne!(leads, record.last_known_elr.contains(&NodeId(1)));
            leads
        })
    };
    assert_eq!(leads(true, Loss::None), [true; 4]);
    assert_eq!(leads(false, Loss::None), [true, true, true, false]);
    let one = Loss::Some(vec![(id(2), Partition(0)), (id(9), Partition(0))]);
    assert_eq!(leads(true, one), [true, false, true, true]);
    assert_eq!(leads(true, Loss::All), [false; 4]);
}

#[test]
fn a_leader_changes_the_in_sync_set_of_the_record_that_it_saw_i3() {
    let mut cluster = Cluster::of(3);
    cluster.topic(1, 3, 2);
    let leader = cluster.record(1).leader.unwrap().0;
    let other = (1..=3).find(|n| *n != leader).unwrap();
    let shrink = cluster.wish(1, &[leader, other]);
    let epoch = |n: u32| PartitionEpoch(shrink.partition_epoch.0 + n);
    assert_eq!(
        cluster.alter(1, shrink.clone()),
        AlterAnswer::Ok {
            partition_epoch: epoch(1),
            isr: set(&[leader, other])
        }
    );
    let stale = AlterAnswer::Stale {
        partition_epoch: epoch(1),
    };
    assert_eq!(cluster.alter(1, shrink.clone()), stale);
    // A member's process of before it started anew does not count.
    let third = (1..=3).find(|n| ![leader, other].contains(n)).unwrap();
    let expand = cluster.wish(1, &[1, 2, 3]);
    cluster.start(third, 99);
    assert_eq!(
        cluster.alter(1, expand),
        AlterAnswer::Ineligible {
            partition_epoch: epoch(2)
        }
    );
    let expand = cluster.wish(1, &[1, 2, 3]);
    cluster.alter(1, expand);
    assert_eq!(cluster.record(1).isr, set(&[1, 2, 3]));
    let missing = Command::AlterPartition {
        topic: id(1),
        partition: Partition(5),
        alter: cluster.wish(1, &[1]),
    };
    let not_found = Rejected::PartitionNotFound {
        partition: Partition(5),
        partitions: 1,
    };
    assert_eq!(cluster.apply(&missing), Err(not_found));
}

#[test]
fn the_minimum_of_in_sync_replicas_clears_who_is_eligible_when_it_falls_i6() {
    let mut cluster = Cluster::of(3);
    cluster.topic(1, 3, 3);
    let leader = cluster.record(1).leader.unwrap().0;
    let away = (1..=3).find(|n| *n != leader).unwrap();
    cluster.fence(away);
    assert_eq!(cluster.record(1).elr, set(&[away]));
    let before = cluster.record(1).partition_epoch;
    let min = |n| TopicPatch {
        min_insync_replicas: Some(n),
        ..TopicPatch::default()
    };
    cluster.done(alter("t1", min(2)));
    assert_eq!(cluster.record(1).elr, set(&[]));
    assert!(before < cluster.record(1).partition_epoch);
}

#[test]
fn leadership_moves_to_in_sync_replicas_on_active_nodes_only_e2() {
    let mut cluster = Cluster::of(4);
    cluster.topic(1, 3, 1);
    let record = cluster.record(1);
    let outside = (1..=4)
        .find(|n| record.replica(NodeId(*n)).is_none())
        .unwrap();
    let [leader, second, third] = [0, 1, 2].map(|n| record.replicas[n].node);
    let move_to = |to, partition_epoch| Command::MoveLeader {
        topic: id(1),
        partition: Partition(0),
        to,
        partition_epoch,
    };
    let now = record.partition_epoch;
    let outside = NodeId(outside);
    assert_eq!(
        cluster.apply(&move_to(outside, now)),
        Err(Rejected::NotInSync { id: outside })
    );
    cluster.done(move_to(second, now));
    assert_eq!(cluster.record(1).leader, Some(second));
    let current = cluster.record(1).partition_epoch;
    assert_eq!(
        cluster.apply(&move_to(third, now)),
        Err(Rejected::StalePartition { current })
    );
    cluster.done(Command::DrainNode { id: leader });
    let status = NodeStatus::Draining;
    let current = cluster.record(1).partition_epoch;
    assert_eq!(
        cluster.apply(&move_to(leader, current)),
        Err(Rejected::NodeNotActive { id: leader, status })
    );
}

#[test]
fn a_draining_node_leads_only_what_nobody_else_can_even_after_a_restart() {
    let mut cluster = Cluster::of(2);
    cluster.topic(1, 2, 1);
    cluster.topic(2, 1, 1);
    cluster.topic(3, 1, 1);
    let shared = cluster.record(1).leader.unwrap();
    cluster.done(Command::DrainNode { id: shared });
    assert_ne!(cluster.record(1).leader, Some(shared));
    let own = [2, 3]
        .into_iter()
        .find(|n| cluster.record(*n).replica(shared).is_some());
    let own = own.unwrap();
    assert_eq!(cluster.record(own).leader, Some(shared));
    cluster.start(shared.0, 50);
    assert_eq!(cluster.status(shared.0), NodeStatus::Draining);
    assert_eq!(cluster.record(own).leader, Some(shared));
    let expand = cluster.wish(1, &[1, 2]);
    let answer = cluster.alter(1, expand);
    assert!(
        matches!(answer, AlterAnswer::Ineligible { .. }),
        "{answer:?}"
    );
    cluster.done(Command::UndrainNode { id: shared });
    assert_eq!(cluster.status(shared.0), NodeStatus::Active);
}
