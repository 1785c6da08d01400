//! Every example runs to its end by itself and proves what it says it proves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// Where the examples are built. A whole `cargo test` has built them already, and cargo has nothing
/// to do here; a run of these tests alone must not run yesterday's programs.
static EXAMPLES: LazyLock<PathBuf> = LazyLock::new(|| {
    let tests = std::env::current_exe().unwrap();
    let profile = tests.ancestors().nth(2).unwrap();
    let mut build = Command::new(env!("CARGO"));
    build.current_dir(env!("CARGO_MANIFEST_DIR")).args([
        "build",
        "--workspace",
        "--examples",
        "--locked",
    ]);
    if profile.ends_with("release") {
        build.arg("--release");
    }
    let built = build.output().unwrap();
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    profile.join("examples")
});

/// Runs an example and checks that it prints these lines, in this order, and nothing on stderr.
/// `..` in an expected line stands for anything (a time that was measured).
fn proves(name: &str, expected: &[&str]) {
    let output = Command::new(EXAMPLES.join(name))
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success(),
        "{name}: {}\n{stdout}{stderr}",
        output.status
    );
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(
        lines.len() == expected.len()
            && lines
                .iter()
                .zip(expected)
                .all(|(line, wanted)| matches(line, wanted)),
        "{name} printed {lines:#?}, expected {expected:#?}"
    );
    assert_eq!(stderr, "", "{name}");
}

fn matches(line: &str, wanted: &str) -> bool {
    match wanted.split_once("..") {
        None => line == wanted,
        Some((before, after)) => {
            before.len() + after.len() <= line.len()
                && line.starts_with(before)
                && line.ends_with(after)
        }
    }
}

#[test]
fn every_example_is_run_here() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = std::fs::read_to_string(dir.join("tests/examples.rs")).unwrap();
    for entry in std::fs::read_dir(dir.join("examples")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(source.contains(&format!("\"{name}\"")), "{name} is not run");
    }
}

#[test]
fn a_message_is_sent_received_and_survives_a_restart() {
    proves(
        "simple_send_receive",
        &[
            "created greetings with 3 partitions",
            "acknowledged in partition 0 at offset 1",
            "received Some(\"Hello, World!\")",
            "received Some(\"Hello again!\") after a restart",
            "nothing is left to receive",
        ],
    );
}

#[test]
fn many_messages_come_once_and_in_order_under_each_key() {
    proves(
        "many_messages",
        &[
            "sent 100000 messages in .., each on stable storage when acknowledged",
            "received 100000 messages in ..",
            "every message came once, and in order under each of 1000 keys",
        ],
    );
}

#[test]
fn what_is_sent_again_is_there_once_even_after_it_is_deleted() {
    proves(
        "exactly_once",
        &[
            "order-17 is at offset 0, appended now: true, false",
            "1000 messages sent 3 times each: 1000 are there",
            "in the order in which they were sent",
            "after a restart, with every message deleted: offset 0, appended now: false",
        ],
    );
}

#[test]
fn threads_share_a_broker_and_each_message_is_received_by_one_of_them() {
    proves(
        "several_threads",
        &["4 threads sent 200 messages, 4 threads received each of them exactly once"],
    );
}

#[test]
fn sealed_values_are_opaque_to_the_broker_and_its_disk() {
    proves(
        "encryption",
        &[
            "the broker holds 53 sealed bytes",
            "the consumer opened \"the vault opens at 04:17\"",
            "another key does not open it",
            "a changed byte does not open",
            "no file of the broker holds the plaintext",
        ],
    );
}

#[test]
fn subscribers_see_everything_from_where_they_began() {
    proves(
        "publish_subscribe",
        &[
            "published 102 at offset 2",
            "published 103 at offset 3",
            "the subscriber from the beginning saw 100, 101, 102, 103",
            "the subscriber from now on saw 102, 103",
            "the topic is deleted and its subscriptions have ended",
        ],
    );
}
