//! A world of its own for a test: name spaces in which it may build networks and mount disks, and
//! which end with it, with every process in them, however it ends.

use std::path::Path;
use std::process::Command;

use super::nodes::TURN;

/// Set for the process that is in it already.
const INSIDE: &str = "PILGRIMAGE_TEST_APART";

/// Starts the test called `name` once more, apart from everybody else, and is content if that
/// succeeds; there, it does `run`. Says so and does nothing where that cannot be done: it needs
/// root and these `tools`.
pub(super) fn apart<F: Future<Output = ()>>(name: &str, tools: &[&str], run: impl FnOnce() -> F) {
    if std::env::var_os(INSIDE).is_some() {
        // The place of the names of networks.
        done("mount -t tmpfs tmpfs /run");
        done("ip link set lo up");
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        return runtime.enable_all().build().unwrap().block_on(run());
    }
    if !rustix::process::geteuid().is_root() {
        return println!("{name} is skipped: it needs root");
    }
    if let Some(missing) = tools.iter().find(|tool| !is_there(tool)) {
        return println!("{name} is skipped: {missing} is not installed");
    }
    let _turn = TURN.blocking_lock();
    let ended = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child"])
        .arg("--mount-proc")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads", "1"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    println!("{said}");
    println!("{}", String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{name} failed: {}", ended.status);
    assert!(said.contains("1 passed"), "there is no test {name}");
}

fn is_there(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |dir: &Path| dir.join(tool).is_file();
    Path::new(tool).is_file() || std::env::split_paths(&path).any(|dir| found(&dir))
}

/// Runs a command of words without spaces in them, which must succeed.
pub(super) fn done(command: &str) {
    assert!(try_to(command), "{command}");
}

/// Whether a command succeeds.
pub(super) fn try_to(command: &str) -> bool {
    let mut words = command.split(' ');
    let mut run = Command::new(words.next().unwrap());
    run.args(words).status().unwrap().success()
}
