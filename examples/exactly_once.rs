//! A sender that never learns whether its requests arrived, and asks again until it does: under an
//! idempotency key, and by sequence numbers. Every message is there once, also after a restart and
//! after the messages themselves are deleted.
//!
//! `cargo run --example exactly_once`
#![allow(clippy::print_stdout)]

use std::error::Error;

use pilgrimage::Broker;
use pilgrimage::broker::{Acks, From, Once, Produce};
use pilgrimage::record::{Producer, Record};
use pilgrimage::types::{Offset, Partition, TopicName};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let storage = tempfile::tempdir()?;
    let broker = Broker::new("broker1", 1, 1, storage.path()).await?;
    let topic: TopicName = "payments".parse()?;

    // A key stands for one request. What it was answered, it is answered again.
    let pay = |broker: &Broker, key: &str| {
        let (broker, topic) = (broker.clone(), topic.clone());
        let how = Produce {
            once: Once::Key(key.to_owned()),
            ..Produce::default()
        };
        async move {
            let records = vec![(None, Record::text("pay 5 to Ada"))];
            broker.produce_once(&topic, records, &how).await
        }
    };
    let first = pay(&broker, "order-17").await?;
    let again = pay(&broker, "order-17").await?;
    assert_eq!(first.places, again.places);
    println!(
        "order-17 is at offset {}, appended now: {}, {}",
        first.places[0].offset, !first.replayed, !again.replayed
    );

    // A producer counts what it sends, so that thousands of requests need no key of their own.
    let producer = broker.new_producer().await?;
    for number in 0..1_000_u32 {
        let how = Produce {
            acks: Acks::All,
            expected: None,
            once: Once::Sequence(Producer {
                base_sequence: number,
                ..producer
            }),
        };
        // Every answer but the third is lost on the way, as far as this sender knows.
        for _ in 0..3 {
            let record = vec![(Some(Partition(0)), Record::text(number.to_string()))];
            broker.produce_once(&topic, record, &how).await?;
        }
    }
    let (_, end) = broker.bounds(&topic, Partition(0)).await?;
    println!("1000 messages sent 3 times each: {} are there", end.0 - 1);

    let mut reader = broker.subscribe(&topic, From::Earliest).await?;
    reader.next().await?;
    for number in 0..1_000_u32 {
        let (_, message) = reader.next().await?.ok_or("the subscription ended early")?;
        assert_eq!(
            message.record.value.as_deref(),
            Some(number.to_string().as_bytes())
        );
    }
    println!("in the order in which they were sent");

    // What is remembered outlives the process, and the messages.
    broker.trim(&topic, Partition(0), Offset(1_001)).await?;
    broker.close().await;
    // The directory is free once nobody holds the broker any more.
    drop((reader, broker));
    let broker = Broker::new("broker1", 1, 1, storage.path()).await?;
    let again = pay(&broker, "order-17").await?;
    println!(
        "after a restart, with every message deleted: offset {}, appended now: {}",
        again.places[0].offset, !again.replayed
    );
    broker.close().await;
    Ok(())
}
