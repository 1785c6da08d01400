//! One node of a local cluster: its process, started again whenever it dies.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use pilgrimage::client::{Client, ClientOptions};
use pilgrimage::config::{Config, LogFormat};
use pilgrimage::types::BrokerId;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::sync::watch;

use super::PAUSE;
use crate::failure::Failure;
use crate::start::{StartArgs, reachable};

/// First pause before a node is started again; doubles each time that it does not last.
const AGAIN_FIRST: Duration = Duration::from_millis(100);
/// Longest such pause.
const AGAIN_MOST: Duration = Duration::from_secs(30);
/// A node that ran for so long was not ended by what ends it at each start.
const LASTED: Duration = Duration::from_secs(60);
/// Longest piece of a node's log line that is passed on at once.
const LINE_BYTES: u64 = 64 * 1024;

/// What the nodes shall do. Only ever goes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Orders {
    /// Come up; one that cannot ends the start.
    Form,
    /// Run, and be started again after a death.
    Run,
    /// End in order.
    End,
    /// End at once.
    EndNow,
}

/// One of the nodes.
#[derive(Debug)]
pub(super) struct Node {
    program: PathBuf,
    pub(super) config: Config,
    pub(super) client: Client,
}

impl Node {
    pub(super) fn new(program: &Path, config: Config) -> Result<Self, Failure> {
        let options = ClientOptions {
            timeout: Duration::from_secs(5),
            attempts: 1,
            ..ClientOptions::default()
        };
        Ok(Self {
            program: program.to_owned(),
            client: Client::with_options(&reachable(config.listen), options)?,
            config,
        })
    }

    /// Keeps the node running for as long as the orders are to.
    pub(super) async fn tend(&self, mut orders: watch::Receiver<Orders>) -> Result<(), Failure> {
        let id = &self.config.id;
        let mut pause = AGAIN_FIRST;
        let mut again = false;
        loop {
            let began = Instant::now();
            let (how, well) = match self.spawn(again) {
                Err(error) => (format!("could not be started: {error}"), false),
                Ok(process) => {
                    let pid = process.id();
                    let ended = self.accompany(process, again, &mut orders).await;
                    let (how, well) = ended.map_or_else(
                        |error| (format!("is lost from sight: {error}"), false),
                        |status| (in_words(status), status.success()),
                    );
                    (format!("(process {pid}) {how}"), well)
                }
            };
            match *orders.borrow() {
                Orders::Form => {
                    let what = format!("{id} {how} before the cluster was ready");
                    return Err(Failure::failed(what).hint("its own words stand above"));
                }
                Orders::End | Orders::EndNow if well => return Ok(()),
                Orders::End | Orders::EndNow => {
                    return Err(Failure::failed(format!(
                        "{id} {how} instead of ending in order"
                    )));
                }
                Orders::Run if well => {
                    tracing::warn!(
                        "{id} was told to stop and has ended; it comes back with the next start of the cluster"
                    );
                    return Ok(());
                }
                Orders::Run => {}
            }
            if LASTED < began.elapsed() {
                pause = AGAIN_FIRST;
            }
            tracing::error!("{id} {how}; it is started again in {pause:?}");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = orders.wait_for(|order| Orders::End <= *order) => return Ok(()),
            }
            pause = (pause * 2).min(AGAIN_MOST);
            again = true;
        }
    }

    fn spawn(&self, again: bool) -> std::io::Result<Child> {
        let mut config = self.config.clone();
        config.bootstrap &= !again;
        let mut command = Command::new(&self.program);
        // The command line says it all; what is in the environment was for this process.
        let start = StartArgs::augment_args(clap::Command::new("start"));
        for name in start.get_arguments().filter_map(clap::Arg::get_env) {
            command.env_remove(name);
        }
        command
            .arg("start")
            .args(arguments(&config))
            .arg("--attached")
            // A terminal's Ctrl-C is for this process, which passes it on.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
    }

    /// Stays with a process until it has ended.
    async fn accompany(
        &self,
        mut process: Child,
        again: bool,
        orders: &mut watch::Receiver<Orders>,
    ) -> std::io::Result<ExitStatus> {
        let mut lifeline = process.stdin.take();
        let words = process.stderr.take();
        let id = self.config.id.clone();
        let passing = tokio::task::spawn_blocking(move || words.map(|words| pass_on(&id, words)));
        let pid = Pid::from_child(&process);
        // Leaves it unreaped, so that its number is nobody else's while it may be signalled.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let mut gone = tokio::task::spawn_blocking(move || {
            rustix::io::retry_on_intr(|| waitid(WaitId::Pid(pid), options))
        });
        let mut back = pin!(self.back());
        let mut expected = again;
        loop {
            let order = *orders.borrow_and_update();
            if Orders::End <= order {
                lifeline = None;
            }
            if order == Orders::EndNow {
                // It may have ended by itself.
                let _ = kill_process(pid, Signal::TERM);
            }
            tokio::select! {
                _ = &mut gone => break,
                _ = orders.changed() => {}
                () = &mut back, if expected => {
                    expected = false;
                    tracing::info!("{} is back (process {})", self.config.id, process.id());
                }
            }
        }
        drop(lifeline);
        let _ = passing.await;
        process.wait()
    }

    /// Returns when the node takes and gives records.
    async fn back(&self) {
        let ready = |health: pilgrimage::api::v1::Health| health.problems.is_empty();
        while !self.client.readyz().await.is_ok_and(ready) {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// How a process ended.
fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => format!("ended: {status}"),
    }
}

/// Writes what a node logs to stderr, marked as its own, until it ends.
fn pass_on(id: &BrokerId, words: ChildStderr) {
    let mut words = BufReader::new(words);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut words).take(LINE_BYTES).read_until(b'\n', &mut line);
        if !matches!(read, Ok(1..)) {
            return;
        }
        // A closed stderr must not keep the node from writing.
        let _ = std::io::stderr().lock().write_all(&marked(id, &line));
    }
}

/// A log line with its node's id, in JSON as in text.
fn marked(id: &BrokerId, line: &[u8]) -> Vec<u8> {
    match line.strip_prefix(b"{\"") {
        Some(rest) => [format!("{{\"node\":\"{id}\",\"").as_bytes(), rest].concat(),
        None => [format!("{id}  ").as_bytes(), line].concat(),
    }
}

/// The command line of `start` that says all of a configuration.
fn arguments(config: &Config) -> Vec<OsString> {
    // Every field is named: one that is added is either passed on or does not compile.
    let Config {
        listen,
        storage,
        id,
        nodes,
        partitions,
        replication,
        min_insync_replicas,
        join,
        bootstrap,
        peer_listen,
        peer_advertise,
        advertise,
        cluster_secret_file,
        rack,
        auto_create_topics,
        allowed_hosts,
        cors_origins,
        allow_anonymous,
        log_format,
        log_level,
    } = config;
    let mut arguments = Vec::new();
    let mut say = |name: &str, value: OsString| {
        let mut argument = OsString::from(format!("--{name}="));
        argument.push(value);
        arguments.push(argument);
    };
    let log_format = match log_format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    for (name, value) in [
        ("listen", listen.to_string()),
        ("id", id.to_string()),
        ("nodes", nodes.to_string()),
        ("partitions", partitions.to_string()),
        ("replication", replication.to_string()),
        ("min-insync-replicas", min_insync_replicas.to_string()),
        ("bootstrap", bootstrap.to_string()),
        ("auto-create-topics", auto_create_topics.to_string()),
        ("allow-anonymous", allow_anonymous.to_string()),
        ("log-format", log_format.to_owned()),
        ("log-level", log_level.clone()),
    ] {
        say(name, value.into());
    }
    say("storage", storage.clone().into());
    for (name, values) in [
        ("join", join),
        ("allowed-hosts", allowed_hosts),
        ("cors-origins", cors_origins),
    ] {
        if !values.is_empty() {
            say(name, values.join(",").into());
        }
    }
    let peer_listen = peer_listen.map(|address| address.to_string());
    for (name, value) in [
        ("peer-listen", &peer_listen),
        ("peer-advertise", peer_advertise),
        ("advertise", advertise),
        ("rack", rack),
    ] {
        if let Some(value) = value {
            say(name, value.into());
        }
    }
    if let Some(file) = cluster_secret_file {
        say("cluster-secret-file", file.into());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;
    use pilgrimage::config::Options;

    use super::*;

    fn config(options: Options) -> Config {
        Config::load(options, None).unwrap()
    }

    #[test]
    fn a_nodes_configuration_survives_the_way_over_the_command_line() {
        let some = |text: &str| Some(text.to_owned());
        let full = Options {
            listen: some("0.0.0.0:1"),
            storage: Some("-s p/a,ce".into()),
            id: some("-id"),
            nodes: Some(1),
            partitions: Some(7),
            replication: Some(4),
            min_insync_replicas: Some(2),
            join: Some(vec!["a:1".into(), "b:2".into()]),
            bootstrap: Some(true),
            peer_listen: some("127.0.0.1:5"),
            peer_advertise: some("c:3"),
            advertise: some("http://d"),
            cluster_secret_file: Some("/e f".into()),
            rack: some("g"),
            auto_create_topics: Some(false),
            allowed_hosts: Some(vec!["h".into(), "i:1".into()]),
            cors_origins: Some(vec!["http://j".into(), "https://k:1".into()]),
            allow_anonymous: Some(true),
            log_format: Some(LogFormat::Json),
            log_level: some("warn,x=debug"),
        };
        for config in [config(full), config(Options::default())] {
            let command = StartArgs::augment_args(clap::Command::new("start"));
            let command = command.mut_args(|arg| arg.env(None::<&str>));
            let line = [OsString::from("start")]
                .into_iter()
                .chain(arguments(&config));
            let args = command.try_get_matches_from(line).unwrap();
            let args = StartArgs::from_arg_matches(&args).unwrap();
            assert_eq!(Config::load(args.options(), None).unwrap(), config);
        }
    }

    #[test]
    fn a_log_line_says_whose_it_is() {
        let id = "broker2".parse().unwrap();
        assert_eq!(marked(&id, b"started\n"), b"broker2  started\n");
        assert_eq!(
            marked(&id, b"{\"level\":\"INFO\"}\n"),
            b"{\"node\":\"broker2\",\"level\":\"INFO\"}\n"
        );
    }
}
