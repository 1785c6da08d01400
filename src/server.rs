//! Composition root (layer 7): starts a node in order and ends it in order.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::auth::guard::InvalidEntry;
use crate::broker::{self, Broker, Brokers, ClusterOptions, OpenError};
use crate::cluster::{ClusterSecret, SECRET_FILE_NAME, SecretError};
use crate::config::{Config, LogFormat, PEER_PORT};
use crate::http::{self, App, serve};
use crate::tasks::{Tasks, Unfinished};
use crate::telemetry;
use crate::types::InvalidSettings;

/// Why a node did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Somebody listens there already.
    #[error("address {0} is in use by another program; stop it or choose another with --listen")]
    AddressInUse(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The storage cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The cluster's secret cannot be read.
    #[error(
        "{0}; copy cluster.key from the storage of a node of the cluster, and name it with --cluster-secret-file"
    )]
    Secret(#[from] SecretError),
    /// Several nodes were asked for.
    #[error("a process runs one node, and not {0}: start each of Config::each_node by itself")]
    SeveralNodes(u32),
    /// A default for topics is out of its bounds.
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    /// A host or an origin is not one.
    #[error(transparent)]
    Entry(#[from] InvalidEntry),
    /// The disk under the metadata failed while the node ran.
    #[error("the metadata in {0} has failed; what was acknowledged before is safe")]
    MetadataFailed(PathBuf),
    /// The node ended, but not all of it in time.
    #[error("the node did not end cleanly: {0}")]
    Unfinished(#[from] Unfinished),
}

/// A node at work.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    storage: PathBuf,
    brokers: Brokers,
    /// Ends the listener; everything else ends after it.
    stop: CancellationToken,
    /// Holds the listener and the node's own upkeep.
    tasks: Tasks,
    /// Holds what the brokers need until they are closed.
    broker_tasks: Tasks,
}

/// How long the listener and its requests may take to end: their own time, and a little more.
const DRAIN: Duration = Duration::from_secs(12);
/// How long what is left may take after the brokers are closed.
const REST: Duration = Duration::from_secs(5);

impl Running {
    /// Starts a node: takes the address, opens the storage, recovers every partition, then listens.
    ///
    /// # Errors
    /// See [`ServerError`]; nothing is left running.
    pub async fn start(config: Config) -> Result<Self, ServerError> {
        if config.nodes != 1 {
            return Err(ServerError::SeveralNodes(config.nodes));
        }
        raise_file_limit();
        // Before anything is recovered: a second start on the same port must not touch anything.
        let listener = serve::bind(config.listen).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => ServerError::AddressInUse(config.listen),
            _ => ServerError::Listen {
                address: config.listen,
                source,
            },
        })?;
        let address = listener
            .local_addr()
            .map_err(|source| ServerError::Listen {
                address: config.listen,
                source,
            })?;

        let mut options = broker::Options::new(config.id.clone(), config.storage.clone());
        options.defaults = config.topic_defaults()?;
        options.auto_create_topics = config.auto_create_topics;
        options.cluster = cluster_options(&config, address).await?;
        let broker = Broker::open(options).await?;
        let broker_tasks = Tasks::new();
        let brokers = Brokers::new(broker, &broker_tasks);

        if config.allow_anonymous {
            tracing::warn!(
                %address,
                "anonymous access is allowed: everybody who reaches this address may read, write and delete"
            );
        }
        let stop = CancellationToken::new();
        let prometheus = prometheus();
        let face = http::Options {
            policy: config.policy(),
            allowed_hosts: config.allowed_hosts,
            cors_origins: config.cors_origins,
        };
        let app = match App::new(brokers.clone(), face, prometheus.clone(), stop.clone()) {
            Ok(app) => Arc::new(app),
            Err(error) => {
                brokers.close().await;
                return Err(error.into());
            }
        };
        let router = http::router(app.clone());
        let tasks = Tasks::new();
        tasks.spawn(
            "http",
            serve::serve(
                listener,
                app,
                router,
                serve::Settings::default(),
                stop.clone(),
            ),
        );
        if let Some(prometheus) = prometheus {
            tasks.spawn("metrics-upkeep", upkeep(prometheus, stop.clone()));
        }
        Ok(Self {
            address,
            storage: config.storage,
            brokers,
            stop,
            tasks,
            broker_tasks,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where other nodes reach it: what they give to `--join`.
    pub fn peer_address(&self) -> &str {
        self.brokers.own().peer_address()
    }

    /// Directory of its data.
    pub fn storage(&self) -> &std::path::Path {
        &self.storage
    }

    /// The node's own broker.
    pub fn broker(&self) -> &Broker {
        self.brokers.own()
    }

    /// Returns when the node's own broker was asked to stop (`POST /stop`).
    pub async fn stopped(&self) {
        self.brokers.own_stopped().cancelled().await;
    }

    /// Returns when the node cannot go on: see [`Broker::failed`].
    pub async fn failed(&self) {
        self.brokers.own().failed().await;
    }

    /// Ends the node: no new connections, requests end (long ones early), then the brokers sync
    /// and close.
    ///
    /// # Errors
    /// What did not end in time; the storage is closed all the same.
    pub async fn shutdown(self) -> Result<(), ServerError> {
        self.stop.cancel();
        let drained = self.tasks.shutdown(DRAIN).await;
        self.brokers.close().await;
        let rest = self.broker_tasks.shutdown(REST).await;
        drained.and(rest).map_err(Into::into)
    }
}

async fn cluster_options(
    config: &Config,
    address: SocketAddr,
) -> Result<ClusterOptions, ServerError> {
    let listen = match config.peer_listen {
        Some(listen) => listen,
        // A node that listens everywhere for clients meets other nodes only where it is told to.
        None if config.listen.ip().is_unspecified() => {
            beside(SocketAddr::new(
                Ipv4Addr::LOCALHOST.into(),
                config.listen.port(),
            ))
            .await
        }
        None => beside(config.listen).await,
    };
    let secret = match config.cluster_secret_file.clone() {
        None if config.join.is_empty() => None,
        file => {
            let file = file.unwrap_or_else(|| config.storage.join(SECRET_FILE_NAME));
            let read = tokio::task::spawn_blocking(move || ClusterSecret::read(&file)).await;
            let read = read.map_err(io::Error::other);
            let read = read.map_err(|source| ServerError::Listen { address, source })?;
            Some(read?)
        }
    };
    Ok(ClusterOptions {
        listen: Some(listen),
        advertise: config.peer_advertise.clone(),
        http: config
            .advertise
            .clone()
            .unwrap_or_else(|| format!("http://{address}")),
        join: config.join.clone(),
        bootstrap: config.bootstrap,
        secret,
        rack: config.rack.clone(),
    })
}

/// The usual address for other nodes; any free one if somebody has it: they are told which.
async fn beside(listen: SocketAddr) -> SocketAddr {
    let any = SocketAddr::new(listen.ip(), 0);
    let Some(port) = listen
        .port()
        .checked_add(PEER_PORT)
        .filter(|_| listen.port() != 0)
    else {
        return any;
    };
    let usual = SocketAddr::new(listen.ip(), port);
    let free = tokio::net::TcpListener::bind(usual).await.is_ok()
        && tokio::net::UdpSocket::bind(usual).await.is_ok();
    if free { usual } else { any }
}

/// Runs a node until `shutdown` returns or its own broker is asked to stop.
///
/// # Errors
/// See [`ServerError`].
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
    let running = Running::start(config).await?;
    let failed = tokio::select! {
        () = shutdown => None,
        () = running.stopped() => None,
        () = running.failed() => Some(ServerError::MetadataFailed(running.storage.clone())),
    };
    let ended = running.shutdown().await;
    failed.map_or(ended, Err)
}

/// Returns at Ctrl-C or SIGTERM.
pub async fn interrupted() {
    let mut terminate =
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(terminate) => terminate,
            Err(error) => {
                tracing::error!(%error, "SIGTERM cannot be listened for");
                let _ = tokio::signal::ctrl_c().await;
                return;
            }
        };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// Libraries of which only errors are told. What openraft refuses, such as a second change of
/// members at once, is not one: whoever asked gets it as an answer.
const QUIET: &str = "openraft=error,openraft::raft::api::management=off,chitchat=error";

/// Sends log lines to stderr. Called twice, the first call counts.
pub fn log_to_stderr(format: LogFormat, level: &str) {
    // What libraries tell of their inner life is for those who ask for it by name.
    let filter = EnvFilter::builder().parse_lossy(format!("{QUIET},{level}"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // It would be told to stderr, too, and panic where that is closed.
        .log_internal_errors(false)
        .with_writer(io::stderr);
    // Fails only if log lines go somewhere already.
    let _ = match format {
        LogFormat::Text => lines
            .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
            .try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
}

/// Each connection and each open segment takes a file descriptor; systems start programs with
/// fewer than they may have.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

/// Bounds of the histograms, in seconds.
const BUCKETS: [f64; 14] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// The process's metrics; all nodes of one process share them.
fn prometheus() -> Option<PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    let install = || {
        let mut builder = PrometheusBuilder::new();
        for name in [telemetry::REQUEST_SECONDS, telemetry::FSYNC_SECONDS] {
            builder = builder
                .set_buckets_for_metric(Matcher::Full(name.into()), &BUCKETS)
                .ok()?;
        }
        // A program that embeds the node may have a recorder of its own.
        builder.install_recorder().ok()
    };
    HANDLE.get_or_init(install).clone()
}

/// Folds what histograms have gathered, so that memory stays bounded if nobody reads `/metrics`.
async fn upkeep(prometheus: PrometheusHandle, stop: CancellationToken) {
    let mut every = tokio::time::interval(Duration::from_secs(5));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => prometheus.run_upkeep(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Options;

    fn config(dir: &std::path::Path) -> Config {
        let options = Options {
            listen: Some("0".into()),
            storage: Some(dir.to_owned()),
            ..Options::default()
        };
        Config::load(options, None).unwrap()
    }

    async fn post(at: SocketAddr, path: &str, body: &'static str) -> String {
        let client = reqwest::Client::new();
        let request = client
            .post(format!("http://{at}{path}"))
            .header("content-type", "application/json")
            .body(body);
        request.send().await.unwrap().text().await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_second_start_on_the_same_port_or_storage_says_so() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let running = Running::start(config(one.path())).await.unwrap();

        let mut same_port = config(two.path());
        same_port.listen = running.address();
        let error = Running::start(same_port).await.unwrap_err();
        assert!(matches!(error, ServerError::AddressInUse(at) if at == running.address()));
        assert_eq!(std::fs::read_dir(two.path()).unwrap().count(), 0);

        let error = Running::start(config(one.path())).await.unwrap_err();
        assert!(matches!(
            error,
            ServerError::Open(OpenError::InUse(path)) if path == one.path()
        ));
        running.shutdown().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn stopping_its_own_broker_ends_the_node_and_keeps_its_data() {
        let dir = tempfile::tempdir().unwrap();
        let running = Running::start(config(dir.path())).await.unwrap();
        let sent = post(
            running.address(),
            "/send",
            r#"{"id":"broker1","message":"kept"}"#,
        );
        assert_eq!(sent.await, "\"Message sent\"");
        let stopped = post(running.address(), "/stop", r#"{"id":"broker1"}"#);
        assert_eq!(stopped.await, "\"Broker stopped\"");
        running.stopped().await;
        let address = running.address();
        running.shutdown().await.unwrap();
        assert!(tokio::net::TcpStream::connect(address).await.is_err());

        let running = Running::start(config(dir.path())).await.unwrap();
        let consumed = post(running.address(), "/consume", r#"{"id":"broker1"}"#);
        assert_eq!(consumed.await, "\"kept\"");
        running.shutdown().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn readers_that_wait_do_not_hold_up_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let running = Running::start(config(dir.path())).await.unwrap();
        post(
            running.address(),
            "/v1/topics/t/records",
            r#"{"records":[{"value":1}]}"#,
        )
        .await;
        let url = format!("http://{}/v1/topics/t/records", running.address());
        let follow = reqwest::get(format!("{url}?follow=true")).await.unwrap();
        let wait = tokio::spawn(reqwest::get(format!("{url}?from=latest&wait=60s")));
        let began = std::time::Instant::now();
        running.shutdown().await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(8));
        assert!(follow.text().await.unwrap().contains("\"offset\":0"));
        // The wait was answered, or had not been accepted yet.
        if let Ok(answer) = wait.await.unwrap() {
            assert_eq!(answer.status(), 200);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_port_speaks_http2_too_and_its_requests_are_measured() {
        let dir = tempfile::tempdir().unwrap();
        let running = Running::start(config(dir.path())).await.unwrap();
        let client = reqwest::Client::builder()
            .http2_prior_knowledge()
            .build()
            .unwrap();
        let url = format!("http://{}", running.address());
        let sent = client
            .post(format!("{url}/v1/topics/t/publish"))
            .body("x")
            .send();
        let sent = sent.await.unwrap();
        assert_eq!(
            (sent.status(), sent.version()),
            (200.try_into().unwrap(), http2())
        );
        let metrics = client.get(format!("{url}/metrics")).send().await.unwrap();
        let metrics = metrics.text().await.unwrap();
        for series in [
            r#"pilgrimage_requests_total{route="/v1/topics/{topic}/publish",method="POST",status="200"}"#,
            "request_duration_seconds_bucket",
            "pilgrimage_connections",
            "pilgrimage_fsync_total",
        ] {
            assert!(metrics.contains(series), "{series} is not in {metrics}");
        }
        running.shutdown().await.unwrap();
    }

    fn http2() -> reqwest::Version {
        reqwest::Version::HTTP_2
    }
}
