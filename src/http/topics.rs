//! Topics: made, changed, described, deleted; their partitions, described and trimmed.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

use super::App;
use super::cluster::copy;
use super::error::ApiError;
use super::extract::{OptionalJson, Params, PathPartition, Topic};
use crate::api::v1::{
    self, PartitionInfo, PartitionList, Problem, TopicList, TopicPatch, TopicSummary, Trimmed,
};
use crate::broker::{Broker, PartitionStatus, TopicDescription};
use crate::partition::State as PartitionState;
use crate::types::{NodeId, Offset, Timestamp, TopicName, limits};

/// A time as RFC 3339 has it.
pub(super) fn rfc3339(time: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(time.0)
        .unwrap_or_default()
        .to_string()
}

fn wire(topic: TopicDescription) -> v1::Topic {
    v1::Topic::new(
        topic.name,
        topic.id.to_string(),
        rfc3339(topic.created_at),
        &topic.settings,
    )
}

/// Which topics a list shows.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParams {
    /// Most topics of this page, 1 to 1000; absent = 100.
    limit: Option<usize>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
    /// Only topics whose names begin with this.
    prefix: Option<String>,
}

/// Topics by name, page by page.
#[utoipa::path(get, path = "/v1/topics", tag = "Topics", params(ListParams), responses(
    (status = 200, body = TopicList),
    (status = 400, body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list_topics(
    State(app): State<Arc<App>>,
    Params(params): Params<ListParams>,
) -> Result<axum::Json<TopicList>, ApiError> {
    let limit = params.limit.unwrap_or(limits::PAGE_DEFAULT);
    if !(1..=limits::PAGE_MAX).contains(&limit) {
        return Err(ApiError::invalid(format!(
            "limit must be between 1 and {}",
            limits::PAGE_MAX
        )));
    }
    let after = match params.page_token.as_deref() {
        None => None,
        Some(token) => Some(
            TopicName::try_from(token)
                .map_err(|_| ApiError::invalid("page_token is not one of a list of topics"))?,
        ),
    };
    let prefix = params.prefix.unwrap_or_default();
    let (topics, more) = app.broker.topics(after.as_ref(), &prefix, limit).await;
    let next_page_token = topics
        .last()
        .filter(|_| more)
        .map(|last| last.name.to_string());
    let topics = topics
        .into_iter()
        .map(|topic| TopicSummary {
            records: topic.records,
            bytes: topic.bytes,
            topic: wire(topic),
        })
        .collect();
    Ok(axum::Json(TopicList {
        topics,
        next_page_token,
    }))
}

/// Makes a topic. One that exists with the same settings is left as it is (200).
#[utoipa::path(put, path = "/v1/topics/{topic}", tag = "Topics",
    params(("topic" = String, Path, description = "Name of the topic")),
    request_body(content = TopicPatch, description = "Settings that differ from the defaults; may be left out"),
    responses(
        (status = 200, description = "It exists with these settings", body = v1::Topic),
        (status = 201, description = "It was made", body = v1::Topic),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It exists with other settings", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A bound of the node is reached", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn put_topic(
    State(app): State<Arc<App>>,
    Topic(name): Topic,
    OptionalJson(patch): OptionalJson<TopicPatch>,
) -> Result<(StatusCode, axum::Json<v1::Topic>), ApiError> {
    let (created, topic) = app.broker.put_topic(&name, &patch).await?;
    let status = if created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, axum::Json(wire(topic))))
}

/// Describes a topic and its effective settings.
#[utoipa::path(get, path = "/v1/topics/{topic}", tag = "Topics",
    params(("topic" = String, Path, description = "Name of the topic")),
    responses(
        (status = 200, body = v1::Topic),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn get_topic(
    State(app): State<Arc<App>>,
    Topic(name): Topic,
) -> Result<axum::Json<v1::Topic>, ApiError> {
    Ok(axum::Json(wire(app.broker.topic(&name).await?)))
}

/// Changes settings of a topic; what the body does not name stays.
#[utoipa::path(patch, path = "/v1/topics/{topic}", tag = "Topics",
    params(("topic" = String, Path, description = "Name of the topic")),
    request_body(content = TopicPatch),
    responses(
        (status = 200, body = v1::Topic),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn patch_topic(
    State(app): State<Arc<App>>,
    Topic(name): Topic,
    super::extract::Json(patch): super::extract::Json<TopicPatch>,
) -> Result<axum::Json<v1::Topic>, ApiError> {
    Ok(axum::Json(wire(
        app.broker.alter_topic(&name, &patch).await?,
    )))
}

/// Deletes a topic and all its records.
#[utoipa::path(delete, path = "/v1/topics/{topic}", tag = "Topics",
    params(("topic" = String, Path, description = "Name of the topic")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn delete_topic(
    State(app): State<Arc<App>>,
    Topic(name): Topic,
) -> Result<StatusCode, ApiError> {
    app.broker.delete_topic(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The partitions of a topic: who holds them, and from where to where they go.
#[utoipa::path(get, path = "/v1/topics/{topic}/partitions", tag = "Topics",
    params(("topic" = String, Path, description = "Name of the topic")),
    responses(
        (status = 200, body = PartitionList),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn list_partitions(
    State(app): State<Arc<App>>,
    Topic(name): Topic,
) -> Result<axum::Json<PartitionList>, ApiError> {
    let partitions = app.broker.partitions(&name).await?;
    let partitions = partitions
        .into_iter()
        .map(|partition| info(&app.broker, partition))
        .collect();
    Ok(axum::Json(PartitionList { partitions }))
}

fn info(broker: &Broker, partition: PartitionStatus) -> PartitionInfo {
    let record = &partition.record;
    let name = |node: NodeId| broker.name_of(node);
    PartitionInfo {
        partition: partition.partition.0,
        leader: record.leader.map(name),
        leader_epoch: record.leader_epoch.0,
        replicas: record
            .replicas
            .iter()
            .map(|replica| name(replica.node))
            .collect(),
        isr: record.isr.iter().map(|node| name(*node)).collect(),
        copies: record
            .replicas
            .iter()
            .map(|replica| copy(broker, record, replica.node, partition.lag(replica.node)))
            .collect(),
        unclean_epochs: record.unclean_epochs.iter().map(|epoch| epoch.0).collect(),
        log_start: partition.log_start.0,
        high_watermark: partition.high_watermark.0,
        log_end: partition.log_end.0,
        bytes: partition.stats.bytes,
        appended_bytes: partition.stats.appended_bytes,
        segments: partition.stats.segments,
        state: match partition.state {
            PartitionState::Online => "online".into(),
            PartitionState::Offline(_) if record.leader.is_none() => {
                "offline: nobody leads it".into()
            }
            // The reason names files; it stands in the log.
            PartitionState::Offline(_) => "offline: its leader does not answer".into(),
        },
    }
}

/// Up to where a partition is trimmed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TrimParams {
    /// Records below this offset are deleted.
    before: u64,
}

/// Deletes the records of a partition below an offset.
#[utoipa::path(delete, path = "/v1/topics/{topic}/partitions/{partition}/records", tag = "Records",
    params(
        ("topic" = String, Path, description = "Name of the topic"),
        ("partition" = u32, Path, description = "Index of the partition"),
        TrimParams,
    ),
    responses(
        (status = 200, body = Trimmed),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 416, description = "The offset lies beyond the end", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn trim_partition(
    State(app): State<Arc<App>>,
    Topic(name): Topic,
    PathPartition(partition): PathPartition,
    Params(params): Params<TrimParams>,
) -> Result<axum::Json<Trimmed>, ApiError> {
    let log_start = app
        .broker
        .trim(&name, partition, Offset(params.before))
        .await?;
    Ok(axum::Json(Trimmed {
        log_start: log_start.0,
    }))
}
