//! What is said of which clusters.

use uuid::Uuid;

use super::*;
use crate::broker::cluster::{Copying, MetadataReport, NodeReport, PartitionCounts, ReplicaMove};
use crate::broker::load::Load;
use crate::metadata::NodeEntry;
use crate::types::{Incarnation, LeaderEpoch, Partition, Replica, Timestamp};

const NAMES: [&str; 4] = ["one", "two", "three", "four"];

/// Nodes 1 to `n`, all well, all voters; 1 is the controller and the one that was asked.
fn cluster(n: u32) -> ClusterStatus {
    ClusterStatus {
        cluster_id: Uuid::nil(),
        node: NodeId(1),
        controller: Some(NodeId(1)),
        term: 5,
        applied: 100,
        nodes: (1..=n).map(|id| node(id, n)).collect(),
        partitions: PartitionCounts::default(),
        moves: Vec::new(),
        findings: Vec::new(),
    }
}

fn node(id: u32, of: u32) -> NodeDescription {
    let name = NAMES[id as usize - 1];
    NodeDescription {
        entry: Arc::new(NodeEntry {
            id: NodeId(id),
            name: name.parse().unwrap(),
            disk: Uuid::nil(),
            process: Uuid::nil(),
            incarnation: Incarnation(u64::from(id)),
            status: NodeStatus::Active,
            draining: false,
            successor: None,
            http: format!("http://{name}:8080"),
            peer: format!("{name}:9080"),
            rack: None,
            registered_at: Timestamp(0),
            last_clean: true,
        }),
        name: name.into(),
        voter: true,
        heard: true,
        silent_ms: Some(100),
        leads: 3,
        replicas: 9,
        in_sync: 9,
        under_replicated: 0,
        report: Some(NodeReport {
            version: "1.0.0".into(),
            uptime_ms: 1,
            load: Load::default(),
            memory: 1,
            bytes: 1,
            disk_free: 1,
            disk_total: 1,
            can_write: true,
            problems: Vec::new(),
            hears: (1..=of).map(NodeId).collect(),
            metadata: MetadataReport::default(),
            silent: BTreeMap::new(),
        }),
    }
}

impl ClusterStatus {
    fn entry(&mut self, id: usize) -> &mut NodeEntry {
        Arc::make_mut(&mut self.nodes[id - 1].entry)
    }

    /// The node is taken for dead and answers nothing.
    fn lose(&mut self, id: usize) {
        self.entry(id).status = NodeStatus::Fenced;
        let node = &mut self.nodes[id - 1];
        node.report = None;
        node.heard = false;
        node.silent_ms = Some(12_400);
    }
}

/// A partition of `orders`: its replicas, its leader, who is in sync and who is eligible.
fn partition(
    number: u32,
    replicas: &[u32],
    leader: Option<u32>,
    isr: &[u32],
    elr: &[u32],
) -> Ailing {
    let set = |nodes: &[u32]| nodes.iter().copied().map(NodeId).collect();
    let replica = |node: &u32| Replica {
        node: NodeId(*node),
        generation: 1,
    };
    Ailing {
        partition: TopicPartition {
            topic: "orders".parse().unwrap(),
            partition: Partition(number),
        },
        record: Arc::new(PartitionRecord {
            replicas: replicas.iter().map(replica).collect(),
            leader: leader.map(NodeId),
            leader_epoch: LeaderEpoch(1),
            isr: set(isr),
            elr: set(elr),
            ..PartitionRecord::default()
        }),
        min_insync: 2,
        replication_factor: 3,
    }
}

fn finding(severity: Severity, text: &str) -> Finding {
    super::finding(severity, text.into())
}

impl Finding {
    fn hint(self, hint: &str) -> Self {
        let hint = Some(hint.into());
        Self { hint, ..self }
    }

    fn of_node(self, node: &str) -> Self {
        let node = Some(node.into());
        Self { node, ..self }
    }

    fn of_orders(self) -> Self {
        let topic = Some("orders".parse().unwrap());
        Self { topic, ..self }
    }
}

use Severity::{Critical, Notice, Warning};

#[test]
fn of_a_cluster_that_is_well_nothing_is_said() {
    assert_eq!(findings(&cluster(3), &[]), []);
    assert_eq!(findings(&cluster(1), &[]), []);
}

#[test]
fn a_node_that_is_gone_is_named_with_its_silence_and_what_is_missing() {
    let mut status = cluster(3);
    status.lose(2);
    let ailing: Vec<_> = (0..14)
        .map(|n| partition(n, &[1, 2, 3], Some(1), &[1, 3], &[]))
        .collect();
    let gone = finding(
        Warning,
        "node two has not answered for 12 s; 14 partitions have one copy less than they should",
    );
    let votes = finding(
        Warning,
        "1 of the 3 voters on the metadata does not answer (two): if one more fails, topics and \
         leaders cannot change",
    );
    assert_eq!(
        findings(&status, &ailing),
        [
            votes,
            gone.of_node("two")
                .hint("start it again; if it will not come back: pilgrimage node replace two"),
        ]
    );
}

#[test]
fn a_partition_without_a_leader_names_who_has_what_is_missing() {
    let mut status = cluster(3);
    status.nodes.iter_mut().for_each(|node| node.voter = false);
    status.lose(3);
    let ailing = [
        partition(3, &[1, 2, 3], None, &[], &[3]),
        partition(5, &[1, 3, 2], None, &[], &[3]),
        partition(6, &[2, 1], None, &[], &[]),
    ];
    let expected = [
        finding(
            Critical,
            "partition orders/6 has no leader, and no copy surely has every record",
        )
        .of_orders()
        .hint(
            "to go on with what a copy has, give up what it lacks: \
             pilgrimage cluster lead orders 6 two --unclean",
        ),
        finding(
            Critical,
            "partitions orders/3 and orders/5 have no leader: the only complete copy is on node three",
        )
        .of_orders()
        .of_node("three")
        .hint(
            "start three again; if its disk is lost, give up what only it has: \
             pilgrimage cluster lead orders 3 one --unclean",
        ),
    ];
    let found = findings(&status, &ailing);
    let critical: Vec<_> = found
        .into_iter()
        .filter(|finding| finding.severity == Critical)
        .collect();
    assert_eq!(critical, expected);
}

#[test]
fn with_too_few_in_sync_it_is_said_that_writes_are_refused() {
    let status = cluster(3);
    let ailing: Vec<_> = (0..7)
        .map(|n| partition(n, &[1, 2, 3], Some(1), &[1], &[]))
        .collect();
    let under = finding(
        Critical,
        "partitions orders/0, orders/1, orders/2, orders/3 and 3 more have fewer in-sync copies than their \
         topics demand: acks=all is refused",
    );
    let behind = |node: &str| {
        let text = format!("node {node} is at work, and 7 of its copies are not in sync yet");
        finding(Warning, &text).of_node(node)
    };
    assert_eq!(
        findings(&status, &ailing),
        [
            under
                .of_orders()
                .hint("start the nodes that are down, or lower min_insync_replicas of the topic"),
            behind("two"),
            behind("three"),
        ]
    );
}

#[test]
fn metadata_that_nobody_leads_comes_first() {
    let mut status = cluster(3);
    status.controller = None;
    for node in &mut status.nodes[1..] {
        node.report = None;
    }
    let silent = |node: &str| {
        let text = format!("node {node} did not answer node one in time");
        finding(Warning, &text).of_node(node)
    };
    assert_eq!(
        findings(&status, &[]),
        [
            finding(
                Critical,
                "nobody leads the metadata: topics, leaders and nodes cannot change"
            )
            .hint("it takes 2 of the 3 voters (one, two and three); start those that are down"),
            silent("two"),
            silent("three"),
        ]
    );
}

#[test]
fn gossip_that_does_not_arrive_is_said_of_who_is_not_heard() {
    let mut status = cluster(3);
    for node in &mut status.nodes[..2] {
        let report = node.report.as_mut().unwrap();
        report.hears.remove(&NodeId(3));
    }
    assert_eq!(
        findings(&status, &[]),
        [finding(
            Warning,
            "gossip of node three does not reach one and two: failures may be noticed late"
        )
        .of_node("three")
        .hint("let UDP through between them and three:9080")]
    );
}

#[test]
fn what_nodes_say_of_themselves_is_passed_on() {
    let mut status = cluster(2);
    let report = status.nodes[1].report.as_mut().unwrap();
    report.problems = vec!["the disk is nearly full (5 bytes free): records are refused".into()];
    report.version = "1.1.0".into();
    assert_eq!(
        findings(&status, &[]),
        [
            finding(
                Warning,
                "node two: the disk is nearly full (5 bytes free): records are refused"
            )
            .of_node("two"),
            finding(
                Notice,
                "the nodes run different versions: 1.0.0 on one; 1.1.0 on two"
            ),
        ]
    );
}

#[test]
fn a_node_that_leaves_tells_how_much_is_left_and_what_comes_next() {
    let drained = |change: fn(&mut NodeDescription), ailing: &[Ailing]| {
        let mut status = cluster(4);
        status.entry(2).status = NodeStatus::Draining;
        status.entry(2).draining = true;
        change(&mut status.nodes[1]);
        findings(&status, ailing)
    };
    let two = |severity, text| [finding(severity, text).of_node("two")];
    assert_eq!(
        drained(|node| node.replicas = 1, &[]),
        two(Notice, "node two gives everything away: 1 copy left")
    );
    let held = [partition(1, &[1, 2, 3], Some(1), &[1, 2, 3], &[])];
    assert_eq!(
        drained(|_| {}, &held),
        two(Notice, "node two gives everything away: 9 copies left")
    );
    assert_eq!(
        drained(|node| node.replicas = 0, &[]),
        two(Notice, "node two holds nothing any more")
            .map(|f| f.hint("stop it, then forget it: pilgrimage node remove two"))
    );
    let demanded = Ailing {
        min_insync: 4,
        replication_factor: 4,
        ..partition(1, &[1, 2, 3, 4], Some(1), &[1, 2, 3, 4], &[])
    };
    assert_eq!(
        drained(|_| {}, &[demanded]),
        two(
            Warning,
            "node two cannot give 1 copy away: every other node at work has one already"
        )
        .map(|f| f.hint("add a node, or keep this one: pilgrimage node undrain two"))
    );
}

#[test]
fn a_dead_node_that_is_replaced_is_told_to_whom_its_copies_go() {
    let mut status = cluster(4);
    status.nodes.iter_mut().for_each(|node| node.voter = false);
    status.lose(2);
    status.entry(2).draining = true;
    status.entry(2).successor = Some(Successor::Node(NodeId(4)));
    let ailing = partition(0, &[1, 2, 3], Some(1), &[1, 3], &[]);
    assert_eq!(
        findings(&status, std::slice::from_ref(&ailing)),
        [finding(
            Warning,
            "node two has not answered for 12 s; one partition has one copy less than it should; \
             its copies are being made on node four"
        )
        .of_node("two")]
    );
    status.nodes[1].replicas = 0;
    assert_eq!(
        findings(&status, &[]),
        [finding(Notice, "node two is gone, and is about to be forgotten").of_node("two")]
    );
    status.entry(2).draining = false;
    status.entry(2).successor = None;
    assert_eq!(
        findings(&status, &[]),
        [finding(Notice, "node two is gone, and holds nothing")
            .of_node("two")
            .hint("start it again, or forget it: pilgrimage node remove two")]
    );
}

#[test]
fn copies_that_are_being_made_are_not_missing() {
    let mut status = cluster(4);
    let mut moving = partition(0, &[4, 1, 2, 3], Some(1), &[1, 2, 3], &[]);
    let record = Arc::make_mut(&mut moving.record);
    record.adding = [NodeId(4)].into();
    record.removing = [NodeId(3)].into();
    status.moves.push(ReplicaMove {
        partition: moving.partition.clone(),
        record: moving.record.clone(),
        copies: vec![Copying {
            node: NodeId(4),
            in_sync: false,
            records: Some((1, 2)),
            bytes: 3,
        }],
    });
    assert_eq!(findings(&status, &[moving]), []);
}

#[test]
fn a_topic_that_wants_more_copies_than_there_are_nodes_is_a_notice() {
    let mut lone = partition(0, &[1], Some(1), &[1], &[]);
    lone.min_insync = 1;
    assert_eq!(
        findings(&cluster(1), &[lone]),
        [finding(
            Notice,
            "partition orders/0 has fewer copies than its topic wants; one node is at work"
        )
        .of_orders()]
    );
}

#[test]
fn spans_are_told_in_the_unit_that_people_would_use() {
    let told: Vec<String> = [
        0,
        1_999,
        119_999,
        120_000,
        7_199_999,
        7_200_000,
        172_800_000,
    ]
    .map(span)
    .into();
    assert_eq!(
        told,
        ["0 s", "1 s", "119 s", "2 min", "119 min", "2 h", "2 d"]
    );
}
