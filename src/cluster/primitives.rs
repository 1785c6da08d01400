//! The primitives that the Noise protocol calls: X25519, SHA-256 and AES-256-GCM.
//!
//! All records that are replicated pass through the last one, twice. It is ring's, in assembler:
//! the portable one takes several times as long, and without optimisation hundreds of times.

use aes_gcm::aead::Generate;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey};
use sha2::{Digest, Sha256};
use snow::Error;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use x25519_dalek::{PublicKey, StaticSecret};

const TAG_BYTES: usize = 16;

/// Gives [`snow`] its primitives.
#[derive(Debug)]
pub(super) struct Primitives;

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SystemRandom))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => Some(Box::new(X25519::default())),
            _ => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        match choice {
            HashChoice::SHA256 => Some(Box::new(Sha::default())),
            _ => None,
        }
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        match choice {
            CipherChoice::AESGCM => Some(Box::new(Gcm::default())),
            _ => None,
        }
    }
}

struct SystemRandom;

impl Random for SystemRandom {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        for piece in dest.chunks_mut(32) {
            let random = <[u8; 32]>::try_generate().map_err(|_| Error::Rng)?;
            piece.copy_from_slice(random.get(..piece.len()).ok_or(Error::Rng)?);
        }
        Ok(())
    }
}

struct X25519 {
    private: StaticSecret,
    public: [u8; 32],
}

impl Default for X25519 {
    fn default() -> Self {
        Self {
            private: StaticSecret::from([0; 32]),
            public: [0; 32],
        }
    }
}

impl X25519 {
    fn take(&mut self, private: [u8; 32]) {
        self.private = StaticSecret::from(private);
        self.public = PublicKey::from(&self.private).to_bytes();
    }
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, privkey: &[u8]) {
        let mut private = [0; 32];
        for (to, from) in private.iter_mut().zip(privkey) {
            *to = *from;
        }
        self.take(private);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        let mut private = [0; 32];
        rng.try_fill_bytes(&mut private)?;
        self.take(private);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        self.private.as_bytes()
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let public = pubkey.first_chunk::<32>().ok_or(Error::Dh)?;
        let shared = self.private.diffie_hellman(&PublicKey::from(*public));
        // An all-zero result means a public key that was chosen so that anybody knows the result.
        if !shared.was_contributory() {
            return Err(Error::Dh);
        }
        let out = out.first_chunk_mut::<32>().ok_or(Error::Dh)?;
        *out = shared.to_bytes();
        Ok(())
    }
}

#[derive(Default)]
struct Sha(Sha256);

impl Hash for Sha {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0 = Sha256::new();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        let hash = std::mem::take(&mut self.0).finalize();
        for (to, from) in out.iter_mut().zip(hash.iter()) {
            *to = *from;
        }
    }
}

/// No key before [`set`](Cipher::set): then nothing can be sealed or opened.
#[derive(Default)]
struct Gcm(Option<LessSafeKey>);

/// Noise counts messages; AES-GCM takes the count as a 96-bit number, big-endian.
fn nonce(count: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    if let Some(tail) = nonce.last_chunk_mut::<8>() {
        *tail = count.to_be_bytes();
    }
    Nonce::assume_unique_for_key(nonce)
}

impl Cipher for Gcm {
    fn name(&self) -> &'static str {
        "AESGCM"
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.0 = UnboundKey::new(&AES_256_GCM, key)
            .ok()
            .map(LessSafeKey::new);
    }

    fn encrypt(&self, count: u64, authtext: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        // The length returned for what cannot be sealed is one that is no message's: shorter than
        // a tag.
        let Some(key) = &self.0 else {
            return 0;
        };
        let Some((sealed, rest)) = out.split_at_mut_checked(plaintext.len()) else {
            return 0;
        };
        let Some(tag_out) = rest.first_chunk_mut::<TAG_BYTES>() else {
            return 0;
        };
        sealed.copy_from_slice(plaintext);
        let aad = Aad::from(authtext);
        match key.seal_in_place_separate_tag(nonce(count), aad, sealed) {
            Ok(tag) => tag_out.copy_from_slice(tag.as_ref()),
            Err(_) => {
                sealed.fill(0);
                return 0;
            }
        }
        plaintext.len() + TAG_BYTES
    }

    fn decrypt(
        &self,
        count: u64,
        authtext: &[u8],
        ciphertext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        let key = self.0.as_ref().ok_or(Error::Decrypt)?;
        let (sealed, tag) = ciphertext
            .split_last_chunk::<TAG_BYTES>()
            .ok_or(Error::Decrypt)?;
        let plain = out.get_mut(..sealed.len()).ok_or(Error::Decrypt)?;
        plain.copy_from_slice(sealed);
        let aad = Aad::from(authtext);
        key.open_in_place_separate_tag(nonce(count), aad, Tag::from(*tag), plain, 0..)
            .map_err(|_| Error::Decrypt)?;
        Ok(sealed.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = hex.as_bytes().chunks(2);
        digits
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    /// The vector of the cacophony collection for this very protocol.
    #[test]
    fn a_handshake_and_its_messages_are_those_of_the_published_vector() {
        let psk: [u8; 32] =
            bytes("54686973206973206d7920417573747269616e20706572737065637469766521")
                .try_into()
                .unwrap();
        let ephemeral = [
            bytes("893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a"),
            bytes("bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b"),
        ];
        let builder = |at: usize| {
            let params = "Noise_NNpsk0_25519_AESGCM_SHA256".parse().unwrap();
            snow::Builder::with_resolver(params, Box::new(Primitives))
                .prologue(b"John Galt")
                .unwrap()
                .psk(0, &psk)
                .unwrap()
                .fixed_ephemeral_key_for_testing_only(&ephemeral[at])
        };
        let mut initiator = builder(0).build_initiator().unwrap();
        let mut responder = builder(1).build_responder().unwrap();
        let (mut message, mut payload) = ([0; 1024], [0; 1024]);
        for (initiates, text, expected) in [
            (
                true,
                "4c756477696720766f6e204d69736573",
                "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c79447c37a89fc17813788d30df2d59501d6066f5f8aecc3406bbd9829f2d24a531b1",
            ),
            (
                false,
                "4d757272617920526f746862617264",
                "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f1448088432f29d79368ef9de4e1ae7a362fb05bf0ad668e026bf5714554497b3a720461",
            ),
        ] {
            let (from, to) = if initiates {
                (&mut initiator, &mut responder)
            } else {
                (&mut responder, &mut initiator)
            };
            let sent = from.write_message(&bytes(text), &mut message).unwrap();
            assert_eq!(message[..sent], bytes(expected));
            let got = to.read_message(&message[..sent], &mut payload).unwrap();
            assert_eq!(payload[..got], bytes(text));
        }
        let mut initiator = initiator.into_transport_mode().unwrap();
        let mut responder = responder.into_transport_mode().unwrap();
        for (initiates, text, expected) in [
            (
                true,
                "462e20412e20486179656b",
                "7c01e898a6201f36aecee532e29cd0b7f8ffa29d3366ad0dce39a6",
            ),
            (
                false,
                "4361726c204d656e676572",
                "a9ff535aace3db6a1da1a7fb00fe2de2622bb373abad9fb42c00e0",
            ),
            (
                true,
                "4a65616e2d426170746973746520536179",
                "6cfc49a3e65472edc2d0152abe5ce950170a8a47c959f30bd48b5f0aacf29adbfd",
            ),
        ] {
            let (from, to) = if initiates {
                (&mut initiator, &mut responder)
            } else {
                (&mut responder, &mut initiator)
            };
            let sent = from.write_message(&bytes(text), &mut message).unwrap();
            assert_eq!(message[..sent], bytes(expected));
            let got = to.read_message(&message[..sent], &mut payload).unwrap();
            assert_eq!(payload[..got], bytes(text));
        }
    }

    #[test]
    fn a_public_key_that_makes_the_result_known_is_refused() {
        let mut dh = X25519::default();
        dh.generate(&mut SystemRandom).unwrap();
        let mut out = [0; 32];
        assert_eq!(dh.dh(&[0; 32], &mut out), Err(Error::Dh));
        assert_eq!(out, [0; 32]);
    }
}
