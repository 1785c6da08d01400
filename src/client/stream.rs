//! Reading without an end: records as they arrive, batches by the million.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use reqwest::Method;
use reqwest::header::ACCEPT;

use super::read::path;
use super::{Client, ClientError, Next, PAUSE_MAX, PAUSE_MIN, Read, Start};
use crate::api::v1::{BATCHES, HEADER_HIGH_WATERMARK, NDJSON, Problem, Record};
use crate::record::{Batch, BatchError, HEADER_LEN, Header};
use crate::types::{Offset, Partition, TopicName, limits};

/// Longest line that a node can send: the largest record with every byte escaped, and its fields.
const LINE_BYTES_MAX: usize = 6 * limits::RECORD_BYTES_MAX as usize + 64 * 1024;

/// The bytes of an answer as they come, watched for silence.
struct Body {
    chunks: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    what: String,
    url: String,
    stall: Option<Duration>,
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Body({})", self.what)
    }
}

impl Body {
    /// The next bytes; none at the end. Loses nothing when dropped before it is done.
    async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        let next = self.chunks.next();
        let chunk = match self.stall {
            Some(stall) => {
                tokio::time::timeout(stall, next)
                    .await
                    .map_err(|_| ClientError::Timeout {
                        what: self.what.clone(),
                        after: stall,
                    })?
            }
            None => next.await,
        };
        chunk
            .transpose()
            .map_err(|error| ClientError::from_reqwest(&error, &self.what, &self.url, self.stall))
    }
}

/// Pauses between tries to get back to a node, up to the client's patience.
#[derive(Debug)]
struct Comeback {
    pause: Duration,
    since: Option<Instant>,
}

impl Comeback {
    const fn new() -> Self {
        Self {
            pause: PAUSE_MIN,
            since: None,
        }
    }

    /// Waits for the next try, or gives the error back when patience has run out or trying is no use.
    async fn after(&mut self, error: ClientError, patience: Duration) -> Result<(), ClientError> {
        if !error.retryable() {
            return Err(error);
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        if patience < since.elapsed() + self.pause {
            return Err(error);
        }
        tokio::time::sleep(self.pause).await;
        self.pause = self.pause.saturating_mul(2).min(PAUSE_MAX);
        Ok(())
    }
}

/// Follows a log: the records that are there, then each one as it becomes visible. Made by
/// [`Client::follow`]. When the connection breaks it goes on after the last record it gave; no
/// record is left out or given twice.
#[derive(Debug)]
pub struct Follow {
    client: Client,
    topic: TopicName,
    partition: Option<Partition>,
    read: Read,
    next: Option<Next>,
    ready: VecDeque<Record>,
    body: Option<Body>,
    lines: Lines,
    comeback: Comeback,
}

impl Client {
    /// Follows one partition, or all of a topic, from `read.from` on and without an end; `read.limit`
    /// and `read.wait` are not looked at.
    pub fn follow(&self, topic: &TopicName, partition: Option<Partition>, read: Read) -> Follow {
        let read = Read {
            limit: None,
            max_bytes: None,
            wait: Duration::ZERO,
            ..read
        };
        Follow {
            client: self.clone(),
            topic: topic.clone(),
            partition,
            read,
            next: None,
            ready: VecDeque::new(),
            body: None,
            lines: Lines::default(),
            comeback: Comeback::new(),
        }
    }

    /// Reads the batches of one partition as they stand in the log, each checked against its
    /// checksums and its place. The first holds `read.from` and may begin before it.
    pub fn batches(&self, topic: &TopicName, partition: Partition, read: ReadBatches) -> Batches {
        Batches {
            client: self.clone(),
            topic: topic.clone(),
            partition,
            next: read.from,
            high_watermark: Offset::ZERO,
            read,
            body: None,
            buffer: BytesMut::new(),
            comeback: Comeback::new(),
        }
    }
}

impl Follow {
    /// The next record. Waits for it as long as it takes.
    ///
    /// # Errors
    /// What the node refuses (`topic_not_found`, `offset_trimmed`), or why it could not be reached
    /// again within the client's patience.
    pub async fn next(&mut self) -> Result<Record, ClientError> {
        loop {
            match self.step().await {
                Ok(Some(record)) => {
                    self.comeback = Comeback::new();
                    if let Some(next) = &mut self.next {
                        next.advance(record.partition, record.offset);
                    }
                    return Ok(record);
                }
                Ok(None) => {}
                Err(error) => {
                    self.body = None;
                    self.lines = Lines::default();
                    self.comeback
                        .after(error, self.client.options.patience)
                        .await?;
                }
            }
        }
    }

    /// Where the next record will come from; none before the first answer.
    pub fn position(&self) -> Option<&Next> {
        self.next.as_ref()
    }

    /// The same as a [`Stream`], which ends after its first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Record, ClientError>> + Send {
        stream::unfold(Some(self), async |follow| {
            let mut follow = follow?;
            match follow.next().await {
                Ok(record) => Some((Ok(record), Some(follow))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    async fn step(&mut self) -> Result<Option<Record>, ClientError> {
        if let Some(record) = self.ready.pop_front() {
            return Ok(Some(record));
        }
        let Some(next) = &self.next else {
            // "latest" and times are pinned to offsets first, so that a broken connection cannot
            // move them.
            let page = self
                .client
                .read(&self.topic, self.partition, &self.read)
                .await?;
            let next = page.next.parse::<Next>();
            let mut next = next
                .map_err(|error| super::unexpected("follow", 200, error.to_string().as_bytes()))?;
            // They are given one by one, and the position stays right between two of them.
            for record in page.records.iter().rev() {
                rewind(&mut next, record);
            }
            self.ready = page.records.into();
            self.next = Some(next);
            return Ok(None);
        };
        let body = match &mut self.body {
            Some(body) => body,
            None => {
                let from = Start::Next(next.clone());
                let call = self
                    .client
                    .request(Method::GET, &path(&self.topic, self.partition))
                    .with(|request| {
                        self.read
                            .apply(request, &from)
                            .query(&[("follow", "true")])
                            .header(ACCEPT, NDJSON)
                    })
                    .unbounded()
                    .once();
                let (what, url) = (call.what.clone(), self.client.url().to_owned());
                let chunks = Box::pin(call.send().await?.bytes_stream());
                self.body.insert(Body {
                    chunks,
                    what,
                    url,
                    stall: None,
                })
            }
        };
        if let Some(line) = self.lines.take() {
            return parse_record(&body.what, &line);
        }
        if LINE_BYTES_MAX < self.lines.buffer.len() {
            return Err(super::unexpected(&body.what, 200, b"a line without an end"));
        }
        match body.next().await? {
            Some(chunk) => self.lines.buffer.extend_from_slice(&chunk),
            None => {
                let why = "the node ended the stream".to_owned();
                return Err(ClientError::Transport {
                    what: body.what.clone(),
                    why,
                });
            }
        }
        Ok(None)
    }
}

/// Puts a position back to the record that is still to be given.
fn rewind(next: &mut Next, record: &Record) {
    match next {
        Next::One(offset) => *offset = Offset(record.offset),
        Next::Each(each) => {
            each.insert(record.partition, Offset(record.offset));
        }
    }
}

/// Cuts what arrives into lines.
#[derive(Debug, Default)]
struct Lines {
    buffer: BytesMut,
    /// Bytes of the buffer that are known to hold no line end, so that none is looked at twice.
    searched: usize,
}

impl Lines {
    fn take(&mut self) -> Option<BytesMut> {
        let Some(end) = self.buffer[self.searched..]
            .iter()
            .position(|&b| b == b'\n')
        else {
            self.searched = self.buffer.len();
            return None;
        };
        let line = self.buffer.split_to(self.searched + end + 1);
        self.searched = 0;
        Some(line)
    }
}

fn parse_record(what: &str, line: &[u8]) -> Result<Option<Record>, ClientError> {
    if line.trim_ascii().is_empty() {
        return Ok(None);
    }
    if let Ok(record) = serde_json::from_slice(line) {
        return Ok(Some(record));
    }
    match serde_json::from_slice::<Problem>(line) {
        Ok(problem) => Err(ClientError::Problem {
            what: what.to_owned(),
            problem: Box::new(problem),
        }),
        Err(_) => Err(super::unexpected(what, 200, line)),
    }
}

/// Which batches to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadBatches {
    /// The first offset that is wanted.
    pub from: Offset,
    /// Where to stop; none = never, new batches are waited for.
    pub until: Option<Offset>,
    /// Most bytes of one request.
    pub max_bytes: usize,
}

impl ReadBatches {
    /// Everything in `[from, until)`.
    pub const fn range(from: Offset, until: Offset) -> Self {
        Self {
            from,
            until: Some(until),
            max_bytes: 16 * 1024 * 1024,
        }
    }

    /// Everything from `from` on, without an end.
    pub const fn follow(from: Offset) -> Self {
        Self {
            from,
            until: None,
            max_bytes: 16 * 1024 * 1024,
        }
    }
}

/// Reads batches. Made by [`Client::batches`]. When a connection breaks it goes on where it broke.
#[derive(Debug)]
pub struct Batches {
    client: Client,
    topic: TopicName,
    partition: Partition,
    read: ReadBatches,
    next: Offset,
    high_watermark: Offset,
    body: Option<Body>,
    buffer: BytesMut,
    comeback: Comeback,
}

/// How long one request waits for a batch while following.
const FOLLOW_WAIT: Duration = Duration::from_secs(20);

impl Batches {
    /// The next batch, checked; none when `until` is reached.
    ///
    /// # Errors
    /// [`ClientError::Batch`] and [`ClientError::OutOfOrder`] when what came is not what the log
    /// must hold there; what the node refuses; why it could not be reached again.
    pub async fn next(&mut self) -> Result<Option<Batch>, ClientError> {
        loop {
            if self.read.until.is_some_and(|until| until <= self.next) {
                return Ok(None);
            }
            match self.step().await {
                Ok(Some(batch)) => {
                    self.comeback = Comeback::new();
                    self.next = batch.header.end_offset();
                    return Ok(Some(batch));
                }
                Ok(None) => {}
                Err(error) => {
                    self.body = None;
                    self.buffer.clear();
                    self.comeback
                        .after(error, self.client.options.patience)
                        .await?;
                }
            }
        }
    }

    /// Offset after the last batch that was given.
    pub fn position(&self) -> Offset {
        self.next
    }

    /// End of what readers could see when the node last answered.
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// The same as a [`Stream`], which ends at `until` or after its first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Batch, ClientError>> + Send {
        stream::unfold(Some(self), async |batches| {
            let mut batches = batches?;
            match batches.next().await {
                Ok(Some(batch)) => Some((Ok(batch), Some(batches))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    async fn step(&mut self) -> Result<Option<Batch>, ClientError> {
        let Some(body) = &mut self.body else {
            self.body = Some(self.open().await?);
            return Ok(None);
        };
        let want = batch_len(&self.buffer).map_err(|source| ClientError::Batch {
            offset: self.next,
            source,
        })?;
        if want.is_some_and(|want| want <= self.buffer.len()) {
            return self.take(want.unwrap_or_default()).map(Some);
        }
        match body.next().await? {
            Some(chunk) => {
                let missing = want.unwrap_or_default().saturating_sub(self.buffer.len());
                self.buffer.reserve(missing.max(chunk.len()));
                self.buffer.extend_from_slice(&chunk);
            }
            None if self.buffer.is_empty() => {
                let empty = self.read.until.is_some() && self.high_watermark <= self.next;
                self.body = None;
                if empty {
                    let why = format!(
                        "the partition ends at {}, offset {} was to be read",
                        self.high_watermark, self.next
                    );
                    return Err(super::unexpected(
                        &path(&self.topic, Some(self.partition)),
                        200,
                        why.as_bytes(),
                    ));
                }
            }
            None => {
                let what = body.what.clone();
                return Err(ClientError::Transport {
                    what,
                    why: "the answer ended within a batch".into(),
                });
            }
        }
        Ok(None)
    }

    async fn open(&mut self) -> Result<Body, ClientError> {
        let wait = if self.read.until.is_none() {
            FOLLOW_WAIT
        } else {
            Duration::ZERO
        };
        let read = Read {
            wait,
            max_bytes: Some(self.read.max_bytes),
            ..Read::default()
        };
        let from = Start::Offset(self.next);
        let call = self
            .client
            .request(Method::GET, &path(&self.topic, Some(self.partition)))
            .with(|request| read.apply(request, &from).header(ACCEPT, BATCHES))
            .unbounded()
            .once();
        let (what, url) = (call.what.clone(), self.client.url().to_owned());
        let stall = self.client.options.stall_timeout + wait;
        let response = tokio::time::timeout(stall, call.send())
            .await
            .map_err(|_| ClientError::Timeout {
                what: what.clone(),
                after: stall,
            })??;
        let mark = response.headers().get(HEADER_HIGH_WATERMARK);
        let mark = mark.and_then(|value| value.to_str().ok()?.parse().ok());
        let Some(mark) = mark else {
            return Err(super::unexpected(
                &what,
                response.status().as_u16(),
                b"no high watermark in the answer",
            ));
        };
        self.high_watermark = Offset(mark);
        Ok(Body {
            chunks: Box::pin(response.bytes_stream()),
            what,
            url,
            stall: Some(stall),
        })
    }

    /// Takes the batch off the front of the buffer and checks it: both checksums, and that it
    /// follows the one before.
    fn take(&mut self, len: usize) -> Result<Batch, ClientError> {
        let mut bytes = self.buffer.split_to(len).freeze();
        let offset = self.next;
        let broken = |source| ClientError::Batch { offset, source };
        Header::parse_assigned(&bytes).map_err(|error| broken(error.into()))?;
        let batch = Batch::take(&mut bytes).map_err(broken)?;
        batch.verify().map_err(broken)?;
        let (start, end) = (batch.header.base_offset, batch.header.end_offset());
        let first = offset == self.read.from;
        if (first && start <= offset && offset < end) || start == offset {
            return Ok(batch);
        }
        Err(ClientError::OutOfOrder {
            expected: offset,
            start,
            end,
        })
    }
}

/// Length of the batch at the front, once its header is there.
fn batch_len(buffer: &[u8]) -> Result<Option<usize>, BatchError> {
    if buffer.len() < HEADER_LEN {
        return Ok(None);
    }
    let len = Header::parse(buffer)?.batch_len as usize;
    if limits::BATCH_BYTES < len {
        return Err(BatchError::TooLarge);
    }
    Ok(Some(len))
}
