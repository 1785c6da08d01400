//! Three machines on one network, as network name spaces on a bridge; clients sit on the bridge.
//! What is cut or slowed down are the ways between the nodes.

use std::time::Duration;

use super::PARTITIONS;
use super::apart::{apart, done, try_to};
use super::nodes::{Cluster, NAMES, NODES, Seat};
use super::run::{Run, rounds};

const TOOLS: &[&str] = &["ip", "iptables-legacy", "tc", "unshare"];

fn host(node: usize) -> String {
    format!("10.77.0.{}", node + 1)
}

/// A bridge, and a machine for each node.
async fn cluster() -> Cluster {
    done("ip link add hub type bridge");
    done("ip addr add 10.77.0.254/24 dev hub");
    done("ip link set hub up");
    let dir = tempfile::tempdir().unwrap();
    let machine = |node: usize| {
        done(&format!("ip netns add n{node}"));
        done(&format!("ip link add v{node} type veth peer name e{node}"));
        done(&format!("ip link set v{node} master hub up"));
        done(&format!("ip link set e{node} netns n{node}"));
        done(&format!(
            "ip -n n{node} addr add {}/24 dev e{node}",
            host(node)
        ));
        done(&format!("ip -n n{node} link set e{node} up"));
        done(&format!("ip -n n{node} link set lo up"));
        let before = ["ip", "netns", "exec"].map(str::to_owned);
        Seat {
            host: host(node),
            storage: dir.path().join(NAMES[node]),
            before: before.into_iter().chain([format!("n{node}")]).collect(),
            environment: vec![],
        }
    };
    let seats = (0..NODES).map(machine).collect();
    Cluster::seated(dir, seats).await
}

/// Nothing that `from` sends reaches `to`.
fn cut(from: usize, to: usize) {
    let rule = format!("-A INPUT -s {} -j DROP", host(from));
    done(&format!("ip netns exec n{to} iptables-legacy {rule}"));
}

fn cut_both(one: usize, two: usize) {
    cut(one, two);
    cut(two, one);
}

/// Of what arrives from other nodes, this share is lost.
fn lossy(share: f64) {
    for (from, to) in (0..NODES).flat_map(|from| (0..NODES).map(move |to| (from, to))) {
        let lost = format!("-m statistic --mode random --probability {share}");
        let rule = format!("-A INPUT -s {} {lost} -j DROP", host(from));
        done(&format!("ip netns exec n{to} iptables-legacy {rule}"));
    }
}

fn whole() {
    for node in 0..NODES {
        done(&format!("ip netns exec n{node} iptables-legacy -F INPUT"));
    }
}

fn others(node: usize) -> [usize; 2] {
    [(node + 1) % NODES, (node + 2) % NODES]
}

/// Links that are cut, given who leads the partition and who leads the metadata.
type Cut = fn(leader: usize, controller: usize);

/// What is cut. Clients reach every node all the time.
const CUTS: &[(&str, Cut)] = &[
    ("the leader is alone", |leader, _| {
        others(leader)
            .into_iter()
            .for_each(|other| cut_both(leader, other));
    }),
    ("the controller is alone", |_, controller| {
        others(controller)
            .into_iter()
            .for_each(|other| cut_both(controller, other));
    }),
    ("nobody hears the leader", |leader, _| {
        others(leader)
            .into_iter()
            .for_each(|other| cut(leader, other));
    }),
    ("two nodes meet only through the leader", |leader, _| {
        let [one, two] = others(leader);
        cut_both(one, two);
    }),
    ("the leader hears nobody", |leader, _| {
        others(leader)
            .into_iter()
            .for_each(|other| cut(other, leader));
    }),
    (
        "a node that leads nothing of it is alone",
        |leader, controller| {
            let alone = others(leader).into_iter().find(|node| *node != controller);
            let alone = alone.unwrap_or(controller);
            others(alone)
                .into_iter()
                .for_each(|other| cut_both(alone, other));
        },
    ),
    (
        "the leader and another do not meet",
        |leader, controller| {
            let other = others(leader).into_iter().find(|node| *node != controller);
            cut_both(leader, other.unwrap_or(controller));
        },
    ),
    ("nobody meets anybody", |_, _| {
        (0..NODES).for_each(|node| cut_both(node, (node + 1) % NODES));
    }),
];

#[test]
fn cut_networks_lose_nothing_and_let_the_majority_go_on() {
    let name = "cluster::network::cut_networks_lose_nothing_and_let_the_majority_go_on";
    apart(name, TOOLS, || async {
        let mut run = Run::start("cut networks", cluster().await).await;
        for round in 0..rounds(4) {
            let (what, cut) = CUTS[round % CUTS.len()];
            println!("{what}");
            let leader = run
                .cluster
                .leader(&run.topic, round as u32 % PARTITIONS)
                .await;
            let controller = run.cluster.controller().await;
            // Every partition may have to find another way.
            run.strike(0..PARTITIONS, |_| cut(leader, controller));
            match what.starts_with("nobody meets") {
                true => run.lasting(Duration::from_secs(3)).await,
                false => run.progress(20).await,
            }
            whole();
            run.heals().await;
            run.progress(20).await;
        }
        run.check().await;
    });
}

#[test]
fn a_network_that_comes_and_goes_loses_nothing() {
    let name = "cluster::network::a_network_that_comes_and_goes_loses_nothing";
    apart(name, TOOLS, || async {
        let mut run = Run::start("a network that comes and goes", cluster().await).await;
        for round in 0..rounds(1) {
            let leader = run
                .cluster
                .leader(&run.topic, round as u32 % PARTITIONS)
                .await;
            run.strike([], |_| {});
            for _ in 0..3 {
                others(leader)
                    .into_iter()
                    .for_each(|other| cut_both(leader, other));
                run.lasting(Duration::from_secs(1)).await;
                whole();
                run.lasting(Duration::from_secs(1)).await;
            }
            run.heals().await;
            run.progress(20).await;
        }
        run.check().await;
    });
}

#[test]
fn bad_networks_slow_the_nodes_down_and_lose_nothing() {
    let name = "cluster::network::bad_networks_slow_the_nodes_down_and_lose_nothing";
    apart(name, TOOLS, || async {
        let what = "packets lost, narrow links, delay";
        let mut run = Run::start(what, cluster().await).await;
        for round in 0..rounds(3) {
            let slow = run
                .cluster
                .leader(&run.topic, round as u32 % PARTITIONS)
                .await;
            let link = format!("n{slow} qdisc add dev e{slow} root");
            let narrow = "tbf rate 1mbit burst 32k latency 50ms";
            let mut shaped = false;
            run.strike([], |_| match round % 5 {
                0 => lossy(0.05),
                1 => shaped = try_to(&format!("tc -n {link} {narrow}")),
                2 => lossy(0.2),
                3 => lossy(0.1),
                _ => shaped = try_to(&format!("tc -n {link} netem delay 100ms 50ms")),
            });
            if !shaped && [1, 4].contains(&(round % 5)) {
                println!("this kernel cannot shape the link so: a round without harm");
            }
            run.progress(50).await;
            whole();
            if shaped {
                done(&format!("tc -n n{slow} qdisc del dev e{slow} root"));
            }
            run.heals().await;
        }
        run.check().await;
    });
}
