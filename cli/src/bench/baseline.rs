//! What the same machine does when it does less: the disk alone, and HTTP alone.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use futures_util::{StreamExt, stream};
use pilgrimage::api::v1;
use pilgrimage::client::{Client, ReadBatches};
use pilgrimage::types::{Offset, Partition};
use tokio::task::JoinHandle;

use super::load::{Load, Place, Wire};
use super::payload::Values;
use super::reading::Reading;
use super::report::{Latencies, Rate};
use crate::failure::Failure;

/// Most bytes that are kept in memory to be served again and again.
pub(crate) const SERVED_BYTES: usize = 64 * 1024 * 1024;
/// Bytes that the bare server hands to its socket at once.
const CHUNK: usize = 1024 * 1024;

/// A file that is appended to and synced, and nothing else.
#[derive(Debug)]
pub(crate) struct BareDisk {
    file: File,
    dir: PathBuf,
    values: Values,
    record_size: usize,
    batch: usize,
    block: Vec<u8>,
    records: u64,
}

impl BareDisk {
    /// A file in `dir` that takes `batch` records with each write. It grows through all rounds, as a
    /// log does: blocks that were used before may be faster than new ones.
    pub(crate) fn open(dir: &Path, record_size: usize, batch: usize) -> Result<Self, Failure> {
        let path = dir.join(format!("pilgrimage-baseline-{}", std::process::id()));
        let file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .open(&path)
            .map_err(|error| cannot_write(dir, &error))?;
        // Removed at once: nothing stays behind, however this ends.
        std::fs::remove_file(&path).map_err(|error| cannot_write(dir, &error))?;
        Ok(Self {
            file,
            dir: dir.to_owned(),
            values: Values::new(record_size),
            record_size,
            batch,
            block: Vec::with_capacity(record_size * batch),
            records: 0,
        })
    }

    /// Records of one write.
    pub(crate) fn batch(&self) -> usize {
        self.batch
    }

    /// Appends and syncs, one write after another, at most `turns` times and not for longer than
    /// `limit`. The rate counts the time of writing and syncing alone, not that of making the values.
    pub(crate) fn round(
        &mut self,
        turns: u64,
        limit: Duration,
    ) -> Result<(Rate, Latencies), Failure> {
        let mut latencies = Latencies::new()?;
        let (begun, mut spent, mut done) = (Instant::now(), Duration::ZERO, 0);
        while done < turns && (done == 0 || begun.elapsed() < limit) {
            let took = self.turn()?;
            latencies.note(took);
            spent += took;
            done += 1;
        }
        let records = done * self.batch as u64;
        let rate = Rate::new(records, records * self.record_size as u64, spent);
        Ok((rate, latencies))
    }

    fn turn(&mut self) -> Result<Duration, Failure> {
        self.block.clear();
        for _ in 0..self.batch {
            self.values.put(self.records, &mut self.block);
            self.records += 1;
        }
        let start = Instant::now();
        self.file
            .write_all(&self.block)
            .and_then(|()| self.file.sync_data())
            .map_err(|error| cannot_write(&self.dir, &error))?;
        Ok(start.elapsed())
    }
}

fn cannot_write(dir: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("write to {}: {error}", dir.display()))
}

/// A server that is stopped when dropped.
#[derive(Debug)]
pub(crate) struct BareServer {
    pub(crate) url: String,
    task: JoinHandle<()>,
}

impl Drop for BareServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(router: Router) -> Result<BareServer, Failure> {
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
    Ok(BareServer { url, task })
}

/// A server that reads each body to its end and answers what a node would.
pub(crate) async fn sink(load: &Load) -> Result<BareServer, Failure> {
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

/// The first batches of one partition, one after the other as they stand in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    bytes: Bytes,
    /// Of each batch the offset after it and the position after it.
    ends: Vec<(u64, usize)>,
}

impl Held {
    /// Offset after the last batch that is held.
    fn end(&self) -> u64 {
        self.ends.last().map_or(0, |(offset, _)| *offset)
    }

    /// The batches from the one that holds offset `from` on, as many as `max_bytes` has room for, and
    /// at least one.
    fn from(&self, from: u64, max_bytes: usize) -> Bytes {
        let first = self.ends.partition_point(|(offset, _)| *offset <= from);
        let position = |batches: usize| match batches {
            0 => 0,
            n => self
                .ends
                .get(n - 1)
                .map_or(self.bytes.len(), |(_, end)| *end),
        };
        let start = position(first);
        let room = start.saturating_add(max_bytes);
        let fitting = self.ends.partition_point(|(_, end)| *end <= room);
        let last = fitting.max(first + 1).min(self.ends.len());
        self.bytes.slice(start..position(last).max(start))
    }
}

type Shelf = BTreeMap<(String, u32), Held>;

/// A server that streams, from memory, the very batches that the node holds, or as many of the first of
/// each partition as [`SERVED_BYTES`] has room for, and up to which offset it holds each partition:
/// who wants to read further begins again.
pub(crate) async fn source(
    client: &Client,
    reading: &Reading,
) -> Result<(BareServer, BTreeMap<Place, u64>), Failure> {
    let (mut shelf, mut spans) = (Shelf::new(), BTreeMap::new());
    let room = SERVED_BYTES / reading.ends.len().max(1);
    for (&place, &end) in &reading.ends {
        let name = &reading.topics[place.0];
        let range = ReadBatches::range(Offset::ZERO, Offset(end));
        let mut batches = client.batches(name, Partition(place.1), range);
        let (mut bytes, mut ends) = (BytesMut::new(), Vec::new());
        while bytes.len() < room
            && let Some(batch) = batches.next().await?
        {
            if !bytes.is_empty() && room < bytes.len() + batch.bytes().len() {
                break;
            }
            bytes.extend_from_slice(batch.bytes());
            ends.push((batch.header.end_offset().0, bytes.len()));
        }
        let bytes = bytes.freeze();
        let held = Held { bytes, ends };
        spans.insert(place, held.end());
        shelf.insert((name.to_string(), place.1), held);
    }
    let router = Router::new().fallback(give).with_state(Arc::new(shelf));
    Ok((serve(router).await?, spans))
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
    let held = match path.as_slice() {
        [_, _, _, topic, _, partition, _] => partition
            .parse()
            .ok()
            .and_then(|partition| shelf.get(&((*topic).to_owned(), partition))),
        _ => None,
    };
    let (Some(held), Some(from), Some(max)) = (held, query("from"), query("max_bytes")) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let mut left = held.from(from, usize::try_from(max).unwrap_or(usize::MAX));
    let chunks = std::iter::from_fn(move || {
        let chunk = left.split_to(CHUNK.min(left.len()));
        (!chunk.is_empty()).then_some(Ok::<_, std::convert::Infallible>(chunk))
    });
    let mut response = Body::from_stream(stream::iter(chunks)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(v1::BATCHES));
    headers.insert(v1::HEADER_HIGH_WATERMARK, HeaderValue::from(held.end()));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_batches_are_served_from_the_one_that_holds_the_offset() {
        let held = Held {
            bytes: Bytes::from_static(b"aaabbbbcc"),
            ends: vec![(10, 3), (20, 7), (25, 9)],
        };
        for (from, max, expected) in [
            (0, 100, "aaabbbbcc"),
            (0, 7, "aaabbbb"),
            (0, 6, "aaa"),
            (0, 1, "aaa"),
            (9, 3, "aaa"),
            (10, 4, "bbbb"),
            (19, 5, "bbbb"),
            (19, 6, "bbbbcc"),
            (24, 0, "cc"),
            (25, 100, ""),
            (u64::MAX, usize::MAX, ""),
        ] {
            assert_eq!(held.from(from, max), expected, "from {from}, at most {max}");
        }
        assert_eq!(held.end(), 25);
    }

    #[test]
    fn the_disk_alone_ends_after_its_turns_or_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = BareDisk::open(dir.path(), 100, 3).unwrap();
        let (rate, latencies) = disk.round(5, Duration::from_secs(60)).unwrap();
        assert_eq!((rate.records, rate.bytes), (15, 1500));
        assert_eq!(latencies.percentiles().count, 5);
        let (rate, _) = disk.round(u64::MAX, Duration::ZERO).unwrap();
        assert_eq!(rate.records, 3, "a round is never empty");
        assert_eq!(disk.file.metadata().unwrap().len(), 1500 + 300);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
