//! Producer and consumer share a key that the node never sees: values are sealed with AES-256-GCM
//! before they are sent and opened after they are received. What lies on the disk is ciphertext.
//!
//! `cargo run --example encryption`
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::Path;

use pilgrimage::Broker;
use pilgrimage::record::Record;
use pilgrimage::record::seal::{SealError, SealingKey};

const SECRET: &str = "the vault opens at 04:17";
/// Bound to every sealed value: one that was sealed for another topic does not open.
const CONTEXT: &[u8] = b"secrets";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let storage = tempfile::tempdir()?;
    let broker = Broker::new("broker1", 1, 1, storage.path()).await?;
    broker.create_topic("secrets", None).await?;

    // The key's bytes go to the consumer by a way of their own, never through the broker.
    let (producer, key) = SealingKey::generate();
    let sealed = producer.seal(SECRET.as_bytes(), CONTEXT)?;
    broker
        .send_message("secrets", Record::binary(sealed))
        .await?;

    let message = broker
        .receive_message("secrets")
        .await?
        .ok_or("nothing was received")?;
    let sealed = message.record.value.ok_or("the value is missing")?;
    assert!(!contains(&sealed, SECRET.as_bytes()));
    println!("the broker holds {} sealed bytes", sealed.len());

    let opened = SealingKey::from_bytes(key).open(&sealed, CONTEXT)?;
    println!("the consumer opened {:?}", String::from_utf8(opened)?);

    let (stranger, _) = SealingKey::generate();
    assert_eq!(stranger.open(&sealed, CONTEXT), Err(SealError::Rejected));
    println!("another key does not open it");

    let mut changed = sealed.to_vec();
    if let Some(last) = changed.last_mut() {
        *last ^= 1;
    }
    assert_eq!(producer.open(&changed, CONTEXT), Err(SealError::Rejected));
    println!("a changed byte does not open");

    broker.close().await;
    let files = read_all(storage.path())?;
    assert!(
        contains(&files, &sealed),
        "the sealed value is not where it was looked for"
    );
    assert!(!contains(&files, SECRET.as_bytes()));
    println!("no file of the broker holds the plaintext");
    Ok(())
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// The bytes of every file under `dir`.
fn read_all(dir: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        bytes.extend(if path.is_dir() {
            read_all(&path)?
        } else {
            std::fs::read(&path)?
        });
    }
    Ok(bytes)
}
