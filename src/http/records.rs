//! `POST …/records`: many records in one request, in whatever form they come.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request};
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use super::App;
use super::body::read_admitted;
use super::direct::Direct;
use super::error::ApiError;
use super::extract::{Params, Topic, media_type, not_taken};
use super::json::{Addressed, records_of};
use super::once::{OnceHeaders, once, put_replayed};
use super::publish::{AcksParam, acknowledge, position, proof};
use super::{cloudevents, stream};
use crate::api::v1::{
    BATCHES, BatchPosition, CLOUDEVENT, CLOUDEVENT_BATCH, NDJSON, Problem, ProduceRequest,
    Produced, ProducedBatches, StreamAck,
};
use crate::broker::{Once, Produce};
use crate::partition::Appended;
use crate::record::split_batches;
use crate::types::{Code, Offset, Partition, TopicName, limits};

/// Where the records go, and what to wait for.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ProduceParams {
    /// What to wait for.
    #[serde(default)]
    #[param(inline, required = false)]
    pub(super) acks: AcksParam,
    /// Puts the records that name no partition of their own into this one; absent = by key, or any.
    pub(super) partition: Option<u32>,
    /// Append only if the partition ends at this offset; needs all records in one partition.
    pub(super) expected_offset: Option<u64>,
}

/// Appends records: those of one partition together or not at all.
///
/// `application/json` is one request of up to 100,000 records. `application/x-ndjson`, one record per
/// line, may be as long as it likes and is acknowledged once, at its end; with
/// `Accept: application/x-ndjson` also stretch by stretch while it goes on. CloudEvents come singly
/// or in batches. `application/vnd.pilgrimage.batches` are batches in the log's own layout.
///
/// The same request sent again under the same `Idempotency-Key`, or by the same producer under the
/// same sequence, is answered as the first time and nothing is appended. An NDJSON stream takes
/// neither: how its lines are grouped depends on how they arrive.
#[utoipa::path(post, path = "/v1/topics/{topic}/records", tag = "Records",
    params(("topic" = String, Path, description = "Name of the topic"), ProduceParams, OnceHeaders),
    request_body(content(
        (ProduceRequest = "application/json"),
        (crate::api::v1::NewRecord = "application/x-ndjson"),
        (serde_json::Value = "application/cloudevents+json"),
        (Vec<serde_json::Value> = "application/cloudevents-batch+json"),
        (Vec<u8> = "application/vnd.pilgrimage.batches"),
    )),
    responses(
        (status = 200, description = "By the form of the body", content(
            (Produced = "application/json"), (StreamAck = "application/x-ndjson"), (ProducedBatches = "application/json"),
        )),
        (status = 202, description = "With acks=none: accepted, nothing more", body = Produced),
        (status = 307, description = "With `Pilgrimage-Redirect: leader`: the partition's leader is elsewhere"),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 408, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The producer's sequence is not the one that is due", body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "The partition does not end at the expected offset", body = Problem, content_type = "application/problem+json"),
        (status = 413, body = Problem, content_type = "application/problem+json"),
        (status = 415, body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Something else was sent under this key or sequence number", body = Problem, content_type = "application/problem+json"),
        (status = 429, body = Problem, content_type = "application/problem+json"),
        (status = 503, body = Problem, content_type = "application/problem+json"),
        (status = 507, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn produce(
    State(app): State<Arc<App>>,
    _: Direct,
    Topic(topic): Topic,
    Params(params): Params<ProduceParams>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let headers = &parts.headers;
    let kind = media_type(headers);
    let whole = async |body| {
        read_admitted(headers, body, limits::JSON_BODY_BYTES, Some(&app.admission)).await
    };
    match kind.as_deref() {
        Some("application/json") => {
            let (bytes, _share) = whole(body).await?;
            let (records, stamp) = records_of(&bytes)?;
            let once = once(headers, stamp)?;
            produce_records(&app, &topic, &params, records, once).await
        }
        Some(NDJSON) => {
            if once(headers, None)? != Once::No {
                return Err(ApiError::invalid(
                    "a stream of lines takes no idempotency key and no producer: how its lines are \
                     grouped depends on how they arrive. Send application/json, or go on behind the \
                     lines that were acknowledged",
                ));
            }
            stream::produce(app, topic, params, headers, body).await
        }
        Some(CLOUDEVENT) => {
            let (bytes, _share) = whole(body).await?;
            let record = cloudevents::event_of(&bytes)?;
            let once = once(headers, None)?;
            produce_records(&app, &topic, &params, vec![(None, record)], once).await
        }
        Some(CLOUDEVENT_BATCH) => {
            let (bytes, _share) = whole(body).await?;
            let records = cloudevents::events_of(&bytes)?
                .into_iter()
                .map(|record| (None, record));
            let once = once(headers, None)?;
            produce_records(&app, &topic, &params, records.collect(), once).await
        }
        Some(BATCHES) => produce_batches(&app, &topic, &params, headers, body).await,
        other => Err(not_taken(other, "application/json")),
    }
}

async fn produce_records(
    app: &App,
    topic: &TopicName,
    params: &ProduceParams,
    mut records: Vec<Addressed>,
    once: Once,
) -> Result<Response, ApiError> {
    address(&mut records, params);
    let how = params.how(once);
    let produced = app.broker.produce_once(topic, records, &how).await?;
    let durability = proof(app, topic, params.acks)?;
    let records = produced.places.iter().map(position).collect();
    let mut response = acknowledge(
        durability,
        &Produced {
            records,
            durability,
        },
    );
    put_replayed(&mut response, produced.replayed);
    Ok(response)
}

impl ProduceParams {
    fn how(&self, once: Once) -> Produce {
        Produce {
            acks: self.acks.acks(),
            expected: self.expected_offset.map(Offset),
            once,
        }
    }
}

/// Gives the request's partition to the records that name none.
pub(super) fn address(records: &mut [Addressed], params: &ProduceParams) {
    if let Some(partition) = params.partition {
        for (own, _) in records {
            own.get_or_insert(Partition(partition));
        }
    }
}

async fn produce_batches(
    app: &App,
    topic: &TopicName,
    params: &ProduceParams,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (bytes, _share) =
        read_admitted(headers, body, limits::BATCH_BYTES, Some(&app.admission)).await?;
    let batches = split_batches(bytes)
        .map_err(|error| ApiError::new(Code::InvalidBody, super::error::chain(&error)))?;
    let once = once(headers, None)?;
    if matches!(once, Once::Sequence(_)) {
        return Err(ApiError::invalid(
            "batches carry their producer and sequence in their own headers",
        ));
    }
    let partition = params.partition.map(Partition);
    let appended = app
        .broker
        .produce_batches(topic, partition, batches, &params.how(once))
        .await?;
    let durability = proof(app, topic, params.acks)?;
    let is_replay = |(_, batch): &(_, Appended)| batch.replayed.is_some();
    let replayed = !appended.is_empty() && appended.iter().all(is_replay);
    let batches = appended
        .into_iter()
        .map(|(partition, batch)| BatchPosition {
            partition: partition.0,
            base_offset: batch.base_offset.0,
            count: batch.count,
            append_time: batch.append_time.0,
        })
        .collect();
    let mut response = acknowledge(
        durability,
        &ProducedBatches {
            batches,
            durability,
        },
    );
    put_replayed(&mut response, replayed);
    Ok(response)
}
