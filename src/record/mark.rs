//! What makes a batch recognisable when it is sent again: the sequence of an idempotent producer,
//! or an idempotency key.
//!
//! The producer's id, epoch and sequence stand in the header. The rest stands in the *extension*
//! between header and records, which `body_crc` covers, so that it goes to every replica and into
//! every rewrite of the log with the records that it belongs to. Layout: `docs/log_format.md`,
//! "Extension".

use sha2::{Digest, Sha256};

use super::builder::Producer;
use super::header::{HEADER_LEN, Header, HeaderError};
use super::{Format, Record};
use crate::types::Timestamp;

/// Tag and length of what was sent.
const SENT: (u8, usize) = (1, 16);
/// Tag and length of an idempotency key.
const KEY: (u8, usize) = (2, 40);

/// What was sent, where the bytes of the batch are not exactly that: the node made the batch, or
/// packed it anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Of the records as they were sent: equal if they are sent again, whatever the node makes of them.
    pub fingerprint: u64,
    /// The time that was given to records that brought none.
    pub arrived: Timestamp,
}

/// An idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Of the key: half of its SHA-256.
    pub hash: [u8; 16],
    /// Of the whole request that bore the key.
    pub fingerprint: [u8; 16],
    /// The time that was given to records that brought none.
    pub arrived: Timestamp,
}

/// The area between the header of a batch and its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extension {
    /// See [`Sent`].
    pub sent: Option<Sent>,
    /// See [`Key`].
    pub key: Option<Key>,
}

impl Extension {
    pub(super) fn put(&self, to: &mut Vec<u8>) {
        if let Some(sent) = &self.sent {
            to.extend_from_slice(&[SENT.0, SENT.1 as u8]);
            to.extend_from_slice(&sent.fingerprint.to_le_bytes());
            to.extend_from_slice(&sent.arrived.0.to_le_bytes());
        }
        if let Some(key) = &self.key {
            to.extend_from_slice(&[KEY.0, KEY.1 as u8]);
            to.extend_from_slice(&key.hash);
            to.extend_from_slice(&key.fingerprint);
            to.extend_from_slice(&key.arrived.0.to_le_bytes());
        }
    }

    pub(super) fn of(header: &Header, bytes: &[u8]) -> Result<Self, HeaderError> {
        bytes
            .get(HEADER_LEN..HEADER_LEN + usize::from(header.extension_len))
            .and_then(Self::parse)
            .ok_or(HeaderError::Field("extension"))
    }

    fn parse(mut rest: &[u8]) -> Option<Self> {
        let mut found = Self::default();
        while let Some((&[tag, len], after)) = rest.split_first_chunk::<2>() {
            let (value, after) = after.split_at_checked(len as usize)?;
            let time = |at: usize| Some(Timestamp(i64::from_le_bytes(chunk(value, at)?)));
            match (tag, value.len()) {
                SENT if found.sent.is_none() && found.key.is_none() => {
                    found.sent = Some(Sent {
                        fingerprint: u64::from_le_bytes(chunk(value, 0)?),
                        arrived: time(8)?,
                    });
                }
                KEY if found.key.is_none() => {
                    found.key = Some(Key {
                        hash: chunk(value, 0)?,
                        fingerprint: chunk(value, 16)?,
                        arrived: time(32)?,
                    });
                }
                _ => return None,
            }
            rest = after;
        }
        rest.is_empty().then_some(found)
    }
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

/// All that a batch says of who sent it and what it is a repetition of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The idempotent producer; none for a batch that has only a key.
    pub producer: Option<Producer>,
    /// Of what the producer sent: a repetition has the same.
    pub fingerprint: u64,
    /// The idempotency key.
    pub key: Option<Key>,
    /// The time that was given to records that brought none.
    pub arrived: Timestamp,
    /// How many records the batch has.
    pub count: u32,
}

/// Whether a batch's bytes have a [`Mark`]: for who has no use for the rest of the header.
pub fn is_marked(batch: &[u8]) -> bool {
    batch.first_chunk::<HEADER_LEN>().is_some_and(|header| {
        header[104..112].iter().any(|byte| *byte != 0) || header[118..120] != [0; 2]
    })
}

impl Header {
    /// Whether the batch has a [`Mark`].
    pub fn is_marked(&self) -> bool {
        self.producer_id != 0 || self.extension_len != 0
    }
}

impl Mark {
    /// The mark of the batch that begins with this header; none if it has none. `bytes` are the
    /// batch's, at least up to its records.
    ///
    /// # Errors
    /// When the extension is not one that this version knows.
    pub fn of(header: &Header, bytes: &[u8]) -> Result<Option<Self>, HeaderError> {
        if !header.is_marked() {
            return Ok(None);
        }
        let extension = Extension::of(header, bytes)?;
        Ok(Some(Self::with(header, extension)))
    }

    /// As [`Mark::of`], for an extension that is known, or lost.
    pub(crate) fn with(header: &Header, extension: Extension) -> Self {
        let Extension { sent, key } = extension;
        Self {
            producer: (header.producer_id != 0).then_some(Producer {
                id: header.producer_id,
                epoch: header.producer_epoch,
                base_sequence: header.base_sequence,
            }),
            fingerprint: sent.map_or(header.body_crc.into(), |sent| sent.fingerprint),
            arrived: match (sent, key) {
                (Some(sent), _) => sent.arrived,
                (None, Some(key)) => key.arrived,
                (None, None) => header.base_timestamp,
            },
            key,
            count: header.record_count,
        }
    }
}

/// Sums up what a request asks for, so that the same is recognised and anything else is not.
#[derive(Debug, Clone, Default)]
pub struct Fingerprint(Sha256);

impl Fingerprint {
    /// Adds a record and the partition that was asked for.
    pub fn add(&mut self, partition: Option<u32>, record: &Record) {
        // Lengths in front: bytes cannot move from one field into the next.
        let mut part = |bytes: Option<&[u8]>| {
            let len = bytes.map_or(u64::MAX, |bytes| bytes.len() as u64);
            self.0.update(len.to_le_bytes());
            self.0.update(bytes.unwrap_or_default());
        };
        part(partition.map(u32::to_le_bytes).as_ref().map(|b| &b[..]));
        part(record.key.as_deref());
        part(record.value.as_deref());
        let time = record.timestamp.map(|time| time.0.to_le_bytes());
        part(time.as_ref().map(|b| &b[..]));
        let format: Format = record.format;
        part(Some(&[format as u8]));
        for (name, value) in &record.headers {
            part(Some(name.as_bytes()));
            part(Some(value));
        }
        part(None);
    }

    /// Adds bytes as they are.
    pub fn add_bytes(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// The sum.
    pub fn finish(self) -> [u8; 16] {
        half(&self.0.finalize())
    }
}

/// What stands for an idempotency key in the log.
pub fn hash_key(key: &[u8]) -> [u8; 16] {
    half(&Sha256::digest(key))
}

fn half(digest: &[u8]) -> [u8; 16] {
    chunk(digest, 0).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::record::{BatchBuilder, Codec};

    const SENT: Sent = Sent {
        fingerprint: 0x0102_0304_0506_0708,
        arrived: Timestamp(1_700_000_000_123),
    };
    const KEY: Key = Key {
        hash: [0xaa; 16],
        fingerprint: [0xbb; 16],
        arrived: Timestamp(5),
    };

    #[test]
    fn an_extension_has_these_bytes_and_no_prefix_of_it_is_one() {
        let both = Extension {
            sent: Some(SENT),
            key: Some(KEY),
        };
        let mut bytes = Vec::new();
        both.put(&mut bytes);
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(
            hex(&bytes),
            format!(
                "011008070605040302017b68e5cf8b0100000228{}{}0500000000000000",
                "aa".repeat(16),
                "bb".repeat(16)
            )
        );
        assert_eq!(Extension::parse(&bytes), Some(both));
        for len in 1..bytes.len() {
            let whole = len == 18;
            assert_eq!(Extension::parse(&bytes[..len]).is_some(), whole, "{len}");
        }
        // What this version does not know is refused, and so is what is there twice.
        for unknown in [&[3, 0][..], &[1, 0], &bytes.repeat(2)] {
            assert_eq!(Extension::parse(unknown), None);
        }
    }

    #[test]
    fn a_mark_survives_compression_with_what_was_sent() {
        let producer = Producer {
            id: 7,
            epoch: 2,
            base_sequence: 40,
        };
        let records = |extension| {
            let mut builder = BatchBuilder::marked(0, extension);
            for i in 0..50 {
                let text = format!("a line that repeats itself, {i}");
                builder.push(&Record::text(text), Timestamp(9));
            }
            builder
        };
        let mark =
            |batch: &crate::record::Batch| Mark::of(&batch.header, batch.bytes()).unwrap().unwrap();
        let plain = records(Extension::default())
            .build(Codec::None, producer)
            .unwrap();
        let expected = Mark {
            producer: Some(producer),
            fingerprint: plain.header.body_crc.into(),
            key: None,
            arrived: Timestamp(9),
            count: 50,
        };
        assert_eq!(mark(&plain), expected);
        assert!(is_marked(plain.bytes()) && !is_marked(&plain.bytes()[..HEADER_LEN - 1]));
        // Packed once by the node and once more by recompression.
        let packed = plain.compressed(3).unwrap().unwrap();
        packed.verify().unwrap();
        assert_ne!(packed.header.body_crc, plain.header.body_crc);
        assert_eq!(mark(&packed), expected);
        let records_of = |batch: &crate::record::Batch| -> Vec<_> {
            let unpacked = batch.unpack().unwrap();
            unpacked.records().map(|r| r.unwrap().to_stored()).collect()
        };
        assert_eq!(records_of(&packed), records_of(&plain));

        let keyed = records(Extension {
            sent: None,
            key: Some(KEY),
        });
        let keyed = keyed.build(Codec::None, Producer::default()).unwrap();
        let expected = Mark {
            producer: None,
            fingerprint: keyed.header.body_crc.into(),
            key: Some(KEY),
            arrived: KEY.arrived,
            count: 50,
        };
        assert_eq!(mark(&keyed), expected);
        assert!(is_marked(keyed.bytes()));
        let nobody = records(Extension::default()).build(Codec::None, Producer::default());
        assert!(!is_marked(nobody.unwrap().bytes()));
        let packed = keyed.compressed(3).unwrap().unwrap();
        assert_eq!(mark(&packed).key, Some(KEY));
        assert!(!keyed.may_merge(&keyed) && !plain.may_merge(&plain));

        let late = plain.with_key(KEY).unwrap();
        late.verify().unwrap();
        assert_eq!(mark(&late).key, Some(KEY));
        assert_eq!(records_of(&late), records_of(&plain));
    }

    #[test]
    fn requests_that_differ_anywhere_have_other_fingerprints() {
        let of = |partition, record: &Record| {
            let mut sum = Fingerprint::default();
            sum.add(partition, record);
            sum.finish()
        };
        let base = Record::text("v").with_key("k").with_header("a", "b");
        let mut seen = vec![of(None, &base)];
        for other in [
            of(Some(0), &base),
            of(
                None,
                &Record::binary("v").with_key("k").with_header("a", "b"),
            ),
            of(None, &Record::text("kv").with_key("").with_header("a", "b")),
            of(None, &Record::text("v").with_header("a", "b")),
            of(None, &Record::text("v").with_key("k").with_header("ab", "")),
            of(
                None,
                &Record {
                    timestamp: Some(Timestamp(0)),
                    ..base.clone()
                },
            ),
            of(
                None,
                &Record {
                    value: None,
                    ..base.clone()
                },
            ),
            of(
                None,
                &Record {
                    value: Some(Bytes::new()),
                    ..base.clone()
                },
            ),
        ] {
            assert!(!seen.contains(&other));
            seen.push(other);
        }
        assert_eq!(of(None, &base), seen[0]);
    }
}
