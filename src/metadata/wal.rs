//! Looks for damage in SQLite's write-ahead log before SQLite does.
//!
//! To SQLite, the first frame that does not match its checksum is the end of the log: right after
//! a crash, when it is the torn end of a transaction that nobody was told of, and wrong after bit
//! rot, when acknowledged transactions follow it and would vanish without a word. The two differ
//! in what comes after: a transaction begins only once the one before it is on stable storage, so
//! whatever stands before the last transaction was complete once.
//!
//! What this cannot tell from a torn end is damage in the last transaction, and in the few header
//! bytes that mark where the last but one ended.

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
const MAGIC: u32 = 0x377f_0682;

/// Running checksum of a write-ahead log. Its words are read in the order that the magic names.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Sum {
    big_endian: bool,
    words: (u32, u32),
}

impl Sum {
    fn add(mut self, bytes: &[u8]) -> Self {
        for pair in bytes.chunks_exact(8) {
            let (first, second) = if self.big_endian {
                (big(pair, 0), big(pair, 4))
            } else {
                (big(pair, 0).swap_bytes(), big(pair, 4).swap_bytes())
            };
            let (a, b) = self.words;
            let a = a.wrapping_add(first).wrapping_add(b);
            self.words = (a, b.wrapping_add(second).wrapping_add(a));
        }
        self
    }
}

/// The big-endian number at `at`; zero beyond the end.
fn big(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    u32::from_be_bytes(word.unwrap_or_default())
}

/// Checks a whole log, as the file stands.
///
/// # Errors
/// What is damaged, in words, if acknowledged transactions would be lost.
pub(super) fn check(wal: &[u8]) -> Result<(), String> {
    if wal.len() < HEADER + FRAME_HEADER {
        return Ok(());
    }
    let magic = big(wal, 0);
    let start = Sum {
        big_endian: magic & 1 == 1,
        words: (0, 0),
    };
    let mut sum = start.add(&wal[..24]);
    let page_bytes = big(wal, 8) as usize;
    // The header is on stable storage before the first frame is written.
    if magic & !1 != MAGIC
        || sum.words != (big(wal, 24), big(wal, 28))
        || !page_bytes.is_power_of_two()
        || !(512..=65536).contains(&page_bytes)
    {
        return Err("the header of its write-ahead log is broken".into());
    }
    let salts = &wal[16..24];
    let frames: Vec<&[u8]> = wal[HEADER..]
        .chunks_exact(FRAME_HEADER + page_bytes)
        .collect();
    let same_log = |frame: &&[u8]| &frame[8..16] == salts;
    let ends_transaction = |frame: &&[u8]| big(frame, 4) != 0;

    for (at, frame) in frames.iter().enumerate() {
        sum = sum.add(&frame[..8]).add(&frame[FRAME_HEADER..]);
        let matches = sum.words == (big(frame, 16), big(frame, 20));
        if matches && same_log(frame) {
            continue;
        }
        // Frames of an earlier log carry other salts; with its own they would not be in sum.
        let mut later = frames[at..].iter().filter(|frame| same_log(frame));
        if matches || (later.any(ends_transaction) && later.next().is_some()) {
            return Err(format!(
                "frame {} of its write-ahead log is broken, and others follow",
                at + 1
            ));
        }
        return Ok(());
    }
    Ok(())
}
