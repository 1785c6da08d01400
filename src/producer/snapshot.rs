//! The state as bytes: equal states have equal bytes.

use std::collections::{HashMap, VecDeque};

use super::state::{Age, Keyed, Place, Producer, Producers, Recent, WINDOW};
use crate::types::{Offset, Timestamp, limits};

/// Takes numbers off the front of bytes.
struct Take<'a>(&'a [u8]);

impl Take<'_> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*bytes)
    }
    fn u16(&mut self) -> Option<u16> {
        self.bytes().map(u16::from_le_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_le_bytes)
    }
    fn i64(&mut self) -> Option<i64> {
        self.bytes().map(i64::from_le_bytes)
    }
    fn place(&mut self) -> Option<Place> {
        Some(Place {
            offset: Offset(self.u64()?),
            count: self.u32()?,
            append_time: Timestamp(self.i64()?),
            arrived: Timestamp(self.i64()?),
        })
    }
}

fn put_place(to: &mut Vec<u8>, place: &Place) {
    to.extend_from_slice(&place.offset.0.to_le_bytes());
    to.extend_from_slice(&place.count.to_le_bytes());
    to.extend_from_slice(&place.append_time.0.to_le_bytes());
    to.extend_from_slice(&place.arrived.0.to_le_bytes());
}

impl Producers {
    /// The state as bytes. Layout: `docs/log_format.md`, "Producers".
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut to = Vec::with_capacity(64 + self.producers.len() * 96 + self.keys.len() * 68);
        to.extend_from_slice(&self.end.0.to_le_bytes());
        to.extend_from_slice(&self.age.last.map_or(i64::MIN, |time| time.0).to_le_bytes());
        to.extend_from_slice(&self.age.ms.to_le_bytes());
        to.extend_from_slice(&(self.producers.len() as u32).to_le_bytes());
        to.extend_from_slice(&(self.keys.len() as u32).to_le_bytes());
        for (id, producer) in &self.producers {
            to.extend_from_slice(&id.to_le_bytes());
            to.extend_from_slice(&producer.at.to_le_bytes());
            to.extend_from_slice(&producer.epoch.to_le_bytes());
            to.extend_from_slice(&(producer.recent.len() as u16).to_le_bytes());
            for recent in &producer.recent {
                to.extend_from_slice(&recent.base_sequence.to_le_bytes());
                to.extend_from_slice(&recent.fingerprint.to_le_bytes());
                put_place(&mut to, &recent.place);
            }
        }
        for hash in &self.order {
            if let Some(key) = self.keys.get(hash) {
                to.extend_from_slice(hash);
                to.extend_from_slice(&key.fingerprint);
                to.extend_from_slice(&key.at.to_le_bytes());
                put_place(&mut to, &key.place);
            }
        }
        to
    }

    /// The state that gave these bytes. `None`: no state gives them.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut take = Take(bytes);
        let mut state = Self::at(Offset(take.u64()?));
        let last = take.i64()?;
        state.age = Age {
            last: (last != i64::MIN).then_some(Timestamp(last)),
            ms: take.i64()?,
        };
        let (producers, keys) = (take.u32()? as usize, take.u32()? as usize);
        if limits::PRODUCERS_PER_PARTITION < producers || limits::KEYS_PER_PARTITION < keys {
            return None;
        }
        for _ in 0..producers {
            let (id, at, epoch, count) = (take.u64()?, take.i64()?, take.u16()?, take.u16()?);
            if count == 0 || WINDOW < usize::from(count) {
                return None;
            }
            let mut recent = VecDeque::with_capacity(usize::from(count));
            for _ in 0..count {
                recent.push_back(Recent {
                    base_sequence: take.u32()?,
                    fingerprint: take.u64()?,
                    place: take.place()?,
                });
            }
            let heard = recent.back()?.place.offset;
            if state.heard.insert(heard, id).is_some() {
                return None;
            }
            let producer = Producer { epoch, at, recent };
            if state.producers.insert(id, producer).is_some() {
                return None;
            }
        }
        state.keys = HashMap::with_capacity(keys);
        for _ in 0..keys {
            let hash = take.bytes()?;
            let key = Keyed {
                fingerprint: take.bytes()?,
                at: take.i64()?,
                place: take.place()?,
            };
            state.order.push_back(hash);
            if state.keys.insert(hash, key).is_some() {
                return None;
            }
        }
        take.0.is_empty().then_some(state)
    }
}
