//! The records inside a batch.

use bytes::{BufMut, Bytes};

use super::{BatchError, Format, Record, StoredRecord, varint};
use crate::types::{Offset, Timestamp};

const FORMAT_BITS: u8 = 0b0000_0011;

/// Appends one record. Layout: `docs/log_format.md`, "Record".
pub(super) fn put_record(
    to: &mut Vec<u8>,
    scratch: &mut Vec<u8>,
    offset_delta: u32,
    timestamp_delta: i64,
    record: &Record,
) {
    scratch.clear();
    scratch.put_u8(record.format as u8);
    varint::put(scratch, offset_delta.into());
    varint::put_signed(scratch, timestamp_delta);
    let key_len = record.key.as_ref().map_or(0, |key| key.len() as u64 + 1);
    varint::put(scratch, key_len);
    if let Some(key) = &record.key {
        scratch.extend_from_slice(key);
    }
    varint::put(scratch, record.headers.len() as u64);
    for (name, value) in &record.headers {
        varint::put(scratch, name.len() as u64);
        scratch.extend_from_slice(name.as_bytes());
        varint::put(scratch, value.len() as u64);
        scratch.extend_from_slice(value);
    }
    let value_len = record
        .value
        .as_ref()
        .map_or(0, |value| value.len() as u64 + 1);
    varint::put(scratch, value_len);
    let value = record.value.as_deref().unwrap_or_default();
    varint::put(to, (scratch.len() + value.len()) as u64);
    to.extend_from_slice(scratch);
    to.extend_from_slice(value);
}

/// One record, borrowed from its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// Its place.
    pub offset: Offset,
    /// Its time.
    pub timestamp: Timestamp,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; none = tombstone.
    pub value: Option<&'a [u8]>,
    /// What the value is.
    pub format: Format,
    headers: &'a [u8],
    header_count: u32,
}

impl<'a> RecordRef<'a> {
    /// Names and values of the headers, in order.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        let mut rest = self.headers;
        // Taken apart once already when the record was parsed, so every step succeeds.
        (0..self.header_count).map_while(move |_| take_header(&mut rest))
    }

    /// Number of headers.
    pub fn header_count(&self) -> usize {
        self.header_count as usize
    }

    /// Key + value + headers, in bytes.
    pub fn size(&self) -> usize {
        self.key.map_or(0, <[u8]>::len)
            + self.value.map_or(0, <[u8]>::len)
            + self
                .headers()
                .map(|(name, value)| name.len() + value.len())
                .sum::<usize>()
    }

    /// A copy that owns its bytes.
    pub fn to_stored(&self) -> StoredRecord {
        StoredRecord {
            offset: self.offset,
            timestamp: self.timestamp,
            record: Record {
                key: self.key.map(Bytes::copy_from_slice),
                value: self.value.map(Bytes::copy_from_slice),
                format: self.format,
                headers: self
                    .headers()
                    .map(|(n, v)| (n.to_owned(), Bytes::copy_from_slice(v)))
                    .collect(),
                timestamp: Some(self.timestamp),
            },
        }
    }
}

fn take_header<'a>(rest: &mut &'a [u8]) -> Option<(&'a str, &'a [u8])> {
    let len = varint::take(rest)?;
    let name = std::str::from_utf8(varint::take_bytes(rest, len)?).ok()?;
    let len = varint::take(rest)?;
    Some((name, varint::take_bytes(rest, len)?))
}

/// Iterates over the records of an unpacked payload.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    rest: &'a [u8],
    left: u32,
    base_offset: Offset,
    base_timestamp: Timestamp,
    append_time: Option<Timestamp>,
    last_offset_delta: u32,
    next_delta: u32,
}

impl<'a> Records<'a> {
    pub(super) fn new(payload: &'a [u8], header: &super::Header) -> Self {
        let append_time =
            (header.log_flags & super::flags::APPEND_TIME != 0).then_some(header.append_time);
        Self {
            rest: payload,
            left: header.record_count,
            base_offset: header.base_offset,
            base_timestamp: header.base_timestamp,
            append_time,
            last_offset_delta: header.last_offset_delta,
            next_delta: 0,
        }
    }

    fn take_record(&mut self) -> Option<RecordRef<'a>> {
        let len = varint::take(&mut self.rest)?;
        let mut body = varint::take_bytes(&mut self.rest, len)?;
        let (&attributes, rest) = body.split_first()?;
        body = rest;
        if attributes & !FORMAT_BITS != 0 {
            return None;
        }
        let format = Format::from_bits(attributes & FORMAT_BITS)?;
        let delta = u32::try_from(varint::take(&mut body)?).ok()?;
        if delta < self.next_delta || self.last_offset_delta < delta {
            return None;
        }
        self.next_delta = delta.checked_add(1)?;
        let timestamp = self
            .base_timestamp
            .0
            .checked_add(varint::take_signed(&mut body)?)?;
        let key = match varint::take(&mut body)? {
            0 => None,
            len => Some(varint::take_bytes(&mut body, len - 1)?),
        };
        let header_count = u32::try_from(varint::take(&mut body)?).ok()?;
        let headers = body;
        for _ in 0..header_count {
            take_header(&mut body)?;
        }
        let headers = &headers[..headers.len() - body.len()];
        let value = match varint::take(&mut body)? {
            0 => None,
            len => Some(varint::take_bytes(&mut body, len - 1)?),
        };
        if !body.is_empty() {
            return None;
        }
        let offset = self.base_offset.0.checked_add(delta.into())?;
        let timestamp = self.append_time.unwrap_or(Timestamp(timestamp));
        Some(RecordRef {
            offset: Offset(offset),
            timestamp,
            key,
            value,
            format,
            headers,
            header_count,
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordRef<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return match self.rest {
                [] => None,
                _ => {
                    self.rest = &[];
                    Some(Err(BatchError::Malformed))
                }
            };
        }
        self.left -= 1;
        let record = self.take_record();
        if record.is_none() {
            (self.left, self.rest) = (0, &[]);
        }
        Some(record.ok_or(BatchError::Malformed))
    }
}
