//! The storage of a local cluster: a folder for each node, the secret, and a note of the nodes.

use std::path::Path;

use pilgrimage::cluster::ClusterSecret;
use pilgrimage::config::Config;
use pilgrimage::types::BrokerId;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// Which nodes a storage holds; written once they have met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Formed {
    pub(super) nodes: Vec<BrokerId>,
}

impl Formed {
    const FILE: &str = "local_cluster.json";

    /// None if no cluster was formed in this storage.
    pub(super) fn read(storage: &Path) -> Result<Option<Self>, Failure> {
        let path = storage.join(Self::FILE);
        let failed = |error: String| Failure::failed(format!("read {}: {error}", path.display()));
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|error| failed(error.to_string())),
            Err(error) => match error.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => Ok(None),
                _ => Err(failed(error.to_string())),
            },
        }
    }

    pub(super) fn write(&self, storage: &Path) -> std::io::Result<()> {
        // Written beside and moved over: what is read is whole.
        let new = tempfile::NamedTempFile::new_in(storage)?;
        serde_json::to_writer(&new, self)?;
        new.as_file().sync_all()?;
        new.persist(storage.join(Self::FILE))?;
        std::fs::File::open(storage)?.sync_all()
    }

    fn listed(&self) -> String {
        listed(&self.nodes)
    }
}

pub(super) fn listed(ids: &[BrokerId]) -> String {
    let ids: Vec<_> = ids.iter().map(BrokerId::as_str).collect();
    ids.join(", ")
}

/// Refuses to start a single node in the storage of several: it would be a new, empty one.
pub(crate) fn keep_out(storage: &Path) -> Result<(), Failure> {
    let Some(formed) = Formed::read(storage)? else {
        return Ok(());
    };
    let what = format!(
        "{} is the storage of several nodes: {}",
        storage.display(),
        formed.listed()
    );
    let hint = format!(
        "start them with --nodes {}, or choose another --storage",
        formed.nodes.len()
    );
    Err(Failure::failed(what).hint(hint))
}

pub(super) fn check(
    config: &Config,
    formed: Option<&Formed>,
    ids: &[BrokerId],
) -> Result<(), Failure> {
    let storage = config.storage.display();
    if config.storage.join("metadata.db").exists() {
        let what = format!("{storage} is the storage of a single node");
        return Err(Failure::failed(what).hint(
            "choose another --storage for several; --join lets further nodes join this one",
        ));
    }
    let left_out = |id: &&BrokerId| !ids.contains(id);
    match formed.and_then(|formed| Some((formed, formed.nodes.iter().find(left_out)?))) {
        None => Ok(()),
        Some((formed, id)) => {
            let known = formed.listed();
            let what = format!("{storage} holds the nodes {known}, and {id} would be left out");
            let hint = format!("start it with --nodes {}", formed.nodes.len());
            Err(Failure::failed(what).hint(hint))
        }
    }
}

/// Makes the folder and, unless it was given, the secret in it.
pub(super) fn prepare(config: &Config) -> Result<(), Failure> {
    let storage = &config.storage;
    std::fs::create_dir_all(storage).map_err(|error| {
        Failure::failed(format!(
            "the storage {} cannot be used: {error}",
            storage.display()
        ))
    })?;
    if config.cluster_secret_file.is_none() {
        ClusterSecret::read_or_create(storage)
            .map_err(|error| Failure::failed(error.to_string()))?;
    }
    Ok(())
}
