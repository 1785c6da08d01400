//! What survives: restarts, crashes, full disks, damaged and foreign files.

use std::time::Duration;

use super::*;
use crate::storage::tests::sim::{Faults, SimDisk};

#[tokio::test]
async fn reopening_gives_the_same_view_positions_and_identity() {
    let place = Place::new();
    let store = place.open().await;
    for command in history() {
        store.apply(command).await.ok();
    }
    let (view, identity) = (current(&store), store.identity());
    let positions = store.position(&broker(), "g", id(1)).await.unwrap();
    store.close().await;

    let store = place.open().await;
    assert_eq!(current(&store), view);
    assert_eq!(store.identity(), identity);
    assert_eq!(store.position(&broker(), "g", id(1)).await, Ok(positions));
    assert_ne!(Place::new().open().await.identity(), identity);
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_killed_process() {
    let (place, image) = (Place::new(), Place::new());
    let store = place.open().await;
    for command in history() {
        store.apply(command).await.ok();
    }
    // The files as they are, nothing folded, nothing closed.
    copy(place.directory.path(), image.directory.path());
    assert!(
        image
            .directory
            .path()
            .join("metadata.db-wal")
            .metadata()
            .unwrap()
            .len()
            > 0
    );

    let survivor = image.open().await;
    assert_eq!(current(&survivor), current(&store));
    assert_eq!(
        survivor.position(&broker(), "g", id(1)).await,
        Ok(vec![(Partition(4), Offset(6))])
    );
}

#[tokio::test]
async fn dropping_the_last_handle_loses_nothing_and_frees_the_database() {
    let place = Place::new();
    let store = place.open_active().await;
    store.apply(create("a", 1)).await.unwrap();
    let view = current(&store);
    drop(store);
    assert_eq!(current(&place.open().await), view);
}

#[tokio::test]
async fn a_closed_store_says_so_instead_of_forgetting() {
    let store = Place::new().open().await;
    let other = store.clone();
    store.close().await;
    assert!(matches!(
        other.apply(create("a", 1)).await,
        Err(ApplyError::Closed(Closed))
    ));
    assert_eq!(other.position(&broker(), "g", id(1)).await, Err(Closed));
    other.stopped().await;
}

#[tokio::test]
async fn a_disk_that_is_nearly_full_refuses_and_the_state_stays_as_it_was() {
    let place = Place::new();
    let disk = SimDisk::default();
    let members = StoreOptions {
        disk: Arc::new(disk.clone()),
        ..StoreOptions::default()
    };
    let sqlite = options(&place.path());
    let store = Store::open_alone(&place.path(), sqlite, members)
        .await
        .unwrap();
    store.apply(register(1, 1)).await.unwrap();
    store.apply(activate(1, 1)).await.unwrap();
    let view = current(&store);

    let quota = |quota| Faults {
        quota,
        ..Faults::default()
    };
    disk.set_faults(quota(Some(32 << 20)));
    let refused = store.apply(create("a", 1)).await.unwrap_err();
    assert!(matches!(&refused, ApplyError::NoSpace), "{refused:?}");
    assert_eq!(refused.code(), Code::InsufficientStorage);
    assert_eq!(current(&store), view);

    disk.set_faults(quota(None));
    store.apply(create("a", 1)).await.unwrap();
}

#[tokio::test]
async fn what_is_agreed_on_when_the_disk_is_full_is_applied_once_there_is_room() {
    let place = Place::new();
    let members = || StoreOptions {
        deadline: Duration::from_millis(500),
        ..StoreOptions::default()
    };
    let sqlite = options(&place.path()).pragma("max_page_count", "40");
    let store = Store::open_alone(&place.path(), sqlite, members())
        .await
        .unwrap();
    store.apply(register(1, 1)).await.unwrap();
    store.apply(activate(1, 1)).await.unwrap();
    store.apply(create("first", 0)).await.unwrap();
    store.apply(set_position("g", 0, 0, 1)).await.unwrap();
    let mut made = 1;
    let refused = loop {
        match store
            .apply(create(&format!("{}{made}", "x".repeat(200)), made))
            .await
        {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(&refused, ApplyError::Unknown(_)), "{refused:?}");
    let view = current(&store);
    assert_eq!(view.topic_count(), made as usize);
    assert_eq!(
        store.position(&broker(), "g", id(0)).await,
        Ok(vec![(Partition(0), Offset(1))])
    );
    store.close().await;

    let store = place.open().await;
    assert_eq!(current(&store).topic_count(), made as usize + 1);
    store.apply(create("small", made + 1)).await.unwrap();
}

#[tokio::test]
async fn a_database_in_use_is_not_opened_twice() {
    let place = Place::new();
    let _store = place.open().await;
    assert_eq!(
        refusal(&place.path()).await,
        format!("{} is in use by another process", place.path().display())
    );
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    let place = Place::new();
    place.open().await.close().await;
    tamper(
        &place.path(),
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (7, 'later', 1, x'00', 0)",
    )
    .await;
    let known = 3;
    assert_eq!(
        refusal(&place.path()).await,
        format!(
            "{} was written by a newer version: it is at schema 7, this version knows up to {known}",
            place.path().display()
        )
    );
}

#[tokio::test]
async fn a_database_of_another_program_is_refused() {
    let place = Place::new();
    tamper(&place.path(), "CREATE TABLE theirs (x)").await;
    assert_eq!(
        refusal(&place.path()).await,
        format!(
            "{} is not a metadata database: its application id is 0x0",
            place.path().display()
        )
    );
}

#[tokio::test]
async fn a_first_start_that_was_cut_short_is_finished() {
    let place = Place::new();
    place.open().await.close().await;
    let mut conn = options(&place.path())
        .foreign_keys(false)
        .connect()
        .await
        .unwrap();
    for table in [
        "node",
        "progress",
        "nodes",
        "positions",
        "partitions",
        "topics",
        "deleted_holders",
        "deleted_topics",
        "raft",
    ] {
        sqlx::query(sqlx::AssertSqlSafe(format!("DROP TABLE {table}")))
            .execute(&mut conn)
            .await
            .unwrap();
    }
    sqlx::query("DELETE FROM _sqlx_migrations")
        .execute(&mut conn)
        .await
        .unwrap();
    sqlx::query("PRAGMA application_id = 0")
        .execute(&mut conn)
        .await
        .unwrap();
    conn.close().await.unwrap();
    std::fs::remove_dir_all(place.directory.path().join("raft")).unwrap();
    let store = place.open_active().await;
    store.apply(create("a", 1)).await.unwrap();
}

#[tokio::test]
async fn a_row_that_was_changed_behind_our_back_is_refused() {
    for (table, sql) in [
        (
            "node",
            "UPDATE node SET disk_id = x'00112233445566778899aabbccddeeff'",
        ),
        ("progress", "UPDATE progress SET applied = applied + 1"),
        (
            "topics",
            "UPDATE topics SET id = x'00112233445566778899aabbccddeeff' WHERE name = 'a'",
        ),
        ("deleted_topics", "UPDATE deleted_topics SET name = 'other'"),
        ("positions", "UPDATE positions SET position = position + 1"),
        (
            "nodes",
            "UPDATE nodes SET entry = replace(entry, 'active', 'fenced')",
        ),
        (
            "partitions",
            "UPDATE partitions SET partition = 9 WHERE partition = 4",
        ),
        ("deleted_holders", "UPDATE deleted_holders SET node = 2"),
    ] {
        let place = Place::new();
        let store = place.open().await;
        for command in history() {
            store.apply(command).await.ok();
        }
        store.close().await;
        tamper(&place.path(), sql).await;
        assert_eq!(
            refusal(&place.path()).await,
            format!(
                "{} is damaged: table {table}: a row does not match its checksum; restore it from a backup",
                place.path().display()
            )
        );
    }
}

#[tokio::test]
async fn damaged_files_are_refused_or_harmless_and_never_panic() {
    let place = Place::new();
    let store = place.open().await;
    for command in history() {
        store.apply(command).await.ok();
    }
    let view = current(&store);
    store.close().await;
    let whole = std::fs::read(place.path()).unwrap();

    let garbage = Place::new();
    std::fs::write(
        garbage.path(),
        "this is not a database, and long enough to be told from an empty one",
    )
    .unwrap();
    assert!(
        refusal(&garbage.path()).await.contains(" is damaged: "),
        "garbage was not called damaged"
    );

    // One flipped bit in each stretch of every page. What opens must say what was written.
    let mut refused = 0;
    for at in (0..whole.len()).step_by(1009) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        let image = Place::new();
        copy(place.directory.path(), image.directory.path());
        std::fs::write(image.path(), bytes).unwrap();
        match Store::open(&image.path()).await {
            Ok(store) => {
                assert_eq!(*current(&store), *view, "byte {at}");
                assert_eq!(
                    store.position(&broker(), "g", id(1)).await,
                    Ok(vec![(Partition(4), Offset(6))])
                );
                store.close().await;
            }
            Err(_) => refused += 1,
        }
    }
    assert_ne!(refused, 0);
    let image = Place::new();
    std::fs::write(image.path(), &whole[..whole.len() / 2]).unwrap();
    assert!(refusal(&image.path()).await.contains(" is damaged: "));
}

/// The files of a running store, as a dead process leaves them; the length of the write-ahead log
/// when the store was opened; and what it showed at the end.
async fn image_of_a_dead_process(commands: &[Command]) -> (Place, usize, Arc<View>) {
    let (place, image) = (Place::new(), Place::new());
    let store = place.open().await;
    let opened = std::fs::metadata(wal_of(&place)).unwrap().len() as usize;
    for command in commands {
        store.apply(command.clone()).await.ok();
    }
    copy(place.directory.path(), image.directory.path());
    (image, opened, current(&store))
}

fn wal_of(place: &Place) -> PathBuf {
    place.directory.path().join("metadata.db-wal")
}

async fn open_image(image: &Place, wal: &[u8]) -> Result<Arc<View>, OpenError> {
    let place = Place::new();
    copy(image.directory.path(), place.directory.path());
    std::fs::write(wal_of(&place), wal).unwrap();
    let store = Store::open(&place.path()).await?;
    let view = current(&store);
    store.close().await;
    Ok(view)
}

#[tokio::test]
async fn a_damaged_write_ahead_log_is_refused_or_made_good_by_the_raft_log() {
    let (image, opened, view) = image_of_a_dead_process(&history()).await;
    let wal = std::fs::read(wal_of(&image)).unwrap();
    assert_eq!(open_image(&image, &wal).await.unwrap(), view);

    let mut refused = 0;
    for at in (0..wal.len()).step_by(2503) {
        let mut bytes = wal.clone();
        bytes[at] ^= 1 << (at % 8);
        match open_image(&image, &bytes).await {
            Ok(found) => assert_eq!(found, view, "byte {at}"),
            Err(OpenError::Damaged { why, .. }) => {
                assert!(why.contains("write-ahead log"), "byte {at}: {why}");
                refused += 1;
            }
            // What came before the Raft log is not in it.
            Err(OpenError::RaftLog { .. }) if at < opened => refused += 1,
            Err(other) => panic!("byte {at}: {other:?}"),
        }
    }
    assert_ne!(refused, 0);
}

#[tokio::test]
async fn a_torn_write_ahead_log_loses_nothing_that_the_raft_log_has() {
    let (image, opened, view) = image_of_a_dead_process(&history()).await;
    let wal = std::fs::read(wal_of(&image)).unwrap();
    for length in (opened..=wal.len()).step_by(20_011).chain([wal.len()]) {
        assert_eq!(
            open_image(&image, &wal[..length]).await.unwrap(),
            view,
            "{length}"
        );
        // A crash may also leave zeros where the end of the last transaction was to be.
        let mut zeros = wal[..length].to_vec();
        zeros.resize(wal.len(), 0);
        assert_eq!(
            open_image(&image, &zeros).await.unwrap(),
            view,
            "{length} bytes, then zeros"
        );
    }
}

#[tokio::test]
async fn m3_a_node_whose_raft_log_is_gone_does_not_start() {
    let place = Place::new();
    place.open().await.close().await;
    let dir = place.directory.path().join("raft");
    std::fs::remove_dir_all(&dir).unwrap();
    let refused = Store::open(&place.path()).await.unwrap_err();
    assert!(matches!(refused, OpenError::Amnesia { .. }), "{refused:?}");
    assert_eq!(
        refused.to_string(),
        format!(
            "{} is gone; this node must not vote any more. Remove it from the cluster and let it \
             join again with an empty directory",
            dir.display()
        )
    );
}

#[tokio::test]
async fn n8_the_raft_log_of_another_directory_is_refused() {
    let (place, other) = (Place::new(), Place::new());
    place.open().await.close().await;
    other.open().await.close().await;
    std::fs::copy(other.path(), place.path()).unwrap();
    let refused = Store::open(&place.path()).await.unwrap_err();
    assert!(matches!(refused, OpenError::RaftLog { .. }), "{refused:?}");
    // And one without a database.
    std::fs::remove_file(place.path()).unwrap();
    let refused = Store::open(&place.path()).await.unwrap_err();
    assert!(matches!(refused, OpenError::RaftLog { .. }), "{refused:?}");
}

#[test]
fn a_migration_never_changes_once_it_is_there() {
    // Databases in the field remember what was run on them. Add a migration instead.
    let migrations = database::migrations();
    let found: Vec<_> = migrations
        .iter()
        .map(|migration| {
            (
                migration.version,
                crc32c::crc32c(migration.sql.as_str().as_bytes()),
            )
        })
        .collect();
    assert_eq!(
        found,
        [(1, 3_888_106_962), (2, 3_202_157_428), (3, 3_763_544_646)]
    );
}

/// The checksum of a row, worked out anew.
fn row_crc(fields: &[&[u8]]) -> i64 {
    let crc = fields.iter().fold(0, |crc, field| {
        let crc = crc32c::crc32c_append(crc, &(field.len() as u64).to_le_bytes());
        crc32c::crc32c_append(crc, field)
    });
    crc.into()
}

/// A database as the version before clusters left it: three starts, a topic, a deleted topic.
async fn database_of_one_node(path: &Path) {
    let (one, at) = (1_i64.to_le_bytes(), 1_i64);
    let mut conn = options(path).connect().await.unwrap();
    let first = database::migrations().iter().take(1).cloned().collect();
    let migrator = sqlx::migrate::Migrator::with_migrations(first);
    migrator.run_direct(None, &mut conn, false).await.unwrap();
    let uuid = |n: u128| *Uuid::from_u128(n).as_bytes();
    sqlx::query("INSERT INTO node VALUES (1, ?, ?, ?)")
        .bind(uuid(8).to_vec())
        .bind(uuid(9).to_vec())
        .bind(row_crc(&[&uuid(8), &uuid(9)]))
        .execute(&mut conn)
        .await
        .unwrap();
    let numbers = [5_u64.to_le_bytes(), 3_u64.to_le_bytes()];
    let epoch = 3_u32.to_le_bytes();
    sqlx::query("INSERT INTO progress VALUES (1, 5, 3, 3, ?, 1, ?)")
        .bind(uuid(7).to_vec())
        .bind(row_crc(&[&numbers[0], &numbers[1], &epoch, &uuid(7), &one]))
        .execute(&mut conn)
        .await
        .unwrap();
    let settings = serde_json::to_string(&partitions(2)).unwrap();
    sqlx::query("INSERT INTO topics VALUES (?, 'a', ?, 1, 1, ?)")
        .bind(uuid(1).to_vec())
        .bind(&settings)
        .bind(row_crc(&[&uuid(1), b"a", settings.as_bytes(), &one, &one]))
        .execute(&mut conn)
        .await
        .unwrap();
    sqlx::query("INSERT INTO deleted_topics VALUES (?, 'gone', 1, ?, ?)")
        .bind(uuid(2).to_vec())
        .bind(at)
        .bind(row_crc(&[&uuid(2), b"gone", &1_u32.to_le_bytes(), &one]))
        .execute(&mut conn)
        .await
        .unwrap();
    conn.close().await.unwrap();
}

#[tokio::test]
async fn the_first_node_of_an_old_directory_gets_what_is_in_it_and_no_epoch_goes_back() {
    let place = Place::new();
    database_of_one_node(&place.path()).await;
    let store = place.open().await;
    assert_eq!(current(&store).applied, 5);
    assert_eq!(current(&store).partition(id(1), Partition(0)), None);
    store.apply(set_position("g", 1, 0, 5)).await.unwrap();
    store.close().await;

    let store = place.open().await;
    store.apply(register(1, 1)).await.unwrap();
    store.close().await;
    let store = place.open().await;
    store.apply(activate(1, 7)).await.unwrap();
    let view = current(&store);
    let replica = Replica {
        node: NODE,
        generation: 7,
    };
    let record = PartitionRecord {
        replicas: vec![replica],
        leader: Some(NODE),
        leader_epoch: LeaderEpoch(5),
        partition_epoch: PartitionEpoch(2),
        isr: [NODE].into(),
        ..PartitionRecord::default()
    };
    let found: Vec<_> = view.partitions_of(id(1)).collect();
    let record = Arc::new(record);
    assert_eq!(found, [(Partition(0), &record), (Partition(1), &record)]);
    assert_eq!(view.deleted().next().unwrap().holders, [NODE].into());
    store.apply(finish_delete(2)).await.unwrap();
    assert_eq!(current(&store).deleted().len(), 0);
}
