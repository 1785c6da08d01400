//! Starts the real binary and waits for conditions.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use pilgrimage::client::Client;
use rustix::process::{Pid, Signal, kill_process};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_pilgrimage");

/// How long a condition may take before the test fails: generous, since machines are shared.
const PATIENCE: Duration = Duration::from_secs(60);

/// Any free port of this machine.
const ANY_PORT: &str = "127.0.0.1:0";

/// A running node. Killed when dropped.
#[derive(Debug)]
pub struct Node {
    process: Child,
    url: String,
    peers: String,
    storage: PathBuf,
    // Removed after the process has ended.
    _temporary: Option<tempfile::TempDir>,
}

impl Node {
    /// A node on a free port with a storage of its own.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut node = Self::start_in(&dir.path().join("data"), &[]).await;
        node._temporary = Some(dir);
        node
    }

    /// A node on a free port over `storage`, ready when this returns.
    pub async fn start_in(storage: &Path, arguments: &[&str]) -> Self {
        let mut node = command(storage.parent().unwrap());
        node.arg("start").args(arguments);
        Self::start_as(node, storage, ANY_PORT).await
    }

    /// A node whose storage is a file system of its own of `size` (as `mount` writes it), inside a
    /// mount namespace: it is gone with the process.
    pub async fn start_on_small_disk(dir: &Path, size: &str) -> Self {
        let storage = dir.join("disk");
        std::fs::create_dir_all(&storage).unwrap();
        let script = r#"mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@""#;
        let mut node = Command::new("unshare");
        node.args([
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            script,
            "sh",
            size,
        ]);
        node.arg(&storage).arg(BINARY).arg("start");
        node.env("PILGRIMAGE_STATE_DIR", dir.join("state"));
        Self::start_as(node, &storage, ANY_PORT).await
    }

    /// What `node` starts, which has words of its own in front, listening on `listen`; ready when
    /// this returns.
    pub async fn start_as(mut node: Command, storage: &Path, listen: &str) -> Self {
        // On any port the node takes a free one itself and says which: a port picked here could be
        // taken by another test before the node gets to it. It says so once it is ready.
        let mut process = node
            .args(["--listen", listen, "--storage"])
            .arg(storage)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(process.stdout.take().unwrap());
        let addresses = tokio::task::spawn_blocking(move || {
            let mut url = String::new();
            loop {
                let mut line = String::new();
                if said.read_line(&mut line).unwrap() == 0 {
                    return None;
                }
                match line.trim().split_once("  ") {
                    Some(("Console", at)) => url = at.trim().trim_end_matches('/').to_owned(),
                    Some(("Peers", at)) => {
                        // Keeps the pipe open and empty for the node's last words.
                        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
                        return Some((url, at.trim().to_owned()));
                    }
                    _ => {}
                }
            }
        });
        let addresses = tokio::time::timeout(PATIENCE, addresses).await;
        let Some((url, peers)) = addresses.unwrap().unwrap() else {
            panic!(
                "the node ended with {} before it was ready",
                process.wait().unwrap()
            );
        };
        Self {
            process,
            url,
            peers,
            storage: storage.to_owned(),
            _temporary: None,
        }
    }

    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Where other nodes reach it.
    pub fn peers(&self) -> &str {
        &self.peers
    }

    pub fn client(&self) -> Client {
        Client::new(&self.url).unwrap()
    }

    pub fn storage(&self) -> &Path {
        &self.storage
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// SIGKILL: no goodbye, no flush.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Sends a signal and does not wait for what comes of it.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// How the process ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().unwrap()
    }

    /// SIGTERM, and the exit status that follows.
    pub fn terminate(&mut self) -> ExitStatus {
        let pid = self.pid().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        self.wait_end()
    }

    /// The exit status, once it has ended by itself.
    pub fn wait_end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the node did not stop");
            std::thread::yield_now();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The binary, with its state kept inside `dir`.
pub fn command(dir: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command
        .env("PILGRIMAGE_STATE_DIR", dir.join("state"))
        .env_remove("PILGRIMAGE_URL");
    command
}

/// A port that nobody listens on at the moment.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Polls until `condition` holds; fails with `what` when it takes too long.
pub async fn wait_until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    wait_for(what, || {
        let holds = condition();
        async { holds.await.then_some(()) }
    })
    .await;
}

/// Polls until there is something to give; fails with `what` when it takes too long.
pub async fn wait_for<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await; // wait_until
    }
}
