//! The copies of a partition as they lie on the disks of their nodes.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pilgrimage::storage::StdDisk;
use pilgrimage::storage::inspect;

use super::nodes::{Cluster, NAMES};

/// One copy: its batches, byte for byte, and the values in them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Replica {
    pub(super) batches: Vec<(u64, Bytes)>,
    pub(super) values: Vec<String>,
    /// What is not as it should be.
    pub(super) faults: Vec<String>,
}

impl Replica {
    /// Reads all segments. Beside a running node the newest batch may be there by half.
    pub(super) fn read(dir: &Path) -> Self {
        let mut copy = Self::default();
        let scanned = inspect::scan(&StdDisk, dir, |seen| {
            let base = seen.batch.header.base_offset.0;
            copy.batches.push((base, seen.batch.bytes().clone()));
            let unpacked = seen.batch.unpack().unwrap();
            for record in unpacked.records() {
                let record = record.unwrap();
                if record.offset.0 != copy.values.len() as u64 {
                    copy.faults.push(format!("a gap before {}", record.offset));
                }
                let text = String::from_utf8_lossy(record.value.unwrap_or_default());
                copy.values.push(text.into_owned());
            }
            true
        });
        match scanned {
            Ok(reports) => {
                let found = reports.iter().filter_map(|report| {
                    let fault = report.first_fault.as_ref()?;
                    Some(format!("{}: {}", report.path.display(), fault.fault))
                });
                copy.faults.extend(found);
            }
            Err(error) => copy.faults.push(format!("{}: {error}", dir.display())),
        }
        copy
    }
}

/// How long copies may take to become the same once all of them are in sync and nobody writes.
const PATIENCE: Duration = Duration::from_secs(30);

/// The values of a partition, after all three copies have become the same, byte for byte.
pub(super) async fn same_everywhere(cluster: &Cluster, topic: &str, partition: u32) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = tokio::time::interval(Duration::from_millis(100));
    loop {
        pause.tick().await;
        let dir = |storage: &Path| {
            let topic = storage.join("topics").join(topic);
            topic.join(partition.to_string())
        };
        let copies = cluster.seats.iter();
        let mut copies: Vec<Replica> = copies
            .map(|seat| Replica::read(&dir(&seat.storage)))
            .collect();
        let sound = copies.iter().all(|copy| copy.faults.is_empty());
        if sound && copies[0] == copies[1] && copies[0] == copies[2] {
            return copies.swap_remove(0).values;
        }
        assert!(
            Instant::now() < deadline,
            "the copies of partition {partition} differ: {}",
            difference(&copies)
        );
    }
}

fn difference(copies: &[Replica]) -> String {
    let mut told = String::new();
    for (copy, name) in copies.iter().zip(NAMES) {
        told.push_str(&format!(
            "\n{name} has {} records in {} batches, faults {:?}",
            copy.values.len(),
            copy.batches.len(),
            copy.faults
        ));
        let first = copy.batches.iter().zip(&copies[0].batches);
        if let Some((own, other)) = first.into_iter().find(|(own, other)| own != other) {
            told.push_str(&format!(
                "\n  and at offset {} other bytes than {} at {}:\n  {:?}\n  {:?}",
                own.0, NAMES[0], other.0, own.1, other.1
            ));
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn copies_that_differ_in_one_byte_are_told_apart() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let node = crate::support::Node::start_in(&one.path().join("data"), &[]).await;
        let (client, topic) = (node.client(), "t".parse().unwrap());
        for text in ["first", "second"] {
            let message = pilgrimage::client::Publish::new(text);
            let options = pilgrimage::client::ProduceOptions::default();
            client.publish(&topic, &message, &options).await.unwrap();
        }
        let id = client.topic(&topic).await.unwrap().id;
        let dir = node.storage().join("topics").join(id).join("0");
        drop(node);
        let good = Replica::read(&dir);
        assert_eq!(good.values, ["first", "second"]);
        assert_eq!(good.faults, Vec::<String>::new());
        for entry in std::fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            if entry.file_name().to_string_lossy().ends_with(".log") {
                let mut bytes = std::fs::read(entry.path()).unwrap();
                let at = bytes.windows(6).position(|six| six == b"second").unwrap();
                bytes[at] ^= 1;
                std::fs::write(two.path().join(entry.file_name()), bytes).unwrap();
            }
        }
        let bad = Replica::read(two.path());
        assert_ne!(bad, good);
        assert_eq!(bad.values, ["first"]);
        assert_eq!(bad.faults.len(), 1);
    }
}
