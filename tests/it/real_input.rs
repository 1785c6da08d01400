//! Real input: source files as people wrote them (long lines, empty lines, tabs, every alphabet),
//! in through the command line and through curl, and out again, byte for byte.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{self, Node};

/// Fewer lines than this would not be worth the name.
const LINES: usize = 100_000;
/// Enough is enough.
const BYTES: usize = 16 * 1024 * 1024;

/// At least [`LINES`] lines of the sources of the crates that this program is built from, in the
/// order of their paths; where those are not kept, of the package lists of the system.
fn real_lines() -> Vec<u8> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let mut files = Vec::new();
    if let Some(home) = home {
        collect(&home.join("registry/src"), "rs", &mut files);
    }
    collect(Path::new("/var/lib/dpkg/info"), "list", &mut files);
    let (mut text, mut lines) = (Vec::new(), 0);
    for file in files {
        let mut bytes = fs::read(file).unwrap();
        if std::str::from_utf8(&bytes).is_err() {
            continue;
        }
        if bytes.last().is_some_and(|last| *last != b'\n') {
            bytes.push(b'\n');
        }
        if LINES <= lines && BYTES < text.len() + bytes.len() {
            break;
        }
        lines += bytes.iter().filter(|byte| **byte == b'\n').count();
        text.extend(bytes);
    }
    assert!(
        LINES <= lines,
        "only {lines} lines of real text on this machine"
    );
    text
}

fn collect(dir: &Path, extension: &str, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, extension, files);
        } else if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
}

/// Runs a program to its end with `input` on its stdin, and gives what it writes to stdout.
fn run(mut command: Command, input: &[u8]) -> Vec<u8> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || {
            // A program that ends early says why on stderr, which is looked at below.
            let _ = stdin.write_all(input);
        });
        child.wait_with_output().unwrap()
    });
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

fn pilgrimage(node: &Node, arguments: &[&str]) -> Command {
    let mut command = support::command(node.storage().parent().unwrap());
    command.args(["--url", &node.url()]).args(arguments);
    command
}

fn curl(arguments: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command
        .args([
            "--silent",
            "--show-error",
            "--fail-with-body",
            "--noproxy",
            "*",
        ])
        .args(arguments);
    command
}

/// Equal, without printing megabytes when they are not.
fn assert_same(read: &[u8], written: &[u8]) {
    let first = read
        .iter()
        .zip(written)
        .position(|(a, b)| a != b)
        .unwrap_or(read.len().min(written.len()));
    assert!(
        read == written,
        "{} bytes read, {} written, the first difference at byte {first}",
        read.len(),
        written.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_file_comes_back_byte_for_byte_through_produce_and_consume() {
    let node = Node::start().await;
    let text = real_lines();
    run(
        pilgrimage(&node, &["topic", "create", "lines", "--partitions", "1"]),
        b"",
    );
    run(pilgrimage(&node, &["produce", "lines", "--quiet"]), &text);
    let read = run(
        pilgrimage(&node, &["consume", "--topic", "lines", "--format", "raw"]),
        b"",
    );
    assert_same(&read, &text);

    // The same bytes under zstd from the producer, over several partitions, from a file.
    let file = node.storage().parent().unwrap().join("input");
    fs::write(&file, &text).unwrap();
    run(
        pilgrimage(&node, &["topic", "create", "packed", "--partitions", "3"]),
        b"",
    );
    let file = file.to_str().unwrap();
    run(
        pilgrimage(
            &node,
            &["produce", "packed", "--quiet", "--compress", "--file", file],
        ),
        b"",
    );
    let read = run(
        pilgrimage(&node, &["consume", "--topic", "packed", "--format", "raw"]),
        b"",
    );
    assert_same(&read, &text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_file_comes_back_byte_for_byte_through_a_curl_upload_of_ndjson() {
    let node = Node::start().await;
    let text = real_lines();
    let lines: Vec<&str> = std::str::from_utf8(&text)
        .unwrap()
        .split_terminator('\n')
        .collect();
    let mut body = Vec::with_capacity(text.len() * 5 / 4);
    for line in &lines {
        serde_json::to_writer(&mut body, &serde_json::json!({ "value": line })).unwrap();
        body.push(b'\n');
    }
    run(
        pilgrimage(&node, &["topic", "create", "uploads", "--partitions", "1"]),
        b"",
    );
    let records = format!("{}/v1/topics/uploads/records", node.url());

    // -T - streams stdin in chunks of unknown total length: the node never holds the whole of it.
    let upload = [
        "-X",
        "POST",
        "-H",
        "content-type: application/x-ndjson",
        "-T",
        "-",
        &records,
    ];
    let answer: serde_json::Value = serde_json::from_slice(&run(curl(&upload), &body)).unwrap();
    assert_eq!(answer["acknowledged"], lines.len());
    assert_eq!(answer["done"], true);
    assert_eq!(answer["durability"], "fsync");

    // And back with curl alone, page by page.
    let (mut read, mut from, mut count) =
        (Vec::with_capacity(text.len()), "earliest".to_owned(), 0);
    loop {
        let page = run(
            curl(&[&format!(
                "{records}?from={from}&limit=20000&max_bytes=16777216"
            )]),
            b"",
        );
        let page: serde_json::Value = serde_json::from_slice(&page).unwrap();
        let records = page["records"].as_array().unwrap();
        if records.is_empty() {
            break;
        }
        for record in records {
            assert_eq!(record["offset"], count);
            count += 1;
            read.extend(record["value"].as_str().unwrap().as_bytes());
            read.push(b'\n');
        }
        from = page["next"].as_str().unwrap().to_owned();
    }
    assert_same(&read, &text);

    // What came in as JSON over HTTP is the same to the command line.
    let read = run(
        pilgrimage(&node, &["consume", "--topic", "uploads", "--format", "raw"]),
        b"",
    );
    assert_same(&read, &text);
}
