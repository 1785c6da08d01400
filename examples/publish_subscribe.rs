//! One publisher, several subscribers. Each subscriber reads for itself: one from the beginning,
//! one only what comes from now on. They wait without polling and see messages as they become
//! durable.
//!
//! `cargo run --example publish_subscribe`
#![allow(clippy::print_stdout)]

use std::error::Error;

use pilgrimage::Broker;
use pilgrimage::broker::{From, Subscription};
use pilgrimage::types::TopicName;

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let storage = tempfile::tempdir()?;
    let broker = Broker::new("broker1", 1, 1, storage.path()).await?;
    let topic: TopicName = "prices".parse()?;
    broker.create_topic(topic.as_str(), None).await?;

    for price in ["100", "101"] {
        broker.publish_with_ack(topic.as_str(), price).await?;
    }
    let from_the_beginning = broker.subscribe(&topic, From::Earliest).await?;
    let from_now_on = broker.subscribe(&topic, From::Latest).await?;
    let early = tokio::spawn(take(from_the_beginning, 4));
    let late = tokio::spawn(take(from_now_on, 2));

    for price in ["102", "103"] {
        let placed = broker.publish_with_ack(topic.as_str(), price).await?;
        println!("published {price} at offset {}", placed.offset);
    }

    let (early, late) = (early.await??, late.await??);
    assert_eq!(early, ["100", "101", "102", "103"]);
    assert_eq!(late, ["102", "103"]);
    println!("the subscriber from the beginning saw {}", early.join(", "));
    println!("the subscriber from now on saw {}", late.join(", "));

    // A subscription ends with its topic.
    let mut idle = broker.subscribe(&topic, From::Latest).await?;
    broker.delete_topic(&topic).await?;
    assert!(idle.next().await?.is_none());
    println!("the topic is deleted and its subscriptions have ended");

    broker.close().await;
    Ok(())
}

async fn take(mut subscription: Subscription, count: usize) -> Result<Vec<String>, Failure> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let Some((_, message)) = subscription.next().await? else {
            break;
        };
        seen.push(String::from_utf8(
            message.record.value.unwrap_or_default().into(),
        )?);
    }
    Ok(seen)
}
