//! What commands do to replicas that move, nodes that go, and topics that are deleted.

use super::*;

#[test]
fn replicas_move_once_those_that_come_are_in_sync_g1() {
    let mut cluster = Cluster::of(3);
    cluster.topic(1, 2, 1);
    let record = cluster.record(1);
    let [from, stays] = [0, 1].map(|n| record.replicas[n].node.0);
    let to = (1..=3).find(|n| ![from, stays].contains(n)).unwrap();
    assert_eq!(
        cluster.reassign(1, &[]),
        Err(Rejected::Reassign(ReassignRefused::InvalidTarget))
    );
    assert_eq!(
        cluster.reassign(1, &[9]),
        Err(Rejected::NodeNotFound { id: NodeId(9) })
    );
    let many: Vec<u32> = (0..8).collect();
    assert_eq!(
        cluster.reassign(1, &many),
        Err(Rejected::TooManyReplicas { max: 7 })
    );
    cluster.reassign(1, &[to, stays]).unwrap();
    let generation = cluster.state.view.applied;
    let moving = cluster.record(1);
    assert_eq!(
        (&moving.adding, &moving.removing),
        (&set(&[to]), &set(&[from]))
    );
    assert_eq!(moving.leader, record.leader, "who goes leads until the end");
    let cancel = Command::CancelReassign {
        topic: id(1),
        partition: Partition(0),
        partition_epoch: moving.partition_epoch,
    };
    cluster.done(cancel);
    let nodes = |record: &PartitionRecord| {
        record
            .replicas
            .iter()
            .map(|r| r.node)
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(nodes(&cluster.record(1)), set(&[from, stays]));

    cluster.reassign(1, &[to, stays]).unwrap();
    let expand = cluster.wish(1, &[1, 2, 3]);
    cluster.alter(1, expand);
    let moved = cluster.record(1);
    assert_eq!(
        (nodes(&moved), &moved.isr),
        (set(&[to, stays]), &set(&[to, stays]))
    );
    assert!(moved.adding.is_empty() && moved.removing.is_empty());
    assert_eq!(moved.leader, Some(NodeId(to)), "the first is preferred");
    assert!(
        generation < moved.replica(NodeId(to)).unwrap().generation,
        "another copy"
    );
}

#[test]
fn a_node_is_removed_once_it_is_stopped_and_holds_nothing() {
    let mut cluster = Cluster::of(2);
    cluster.topic(1, 2, 1);
    let remove = |n: u32| Command::RemoveNode { id: NodeId(n) };
    let holds = Rejected::NodeHoldsReplicas {
        id: NodeId(2),
        replicas: 1,
    };
    assert_eq!(cluster.apply(&remove(2)), Err(holds));
    cluster.topic(2, 2, 1);
    cluster.done(delete("t2", 2));
    cluster.reassign(1, &[1]).unwrap();
    assert_eq!(
        cluster.apply(&remove(2)),
        Err(Rejected::NodeAtWork { id: NodeId(2) })
    );
    cluster.fence(2);
    cluster.done(remove(2));
    assert_eq!(
        cluster.apply(&remove(2)),
        Err(Rejected::NodeNotFound { id: NodeId(2) })
    );
    let holders = |cluster: &Cluster| {
        let deleted = cluster.state.view.deleted();
        deleted
            .map(|deleted| deleted.holders.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(holders(&cluster), [set(&[1])], "nobody waits for it");
    cluster.done(finish_delete(2));
    assert_eq!(holders(&cluster), []);
}

#[test]
fn a_replaced_node_drains_for_its_successor_until_that_is_taken_back() {
    let mut cluster = Cluster::of(3);
    let replace = |id: u32, by: Option<u32>| Command::ReplaceNode {
        id: NodeId(id),
        by: by.map(NodeId),
    };
    assert_eq!(
        cluster.apply(&replace(2, Some(2))),
        Err(Rejected::ReplacesItself { id: NodeId(2) })
    );
    assert_eq!(
        cluster.apply(&replace(2, Some(9))),
        Err(Rejected::NodeNotFound { id: NodeId(9) })
    );
    cluster.fence(3);
    assert_eq!(
        cluster.apply(&replace(2, Some(3))),
        Err(Rejected::NodeNotActive {
            id: NodeId(3),
            status: NodeStatus::Fenced
        })
    );
    let leaving = |cluster: &Cluster, n: u32| {
        let node = cluster.state.view.node(NodeId(n)).unwrap();
        (node.status, node.draining, node.successor)
    };
    cluster.done(replace(3, Some(1)));
    let to_one = Some(Successor::Node(NodeId(1)));
    assert_eq!(leaving(&cluster, 3), (NodeStatus::Fenced, true, to_one));
    // What it shall do outlasts its restarts, and further words that it shall leave.
    cluster.start(3, 30);
    cluster.done(Command::DrainNode { id: NodeId(3) });
    assert_eq!(leaving(&cluster, 3), (NodeStatus::Draining, true, to_one));
    cluster.done(Command::UndrainNode { id: NodeId(3) });
    assert_eq!(leaving(&cluster, 3), (NodeStatus::Active, false, None));
    cluster.done(replace(2, None));
    let anyone = Some(Successor::Any);
    assert_eq!(leaving(&cluster, 2), (NodeStatus::Draining, true, anyone));
}

#[test]
fn a_deleted_topic_is_forgotten_when_every_holder_has_reported() {
    let mut cluster = Cluster::of(3);
    cluster.topic(1, 2, 1);
    let holders: Vec<NodeId> = cluster.record(1).isr.iter().copied().collect();
    cluster.done(delete("t1", 1));
    let finish = |node| Command::FinishDelete { id: id(1), node };
    cluster.done(finish(holders[0]));
    cluster.done(finish(holders[0]));
    assert_eq!(cluster.state.view.deleted().len(), 1);
    cluster.done(finish(holders[1]));
    assert_eq!(cluster.state.view.deleted().len(), 0);
    assert_eq!(
        cluster.apply(&finish(holders[1])),
        Err(Rejected::TopicNotFound)
    );
}

#[test]
fn an_unclean_leader_is_chosen_by_word_alone_and_remembered_e3() {
    let mut cluster = Cluster::of(2);
    cluster.topic(1, 2, 2);
    let elect = |cluster: &Cluster, n| Command::ElectUnclean {
        topic: id(1),
        partition: Partition(0),
        leader: NodeId(n),
        partition_epoch: cluster.record(1).partition_epoch,
    };
    let leader = cluster.record(1).leader.unwrap();
    let command = elect(&cluster, 1);
    assert_eq!(cluster.apply(&command), Err(Rejected::HasLeader { leader }));
    cluster.fence(1);
    cluster.fence(2);
    let mut lossy = registration(1, 9);
    lossy.loss = Loss::All;
    cluster.start_as(lossy);
    assert_eq!(cluster.record(1).leader, None);
    let command = elect(&cluster, 2);
    let status = NodeStatus::Fenced;
    assert_eq!(
        cluster.apply(&command),
        Err(Rejected::NodeNotActive {
            id: NodeId(2),
            status
        })
    );
    cluster.start(3, 3);
    let command = elect(&cluster, 3);
    assert_eq!(
        cluster.apply(&command),
        Err(Rejected::NoReplica { id: NodeId(3) })
    );
    let command = elect(&cluster, 1);
    cluster.done(command);
    let record = cluster.record(1);
    assert_eq!(
        gist(&record),
        (Some(1), record.leader_epoch.0, set(&[1]), set(&[]))
    );
    assert_eq!(record.unclean_epochs, [record.leader_epoch]);
}

#[test]
fn answers_travel_to_the_node_that_asked() {
    let mut cluster = Cluster::of(3);
    cluster.topic(1, 3, 2);
    let wish = cluster.wish(1, &[1, 2, 3]);
    for command in history().into_iter().chain([
        register(4, 9),
        Command::AlterPartition {
            topic: id(1),
            partition: Partition(0),
            alter: wish,
        },
        Command::DrainNode { id: NodeId(9) },
    ]) {
        let answer = cluster.apply(&command);
        let text = serde_json::to_string(&answer).unwrap();
        let read: Result<Applied, Rejected> = serde_json::from_str(&text).unwrap();
        assert_eq!(read, answer);
    }
}
