//! Nodes that come and go, as the command line tells it.

use pilgrimage::types::TopicName;

use crate::console_cluster::Nodes;
use crate::support::wait_until;

/// The first words of each line but the heading.
fn names(table: &str) -> Vec<&str> {
    let lines = table.lines().skip(1);
    let mut names: Vec<&str> = lines
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    names.sort_unstable();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_disk_is_replaced_by_one_command_under_its_old_name() {
    let mut cluster = Nodes::start().await;
    cluster.topic("orders", 3).await;
    let list = cluster.told(&["node", "list"]);
    assert_eq!(names(&list), ["one", "three", "two"], "{list}");
    let two = cluster.told(&["node", "describe", "two"]);
    assert!(two.contains("leads 1, holds 3, 3 in sync"), "{two}");
    assert!(two.contains("orders/2"), "{two}");

    cluster.nodes[1].kill();
    cluster.nodes.remove(1);
    wait_until("the silence to be noticed", || async {
        cluster.told(&["node", "list"]).contains("silent for")
    })
    .await;
    cluster.add("two", "another-disk").await;
    let said = cluster.told(&["node", "replace", "two", "--wait"]);
    assert_eq!(said, "What node two had is on node two.\n");
    wait_until("the old one to be forgotten", || async {
        let list = cluster.told(&["node", "list"]);
        names(&list) == ["one", "three", "two"]
    })
    .await;
    cluster.in_sync("orders", 3).await;
    let client = cluster.nodes[0].client();
    let orders: TopicName = "orders".parse().unwrap();
    for partition in client.partitions(&orders).await.unwrap().partitions {
        let mut isr = partition.isr;
        isr.sort();
        assert_eq!(isr, ["one", "three", "two"]);
    }

    // A node that is well leaves in the same words.
    cluster.add("four", "four").await;
    let said = cluster.told(&["node", "drain", "three", "--wait"]);
    assert_eq!(said, "Node three holds nothing any more.\n");
    let at = cluster
        .nodes
        .iter()
        .position(|node| node.storage().ends_with("three"));
    let mut three = cluster.nodes.remove(at.unwrap());
    assert!(three.terminate().success());
    let said = cluster.told(&["node", "remove", "three"]);
    assert_eq!(said, "Node three is forgotten.\n");
    wait_until("all to be well", || async {
        cluster.told(&["cluster", "status"]).contains("all is well")
    })
    .await;
    let list = cluster.told(&["node", "list"]);
    assert_eq!(names(&list), ["four", "one", "two"], "{list}");
}
