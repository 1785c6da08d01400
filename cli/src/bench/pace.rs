//! Wakes at exact times. The runtime's timer counts whole milliseconds, which would be measured as
//! latency of the node.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// Wakes whoever waits, to within the operating system's precision. Clones share one thread, which
/// ends with the last of them.
#[derive(Debug, Clone)]
pub(crate) struct Pacer {
    to: Sender<Alarm>,
}

#[derive(Debug)]
struct Alarm {
    at: Instant,
    wake: oneshot::Sender<()>,
}

impl PartialEq for Alarm {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}
impl Eq for Alarm {}
impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Alarm {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

impl Pacer {
    pub(crate) fn start() -> std::io::Result<Self> {
        let (to, from) = channel();
        std::thread::Builder::new()
            .name("pacer".into())
            .spawn(move || run(&from))?;
        Ok(Self { to })
    }

    /// Waits until `at`; not at all when that is past. At most one wait per connection is open at a
    /// time, which bounds the alarms.
    pub(crate) async fn until(&self, at: Instant) {
        if at <= Instant::now() {
            return;
        }
        let (wake, woken) = oneshot::channel();
        if self.to.send(Alarm { at, wake }).is_ok() {
            let _ = woken.await;
        }
    }
}

fn run(from: &Receiver<Alarm>) {
    let mut alarms = BinaryHeap::new();
    loop {
        let now = Instant::now();
        while alarms
            .peek()
            .is_some_and(|Reverse(alarm): &Reverse<Alarm>| alarm.at <= now)
        {
            if let Some(Reverse(alarm)) = alarms.pop() {
                let _ = alarm.wake.send(());
            }
        }
        let wait = alarms
            .peek()
            .map_or(Duration::from_secs(3600), |Reverse(alarm)| alarm.at - now);
        match from.recv_timeout(wait) {
            Ok(alarm) => alarms.push(Reverse(alarm)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_is_woken_early_and_past_times_do_not_wait() {
        let pacer = Pacer::start().unwrap();
        let begun = Instant::now();
        pacer.until(begun).await;
        let (sooner, later) = (
            begun + Duration::from_millis(3),
            begun + Duration::from_millis(9),
        );
        let (a, b) = tokio::join!(
            async {
                pacer.until(later).await;
                Instant::now()
            },
            async {
                pacer.until(sooner).await;
                Instant::now()
            },
        );
        assert!(later <= a && sooner <= b);
    }
}
