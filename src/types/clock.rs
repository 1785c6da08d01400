//! The wall clock as a seam, so that logs can be tested under a made-up time.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Timestamp;

/// Tells the wall-clock time. Used for append times, retention by time and nothing else;
/// timeouts use monotonic clocks.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch. May jump either way.
    fn now(&self) -> Timestamp;
}

/// The operating system's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}
