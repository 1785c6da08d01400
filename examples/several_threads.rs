//! Four threads send while four others receive, all through clones of one broker. Receivers share
//! one position, so each message is received by exactly one of them.
//!
//! `cargo run --example several_threads`
#![allow(clippy::print_stdout)]

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pilgrimage::Broker;
use pilgrimage::types::TopicName;
use tokio::runtime::{Handle, Runtime};

const THREADS: usize = 4;
const MESSAGES_PER_THREAD: usize = 50;
const MESSAGES: usize = THREADS * MESSAGES_PER_THREAD;

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let storage = tempfile::tempdir()?;
    let runtime = Runtime::new()?;
    let broker = runtime.block_on(Broker::new("broker1", 3, 1, storage.path()))?;
    let topic: TopicName = "work".parse()?;
    runtime.block_on(broker.create_topic(topic.as_str(), None))?;

    let left = AtomicUsize::new(MESSAGES);
    let received = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (broker, handle) = (&broker, runtime.handle());
                scope.spawn(move || send(broker, handle, thread))
            })
            .collect();
        let receivers: Vec<_> = (0..THREADS)
            .map(|_| {
                let (broker, handle, topic, left) = (&broker, runtime.handle(), &topic, &left);
                scope.spawn(move || receive(broker, handle, topic, left))
            })
            .collect();
        for sender in senders {
            sender.join().map_err(|_| "a sending thread panicked")??;
        }
        let mut received = Vec::new();
        for receiver in receivers {
            received.extend(
                receiver
                    .join()
                    .map_err(|_| "a receiving thread panicked")??,
            );
        }
        Ok::<_, Failure>(received)
    })?;

    let sent: BTreeSet<String> = (0..THREADS)
        .flat_map(|t| (0..MESSAGES_PER_THREAD).map(move |n| text(t, n)))
        .collect();
    assert_eq!(received.len(), MESSAGES);
    assert_eq!(received.into_iter().collect::<BTreeSet<_>>(), sent);
    println!(
        "{THREADS} threads sent {MESSAGES} messages, {THREADS} threads received each of them exactly once"
    );

    runtime.block_on(broker.close());
    Ok(())
}

fn text(thread: usize, number: usize) -> String {
    format!("message {number} of thread {thread}")
}

fn send(broker: &Broker, handle: &Handle, thread: usize) -> Result<(), Failure> {
    for number in 0..MESSAGES_PER_THREAD {
        handle.block_on(broker.send_message("work", text(thread, number)))?;
    }
    Ok(())
}

fn receive(
    broker: &Broker,
    handle: &Handle,
    topic: &TopicName,
    left: &AtomicUsize,
) -> Result<Vec<String>, Failure> {
    let mut received = Vec::new();
    while left.load(Ordering::Relaxed) != 0 {
        // Waits for a message, but not for ever: another thread may have taken the last one.
        let next = handle.block_on(broker.consume(topic, "workers", Duration::from_millis(100)))?;
        let Some((_, message)) = next else { continue };
        left.fetch_sub(1, Ordering::Relaxed);
        received.push(String::from_utf8(
            message.record.value.unwrap_or_default().into(),
        )?);
    }
    Ok(received)
}
