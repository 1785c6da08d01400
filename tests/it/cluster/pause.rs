//! SIGSTOP: a process that is there, holds its connections and its leaderships, and does nothing;
//! then goes on as if no time had passed.

use std::time::Duration;

use super::PARTITIONS;
use super::history::Dice;
use super::nodes::{Cluster, NODES};
use super::run::{Run, rounds};

/// Some are over before anybody notices, some after the node was replaced; the longest come only
/// in long runs.
const PAUSES: &[u64] = &[300, 2_500, 800, 100, 1_500, 6_000, 400, 20_000];

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_and_goes_on_keeps_and_says_nothing_wrong() {
    let what = "SIGSTOP of leaders, controllers, followers";
    let mut run = Run::start(what, Cluster::start().await).await;
    for round in 0..rounds(3) {
        let time = Duration::from_millis(PAUSES[round % PAUSES.len()]);
        let (controller, leader) = (
            run.cluster.controller().await,
            run.cluster
                .leader(&run.topic, round as u32 % PARTITIONS)
                .await,
        );
        let other = (0..NODES).find(|node| *node != controller && *node != leader);
        let victim = [leader, controller, other.unwrap_or(controller)][round % 3];
        run.strike([], |cluster| cluster.pause(victim));
        run.lasting(time).await;
        run.cluster.resume(victim);
        run.heals().await;
        run.progress(20).await;
    }
    run.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_while_another_is_killed_has_everything_that_was_acknowledged() {
    let what = "SIGSTOP of one node, kill -9 of another";
    let mut run = Run::start(what, Cluster::start().await).await;
    let mut dice = Dice::new(rounds(2) as u64);
    for round in 0..rounds(2) {
        let paused = dice.roll(NODES);
        let killed = (paused + 1 + dice.roll(2)) % NODES;
        run.strike([], |cluster| cluster.pause(paused));
        // Long enough, in every second round, for the others to go on without it.
        if round % 2 == 0 {
            run.progress(20).await;
        }
        run.strike([], |cluster| cluster.kill(&[killed]));
        run.lasting(Duration::from_millis(dice.roll(1_500) as u64))
            .await;
        run.cluster.resume(paused);
        run.cluster.run(&[killed]).await;
        run.heals().await;
        run.progress(20).await;
    }
    run.check().await;
}
