//! A node of the benchmark's own.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pilgrimage::client::{Client, ClientOptions};
use pilgrimage::types::BrokerId;

use crate::failure::Failure;
use crate::registry::Registry;

/// How long a node may take to be ready.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// A node that runs as a child process and is stopped when dropped.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) url: String,
    child: Child,
    // Where the child enters itself: apart from the brokers that the user runs.
    _state: tempfile::TempDir,
}

impl Spawned {
    /// Starts this very program as a node on a free port.
    pub(crate) async fn start(storage: &Path) -> Result<Self, Failure> {
        let cannot = |error: std::io::Error| Failure::failed(format!("start a node: {error}"));
        let state = tempfile::tempdir().map_err(cannot)?;
        let mut child = Command::new(std::env::current_exe().map_err(cannot)?)
            .args([
                "start",
                "--id",
                "bench",
                "--listen",
                "127.0.0.1:0",
                "--log-level",
                "warn",
                "--storage",
            ])
            .arg(storage)
            .env("PILGRIMAGE_STATE_DIR", state.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(cannot)?;
        let registry = Registry::at(state.path().to_owned());
        let id: BrokerId = "bench".parse()?;
        let begun = Instant::now();
        let url = loop {
            if let Some(entry) = registry.find(&id) {
                break entry.url;
            }
            if let Some(status) = child.try_wait().map_err(cannot)? {
                return Err(Failure::failed(format!(
                    "the node ended before it was ready: {status}"
                )));
            }
            if START_PATIENCE < begun.elapsed() {
                let _ = child.kill();
                return Err(Failure::failed("the node was not ready in time"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let spawned = Self {
            url,
            child,
            _state: state,
        };
        let options = ClientOptions {
            attempts: 20,
            ..ClientOptions::default()
        };
        Client::with_options(&spawned.url, options)?.node().await?;
        Ok(spawned)
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let begun = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if STOP_PATIENCE < begun.elapsed() {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
