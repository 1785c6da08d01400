//! The cluster: who is there, who leads what, and what people may move.

use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::request::Parts;

use super::App;
use super::error::ApiError;
use super::extract::{OptionalJson, PathPartition, Topic, path_param};
use super::topics::rfc3339;
use crate::api::v1::{
    Cluster, ClusterNode, Elect, PartitionCounts, Problem, Reassign, ReplicaMove,
};
use crate::broker::{Broker, ClusterStatus};
use crate::types::{BrokerId, InvalidName, NodeId};

/// The node of the path.
pub(super) struct PathNode(BrokerId);

impl<S: Sync> FromRequestParts<S> for PathNode {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let name = path_param(parts, "node").await?.unwrap_or_default();
        Ok(Self(name.try_into()?))
    }
}

/// The cluster, its nodes, and what is wrong with it.
#[utoipa::path(get, path = "/v1/cluster", tag = "Cluster", responses((status = 200, body = Cluster)))]
pub(super) async fn get_cluster(State(app): State<Arc<App>>) -> axum::Json<Cluster> {
    axum::Json(wire(&app.broker, app.broker.cluster()))
}

fn wire(broker: &Broker, status: ClusterStatus) -> Cluster {
    let name = |node: NodeId| broker.name_of(node);
    let nodes = status.nodes.iter().map(|node| ClusterNode {
        id: node.entry.name.to_string(),
        number: node.entry.id.0,
        status: node.entry.status.to_string(),
        url: node.entry.http.clone(),
        peer: node.entry.peer.clone(),
        rack: node.entry.rack.clone(),
        incarnation: node.entry.incarnation.0,
        registered_at: rfc3339(node.entry.registered_at),
        voter: node.voter,
        heard: node.heard,
        leads: node.leads,
        replicas: node.replicas,
        in_sync: node.in_sync,
    });
    let moves = status.moves.iter().map(|moving| ReplicaMove {
        topic: moving.partition.topic.to_string(),
        partition: moving.partition.partition.0,
        adding: moving
            .record
            .adding
            .iter()
            .map(|node| name(*node))
            .collect(),
        removing: moving
            .record
            .removing
            .iter()
            .map(|node| name(*node))
            .collect(),
    });
    Cluster {
        cluster_id: status.cluster_id.to_string(),
        node: name(status.node),
        controller: status.controller.map(name),
        term: status.term,
        applied: status.applied,
        nodes: nodes.collect(),
        partitions: PartitionCounts {
            total: status.partitions.total,
            without_leader: status.partitions.without_leader,
            under_replicated: status.partitions.under_replicated,
            under_min_in_sync: status.partitions.under_min_in_sync,
        },
        moves: moves.collect(),
        problems: status.problems,
    }
}

/// Makes a node give everything away: its leaderships at once, its replicas as others have copies.
#[utoipa::path(post, path = "/v1/nodes/{node}/drain", tag = "Cluster",
    params(("node" = String, Path, description = "Id of the node")),
    responses(
        (status = 204, description = "It gives everything away"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn drain_node(
    State(app): State<Arc<App>>,
    PathNode(node): PathNode,
) -> Result<StatusCode, ApiError> {
    app.broker.drain_node(&node, true).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lets a node that was draining keep what it has and get more.
#[utoipa::path(delete, path = "/v1/nodes/{node}/drain", tag = "Cluster",
    params(("node" = String, Path, description = "Id of the node")),
    responses(
        (status = 204, description = "It keeps what it has"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn undrain_node(
    State(app): State<Arc<App>>,
    PathNode(node): PathNode,
) -> Result<StatusCode, ApiError> {
    app.broker.drain_node(&node, false).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Forgets a node that holds no replicas and is not at work.
#[utoipa::path(delete, path = "/v1/nodes/{node}", tag = "Cluster",
    params(("node" = String, Path, description = "Id of the node")),
    responses(
        (status = 204, description = "It is forgotten"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It is at work, or holds replicas", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn remove_node(
    State(app): State<Arc<App>>,
    PathNode(node): PathNode,
) -> Result<StatusCode, ApiError> {
    app.broker.remove_node(&node).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Moves a partition's replicas. They are copied first; the old ones go when the new are in sync.
#[utoipa::path(put, path = "/v1/topics/{topic}/partitions/{partition}/replicas", tag = "Cluster",
    params(
        ("topic" = String, Path, description = "Name of the topic"),
        ("partition" = u32, Path, description = "Index of the partition"),
    ),
    request_body = Reassign,
    responses(
        (status = 202, description = "They are on their way: see /v1/cluster"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn reassign(
    State(app): State<Arc<App>>,
    Topic(topic): Topic,
    PathPartition(partition): PathPartition,
    OptionalJson(wanted): OptionalJson<Option<Reassign>>,
) -> Result<StatusCode, ApiError> {
    let wanted = wanted.ok_or_else(|| ApiError::invalid("the body says which nodes"))?;
    let nodes: Result<Vec<BrokerId>, InvalidName> =
        wanted.nodes.into_iter().map(BrokerId::try_from).collect();
    app.broker.reassign(&topic, partition, &nodes?).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Takes back a move of replicas that is under way.
#[utoipa::path(delete, path = "/v1/topics/{topic}/partitions/{partition}/replicas", tag = "Cluster",
    params(
        ("topic" = String, Path, description = "Name of the topic"),
        ("partition" = u32, Path, description = "Index of the partition"),
    ),
    responses(
        (status = 204, description = "The former replicas stay"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn cancel_reassign(
    State(app): State<Arc<App>>,
    Topic(topic): Topic,
    PathPartition(partition): PathPartition,
) -> Result<StatusCode, ApiError> {
    app.broker.cancel_reassign(&topic, partition).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes an in-sync replica the leader, or, named unclean, any replica of a partition without one.
#[utoipa::path(put, path = "/v1/topics/{topic}/partitions/{partition}/leader", tag = "Cluster",
    params(
        ("topic" = String, Path, description = "Name of the topic"),
        ("partition" = u32, Path, description = "Index of the partition"),
    ),
    request_body = Elect,
    responses(
        (status = 204, description = "It leads"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn elect(
    State(app): State<Arc<App>>,
    Topic(topic): Topic,
    PathPartition(partition): PathPartition,
    OptionalJson(wanted): OptionalJson<Option<Elect>>,
) -> Result<StatusCode, ApiError> {
    let wanted = wanted.ok_or_else(|| ApiError::invalid("the body says which node"))?;
    let node = BrokerId::try_from(wanted.node)?;
    app.broker
        .elect(&topic, partition, &node, wanted.unclean)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
