//! Wall clocks that jump while nodes run (libfaketime, loaded into each of them).

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::nodes::{Cluster, NAMES, Seat, loopback};
use super::run::{Run, rounds};

/// Where Debian and Ubuntu put it.
fn library() -> Option<PathBuf> {
    let dirs = std::fs::read_dir("/usr/lib").ok()?.flatten();
    let found = dirs.map(|dir| dir.path().join("faketime/libfaketimeMT.so.1"));
    found.into_iter().find(|library| library.exists())
}

/// On loopback, each with a clock that its file sets.
fn seats(dir: &Path, library: &Path, monotonic: bool) -> Vec<Seat> {
    let seats = loopback(dir).into_iter().enumerate();
    let seats = seats.map(|(node, mut seat)| {
        seat.environment = vec![
            ("LD_PRELOAD", library.display().to_string()),
            (
                "FAKETIME_TIMESTAMP_FILE",
                file(dir, node).display().to_string(),
            ),
            ("FAKETIME_CACHE_DURATION", "1".into()),
        ];
        if !monotonic {
            let real = ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into());
            seat.environment.push(real);
        }
        set(dir, node, "+0");
        seat
    });
    seats.collect()
}

fn file(dir: &Path, node: usize) -> PathBuf {
    dir.join(format!("{}.clock", NAMES[node]))
}

/// Replaced as a whole: the node reads it at any time.
fn set(dir: &Path, node: usize, offset: &str) {
    let new = dir.join("clock.new");
    std::fs::write(&new, format!("{offset}\n")).unwrap();
    std::fs::rename(new, file(dir, node)).unwrap();
}

/// Long enough for the node to have looked at its clock, and for retention to have come by.
const LOOKED_AT: Duration = Duration::from_secs(7);

async fn jumps(what: &'static str, monotonic: bool, offset: impl Fn(usize) -> String) {
    let Some(library) = library() else {
        return println!("{what} is skipped: libfaketime is not installed");
    };
    let dir = tempfile::tempdir().unwrap();
    let seats = seats(dir.path(), &library, monotonic);
    let mut run = Run::start(what, Cluster::seated(dir, seats).await).await;
    for round in 0..rounds(2) {
        let node = match round % 2 {
            0 => run.cluster.leader(&run.topic, 0).await,
            _ => run.cluster.controller().await,
        };
        run.strike([], |cluster| set(cluster.dir(), node, &offset(round)));
        run.lasting(LOOKED_AT).await;
        run.progress(20).await;
        // A monotonic clock that goes back is none.
        if !monotonic {
            set(run.cluster.dir(), node, "+0");
        }
        run.heals().await;
        run.progress(20).await;
    }
    run.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wall_clocks_that_jump_by_years_lose_nothing_and_delete_nothing_early() {
    let offsets = ["+10y", "-10y", "+1h", "-1h", "+1", "-1"];
    let offset = |round: usize| offsets[round % offsets.len()].to_owned();
    jumps("wall clocks that jump", false, offset).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_stood_still_for_hours_lose_nothing() {
    let offset = |round: usize| format!("+{}h", round + 1);
    jumps("all clocks of a node jump forward", true, offset).await;
}
