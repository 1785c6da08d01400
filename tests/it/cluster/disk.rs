//! Disks that are full, slow, or fail: each node has a small file system of its own, and strace
//! makes its system calls fail or wait.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::PARTITIONS;
use super::apart::{apart, done};
use super::nodes::{Cluster, NODES, loopback};
use super::run::{Run, rounds};
use crate::support::wait_until;

/// What the file system of a node holds.
const SIZE: &str = "96m";

async fn on_small_disks() -> Cluster {
    let dir = tempfile::tempdir().unwrap();
    let seats = loopback(dir.path());
    for seat in &seats {
        let storage = seat.storage.display();
        done(&format!("mkdir {storage}"));
        done(&format!("mount -t tmpfs -o size={SIZE} tmpfs {storage}"));
    }
    Cluster::seated(dir, seats).await
}

/// Takes all the room there is, but for `left` bytes.
fn fill(storage: &Path, left: u64) {
    let mut filler = File::create(storage.join("filler")).unwrap();
    for block in [vec![0; 64 * 1024], vec![0; 4096]] {
        while filler.write_all(&block).is_ok() {}
    }
    let taken = filler.metadata().unwrap().len();
    filler.set_len(taken.saturating_sub(left)).unwrap();
}

#[test]
fn full_disks_refuse_and_recover_by_themselves_and_lose_nothing() {
    let name = "cluster::disk::full_disks_refuse_and_recover_by_themselves_and_lose_nothing";
    apart(name, &["mount", "unshare"], || async {
        let mut run = Run::start("full disks", on_small_disks().await).await;
        for round in 0..rounds(4) {
            let leader = run
                .cluster
                .leader(&run.topic, round as u32 % PARTITIONS)
                .await;
            let controller = run.cluster.controller().await;
            let victim = [leader, controller, (leader + 1) % NODES][round % 3];
            let storage = run.cluster.seats[victim].storage.clone();
            // Room for the metadata in one round, for nothing in the next.
            let left = (round as u64 % 2) * (3 << 20);
            run.strike([], |_| fill(&storage, left));
            run.lasting(Duration::from_secs(2)).await;
            std::fs::remove_file(storage.join("filler")).unwrap();
            run.heals().await;
            run.progress(20).await;
        }
        run.check().await;
    });
}

/// A debugger that makes system calls of a node fail or wait.
struct Meddler {
    strace: Child,
    said: PathBuf,
}

impl Meddler {
    /// Does `harm` to each flush of the process, of one file or of all. At work when this returns.
    async fn attach(run: &Run, node: usize, file: Option<&Path>, harm: &str) -> Self {
        let (pid, said) = (run.cluster.pid(node), run.cluster.dir().join("strace"));
        let mut strace = Command::new("strace");
        strace.args(["-f", "--quiet=all", "-e", "trace=fdatasync,fsync", "-o"]);
        strace.arg(&said).args(["-p", &pid.to_string()]);
        strace.args(["-e", &format!("inject=fdatasync,fsync:{harm}")]);
        if let Some(file) = file {
            strace.arg("-P").arg(file);
        }
        let strace = strace.stderr(Stdio::null()).spawn().unwrap();
        wait_until("the debugger", || async {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
            let status = status.unwrap_or_default();
            let tracer = status.lines().find(|line| line.starts_with("TracerPid:"));
            tracer.is_some_and(|line| !line.ends_with("\t0"))
        })
        .await;
        Self { strace, said }
    }

    /// Waits until it has done harm.
    async fn harms(&self) {
        wait_until("harm", || async {
            let said = std::fs::read_to_string(&self.said).unwrap_or_default();
            said.contains("INJECTED") || said.contains("DELAYED")
        })
        .await;
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

/// The file that a node appends to.
fn newest_segment(storage: &Path, topic: &str, partition: u32) -> PathBuf {
    let dir = storage
        .join("topics")
        .join(topic)
        .join(partition.to_string());
    let names = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let segments = names.filter(|path| path.extension().is_some_and(|end| end == "log"));
    segments.max().unwrap()
}

/// So large that no second one is begun.
const SEGMENT: u64 = 64 << 20;

#[test]
fn a_disk_that_fails_to_flush_loses_nothing_that_was_acknowledged() {
    let name = "cluster::disk::a_disk_that_fails_to_flush_loses_nothing_that_was_acknowledged";
    apart(name, &["strace", "unshare"], || async {
        let cluster = Cluster::start().await;
        let mut run = Run::with_segments("flushes that fail", cluster, SEGMENT).await;
        let described = run.cluster.clients()[0].topic(&run.topic).await;
        let id = described.unwrap().id;
        for round in 0..rounds(2) {
            let partition = round as u32 % PARTITIONS;
            let leader = run.cluster.leader(&run.topic, partition).await;
            let victim = [(leader + 1) % NODES, leader][round % 2];
            let storage = run.cluster.seats[victim].storage.clone();
            let file = newest_segment(&storage, &id, partition);
            let meddler = Meddler::attach(&run, victim, Some(&file), "error=EIO").await;
            meddler.harms().await;
            // What was not flushed is gone with the power, as far as anybody knows.
            run.strike([], |cluster| cluster.kill(&[victim]));
            drop(meddler);
            run.cluster.run(&[victim]).await;
            run.heals().await;
            run.progress(20).await;
        }
        run.check().await;
    });
}

#[test]
fn a_slow_disk_slows_down_what_is_on_it_and_loses_nothing() {
    let name = "cluster::disk::a_slow_disk_slows_down_what_is_on_it_and_loses_nothing";
    apart(name, &["strace", "unshare"], || async {
        let mut run = Run::start("slow disks", Cluster::start().await).await;
        for round in 0..rounds(1) {
            let leader = run
                .cluster
                .leader(&run.topic, round as u32 % PARTITIONS)
                .await;
            let victim = [leader, run.cluster.controller().await][round % 2];
            let delay = [100_000, 10_000, 1_000_000][round % 3];
            let harm = format!("delay_exit={delay}");
            run.strike([], |_| {});
            let meddler = Meddler::attach(&run, victim, None, &harm).await;
            run.progress(20).await;
            drop(meddler);
            run.heals().await;
            run.progress(20).await;
        }
        run.check().await;
    });
}
