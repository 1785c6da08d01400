//! What people type, and what they get: output, exit code, and what is left behind.

use std::process::Stdio;

use pilgrimage::api::v1::StartBroker;
use pilgrimage::types::Code;
use serde_json::Value;

use crate::shell::{Shell, command, run};
use crate::support::{self, Node};

#[tokio::test]
async fn the_first_release_s_commands_work_as_written() {
    let shell = Shell::start(&["--id", "b1", "--partitions", "3", "--replication", "2"]).await;
    assert_eq!(
        shell.run(&["send", "b1", "Hello, World!"]).text(),
        "Message sent"
    );
    assert_eq!(shell.run(&["send", "b1", "second"]).text(), "Message sent");
    let mut messages = [
        shell.run(&["consume", "b1"]).text().to_owned(),
        shell.run(&["consume", "b1"]).text().to_owned(),
    ];
    messages.sort();
    assert_eq!(messages, ["Hello, World!", "second"]);
    assert_eq!(
        shell.run(&["consume", "b1"]).text(),
        "No messages available"
    );
    assert!(
        shell
            .run(&["status", "--id", "b1"])
            .text()
            .contains("ready")
    );
    assert_eq!(shell.run(&["stop", "--id", "b1"]).text(), "Broker stopped");
    shell
        .run(&["stop", "--id", "b1"])
        .failed(1, "no broker is running with the ID b1");
}

#[tokio::test]
async fn a_broker_inside_another_node_s_process_is_found_by_its_id() {
    let shell = Shell::start(&["--id", "b1"]).await;
    let inner = StartBroker {
        id: "inner".into(),
        partitions: 1,
        replication: 1,
        storage: shell.dir.path().join("inner").to_str().unwrap().into(),
    };
    let client = shell.node.client();
    assert_eq!(client.start_broker(&inner).await.unwrap(), "Broker started");
    shell.run(&["send", "inner", "for the inner one"]).ok();
    // They are nodes of one cluster: what is sent through one is read through the other, and each
    // keeps a place of its own.
    assert_eq!(shell.run(&["consume", "b1"]).text(), "for the inner one");
    assert_eq!(shell.run(&["consume", "inner"]).text(), "for the inner one");
    assert_eq!(
        shell.run(&["stop", "--id", "inner"]).text(),
        "Broker stopped"
    );
    shell
        .run(&["status", "--id", "inner"])
        .failed(1, "no broker is running with the ID inner");
    assert!(
        shell
            .run(&["status", "--id", "b1"])
            .text()
            .contains("ready")
    );
}

#[test]
fn a_broker_that_is_not_there_is_an_error_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    for line in [
        &["send", "nobody", "x"][..],
        &["consume", "nobody"],
        &["status", "--id", "nobody"],
        &["stop", "--id", "nobody"],
    ] {
        let ran = run(dir.path(), line);
        ran.failed(1, "no broker is running with the ID nobody");
        assert!(ran.err.contains("hint: start it with"), "{}", ran.err);
        assert_eq!(ran.out, b"");
    }
}

#[test]
fn test_mode_starts_writes_reads_back_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let ran = run(dir.path(), &["start", "--test-mode"]);
    assert!(ran.text().ends_with("Test passed."), "{}", ran.text());
    let ran = run(
        dir.path(),
        &[
            "start",
            "-i",
            "b",
            "-p",
            "3",
            "-r",
            "2",
            "-s",
            "x",
            "--test-mode",
        ],
    );
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    std::fs::remove_dir_all(dir.path().join("x")).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_second_start_says_what_is_in_its_way() {
    let shell = Shell::start(&["--id", "b1"]).await;
    let data = shell.dir.path().join("data");
    let (data, other) = (data.to_str().unwrap(), shell.dir.path().join("other"));
    let other = other.to_str().unwrap();
    let port = shell.node.url().rsplit(':').next().unwrap().to_owned();
    shell
        .run(&["start", "--id", "b1", "--listen", "0", "-s", other])
        .failed(1, "already running");
    shell
        .run(&["start", "--id", "b2", "--listen", &port, "-s", other])
        .failed(1, "in use");
    shell
        .run(&["start", "--id", "b2", "--listen", "0", "-s", data])
        .failed(1, data);
    shell
        .run(&["start", "--id", "b2", "--listen", "0", "-s", "/dev/null/x"])
        .failed(1, "/dev/null/x");
    shell
        .run(&["start", "--listen", "0.0.0.0:0", "-s", other])
        .failed(2, "--allow-anonymous");
    assert!(
        shell
            .run(&["status", "--id", "b1"])
            .text()
            .contains("ready"),
        "the first must not have noticed"
    );
}

#[tokio::test]
async fn a_node_told_to_stop_ends_well_and_its_data_stays() {
    let mut shell = Shell::start(&["--id", "b1"]).await;
    shell.run(&["send", "b1", "kept"]).ok();
    assert_eq!(shell.node.terminate().code(), Some(0));
    assert_eq!(
        std::fs::read_dir(shell.dir.path().join("state/brokers"))
            .unwrap()
            .count(),
        0
    );
    shell.node = Node::start_in(&shell.dir.path().join("data"), &["--id", "b1"]).await;
    assert_eq!(shell.run(&["consume", "b1"]).text(), "kept");
}

#[tokio::test]
async fn a_killed_node_is_not_taken_for_a_running_one() {
    let mut shell = Shell::start(&["--id", "b1"]).await;
    shell.node.kill();
    shell
        .run(&["send", "b1", "x"])
        .failed(1, "no broker is running with the ID b1");
    shell.node = Node::start_in(&shell.dir.path().join("data"), &["--id", "b1"]).await;
    shell.run(&["send", "b1", "x"]).ok();
}

#[tokio::test]
async fn every_byte_of_lines_comes_back_in_order() {
    let shell = Shell::start(&["--partitions", "3"]).await;
    let mut input = Vec::new();
    for i in 0..30_000_u32 {
        input.extend_from_slice(format!("line {i}").as_bytes());
        // Bytes that text, JSON or line handling could change.
        input.extend_from_slice(
            [&b"\r"[..], b"\xff\xfe", b"\0", b"", b" \t", b"\"\\"][i as usize % 6],
        );
        input.push(b'\n');
    }
    let said = shell
        .feed(
            &["produce", "lines", "--batch", "1000", "-o", "json"],
            &input,
        )
        .json();
    assert_eq!(said["records"], 30_000);
    assert!(
        shell
            .run(&["consume", "--topic", "lines", "--format", "raw"])
            .ok()
            == input
    );

    let said = shell
        .feed(&["produce", "packed", "--compress", "-o", "json"], &input)
        .json();
    assert_eq!(said["durability"], "fsync");
    assert!(
        shell
            .run(&["consume", "--topic", "packed", "--format", "raw"])
            .ok()
            == input
    );
}

#[tokio::test]
async fn keyed_lines_keep_their_order_per_key_and_key_and_value_their_bytes() {
    let shell = Shell::start(&["--partitions", "4"]).await;
    let input: String = (0..2000).map(|i| format!("k{}:{i}:x\n", i % 7)).collect();
    shell
        .feed(
            &["produce", "keyed", "--key-separator", ":"],
            input.as_bytes(),
        )
        .ok();
    let out = shell.run(&["consume", "--topic", "keyed", "--format", "ndjson"]);
    let mut of_key = std::collections::BTreeMap::<String, Vec<u32>>::new();
    for line in out.text().lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let number = record["value"]
            .as_str()
            .unwrap()
            .strip_suffix(":x")
            .unwrap()
            .parse()
            .unwrap();
        of_key
            .entry(record["key"].as_str().unwrap().to_owned())
            .or_default()
            .push(number);
    }
    let expected = (0..7)
        .map(|k| (format!("k{k}"), (0..2000).filter(|i| i % 7 == k).collect()))
        .collect();
    assert_eq!(of_key, expected);
    let one = shell.run(&[
        "consume",
        "--topic",
        "keyed",
        "--filter-key",
        "k3",
        "--format",
        "raw",
        "-n",
        "2",
    ]);
    assert_eq!(one.text(), "3:x\n10:x");
}

#[tokio::test]
async fn ndjson_goes_in_and_out_as_it_is() {
    let shell = Shell::start(&[]).await;
    let input = concat!(
        r#"{"key":"a","value":{"id": 1.50,"b":[]}}"#,
        "\n",
        r#"{"value":"text","headers":{"h":"v"}}"#,
        "\n",
        r#"{"key":"a","value":null}"#,
        "\n",
        r#"{"value_base64":"/wA="}"#,
        "\n",
    );
    let said = shell
        .feed(
            &["produce", "t", "--format", "ndjson", "-o", "json"],
            input.as_bytes(),
        )
        .json();
    assert_eq!(said["records"], 4);
    let page = shell
        .run(&["consume", "--topic", "t", "--format", "json"])
        .json();
    let values: Vec<_> = page
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (&r["value"], &r["value_base64"]))
        .collect();
    assert_eq!(
        serde_json::to_value(values).unwrap(),
        serde_json::json!([[{"id": 1.5, "b": []}, null], ["text", null], [null, null], [null, "/wA="]])
    );
    let raw = shell.run(&["consume", "--topic", "t", "--format", "raw", "-n", "1"]);
    assert_eq!(
        raw.text(),
        r#"{"id": 1.50,"b":[]}"#,
        "JSON must come back as it was written"
    );
    let found = shell.run(&[
        "consume",
        "--topic",
        "t",
        "--filter-json",
        "/id=1.5",
        "--format",
        "ndjson",
    ]);
    assert_eq!(found.text().lines().count(), 1);
    let bad = shell.feed(
        &["produce", "t", "--format", "ndjson"],
        b"{\"value\":1}\nnonsense\n",
    );
    assert_eq!(bad.code, Some(4), "{}", bad.err);
    assert!(bad.err.contains("line"), "{}", bad.err);
}

#[tokio::test]
async fn topics_are_made_shown_changed_trimmed_and_deleted() {
    let shell = Shell::start(&[]).await;
    let create = [
        "topic",
        "create",
        "orders",
        "--partitions",
        "2",
        "--retention",
        "1d",
        "--compression",
        "zstd",
    ];
    assert!(
        shell
            .run(&create)
            .text()
            .starts_with("topic orders created")
    );
    assert!(
        shell
            .run(&create)
            .text()
            .starts_with("topic orders exists already")
    );
    shell
        .run(&["topic", "create", "orders", "--partitions", "3"])
        .failed(4, "orders");
    shell
        .run(&["produce", "orders", "a", "b", "c", "--partition", "1"])
        .ok();

    let topic = shell
        .run(&["topic", "describe", "orders", "-o", "json"])
        .json();
    assert_eq!(
        (&topic["retention_ms"], &topic["compression"]),
        (&86_400_000.into(), &"zstd".into())
    );
    assert_eq!(topic["partition_list"][1]["high_watermark"], 3);
    let list = shell.run(&["topic", "list", "-o", "ndjson"]).json();
    assert_eq!(
        (&list["name"], &list["records"]),
        (&"orders".into(), &3.into())
    );

    let altered = shell
        .run(&[
            "topic",
            "alter",
            "orders",
            "--retention",
            "none",
            "-o",
            "json",
        ])
        .json();
    assert_eq!(altered["retention_ms"], Value::Null);
    shell
        .run(&["topic", "alter", "orders"])
        .failed(2, "nothing to alter");
    assert!(
        shell
            .run(&["topic", "trim", "orders", "-p", "1", "--before", "2"])
            .text()
            .contains("offset 2")
    );
    assert_eq!(
        shell
            .run(&["consume", "--topic", "orders", "--format", "raw"])
            .text(),
        "c"
    );

    let yaml = shell.run(&["consume", "--topic", "orders", "-o", "yaml"]);
    assert!(yaml.text().starts_with("- offset: 2"), "{}", yaml.text());

    shell
        .run(&["topic", "delete", "orders"])
        .failed(1, "was not deleted");
    assert_eq!(
        shell.run(&["topic", "delete", "orders", "--yes"]).text(),
        "topic orders deleted"
    );
    let gone = shell.run(&["topic", "describe", "orders"]);
    gone.failed(3, Code::TopicNotFound.as_str());
    assert!(gone.err.contains("hint: "), "{}", gone.err);
}

#[tokio::test]
async fn a_position_that_does_not_exist_is_an_error_in_every_format() {
    let shell = Shell::start(&["--partitions", "1"]).await;
    shell.run(&["produce", "t", "a", "b"]).ok();
    shell
        .run(&["topic", "trim", "t", "-p", "0", "--before", "1"])
        .ok();
    for format in ["text", "json", "raw", "hex"] {
        let from = |from| {
            shell.run(&[
                "consume", "--topic", "t", "--from", from, "--format", format,
            ])
        };
        from("3").failed(4, Code::OffsetOutOfRange.as_str());
        from("0").failed(4, Code::OffsetTrimmed.as_str());
        from("1").ok();
        from("2").ok();
        shell
            .run(&["consume", "--topic", "t", "-p", "7", "--format", format])
            .failed(3, Code::PartitionNotFound.as_str());
        shell
            .run(&["consume", "--topic", "none", "--format", format])
            .failed(3, Code::TopicNotFound.as_str());
    }
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_error() {
    let shell = Shell::start(&[]).await;
    let input = "a line that is long enough to fill a pipe\n".repeat(50_000);
    shell.feed(&["produce", "t"], input.as_bytes()).ok();
    for format in ["raw", "ndjson", "text"] {
        let mut consume = command(shell.dir.path())
            .args(["consume", "--topic", "t", "--format", format])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(consume.stdout.take());
        let output = consume.wait_with_output().unwrap();
        assert_eq!(
            (
                output.status.code(),
                String::from_utf8_lossy(&output.stderr).as_ref()
            ),
            (Some(0), "")
        );
    }
}

#[test]
fn a_node_that_cannot_be_reached_has_an_exit_code_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = format!("http://127.0.0.1:{}", support::free_port());
    let ran = run(dir.path(), &["topic", "list", "--url", &nowhere]);
    ran.failed(5, &nowhere);
    assert!(ran.err.contains("pilgrimage start"), "{}", ran.err);
    run(dir.path(), &["topic", "list", "--url", "ftp://x"]).failed(2, "http://");
}

#[tokio::test]
async fn contexts_name_nodes() {
    let shell = Shell::start(&[]).await;
    let (dir, elsewhere) = (shell.dir.path(), tempfile::tempdir().unwrap());
    let status = || {
        let mut status = command(dir);
        // Not found by running here, only by name.
        status
            .env("PILGRIMAGE_STATE_DIR", elsewhere.path())
            .args(["node", "-o", "json"]);
        status
    };
    shell
        .run(&["context", "set", "nowhere", "127.0.0.1:1"])
        .ok();
    shell
        .run(&["context", "set", "here", &shell.node.url()])
        .ok();
    assert_eq!(status().output().unwrap().status.code(), Some(5));
    shell.run(&["context", "use", "here"]).ok();
    assert_eq!(status().output().unwrap().status.code(), Some(0));
    let listed = shell.run(&["context", "list", "-o", "json"]).json();
    assert_eq!(listed[0]["name"], "here");
    assert_eq!(listed[0]["current"], true);
    shell.run(&["context", "use", "nobody"]).failed(3, "nobody");
    shell
        .run(&["node", "--context", "nobody"])
        .failed(3, "nobody");
}

#[tokio::test]
async fn log_files_are_verified_and_dumped_without_a_node() {
    let mut shell = Shell::start(&[]).await;
    shell.run(&["produce", "t", "first", "second"]).ok();
    shell.node.terminate();
    let data = shell.dir.path().join("data");
    let data = data.to_str().unwrap();
    let report = shell.run(&["log", "verify", data, "-o", "json"]).json();
    let records: u64 = report
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["records"].as_u64().unwrap())
        .sum();
    assert_eq!(records, 2);
    let dump = shell.run(&["log", "dump", data]);
    assert!(
        dump.text().contains("first") && dump.text().contains("second"),
        "{}",
        dump.text()
    );

    let segment = report[0]["path"].as_str().unwrap();
    let mut bytes = std::fs::read(segment).unwrap();
    let at = bytes.windows(5).position(|part| part == b"first").unwrap();
    bytes[at] ^= 1;
    std::fs::write(segment, bytes).unwrap();
    shell.run(&["log", "verify", data]).failed(1, "not intact");
    shell
        .run(&[
            "log",
            "verify",
            shell.dir.path().join("none").to_str().unwrap(),
        ])
        .failed(1, "none");
}

#[test]
fn help_and_version_go_to_stdout_and_completions_are_complete() {
    let dir = tempfile::tempdir().unwrap();
    for line in [
        &["help"][..],
        &["--help"],
        &["start", "--help"],
        &["help", "consume"],
    ] {
        assert!(
            run(dir.path(), line).text().contains("Usage: pilgrimage"),
            "{line:?}"
        );
    }
    assert_eq!(
        run(dir.path(), &["--version"]).text(),
        format!("pilgrimage {}", env!("CARGO_PKG_VERSION"))
    );
    assert!(run(dir.path(), &["help"]).text().contains("Exit codes"));
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(
            run(dir.path(), &["completions", shell])
                .text()
                .contains("consume"),
            "{shell}"
        );
    }
    assert_eq!(run(dir.path(), &["nonsense"]).code, Some(2));
}
