//! A disk that fills: writes are refused before it is full, everything else goes on, and the node
//! recovers by itself when space returns.

use pilgrimage::client::{ProduceOptions, Publish, Read};
use pilgrimage::types::{Code, Offset, Outcome, Partition, TopicName};

use crate::support::{Node, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_records_keeps_reads_and_deletes_and_recovers_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_on_small_disk(dir.path(), "48m").await;
    let (client, options) = (node.client(), ProduceOptions::default());
    let (kept, filler): (TopicName, TopicName) =
        ("kept".parse().unwrap(), "filler".parse().unwrap());
    client
        .publish(&kept, &Publish::new("before"), &options)
        .await
        .unwrap();

    let value = vec![b'x'; 512 * 1024];
    let mut acknowledged = 0;
    let refused = loop {
        match client
            .publish(&filler, &Publish::new(value.clone()), &options)
            .await
        {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 200, "100 MiB fit on a disk of 48 MiB");
    };
    assert_eq!(refused.code(), Some(Code::InsufficientStorage), "{refused}");
    assert_eq!(refused.outcome(), Outcome::Refused);

    // Nothing half-written, nothing lost: exactly what was acknowledged is there.
    let end = client.partitions(&filler).await.unwrap().partitions[0].high_watermark;
    assert_eq!(end, acknowledged);
    let last = Read {
        from: pilgrimage::client::Start::Offset(Offset(end - 1)),
        ..Read::default()
    };
    let page = client
        .read(&filler, Some(Partition(0)), &last)
        .await
        .unwrap();
    assert_eq!(page.records.len(), 1);
    wait_until("the node says in words that its disk is full", || async {
        client
            .node()
            .await
            .is_ok_and(|node| node.state.contains("disk"))
    })
    .await;

    client.delete_topic(&filler).await.unwrap();
    wait_until("records are taken again", || async {
        client
            .publish(&kept, &Publish::new("after"), &options)
            .await
            .is_ok()
    })
    .await;
    let page = client
        .read(&kept, Some(Partition(0)), &Read::default())
        .await
        .unwrap();
    let values = page
        .records
        .iter()
        .map(|record| record.value.as_ref().unwrap().get().to_owned());
    assert_eq!(values.collect::<Vec<_>>(), ["\"before\"", "\"after\""]);
}
