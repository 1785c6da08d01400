//! Clients that would rather speak to a partition's leader themselves.
//!
//! Any node answers anything, passing records on to whoever leads. A client that sends
//! `Pilgrimage-Redirect: leader` with a request that names its partition is told where that is
//! instead (307, RFC 9110 section 15.4.8), and spares the hop. Without a better place it is
//! answered as always.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::App;
use super::error::ApiError;
use super::extract::{PathPartition, path_param};
use crate::api::v1::HEADER_REDIRECT;
use crate::types::{Code, Partition, TopicName};

/// The request is answered here: its sender did not ask for the leader, or this node leads. Comes
/// before the topic among a handler's arguments, and before the body is read.
pub(super) struct Direct;

/// Why a request is not answered here.
pub(super) enum Elsewhere {
    /// Another node leads; the whole address of the request there.
    There(HeaderValue),
    /// The header asks for something else.
    Invalid(ApiError),
}

impl IntoResponse for Elsewhere {
    fn into_response(self) -> Response {
        match self {
            Self::Invalid(error) => error.into_response(),
            Self::There(location) => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
                response.headers_mut().insert(header::LOCATION, location);
                response
            }
        }
    }
}

#[derive(Deserialize)]
struct InQuery {
    partition: Option<u32>,
}

impl FromRequestParts<Arc<App>> for Direct {
    type Rejection = Elsewhere;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Elsewhere> {
        let Some(wanted) = parts.headers.get(HEADER_REDIRECT) else {
            return Ok(Self);
        };
        if wanted != "leader" {
            let why = "the header Pilgrimage-Redirect knows the value \"leader\" only";
            return Err(Elsewhere::Invalid(ApiError::new(Code::InvalidRequest, why)));
        }
        let partition = match path_param(parts, "partition").await {
            Ok(Some(_)) => {
                let named = PathPartition::from_request_parts(parts, app).await;
                Some(named.map_err(Elsewhere::Invalid)?.0)
            }
            Ok(None) => {
                let query = Query::<InQuery>::try_from_uri(&parts.uri).ok();
                query.and_then(|query| query.0.partition).map(Partition)
            }
            Err(error) => return Err(Elsewhere::Invalid(error)),
        };
        let topic = parts.extensions.get::<TopicName>();
        let Some(url) = topic
            .zip(partition)
            .and_then(|(topic, partition)| app.broker.leader_elsewhere(topic, partition))
        else {
            return Ok(Self);
        };
        let place = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let location = format!("{}{place}", url.trim_end_matches('/'));
        match HeaderValue::try_from(location) {
            Ok(location) => Err(Elsewhere::There(location)),
            // An address that no header can carry is no better place.
            Err(_) => Ok(Self),
        }
    }
}
