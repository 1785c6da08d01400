//! Walks the batches of a segment file from the front, and finds the next intact one after damage.

use std::io::{self, BufRead};

use super::disk::{DiskFile, read_full};
use crate::record::{HEADER_LEN, Header, MAGIC};
use crate::types::{LeaderEpoch, Offset, Partition, Timestamp, TopicId, limits};

/// Bytes of the first read, which is all that a clean log needs, and of later ones.
const SMALL: usize = 4 * 1024;
const LARGE: usize = 256 * 1024;
/// Look-alikes that a search after damage examines before it gives up: payloads may hold copies
/// of batches, and each examination reads up to 32 MiB.
const CANDIDATES: usize = 1024;

/// What the next batch of a log must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expect {
    pub(super) topic_id: TopicId,
    pub(super) partition: Partition,
    /// Its base offset.
    pub(super) offset: Offset,
    /// `header_crc` of the batch before; none when that is not known.
    pub(super) prev_crc: Option<u32>,
    /// Epochs never fall.
    pub(super) epoch: LeaderEpoch,
    /// Append times never fall.
    pub(super) append_time: Timestamp,
}

impl Expect {
    /// Any batch at `offset`: nothing is known of what came before.
    pub(super) fn after_gap(topic_id: TopicId, partition: Partition, offset: Offset) -> Self {
        Self {
            topic_id,
            partition,
            offset,
            prev_crc: None,
            epoch: LeaderEpoch(0),
            append_time: Timestamp(i64::MIN),
        }
    }

    fn may_follow(&self, header: &Header) -> bool {
        header.topic_id == self.topic_id
            && header.partition == self.partition
            && self.epoch <= header.leader_epoch
            && self.append_time <= header.append_time
            && header.durable_at_append <= header.base_offset
            && header.batch_len as usize <= limits::BATCH_BYTES
            && header.base_offset < header.end_offset()
    }

    /// Whether `header` is that of the very next batch.
    pub(super) fn is_next(&self, header: &Header) -> bool {
        self.may_follow(header)
            && header.base_offset == self.offset
            && self.prev_crc.is_none_or(|crc| crc == header.prev_crc)
    }

    /// Whether `header` may stand after a damaged batch that began at the expected offset.
    fn is_later(&self, header: &Header) -> bool {
        self.may_follow(header) && self.offset < header.base_offset
    }

    pub(super) fn advance(&mut self, header: &Header) {
        self.offset = header.end_offset();
        self.prev_crc = Some(header.header_crc);
        self.epoch = header.leader_epoch;
        self.append_time = header.append_time;
    }
}

/// A buffered look at a file up to `end`.
pub(super) struct Walk<'a> {
    file: &'a dyn DiskFile,
    end: u64,
    buffer: Vec<u8>,
    start: u64,
    next_read: usize,
}

impl<'a> Walk<'a> {
    pub(super) fn new(file: &'a dyn DiskFile, end: u64) -> Self {
        Self {
            file,
            end,
            buffer: Vec::new(),
            start: 0,
            next_read: SMALL,
        }
    }

    /// Up to `want` bytes from `position` on; fewer only where the file ends.
    pub(super) fn bytes(&mut self, position: u64, want: usize) -> io::Result<&[u8]> {
        let left = usize::try_from(self.end.saturating_sub(position)).unwrap_or(usize::MAX);
        let want = want.min(left);
        let within = position
            .checked_sub(self.start)
            .and_then(|at| usize::try_from(at).ok());
        let at = match within {
            Some(at) if at <= self.buffer.len() && want <= self.buffer.len() - at => at,
            _ => {
                let len = want.max(self.next_read).min(left);
                self.next_read = LARGE;
                self.buffer.resize(len, 0);
                self.start = position;
                let have = read_full(self.file, &mut self.buffer, position)?;
                self.buffer.truncate(have);
                0
            }
        };
        let to = (at + want).min(self.buffer.len());
        Ok(&self.buffer[at..to])
    }

    /// The header at `position`, if one stands there that a leader assigned.
    pub(super) fn header(&mut self, position: u64) -> io::Result<Option<Header>> {
        let end = self.end;
        let header = Header::parse_assigned(self.bytes(position, HEADER_LEN)?).ok();
        Ok(header.filter(|header| position + u64::from(header.batch_len) <= end))
    }

    /// Whether the payload after `header` matches its checksum.
    pub(super) fn body_is_intact(&mut self, position: u64, header: &Header) -> io::Result<bool> {
        let end = position + u64::from(header.batch_len);
        let mut at = position + 76;
        let mut crc = 0;
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(LARGE).min(LARGE);
            let bytes = self.bytes(at, want)?;
            if bytes.is_empty() {
                return Ok(false);
            }
            crc = crc32c::crc32c_append(crc, bytes);
            at += bytes.len() as u64;
        }
        Ok(crc == header.body_crc)
    }

    /// The batch at `position`, if it is the expected one and whole.
    pub(super) fn expected(
        &mut self,
        position: u64,
        expect: &Expect,
    ) -> io::Result<Option<Header>> {
        match self.header(position)? {
            Some(header)
                if expect.is_next(&header) && self.body_is_intact(position, &header)? =>
            {
                Ok(Some(header))
            }
            _ => Ok(None),
        }
    }

    /// The first whole batch that begins in `[from, self.end)` and may stand after damage.
    pub(super) fn find_later(
        &mut self,
        from: u64,
        expect: &Expect,
    ) -> io::Result<Option<(u64, Header)>> {
        let mut at = from;
        let mut examined = 0;
        loop {
            let window = self.bytes(at, SMALL)?;
            if window.len() < HEADER_LEN {
                return Ok(None);
            }
            let Some(found) = find_magic(window) else {
                at += (window.len() - MAGIC.len() + 1) as u64;
                continue;
            };
            at += found as u64;
            if let Some(header) = self.header(at)?
                && expect.is_later(&header)
            {
                if self.body_is_intact(at, &header)? {
                    return Ok(Some((at, header)));
                }
                examined += 1;
                if CANDIDATES <= examined {
                    return Ok(None);
                }
            }
            at += 1;
        }
    }

    /// The batch at `position` if it is the expected one, or else the next whole one after it.
    pub(super) fn next_intact(
        &mut self,
        position: u64,
        expect: &Expect,
    ) -> io::Result<Option<(u64, Header)>> {
        match self.expected(position, expect)? {
            Some(header) => Ok(Some((position, header))),
            None => self.find_later(position + 1, expect),
        }
    }

    /// The position after the last byte in `[from, self.end)` that is not zero; `from` if all are.
    pub(super) fn end_of_data(&mut self, from: u64) -> io::Result<u64> {
        let (mut at, mut last) = (from, from);
        loop {
            let window = self.bytes(at, LARGE)?;
            if window.is_empty() {
                return Ok(last);
            }
            if let Some(found) = window.iter().rposition(|byte| *byte != 0) {
                last = at + found as u64 + 1;
            }
            at += window.len() as u64;
        }
    }

    /// Whether some 512-byte sector reads as zeros where it overlaps `[from, to)`: what a write
    /// that the power cut short leaves in preallocated space, and bit rot does not.
    pub(super) fn has_hole(&mut self, from: u64, to: u64) -> io::Result<bool> {
        const SECTOR: u64 = 512;
        // A few zeros in a row are common in payloads; at `from` itself a batch has its magic.
        const TELLING: u64 = 16;
        let mut at = from;
        while at < to {
            let end = to.min((at / SECTOR + 1) * SECTOR);
            let bytes = self.bytes(at, usize::try_from(end - at).unwrap_or(0))?;
            if (at == from || TELLING <= end - at) && bytes.iter().all(|byte| *byte == 0) {
                return Ok(true);
            }
            at = end;
        }
        Ok(false)
    }
}

fn find_magic(window: &[u8]) -> Option<usize> {
    let mut rest = window;
    loop {
        // `skip_until` runs at memchr speed; what it skips includes the byte it looks for.
        let mut reader = rest;
        let skipped = reader.skip_until(MAGIC[0]).ok()?;
        let at = window.len() - rest.len() + skipped.checked_sub(1)?;
        let here = &window[at..];
        if here.starts_with(&MAGIC) {
            return Some(at);
        }
        if here.len() < MAGIC.len() {
            return None;
        }
        rest = &window[at + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_magic_is_found_wherever_it_stands_and_nowhere_else() {
        let mut window = vec![b'P'; 100];
        assert_eq!(find_magic(&window), None);
        window.extend_from_slice(b"PLPLG\x02PLG");
        assert_eq!(find_magic(&window), None);
        window.push(1);
        assert_eq!(find_magic(&window), Some(106));
        assert_eq!(find_magic(&[]), None);
        assert_eq!(find_magic(&[0; 9]), None);
    }
}
