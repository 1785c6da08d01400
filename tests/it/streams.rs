//! Commands that go on until they are interrupted.

use std::io::Write;
use std::process::{Child, Command, Stdio};

use crate::shell::{Shell, command};
use crate::support::wait_until;

#[tokio::test]
async fn a_follower_prints_what_arrives_and_ends_well_when_interrupted() {
    let shell = Shell::start(&[]).await;
    shell.run(&["produce", "t", "before"]).ok();
    for format in ["raw", "ndjson"] {
        let out = shell.dir.path().join(format);
        let mut follower = command(shell.dir.path())
            .args([
                "consume", "--topic", "t", "--from", "earliest", "--follow", "--format", format,
            ])
            .stdout(std::fs::File::create(&out).unwrap())
            .spawn()
            .unwrap();
        let has = async |text: &str| std::fs::read_to_string(&out).unwrap().contains(text);
        wait_until("the first record is printed", || has("before")).await;
        shell.run(&["produce", "t", "after"]).ok();
        wait_until("the next record is printed", || has("after")).await;
        assert_eq!(interrupt(&mut follower), Some(0));
    }
}

fn interrupt(child: &mut Child) -> Option<i32> {
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    child.wait().unwrap().code()
}

#[tokio::test]
async fn lines_of_a_slow_input_are_sent_as_they_come_and_counted_when_interrupted() {
    let shell = Shell::start(&[]).await;
    let mut produce = command(shell.dir.path())
        .args(["produce", "t"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = produce.stdin.take().unwrap();
    let client = shell.node.client();
    let topic = "t".parse().unwrap();
    for (line, count) in [("one\n", 1), ("two\nhalf a line", 2)] {
        stdin.write_all(line.as_bytes()).unwrap();
        wait_until("what is there is sent", async || {
            let partitions = client.partitions(&topic).await;
            partitions.is_ok_and(|list| {
                list.partitions
                    .iter()
                    .map(|p| p.high_watermark)
                    .sum::<u64>()
                    == count
            })
        })
        .await;
    }
    let pid = produce.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let output = produce.wait_with_output().unwrap();
    drop(stdin);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "error: interrupted (2 records are acknowledged)\n"
    );
    assert_eq!(
        shell
            .run(&["consume", "--topic", "t", "--format", "raw"])
            .text(),
        "one\ntwo"
    );
}
