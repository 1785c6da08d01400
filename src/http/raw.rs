//! Records without a wrapping: one value as it was sent, or whole batches as they stand on disk.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::unfold;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::App;
use super::error::ApiError;
use super::extract::{PathOffset, PathPartition, Topic};
use super::read::{Wanted, put_marks};
use super::scan::{Bounds, Filter, From, Scan, Sink, Step};
use crate::api::v1::{
    BATCHES, HEADER_HIGH_WATERMARK, HEADER_KEY, HEADER_OFFSET, HEADER_PARTITION, HEADER_PREFIX,
    HEADER_TIMESTAMP, Problem,
};
use crate::broker::{Broker, FetchError, From as Begin};
use crate::record::{Format, Header, RecordRef, StoredRecord};
use crate::types::{Code, Offset, Partition, TopicName, limits};

/// Takes the first record that comes.
#[derive(Default)]
struct First(Option<(Partition, StoredRecord)>);

impl Sink for First {
    fn put(&mut self, partition: Partition, record: &RecordRef<'_>, _: &dyn Fn() -> String) {
        self.0
            .get_or_insert_with(|| (partition, record.to_stored()));
    }
}

/// One record's value, exactly as it was sent.
#[utoipa::path(get, path = "/v1/topics/{topic}/partitions/{partition}/records/{offset}", tag = "Records",
    params(
        ("topic" = String, Path, description = "Name of the topic"),
        ("partition" = u32, Path, description = "Index of the partition"),
        ("offset" = u64, Path, description = "Offset of the record"),
    ),
    responses(
        (status = 200, description = "The value, with the content type it came with", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 204, description = "The record is a tombstone"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 410, description = "The record is deleted", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn get_record(
    State(app): State<Arc<App>>,
    Topic(topic): Topic,
    PathPartition(partition): PathPartition,
    PathOffset(offset): PathOffset,
) -> Result<Response, ApiError> {
    let not_found = || {
        ApiError::new(
            Code::RecordNotFound,
            format!("{topic}/{partition} has no record at offset {offset}"),
        )
    };
    let (start, end) = app.broker.bounds(&topic, partition).await?;
    if end <= offset && start <= offset {
        return Err(not_found());
    }
    let from = From::Every(Begin::Offset(offset));
    let bounds = Bounds {
        records: 1,
        bytes: 1,
    };
    let mut scan = Scan::begin(
        app.broker.clone(),
        topic.clone(),
        Some(partition),
        &from,
        Filter::default(),
        bounds,
    )
    .await?;
    let mut first = First::default();
    scan.step(&mut first).await?;
    match first.0 {
        Some((partition, record)) if record.offset == offset => Ok(raw(partition, record, &scan)),
        _ => Err(not_found()),
    }
}

/// The first record that a read finds.
pub(super) async fn one_record(
    app: Arc<App>,
    topic: TopicName,
    partition: Option<Partition>,
    wanted: Wanted,
) -> Result<Response, ApiError> {
    if wanted.limit != Some(1) || wanted.follow {
        return Err(ApiError::invalid(
            "application/octet-stream is one record's value: say limit=1",
        ));
    }
    let until = Instant::now() + wanted.wait;
    let bounds = Bounds {
        records: 1,
        bytes: wanted.max_bytes,
    };
    let mut scan = Scan::begin(
        app.broker.clone(),
        topic.clone(),
        partition,
        &wanted.from,
        wanted.filter,
        bounds,
    )
    .await?;
    let mut first = First::default();
    loop {
        let step = scan.step(&mut first).await?;
        if let Some((partition, record)) = first.0 {
            return Ok(raw(partition, record, &scan));
        }
        let more = match step {
            Step::Went => true,
            Step::Full => false,
            Step::CaughtUp => tokio::select! {
                more = scan.wait() => more,
                () = tokio::time::sleep_until(until) => false,
                () = app.stop.cancelled() => false,
            },
        };
        if !more {
            return Err(ApiError::new(
                Code::RecordNotFound,
                format!("topic {topic} has no such record yet"),
            ));
        }
    }
}

/// A browser that is given it does nothing with it but save it.
const SANDBOX: HeaderValue =
    HeaderValue::from_static("sandbox; default-src 'none'; frame-ancestors 'none'");

fn raw(partition: Partition, stored: StoredRecord, scan: &Scan) -> Response {
    let record = stored.record;
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    let own_kind = record
        .headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    let kind = own_kind.and_then(|(_, kind)| HeaderValue::from_bytes(kind).ok());
    headers.insert(
        header::CONTENT_TYPE,
        kind.unwrap_or(HeaderValue::from_static(match record.format {
            Format::Json => "application/json",
            Format::Text => "text/plain; charset=utf-8",
            Format::Binary => "application/octet-stream",
        })),
    );
    headers.insert(header::CONTENT_SECURITY_POLICY, SANDBOX);
    headers.insert(
        header::CONTENT_DISPOSITION,
        HeaderValue::from_static("attachment"),
    );
    headers.insert(HEADER_PARTITION, partition.0.into());
    headers.insert(HEADER_OFFSET, stored.offset.0.into());
    headers.insert(HEADER_TIMESTAMP, stored.timestamp.0.into());
    put_marks(headers, &scan.next(), scan.high_watermark());
    if let Some(key) = &record.key
        && key.iter().all(|byte| (b' '..=b'~').contains(byte))
        && let Ok(key) = HeaderValue::from_bytes(key)
    {
        headers.insert(HEADER_KEY, key);
    }
    put_record_headers(headers, &record.headers);
    match record.value {
        Some(value) => *response.body_mut() = Body::from(value),
        None => *response.status_mut() = StatusCode::NO_CONTENT,
    }
    response
}

/// Gives record headers back under names that mean nothing to HTTP; those that cannot be written
/// as an HTTP header are left to the other forms.
fn put_record_headers(headers: &mut HeaderMap, record: &[(String, Bytes)]) {
    for (name, value) in record {
        let name = if name.starts_with("ce-") {
            name.clone()
        } else {
            format!("{HEADER_PREFIX}{name}")
        };
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_bytes(value),
        ) {
            headers.append(name, value);
        }
    }
}

/// Bytes of batches that are read and sent on at once.
const CHUNK: usize = 1024 * 1024;

/// Batches on their way from the log to a client.
struct Batches {
    broker: Broker,
    topic: TopicName,
    partition: Partition,
    at: Offset,
    high_watermark: Offset,
    bytes_left: usize,
    records_left: u64,
    progress: watch::Receiver<u64>,
    stop: CancellationToken,
    follow: bool,
}

impl Batches {
    fn is_full(&self) -> bool {
        self.bytes_left == 0 || self.records_left == 0
    }

    /// The next batches; empty at the end of what readers may see, or when all is read.
    async fn next(&mut self) -> Result<Bytes, FetchError> {
        if self.is_full() {
            return Ok(Bytes::new());
        }
        self.progress.borrow_and_update();
        let want = self.bytes_left.min(CHUNK);
        let fetched = self
            .broker
            .fetch(&self.topic, self.partition, self.at, want)
            .await?;
        let mut batches = fetched.batches;
        let mut kept = 0;
        while let Ok(header) = Header::parse(&batches[kept..]) {
            if self.records_left == 0 {
                break;
            }
            let before = self.at.0.saturating_sub(header.base_offset.0);
            self.records_left = self
                .records_left
                .saturating_sub(u64::from(header.record_count).saturating_sub(before));
            self.at = header.end_offset();
            kept += header.batch_len as usize;
        }
        batches.truncate(kept);
        self.high_watermark = fetched.high_watermark;
        self.bytes_left = self.bytes_left.saturating_sub(kept);
        Ok(batches)
    }

    async fn wait(&mut self, until: Option<Instant>) -> bool {
        let time_is_up = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            more = self.progress.changed() => more.is_ok(),
            () = time_is_up => false,
            () = self.stop.cancelled() => false,
        }
    }

    async fn next_chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            let batches = self.next().await?;
            if !batches.is_empty() {
                return Ok(Some(batches));
            }
            if !self.follow || self.is_full() || !self.wait(None).await {
                return Ok(None);
            }
        }
    }
}

/// Batches as they stand in the log. The first may begin below the offset that was asked for. The
/// answer says where the next read begins, unless it is longer than one chunk: then the last batch does.
pub(super) async fn batches(
    app: Arc<App>,
    topic: TopicName,
    partition: Partition,
    wanted: Wanted,
) -> Result<Response, ApiError> {
    let progress = app.broker.progress(&topic)?;
    let begin = match &wanted.from {
        From::Every(begin) => *begin,
        From::Each(each) => match each[..] {
            [(named, offset)] if named == partition => Begin::Offset(offset),
            _ => {
                return Err(ApiError::invalid(
                    "from must name an offset of the partition that is read",
                ));
            }
        },
    };
    let at = app.broker.resolve(&topic, partition, begin).await?;
    let (_, high_watermark) = app.broker.bounds(&topic, partition).await?;
    let mut batches = Batches {
        broker: app.broker.clone(),
        topic,
        partition,
        at,
        high_watermark,
        bytes_left: if wanted.follow {
            usize::MAX
        } else {
            wanted.max_bytes
        },
        records_left: wanted.limit.map_or(u64::MAX, |limit| limit as u64),
        progress,
        stop: app.stop.clone(),
        follow: wanted.follow,
    };
    let until = Instant::now() + wanted.wait;
    let mut first = Bytes::new();
    if !wanted.follow {
        first = batches.next().await?;
        while first.is_empty() && batches.wait(Some(until)).await {
            first = batches.next().await?;
        }
    }
    let whole = !wanted.follow && (batches.is_full() || batches.at == batches.high_watermark);
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(BATCHES));
    if whole || first.is_empty() {
        put_marks(headers, &batches.at.to_string(), batches.high_watermark.0);
    } else {
        headers.insert(HEADER_HIGH_WATERMARK, batches.high_watermark.0.into());
    }
    let is_streamed = !whole && (wanted.follow || !first.is_empty());
    *response.body_mut() = if is_streamed {
        stream(batches, first)
    } else {
        Body::from(first)
    };
    Ok(response)
}

fn stream(batches: Batches, first: Bytes) -> Body {
    Body::from_stream(unfold((Some(batches), first), |(batches, first)| async {
        let mut batches = batches?;
        if !first.is_empty() {
            return Some((Ok(first), (Some(batches), Bytes::new())));
        }
        match batches.next_chunk().await {
            Ok(chunk) => chunk.map(|chunk| (Ok(chunk), (Some(batches), Bytes::new()))),
            Err(error) => Some((Err(ApiError::from(error)), (None, Bytes::new()))),
        }
    }))
}

/// Bounds of this file that documentation quotes.
const _: () = assert!(CHUNK <= limits::READ_BYTES_MAX);
