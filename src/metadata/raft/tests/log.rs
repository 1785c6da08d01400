//! What the log promises: what it has confirmed is there after any crash, and what is not what was
//! written is refused. The power goes after every single write, sync and rename.

use std::io;
use std::path::Path;
use std::sync::Arc;

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, RaftLogReader};
use uuid::Uuid;

use crate::metadata::Command;
use crate::metadata::raft::log::Opened;
use crate::metadata::raft::record::Record;
use crate::metadata::raft::recovery::{self, Contents, OpenError};
use crate::metadata::raft::{Entry, LogId, Proposal, RaftLog, Types, Vote};
use crate::storage::tests::sim::{Crash, Faults, SimDisk};
use crate::types::NodeId;

const DIR: &str = "/raft";
const NODE: u64 = 7;
/// Small enough that the script below fills several files.
const SIZE: u64 = 1500;

fn id(term: u64, index: u64) -> LogId {
    openraft::testing::log_id::<Types>(term, NODE, index)
}

fn entry(term: u64, index: u64) -> Entry {
    Entry {
        log_id: id(term, index),
        payload: EntryPayload::Normal(Proposal::Command {
            id: Uuid::from_u128(u128::from(term * 1000 + index)),
            command: Command::DrainNode {
                id: NodeId(index as u32),
            },
        }),
    }
}

/// One request to the log, as the records that it writes.
fn script() -> Vec<Vec<Record>> {
    let entries = |term, range: std::ops::Range<u64>| {
        range.map(move |index| Record::Entry(entry(term, index)))
    };
    vec![
        vec![Record::Vote(Vote::new(1, NODE))],
        entries(1, 0..1).collect(),
        vec![Record::Vote(Vote::new_committed(1, NODE))],
        entries(1, 1..6).collect(),
        vec![Record::Truncate(Some(id(1, 3)))],
        vec![Record::Vote(Vote::new_committed(2, 9))],
        entries(2, 4..9).collect(),
        vec![Record::Purge(id(2, 5))],
        entries(2, 9..13).collect(),
        vec![Record::Purge(id(2, 12))],
        entries(2, 13..15).collect(),
        vec![Record::Vote(Vote::new(3, 8))],
        vec![Record::Purge(id(3, 20))],
        entries(3, 21..22).collect(),
    ]
}

async fn perform(log: &mut RaftLog, request: &[Record]) -> io::Result<()> {
    match &request[0] {
        Record::Vote(vote) => log.save_vote(vote).await,
        Record::Truncate(last) => log.truncate_after(*last).await,
        Record::Purge(upto) => log.purge(*upto).await,
        Record::Entry(_) => {
            let entries = request.iter().map(|record| match record {
                Record::Entry(entry) => entry.clone(),
                other => panic!("{other:?} among entries"),
            });
            let (done, flushed) = Types::oneshot();
            log.append(entries.collect::<Vec<_>>(), IOFlushed::signal(done))
                .await?;
            flushed.await.unwrap()
        }
        Record::Head(_) => panic!("nobody asks for a head"),
    }
}

fn open(disk: &SimDisk) -> Result<Opened, OpenError> {
    RaftLog::open(Arc::new(disk.clone()), Path::new(DIR), NODE, SIZE)
}

/// What a log says to a reader.
async fn read(log: &mut RaftLog) -> Contents {
    let state = log.get_log_state().await.unwrap();
    let entries = log.try_get_log_entries(..).await.unwrap();
    Contents {
        vote: log.read_vote().await.unwrap(),
        purged: state.last_purged_log_id,
        last: state.last_log_id,
        entries: entries
            .into_iter()
            .map(|entry| (entry.log_id.index, entry))
            .collect(),
    }
}

fn same(a: &Contents, b: &Contents) -> bool {
    (a.vote, a.purged, a.last, &a.entries) == (b.vote, b.purged, b.last, &b.entries)
}

/// The contents after each record of the script, from none on.
fn prefixes() -> Vec<Contents> {
    let mut contents = Contents::default();
    let mut prefixes = vec![contents.clone()];
    for record in script().into_iter().flatten() {
        assert!(contents.advance(record));
        prefixes.push(contents.clone());
    }
    prefixes
}

/// Runs the script until a request fails; returns how many records were confirmed and how many
/// were asked for.
async fn run(disk: &SimDisk) -> (usize, usize) {
    let (mut confirmed, mut asked) = (0, 0);
    let Ok(mut opened) = open(disk) else {
        return (0, 0);
    };
    for request in script() {
        asked += request.len();
        if perform(&mut opened.log, &request).await.is_err() {
            // Not even what needs no disk is confirmed after that.
            assert!(opened.log.save_vote(&Vote::new(9, 9)).await.is_err());
            break;
        }
        confirmed += request.len();
    }
    drop(opened.log);
    opened.ended.await.unwrap();
    (confirmed, asked)
}

async fn assert_found(disk: &SimDisk, confirmed: usize, asked: usize, what: &str) {
    let mut opened = match open(disk) {
        Ok(opened) => opened,
        Err(error) => panic!("{what}: {error}"),
    };
    let found = read(&mut opened.log).await;
    let prefixes = prefixes();
    let at = prefixes[confirmed..=asked]
        .iter()
        .position(|prefix| same(prefix, &found));
    assert!(
        at.is_some(),
        "{what}: {confirmed} of {asked} confirmed, found {found:?}"
    );
    // And it goes on from there.
    let next = found.last.map_or(0, |last| last.index + 1);
    let more = entry(30, next);
    perform(&mut opened.log, &[Record::Entry(more.clone())])
        .await
        .unwrap();
    drop(opened.log);
    opened.ended.await.unwrap();
    let mut again = open(disk).unwrap();
    let mut expected = found;
    assert!(expected.advance(Record::Entry(more)));
    assert!(
        same(&expected, &read(&mut again.log).await),
        "{what}: after another entry"
    );
}

#[tokio::test]
async fn what_was_written_is_read_again_from_several_files() {
    let disk = SimDisk::default();
    let (confirmed, asked) = run(&disk).await;
    let records = prefixes().len() - 1;
    assert_eq!((confirmed, asked), (records, records));
    let files = disk.files();
    assert!(2 <= files.len(), "{files:?}");
    // Purging has removed the first.
    assert!(!files.contains(&Path::new(DIR).join("00000001.raft")));
    assert_found(&disk, confirmed, asked, "closed").await;
}

#[tokio::test]
async fn m1_what_was_confirmed_survives_a_power_cut_after_any_change() {
    let whole = SimDisk::default();
    run(&whole).await;
    for halt in 0..whole.changes() {
        let disk = SimDisk::default();
        disk.set_faults(Faults {
            halt_after: Some(halt),
            ..Faults::default()
        });
        let (confirmed, asked) = run(&disk).await;
        for crash in [
            Crash::DropAll,
            Crash::KeepAll,
            Crash::RandomSubset(halt),
            Crash::RandomSubset(halt + 1000),
            Crash::Tear512(halt),
        ] {
            let found = disk.crash(crash);
            assert_found(&found, confirmed, asked, &format!("{halt} {crash:?}")).await;
        }
    }
}

#[tokio::test]
async fn a_power_cut_while_opening_after_a_power_cut_loses_nothing_either() {
    let whole = SimDisk::default();
    run(&whole).await;
    for halt in (0..whole.changes()).step_by(3) {
        let disk = SimDisk::default();
        disk.set_faults(Faults {
            halt_after: Some(halt),
            ..Faults::default()
        });
        let (confirmed, asked) = run(&disk).await;
        for second in 0..6 {
            let first = disk.crash(Crash::Tear512(halt));
            first.set_faults(Faults {
                halt_after: Some(second),
                ..Faults::default()
            });
            drop(open(&first));
            let found = first.crash(Crash::RandomSubset(second));
            assert_found(&found, confirmed, asked, &format!("{halt} {second}")).await;
        }
    }
}

#[tokio::test]
async fn invariant_39_after_a_failed_sync_nothing_is_confirmed_any_more() {
    let whole = SimDisk::default();
    run(&whole).await;
    for fail in 0..40 {
        let disk = SimDisk::default();
        disk.set_faults(Faults {
            fail_sync_after: Some(fail),
            ..Faults::default()
        });
        let (confirmed, asked) = run(&disk).await;
        // A sync that fails while the log is made leaves no log, which has confirmed nothing.
        for crash in [Crash::DropAll, Crash::KeepAll] {
            let found = disk.crash(crash);
            assert_found(&found, confirmed, asked, &format!("{fail} {crash:?}")).await;
        }
    }
}

#[tokio::test]
async fn m3_no_flipped_bit_gives_a_wrong_entry_or_takes_a_vote_back() {
    let disk = SimDisk::default();
    run(&disk).await;
    let expected = prefixes().pop().unwrap();
    let (mut refused, mut read_on) = (0, 0);
    for path in disk.files() {
        let bytes = disk.bytes(&path);
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            let image = disk.crash(Crash::KeepAll);
            image.replace_bytes(&path, flipped);
            let image: Arc<dyn crate::storage::Disk> = Arc::new(image);
            match recovery::open(&image, Path::new(DIR), NODE, SIZE) {
                Ok(recovered) => {
                    assert!(same(&recovered.contents, &expected), "{path:?} byte {at}");
                    read_on += 1;
                }
                Err(OpenError::Damaged { .. } | OpenError::Amnesia { .. }) => refused += 1,
                Err(other) => panic!("{path:?} byte {at}: {other:?}"),
            }
        }
    }
    assert!(500 < refused && 500 < read_on, "{refused} {read_on}");
}

#[tokio::test]
async fn m3_a_log_that_has_lost_its_end_is_refused() {
    let disk = SimDisk::default();
    let mut opened = open(&disk).unwrap();
    let first = Path::new(DIR).join("00000001.raft");
    perform(&mut opened.log, &[Record::Vote(Vote::new(4, NODE))])
        .await
        .unwrap();
    let before = disk.bytes(&first);
    perform(&mut opened.log, &[Record::Vote(Vote::new(5, NODE))])
        .await
        .unwrap();

    let shortened = disk.crash(Crash::KeepAll);
    shortened.replace_bytes(&first, before);
    let error = open(&shortened).err().unwrap();
    assert_eq!(
        error.to_string(),
        "the Raft log in /raft has lost its end: it held entries up to 0 in term 5, and ends after \
         nothing; this node must not vote any more. Remove it from the cluster and let it join \
         again with an empty directory"
    );

    for (gone, refusal) in [
        (first, "has lost its end"),
        (
            Path::new(DIR).join("raft.guard"),
            "raft.guard is gone or unreadable",
        ),
    ] {
        let image = disk.crash(Crash::KeepAll);
        crate::storage::Disk::remove(&image, &gone).unwrap();
        let error = open(&image).err().unwrap().to_string();
        assert!(error.contains(refusal), "{gone:?}: {error}");
    }
}

#[tokio::test]
async fn n8_the_log_of_another_node_is_refused() {
    let disk = SimDisk::default();
    drop(open(&disk).unwrap());
    let error = RaftLog::open(Arc::new(disk), Path::new(DIR), 8, SIZE)
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        "the Raft log in /raft is damaged: it belongs to node 7, and this is node 8"
    );
}
