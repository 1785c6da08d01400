//! `GET …/records`: pages, lines and events over one partition or all of a topic.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::unfold;
use serde::Deserialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::App;
use super::direct::Direct;
use super::error::ApiError;
use super::extract::{Params, PathPartition, Topic, cut, plain_number};
use super::raw;
use super::render::{Layout, put_record};
use super::scan::{Bounds, Filter, From, Scan, Sink, Step};
use crate::api::v1::{
    BATCHES, HEADER_HIGH_WATERMARK, HEADER_NEXT, NDJSON, Problem, Record, RecordPage, SSE,
};
use crate::record::RecordRef;
use crate::types::{Code, Partition, TopicName, limits};

/// Where to begin, how much to read, how long to wait, what to let through.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ReadParams {
    /// `earliest` (the default), `latest`, an offset, `timestamp:MILLISECONDS` (or RFC 3339), or
    /// what an earlier answer gave as `next`.
    pub(super) from: Option<String>,
    /// Most records, 1 to 100,000; absent = 100, or unbounded with `follow`.
    pub(super) limit: Option<usize>,
    /// Most bytes to read, up to 64 MiB; absent = 1 MiB. One batch is always read whole.
    pub(super) max_bytes: Option<usize>,
    /// How long to wait for the first record, such as `10s` or `500ms`; at most 60 s.
    pub(super) wait: Option<String>,
    /// Go on for ever: for lines and events.
    pub(super) follow: Option<bool>,
    /// Only records with this key.
    pub(super) key: Option<String>,
    /// Only records with this header: `NAME:VALUE`.
    pub(super) header: Option<String>,
    /// Only JSON records that have this value there: `/POINTER:VALUE`.
    pub(super) json: Option<String>,
}

/// What to read, checked.
pub(super) struct Wanted {
    pub(super) from: From,
    pub(super) limit: Option<usize>,
    pub(super) max_bytes: usize,
    pub(super) wait: Duration,
    pub(super) follow: bool,
    pub(super) filter: Filter,
}

impl Wanted {
    fn new(params: ReadParams, headers: &HeaderMap) -> Result<Self, ApiError> {
        let within = |name: &str, value: usize, max: usize| {
            if (1..=max).contains(&value) {
                return Ok(value);
            }
            Err(ApiError::invalid(format!(
                "{name} must be between 1 and {max}"
            )))
        };
        let limit = params
            .limit
            .map(|limit| within("limit", limit, limits::READ_RECORDS_MAX))
            .transpose()?;
        let max_bytes = params.max_bytes.unwrap_or(limits::READ_BYTES_DEFAULT);
        // An event stream that broke off goes on where it was.
        let from = match headers.get("last-event-id") {
            Some(id) => Some(
                id.to_str()
                    .map_err(|_| ApiError::invalid("Last-Event-ID is not a position"))?,
            ),
            None => params.from.as_deref(),
        };
        Ok(Self {
            from: From::parse(from.unwrap_or("earliest"))?,
            limit,
            max_bytes: within("max_bytes", max_bytes, limits::READ_BYTES_MAX)?,
            wait: params
                .wait
                .as_deref()
                .map(duration)
                .transpose()?
                .unwrap_or_default(),
            follow: params.follow.unwrap_or(false),
            filter: Filter::parse(params.key, params.header.as_deref(), params.json.as_deref())?,
        })
    }
}

/// `500ms`, `10s` or `1m`.
fn duration(text: &str) -> Result<Duration, ApiError> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        _ => None,
    };
    let millis = plain_number::<u64>(digits)
        .zip(unit)
        .and_then(|(number, unit)| number.checked_mul(unit));
    match millis {
        Some(millis) if millis <= limits::READ_WAIT_MS_MAX => Ok(Duration::from_millis(millis)),
        _ => Err(ApiError::invalid(format!(
            "wait {:?} is not a time such as 500ms or 10s of at most {} s",
            cut(text),
            limits::READ_WAIT_MS_MAX / 1000
        ))),
    }
}

/// The forms in which records are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Page,
    Lines,
    Events,
    Batches,
    Raw,
}

/// The form that the client likes best among those there are.
fn shape(headers: &HeaderMap, follow: bool) -> Result<Shape, ApiError> {
    let default = if follow { Shape::Lines } else { Shape::Page };
    let mut best: Option<(f32, Shape)> = None;
    let mut asked = false;
    for value in headers.get_all(header::ACCEPT) {
        for range in value.to_str().unwrap_or_default().split(',') {
            asked = true;
            let (kind, quality) = media_range(range);
            let shape = match kind.as_str() {
                "application/json" => Shape::Page,
                "application/x-ndjson" => Shape::Lines,
                "text/event-stream" => Shape::Events,
                "application/octet-stream" => Shape::Raw,
                BATCHES => Shape::Batches,
                "*/*" | "application/*" => default,
                _ => continue,
            };
            if 0.0 < quality && best.is_none_or(|(other, _)| other < quality) {
                best = Some((quality, shape));
            }
        }
    }
    match best {
        None if asked => Err(ApiError::new(
            Code::NotAcceptable,
            format!(
                "records are given as application/json, {NDJSON}, {SSE}, {BATCHES} or, singly, as application/octet-stream"
            ),
        )),
        None => Ok(default),
        Some((_, Shape::Page)) if follow => Err(ApiError::new(
            Code::NotAcceptable,
            format!("follow=true never ends: ask for {NDJSON} or {SSE}"),
        )),
        Some((_, shape)) => Ok(shape),
    }
}

fn media_range(range: &str) -> (String, f32) {
    let mut parts = range.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
    let quality = parts
        .find_map(|part| part.strip_prefix("q="))
        .map_or(1.0, |q| q.parse().unwrap_or(0.0));
    (kind, quality)
}

/// Reads records of all partitions of a topic.
///
/// As a page (`application/json`), as lines (`application/x-ndjson`), as events
/// (`text/event-stream`; `Last-Event-ID` resumes), or one record raw (`application/octet-stream`
/// with `limit=1`).
#[utoipa::path(get, path = "/v1/topics/{topic}/records", tag = "Records",
    params(("topic" = String, Path, description = "Name of the topic"), ReadParams),
    responses(
        (status = 200, description = "In the form that Accept names", content(
            (RecordPage = "application/json"), (Record = "application/x-ndjson"), (String = "text/event-stream"),
            (Vec<u8> = "application/octet-stream"),
        )),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 406, body = Problem, content_type = "application/problem+json"),
        (status = 410, description = "The records there are deleted", body = Problem, content_type = "application/problem+json"),
        (status = 416, description = "The offset lies beyond the end", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The records there are damaged and are not served", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn read_topic(
    State(app): State<Arc<App>>,
    Topic(topic): Topic,
    Params(params): Params<ReadParams>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    read(app, topic, None, params, &headers).await
}

/// Reads records of one partition.
///
/// As for a topic; also as batches in the log's own layout (`application/vnd.pilgrimage.batches`).
#[utoipa::path(get, path = "/v1/topics/{topic}/partitions/{partition}/records", tag = "Records",
    params(
        ("topic" = String, Path, description = "Name of the topic"),
        ("partition" = u32, Path, description = "Index of the partition"),
        ReadParams,
    ),
    responses(
        (status = 200, description = "In the form that Accept names", content(
            (RecordPage = "application/json"), (Record = "application/x-ndjson"), (String = "text/event-stream"),
            (Vec<u8> = "application/octet-stream"), (Vec<u8> = "application/vnd.pilgrimage.batches"),
        )),
        (status = 307, description = "With `Pilgrimage-Redirect: leader`: the partition's leader is elsewhere"),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 406, body = Problem, content_type = "application/problem+json"),
        (status = 410, description = "The records there are deleted", body = Problem, content_type = "application/problem+json"),
        (status = 416, description = "The offset lies beyond the end", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The records there are damaged and are not served", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn read_partition(
    State(app): State<Arc<App>>,
    _: Direct,
    Topic(topic): Topic,
    PathPartition(partition): PathPartition,
    Params(params): Params<ReadParams>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    read(app, topic, Some(partition), params, &headers).await
}

async fn read(
    app: Arc<App>,
    topic: TopicName,
    partition: Option<Partition>,
    params: ReadParams,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let wanted = Wanted::new(params, headers)?;
    let shape = shape(headers, wanted.follow)?;
    match (shape, partition) {
        (Shape::Batches, Some(partition)) => raw::batches(app, topic, partition, wanted).await,
        (Shape::Batches, None) => Err(ApiError::new(
            Code::NotAcceptable,
            "batches are given for one partition at a time: read …/partitions/{partition}/records",
        )),
        (Shape::Raw, _) => raw::one_record(app, topic, partition, wanted).await,
        (Shape::Page | Shape::Lines | Shape::Events, _) => {
            rendered(app, topic, partition, wanted, shape).await
        }
    }
}

/// Bytes of records that are gathered before they are sent on in a stream.
const CHUNK: usize = 64 * 1024;
/// Bytes up to which an answer is finished before its head is sent, so that errors are seen in time.
const WHOLE: usize = 1024 * 1024;
/// How often an event stream with nothing to say says so.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Partitions up to which every event carries its position; beyond that it would outweigh the event.
const POSITION_PER_EVENT: usize = 16;

async fn rendered(
    app: Arc<App>,
    topic: TopicName,
    partition: Option<Partition>,
    wanted: Wanted,
    shape: Shape,
) -> Result<Response, ApiError> {
    let follow = wanted.follow || shape == Shape::Events;
    let (records, bytes) = if follow {
        (wanted.limit.unwrap_or(usize::MAX), usize::MAX)
    } else {
        (
            wanted.limit.unwrap_or(limits::READ_RECORDS_DEFAULT),
            wanted.max_bytes,
        )
    };
    let bounds = Bounds { records, bytes };
    let scan = Scan::begin(
        app.broker.clone(),
        topic,
        partition,
        &wanted.from,
        wanted.filter,
        bounds,
    )
    .await?;
    let every_position = scan.partitions() <= POSITION_PER_EVENT;
    let mut flow = Flow {
        scan,
        renderer: Renderer {
            out: Vec::new(),
            shape,
            count: 0,
            every_position,
        },
        stop: app.stop.clone(),
        until: Instant::now() + wanted.wait,
        follow,
        ended: false,
    };
    flow.renderer.begin();
    let first = if follow {
        None
    } else {
        flow.chunk(WHOLE).await?
    };
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(match shape {
            Shape::Lines => NDJSON,
            Shape::Events => SSE,
            _ => "application/json",
        }),
    );
    if follow {
        // Keeps proxies from holding back what comes in.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    } else if flow.ended {
        put_marks(headers, &flow.scan.next(), flow.scan.high_watermark());
    }
    *response.body_mut() = match first {
        Some(whole) if flow.ended => Body::from(whole),
        first => stream(flow, first),
    };
    Ok(response)
}

/// Puts on an answer where the next read begins and where readers' view ends.
pub(super) fn put_marks(headers: &mut HeaderMap, next: &str, high_watermark: u64) {
    if let Ok(next) = HeaderValue::try_from(next) {
        headers.insert(HEADER_NEXT, next);
    }
    headers.insert(HEADER_HIGH_WATERMARK, high_watermark.into());
}

fn stream(flow: Flow, first: Option<Bytes>) -> Body {
    Body::from_stream(unfold((Some(flow), first), |(flow, first)| async {
        let mut flow = flow?;
        if let Some(first) = first {
            return Some((Ok(first), (Some(flow), None)));
        }
        match flow.chunk(CHUNK).await {
            Ok(Some(chunk)) => Some((Ok(chunk), (Some(flow), None))),
            Ok(None) => None,
            Err(error) if flow.renderer.shape == Shape::Events => {
                flow.renderer.problem(&error);
                Some((Ok(flow.renderer.take()), (None, None)))
            }
            // A page or a list of lines that breaks off must not look whole: the connection is cut.
            Err(error) => Some((Err(error), (None, None))),
        }
    }))
}

/// An answer in the making.
struct Flow {
    scan: Scan,
    renderer: Renderer,
    stop: CancellationToken,
    /// How long to wait for the first record.
    until: Instant,
    follow: bool,
    ended: bool,
}

impl Flow {
    /// The next piece of the answer, of about `size` bytes or what there is; none at its end.
    async fn chunk(&mut self, size: usize) -> Result<Option<Bytes>, ApiError> {
        while !self.ended && self.renderer.out.len() < size {
            match self.scan.step(&mut self.renderer).await? {
                Step::Went => {}
                Step::Full => self.end(),
                Step::CaughtUp if self.follow => {
                    if !self.renderer.out.is_empty() {
                        break;
                    }
                    self.wait_for_more().await;
                }
                Step::CaughtUp => {
                    if self.renderer.count != 0 || !self.wait_for_first().await {
                        self.end();
                    }
                }
            }
        }
        if self.renderer.out.is_empty() {
            return Ok(None);
        }
        self.renderer.mark_position(&self.scan);
        Ok(Some(self.renderer.take()))
    }

    fn end(&mut self) {
        self.ended = true;
        self.renderer.end(&self.scan);
    }

    /// Whether there may be a record before the time is up.
    async fn wait_for_first(&mut self) -> bool {
        tokio::select! {
            more = self.scan.wait() => more,
            () = tokio::time::sleep_until(self.until) => false,
            () = self.stop.cancelled() => false,
        }
    }

    async fn wait_for_more(&mut self) {
        tokio::select! {
            more = self.scan.wait() => self.ended = !more,
            () = self.stop.cancelled() => self.ended = true,
            () = tokio::time::sleep(HEARTBEAT), if self.renderer.shape == Shape::Events => {
                self.renderer.out.extend_from_slice(b": heartbeat\n\n");
            }
        }
    }
}

/// Writes records in one of the three JSON forms.
struct Renderer {
    out: Vec<u8>,
    shape: Shape,
    count: usize,
    every_position: bool,
}

impl Renderer {
    fn begin(&mut self) {
        match self.shape {
            Shape::Page => self.out.extend_from_slice(b"{\"records\":["),
            // Tells a browser at once that it is connected, and how soon to connect again.
            Shape::Events => self.out.extend_from_slice(b"retry: 1000\n\n"),
            _ => {}
        }
    }

    fn end(&mut self, scan: &Scan) {
        if self.shape == Shape::Page {
            self.out.extend_from_slice(b"],\"next\":\"");
            self.out.extend_from_slice(scan.next().as_bytes());
            self.out.extend_from_slice(b"\",\"high_watermark\":");
            self.out
                .extend_from_slice(scan.high_watermark().to_string().as_bytes());
            self.out.push(b'}');
        }
    }

    /// Says where a stretch of events ends, if the events themselves do not.
    fn mark_position(&mut self, scan: &Scan) {
        if self.shape == Shape::Events && !self.every_position && self.count != 0 {
            self.out
                .extend_from_slice(format!("id: {}\n\n", scan.next()).as_bytes());
        }
    }

    fn problem(&mut self, error: &ApiError) {
        self.out.extend_from_slice(b"event: problem\ndata: ");
        // A problem is made of texts and numbers: it can always be written as JSON.
        self.out
            .extend_from_slice(&serde_json::to_vec(error.problem()).unwrap_or_default());
        self.out.extend_from_slice(b"\n\n");
    }

    fn take(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.out))
    }
}

impl Sink for Renderer {
    fn put(&mut self, partition: Partition, record: &RecordRef<'_>, next: &dyn Fn() -> String) {
        match self.shape {
            Shape::Page => {
                if self.count != 0 {
                    self.out.push(b',');
                }
                put_record(&mut self.out, partition, record, Layout::Verbatim);
            }
            Shape::Events => {
                if self.every_position {
                    self.out.extend_from_slice(b"id: ");
                    self.out.extend_from_slice(next().as_bytes());
                    self.out.push(b'\n');
                }
                self.out.extend_from_slice(b"data: ");
                put_record(&mut self.out, partition, record, Layout::OneLine);
                self.out.extend_from_slice(b"\n\n");
            }
            _ => {
                put_record(&mut self.out, partition, record, Layout::OneLine);
                self.out.push(b'\n');
            }
        }
        self.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_the_one_that_the_client_likes_best() {
        let of = |accept: &str, follow| {
            let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
            shape(&headers, follow).map_err(|error| error.code())
        };
        assert_eq!(shape(&HeaderMap::new(), false).unwrap(), Shape::Page);
        for (accept, follow, wanted) in [
            ("*/*", false, Ok(Shape::Page)),
            ("*/*", true, Ok(Shape::Lines)),
            (
                "text/html,application/xhtml+xml,*/*;q=0.8",
                false,
                Ok(Shape::Page),
            ),
            (
                "application/json;q=0.5, application/x-ndjson",
                false,
                Ok(Shape::Lines),
            ),
            ("text/event-stream", false, Ok(Shape::Events)),
            ("Application/JSON", true, Err(Code::NotAcceptable)),
            ("application/json;q=0", false, Err(Code::NotAcceptable)),
            ("image/png", false, Err(Code::NotAcceptable)),
            (BATCHES, false, Ok(Shape::Batches)),
        ] {
            assert_eq!(of(accept, follow), wanted, "{accept}");
        }
    }

    #[test]
    fn waits_are_times_of_at_most_a_minute() {
        for (text, wanted) in [
            ("500ms", Some(500)),
            ("10s", Some(10_000)),
            ("1m", Some(60_000)),
            ("0s", Some(0)),
            ("61s", None),
            ("10", None),
            ("-1s", None),
            ("1e3ms", None),
            ("18446744073709551615m", None),
            ("s", None),
            ("é", None),
        ] {
            assert_eq!(
                duration(text).ok(),
                wanted.map(Duration::from_millis),
                "{text}"
            );
        }
    }
}
