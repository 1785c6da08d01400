//! Brokers that are closed or dropped, topics that are deleted, records that are trimmed away.

use super::*;

#[tokio::test]
async fn a_broker_that_is_only_dropped_ends_and_keeps_its_directory_until_then() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path()).await;
    send(&broker, "t", Record::text("kept")).await.unwrap();
    let tasks = broker.inner.tasks.clone();
    let topic = broker.find_topic(&topic("t")).unwrap();
    let reader = topic.hosted().next().unwrap().reader().clone();
    drop((topic, broker));
    let open_again = || Broker::open(Options::new("test".parse().unwrap(), dir.path()));
    let early = open_again().await;
    assert!(matches!(early, Err(OpenError::InUse(_))), "{early:?}");
    drop(reader);
    let again = open_again().await.unwrap();
    assert_eq!(texts(&again, "t", 0).await, ["kept"]);
    let ended = async {
        while tasks.running() != 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ended)
        .await
        .expect("every task of the dropped broker ends");
}

#[tokio::test]
async fn a_subscription_goes_on_at_the_first_record_left_when_it_is_overtaken_by_a_trim() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open_with(dir.path(), |o| o.maintenance = Duration::from_secs(3600)).await;
    for text in ["a", "b", "c"] {
        send(&broker, "t", Record::text(text)).await.unwrap();
    }
    let mut all = broker.subscribe(&topic("t"), From::Earliest).await.unwrap();
    let mut progress = broker.progress(&topic("t")).unwrap();
    broker
        .trim(&topic("t"), Partition(0), Offset(2))
        .await
        .unwrap();
    progress.changed().await.unwrap();
    let next = tokio::time::timeout(Duration::from_secs(10), all.next());
    let next = next.await.expect("a record is there").unwrap().unwrap().1;
    assert_eq!(
        (next.offset, next.record.value.unwrap()),
        (Offset(2), "c".into())
    );
}

#[tokio::test]
async fn what_is_left_of_a_deleted_topic_and_cannot_be_removed_keeps_no_broker_from_opening() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path()).await;
    send(&broker, "t", Record::text("kept")).await.unwrap();
    let gone = broker.create_topic("gone", 1).await.unwrap();
    // A file cannot be removed as a directory.
    let remains = dir.path().join("topics").join(gone.id.to_string());
    std::fs::write(&remains, "").unwrap();
    broker.delete_topic(&topic("gone")).await.unwrap();
    broker.close().await;
    drop(broker);
    let broker = open(dir.path()).await;
    assert_eq!(texts(&broker, "t", 0).await, ["kept"]);
    assert!(remains.exists());
    broker.close().await;
    drop(broker);
    std::fs::remove_file(&remains).unwrap();
    std::fs::create_dir(&remains).unwrap();
    let broker = open(dir.path()).await;
    assert!(!remains.exists(), "it is tried again at every start");
    assert_eq!(texts(&broker, "t", 0).await, ["kept"]);
}

#[tokio::test]
async fn a_topic_that_comes_while_the_broker_closes_is_closed_with_it() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..10 {
        let broker = open(dir.path()).await;
        let name = format!("t{round}");
        let (_, ()) = tokio::join!(broker.create_topic(&name, 8), broker.close());
        assert!(broker.inner.topics.load().is_empty());
        assert_eq!(broker.inner.tasks.running(), 0);
    }
}

#[tokio::test]
async fn a_closed_broker_says_that_it_closes_and_not_that_its_topics_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open_with(dir.path(), |o| o.auto_create_topics = false).await;
    broker.create_topic("t", 1).await.unwrap();
    broker.close().await;
    let fetched = broker.fetch(&topic("t"), Partition(0), Offset(0), 1).await;
    assert_eq!(fetched.unwrap_err().code(), Code::NotReady);
    let sent = send(&broker, "t", Record::text("x")).await;
    assert_eq!(sent.unwrap_err().code(), Code::NotReady);
    assert_eq!(
        broker.topic(&topic("t")).await.unwrap_err().code(),
        Code::NotReady
    );
}
