//! Which brokers run on this machine: one file per broker, locked for as long as it runs.
//!
//! The lock tells the living from the dead without guessing: the system drops it when the process
//! ends, however it ends. So a file that can be locked is a leftover, and the process id in one
//! that cannot is the right one to signal.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pilgrimage::types::BrokerId;
use serde::{Deserialize, Serialize};

/// A broker that runs on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) id: BrokerId,
    /// Process id of the node.
    pub(crate) pid: u32,
    /// Where its API is.
    pub(crate) url: String,
    /// Its data directory.
    pub(crate) storage: PathBuf,
    /// When it was started (RFC 3339).
    pub(crate) started: String,
}

/// Longest file that is taken for an entry.
const ENTRY_BYTES_MAX: u64 = 64 * 1024;

/// The directory of entries.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    dir: PathBuf,
}

/// A running node's own entry; taken off when dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    path: PathBuf,
    _locked: File,
}

impl Drop for Registration {
    fn drop(&mut self) {
        // Still locked: nobody else can have put another file in its place.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Why a broker could not be entered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegisterError {
    #[error("a broker with the id {} is already running here (process {}, {})", .0.id, .0.pid, .0.url)]
    Running(Box<Entry>),
    #[error("a broker with the id {0} is already starting or stopping here")]
    Busy(BrokerId),
    #[error("enter the broker in {dir}: {source}")]
    Io {
        dir: PathBuf,
        source: std::io::Error,
    },
}

impl Registry {
    /// `PILGRIMAGE_STATE_DIR`, else `$XDG_RUNTIME_DIR/pilgrimage`, else `~/.local/state/pilgrimage`.
    pub(crate) fn of_user() -> Option<Self> {
        let var = |name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let dir = var("PILGRIMAGE_STATE_DIR")
            .or_else(|| var("XDG_RUNTIME_DIR").map(|dir| dir.join("pilgrimage")))
            .or_else(|| var("HOME").map(|dir| dir.join(".local/state/pilgrimage")))?;
        Some(Self::at(dir))
    }

    pub(crate) fn at(dir: PathBuf) -> Self {
        Self {
            dir: dir.join("brokers"),
        }
    }

    fn path(&self, id: &BrokerId) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    /// Enters a broker. It stays entered until the registration is dropped or the process ends.
    pub(crate) fn register(&self, entry: &Entry) -> Result<Registration, RegisterError> {
        let path = self.path(&entry.id);
        let io = |source| RegisterError::Io {
            dir: self.dir.clone(),
            source,
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(io)?;
        let mut file = self.lock(&path, &entry.id)?;
        file.set_len(0).map_err(io)?;
        file.rewind().map_err(io)?;
        let text = serde_json::to_vec(entry).map_err(|error| io(error.into()))?;
        file.write_all(&text).map_err(io)?;
        Ok(Registration {
            path,
            _locked: file,
        })
    }

    fn lock(&self, path: &Path, id: &BrokerId) -> Result<File, RegisterError> {
        let io = |source| RegisterError::Io {
            dir: self.dir.clone(),
            source,
        };
        let mut tries = 20;
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)
                .map_err(io)?;
            match file.try_lock() {
                Ok(()) => {}
                // Whoever only looks whether the broker runs holds a lock for an instant, too.
                Err(TryLockError::WouldBlock) if tries != 0 => {
                    tries -= 1;
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                }
                Err(TryLockError::WouldBlock) => {
                    let running = read(&mut file).map(Box::new);
                    return Err(running
                        .map_or_else(|| RegisterError::Busy(id.clone()), RegisterError::Running));
                }
                Err(TryLockError::Error(source)) => return Err(io(source)),
            }
            // Between opening and locking, a stopping node may have taken the file away: the lock
            // would then be on a file that nobody can find.
            let ours = file.metadata().map_err(io)?;
            let same =
                |there: std::fs::Metadata| (there.dev(), there.ino()) == (ours.dev(), ours.ino());
            if std::fs::metadata(path).is_ok_and(same) {
                return Ok(file);
            }
        }
    }

    /// The running broker of this id.
    pub(crate) fn find(&self, id: &BrokerId) -> Option<Entry> {
        live(&self.path(id))
    }

    /// All running brokers, by id.
    pub(crate) fn all(&self) -> Vec<Entry> {
        let Ok(files) = std::fs::read_dir(&self.dir) else {
            return Vec::new();
        };
        let mut all: Vec<_> = files
            .filter_map(|file| Some(file.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|ext| ext == "json"))
            .filter_map(|path| live(&path))
            .collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }
}

/// The entry in this file, if the process that wrote it still runs.
fn live(path: &Path) -> Option<Entry> {
    let mut file = File::open(path).ok()?;
    // A shared lock, so that several who look at once do not take one another for the node.
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => read(&mut file),
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}

fn read(file: &mut File) -> Option<Entry> {
    let mut text = Vec::new();
    file.take(ENTRY_BYTES_MAX).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str) -> Entry {
        Entry {
            id: id.parse().unwrap(),
            pid: std::process::id(),
            url: "http://127.0.0.1:1".into(),
            storage: "/data".into(),
            started: "2026-01-01T00:00:00Z".into(),
        }
    }

    #[test]
    fn a_broker_is_found_while_it_runs_and_not_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::at(dir.path().to_owned());
        assert_eq!(registry.all(), []);
        let (a, b) = (
            registry.register(&entry("a")).unwrap(),
            registry.register(&entry("b")).unwrap(),
        );
        assert_eq!(registry.find(&entry("a").id), Some(entry("a")));
        assert_eq!(registry.all(), [entry("a"), entry("b")]);
        drop(a);
        assert_eq!(registry.all(), [entry("b")]);
        drop(b);
        assert_eq!(registry.find(&entry("b").id), None);
    }

    #[test]
    fn an_id_runs_once() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::at(dir.path().to_owned());
        let _first = registry.register(&entry("a")).unwrap();
        let error = registry.register(&entry("a")).unwrap_err();
        assert!(
            matches!(&error, RegisterError::Running(running) if **running == entry("a")),
            "{error}"
        );
    }

    #[test]
    fn leftovers_of_a_killed_node_and_foreign_files_are_not_brokers_and_do_not_stand_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::at(dir.path().to_owned());
        std::fs::create_dir_all(&registry.dir).unwrap();
        let leftover = serde_json::to_vec(&entry("a")).unwrap();
        std::fs::write(registry.path(&entry("a").id), leftover).unwrap();
        std::fs::write(registry.dir.join("b.json"), "{").unwrap();
        std::fs::create_dir(registry.dir.join("c.json")).unwrap();
        assert_eq!(registry.all(), []);
        let _a = registry.register(&entry("a")).unwrap();
        let _b = registry.register(&entry("b")).unwrap();
        assert_eq!(registry.all(), [entry("a"), entry("b")]);
    }
}
