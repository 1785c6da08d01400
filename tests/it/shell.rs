//! Runs commands as people type them.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::{self, Node};

/// A node, and commands that find it without being told where it is.
pub struct Shell {
    pub node: Node,
    pub dir: tempfile::TempDir,
}

impl Shell {
    pub async fn start(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::start_in(&dir.path().join("data"), arguments).await;
        Self { node, dir }
    }

    /// Runs a command to its end.
    pub fn run(&self, line: &[&str]) -> Ran {
        run(self.dir.path(), line)
    }

    /// The same with something on stdin.
    pub fn feed(&self, line: &[&str], input: &[u8]) -> Ran {
        let mut child = command(self.dir.path())
            .args(line)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        let writer = std::thread::spawn(move || {
            // A command may well have seen enough before the end.
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        Ran::new(line, output)
    }
}

/// A command whose state, contexts and working directory are inside `dir`.
pub fn command(dir: &Path) -> Command {
    let mut command = support::command(dir);
    command
        .env("PILGRIMAGE_CONFIG_DIR", dir.join("config"))
        .current_dir(dir)
        .stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub fn run(dir: &Path, line: &[&str]) -> Ran {
    Ran::new(line, command(dir).args(line).output().unwrap())
}

/// What a command left behind.
pub struct Ran {
    pub line: String,
    pub code: Option<i32>,
    pub out: Vec<u8>,
    pub err: String,
}

impl Ran {
    fn new(line: &[&str], output: Output) -> Self {
        Self {
            line: line.join(" "),
            code: output.status.code(),
            out: output.stdout,
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// What it wrote, given that it went well.
    #[track_caller]
    pub fn ok(&self) -> &[u8] {
        assert_eq!(self.code, Some(0), "{}: {}", self.line, self.err);
        &self.out
    }

    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(self.ok()).unwrap().trim_end()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(self.ok()).unwrap()
    }

    /// Exit code, and stderr, which must say what is wrong.
    #[track_caller]
    pub fn failed(&self, code: i32, says: &str) {
        assert_eq!(self.code, Some(code), "{}: {}", self.line, self.err);
        assert!(
            self.err.starts_with("error: ") && self.err.contains(says),
            "{}: {}",
            self.line,
            self.err
        );
    }
}
