//! Several nodes on one machine: how the settings of one become those of each.

use std::net::SocketAddr;

use super::{Config, ConfigError, DEFAULT_LISTEN};
use crate::cluster::SECRET_FILE_NAME;
use crate::types::{BrokerId, InvalidName};

/// How far the port for other nodes is from the one for clients, unless it is given.
pub(crate) const PEER_PORT: u16 = 1000;

impl Config {
    /// The configuration of each node of the cluster that `nodes` asks for. Ids, ports and peer
    /// ports count up, every node has a folder of `storage` to itself and joins all others, and
    /// they share the secret in `storage`. None of them begins the cluster; of one node, it is the
    /// configuration itself.
    ///
    /// # Errors
    /// [`ConfigError::Ports`] if the ports end, or are left to the system to choose;
    /// [`ConfigError::Id`] if an id grows too long.
    pub fn each_node(&self) -> Result<Vec<Self>, ConfigError> {
        if self.nodes == 1 {
            return Ok(vec![self.clone()]);
        }
        let peer_host = match self.listen.ip() {
            ip if ip.is_unspecified() => DEFAULT_LISTEN.ip(),
            ip => ip,
        };
        let peers = match self.peer_listen {
            Some(first) => count_up(first, self.nodes)?,
            None => {
                let port = self.listen.port().checked_add(PEER_PORT);
                let port = port.filter(|_| self.listen.port() != 0).unwrap_or(0);
                count_up(SocketAddr::new(peer_host, port), self.nodes)?
            }
        };
        let secret = self.cluster_secret_file.clone();
        let secret = secret.unwrap_or_else(|| self.storage.join(SECRET_FILE_NAME));
        let listen = count_up(self.listen, self.nodes)?;
        let addresses = listen.into_iter().zip(&peers);
        let nodes = addresses.zip(0..).map(|((listen, peer), index)| {
            let id = counted(&self.id, index)?;
            let others = peers.iter().filter(|other| *other != peer);
            Ok(Self {
                listen,
                storage: self.storage.join(id.as_str()),
                id,
                nodes: 1,
                join: others.map(ToString::to_string).collect(),
                peer_listen: Some(*peer),
                cluster_secret_file: Some(secret.clone()),
                ..self.clone()
            })
        });
        nodes.collect()
    }
}

/// Addresses with one port after the other.
fn count_up(first: SocketAddr, nodes: u32) -> Result<Vec<SocketAddr>, ConfigError> {
    let port = |index| {
        let port = u32::from(first.port()) + index;
        u16::try_from(port).ok().filter(|_| first.port() != 0)
    };
    let addresses = (0..nodes).map(|index| Some(SocketAddr::new(first.ip(), port(index)?)));
    let addresses: Option<_> = addresses.collect();
    addresses.ok_or(ConfigError::Ports { nodes, first })
}

/// The id, counted up from the number at its end, or from 1.
fn counted(id: &BrokerId, index: u32) -> Result<BrokerId, InvalidName> {
    let text = id.as_str();
    let stem = text.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = &text[stem.len()..];
    match digits.parse::<u32>() {
        Ok(first) => {
            let number = u64::from(first) + u64::from(index);
            format!("{stem}{number:0width$}", width = digits.len())
        }
        // None, or more than anybody counts to.
        Err(_) => format!("{text}{}", index + 1),
    }
    .try_into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Options;

    fn config(text: &str) -> Config {
        let options: Options = toml::from_str(text).unwrap();
        Config::new(options).unwrap()
    }

    #[test]
    fn several_nodes_count_up_and_join_one_another() {
        let nodes = |file: &str| config(file).each_node();
        let one = config("id = \"a\"");
        assert_eq!(one.each_node().unwrap(), [one]);

        let three =
            nodes("nodes = 3\nrack = \"r\"\nlisten = \"0.0.0.0:80\"\nallow_anonymous = true");
        let three = three.unwrap();
        let second = Config {
            listen: "0.0.0.0:81".parse().unwrap(),
            peer_listen: Some("127.0.0.1:1081".parse().unwrap()),
            join: vec!["127.0.0.1:1080".into(), "127.0.0.1:1082".into()],
            id: "broker2".parse().unwrap(),
            storage: "data/broker2".into(),
            cluster_secret_file: Some("data/cluster.key".into()),
            nodes: 1,
            ..three[0].clone()
        };
        assert_eq!(three[1], second);
        assert_eq!((three.len(), second.rack.as_deref()), (3, Some("r")));
        assert_eq!((second.replication, second.bootstrap), (3, false));

        let ids = |id: &str| {
            let nodes = nodes(&format!("nodes = 2\nid = \"{id}\"")).unwrap();
            nodes
                .into_iter()
                .map(|node| node.id.into())
                .collect::<Vec<String>>()
        };
        assert_eq!(ids("shop"), ["shop1", "shop2"]);
        assert_eq!(ids("node-009"), ["node-009", "node-010"]);
        assert_eq!(ids("4294967295"), ["4294967295", "4294967296"]);
        assert_eq!(ids("4294967296"), ["42949672961", "42949672962"]);
        for without_ports in [
            "listen = \"65534\"",
            "listen = \"0\"",
            "peer_listen = \"65534\"",
        ] {
            let error = nodes(&format!("nodes = 3\n{without_ports}")).unwrap_err();
            assert!(
                matches!(error, ConfigError::Ports { nodes: 3, .. }),
                "{error}"
            );
        }
    }
}
