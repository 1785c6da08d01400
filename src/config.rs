//! Configuration (layer 7): what an operator may say, where it is said, and what it means.
//!
//! Each setting has one name: `allowed_hosts` in the file, `--allowed-hosts` on the command line
//! and `PILGRIMAGE_ALLOWED_HOSTS` in the environment. The command line counts most, then the
//! environment, then the file, then the default.

mod nodes;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::auth::guard::{AllowedHosts, InvalidEntry};
use crate::auth::{AnonymousAccess, Policy};
use crate::types::{BrokerId, InvalidName, InvalidSettings, TopicPatch, TopicSettings, limits};

pub(crate) use nodes::PEER_PORT;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = ConfigError;
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(ConfigError::LogFormat(other.to_owned())),
        }
    }
}

/// Settings as somebody wrote them; what is absent was not said.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Address to listen on, `HOST:PORT` or `PORT`; port 0 = any free one. Default `127.0.0.1:8080`.
    pub listen: Option<String>,
    /// Directory of all data; created if absent. Default `./data`.
    pub storage: Option<PathBuf>,
    /// The broker's id. Default `broker1`.
    pub id: Option<String>,
    /// How many nodes `pilgrimage start` runs, as a cluster on this machine. Default 1.
    pub nodes: Option<u32>,
    /// Partitions of topics that say nothing else. Default 1.
    pub partitions: Option<u32>,
    /// Copies wanted of each partition. Default 1; 3 for a node that joins others; as many as
    /// `nodes`, but at most 3, for several.
    pub replication: Option<u32>,
    /// In-sync replicas without which `acks=all` is refused, for topics that say nothing else.
    /// Default: a majority of the copies, 1 for two copies or fewer.
    pub min_insync_replicas: Option<u32>,
    /// Nodes of the cluster to join, `HOST:PORT` of their peer addresses. Default none: a node
    /// with an empty storage begins a cluster of its own.
    pub join: Option<Vec<String>>,
    /// Begins a cluster if none of the nodes of `join` has one. Exactly one node of a new cluster
    /// says this. Default false.
    pub bootstrap: Option<bool>,
    /// Address on which the other nodes reach this one, `HOST:PORT` or `PORT`; TCP and UDP. Default:
    /// the host of `listen`, and its port plus 1000, or any free one if that is taken.
    pub peer_listen: Option<String>,
    /// The `HOST:PORT` that this node tells the others to reach it by. Default: the peer address.
    pub peer_advertise: Option<String>,
    /// The URL that this node tells clients to reach it by. Default: made of the address it listens on.
    pub advertise: Option<String>,
    /// File that holds the cluster's secret. Default `cluster.key` in the storage; made at the first
    /// start of a node that joins nobody.
    pub cluster_secret_file: Option<PathBuf>,
    /// Where the node stands (rack, room, zone): copies are spread over different ones.
    pub rack: Option<String>,
    /// Whether producing to a topic that does not exist creates it. Default true.
    pub auto_create_topics: Option<bool>,
    /// Hosts, besides loopback, that the node answers for: `HOST` or `HOST:PORT`.
    pub allowed_hosts: Option<Vec<String>>,
    /// Origins whose web pages may call the node: `https://HOST[:PORT]`.
    pub cors_origins: Option<Vec<String>>,
    /// Lets everybody who reaches the node read and write. Needed to listen beyond loopback.
    pub allow_anonymous: Option<bool>,
    /// How log lines look. Default `text`.
    pub log_format: Option<LogFormat>,
    /// Which log lines are written: `error`, `warn`, `info`, `debug`, `trace`, or
    /// `target=level,...`. Default `info`.
    pub log_level: Option<String>,
}

impl Options {
    /// These settings, and `below` where they say nothing.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            listen: self.listen.or(below.listen),
            storage: self.storage.or(below.storage),
            id: self.id.or(below.id),
            nodes: self.nodes.or(below.nodes),
            partitions: self.partitions.or(below.partitions),
            replication: self.replication.or(below.replication),
            min_insync_replicas: self.min_insync_replicas.or(below.min_insync_replicas),
            join: self.join.or(below.join),
            bootstrap: self.bootstrap.or(below.bootstrap),
            peer_listen: self.peer_listen.or(below.peer_listen),
            peer_advertise: self.peer_advertise.or(below.peer_advertise),
            advertise: self.advertise.or(below.advertise),
            cluster_secret_file: self.cluster_secret_file.or(below.cluster_secret_file),
            rack: self.rack.or(below.rack),
            auto_create_topics: self.auto_create_topics.or(below.auto_create_topics),
            allowed_hosts: self.allowed_hosts.or(below.allowed_hosts),
            cors_origins: self.cors_origins.or(below.cors_origins),
            allow_anonymous: self.allow_anonymous.or(below.allow_anonymous),
            log_format: self.log_format.or(below.log_format),
            log_level: self.log_level.or(below.log_level),
        }
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration file {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is not TOML, or has a key that does not exist.
    #[error("configuration file {}: {source}", .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<toml::de::Error>,
    },
    /// Not an address.
    #[error("listen {0:?} is not an address such as 127.0.0.1:8080 or 8080")]
    Listen(String),
    /// Not the address of a node.
    #[error("{setting} {given:?} is not of the form HOST:PORT")]
    Peer {
        /// The setting.
        setting: &'static str,
        /// What was given.
        given: String,
    },
    /// Not a URL for clients.
    #[error("advertise {0:?} is not a URL such as http://node1.example:8080")]
    Advertise(String),
    /// Not a name for a place.
    #[error("rack {0:?} is not 1 to 249 letters, digits, \".\", \"_\" and \"-\"")]
    Rack(String),
    /// More nodes than one machine runs, or none.
    #[error("nodes must be between 1 and {most}, and is {0}", most = limits::LOCAL_NODES)]
    Nodes(u32),
    /// A setting of one node beside several.
    #[error(
        "{0} is for a single node: a cluster that nodes begins on this machine has no use for it"
    )]
    SingleNode(&'static str),
    /// Nodes that listen on one port after the other run out of ports.
    #[error("{nodes} nodes cannot listen on one port after the other from {first} on")]
    Ports {
        /// How many.
        nodes: u32,
        /// The first one's address.
        first: SocketAddr,
    },
    /// Not an id.
    #[error(transparent)]
    Id(#[from] InvalidName),
    /// A default for topics is out of its bounds.
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    /// Not a host, or not an origin.
    #[error(transparent)]
    Entry(#[from] InvalidEntry),
    /// Not a format of log lines.
    #[error("log_format {0:?} is neither text nor json")]
    LogFormat(String),
    /// Not a level of log lines.
    #[error("log_level {0:?} is not a level such as info, or TARGET=LEVEL,...")]
    LogLevel(String),
    /// Everybody could read and write.
    #[error(
        "listening on {0} would let everybody who reaches this machine read and write without a \
         password; listen on 127.0.0.1, or accept it by name with allow_anonymous \
         (--allow-anonymous, PILGRIMAGE_ALLOW_ANONYMOUS=true)"
    )]
    Exposed(SocketAddr),
}

/// A complete, valid configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Directory of all data.
    pub storage: PathBuf,
    /// The broker's id.
    pub id: BrokerId,
    /// How many nodes run on this machine as one cluster: see [`each_node`](Self::each_node).
    pub nodes: u32,
    /// Partitions of topics that say nothing else.
    pub partitions: u32,
    /// Copies wanted of each partition.
    pub replication: u32,
    /// In-sync replicas without which `acks=all` is refused.
    pub min_insync_replicas: u32,
    /// Peer addresses of nodes to join.
    pub join: Vec<String>,
    /// Whether to begin a cluster if those have none.
    pub bootstrap: bool,
    /// Where the other nodes reach this one; none = next to `listen`.
    pub peer_listen: Option<SocketAddr>,
    /// What the others are told instead.
    pub peer_advertise: Option<String>,
    /// What clients are told instead of the address listened on.
    pub advertise: Option<String>,
    /// File of the cluster's secret; none = in the storage.
    pub cluster_secret_file: Option<PathBuf>,
    /// Where the node stands.
    pub rack: Option<String>,
    /// Whether producing to a topic that does not exist creates it.
    pub auto_create_topics: bool,
    /// Hosts, besides loopback, that the node answers for.
    pub allowed_hosts: Vec<String>,
    /// Origins whose web pages may call the node.
    pub cors_origins: Vec<String>,
    /// Whether everybody who reaches the node may read and write.
    pub allow_anonymous: bool,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which log lines are written.
    pub log_level: String,
}

impl Config {
    /// The configuration that `options`, and below them the file, ask for.
    ///
    /// # Errors
    /// The first setting that is not of its form; a listener beyond loopback that was not accepted
    /// by name.
    pub fn load(options: Options, file: Option<&Path>) -> Result<Self, ConfigError> {
        let below = match file {
            None => Options::default(),
            Some(path) => {
                let path = path.to_owned();
                match std::fs::read_to_string(&path) {
                    Err(source) => return Err(ConfigError::Read { path, source }),
                    Ok(text) => toml::from_str(&text).map_err(|source| ConfigError::Parse {
                        path,
                        source: Box::new(source),
                    })?,
                }
            }
        };
        Self::new(options.over(below))
    }

    fn new(options: Options) -> Result<Self, ConfigError> {
        let listen = options
            .listen
            .as_deref()
            .map_or(Ok(DEFAULT_LISTEN), address)?;
        let allow_anonymous = options.allow_anonymous.unwrap_or(false);
        if !listen.ip().to_canonical().is_loopback() && !allow_anonymous {
            return Err(ConfigError::Exposed(listen));
        }
        let allowed_hosts = options.allowed_hosts.unwrap_or_default();
        let cors_origins = options.cors_origins.unwrap_or_default();
        AllowedHosts::new(allowed_hosts.iter().map(String::as_str))?
            .with_origins(cors_origins.iter().map(String::as_str))?;
        let log_level = options.log_level.unwrap_or_else(|| "info".to_owned());
        if tracing_subscriber::EnvFilter::builder()
            .parse(&log_level)
            .is_err()
        {
            return Err(ConfigError::LogLevel(log_level));
        }
        let join = options.join.unwrap_or_default();
        for node in join.iter().chain(&options.peer_advertise) {
            let valid = node
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
            if !valid {
                let setting = match join.contains(node) {
                    true => "join",
                    false => "peer_advertise",
                };
                let given = node.clone();
                return Err(ConfigError::Peer { setting, given });
            }
        }
        if let Some(url) = &options.advertise {
            let host = url
                .strip_prefix("http://")
                .or_else(|| url.strip_prefix("https://"));
            if host.is_none_or(|host| host.is_empty() || host.contains(['/', ' '])) {
                return Err(ConfigError::Advertise(url.clone()));
            }
        }
        if let Some(rack) = &options.rack
            && BrokerId::try_from(rack.clone()).is_err()
        {
            return Err(ConfigError::Rack(rack.clone()));
        }
        let peer_listen = options.peer_listen.as_deref().map(|text| {
            address(text).map_err(|_| ConfigError::Peer {
                setting: "peer_listen",
                given: text.to_owned(),
            })
        });
        let nodes = options.nodes.unwrap_or(1);
        if !(1..=limits::LOCAL_NODES).contains(&nodes) {
            return Err(ConfigError::Nodes(nodes));
        }
        let single = [
            ("join", !join.is_empty()),
            ("bootstrap", options.bootstrap == Some(true)),
            ("advertise", options.advertise.is_some()),
            ("peer_advertise", options.peer_advertise.is_some()),
        ];
        if let Some((setting, _)) = single.iter().find(|(_, given)| 1 < nodes && *given) {
            return Err(ConfigError::SingleNode(setting));
        }
        let copies = if join.is_empty() { nodes.min(3) } else { 3 };
        let replication = options.replication.unwrap_or(copies);
        let config = Self {
            listen,
            storage: options.storage.unwrap_or_else(|| "data".into()),
            id: options
                .id
                .unwrap_or_else(|| "broker1".to_owned())
                .try_into()?,
            nodes,
            partitions: options.partitions.unwrap_or(1),
            replication,
            min_insync_replicas: options
                .min_insync_replicas
                .unwrap_or(majority_above_two(replication)),
            join,
            bootstrap: options.bootstrap.unwrap_or(false),
            peer_listen: peer_listen.transpose()?,
            peer_advertise: options.peer_advertise,
            advertise: options.advertise,
            cluster_secret_file: options.cluster_secret_file,
            rack: options.rack,
            auto_create_topics: options.auto_create_topics.unwrap_or(true),
            allowed_hosts,
            cors_origins,
            allow_anonymous,
            log_format: options.log_format.unwrap_or_default(),
            log_level,
        };
        config.topic_defaults()?;
        Ok(config)
    }

    /// Settings of topics that say nothing else.
    ///
    /// # Errors
    /// A number of partitions or copies out of its bounds.
    pub fn topic_defaults(&self) -> Result<TopicSettings, InvalidSettings> {
        TopicSettings::default().with(&TopicPatch {
            partitions: Some(self.partitions),
            replication_factor: Some(self.replication),
            min_insync_replicas: Some(self.min_insync_replicas),
            ..TopicPatch::default()
        })
    }

    /// The rules of access in force.
    pub fn policy(&self) -> Policy {
        let anonymous = if self.allow_anonymous {
            AnonymousAccess::Anywhere
        } else {
            AnonymousAccess::Loopback
        };
        Policy { anonymous }
    }
}

/// Copies that must be in sync unless somebody says otherwise: with three or more, a majority, so
/// that what is acknowledged outlives the loss of a disk.
fn majority_above_two(replication: u32) -> u32 {
    match replication {
        0..=2 => 1,
        copies => copies / 2 + 1,
    }
}

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

fn address(text: &str) -> Result<SocketAddr, ConfigError> {
    let local = text.strip_prefix("localhost:").unwrap_or(text);
    if let Ok(port) = local.parse::<u16>() {
        return Ok(SocketAddr::new(DEFAULT_LISTEN.ip(), port));
    }
    text.parse()
        .map_err(|_| ConfigError::Listen(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(options: Options, file: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pilgrimage.toml");
        std::fs::write(&path, file).unwrap();
        Config::load(options, Some(&path))
    }

    #[test]
    fn a_node_that_is_told_nothing_listens_on_loopback() {
        assert_eq!(
            Config::load(Options::default(), None).unwrap(),
            Config {
                listen: "127.0.0.1:8080".parse().unwrap(),
                storage: "data".into(),
                id: "broker1".try_into().unwrap(),
                nodes: 1,
                partitions: 1,
                replication: 1,
                min_insync_replicas: 1,
                join: vec![],
                bootstrap: false,
                peer_listen: None,
                peer_advertise: None,
                advertise: None,
                cluster_secret_file: None,
                rack: None,
                auto_create_topics: true,
                allowed_hosts: vec![],
                cors_origins: vec![],
                allow_anonymous: false,
                log_format: LogFormat::Text,
                log_level: "info".into(),
            }
        );
    }

    #[test]
    fn the_command_line_counts_more_than_the_file() {
        let options = Options {
            listen: Some("9000".into()),
            ..Options::default()
        };
        let config = load(
            options,
            "listen = \"127.0.0.1:1\"\npartitions = 3\nlog_format = \"json\"",
        )
        .unwrap();
        assert_eq!(config.listen, "127.0.0.1:9000".parse().unwrap());
        assert_eq!((config.partitions, config.log_format), (3, LogFormat::Json));
    }

    #[test]
    fn what_is_not_a_setting_or_not_of_its_form_is_refused_by_name() {
        for (file, why) in [
            ("listne = \"x\"", "unknown field `listne`"),
            (
                "listen = \"nowhere\"",
                "listen \"nowhere\" is not an address",
            ),
            ("id = \"a/b\"", "broker id"),
            ("partitions = 0", "partitions must be between 1"),
            ("partitions = -1", "invalid value"),
            ("allowed_hosts = [\"http://x\"]", "is not a host"),
            ("cors_origins = [\"*\"]", "is not an origin"),
            ("log_level = \"x=y=z\"", "log_level"),
            ("join = [\"node1\"]", "join \"node1\""),
            ("peer_advertise = \":1\"", "peer_advertise"),
            ("peer_listen = \"x\"", "peer_listen"),
            ("advertise = \"node1:8080\"", "advertise"),
            ("rack = \"a b\"", "rack"),
            ("min_insync_replicas = 2", "min_insync_replicas"),
            ("nodes = 0", "nodes must be between 1"),
            ("nodes = 17", "nodes must be between 1"),
            ("nodes = 3\njoin = [\"127.0.0.1:1\"]", "join is for a"),
            ("listen = \"0.0.0.0:8080\"", "--allow-anonymous"),
        ] {
            let error = load(Options::default(), file).unwrap_err().to_string();
            assert!(error.contains(why), "{file}: {error}");
        }
    }

    #[test]
    fn three_copies_ask_for_a_majority_in_sync() {
        let defaults = |file: &str| {
            let config = load(Options::default(), file).unwrap();
            let settings = config.topic_defaults().unwrap();
            (settings.replication_factor, settings.min_insync_replicas)
        };
        assert_eq!(defaults(""), (1, 1));
        assert_eq!(defaults("replication = 2"), (2, 1));
        assert_eq!(defaults("join = [\"127.0.0.1:9080\"]"), (3, 2));
        assert_eq!(defaults("replication = 5"), (5, 3));
        assert_eq!(defaults("nodes = 2"), (2, 1));
        assert_eq!(defaults("nodes = 5"), (3, 2));
    }

    #[test]
    fn strangers_are_let_in_only_by_name() {
        let config = load(
            Options::default(),
            "listen = \"0.0.0.0:8080\"\nallow_anonymous = true",
        )
        .unwrap();
        assert_eq!(config.policy().anonymous, AnonymousAccess::Anywhere);
        assert!(load(Options::default(), "listen = \"[::1]:8080\"").is_ok());
    }
}
