//! The records of the Raft log's files.
//!
//! ```text
//! 0  magic     4  "PRFT"
//! 4  length    4  bytes of payload
//! 8  kind      1  see Kind
//! 9  zero      3
//! 12 previous  4  checksum of the record before, in whichever file
//! 16 checksum  4  CRC-32C over bytes 0..16 and the payload
//! 20 payload      JSON
//! ```
//! Little endian. Because each record names the checksum of the one before it, a record that was
//! lost, written twice or to the wrong place breaks the chain, though it is whole in itself.

use serde::{Deserialize, Serialize};

use super::{Entry, LogId, Vote};

/// "PRFT".
const MAGIC: u32 = 0x5446_5250;
pub(super) const HEADER: usize = 20;
/// Most bytes of payload: an entry is a command, and those are small. A longer length is damage,
/// and nothing is allocated for it.
pub(super) const MAX_PAYLOAD: usize = 4 << 20;

/// What a record says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Record {
    /// The first of every file.
    Head(Head),
    /// The vote from now on.
    Vote(Vote),
    /// One more entry, after the last.
    Entry(Entry),
    /// Entries after this one are void; all of them, if there is none.
    Truncate(Option<LogId>),
    /// Entries up to this one are no longer needed.
    Purge(LogId),
}

/// What was so when a file was begun, so that the files before it can go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// The number of the file.
    pub(super) segment: u64,
    /// Whose log it is: a vote must not be cast under another's name.
    pub(super) node: u64,
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
    pub(super) last: Option<LogId>,
}

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Invalid {
    /// Nothing was written here.
    #[error("nothing is written there")]
    Blank,
    /// It is cut off, or not what was written.
    #[error("the record is torn or damaged")]
    Damaged,
    /// It is whole, but not the one that comes next.
    #[error("the record does not follow the one before it")]
    OutOfPlace,
}

/// A record with the place where it ends and its checksum, which the next one names.
pub(super) struct Decoded {
    pub(super) record: Record,
    pub(super) end: usize,
    pub(super) checksum: u32,
}

impl Record {
    fn kind(&self) -> u8 {
        match self {
            Self::Head(_) => 1,
            Self::Vote(_) => 2,
            Self::Entry(_) => 3,
            Self::Truncate(_) => 4,
            Self::Purge(_) => 5,
        }
    }

    /// Kind and payload, all that does not depend on the place.
    pub(super) fn encode(&self) -> serde_json::Result<Encoded> {
        let payload = match self {
            Self::Head(head) => serde_json::to_vec(head),
            Self::Vote(vote) => serde_json::to_vec(vote),
            Self::Entry(entry) => serde_json::to_vec(entry),
            Self::Truncate(last) => serde_json::to_vec(last),
            Self::Purge(upto) => serde_json::to_vec(upto),
        }?;
        Ok(Encoded {
            kind: self.kind(),
            payload,
        })
    }

    fn decode(kind: u8, payload: &[u8]) -> Option<Self> {
        match kind {
            1 => serde_json::from_slice(payload).ok().map(Self::Head),
            2 => serde_json::from_slice(payload).ok().map(Self::Vote),
            3 => serde_json::from_slice(payload).ok().map(Self::Entry),
            4 => serde_json::from_slice(payload).ok().map(Self::Truncate),
            5 => serde_json::from_slice(payload).ok().map(Self::Purge),
            _ => None,
        }
    }
}

/// A record that has no place yet.
#[derive(Debug)]
pub(super) struct Encoded {
    kind: u8,
    payload: Vec<u8>,
}

impl Encoded {
    /// Bytes that it takes in a file.
    pub(super) fn len(&self) -> usize {
        HEADER + self.payload.len()
    }

    pub(super) fn is_too_long(&self) -> bool {
        MAX_PAYLOAD < self.payload.len()
    }

    /// Appends it to `bytes` as the successor of the record with checksum `previous`; returns its
    /// own.
    pub(super) fn write(&self, previous: u32, bytes: &mut Vec<u8>) -> u32 {
        let start = bytes.len();
        bytes.extend_from_slice(&MAGIC.to_le_bytes());
        // Callers refuse what is too long, so nothing is lost.
        bytes.extend_from_slice(&(self.payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&[self.kind, 0, 0, 0]);
        bytes.extend_from_slice(&previous.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[start..]);
        let checksum = crc32c::crc32c_append(checksum, &self.payload);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes.extend_from_slice(&self.payload);
        checksum
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(word.try_into().ok()?))
}

/// Reads the record at `at`, which must follow the one with checksum `previous`, if that is known.
pub(super) fn read(bytes: &[u8], at: usize, previous: Option<u32>) -> Result<Decoded, Invalid> {
    let rest = bytes.get(at..).unwrap_or_default();
    if rest.iter().take(HEADER).all(|byte| *byte == 0) {
        return Err(Invalid::Blank);
    }
    let decoded = whole(bytes, at).ok_or(Invalid::Damaged)?;
    if previous.is_some_and(|previous| word(rest, 12) != Some(previous)) {
        return Err(Invalid::OutOfPlace);
    }
    Ok(decoded)
}

/// The record at `at`, whatever comes before it.
fn whole(bytes: &[u8], at: usize) -> Option<Decoded> {
    let rest = bytes.get(at..)?;
    let length = word(rest, 4)? as usize;
    if word(rest, 0)? != MAGIC || MAX_PAYLOAD < length {
        return None;
    }
    let payload = rest.get(HEADER..HEADER + length)?;
    let checksum = crc32c::crc32c_append(crc32c::crc32c(rest.get(..16)?), payload);
    if word(rest, 16)? != checksum || rest.get(9..12)? != [0, 0, 0] {
        return None;
    }
    Some(Decoded {
        record: Record::decode(*rest.get(8)?, payload)?,
        end: at + HEADER + length,
        checksum,
    })
}

/// The records that are whole at or after `from`, in a file whose chain is broken there: what a
/// report of damage can name.
pub(super) fn survivors(bytes: &[u8], from: usize) -> impl Iterator<Item = Record> + '_ {
    let mut at = from;
    std::iter::from_fn(move || {
        loop {
            let rest = bytes.get(at..)?;
            let next = rest
                .windows(4)
                .position(|four| four == MAGIC.to_le_bytes().as_slice())?;
            at += next;
            if let Some(decoded) = whole(bytes, at) {
                at = decoded.end;
                return Some(decoded.record);
            }
            at += 1;
        }
    })
}
