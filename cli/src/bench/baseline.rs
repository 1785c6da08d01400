//! What the same machine does when it does less: the disk alone, and HTTP alone.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use pilgrimage::api::v1;
use pilgrimage::client::{Client, ReadBatches};
use pilgrimage::record::Batch;
use pilgrimage::types::{Offset, Partition};
use tokio::task::JoinHandle;

use super::load::{Load, Wire};
use super::payload::Values;
use super::reading::Reading;
use super::report::{Latencies, Percentiles, Rate};
use crate::failure::Failure;

/// Longest that the disk alone is measured.
const DISK_TIME: Duration = Duration::from_secs(3);
/// Most bytes that are kept in memory to be served again.
const SERVED_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Appends `bytes` per turn to a file in `dir` and syncs it, one after another.
pub(crate) fn disk(
    dir: &Path,
    record_size: usize,
    batch: usize,
    turns: u64,
) -> Result<(Rate, Percentiles), Failure> {
    let cannot =
        |error: std::io::Error| Failure::failed(format!("write to {}: {error}", dir.display()));
    let path = dir.join(format!("pilgrimage-baseline-{}", std::process::id()));
    let mut file = OpenOptions::new()
        .create_new(true)
        .append(true)
        .open(&path)
        .map_err(cannot)?;
    // Removed at once: nothing stays behind, however this ends.
    std::fs::remove_file(&path).map_err(cannot)?;
    let values = Values::new(record_size);
    let mut latencies = Latencies::new()?;
    let mut block = Vec::with_capacity(record_size * batch);
    let (begun, mut done) = (Instant::now(), 0);
    while done < turns && begun.elapsed() < DISK_TIME {
        block.clear();
        for i in 0..batch as u64 {
            values.put(done * batch as u64 + i, &mut block);
        }
        let start = Instant::now();
        file.write_all(&block).map_err(cannot)?;
        file.sync_data().map_err(cannot)?;
        latencies.note(start.elapsed());
        done += 1;
    }
    let records = done * batch as u64;
    Ok((
        Rate::new(records, records * record_size as u64, begun.elapsed()),
        latencies.percentiles(),
    ))
}

/// A server that is stopped when dropped.
#[derive(Debug)]
pub(crate) struct Bare {
    pub(crate) url: String,
    task: JoinHandle<()>,
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(router: Router) -> Result<Bare, Failure> {
    let cannot =
        |error: std::io::Error| Failure::failed(format!("open a port for the baseline: {error}"));
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .map_err(cannot)?;
    let url = format!("http://{}", listener.local_addr().map_err(cannot)?);
    let task = tokio::spawn(async move {
        let listener = axum::serve::ListenerExt::tap_io(listener, |io| {
            let _ = io.set_nodelay(true);
        });
        let _ = axum::serve(listener, router).await;
    });
    Ok(Bare { url, task })
}

/// A server that reads each body to its end and answers what a node would.
pub(crate) async fn sink(load: &Load) -> Result<Bare, Failure> {
    let at = v1::Position {
        partition: 0,
        offset: 1_000_000,
        timestamp: 1_700_000_000_000,
    };
    let durability = v1::Ack::Fsync;
    let answer = match load.wire {
        Wire::Binary => serde_json::to_vec(&v1::ProducedBatches {
            batches: vec![v1::BatchPosition {
                partition: 0,
                base_offset: at.offset,
                count: u32::try_from(load.batch).unwrap_or(u32::MAX),
                append_time: at.timestamp,
            }],
            durability,
        }),
        Wire::Json => serde_json::to_vec(&v1::Produced {
            records: vec![at; load.batch],
            durability,
        }),
        Wire::Ndjson => serde_json::to_vec(&v1::StreamAck {
            acknowledged: load.batch as u64,
            positions: vec![at],
            durability,
            done: true,
        }),
        Wire::Publish => serde_json::to_vec(&v1::Published {
            position: Some(at),
            durability,
        }),
    };
    let answer = Bytes::from(answer?);
    let handler = move |request: Request| {
        let answer = answer.clone();
        async move {
            let mut body = request.into_body().into_data_stream();
            while let Some(chunk) = body.next().await {
                if chunk.is_err() {
                    return StatusCode::BAD_REQUEST.into_response();
                }
            }
            ([(header::CONTENT_TYPE, "application/json")], answer).into_response()
        }
    };
    serve(Router::new().fallback(handler)).await
}

type Shelf = BTreeMap<(String, u32), Vec<Batch>>;

/// A server that streams, from memory, the very batches that the node holds. None when they are
/// too many to be held.
pub(crate) async fn source(client: &Client, reading: &Reading) -> Result<Option<Bare>, Failure> {
    let mut shelf = Shelf::new();
    let mut held = 0;
    for (&(topic, partition), &end) in &reading.ends {
        let name = &reading.topics[topic];
        let range = ReadBatches::range(Offset::ZERO, Offset(end));
        let mut batches = client.batches(name, Partition(partition), range);
        let mut kept = Vec::new();
        while let Some(batch) = batches.next().await? {
            held += batch.bytes().len();
            if SERVED_BYTES_MAX < held {
                return Ok(None);
            }
            kept.push(batch);
        }
        shelf.insert((name.to_string(), partition), kept);
    }
    let router = Router::new().fallback(give).with_state(Arc::new(shelf));
    serve(router).await.map(Some)
}

async fn give(State(shelf): State<Arc<Shelf>>, request: Request) -> Response {
    let path: Vec<_> = request.uri().path().split('/').collect();
    let query = |name: &str| {
        let pairs = request.uri().query().unwrap_or_default().split('&');
        pairs
            .filter_map(|pair| pair.split_once('='))
            .find(|(n, _)| *n == name)?
            .1
            .parse::<u64>()
            .ok()
    };
    // /v1/topics/{topic}/partitions/{partition}/records
    let batches = match path.as_slice() {
        [_, _, _, topic, _, partition, _] => partition
            .parse()
            .ok()
            .and_then(|partition| shelf.get(&((*topic).to_owned(), partition))),
        _ => None,
    };
    let (Some(batches), Some(from), Some(max)) = (batches, query("from"), query("max_bytes"))
    else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let end = batches
        .last()
        .map_or(0, |batch| batch.header.end_offset().0);
    let first = batches.partition_point(|batch| batch.header.end_offset().0 <= from);
    let (mut chunks, mut left) = (Vec::new(), usize::try_from(max).unwrap_or(usize::MAX));
    for batch in &batches[first..] {
        let len = batch.bytes().len();
        if left < len && !chunks.is_empty() {
            break;
        }
        left = left.saturating_sub(len);
        chunks.push(Ok::<_, std::convert::Infallible>(batch.bytes().clone()));
    }
    let mut response = Body::from_stream(stream::iter(chunks)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(v1::BATCHES));
    headers.insert(v1::HEADER_HIGH_WATERMARK, HeaderValue::from(end));
    response
}
