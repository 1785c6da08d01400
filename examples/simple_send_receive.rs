//! The first steps: a broker in a directory, a topic, a message in, a message out. Then the broker
//! is closed and opened again, to show that nothing hangs on the process that wrote it.
//!
//! `cargo run --example simple_send_receive`
#![allow(clippy::print_stdout)]

use std::error::Error;

use pilgrimage::Broker;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let storage = tempfile::tempdir()?;
    let broker = Broker::new("broker1", 3, 2, storage.path()).await?;
    let topic = broker.create_topic("greetings", None).await?;
    println!(
        "created greetings with {} partitions",
        topic.settings.partitions
    );

    // When this returns, the message is on stable storage.
    broker.send_message("greetings", "Hello, World!").await?;
    let placed = broker.publish_with_ack("greetings", "Hello again!").await?;
    println!(
        "acknowledged in partition {} at offset {}",
        placed.partition, placed.offset
    );

    println!("received {:?}", receive(&broker).await?);

    // The message that is left and the position behind the first one are both on the disk.
    broker.close().await;
    drop(broker);
    let broker = Broker::new("broker1", 3, 2, storage.path()).await?;
    println!("received {:?} after a restart", receive(&broker).await?);
    assert_eq!(receive(&broker).await?, None);
    println!("nothing is left to receive");

    broker.close().await;
    Ok(())
}

/// The next message as text, if there is one.
async fn receive(broker: &Broker) -> Result<Option<String>, Box<dyn Error>> {
    let Some(message) = broker.receive_message("greetings").await? else {
        return Ok(None);
    };
    Ok(message
        .record
        .value
        .map(|value| String::from_utf8(value.into()))
        .transpose()?)
}
