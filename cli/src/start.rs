//! `start`: runs a node in this process, or has several run beside it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::pin;

use clap::{ArgAction, Args};
use pilgrimage::client::{Client, ProduceOptions, Publish};
use pilgrimage::config::{Config, ConfigError, LogFormat, Options};
use pilgrimage::server::{self, Running, ServerError};
use pilgrimage::types::{Offset, Partition, TopicName, TopicPatch};

use crate::failure::{Exit, Failure};
use crate::registry::{Entry, RegisterError, Registration, Registry};
use crate::{local_cluster, output};

const AFTER_HELP: &str = "\
Each setting can also stand in a TOML file (--config) under its name with underscores, or in the
environment as PILGRIMAGE_ and its name in capitals. The command line counts most, then the
environment, then the file, then the default.
SIGTERM and Ctrl-C end the node in order: requests finish, logs are synced. Logs go to stderr.";

/// Start a node: console, API and documentation on one port, data in one directory.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct StartArgs {
    /// The broker's id [default: broker1].
    #[arg(long, short, env = "PILGRIMAGE_ID", hide_env_values = true)]
    id: Option<String>,
    /// Runs a cluster of N nodes on this machine; ids, ports and folders count up [default: 1].
    #[arg(
        long,
        short,
        value_name = "N",
        env = "PILGRIMAGE_NODES",
        hide_env_values = true
    )]
    nodes: Option<u32>,
    /// Partitions of topics that say nothing else [default: 1].
    #[arg(long, short, env = "PILGRIMAGE_PARTITIONS", hide_env_values = true)]
    partitions: Option<u32>,
    /// Copies wanted of each partition [default: 1; 3 with --join or 3 nodes].
    #[arg(long, short, env = "PILGRIMAGE_REPLICATION", hide_env_values = true)]
    replication: Option<u32>,
    /// In-sync replicas without which acks=all is refused [default: a majority; 1 for 1 or 2 copies].
    #[arg(
        long,
        value_name = "N",
        env = "PILGRIMAGE_MIN_INSYNC_REPLICAS",
        hide_env_values = true
    )]
    min_insync_replicas: Option<u32>,
    /// Joins the cluster of these nodes: HOST:PORT of their peer addresses; several by comma.
    #[arg(
        long,
        value_name = "HOST:PORT",
        value_delimiter = ',',
        env = "PILGRIMAGE_JOIN",
        hide_env_values = true
    )]
    join: Option<Vec<String>>,
    /// Begins a cluster if none of the nodes of --join has one; exactly one node says this.
    #[arg(long, env = "PILGRIMAGE_BOOTSTRAP", hide_env_values = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    bootstrap: Option<bool>,
    /// Address for the other nodes (TCP and UDP), HOST:PORT or PORT [default: that of --listen, port + 1000].
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "PILGRIMAGE_PEER_LISTEN",
        hide_env_values = true
    )]
    peer_listen: Option<String>,
    /// What the other nodes are told to reach this one by [default: the peer address].
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "PILGRIMAGE_PEER_ADVERTISE",
        hide_env_values = true
    )]
    peer_advertise: Option<String>,
    /// What clients are told to reach this node by [default: made of --listen].
    #[arg(
        long,
        value_name = "URL",
        env = "PILGRIMAGE_ADVERTISE",
        hide_env_values = true
    )]
    advertise: Option<String>,
    /// File with the cluster's secret [default: cluster.key in the storage, made at the first start].
    #[arg(
        long,
        value_name = "FILE",
        env = "PILGRIMAGE_CLUSTER_SECRET_FILE",
        hide_env_values = true
    )]
    cluster_secret_file: Option<PathBuf>,
    /// Where the node stands (rack, room, zone): copies are spread over different ones.
    #[arg(
        long,
        value_name = "NAME",
        env = "PILGRIMAGE_RACK",
        hide_env_values = true
    )]
    rack: Option<String>,
    /// Directory of all data; created if absent [default: ./data].
    #[arg(
        long,
        short,
        value_name = "DIR",
        env = "PILGRIMAGE_STORAGE",
        hide_env_values = true
    )]
    storage: Option<PathBuf>,
    /// Address to listen on, HOST:PORT or PORT; port 0 = any free one [default: 127.0.0.1:8080].
    #[arg(
        long,
        short,
        value_name = "ADDRESS",
        env = "PILGRIMAGE_LISTEN",
        hide_env_values = true
    )]
    listen: Option<String>,
    /// Configuration file (TOML).
    #[arg(
        long,
        value_name = "FILE",
        env = "PILGRIMAGE_CONFIG",
        hide_env_values = true
    )]
    config: Option<PathBuf>,
    /// Lets everybody who reaches the node read, write and delete; needed to listen beyond loopback.
    #[arg(long, env = "PILGRIMAGE_ALLOW_ANONYMOUS", hide_env_values = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    allow_anonymous: Option<bool>,
    /// Whether writing to a topic that does not exist creates it [default: true].
    #[arg(long, value_name = "BOOL", env = "PILGRIMAGE_AUTO_CREATE_TOPICS", hide_env_values = true, action = ArgAction::Set)]
    auto_create_topics: Option<bool>,
    /// Host, besides loopback, that the node answers for: HOST or HOST:PORT; several by comma.
    #[arg(
        long,
        alias = "allowed-host",
        value_name = "HOST",
        value_delimiter = ',',
        env = "PILGRIMAGE_ALLOWED_HOSTS",
        hide_env_values = true
    )]
    allowed_hosts: Option<Vec<String>>,
    /// Origin whose web pages may call the node: https://HOST[:PORT]; several by comma.
    #[arg(
        long,
        alias = "cors-origin",
        value_name = "ORIGIN",
        value_delimiter = ',',
        env = "PILGRIMAGE_CORS_ORIGINS",
        hide_env_values = true
    )]
    cors_origins: Option<Vec<String>>,
    /// How log lines look: text or json [default: text].
    #[arg(
        long,
        value_name = "FORMAT",
        env = "PILGRIMAGE_LOG_FORMAT",
        hide_env_values = true
    )]
    log_format: Option<LogFormat>,
    /// Which log lines are written: error, warn, info, debug, trace, or TARGET=LEVEL,... [default: info].
    #[arg(
        long,
        value_name = "LEVEL",
        env = "PILGRIMAGE_LOG_LEVEL",
        hide_env_values = true
    )]
    log_level: Option<String>,
    /// Starts on a free loopback port, writes, reads back, reports, and ends. Without --storage in a
    /// temporary directory.
    #[arg(long)]
    test_mode: bool,
    /// Ends the node when its standard input ends: with the process that started it.
    #[arg(long, hide = true)]
    attached: bool,
}

impl StartArgs {
    pub(crate) fn options(&self) -> Options {
        Options {
            listen: self.listen.clone(),
            storage: self.storage.clone(),
            id: self.id.clone(),
            nodes: self.nodes,
            partitions: self.partitions,
            replication: self.replication,
            min_insync_replicas: self.min_insync_replicas,
            join: self.join.clone(),
            bootstrap: self.bootstrap,
            peer_listen: self.peer_listen.clone(),
            peer_advertise: self.peer_advertise.clone(),
            advertise: self.advertise.clone(),
            cluster_secret_file: self.cluster_secret_file.clone(),
            rack: self.rack.clone(),
            auto_create_topics: self.auto_create_topics,
            allowed_hosts: self.allowed_hosts.clone(),
            cors_origins: self.cors_origins.clone(),
            allow_anonymous: self.allow_anonymous,
            log_format: self.log_format,
            log_level: self.log_level.clone(),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Self {
        let mut message = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !message.contains(&cause_text) {
                message = format!("{message}: {cause_text}");
            }
            source = cause.source();
        }
        let failure = Self::failed(message);
        match error {
            ServerError::AddressInUse(_) => {
                failure.hint("`pilgrimage status` tells whether it is a node")
            }
            ServerError::Open(_) => failure.hint("--storage names another directory"),
            _ => failure,
        }
    }
}

/// Runs `start`.
pub(crate) async fn run(args: StartArgs) -> Result<(), Failure> {
    if args.test_mode {
        return test(args).await;
    }
    let config = Config::load(args.options(), args.config.as_deref())?;
    server::log_to_stderr(config.log_format, &config.log_level);
    if config.nodes != 1 {
        return local_cluster::run(&config).await;
    }
    local_cluster::keep_out(&config.storage)?;
    // First of all: who runs under this id already must not be disturbed.
    let mut registration = reserve(&config)?;
    let mut told_to_end = pin!(told_to_end(args.attached));
    let running = tokio::select! {
        running = Running::start(config.clone()) => running?,
        () = &mut told_to_end => return Ok(()),
    };
    let url = reachable(running.address());
    if let Some(registration) = &mut registration {
        let entry = Entry {
            id: config.id.clone(),
            pid: std::process::id(),
            url: url.clone(),
            storage: absolute(running.storage()),
            started: jiff::Timestamp::now().to_string(),
        };
        if let Err(error) = registration.announce(&entry) {
            output::remark(&format!(
                "warning: {error}; address this node by --url {url}"
            ));
        }
    }
    // Whether anybody reads this is not what the node lives for.
    let _ = output::line(&greeting(&config, &running, &url));
    let failed = tokio::select! {
        () = &mut told_to_end => None,
        () = running.stopped() => None,
        () = running.failed() => Some(ServerError::MetadataFailed(running.storage().to_owned())),
    };
    let ended = tokio::select! {
        ended = running.shutdown() => ended,
        () = server::interrupted() => {
            return Err(Failure::failed("interrupted again: the node ended without waiting for its requests"));
        }
    };
    drop(registration);
    Ok(failed.map_or(ended, Err)?)
}

/// Returns at Ctrl-C and SIGTERM; if attached, also when the process that holds the other end of
/// stdin has gone, or wants this one to end.
async fn told_to_end(attached: bool) {
    if !attached {
        return server::interrupted().await;
    }
    let until_the_end = || std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
    tokio::select! {
        () = server::interrupted() => {}
        // Input that cannot be read has ended, too.
        _ = tokio::task::spawn_blocking(until_the_end) => {}
    }
}

/// Enters the node where `send`, `consume`, `status` and `stop` find it. That it cannot be entered
/// is no reason not to run: it is then addressed by --url.
pub(crate) fn reserve(config: &Config) -> Result<Option<Registration>, Failure> {
    let registry = Registry::of_user();
    match registry
        .map(|registry| registry.register(&config.id))
        .transpose()
    {
        Ok(registration) => Ok(registration),
        Err(error @ RegisterError::Io { .. }) => {
            output::remark(&format!("warning: {error}; address this node by --url"));
            Ok(None)
        }
        Err(error) => Err(Failure::failed(error.to_string())
            .hint("choose another --id, or stop it with `pilgrimage stop --id`")),
    }
}

pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The address that a client on this machine uses.
pub(crate) fn reachable(address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

fn greeting(config: &Config, running: &Running, url: &str) -> String {
    let storage = absolute(running.storage());
    let lines = output::fields(&[
        ("  Console", format!("{url}/")),
        ("  API", format!("{url}/v1")),
        ("  Docs", format!("{url}/docs")),
        ("  Data", storage.display().to_string()),
        ("  Peers", running.peer_address().to_owned()),
    ]);
    format!("Broker {} is ready.\n{lines}", config.id)
}

/// Starts a node, and proves that what goes in comes out.
async fn test(args: StartArgs) -> Result<(), Failure> {
    let temporary = match &args.storage {
        Some(_) => None,
        None => Some(
            tempfile::tempdir()
                .map_err(|error| Failure::failed(format!("make a temporary directory: {error}")))?,
        ),
    };
    let mut options = args.options();
    options.listen = Some("127.0.0.1:0".into());
    options.storage = options
        .storage
        .or_else(|| temporary.as_ref().map(|dir| dir.path().to_owned()));
    options.log_level = options.log_level.or_else(|| Some("warn".into()));
    let config = Config::load(options, args.config.as_deref())?;
    if config.nodes != 1 {
        return Err(Failure::usage(
            "--test-mode tests one node: leave out --nodes",
        ));
    }
    server::log_to_stderr(config.log_format, &config.log_level);
    let running = Running::start(config.clone()).await?;
    let url = reachable(running.address());
    let proof = round_trip(&url, running.storage()).await;
    running.shutdown().await?;
    output::line(&format!(
        "Broker {} started at {url}.\n{}",
        config.id, proof?
    ))?;
    output::line("Test passed.")
}

/// Values that a text rendering, a length or a line end could spoil.
fn samples() -> [Vec<u8>; 4] {
    [
        b"Hello, World!".to_vec(),
        Vec::new(),
        b"\r\n\0\xff\xfe".to_vec(),
        vec![b'x'; 100_000],
    ]
}

async fn round_trip(url: &str, storage: &Path) -> Result<String, Failure> {
    let client = Client::new(url)?;
    let topic: TopicName = format!("test-{}", uuid::Uuid::new_v4().simple()).parse()?;
    client
        .create_topic(
            &topic,
            &TopicPatch {
                partitions: Some(1),
                ..TopicPatch::default()
            },
        )
        .await?;
    let samples = samples();
    for value in &samples {
        client
            .publish(
                &topic,
                &Publish::new(value.clone()),
                &ProduceOptions::default(),
            )
            .await?;
    }
    for (offset, value) in samples.iter().enumerate() {
        let read = client
            .record(&topic, Partition(0), Offset(offset as u64))
            .await?;
        if read.value != *value {
            return Err(Failure::new(
                Exit::Failed,
                format!(
                    "record {offset} was read back with {} bytes that were not written",
                    read.value.len()
                ),
            ));
        }
    }
    client.delete_topic(&topic).await?;
    Ok(format!(
        "Wrote {n} records to {} and read the same {n} back.",
        storage.display(),
        n = samples.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_listens_everywhere_is_reached_on_loopback() {
        for (listen, url) in [
            ("0.0.0.0:80", "http://127.0.0.1:80"),
            ("[::]:80", "http://[::1]:80"),
            ("10.0.0.1:80", "http://10.0.0.1:80"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()), url);
        }
    }
}
