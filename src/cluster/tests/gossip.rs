//! Nodes that hear of each other over real sockets, and what they must not hear.

use std::collections::BTreeSet;

use tokio::net::UdpSocket;

use super::*;

const INTERVAL: Duration = Duration::from_millis(50);

fn options(
    secret: &ClusterSecret,
    node: u32,
    generation: u64,
    seeds: &[SocketAddr],
) -> GossipOptions {
    GossipOptions {
        node: NodeId(node),
        name: format!("node-{node}").try_into().unwrap(),
        generation,
        listen: ([127, 0, 0, 1], 0).into(),
        advertise: None,
        seeds: seeds.iter().map(SocketAddr::to_string).collect(),
        secret: secret.clone(),
        interval: INTERVAL,
        values: vec![
            (GossipKey::Http, format!("host-{node}:8080")),
            (GossipKey::Peer, format!("host-{node}:8081")),
        ],
    }
}

async fn start(options: GossipOptions) -> (Gossip, Tasks) {
    let tasks = Tasks::new();
    (Gossip::start(options, &tasks).await.unwrap(), tasks)
}

fn nodes(live: &Live) -> BTreeSet<u32> {
    live.keys().map(|node| node.0).collect()
}

async fn hears(gossip: &Gossip, what: &str, holds: impl Fn(&Live) -> bool) -> Live {
    let mut live = gossip.live();
    let waited = tokio::time::timeout(PATIENCE, live.wait_for(|live| holds(live))).await;
    match waited {
        Ok(live) => live.unwrap().clone(),
        Err(_) => panic!("{what} was not heard: {:?}", gossip.live().borrow()),
    }
}

#[tokio::test]
async fn three_nodes_hear_of_each_other_of_what_they_say_and_of_who_falls_silent() {
    let secret = ClusterSecret::generate();
    let (one, one_tasks) = start(options(&secret, 1, 5, &[])).await;
    let (two, two_tasks) = start(options(&secret, 2, 5, &[one.address()])).await;
    let (three, three_tasks) = start(options(&secret, 3, 5, &[one.address()])).await;
    let all = BTreeSet::from([1, 2, 3]);
    for gossip in [&one, &two, &three] {
        hears(gossip, "all", |live| nodes(live) == all).await;
    }
    three
        .set(GossipKey::Cluster, CLUSTER.to_string())
        .await
        .unwrap();
    three.set(GossipKey::Load, "0.5".into()).await.unwrap();
    let live = hears(&two, "load", |live| {
        live.get(&NodeId(3))
            .is_some_and(|entry| entry.load.is_some())
    })
    .await;
    let entry = &live[&NodeId(3)];
    let expected = GossipEntry {
        name: "node-3".try_into().unwrap(),
        generation: 5,
        gossip: three.address(),
        http: Some("host-3:8080".into()),
        peer: Some("host-3:8081".into()),
        cluster: Some(CLUSTER),
        version: None,
        load: Some("0.5".into()),
        since: entry.since,
    };
    assert_eq!(*entry, expected);

    assert_eq!(three_tasks.shutdown(PATIENCE).await, Ok(()));
    let ended = three.set(GossipKey::Load, "1".into()).await;
    assert!(matches!(ended, Err(GossipError::Ended)));
    let rest = BTreeSet::from([1, 2]);
    for gossip in [&one, &two] {
        hears(gossip, "the silence of 3", |live| nodes(live) == rest).await;
    }

    // The next process of the node, at another address.
    let (_three, three_tasks) = start(options(&secret, 3, 6, &[two.address()])).await;
    let live = hears(&one, "the return of 3", |live| {
        live.get(&NodeId(3))
            .is_some_and(|entry| entry.generation == 6)
    })
    .await;
    assert_eq!(nodes(&live), all);
    for tasks in [one_tasks, two_tasks, three_tasks] {
        assert_eq!(tasks.shutdown(PATIENCE).await, Ok(()));
    }
}

#[tokio::test]
async fn who_does_not_hold_the_secret_is_not_heard_and_hears_nothing() {
    let secret = ClusterSecret::generate();
    let (one, _one_tasks) = start(options(&secret, 1, 5, &[])).await;
    let (two, _two_tasks) = start(options(&secret, 2, 5, &[one.address()])).await;
    let stranger = options(
        &ClusterSecret::generate(),
        3,
        5,
        &[one.address(), two.address()],
    );
    let (stranger, _stranger_tasks) = start(stranger).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for n in 0..2000_usize {
        let garbage: Vec<u8> = (0..n % 700)
            .map(|i| (i * n % 251).to_le_bytes()[0])
            .collect();
        socket.send_to(&garbage, one.address()).await.unwrap();
    }
    let both = BTreeSet::from([1, 2]);
    let live = hears(&one, "2", |live| nodes(live) == both).await;
    until("refusals", || {
        100 < one.refused().datagrams() && 5 < two.refused().datagrams()
    })
    .await;
    assert_eq!(*one.live().borrow(), live);
    assert_eq!(nodes(&two.live().borrow()), both);
    assert_eq!(nodes(&stranger.live().borrow()), BTreeSet::from([3]));
    let mut buffer = [0; 64];
    let answered = socket.try_recv_from(&mut buffer);
    assert!(answered.is_err(), "garbage was answered");
}

#[tokio::test]
async fn a_long_value_and_a_taken_address_are_refused() {
    let secret = ClusterSecret::generate();
    let (one, tasks) = start(options(&secret, 1, 5, &[])).await;
    let long = one.set(GossipKey::Load, "x".repeat(257)).await;
    assert!(matches!(long, Err(GossipError::TooLong(257))));
    let taken = GossipOptions {
        listen: one.address(),
        ..options(&secret, 2, 5, &[])
    };
    let refused = Gossip::start(taken, &tasks).await;
    assert!(matches!(refused, Err(GossipError::Listen { .. })));
}
