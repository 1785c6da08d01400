//! SIGKILL: a process that is gone from one instruction to the next.

use super::PARTITIONS;
use super::history::Dice;
use super::nodes::{Cluster, NODES};
use super::run::{Run, rounds};

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_killed_is_replaced_and_nothing_it_acknowledged_is_lost() {
    let mut run = Run::start("kill -9 of a leader", Cluster::start().await).await;
    for round in 0..rounds(3) {
        let partition = round as u32 % PARTITIONS;
        let victim = run.cluster.leader(&run.topic, partition).await;
        let led = run.cluster.led(&run.topic, victim).await;
        run.strike(led, |cluster| cluster.kill(&[victim]));
        run.progress(20).await;
        run.cluster.run(&[victim]).await;
        run.heals().await;
    }
    run.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_controllers_and_all_nodes_at_once_may_be_killed_and_nothing_is_lost() {
    let what = "kill -9 of followers, controllers, two nodes, all";
    let mut run = Run::start(what, Cluster::start().await).await;
    let mut dice = Dice::new(rounds(4) as u64);
    for round in 0..rounds(4) {
        let controller = run.cluster.controller().await;
        let victims = match round % 4 {
            0 => vec![(run.cluster.leader(&run.topic, 0).await + 1) % NODES],
            1 => vec![controller],
            2 => (0..NODES).collect(),
            _ => {
                let spared = dice.roll(NODES);
                (0..NODES).filter(|node| *node != spared).collect()
            }
        };
        run.strike([], |cluster| cluster.kill(&victims));
        // One node of three may be missing; more may not.
        if victims.len() == 1 {
            run.progress(20).await;
        }
        run.cluster.run(&victims).await;
        run.heals().await;
        run.progress(20).await;
    }
    run.check().await;
}
