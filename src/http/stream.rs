//! NDJSON bodies: one record per line, as many lines as the client likes, in constant memory.
//!
//! Lines are gathered into groups; a group is appended when it is full or when the body pauses. A
//! few groups are under way at once, handed to the broker in the order of the body.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::stream::{FuturesOrdered, StreamExt, unfold};

use super::App;
use super::body::{Pieces, Share};
use super::error::ApiError;
use super::json::{Addressed, record_of_line};
use super::publish::{acknowledge, position, proof};
use super::records::{ProduceParams, address};
use crate::api::v1::{Ack, NDJSON, Position, StreamAck};
use crate::broker::{Placed, ProduceError};
use crate::types::{Code, Offset, Outcome, TopicName, limits};

/// Bytes of lines after which a group is full.
const GROUP_BYTES: usize = 1024 * 1024;
/// Records after which a group is full.
const GROUP_RECORDS: usize = 1000;
/// Groups under way at once.
const GROUPS: usize = 4;

/// Takes lines off a body.
struct Lines {
    pieces: Pieces,
    piece: Bytes,
    /// The line that the piece begins in the middle of.
    partial: BytesMut,
    /// Memory for a partial line that has grown long.
    share: Share,
    admitted: usize,
    ended: bool,
}

impl Lines {
    fn new(pieces: Pieces) -> Self {
        Self {
            pieces,
            piece: Bytes::new(),
            partial: BytesMut::new(),
            share: Share::default(),
            admitted: 0,
            ended: false,
        }
    }

    /// The next line without its end; none at the end of the body. Cancel-safe: all that was read
    /// stays here.
    async fn next(&mut self, app: &App) -> Result<Option<Bytes>, ApiError> {
        loop {
            if let Some(at) = self.piece.iter().position(|byte| *byte == b'\n') {
                let end = self.piece.split_to(at + 1).slice(..at);
                return Ok(Some(self.complete(end)));
            }
            if self.ended {
                let rest = std::mem::take(&mut self.piece);
                let line = self.complete(rest);
                return Ok((!line.is_empty()).then_some(line));
            }
            if !self.piece.is_empty() {
                let rest = std::mem::take(&mut self.piece);
                self.partial.extend_from_slice(&rest);
                self.admit_partial(app)?;
            }
            match self.pieces.next().await? {
                Some(piece) => self.piece = piece,
                None => self.ended = true,
            }
        }
    }

    fn admit_partial(&mut self, app: &App) -> Result<(), ApiError> {
        if limits::JSON_BODY_BYTES < self.partial.len() {
            let detail = format!("a line is longer than {} bytes", limits::JSON_BODY_BYTES);
            return Err(ApiError::new(Code::TooLarge, detail));
        }
        while GROUP_BYTES + self.admitted < self.partial.len() {
            self.share.add(app.admission.try_take(GROUP_BYTES)?);
            self.admitted += GROUP_BYTES;
        }
        Ok(())
    }

    fn complete(&mut self, end: Bytes) -> Bytes {
        let mut line = if self.partial.is_empty() {
            end
        } else {
            self.partial.extend_from_slice(&end);
            (self.share, self.admitted) = (Share::default(), 0);
            std::mem::take(&mut self.partial).freeze()
        };
        if line.last() == Some(&b'\r') {
            line.truncate(line.len() - 1);
        }
        line
    }
}

/// Lines that are appended together.
#[derive(Default)]
struct Group {
    records: Vec<Addressed>,
    /// The line of each record, from 1.
    lines: Vec<u64>,
    bytes: usize,
    /// Lines up to and with its last, counted from the first of the body.
    last_line: u64,
}

struct Appended {
    last_line: u64,
    result: Result<Vec<Placed>, Refused>,
}

/// Why the body is not taken further, and the line that is to blame, if one is.
type Refused = (ApiError, Option<u64>);

type Appending = Pin<Box<dyn Future<Output = Appended> + Send>>;

enum Event {
    Line(Result<Option<Bytes>, ApiError>),
    Appended(Appended),
    Pause,
}

/// A body on its way into the log.
struct Intake {
    app: Arc<App>,
    topic: TopicName,
    params: ProduceParams,
    lines: Lines,
    line: u64,
    group: Group,
    under_way: FuturesOrdered<Appending>,
    expected: Option<Offset>,
    acknowledged: u64,
    /// Where the newest record of each partition stands since the last acknowledgement.
    newest: BTreeMap<u32, Position>,
    body_ended: bool,
}

impl Intake {
    /// Groups that may be under way: one where each depends on the one before.
    fn most_under_way(&self) -> usize {
        let depends =
            self.expected.is_some() || self.app.broker.partition_count(&self.topic).is_err();
        if depends { 1 } else { GROUPS }
    }

    async fn next_event(&mut self) -> Event {
        let room = self.under_way.len() < self.most_under_way();
        if self.body_ended || !room {
            return match self.under_way.next().await {
                Some(appended) => Event::Appended(appended),
                None => Event::Pause,
            };
        }
        // The body goes first: its pauses are what ends a group early.
        if let Some(line) = self.lines.next(&self.app).now_or_never() {
            return Event::Line(line);
        }
        if !self.group.records.is_empty() {
            return Event::Pause;
        }
        if self.under_way.is_empty() {
            return Event::Line(self.lines.next(&self.app).await);
        }
        tokio::select! {
            line = self.lines.next(&self.app) => Event::Line(line),
            Some(appended) = self.under_way.next() => Event::Appended(appended),
        }
    }

    /// Goes on until more is acknowledged; none once all is.
    async fn next_stretch(&mut self) -> Result<Option<u64>, ApiError> {
        loop {
            let event = self.next_event().await;
            let is_append = matches!(event, Event::Appended(_));
            match self.on_event(event).await {
                Ok(None)
                    if self.body_ended
                        && self.under_way.is_empty()
                        && self.group.records.is_empty() =>
                {
                    return Ok(None);
                }
                Ok(None) => {}
                Ok(Some(acknowledged)) => return Ok(Some(acknowledged)),
                Err(refused) => return Err(self.give_up(refused, is_append).await),
            }
        }
    }

    async fn on_event(&mut self, event: Event) -> Result<Option<u64>, Refused> {
        match event {
            Event::Line(Ok(Some(line))) => {
                self.line += 1;
                if !line.iter().all(u8::is_ascii_whitespace) {
                    let record = record_of_line(&line).map_err(|error| (error, Some(self.line)))?;
                    self.group.bytes += line.len();
                    self.group.records.push(record);
                    self.group.lines.push(self.line);
                }
                self.group.last_line = self.line;
                if GROUP_BYTES <= self.group.bytes || GROUP_RECORDS <= self.group.records.len() {
                    self.append_group().await;
                }
                Ok(None)
            }
            Event::Line(Ok(None)) => {
                self.body_ended = true;
                self.append_group().await;
                Ok(None)
            }
            Event::Line(Err(error)) => Err((error, Some(self.line + 1))),
            Event::Pause => {
                self.append_group().await;
                Ok(None)
            }
            Event::Appended(appended) => self.on_appended(appended).map(Some),
        }
    }

    fn on_appended(&mut self, appended: Appended) -> Result<u64, Refused> {
        for placed in appended.result? {
            self.newest.insert(placed.partition.0, position(&placed));
            if let Some(expected) = &mut self.expected {
                *expected = Offset(placed.offset.0 + 1);
            }
        }
        self.acknowledged = appended.last_line;
        Ok(self.acknowledged)
    }

    /// Hands the group to the broker. Its memory is taken first: that is where a client that sends
    /// faster than the disk writes is slowed down.
    async fn append_group(&mut self) {
        let Group {
            mut records,
            lines,
            bytes,
            last_line,
        } = std::mem::take(&mut self.group);
        if records.is_empty() {
            return;
        }
        address(&mut records, &self.params);
        let share = self.app.admission.take(bytes).await;
        let (app, topic) = (self.app.clone(), self.topic.clone());
        let (acks, expected) = (self.params.acks.acks(), self.expected);
        let mut appending: Appending = Box::pin(async move {
            let result = app.broker.produce(&topic, records, acks, expected).await;
            drop(share);
            let result = result.map_err(|error| {
                let line = match &error {
                    ProduceError::Record { index, .. } => lines.get(*index).copied(),
                    _ => None,
                };
                (ApiError::from(error), line)
            });
            Appended { last_line, result }
        });
        // The first poll puts the group into the partitions' queues: groups keep the body's order.
        match appending.as_mut().now_or_never() {
            Some(done) => self.under_way.push_back(Box::pin(std::future::ready(done))),
            None => self.under_way.push_back(appending),
        }
    }

    /// Waits for what is under way, so that the answer tells how things stand when it is sent.
    async fn give_up(&mut self, (error, line): Refused, failed_in_log: bool) -> ApiError {
        let mut later = false;
        let mut in_order = !failed_in_log;
        while let Some(appended) = self.under_way.next().await {
            if in_order {
                in_order = self.on_appended(appended).is_ok();
            } else {
                later |= appended.result.is_ok();
            }
        }
        let error = error.with_lines(line, self.acknowledged);
        // Lines behind the first that failed may be in the log: sending all again would double them.
        if later {
            error.with_outcome(Outcome::Unknown)
        } else {
            error
        }
    }

    fn stretch(&mut self, durability: Ack, done: bool) -> StreamAck {
        let positions = std::mem::take(&mut self.newest).into_values().collect();
        StreamAck {
            acknowledged: self.acknowledged,
            positions,
            durability,
            done,
        }
    }
}

/// Appends the lines of a body.
pub(super) async fn produce(
    app: Arc<App>,
    topic: TopicName,
    params: ProduceParams,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let lines = Lines::new(Pieces::new(headers, body)?);
    let mut intake = Intake {
        app,
        topic,
        lines,
        line: 0,
        group: Group::default(),
        under_way: FuturesOrdered::new(),
        expected: params.expected_offset.map(Offset),
        params,
        acknowledged: 0,
        newest: BTreeMap::new(),
        body_ended: false,
    };
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    if accept.is_some_and(|accept| accept.contains(NDJSON)) {
        return Ok(answer_along(intake));
    }
    while intake.next_stretch().await?.is_some() {}
    intake.acknowledged = intake.line;
    let durability = durability_of(&intake)?;
    let ack = intake.stretch(durability, true);
    Ok(acknowledge(durability, &ack))
}

/// An empty body appends nothing, so that its topic may not exist.
fn durability_of(intake: &Intake) -> Result<Ack, ApiError> {
    if intake.line == 0 {
        return Ok(Ack::None);
    }
    proof(&intake.app, &intake.topic, intake.params.acks)
}

/// Answers line by line while the body still comes in.
fn answer_along(intake: Intake) -> Response {
    let answers = unfold(Some(intake), |intake| async {
        let mut intake = intake?;
        let stretch = intake.next_stretch().await;
        let done = matches!(stretch, Ok(None));
        if done {
            intake.acknowledged = intake.line;
        }
        let answer = stretch.and_then(|_| Ok(intake.stretch(durability_of(&intake)?, done)));
        let (mut line, go_on) = match &answer {
            Ok(ack) => (serde_json::to_vec(ack), !done),
            Err(error) => (serde_json::to_vec(error.problem()), false),
        };
        if let Ok(line) = &mut line {
            line.push(b'\n');
        }
        Some((line.map(Bytes::from), go_on.then_some(intake)))
    });
    let mut response = Response::new(Body::from_stream(answers));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    response
}
