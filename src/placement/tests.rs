//! What plans promise, over any cluster.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::types::{LeaderEpoch, NodeId, PartitionEpoch, PartitionRecord, Replica};

fn record(nodes: &[NodeId]) -> PartitionRecord {
    let generation = 1;
    PartitionRecord {
        replicas: nodes
            .iter()
            .map(|node| Replica {
                node: *node,
                generation,
            })
            .collect(),
        leader: nodes.first().copied(),
        leader_epoch: LeaderEpoch(1),
        partition_epoch: PartitionEpoch(1),
        isr: nodes.iter().copied().collect(),
        ..PartitionRecord::default()
    }
}

fn loads(racks: &[u8]) -> Vec<NodeLoad> {
    let load = |(n, rack): (usize, &u8)| NodeLoad {
        id: NodeId(n as u32 + 1),
        rack: (*rack != 0).then(|| format!("r{rack}")),
        partitions: 0,
        leaders: 0,
    };
    racks.iter().enumerate().map(load).collect()
}

fn open(loads: &[NodeLoad]) -> Vec<Node> {
    let node = |load: &NodeLoad| Node {
        id: load.id,
        rack: load.rack.clone(),
        role: Role::Open,
    };
    loads.iter().map(node).collect()
}

/// How many racks there are: nodes without one stand alone.
fn racks(nodes: &[Node], among: &[NodeId]) -> usize {
    let chosen = nodes.iter().filter(|node| among.contains(&node.id));
    let rack = |node: &Node| (node.rack.clone(), node.rack.is_none().then_some(node.id));
    chosen.map(rack).collect::<BTreeSet<_>>().len()
}

/// The spread between the node that has most and the one that has least.
fn spread(nodes: &[Node], counted: impl Iterator<Item = NodeId>) -> u64 {
    let open = nodes.iter().filter(|node| node.role == Role::Open);
    let mut counts: BTreeMap<NodeId, u64> = open.map(|node| (node.id, 0)).collect();
    for id in counted {
        if let Some(count) = counts.get_mut(&id) {
            *count += 1;
        }
    }
    let (least, most) = (counts.values().min(), counts.values().max());
    most.unwrap_or(&0) - least.unwrap_or(&0)
}

fn placed(records: &[PartitionRecord], replication_factor: u32) -> Vec<Placed<'_, usize>> {
    let place = |(key, record)| Placed {
        key,
        record,
        replication_factor,
        min_insync: 1,
    };
    records.iter().enumerate().map(place).collect()
}

fn carry_out(records: &mut [PartitionRecord], moves: &[Move<usize>]) {
    for step in moves {
        let leader = records[step.key].leader;
        records[step.key] = record(&step.replicas);
        if leader.is_some_and(|leader| step.replicas.contains(&leader)) {
            records[step.key].leader = leader;
        }
    }
}

fn replicas(records: &[PartitionRecord]) -> impl Iterator<Item = NodeId> {
    let all = records.iter().flat_map(|record| &record.replicas);
    all.map(|replica| replica.node)
}

fn nodes_of(record: &PartitionRecord) -> Vec<NodeId> {
    record.replicas.iter().map(|replica| replica.node).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn new_partitions_are_spread_over_nodes_and_racks(
        racks_of in prop::collection::vec(0..4u8, 1..9),
        factor in 1..5u32,
        count in 1..40u32,
    ) {
        let loads = loads(&racks_of);
        let nodes = open(&loads);
        let all: Vec<NodeId> = nodes.iter().map(|node| node.id).collect();
        let places = assign(&loads, factor, count);
        let copies = (factor as usize).min(nodes.len());
        prop_assert_eq!(places.len(), count as usize);
        for place in &places {
            let distinct: BTreeSet<_> = place.iter().collect();
            prop_assert_eq!((place.len(), distinct.len()), (copies, copies));
            prop_assert_eq!(racks(&nodes, place), copies.min(racks(&nodes, &all)));
        }
        prop_assert_eq!(&assign(&loads, factor, count), &places);
        if racks_of.iter().all(|rack| *rack == 0) {
            prop_assert!(spread(&nodes, places.iter().flatten().copied()) <= 1);
            prop_assert!(spread(&nodes, places.iter().map(|place| place[0])) <= 1);
        }
    }

    #[test]
    fn plans_leave_nothing_on_who_leaves_and_the_rest_even_and_then_rest(
        roles in prop::collection::vec(prop::sample::select(vec![Role::Open, Role::Open, Role::Leaving]), 3..9),
        racks_of in prop::collection::vec(0..4u8, 9),
        old in 1..4usize,
        factor in 1..4u32,
        count in 1..40u32,
        raise in 0..2u32,
        flat in any::<bool>(),
    ) {
        let racks_of: Vec<u8> = racks_of.iter().map(|rack| if flat { 0 } else { *rack }).collect();
        let loads = loads(&racks_of[..roles.len()]);
        let mut nodes = open(&loads);
        for (node, role) in nodes.iter_mut().zip(&roles) {
            node.role = *role;
        }
        // The partitions were made when only the first nodes were there.
        let mut records: Vec<_> = assign(&loads[..old], factor, count).iter().map(|p| record(p)).collect();
        let factor = factor + raise;
        let open: Vec<NodeId> = nodes.iter().filter(|n| n.role == Role::Open).map(|n| n.id).collect();
        prop_assume!(!open.is_empty());
        let moves = rebalance(&nodes, &placed(&records, factor), usize::MAX);
        carry_out(&mut records, &moves);
        for record in &records {
            let holders = nodes_of(record);
            let distinct: BTreeSet<_> = holders.iter().collect();
            prop_assert_eq!(distinct.len(), holders.len());
            prop_assert_eq!(holders.len(), open.len().min(factor as usize));
            prop_assert!(holders.iter().all(|id| open.contains(id)));
            prop_assert_eq!(racks(&nodes, &holders), holders.len().min(racks(&nodes, &open)));
        }
        if flat {
            prop_assert!(spread(&nodes, replicas(&records)) <= 1);
        }
        prop_assert_eq!(rebalance(&nodes, &placed(&records, factor), usize::MAX), vec![]);
    }

    #[test]
    fn a_node_that_joins_gets_its_share_and_nothing_else_moves(
        old in 1..8usize,
        factor in 1..4u32,
        count in 1..60u32,
        limit in 1..8usize,
    ) {
        let loads = loads(&vec![0; old + 1]);
        let nodes = open(&loads);
        let factor = factor.min(old as u32);
        let mut records: Vec<_> = assign(&loads[..old], factor, count).iter().map(|p| record(p)).collect();
        let share = count as usize * factor as usize / (old + 1);
        let mut copied = 0;
        loop {
            let moves = rebalance(&nodes, &placed(&records, factor), limit);
            prop_assert!(moves.len() <= limit);
            if moves.is_empty() {
                break;
            }
            for step in &moves {
                let before = nodes_of(&records[step.key]);
                copied += step.replicas.iter().filter(|id| !before.contains(id)).count();
            }
            carry_out(&mut records, &moves);
        }
        prop_assert!(spread(&nodes, replicas(&records)) <= 1);
        let joined = NodeId(old as u32 + 1);
        let got = replicas(&records).filter(|id| *id == joined).count();
        prop_assert!(got == share, "{got} of {share}");
        prop_assert_eq!(copied, share);
    }

    #[test]
    fn leadership_is_evened_out_among_in_sync_replicas(
        nodes in 1..7usize,
        factor in 1..4u32,
        count in 1..40u32,
        away in 0..7usize,
    ) {
        let loads = loads(&vec![0; nodes]);
        let mut nodes = open(&loads);
        let mut records: Vec<_> = assign(&loads, factor, count).iter().map(|p| record(p)).collect();
        // One node was gone: it is in sync again, and leads nothing.
        let gone = NodeId(away as u32);
        for record in &mut records {
            if record.leader == Some(gone) {
                record.leader = nodes_of(record).into_iter().find(|id| *id != gone);
            }
        }
        let apply = |records: &mut Vec<PartitionRecord>, nodes: &[Node], limit| {
            let listed: Vec<_> = records.iter().enumerate().collect();
            let moves = leaders(nodes, &listed, limit);
            for step in &moves {
                assert!(records[step.key].isr.contains(&step.to));
                records[step.key].leader = Some(step.to);
            }
            moves.len()
        };
        prop_assert!(apply(&mut records, &nodes, 3) <= 3);
        apply(&mut records, &nodes, usize::MAX);
        if 1 < factor {
            prop_assert!(spread(&nodes, records.iter().filter_map(|r| r.leader)) <= 1);
        }
        prop_assert_eq!(apply(&mut records, &nodes, usize::MAX), 0);

        // A node that leaves leads only what nobody else can.
        nodes[0].role = Role::Leaving;
        apply(&mut records, &nodes, usize::MAX);
        for record in records.iter().filter(|record| record.leader == Some(NodeId(1))) {
            prop_assert_eq!(record.isr.len(), 1);
        }
    }
}

#[test]
fn copies_are_not_evened_out_where_one_is_away_for_that_would_not_end() {
    let loads = loads(&[0, 0, 0, 0]);
    let mut nodes = open(&loads);
    nodes[0].role = Role::Away;
    let with_it: Vec<_> = (0..4)
        .map(|_| record(&[NodeId(1), NodeId(2), NodeId(3)]))
        .collect();
    assert_eq!(rebalance(&nodes, &placed(&with_it, 3), 9), vec![]);
    let without: Vec<_> = (0..4).map(|_| record(&[NodeId(2), NodeId(3)])).collect();
    assert_ne!(rebalance(&nodes, &placed(&without, 2), 9), vec![]);
}

#[test]
fn what_may_come_back_or_is_under_way_is_left_alone() {
    let loads = loads(&[0, 0, 0]);
    let mut nodes = open(&loads);
    nodes[0].role = Role::Away;
    let mut records = vec![
        record(&[NodeId(1), NodeId(3)]),
        record(&[NodeId(2), NodeId(3)]),
    ];
    records[1].removing = [NodeId(3)].into();
    assert_eq!(rebalance(&nodes, &placed(&records, 2), 9), vec![]);
    // A copy is not given up for nothing if too few would be left.
    let nodes = [
        Node {
            role: Role::Leaving,
            ..nodes[0].clone()
        },
        nodes[1].clone(),
    ];
    let lone = [record(&[NodeId(1), NodeId(2)])];
    let needs_both = Placed {
        min_insync: 2,
        ..placed(&lone, 2).remove(0)
    };
    assert_eq!(rebalance(&nodes, &[needs_both], 9), vec![]);
    let given_up = rebalance(&nodes, &placed(&lone, 2), 9);
    assert_eq!(
        given_up,
        [Move {
            key: 0,
            replicas: vec![NodeId(2)]
        }]
    );
}
