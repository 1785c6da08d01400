//! Named tasks, joined on shutdown (layer 1).
//!
//! Everything that runs beside the request that started it is spawned here: so that a panic is
//! reported by name, and so that shutdown waits for the task instead of cutting it off.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// Spawns named tasks and ends them together. Clones share the same tasks.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    stop: CancellationToken,
    // Held only to push, prune or take the list; never across an await.
    running: Arc<Mutex<Vec<Task>>>,
}

#[derive(Debug)]
struct Task {
    name: &'static str,
    handle: JoinHandle<Ended>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Normally,
    Panicked,
}

/// Tasks that did not end as they should.
#[derive(Debug, Clone, PartialEq, Eq, Default, thiserror::Error)]
#[error("tasks that panicked: {panicked:?}; tasks that did not end in time: {late:?}")]
pub struct Unfinished {
    /// Names of tasks that panicked; each was logged when it happened.
    pub panicked: Vec<&'static str>,
    /// Names of tasks that were still running at the deadline and were aborted.
    pub late: Vec<&'static str>,
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fires when [`shutdown`](Self::shutdown) begins. Every long task listens to it.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Tells all tasks to end, without waiting for them.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Runs `task` beside the caller, inside a span of this name. A panic in it is logged by name
    /// and ends only this task.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let guarded = async move {
            match AssertUnwindSafe(task).catch_unwind().await {
                Ok(()) => Ended::Normally,
                Err(_) => {
                    tracing::error!(task = name, "task panicked");
                    Ended::Panicked
                }
            }
        };
        let handle = tokio::spawn(guarded.instrument(tracing::info_span!("task", name)));
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        // The list doubles before it is pruned, so that spawning stays cheap on average.
        if running.len() == running.capacity() {
            running.retain(|task| !task.handle.is_finished());
        }
        running.push(Task { name, handle });
    }

    /// Number of tasks that have not ended.
    pub fn running(&self) -> usize {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running
            .iter()
            .filter(|task| !task.handle.is_finished())
            .count()
    }

    /// Tells all tasks to end and waits for them, but no longer than `deadline` in all; what then
    /// still runs is aborted.
    ///
    /// # Errors
    /// The tasks that panicked or were late.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), Unfinished> {
        self.stop.cancel();
        let until = tokio::time::Instant::now() + deadline;
        let mut unfinished = Unfinished::default();
        loop {
            // A task may spawn another while it ends: go on until the list stays empty.
            let batch = {
                let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut *running)
            };
            if batch.is_empty() {
                break;
            }
            for Task { name, mut handle } in batch {
                match tokio::time::timeout_at(until, &mut handle).await {
                    Ok(Ok(Ended::Normally)) => {}
                    Ok(Ok(Ended::Panicked) | Err(_)) => unfinished.panicked.push(name),
                    Err(_) => {
                        handle.abort();
                        tracing::warn!(task = name, "task did not end in time");
                        unfinished.late.push(name);
                    }
                }
            }
        }
        if unfinished == Unfinished::default() {
            Ok(())
        } else {
            Err(unfinished)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn shutdown_tells_every_task_and_waits_for_it() {
        let tasks = Tasks::new();
        let (ended, mut has_ended) = tokio::sync::mpsc::channel(2);
        for _ in 0..2 {
            let (stop, ended) = (tasks.stopping(), ended.clone());
            tasks.spawn("listener", async move {
                stop.cancelled().await;
                ended.send(()).await.unwrap();
            });
        }
        assert_eq!(tasks.running(), 2);
        assert_eq!(tasks.shutdown(Duration::from_secs(5)).await, Ok(()));
        assert!(has_ended.try_recv().is_ok() && has_ended.try_recv().is_ok());
        assert_eq!(tasks.running(), 0);
    }

    #[tokio::test]
    async fn a_task_that_panics_or_hangs_is_named() {
        let tasks = Tasks::new();
        tasks.spawn("clumsy", async { panic!("on purpose") });
        tasks.spawn("deaf", std::future::pending());
        assert_eq!(
            tasks.shutdown(Duration::from_millis(50)).await,
            Err(Unfinished {
                panicked: vec!["clumsy"],
                late: vec!["deaf"]
            })
        );
    }

    #[tokio::test]
    async fn a_task_spawned_by_an_ending_task_is_waited_for() {
        let tasks = Tasks::new();
        let (inner, done) = (tasks.clone(), CancellationToken::new());
        let signal = done.clone();
        tasks.spawn("outer", async move {
            inner.stopping().cancelled().await;
            inner.spawn("inner", async move { signal.cancel() });
        });
        assert_eq!(tasks.shutdown(Duration::from_secs(5)).await, Ok(()));
        assert!(done.is_cancelled());
    }
}
