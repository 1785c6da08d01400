//! Producing: one value as it is, JSON, streams of lines, batches in the log's own layout.

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, TryStreamExt};
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Body, Method, RequestBuilder};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use super::{Client, ClientError};
use crate::api::v1::{
    BATCHES, HEADER_PREFIX, NDJSON, Problem, ProduceRequest, Produced, ProducedBatches, Published,
    StreamAck,
};
use crate::record::Batch;
use crate::types::{Acks, Offset, Partition, Timestamp, TopicName};

/// How to produce.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProduceOptions {
    /// What must hold before the node acknowledges.
    pub acks: Acks,
    /// Puts every record into this partition; absent = by key, or any.
    pub partition: Option<Partition>,
    /// Append only if the partition ends exactly there.
    pub expected_offset: Option<Offset>,
    /// How a repetition is known, so that a request whose outcome is unknown can be repeated.
    pub idempotency: Idempotency,
}

/// How a node knows that a request is sent again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Idempotency {
    /// [`Client::publish`] and [`Client::produce`] make a key for each request, under which it is
    /// repeated until its outcome is known. Batches are repeated if they carry a producer and its
    /// sequence ([`Producer`](super::Producer) sees to that); streams of lines never are.
    #[default]
    Own,
    /// By this key, which belongs to this request alone: also when the program itself asks again.
    Key(String),
    /// Not at all: a request whose outcome is unknown is not repeated.
    Off,
}

impl Idempotency {
    fn key(&self) -> Option<String> {
        match self {
            Self::Own => Some(uuid::Uuid::new_v4().to_string()),
            Self::Key(key) => Some(key.clone()),
            Self::Off => None,
        }
    }
}

impl ProduceOptions {
    fn apply(&self, request: RequestBuilder) -> RequestBuilder {
        let mut query = Vec::new();
        if self.acks != Acks::default() {
            query.push(("acks", self.acks.as_str().to_owned()));
        }
        if let Some(partition) = self.partition {
            query.push(("partition", partition.to_string()));
        }
        if let Some(offset) = self.expected_offset {
            query.push(("expected_offset", offset.to_string()));
        }
        if query.is_empty() {
            request
        } else {
            request.query(&query)
        }
    }
}

/// One value to publish as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Publish {
    /// The value's bytes.
    pub value: Bytes,
    /// The record's key.
    pub key: Option<String>,
    /// What the value is; kept and given back. Absent = text if it is UTF-8, else bytes.
    pub content_type: Option<String>,
    /// Record headers, in order.
    pub headers: Vec<(String, String)>,
    /// The record's time; absent = time of arrival.
    pub timestamp: Option<Timestamp>,
}

impl Publish {
    /// A value and nothing else.
    pub fn new(value: impl Into<Bytes>) -> Self {
        Self {
            value: value.into(),
            ..Self::default()
        }
    }
}

fn path(topic: &TopicName) -> String {
    format!("/v1/topics/{topic}/records")
}

impl Client {
    /// Appends one record whose value is the body as it is.
    ///
    /// # Errors
    /// Any [`ClientError`]; with an unknown outcome the record may have been appended.
    pub async fn publish(
        &self,
        topic: &TopicName,
        publish: &Publish,
        options: &ProduceOptions,
    ) -> Result<Published, ClientError> {
        let call = self.request(Method::POST, &format!("/v1/topics/{topic}/publish"));
        let mut headers = Vec::with_capacity(publish.headers.len());
        for (name, value) in &publish.headers {
            headers.push(header(name, value)?);
        }
        let key = options.idempotency.key();
        call.under(key)
            .with(|request| {
                let mut request = options.apply(request).body(publish.value.clone());
                if let Some(key) = &publish.key {
                    request = request.query(&[("key", key)]);
                }
                if let Some(time) = publish.timestamp {
                    request = request.query(&[("timestamp", time.0)]);
                }
                if let Some(content_type) = &publish.content_type {
                    request = request.header(CONTENT_TYPE, content_type);
                }
                for (name, value) in headers {
                    request = request.header(name, value);
                }
                request
            })
            .json()
            .await
    }

    /// Appends records given as JSON. All or nothing per partition.
    ///
    /// # Errors
    /// Any [`ClientError`]; with an unknown outcome the records may have been appended.
    pub async fn produce(
        &self,
        topic: &TopicName,
        records: &ProduceRequest,
        options: &ProduceOptions,
    ) -> Result<Produced, ClientError> {
        self.produce_json(topic, serde_json::to_vec(records)?.into(), options)
            .await
    }

    /// The same for a request that is written as JSON already.
    ///
    /// # Errors
    /// As [`Client::produce`].
    pub async fn produce_json(
        &self,
        topic: &TopicName,
        body: Bytes,
        options: &ProduceOptions,
    ) -> Result<Produced, ClientError> {
        self.request(Method::POST, &path(topic))
            .under(options.idempotency.key())
            .with(|request| {
                options
                    .apply(request)
                    .header(CONTENT_TYPE, "application/json")
                    .body(body)
            })
            .json()
            .await
    }

    /// Appends batches as they are, in order: no record is taken apart on the way.
    ///
    /// # Errors
    /// Any [`ClientError`]; with an unknown outcome the batches may have been appended.
    pub async fn produce_batches(
        &self,
        topic: &TopicName,
        batches: &[Batch],
        options: &ProduceOptions,
    ) -> Result<ProducedBatches, ClientError> {
        let body = match batches {
            [one] => one.bytes().clone(),
            many => {
                let mut body =
                    BytesMut::with_capacity(many.iter().map(|batch| batch.bytes().len()).sum());
                for batch in many {
                    body.extend_from_slice(batch.bytes());
                }
                body.freeze()
            }
        };
        let key = match &options.idempotency {
            Idempotency::Key(key) => Some(key.clone()),
            Idempotency::Own | Idempotency::Off => None,
        };
        let known = batches.iter().all(|batch| batch.header.producer_id != 0);
        self.request(Method::POST, &path(topic))
            .under(key)
            .repeatable(known && options.idempotency != Idempotency::Off)
            .with(|request| {
                options
                    .apply(request)
                    .header(CONTENT_TYPE, BATCHES)
                    .body(body)
            })
            .json()
            .await
    }

    /// Streams records, one JSON object per line, of any length in all. Nothing is held in memory
    /// but what is on its way; the node appends while the rest still arrives.
    ///
    /// # Errors
    /// Any [`ClientError`]. A problem says in `acknowledged` how many lines were appended all the
    /// same; with an unknown outcome more may have been.
    pub async fn produce_ndjson(
        &self,
        topic: &TopicName,
        lines: impl AsyncRead + Send + 'static,
        options: &ProduceOptions,
    ) -> Result<StreamAck, ClientError> {
        let chunks = ReaderStream::with_capacity(lines, 64 * 1024);
        self.produce_ndjson_stream(topic, chunks.map_err(ClientError::from), options)
            .await
    }

    /// The same from a stream of chunks; lines may be cut anywhere.
    ///
    /// # Errors
    /// As [`Client::produce_ndjson`].
    pub async fn produce_ndjson_stream(
        &self,
        topic: &TopicName,
        chunks: impl Stream<Item = Result<Bytes, ClientError>> + Send + 'static,
        options: &ProduceOptions,
    ) -> Result<StreamAck, ClientError> {
        let call = self
            .request(Method::POST, &path(topic))
            .with(|request| {
                options
                    .apply(request)
                    .header(CONTENT_TYPE, NDJSON)
                    .body(Body::wrap_stream(chunks))
            })
            .once()
            .unbounded();
        let what = call.what.clone();
        let (status, body) = call.answer().await?;
        // Where the status line was already out when the stream broke, the last line is the problem.
        let last = body
            .split(|&b| b == b'\n')
            .rfind(|line| !line.is_empty())
            .unwrap_or_default();
        if let Ok(problem) = serde_json::from_slice::<Problem>(last) {
            return Err(ClientError::Problem {
                what,
                problem: Box::new(problem),
            });
        }
        super::parse(&what, status, last)
    }
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), ClientError> {
    let invalid = |what: &str| {
        std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            format!("record header {name:?}: {what}"),
        )
    };
    let full = format!("{HEADER_PREFIX}{name}");
    let full = HeaderName::try_from(full)
        .map_err(|_| invalid("not a name that an HTTP header can carry"))?;
    let value = HeaderValue::from_str(value)
        .map_err(|_| invalid("not a value that an HTTP header can carry"))?;
    Ok((full, value))
}
