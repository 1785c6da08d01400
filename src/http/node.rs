//! The node: its load, its health, its metrics.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;

use super::App;
use super::topics::rfc3339;
use crate::api::v1::{Health, Node, Problem};

/// The node, its load and its storage.
#[utoipa::path(get, path = "/v1/node", tag = "Node", responses((status = 200, body = Node)))]
pub(super) async fn get_node(State(app): State<Arc<App>>) -> axum::Json<Node> {
    let status = app.broker.status();
    let process = app.broker.process();
    let stats = app.broker.stats();
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    axum::Json(Node {
        id: app.broker.id().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: rfc3339(status.started_at),
        storage: app.broker.options().storage.display().to_string(),
        brokers: app.brokers.ids().iter().map(ToString::to_string).collect(),
        topics: status.topics,
        partitions: status.partitions,
        bytes: status.bytes,
        appended_bytes: status.appended_bytes,
        disk_free: status.disk_free,
        disk_total: status.disk_total,
        memory: process.memory,
        cpu_seconds: process.cpu_seconds,
        records_in: read(&stats.records_in),
        bytes_in: read(&stats.bytes_in),
        records_out: read(&stats.records_out),
        bytes_out: read(&stats.bytes_out),
        fsyncs: read(&stats.fsyncs),
        fsync_seconds: read(&stats.fsync_nanos) as f64 / 1e9,
        requests: app.requests.load(Ordering::Relaxed),
        connections: app.connections.load(Ordering::Relaxed) as u64,
        state: match problems(&app).first() {
            None => "ready".into(),
            Some(problem) => problem.clone(),
        },
    })
}

/// What keeps the node from taking records, in words.
fn problems(app: &App) -> Vec<String> {
    let mut problems = app.broker.status().problems_for_all();
    if app.stop.is_cancelled() {
        problems.insert(0, "the node is shutting down".into());
    }
    problems
}

/// Whether the process is alive: always, if it answers.
#[utoipa::path(get, path = "/healthz", tag = "Node", responses((status = 200, body = Health)))]
pub(super) async fn healthz() -> axum::Json<Health> {
    axum::Json(Health {
        status: "ok".into(),
        problems: Vec::new(),
    })
}

/// Whether the node takes requests: not while it starts, shuts down or has a full disk.
#[utoipa::path(get, path = "/readyz", tag = "Node", responses(
    (status = 200, body = Health),
    (status = 503, description = "It does not", body = Health),
))]
pub(super) async fn readyz(State(app): State<Arc<App>>) -> impl IntoResponse {
    let problems = problems(&app);
    if app.broker.can_write() && !app.stop.is_cancelled() {
        return (
            StatusCode::OK,
            axum::Json(Health {
                status: "ok".into(),
                problems,
            }),
        )
            .into_response();
    }
    let health = Health {
        status: "not ready".into(),
        problems,
    };
    (
        StatusCode::SERVICE_UNAVAILABLE,
        [(header::RETRY_AFTER, "1")],
        axum::Json(health),
    )
        .into_response()
}

/// All metrics in the Prometheus text format.
#[utoipa::path(get, path = "/metrics", tag = "Node", responses(
    (status = 200, body = String, content_type = "text/plain"),
    (status = 403, body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    let mut text = app
        .prometheus
        .as_ref()
        .map(|handle| handle.render())
        .unwrap_or_default();
    let brokers = app
        .brokers
        .ids()
        .into_iter()
        .filter_map(|id| app.brokers.get(&id));
    let counters: Vec<_> = brokers.map(|broker| broker.stats().counters()).collect();
    for (index, (name, _)) in app.broker.stats().counters().iter().enumerate() {
        let sum = counters.iter().map(|of_one| of_one[index].1).sum::<u64>();
        // Writing into a text does not fail.
        let _ = write!(text, "# TYPE {name} counter\n{name} {sum}\n\n");
    }
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        text,
    )
}

/// The document of this interface.
#[utoipa::path(get, path = "/openapi.json", tag = "Node", responses(
    (status = 200, description = "OpenAPI 3.1", body = Object),
))]
pub(super) async fn openapi_document() -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "application/json")],
        super::openapi::json(),
    )
}
