//! The first release's console routes: JSON in, a JSON text or truth value out, also when they
//! fail. A thin face over the same brokers.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use super::App;
use super::body::read_whole;
use super::error::ApiError;
use super::extract::expect_json;
use super::face::Peer;
use super::router::{known_peer, may};
use crate::api::v1::{
    BrokerRef, ConsumeMessage, DEFAULT_GROUP, DEFAULT_TOPIC, SendMessage, StartBroker,
};
use crate::auth::{Operation, Resource};
use crate::broker::{Acks, Broker, BrokerError, StartOptions};
use crate::record::Record;
use crate::types::{BrokerId, Code, TopicName, limits};

/// Why a console route failed.
pub(super) enum Failed {
    /// In the first release's manner: a JSON text.
    Said(StatusCode, String),
    /// The request did not get as far as the route.
    Problem(ApiError),
}

impl Failed {
    fn because(why: impl std::fmt::Display) -> Self {
        Self::Said(StatusCode::BAD_REQUEST, why.to_string())
    }

    /// What is not the caller's fault keeps its status.
    fn coded(code: Code, why: impl std::fmt::Display) -> Self {
        let status =
            StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            tracing::error!(code = code.as_str(), error = %why, "console route failed");
            return Self::Said(
                status,
                format!("the broker could not do this: {}", code.meaning()),
            );
        }
        Self::because(why)
    }
}

impl From<BrokerError> for Failed {
    fn from(error: BrokerError) -> Self {
        Self::because(super::error::chain(&error))
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        match self {
            Self::Said(status, why) => (status, axum::Json(why)).into_response(),
            Self::Problem(error) => error.into_response(),
        }
    }
}

type Answer<T> = Result<axum::Json<T>, Failed>;

async fn body<T: DeserializeOwned>(request: Request<Body>) -> Result<T, Failed> {
    let (parts, body) = request.into_parts();
    expect_json(&parts.headers).map_err(Failed::Problem)?;
    let bytes = read_whole(&parts.headers, body, limits::ADMIN_BODY_BYTES)
        .await
        .map_err(Failed::Problem)?;
    serde_json::from_slice(&bytes).map_err(Failed::because)
}

fn find(app: &App, id: &str) -> Result<Broker, Failed> {
    let id = BrokerId::try_from(id).map_err(|_| Failed::from(BrokerError::NotRunning))?;
    app.brokers
        .get(&id)
        .ok_or_else(|| BrokerError::NotRunning.into())
}

/// The topic that the body names, if the sender may use it so.
fn topic_of(name: Option<&str>, peer: &Peer, operation: Operation) -> Result<TopicName, Failed> {
    let topic = TopicName::try_from(name.unwrap_or(DEFAULT_TOPIC)).map_err(Failed::because)?;
    may(peer, operation, &Resource::Topic(topic.clone())).map_err(Failed::Problem)?;
    Ok(topic)
}

fn peer_of(request: &Request<Body>) -> Result<Arc<Peer>, Failed> {
    known_peer(request.extensions())
        .cloned()
        .map_err(Failed::Problem)
}

/// Starts another broker in this process, with a storage of its own.
#[utoipa::path(post, path = "/start", tag = "Console routes", request_body = StartBroker, responses(
    (status = 200, description = "\"Broker started\"", body = String),
    (status = 400, description = "\"Broker is already running\", or the reason", body = String),
))]
pub(super) async fn start(
    State(app): State<Arc<App>>,
    request: Request<Body>,
) -> Answer<&'static str> {
    let wanted: StartBroker = body(request).await?;
    let options = StartOptions {
        id: BrokerId::try_from(wanted.id).map_err(Failed::because)?,
        partitions: wanted.partitions,
        replication: wanted.replication,
        storage: wanted.storage.into(),
    };
    app.brokers.start(options).await?;
    Ok(axum::Json("Broker started"))
}

/// Stops a broker; its data stays.
#[utoipa::path(post, path = "/stop", tag = "Console routes", request_body = BrokerRef, responses(
    (status = 200, description = "\"Broker stopped\"", body = String),
    (status = 400, description = "\"No broker is running with the given ID\"", body = String),
))]
pub(super) async fn stop(
    State(app): State<Arc<App>>,
    request: Request<Body>,
) -> Answer<&'static str> {
    let wanted: BrokerRef = body(request).await?;
    let stopped = match BrokerId::try_from(wanted.id) {
        Ok(id) => app.brokers.stop(&id).await.map_err(Failed::from),
        Err(_) => Err(BrokerError::NotRunning.into()),
    };
    stopped.map(|()| axum::Json("Broker stopped"))
}

/// Sends a message through a broker.
#[utoipa::path(post, path = "/send", tag = "Console routes", request_body = SendMessage, responses(
    (status = 200, description = "\"Message sent\"", body = String),
    (status = 400, description = "\"No broker is running with the given ID\", or the reason", body = String),
))]
pub(super) async fn send(
    State(app): State<Arc<App>>,
    request: Request<Body>,
) -> Answer<&'static str> {
    let peer = peer_of(&request)?;
    let wanted: SendMessage = body(request).await?;
    let broker = find(&app, &wanted.id)?;
    let topic = topic_of(wanted.topic.as_deref(), &peer, Operation::Write)?;
    let mut record = Record::text(wanted.message);
    record.key = wanted.key.map(Into::into);
    let sent = broker
        .produce(&topic, vec![(None, record)], Acks::All, None)
        .await;
    sent.map_err(|error| Failed::coded(error.code(), error))?;
    Ok(axum::Json("Message sent"))
}

/// Hands out the next message.
#[utoipa::path(post, path = "/consume", tag = "Console routes", request_body = ConsumeMessage, responses(
    (status = 200, description = "The message, or \"No messages available\"", body = String),
    (status = 400, description = "\"No broker is running with the given ID\", or the reason", body = String),
))]
pub(super) async fn consume(State(app): State<Arc<App>>, request: Request<Body>) -> Answer<String> {
    let peer = peer_of(&request)?;
    let wanted: ConsumeMessage = body(request).await?;
    let broker = find(&app, &wanted.id)?;
    let topic = topic_of(wanted.topic.as_deref(), &peer, Operation::Read)?;
    let group = wanted.group.as_deref().unwrap_or(DEFAULT_GROUP);
    if limits::TOPIC_NAME_BYTES < group.len() {
        return Err(Failed::because("the group's name is too long"));
    }
    let wait = Duration::from_millis(wanted.timeout_ms.unwrap_or(0).min(limits::READ_WAIT_MS_MAX));
    let consumed = tokio::select! {
        consumed = broker.consume(&topic, group, wait) => consumed,
        () = app.stop.cancelled() => return Ok(axum::Json(NO_MESSAGES.to_owned())),
    };
    let message = consumed.map_err(|error| Failed::coded(error.code(), error))?;
    Ok(axum::Json(message.map_or_else(
        || NO_MESSAGES.to_owned(),
        |(_, stored)| {
            let value = stored.record.value.unwrap_or_default();
            String::from_utf8_lossy(&value).into_owned()
        },
    )))
}

const NO_MESSAGES: &str = "No messages available";

/// Whether a broker is up and takes messages.
#[utoipa::path(post, path = "/status", tag = "Console routes", request_body = BrokerRef, responses(
    (status = 200, description = "Whether it is up and can write", body = bool),
    (status = 400, description = "\"No broker is running with the given ID\"", body = String),
))]
pub(super) async fn status(State(app): State<Arc<App>>, request: Request<Body>) -> Answer<bool> {
    let wanted: BrokerRef = body(request).await?;
    find(&app, &wanted.id).map(|broker| axum::Json(broker.can_write()))
}
