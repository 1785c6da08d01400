//! Sealing values with AES-256-GCM: the encryption that a producer and its consumers share,
//! so that nodes only ever see ciphertext.

use aes_gcm::aead::{Aead, Generate, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Key, Nonce};

const NONCE_LEN: usize = 12;
const VERSION: u8 = 1;

/// A 256-bit key under which values are sealed. Not printed by `Debug`; wiped when dropped.
pub struct SealingKey(Aes256Gcm);

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealingKey(..)")
    }
}

/// Why a sealed value cannot be opened, or a value cannot be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not made by [`SealingKey::seal`].
    #[error("the value is not a sealed value")]
    NotSealed,
    /// Another key, another context, or changed bytes.
    #[error("the value was sealed under another key or context, or has been changed")]
    Rejected,
}

impl SealingKey {
    /// A new key from the operating system's randomness, and its bytes to share.
    pub fn generate() -> (Self, [u8; 32]) {
        let key = Key::<Aes256Gcm>::generate();
        (Self(Aes256Gcm::new(&key)), key.into())
    }

    /// The key of these bytes.
    pub fn from_bytes(key: [u8; 32]) -> Self {
        Self(Aes256Gcm::new(&key.into()))
    }

    /// Seals `value`: version byte, random 96-bit nonce, ciphertext and tag. `context` (a topic's
    /// name, say) is not stored but must be given again to open it.
    ///
    /// # Errors
    /// [`SealError::Rejected`] when `value` is larger than AES-GCM allows (64 GiB).
    pub fn seal(&self, value: &[u8], context: &[u8]) -> Result<Vec<u8>, SealError> {
        let nonce = Nonce::generate();
        let sealed = self
            .0
            .encrypt(
                &nonce,
                Payload {
                    msg: value,
                    aad: context,
                },
            )
            .map_err(|_| SealError::Rejected)?;
        let mut out = Vec::with_capacity(1 + NONCE_LEN + sealed.len());
        out.push(VERSION);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        Ok(out)
    }

    /// Opens what [`seal`](Self::seal) made.
    ///
    /// # Errors
    /// When it is not a sealed value, or not one of this key and context.
    pub fn open(&self, sealed: &[u8], context: &[u8]) -> Result<Vec<u8>, SealError> {
        let Some((&VERSION, rest)) = sealed.split_first() else {
            return Err(SealError::NotSealed);
        };
        let Some((nonce, msg)) = rest.split_first_chunk::<NONCE_LEN>() else {
            return Err(SealError::NotSealed);
        };
        self.0
            .decrypt(&Nonce::from(*nonce), Payload { msg, aad: context })
            .map_err(|_| SealError::Rejected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_opens_only_whole_under_its_key_and_context() {
        let (key, bytes) = SealingKey::generate();
        let sealed = key.seal(b"secret", b"orders").unwrap();
        assert_eq!(
            SealingKey::from_bytes(bytes)
                .open(&sealed, b"orders")
                .unwrap(),
            b"secret"
        );
        assert_eq!(key.open(&sealed, b"payments"), Err(SealError::Rejected));
        assert!(SealingKey::generate().0.open(&sealed, b"orders").is_err());
        for at in 0..sealed.len() {
            assert!(key.open(&sealed[..at], b"orders").is_err());
            let mut flipped = sealed.clone();
            flipped[at] ^= 1;
            assert!(key.open(&flipped, b"orders").is_err());
        }
        assert_ne!(sealed, key.seal(b"secret", b"orders").unwrap());
    }
}
