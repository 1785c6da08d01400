//! What an embedded broker promises, on real files.

mod endings;

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::record::{Batch, Record, StoredRecord};
use crate::types::{Code, Compression, Offset, Partition, TopicName, TopicPatch};

async fn open(dir: &Path) -> Broker {
    open_with(dir, |_| {}).await
}

async fn open_with(dir: &Path, change: impl FnOnce(&mut Options)) -> Broker {
    let mut options = Options::new("test".parse().unwrap(), dir);
    options.maintenance = Duration::from_millis(20);
    change(&mut options);
    Broker::open(options).await.unwrap()
}

fn topic(name: &str) -> TopicName {
    name.parse().unwrap()
}

async fn send(broker: &Broker, name: &str, record: Record) -> Result<Placed, ProduceError> {
    let placed = broker
        .produce(&topic(name), vec![(None, record)], Acks::All, None)
        .await?;
    assert_eq!(placed.len(), 1);
    Ok(placed[0])
}

/// All records of a partition that readers can see.
async fn read(broker: &Broker, name: &str, partition: u32) -> Vec<StoredRecord> {
    let (name, partition) = (topic(name), Partition(partition));
    let (mut at, mut records) = (broker.bounds(&name, partition).await.unwrap().0, Vec::new());
    loop {
        let mut fetched = broker.fetch(&name, partition, at, 1 << 20).await.unwrap();
        if fetched.batches.is_empty() {
            return records;
        }
        while !fetched.batches.is_empty() {
            let batch = Batch::take(&mut fetched.batches).unwrap();
            batch.verify().unwrap();
            let unpacked = batch.unpack().unwrap();
            records.extend(
                unpacked
                    .records()
                    .map(|r| r.unwrap().to_stored())
                    .filter(|r| at <= r.offset),
            );
        }
        at = fetched.next;
    }
}

async fn texts(broker: &Broker, name: &str, partition: u32) -> Vec<String> {
    let values = read(broker, name, partition)
        .await
        .into_iter()
        .map(|r| r.record.value.unwrap());
    values
        .map(|v| String::from_utf8(v.to_vec()).unwrap())
        .collect()
}

#[tokio::test]
async fn what_is_sent_is_read_back_exactly_also_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path()).await;
    let records = [
        Record::text("emoji 🦀\nline"),
        Record::binary(vec![0, 255])
            .with_key("k")
            .with_header("h", "1")
            .with_header("h", "2"),
        Record {
            value: None,
            key: Some("gone".into()),
            ..Record::default()
        },
        Record::json(&serde_json::json!({"a": 1})).unwrap(),
        Record::binary(Vec::new()),
        Record::binary(vec![7; 1 << 20]),
    ];
    for record in &records {
        send(&broker, "t", record.clone()).await.unwrap();
    }
    let offsets = read(&broker, "t", 0).await.into_iter().map(|r| r.offset.0);
    assert_eq!(offsets.collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    let back = read(&broker, "t", 0).await.into_iter().map(|r| Record {
        timestamp: None,
        ..r.record
    });
    assert_eq!(back.collect::<Vec<_>>(), records);
    broker.close().await;
    drop(broker);
    let broker = open(dir.path()).await;
    let back = read(&broker, "t", 0).await.into_iter().map(|r| Record {
        timestamp: None,
        ..r.record
    });
    assert_eq!(back.collect::<Vec<_>>(), records);
}

#[tokio::test]
async fn a_key_always_finds_its_partition_and_keyless_records_share_one() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path()).await;
    broker.create_topic("t", 8).await.unwrap();
    let of = |key: &'static str| {
        let broker = broker.clone();
        async move {
            send(&broker, "t", Record::text("v").with_key(key))
                .await
                .unwrap()
                .partition
        }
    };
    assert_eq!(of("abc").await, Partition(479_470_107 % 8));
    assert_eq!(of("abc").await, of("abc").await);
    let keyless = [
        send(&broker, "t", Record::text("a")).await,
        send(&broker, "t", Record::text("b")).await,
    ];
    let [a, b] = keyless.map(|placed| placed.unwrap().partition);
    assert_eq!(a, b);
}

#[tokio::test]
async fn nothing_is_appended_when_one_record_of_a_request_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path()).await;
    let patch = TopicPatch {
        partitions: Some(2),
        max_record_bytes: Some(10),
        ..TopicPatch::default()
    };
    broker.put_topic(&topic("t"), &patch).await.unwrap();
    let at = |p, text: &str| (Some(Partition(p)), Record::text(text));
    for (records, code) in [
        (vec![at(0, "fine"), at(1, "much too long")], Code::TooLarge),
        (
            vec![at(0, "fine"), at(2, "nowhere")],
            Code::PartitionNotFound,
        ),
        (
            vec![at(0, "fine"), (None, Record::text("x").with_header("", ""))],
            Code::InvalidRecord,
        ),
    ] {
        let error = broker
            .produce(&topic("t"), records, Acks::All, None)
            .await
            .unwrap_err();
        assert_eq!(error.code(), code, "{error}");
    }
    assert_eq!(
        (read(&broker, "t", 0).await, read(&broker, "t", 1).await),
        (vec![], vec![])
    );
}

#[tokio::test]
async fn a_refused_request_leaves_no_topic_behind() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path()).await;
    let huge = Record::binary(vec![
        0;
        crate::types::limits::RECORD_BYTES_DEFAULT as usize + 1
    ]);
    for (partition, record) in [(None, huge), (Some(Partition(1)), Record::text("x"))] {
        let records = vec![(partition, record)];
        let refused = broker.produce(&topic("t"), records, Acks::All, None).await;
        assert!(refused.is_err());
        assert_eq!(
            broker.topic(&topic("t")).await.unwrap_err().code(),
            Code::TopicNotFound
        );
    }
}

#[tokio::test]
async fn a_small_body_of_batches_that_unpack_to_much_is_refused_before_they_are_unpacked() {
    use crate::record::{BatchBuilder, Codec, Producer};
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path()).await;
    let mut bomb = BatchBuilder::default();
    for _ in 0..7 {
        bomb.push(
            &Record::binary(vec![0; 4 << 20]),
            crate::types::Timestamp(0),
        );
    }
    let bomb = bomb.build(Codec::Zstd, Producer::default()).unwrap();
    assert!(bomb.bytes().len() < 8 * 1024);
    let refused = broker
        .produce_batches(&topic("t"), None, vec![bomb; 5], &Produce::default())
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::TooLarge);
    assert_eq!(
        broker.topic(&topic("t")).await.unwrap_err().code(),
        Code::TopicNotFound
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_first_messages_to_a_topic_none_is_told_that_there_is_no_topic() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path()).await;
    for round in 0..10 {
        let mut racing = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let broker = broker.clone();
            racing.spawn(async move {
                let name = format!("new-{round}");
                send(&broker, &name, Record::text("first")).await.map(drop)
            });
        }
        for sent in racing.join_all().await {
            sent.unwrap();
        }
    }
}

#[tokio::test]
async fn of_many_conditional_appends_at_one_offset_exactly_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path()).await;
    broker.create_topic("t", 1).await.unwrap();
    let mut racing = tokio::task::JoinSet::new();
    for i in 0..20 {
        let broker = broker.clone();
        racing.spawn(async move {
            let record = vec![(None, Record::text(format!("{i}")))];
            broker
                .produce(&topic("t"), record, Acks::All, Some(Offset(0)))
                .await
        });
    }
    let results = racing.join_all().await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    for error in results.into_iter().filter_map(Result::err) {
        assert_eq!(
            (error.code(), error.end_offset()),
            (Code::OffsetMismatch, Some(Offset(1)))
        );
    }
    assert_eq!(texts(&broker, "t", 0).await.len(), 1);
}

#[tokio::test]
async fn topics_come_change_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open_with(dir.path(), |o| o.auto_create_topics = false).await;
    assert_eq!(
        send(&broker, "t", Record::text("x"))
            .await
            .unwrap_err()
            .code(),
        Code::TopicNotFound
    );
    assert_eq!(
        broker.create_topic("__x", 1).await.unwrap_err().code(),
        Code::InvalidName
    );
    let two = TopicPatch {
        partitions: Some(2),
        ..TopicPatch::default()
    };
    let (created, first) = broker.put_topic(&topic("t"), &two).await.unwrap();
    assert!(created);
    assert!(!broker.put_topic(&topic("t"), &two).await.unwrap().0);
    assert_eq!(
        broker.create_topic("t", 3).await.unwrap_err().code(),
        Code::TopicExists
    );

    let placed = send(&broker, "t", Record::text("kept")).await.unwrap();
    let three = TopicPatch {
        partitions: Some(3),
        ..TopicPatch::default()
    };
    assert_eq!(
        broker
            .alter_topic(&topic("t"), &three)
            .await
            .unwrap()
            .settings
            .partitions,
        3
    );
    assert_eq!(
        broker
            .alter_topic(&topic("t"), &two)
            .await
            .unwrap_err()
            .code(),
        Code::InvalidSettings
    );
    assert_eq!(broker.partitions(&topic("t")).await.unwrap().len(), 3);
    assert_eq!(texts(&broker, "t", placed.partition.0).await, ["kept"]);

    broker.delete_topic(&topic("t")).await.unwrap();
    assert_eq!(
        broker.topic(&topic("t")).await.unwrap_err().code(),
        Code::TopicNotFound
    );
    assert_eq!(
        broker.delete_topic(&topic("t")).await.unwrap_err().code(),
        Code::TopicNotFound
    );
    let left = std::fs::read_dir(dir.path().join("topics")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "files of a deleted topic are gone");
    let again = broker.create_topic("t", 1).await.unwrap();
    assert_ne!(again.id, first.id);
    assert_eq!(texts(&broker, "t", 0).await, Vec::<String>::new());
}

#[tokio::test]
async fn reads_before_the_start_and_beyond_the_end_are_answered_precisely() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path()).await;
    for text in ["a", "b", "c"] {
        send(&broker, "t", Record::text(text)).await.unwrap();
    }
    let (t, p) = (topic("t"), Partition(0));
    assert_eq!(
        broker.trim(&t, p, Offset(4)).await.unwrap_err().code(),
        Code::OffsetOutOfRange
    );
    assert_eq!(broker.trim(&t, p, Offset(2)).await.unwrap(), Offset(2));
    assert_eq!(texts(&broker, "t", 0).await, ["c"]);
    let code = |from| {
        let broker = broker.clone();
        async move {
            broker
                .resolve(&topic("t"), Partition(0), from)
                .await
                .map_err(|e| e.code())
        }
    };
    assert_eq!(
        code(From::Offset(Offset(1))).await,
        Err(Code::OffsetTrimmed)
    );
    assert_eq!(code(From::Offset(Offset(3))).await, Ok(Offset(3)));
    assert_eq!(
        code(From::Offset(Offset(4))).await,
        Err(Code::OffsetOutOfRange)
    );
    assert_eq!(code(From::Earliest).await, Ok(Offset(2)));
    assert_eq!(code(From::Latest).await, Ok(Offset(3)));
    let error = broker.fetch(&t, p, Offset(0), 1).await.unwrap_err();
    assert_eq!(error.code(), Code::OffsetTrimmed);
    let error = broker
        .fetch(&t, Partition(9), Offset(0), 1)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::PartitionNotFound);
    broker.close().await;
    drop(broker);
    let broker = open(dir.path()).await;
    assert_eq!(
        broker.bounds(&t, p).await.unwrap(),
        (Offset(2), Offset(3)),
        "a trim outlives the process"
    );
}

#[tokio::test]
async fn a_reader_by_time_begins_at_the_first_record_of_that_time() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path()).await;
    for time in [1000, 2000, 3000] {
        let record = Record {
            timestamp: Some(crate::types::Timestamp(time)),
            ..Record::text("x")
        };
        send(&broker, "t", record).await.unwrap();
    }
    for (time, offset) in [(0, 0), (1000, 0), (1001, 1), (3000, 2), (3001, 3)] {
        let from = From::Timestamp(crate::types::Timestamp(time));
        assert_eq!(
            broker
                .resolve(&topic("t"), Partition(0), from)
                .await
                .unwrap(),
            Offset(offset),
            "{time}"
        );
    }
}

#[tokio::test]
async fn a_storage_is_used_by_one_broker_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path()).await;
    let second = || Broker::open(Options::new("other".parse().unwrap(), dir.path()));
    assert!(matches!(second().await, Err(OpenError::InUse(_))));
    broker.close().await;
    drop(broker);
    second().await.unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let on_file = Broker::open(Options::new("x".parse().unwrap(), &file)).await;
    assert!(matches!(on_file, Err(OpenError::NotADirectory(_))));
}

#[tokio::test]
async fn positions_are_kept_per_group_and_outlive_the_broker() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path()).await;
    for text in ["a", "b", "c"] {
        broker.send_message("t", text).await.unwrap();
    }
    let text = |record: Option<StoredRecord>| record.map(|r| r.record.value.unwrap());
    assert_eq!(
        text(broker.receive_message("t").await.unwrap()).unwrap(),
        "a"
    );
    assert_eq!(
        text(broker.receive_message("t").await.unwrap()).unwrap(),
        "b"
    );
    let other = broker
        .consume(&topic("t"), "other", Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(text(other.map(|(_, r)| r)).unwrap(), "a");
    broker.close().await;
    drop(broker);
    let broker = open(dir.path()).await;
    assert_eq!(
        text(broker.receive_message("t").await.unwrap()).unwrap(),
        "c"
    );
    assert_eq!(broker.receive_message("t").await.unwrap(), None);
    assert_eq!(broker.receive_message("nothing-here").await.unwrap(), None);
    let waiting = {
        let broker = broker.clone();
        tokio::spawn(async move {
            broker
                .consume(&topic("t"), "console", Duration::from_secs(60))
                .await
        })
    };
    broker.send_message("t", "d").await.unwrap();
    assert_eq!(
        text(waiting.await.unwrap().unwrap().map(|(_, r)| r)).unwrap(),
        "d"
    );
}

#[tokio::test]
async fn a_subscription_sees_every_record_as_it_comes_and_ends_with_the_topic() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path()).await;
    broker.create_topic("t", 2).await.unwrap();
    send(&broker, "t", Record::text("before")).await.unwrap();
    let mut all = broker.subscribe(&topic("t"), From::Earliest).await.unwrap();
    let mut new = broker.subscribe(&topic("t"), From::Latest).await.unwrap();
    let sending = broker.clone();
    let sender = tokio::spawn(async move {
        for i in 0..100 {
            sending.send_message("t", format!("{i}")).await.unwrap();
        }
    });
    let mut seen = Vec::new();
    while seen.len() < 101 {
        seen.push(all.next().await.unwrap().unwrap().1.record.value.unwrap());
    }
    assert_eq!(seen[0], "before");
    for i in 0..100 {
        assert_eq!(
            new.next().await.unwrap().unwrap().1.record.value.unwrap(),
            format!("{i}")
        );
    }
    sender.await.unwrap();
    broker.delete_topic(&topic("t")).await.unwrap();
    assert_eq!(all.next().await.unwrap(), None);
}

#[tokio::test]
async fn sealed_segments_are_recompressed_without_losing_a_record_and_old_ones_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path()).await;
    let patch = TopicPatch {
        segment_bytes: Some(16 * 1024),
        compression: Some(Compression::Zstd),
        ..TopicPatch::default()
    };
    broker.put_topic(&topic("t"), &patch).await.unwrap();
    let lines: Vec<String> = (0..2000)
        .map(|i| format!("a line that repeats itself, number {i}"))
        .collect();
    for chunk in lines.chunks(3) {
        let records = chunk
            .iter()
            .map(|line| (None, Record::text(line.clone())))
            .collect();
        broker
            .produce(&topic("t"), records, Acks::All, None)
            .await
            .unwrap();
    }
    let sizes = || {
        let topic = broker.find_topic(&topic("t")).unwrap();
        topic.hosted().next().unwrap().reader().stats()
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    let mut progress = broker.progress(&topic("t")).unwrap();
    while sizes().appended_bytes < 2 * sizes().bytes {
        tokio::time::timeout_at(deadline, progress.changed())
            .await
            .expect("recompression")
            .unwrap();
    }
    assert_eq!(texts(&broker, "t", 0).await, lines);

    let keep = TopicPatch {
        retention_bytes: Some(Some(1)),
        ..TopicPatch::default()
    };
    broker.alter_topic(&topic("t"), &keep).await.unwrap();
    while sizes().segments != 1 {
        tokio::time::timeout_at(deadline, progress.changed())
            .await
            .expect("retention")
            .unwrap();
    }
    let left = texts(&broker, "t", 0).await;
    assert_eq!(left, lines[lines.len() - left.len()..]);
}

#[tokio::test]
async fn further_brokers_of_the_process_start_and_stop_with_their_own_storage() {
    let dir = tempfile::tempdir().unwrap();
    let tasks = crate::tasks::Tasks::new();
    let brokers = Brokers::new(open(&dir.path().join("own")).await, &tasks);
    let second = StartOptions {
        id: "b2".parse().unwrap(),
        partitions: 2,
        replication: 1,
        storage: dir.path().join("b2"),
    };
    brokers.start(second.clone()).await.unwrap();
    assert_eq!(
        brokers.start(second.clone()).await.unwrap_err().to_string(),
        "Broker is already running"
    );
    assert_eq!(brokers.ids(), ["test".parse().unwrap(), second.id.clone()]);
    brokers
        .get(&second.id)
        .unwrap()
        .send_message("m", "kept")
        .await
        .unwrap();
    brokers.stop(&second.id).await.unwrap();
    assert!(brokers.get(&second.id).is_none());
    let none = brokers.stop(&second.id).await.unwrap_err();
    assert_eq!(none.to_string(), "No broker is running with the given ID");
    brokers.start(second.clone()).await.unwrap();
    let kept = brokers
        .get(&second.id)
        .unwrap()
        .receive_message("m")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(kept.record.value.unwrap(), "kept");
    let taken = StartOptions {
        id: "b3".parse().unwrap(),
        ..second
    };
    assert!(matches!(
        brokers.start(taken).await,
        Err(BrokerError::Open(OpenError::InUse(_)))
    ));
    assert!(!brokers.own_stopped().is_cancelled());
    brokers.stop(&"test".parse().unwrap()).await.unwrap();
    assert!(brokers.own_stopped().is_cancelled());
    brokers.close().await;
}
