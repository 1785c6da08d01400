//! The cluster: who is there, who leads what, and what people may move.

use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::Deserialize;
use utoipa::IntoParams;

use super::App;
use super::error::ApiError;
use super::extract::{OptionalJson, Params, PathPartition, Topic, path_param};
use super::topics::rfc3339;
use crate::api::v1::{
    Cluster, ClusterNode, CopyInfo, Copying, Elect, Finding, HeldPartition, HeldPartitionList,
    MetadataReport, NodeList, NodeLoad, NodeReport, PartitionCounts, Problem, Reassign, Replace,
    ReplicaMove,
};
use crate::broker::{Asked, Broker, ClusterError, ClusterStatus, NodeDescription, Severity};
use crate::metadata::Successor;
use crate::types::{
    BrokerId, InvalidName, NodeId, Partition, PartitionRecord, TopicPartition, limits,
};

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
    axum::Json(wire(&app.broker, app.broker.cluster().await))
}

/// The nodes, those that are away too.
#[utoipa::path(get, path = "/v1/nodes", tag = "Cluster", responses((status = 200, body = NodeList)))]
pub(super) async fn list_nodes(State(app): State<Arc<App>>) -> axum::Json<NodeList> {
    let nodes = wire(&app.broker, app.broker.cluster().await).nodes;
    axum::Json(NodeList { nodes })
}

/// A node, its load and its part in the cluster.
#[utoipa::path(get, path = "/v1/nodes/{node}", tag = "Cluster",
    params(("node" = String, Path, description = "Id of the node")),
    responses(
        (status = 200, body = ClusterNode),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn describe_node(
    State(app): State<Arc<App>>,
    PathNode(name): PathNode,
) -> Result<axum::Json<ClusterNode>, ApiError> {
    let id = app.broker.node_named(&name)?;
    let nodes = wire(&app.broker, app.broker.cluster().await).nodes;
    let node = nodes.into_iter().find(|node| node.number == id.0);
    // It was removed in between.
    let node = node.ok_or(ClusterError::NodeNotFound(name))?;
    Ok(axum::Json(node))
}

/// Which partitions of a node a list shows.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct HeldParams {
    /// Most partitions of this page, 1 to 1000; absent = 100.
    limit: Option<usize>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
}

/// The partitions of which a node has a copy, page by page.
#[utoipa::path(get, path = "/v1/nodes/{node}/partitions", tag = "Cluster",
    params(("node" = String, Path, description = "Id of the node"), HeldParams),
    responses(
        (status = 200, body = HeldPartitionList),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn list_held_partitions(
    State(app): State<Arc<App>>,
    PathNode(name): PathNode,
    Params(params): Params<HeldParams>,
) -> Result<axum::Json<HeldPartitionList>, ApiError> {
    let limit = params.limit.unwrap_or(limits::PAGE_DEFAULT);
    if !(1..=limits::PAGE_MAX).contains(&limit) {
        return Err(ApiError::invalid(format!(
            "limit must be between 1 and {}",
            limits::PAGE_MAX
        )));
    }
    let after = params.page_token.as_deref().map(|token| {
        let (topic, partition) = token.rsplit_once('/')?;
        Some(TopicPartition {
            topic: topic.parse().ok()?,
            partition: Partition(partition.parse().ok()?),
        })
    });
    let after = match after {
        Some(None) => {
            let wrong = "page_token is not one of a list of a node's partitions";
            return Err(ApiError::invalid(wrong));
        }
        Some(after) => after,
        None => None,
    };
    let node = app.broker.node_named(&name)?;
    let (held, more) = app.broker.held_by(&name, &Asked { after, limit }).await?;
    let last = held.last().map(|held| held.partition.to_string());
    let partitions = held.into_iter().map(|held| {
        let record = &held.record;
        let lag = |node: NodeId| held.progress.as_ref().and_then(|p| p.lag(node));
        HeldPartition {
            topic: held.partition.topic.to_string(),
            partition: held.partition.partition.0,
            leader: record.leader.map(|leader| app.broker.name_of(leader)),
            copy: copy(&app.broker, record, node, lag(node)),
            replicas: record.replicas.len() as u32,
            in_sync: record.isr.len() as u32,
            bytes: held.progress.as_ref().map(|progress| progress.bytes),
        }
    });
    Ok(axum::Json(HeldPartitionList {
        partitions: partitions.collect(),
        next_page_token: last.filter(|_| more),
    }))
}

/// A copy of a partition; `lag` is what its leader says, which says nothing of itself.
pub(super) fn copy(
    broker: &Broker,
    record: &PartitionRecord,
    node: NodeId,
    lag: Option<u64>,
) -> CopyInfo {
    let role = match () {
        () if record.leader == Some(node) => "leader",
        () if record.removing.contains(&node) => "going",
        () if record.adding.contains(&node) => "coming",
        () if record.isr.contains(&node) => "in_sync",
        () => "behind",
    };
    CopyInfo {
        node: broker.name_of(node),
        role: role.into(),
        eligible: record.elr.contains(&node),
        lag: match record.leader == Some(node) {
            true => Some(0),
            false => lag,
        },
    }
}

fn wire(broker: &Broker, status: ClusterStatus) -> Cluster {
    let name = |node: NodeId| broker.name_of(node);
    let controller = status.controller;
    let moves = status.moves.iter().map(|moving| ReplicaMove {
        topic: moving.partition.topic.to_string(),
        partition: moving.partition.partition.0,
        adding: moving
            .copies
            .iter()
            .map(|copy| Copying {
                node: name(copy.node),
                in_sync: copy.in_sync,
                copied: copy.records.map(|(copied, _)| copied),
                total: copy.records.map(|(_, total)| total),
                bytes: copy.bytes,
            })
            .collect(),
        removing: moving
            .record
            .removing
            .iter()
            .map(|node| name(*node))
            .collect(),
    });
    let findings = status.findings.into_iter().map(|finding| Finding {
        severity: match finding.severity {
            Severity::Critical => "critical".into(),
            Severity::Warning => "warning".into(),
            Severity::Notice => "notice".into(),
        },
        text: finding.text,
        hint: finding.hint,
        node: finding.node,
        topic: finding.topic.map(|topic| topic.to_string()),
    });
    Cluster {
        cluster_id: status.cluster_id.to_string(),
        node: name(status.node),
        controller: controller.map(name),
        term: status.term,
        applied: status.applied,
        moves: moves.collect(),
        nodes: status
            .nodes
            .into_iter()
            .map(|node| wire_node(broker, node, controller))
            .collect(),
        partitions: PartitionCounts {
            total: status.partitions.total,
            without_leader: status.partitions.without_leader,
            under_replicated: status.partitions.under_replicated,
            under_min_in_sync: status.partitions.under_min_in_sync,
        },
        findings: findings.collect(),
    }
}

fn wire_node(broker: &Broker, node: NodeDescription, controller: Option<NodeId>) -> ClusterNode {
    let name = |node: NodeId| broker.name_of(node);
    let entry = &node.entry;
    let leads_metadata = controller == Some(entry.id);
    let role = match (leads_metadata, node.voter) {
        (true, _) => "leader",
        (false, true) => "voter",
        (false, false) => "learner",
    };
    let report = node.report.map(|report| NodeReport {
        version: report.version,
        uptime_ms: report.uptime_ms,
        load: NodeLoad {
            records_in: report.load.records_in,
            bytes_in: report.load.bytes_in,
            records_out: report.load.records_out,
            bytes_out: report.load.bytes_out,
            copied_bytes: report.load.copied_bytes,
            fsyncs: report.load.fsyncs,
            cpu: report.load.cpu,
        },
        memory: report.memory,
        bytes: report.bytes,
        disk_free: report.disk_free,
        disk_total: report.disk_total,
        can_write: report.can_write,
        problems: report.problems,
        hears: report.hears.into_iter().map(name).collect(),
        metadata: MetadataReport {
            role: role.into(),
            leader: report.metadata.leader.map(name),
            term: report.metadata.term,
            last_log: report.metadata.last_log,
            applied: report.metadata.applied,
            snapshot: report.metadata.snapshot,
        },
    });
    ClusterNode {
        id: node.name,
        name: entry.name.to_string(),
        number: entry.id.0,
        status: entry.status.to_string(),
        draining: entry.draining,
        replaced_by: entry.successor.map(|successor| match successor {
            Successor::Any => "any".into(),
            Successor::Node(heir) => name(heir),
        }),
        controller: leads_metadata,
        url: entry.http.clone(),
        peer: entry.peer.clone(),
        rack: entry.rack.clone(),
        incarnation: entry.incarnation.0,
        registered_at: rfc3339(entry.registered_at),
        voter: node.voter,
        heard: node.heard,
        silent_ms: node.silent_ms,
        leads: node.leads,
        replicas: node.replicas,
        in_sync: node.in_sync,
        under_replicated: node.under_replicated,
        report,
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

/// Gives what a node has to another one, and forgets it once it holds nothing and is not at work:
/// how a dead node is replaced. Taken back by undraining it.
#[utoipa::path(put, path = "/v1/nodes/{node}/replacement", tag = "Cluster",
    params(("node" = String, Path, description = "Id of the node that goes")),
    request_body(content = Replace, description = "Which node gets what it has; may be left out"),
    responses(
        (status = 202, description = "It is on its way: see /v1/cluster"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The other node is not at work", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn replace_node(
    State(app): State<Arc<App>>,
    PathNode(node): PathNode,
    OptionalJson(replace): OptionalJson<Replace>,
) -> Result<StatusCode, ApiError> {
    let by = replace.by.map(BrokerId::try_from).transpose()?;
    app.broker.replace_node(&node, by.as_ref()).await?;
    Ok(StatusCode::ACCEPTED)
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
