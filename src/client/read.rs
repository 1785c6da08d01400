//! Reading pages and single records.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap};
use reqwest::{Method, RequestBuilder};

use super::{Client, ClientError, Start};
use crate::api::v1::{HEADER_KEY, HEADER_TIMESTAMP, RecordPage};
use crate::types::{Offset, Partition, Timestamp, TopicName};

/// What to read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Read {
    /// Where to begin.
    pub from: Start,
    /// Most records of a page.
    pub limit: Option<usize>,
    /// Most bytes of a page; one record comes whole whatever its size.
    pub max_bytes: Option<usize>,
    /// How long the node waits for a record when there is none.
    pub wait: Duration,
    /// Only records with this key.
    pub key: Option<String>,
    /// Only records with all of these headers.
    pub headers: Vec<(String, String)>,
    /// Only records whose JSON value has these values at these JSON pointers.
    pub json: Vec<(String, serde_json::Value)>,
}

impl Read {
    pub(super) fn apply(&self, request: RequestBuilder, from: &Start) -> RequestBuilder {
        let mut query = vec![("from", from.to_string())];
        if let Some(limit) = self.limit {
            query.push(("limit", limit.to_string()));
        }
        if let Some(bytes) = self.max_bytes {
            query.push(("max_bytes", bytes.to_string()));
        }
        if !self.wait.is_zero() {
            query.push(("wait", format!("{}ms", self.wait.as_millis())));
        }
        if let Some(key) = &self.key {
            query.push(("key", key.clone()));
        }
        query.extend(
            self.headers
                .iter()
                .map(|(name, value)| ("header", format!("{name}:{value}"))),
        );
        query.extend(
            self.json
                .iter()
                .map(|(pointer, value)| ("json", format!("{pointer}:{value}"))),
        );
        request.query(&query)
    }
}

/// One record's value as it stands in the log, with what the answer's headers say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRecord {
    /// The value.
    pub value: Bytes,
    /// What the producer said the value is.
    pub content_type: Option<String>,
    /// The key, if it is plain visible ASCII.
    pub key: Option<String>,
    /// The record's time.
    pub timestamp: Option<Timestamp>,
}

pub(super) fn path(topic: &TopicName, partition: Option<Partition>) -> String {
    match partition {
        Some(partition) => format!("/v1/topics/{topic}/partitions/{partition}/records"),
        None => format!("/v1/topics/{topic}/records"),
    }
}

impl Client {
    /// A page of records of one partition, or of all.
    ///
    /// # Errors
    /// `topic_not_found`, `offset_trimmed`, `offset_out_of_range`; any [`ClientError`].
    pub async fn read(
        &self,
        topic: &TopicName,
        partition: Option<Partition>,
        read: &Read,
    ) -> Result<RecordPage, ClientError> {
        self.request(Method::GET, &path(topic, partition))
            .with(|request| {
                read.apply(request, &read.from)
                    .header(ACCEPT, "application/json")
            })
            .waiting(read.wait)
            .json()
            .await
    }

    /// One record's value, byte for byte.
    ///
    /// # Errors
    /// `record_not_found`, `offset_trimmed`; any [`ClientError`].
    pub async fn record(
        &self,
        topic: &TopicName,
        partition: Partition,
        offset: Offset,
    ) -> Result<RawRecord, ClientError> {
        let call = self
            .request(
                Method::GET,
                &format!("{}/{offset}", path(topic, Some(partition))),
            )
            .with(|request| request.header(ACCEPT, "application/octet-stream"));
        let (what, base, timeout) = (call.what.clone(), self.base.clone(), call.timeout);
        let response = call.send().await?;
        let text =
            |headers: &HeaderMap, name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
        let headers = response.headers();
        let content_type = text(headers, CONTENT_TYPE.as_str());
        let key = text(headers, HEADER_KEY);
        let timestamp = text(headers, HEADER_TIMESTAMP)
            .and_then(|ms| ms.parse().ok())
            .map(Timestamp);
        let value =
            super::collect(response, super::ANSWER_BYTES_MAX, &what, &base, timeout).await?;
        Ok(RawRecord {
            value,
            content_type,
            key,
            timestamp,
        })
    }
}
