//! The cluster secret: what nodes of one cluster know and nobody else.

use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aes_gcm::aead::Generate;
use aes_gcm::{Aes256Gcm, Key};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

/// The file in a node's storage folder that holds a secret drawn there.
pub const FILE_NAME: &str = "cluster.key";

/// Bytes of a secret.
const LEN: usize = 32;
/// More than the text of a secret ever has; a file that is longer is something else.
const MAX_FILE_BYTES: u64 = 256;
/// Bits of a file's mode with which others than its owner reach it.
const OTHERS: u32 = 0o077;

/// 32 random bytes that every node of a cluster holds. `Debug` does not show them, and memory is
/// wiped when the last holder is gone.
#[derive(Clone)]
pub struct ClusterSecret(Zeroizing<[u8; LEN]>);

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(..)")
    }
}

/// What a key derived from the secret is for. Two purposes never share a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The pre-shared key of the connections between nodes.
    Connections,
    /// The key under which gossip is sealed.
    Gossip,
}

impl Purpose {
    const fn info(self) -> &'static [u8] {
        match self {
            Self::Connections => b"pilgrimage/connections/1",
            Self::Gossip => b"pilgrimage/gossip/1",
        }
    }
}

/// Why there is no secret. Never shows what the file holds.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read or written.
    #[error("the cluster secret in {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// Others may read the file.
    #[error(
        "the cluster secret in {} is open to other users (mode {mode:03o}); \
         run `chmod 600` on it, or draw a new one if others may have read it", path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is not the base64 text of 32 bytes.
    #[error("a cluster secret is 32 bytes in base64, and this is not: {}", from.display())]
    Malformed {
        /// The file, or the name of the setting.
        from: PathBuf,
    },
}

impl ClusterSecret {
    /// A new secret from the operating system's randomness.
    pub fn generate() -> Self {
        let key = Zeroizing::new(<[u8; LEN]>::from(Key::<Aes256Gcm>::generate()));
        Self(key)
    }

    /// The secret of its base64 text; white space around it does not count. `from` is named when
    /// it is refused.
    ///
    /// # Errors
    /// [`SecretError::Malformed`].
    pub fn from_text(text: &str, from: &Path) -> Result<Self, SecretError> {
        let malformed = || SecretError::Malformed { from: from.into() };
        let bytes = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| malformed())?);
        let bytes = <[u8; LEN]>::try_from(bytes.as_slice()).map_err(|_| malformed())?;
        Ok(Self(Zeroizing::new(bytes)))
    }

    /// The base64 text, to be handed to another node.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(*self.0))
    }

    /// Reads the secret from a file that only its owner may read.
    ///
    /// # Errors
    /// When it is not there, open to others, or no secret.
    pub fn read(path: &Path) -> Result<Self, SecretError> {
        let io = |source| SecretError::Io {
            path: path.into(),
            source,
        };
        // Mode and content of the same open file: the name may come to mean another one between.
        let file = File::open(path).map_err(io)?;
        let mode = file.metadata().map_err(io)?.permissions().mode() & 0o777;
        if mode & OTHERS != 0 {
            return Err(SecretError::Exposed {
                path: path.into(),
                mode,
            });
        }
        let mut text = Zeroizing::new(String::new());
        let read = file.take(MAX_FILE_BYTES).read_to_string(&mut text);
        match read {
            Ok(_) => Self::from_text(&text, path),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(SecretError::Malformed { from: path.into() })
            }
            Err(error) => Err(io(error)),
        }
    }

    /// Reads the secret of a storage folder, or draws one and keeps it there, durable and for its
    /// owner alone, when there is none.
    ///
    /// # Errors
    /// As [`read`](Self::read); an existing file that is no secret is never replaced.
    pub fn read_or_create(storage: &Path) -> Result<Self, SecretError> {
        let path = storage.join(FILE_NAME);
        match Self::read(&path) {
            Err(SecretError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let secret = Self::generate();
                match secret.create(storage, &path) {
                    Ok(()) => Ok(secret),
                    // Another process drew one first; that one counts.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::read(&path),
                    Err(source) => Err(SecretError::Io { path, source }),
                }
            }
            outcome => outcome,
        }
    }

    /// Writes the secret beside its name and links it there whole: a crash leaves no half secret.
    fn create(&self, storage: &Path, path: &Path) -> io::Result<()> {
        let draft = storage.join(format!("{FILE_NAME}.{}", std::process::id()));
        let written = self.write(&draft).and_then(|()| {
            // Unlike a rename, a link does not replace what another process has put there.
            fs::hard_link(&draft, path)?;
            File::open(storage)?.sync_all()
        });
        let removed = fs::remove_file(&draft);
        written.and(removed)
    }

    fn write(&self, draft: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(draft)?;
        // A draft that a crash left behind may have another mode.
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(self.to_text().as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()
    }

    /// The key for one purpose (HKDF-SHA-256).
    pub(super) fn key(&self, purpose: Purpose) -> Zeroizing<[u8; LEN]> {
        let mut key = Zeroizing::new([0; LEN]);
        let derived = Hkdf::<Sha256>::new(None, &*self.0).expand(purpose.info(), &mut *key);
        // HKDF refuses only more than 255 hashes of output, and this is one.
        debug_assert!(derived.is_ok());
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_drawn_once_and_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let first = ClusterSecret::read_or_create(folder.path()).unwrap();
        let again = ClusterSecret::read_or_create(folder.path()).unwrap();
        assert_eq!(first.to_text(), again.to_text());
        assert_ne!(first.to_text(), ClusterSecret::generate().to_text());
        let path = folder.path().join(FILE_NAME);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        ClusterSecret::read_or_create(folder.path()).unwrap();
        let path = folder.path().join(FILE_NAME);
        for mode in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let refused = ClusterSecret::read_or_create(folder.path()).unwrap_err();
            assert!(
                matches!(refused, SecretError::Exposed { mode: found, .. } if found == mode),
                "{refused}"
            );
        }
    }

    #[test]
    fn what_is_no_secret_is_refused_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        let long = "A".repeat(1 << 20);
        for bad in [b"".as_slice(), b"c2hvcnQ=", b"\xff\xfe", long.as_bytes()] {
            fs::write(&path, bad).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            let refused = ClusterSecret::read_or_create(folder.path()).unwrap_err();
            assert!(
                matches!(refused, SecretError::Malformed { .. }),
                "{refused}"
            );
            assert_eq!(fs::read(&path).unwrap(), bad);
        }
    }

    #[test]
    fn no_two_purposes_share_a_key_and_nothing_shows_it() {
        let secret = ClusterSecret::from_text(
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
            Path::new("test"),
        )
        .unwrap();
        let connections = secret.key(Purpose::Connections);
        assert_ne!(connections, secret.key(Purpose::Gossip));
        assert_eq!(connections, secret.key(Purpose::Connections));
        assert_ne!(
            connections,
            ClusterSecret::generate().key(Purpose::Connections)
        );
        assert_eq!(format!("{secret:?}"), "ClusterSecret(..)");
    }
}
