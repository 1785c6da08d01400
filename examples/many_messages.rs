//! A hundred thousand messages under a thousand keys: sent in requests of a thousand, read back,
//! and compared. Every message is there once, and those of one key come in the order in which they
//! were sent.
//!
//! `cargo run --release --example many_messages`
#![allow(clippy::print_stdout)]

use std::collections::HashMap;
use std::error::Error;
use std::time::Instant;

use pilgrimage::Broker;
use pilgrimage::broker::{Acks, From};
use pilgrimage::record::Record;
use pilgrimage::types::TopicName;

const MESSAGES: u64 = 100_000;
const KEYS: u64 = 1_000;
const PER_REQUEST: u64 = 1_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let storage = tempfile::tempdir()?;
    let broker = Broker::new("broker1", 3, 1, storage.path()).await?;
    let topic: TopicName = "events".parse()?;
    broker.create_topic(topic.as_str(), 8).await?;

    let started = Instant::now();
    for first in (0..MESSAGES).step_by(PER_REQUEST as usize) {
        // A key's messages go to one partition, and the records of a request that go to the same
        // partition are one batch there: appended together or not at all, with one checksum.
        let records = (first..first + PER_REQUEST)
            .map(|number| {
                let key = format!("key-{}", number % KEYS);
                (None, Record::text(number.to_string()).with_key(key))
            })
            .collect();
        let placed = broker.produce(&topic, records, Acks::All, None).await?;
        assert_eq!(placed.len() as u64, PER_REQUEST);
    }
    let sent_in = started.elapsed();

    let started = Instant::now();
    let mut reader = broker.subscribe(&topic, From::Earliest).await?;
    let mut newest: HashMap<Vec<u8>, u64> = HashMap::new();
    let mut sum = 0;
    for _ in 0..MESSAGES {
        let (_, message) = reader.next().await?.ok_or("the subscription ended early")?;
        let key = message.record.key.ok_or("a message lost its key")?.to_vec();
        let number: u64 =
            String::from_utf8(message.record.value.ok_or("a value is lost")?.into())?.parse()?;
        let before = newest.insert(key, number);
        assert!(
            before.is_none_or(|before| before + KEYS == number),
            "{number} after {before:?}"
        );
        sum += number;
    }
    let received_in = started.elapsed();

    assert_eq!(sum, MESSAGES * (MESSAGES - 1) / 2);
    assert_eq!(newest.len() as u64, KEYS);
    println!("sent {MESSAGES} messages in {sent_in:.2?}, each on stable storage when acknowledged");
    println!("received {MESSAGES} messages in {received_in:.2?}");
    println!("every message came once, and in order under each of {KEYS} keys");

    broker.close().await;
    Ok(())
}
