//! What commands do to the state.

use super::*;

#[tokio::test]
async fn the_same_commands_make_the_same_state_however_they_are_batched() {
    let (one, many) = (Place::new(), Place::new());

    let store = one.open().await;
    let mut first = Vec::new();
    for command in history() {
        first.push(format!("{:?}", store.apply(command).await));
    }
    let view = current(&store);
    store.close().await;

    let store = many.open().await;
    let second =
        futures_util::future::join_all(history().into_iter().map(|command| store.apply(command)))
            .await;
    assert_eq!(
        first,
        second
            .iter()
            .map(|result| format!("{result:?}"))
            .collect::<Vec<_>>()
    );
    assert_eq!(view, current(&store));
    store.close().await;

    let rows = dump(&one.path()).await;
    assert_eq!(rows, dump(&many.path()).await);
    assert_eq!(
        rows.len(),
        1 + 1 + 2 + 8 + 1 + 1 + 1,
        "progress, nodes, topics, partitions, deleted topics, their holders, positions: {rows:#?}"
    );
}

#[tokio::test]
async fn a_rejected_command_leaves_nothing() {
    let place = Place::new();
    let store = place.open().await;
    for command in history() {
        store.apply(command).await.ok();
    }
    let view = current(&store);
    store.close().await;
    let before = dump(&place.path()).await;

    let store = place.open().await;
    let invalid = TopicSettings {
        partitions: 0,
        ..TopicSettings::default()
    };
    let create_with = |settings| Command::CreateTopic {
        name: name("new"),
        id: id(9),
        settings,
        at: Timestamp(0),
    };
    for (command, expected, code) in [
        (
            create("a", 9),
            Rejected::TopicExists {
                same_settings: false,
            },
            Code::TopicExists,
        ),
        (
            create("b", 9),
            Rejected::TopicExists {
                same_settings: true,
            },
            Code::TopicExists,
        ),
        (
            create("new", 1),
            Rejected::TopicIdInUse { id: id(1) },
            Code::Internal,
        ),
        (
            create("new", 2),
            Rejected::TopicIdInUse { id: id(2) },
            Code::Internal,
        ),
        (
            create_with(invalid.clone()),
            Rejected::InvalidSettings(TopicSettings::default().with(&grow(0)).unwrap_err()),
            Code::InvalidSettings,
        ),
        (
            alter("none", grow(9)),
            Rejected::TopicNotFound,
            Code::TopicNotFound,
        ),
        (
            alter("a", grow(4)),
            Rejected::FewerPartitions {
                current: 5,
                asked: 4,
            },
            Code::InvalidSettings,
        ),
        (delete("a", 2), Rejected::TopicNotFound, Code::TopicNotFound),
        (
            finish_delete(1),
            Rejected::TopicNotFound,
            Code::TopicNotFound,
        ),
        (
            set_position("g", 2, 0, 0),
            Rejected::TopicNotFound,
            Code::TopicNotFound,
        ),
        (
            set_position("g", 1, 5, 0),
            Rejected::PartitionNotFound {
                partition: Partition(5),
                partitions: 5,
            },
            Code::PartitionNotFound,
        ),
        (
            set_position("", 1, 0, 0),
            Rejected::InvalidGroup,
            Code::InvalidName,
        ),
        (
            set_position("a\nb", 1, 0, 0),
            Rejected::InvalidGroup,
            Code::InvalidName,
        ),
        (
            set_position(&"x".repeat(250), 1, 0, 0),
            Rejected::InvalidGroup,
            Code::InvalidName,
        ),
        (
            set_position("g", 1, 0, u64::MAX),
            Rejected::InvalidOffset {
                offset: Offset(u64::MAX),
            },
            Code::OffsetOutOfRange,
        ),
    ] {
        let rejected = rejected(store.apply(command).await);
        assert_eq!((rejected.code(), rejected), (code, expected));
    }
    assert_eq!(current(&store), view);
    store.close().await;
    assert_eq!(dump(&place.path()).await, before);
}

#[tokio::test]
async fn deleting_a_topic_forgets_its_positions_and_keeps_it_listed_until_its_files_are_gone() {
    let store = Place::new().open_active().await;
    store.apply(create("a", 1)).await.unwrap();
    store.apply(set_position("g", 1, 0, 5)).await.unwrap();
    store.apply(delete("a", 1)).await.unwrap();
    assert_eq!(store.position(&broker(), "g", id(1)).await, Ok(vec![]));

    let view = current(&store);
    let deleted = DeletedTopic {
        id: id(1),
        name: name("a"),
        partitions: 3,
        deleted_at: Timestamp(30),
        holders: [NODE].into(),
    };
    assert_eq!(
        view.deleted().map(|topic| &**topic).collect::<Vec<_>>(),
        [&deleted]
    );
    assert_eq!(
        (
            view.topic(&name("a")),
            view.topic_count(),
            view.partition_count()
        ),
        (None, 0, 0)
    );

    store.apply(create("a", 2)).await.unwrap();
    store.apply(finish_delete(1)).await.unwrap();
    let view = current(&store);
    assert_eq!(
        (view.deleted().len(), view.topic_by_id(id(2))),
        (0, view.topic(&name("a")))
    );
}

#[tokio::test]
async fn concurrent_changes_of_one_topic_do_not_undo_each_other() {
    let store = Place::new().open_active().await;
    store.apply(create("a", 1)).await.unwrap();
    let keep_for_ever = TopicPatch {
        retention_ms: Some(None),
        ..TopicPatch::default()
    };
    let (grown, kept) = tokio::join!(
        store.apply(alter("a", grow(5))),
        store.apply(alter("a", keep_for_ever))
    );
    grown.unwrap();
    kept.unwrap();
    let expected = TopicEntry {
        name: name("a"),
        id: id(1),
        settings: TopicSettings {
            retention_ms: None,
            ..partitions(5)
        },
        created_at: Timestamp(10),
        changed_at: Timestamp(20),
    };
    assert_eq!(
        current(&store).topic(&name("a")).map(|topic| &**topic),
        Some(&expected)
    );
    assert_eq!(current(&store).partition_count(), 5);
}

#[test]
fn the_bound_on_partitions_counts_deleted_topics_until_their_files_are_gone() {
    let mut state = State::default();
    let mut apply = |command| state.apply(&command, &mut Vec::new());
    apply(register(1, 1)).unwrap();
    apply(activate(1, 1)).unwrap();
    let big = |n: u32| Command::CreateTopic {
        name: name(&format!("t{n}")),
        id: id(n.into()),
        settings: partitions(limits::PARTITIONS_PER_TOPIC),
        at: Timestamp(0),
    };
    let fit = limits::PARTITIONS_PER_NODE / limits::PARTITIONS_PER_TOPIC;
    for n in 0..fit {
        apply(big(n)).unwrap();
    }
    let full = Err(Rejected::LimitReached {
        what: "partitions".into(),
        max: limits::PARTITIONS_PER_NODE.into(),
    });
    assert_eq!(apply(big(fit)), full);
    apply(delete("t0", 0)).unwrap();
    assert_eq!(apply(big(fit)), full);
    apply(finish_delete(0)).unwrap();
    apply(big(fit)).unwrap();
}

#[tokio::test]
async fn positions_change_without_waking_those_who_wait_for_topics() {
    let store = Place::new().open_active().await;
    store.apply(create("a", 1)).await.unwrap();
    let mut view = store.view();
    let before = view.borrow().clone();
    store.apply(set_position("g", 1, 0, 5)).await.unwrap();
    assert!(!view.has_changed().unwrap());
    assert_eq!(view.borrow().applied, before.applied + 1);
    assert!(view.borrow().same_topics(&before));
    store.apply(create("b", 2)).await.unwrap();
    assert!(view.has_changed().unwrap());
    assert!(!view.borrow_and_update().same_topics(&before));
}

#[tokio::test]
async fn lists_go_on_after_the_last_name_of_a_page() {
    let store = Place::new().open_active().await;
    for (n, topic) in ["b", "a", "d", "c"].into_iter().enumerate() {
        store.apply(create(topic, n as u128)).await.unwrap();
    }
    let view = current(&store);
    let rest: Vec<_> = view
        .topics_after(&name("b"))
        .map(|topic| topic.name.as_str())
        .collect();
    assert_eq!(rest, ["c", "d"]);
    assert_eq!(view.topics().count(), 4);
}

#[test]
fn commands_are_written_under_a_name_with_a_version() {
    let command = Command::SetPosition {
        broker: broker(),
        group: "g".into(),
        topic_id: id(1),
        partition: Partition(2),
        offset: Offset(3),
        at: Timestamp(4),
    };
    let text = r#"{"set_position/1":{"broker":"b1","group":"g","topic_id":"00000000-0000-0000-0000-000000000001","partition":2,"offset":3,"at":4}}"#;
    assert_eq!(serde_json::to_string(&command).unwrap(), text);
    for command in history() {
        let text = serde_json::to_string(&command).unwrap();
        assert_eq!(serde_json::from_str::<Command>(&text).unwrap(), command);
    }
    assert!(serde_json::from_str::<Command>(&text.replace("/1", "/2")).is_err());
}
