//! `POST …/publish`: the body is one record's value, exactly as it is sent.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{Request, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::body::read_admitted;
use super::direct::Direct;
use super::error::ApiError;
use super::extract::{Params, Topic, media_type};
use super::json::check_value;
use super::once::{OnceHeaders, once, put_replayed};
use crate::api::v1::{Ack, HEADER_DURABILITY, HEADER_PREFIX, Position, Problem, Published};
use crate::broker::{Acks, Placed, Produce};
use crate::record::{Format, Record};
use crate::types::{Code, Durability, Offset, Partition, Timestamp, TopicName, limits};

/// What to wait for before the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum AcksParam {
    /// Every in-sync replica has the records, as durably as the topic asks for.
    #[default]
    All,
    /// The leader has them, as durably as the topic asks for.
    Leader,
    /// Nothing: the records are accepted for processing.
    None,
}

impl AcksParam {
    pub(super) fn acks(self) -> Acks {
        match self {
            Self::All => Acks::All,
            Self::Leader => Acks::Leader,
            Self::None => Acks::None,
        }
    }
}

/// What an acknowledgement proves, and the answer that says so.
pub(super) fn proof(app: &App, topic: &TopicName, acks: AcksParam) -> Result<Ack, ApiError> {
    Ok(match acks {
        AcksParam::None => Ack::None,
        AcksParam::Leader => Ack::Leader,
        AcksParam::All => match app.broker.durability(topic)? {
            Durability::Fsync => Ack::Fsync,
            Durability::Replicated => Ack::Replicated,
        },
    })
}

/// The answer to a produce request.
pub(super) fn acknowledge<T: serde::Serialize>(ack: Ack, body: &T) -> Response {
    let (status, value) = match ack {
        Ack::None => (StatusCode::ACCEPTED, "none"),
        Ack::Leader => (StatusCode::OK, "leader"),
        Ack::Replicated => (StatusCode::OK, "replicated"),
        Ack::Fsync => (StatusCode::OK, "fsync"),
    };
    // Positions are numbers: they can always be written as JSON.
    let mut response = Response::new(Body::from(serde_json::to_vec(body).unwrap_or_default()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(HEADER_DURABILITY, HeaderValue::from_static(value));
    response
}

pub(super) fn position(placed: &Placed) -> Position {
    Position {
        partition: placed.partition.0,
        offset: placed.offset.0,
        timestamp: placed.timestamp.0,
    }
}

/// Where the record goes, and what to wait for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PublishParams {
    /// The record's key.
    key: Option<String>,
    /// Puts the record into this partition; absent = by key, or any.
    partition: Option<u32>,
    /// What to wait for.
    #[serde(default)]
    #[param(inline, required = false)]
    acks: AcksParam,
    /// The record's time in milliseconds since the epoch; absent = time of arrival.
    timestamp: Option<i64>,
    /// Append only if the partition ends at this offset.
    expected_offset: Option<u64>,
}

/// Publishes the body as one record, exactly as it is sent.
///
/// The content type is kept and given back; JSON (`application/json`) stays JSON, `text/*` text.
/// Headers `Pilgrimage-Header-NAME` and CloudEvents' `ce-*` become headers of the record. The same
/// request sent again under the same `Idempotency-Key` is answered as the first time.
#[utoipa::path(post, path = "/v1/topics/{topic}/publish", tag = "Records",
    params(("topic" = String, Path, description = "Name of the topic"), PublishParams, OnceHeaders),
    request_body(content(
        (String = "text/plain"),
        (serde_json::Value = "application/json"),
        (Vec<u8> = "application/octet-stream"),
    )),
    responses(
        (status = 200, body = Published),
        (status = 202, description = "With acks=none: accepted, nothing more", body = Published),
        (status = 307, description = "With `Pilgrimage-Redirect: leader`: the partition's leader is elsewhere"),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 408, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The producer's sequence is not the one that is due", body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "The partition does not end at the expected offset", body = Problem, content_type = "application/problem+json"),
        (status = 413, body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Something else was sent under this key or sequence number", body = Problem, content_type = "application/problem+json"),
        (status = 429, body = Problem, content_type = "application/problem+json"),
        (status = 503, body = Problem, content_type = "application/problem+json"),
        (status = 507, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn publish(
    State(app): State<Arc<App>>,
    _: Direct,
    Topic(topic): Topic,
    Params(params): Params<PublishParams>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let limit = limits::RECORD_BYTES_MAX as usize;
    let (value, _share) = read_admitted(&parts.headers, body, limit, Some(&app.admission)).await?;
    let record = record(&parts.headers, value, &params)?;
    let records = vec![(params.partition.map(Partition), record)];
    let how = Produce {
        acks: params.acks.acks(),
        expected: params.expected_offset.map(Offset),
        once: once(&parts.headers, None)?,
    };
    let produced = app.broker.produce_once(&topic, records, &how).await?;
    let durability = proof(&app, &topic, params.acks)?;
    let published = Published {
        position: produced.places.first().map(position),
        durability,
    };
    let mut response = acknowledge(durability, &published);
    put_replayed(&mut response, produced.replayed);
    Ok(response)
}

fn record(headers: &HeaderMap, value: Bytes, params: &PublishParams) -> Result<Record, ApiError> {
    let (format, keep_type) = kind_of(headers, &value)?;
    let mut kept = Vec::new();
    if keep_type && let Some(kind) = headers.get(header::CONTENT_TYPE) {
        kept.push((
            "content-type".to_owned(),
            Bytes::copy_from_slice(kind.as_bytes()),
        ));
    }
    for (name, value) in headers {
        let name = match name.as_str().strip_prefix(HEADER_PREFIX) {
            Some(rest) => rest,
            None if name.as_str().starts_with("ce-") => name.as_str(),
            None => continue,
        };
        kept.push((name.to_owned(), Bytes::copy_from_slice(value.as_bytes())));
    }
    Ok(Record {
        key: params.key.clone().map(Bytes::from),
        value: Some(value),
        format,
        headers: kept,
        timestamp: params.timestamp.map(Timestamp),
    })
}

/// What the value is, and whether its content type says anything about it.
fn kind_of(headers: &HeaderMap, value: &Bytes) -> Result<(Format, bool), ApiError> {
    let text_or_binary = || match std::str::from_utf8(value) {
        Ok(_) => Format::Text,
        Err(_) => Format::Binary,
    };
    let kind = media_type(headers);
    Ok(match kind.as_deref() {
        // What curl says of whatever it is given with -d.
        None | Some("" | "application/x-www-form-urlencoded") => (text_or_binary(), false),
        Some(json) if json == "application/json" || json.ends_with("+json") => {
            check_json(value)?;
            (Format::Json, true)
        }
        Some(text) if text.starts_with("text/") => (text_or_binary(), true),
        Some(_) => (Format::Binary, true),
    })
}

fn check_json(value: &Bytes) -> Result<(), ApiError> {
    let refused = |why: String| ApiError::new(Code::InvalidBody, why);
    let text = std::str::from_utf8(value)
        .map_err(|_| refused("the body is not JSON: it is not UTF-8".into()))?;
    serde_json::from_str::<serde::de::IgnoredAny>(text)
        .map_err(|error| refused(format!("the body is not JSON: {error}")))?;
    check_value(text).map_err(refused)
}
