//! Which records are still in the page cache.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::partition::handle::Shared;
use crate::types::Offset;

/// Remembers from which offset on records were written so recently that they are still cached.
pub(super) struct Warmth {
    pub(super) shared: Arc<Shared>,
    pub(super) marks: VecDeque<Offset>,
    pub(super) bytes: usize,
}

/// Bytes between two marks; two marks are kept, so 1 to 2 MiB of the tail count as warm.
const WARM_BYTES: usize = 1024 * 1024;

impl Warmth {
    pub(super) fn grew(&mut self, bytes: usize, end: Offset) {
        self.bytes += bytes;
        if self.bytes < WARM_BYTES {
            return;
        }
        self.bytes = 0;
        self.marks.push_back(end);
        if 2 < self.marks.len() {
            self.marks.pop_front();
        }
        if let Some(first) = self.marks.front() {
            self.shared.hot.store(first.0, Ordering::Relaxed);
        }
    }
}
