//! Which brokers run on this machine: one file per broker, locked for as long as it runs.
//!
//! The lock tells the living from the dead without guessing: the system drops it when the process
//! ends, however it ends. So a file that can be locked is a leftover, and the process id in one
//! that cannot is the right one to signal.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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

/// How long a broker that is starting is waited for: recovery of its logs comes before.
const START_PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// The directory of entries.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    dir: PathBuf,
}

/// A running node's own entry, which nobody else can have meanwhile; taken off when dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    path: PathBuf,
    locked: File,
}

impl Registration {
    /// Says where the broker is. Until then it is found as one that starts.
    pub(crate) fn announce(&mut self, entry: &Entry) -> std::io::Result<()> {
        self.locked.set_len(0)?;
        self.locked.rewind()?;
        self.locked.write_all(&serde_json::to_vec(entry)?)
    }
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

    /// Reserves the id for this process, until the registration is dropped or the process ends.
    pub(crate) fn register(&self, id: &BrokerId) -> Result<Registration, RegisterError> {
        let path = self.path(id);
        let io = |source| RegisterError::Io {
            dir: self.dir.clone(),
            source,
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(io)?;
        let locked = self.lock(&path, id)?;
        // What a killed predecessor said is not true of this one.
        locked.set_len(0).map_err(io)?;
        Ok(Registration { path, locked })
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
                    std::thread::sleep(PAUSE);
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

    /// The running broker of this id. One that is just starting is waited for.
    pub(crate) fn find(&self, id: &BrokerId) -> Option<Entry> {
        let begun = Instant::now();
        loop {
            match look(&self.path(id)) {
                Found::Running(entry) => return Some(entry),
                Found::Starting if begun.elapsed() < START_PATIENCE => std::thread::sleep(PAUSE),
                Found::Starting | Found::Nothing => return None,
            }
        }
    }

    /// All running brokers, by id.
    pub(crate) fn all(&self) -> Vec<Entry> {
        let Ok(files) = std::fs::read_dir(&self.dir) else {
            return Vec::new();
        };
        let mut all: Vec<_> = files
            .filter_map(|file| Some(file.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|ext| ext == "json"))
            .filter_map(|path| match look(&path) {
                Found::Running(entry) => Some(entry),
                Found::Starting | Found::Nothing => None,
            })
            .collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }
}

/// What a file of the registry stands for.
enum Found {
    Running(Entry),
    /// The process that holds the file has not said yet where it listens.
    Starting,
    /// Nobody holds the file.
    Nothing,
}

fn look(path: &Path) -> Found {
    let Ok(mut file) = File::open(path) else {
        return Found::Nothing;
    };
    // A shared lock, so that several who look at once do not take one another for the node.
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => read(&mut file).map_or(Found::Starting, Found::Running),
        Ok(()) | Err(TryLockError::Error(_)) => Found::Nothing,
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

    fn running(registry: &Registry, id: &str) -> Registration {
        let mut registration = registry.register(&entry(id).id).unwrap();
        registration.announce(&entry(id)).unwrap();
        registration
    }

    #[test]
    fn a_broker_that_starts_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::at(dir.path().to_owned());
        let mut starting = registry.register(&entry("a").id).unwrap();
        let found = std::thread::scope(|scope| {
            let finder = scope.spawn(|| registry.find(&entry("a").id));
            starting.announce(&entry("a")).unwrap();
            finder.join().unwrap()
        });
        assert_eq!(found, Some(entry("a")));
    }

    #[test]
    fn a_broker_is_found_while_it_runs_and_not_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::at(dir.path().to_owned());
        assert_eq!(registry.all(), []);
        let (a, b) = (running(&registry, "a"), running(&registry, "b"));
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
        let first = registry.register(&entry("a").id).unwrap();
        let error = registry.register(&entry("a").id).unwrap_err();
        assert!(matches!(&error, RegisterError::Busy(_)), "{error}");
        drop(first);
        let _first = running(&registry, "a");
        let error = registry.register(&entry("a").id).unwrap_err();
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
        let _a = running(&registry, "a");
        let _b = running(&registry, "b");
        assert_eq!(registry.all(), [entry("a"), entry("b")]);
    }
}
