//! What handlers take out of a request. Every refusal is a problem document.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Query, RawPathParams};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Request, header};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::App;
use super::body::read_whole;
use super::error::ApiError;
use super::json::not_json;
use crate::types::{Code, Offset, Partition, TopicName, limits};

/// The topic of the path: the very name that the access check has judged.
pub(super) struct Topic(pub(super) TopicName);

impl<S: Sync> FromRequestParts<S> for Topic {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        // Put there by the access check of every route with a topic in its path.
        let name = parts.extensions.remove::<TopicName>();
        name.map(Self)
            .ok_or_else(|| ApiError::new(Code::Internal, "the route has no topic"))
    }
}

/// A parameter of the path, decoded.
pub(super) async fn path_param(
    parts: &mut Parts,
    wanted: &str,
) -> Result<Option<String>, ApiError> {
    let params = RawPathParams::from_request_parts(parts, &())
        .await
        .map_err(|_| ApiError::invalid("the path is not percent-encoded UTF-8"))?;
    Ok(params
        .iter()
        .find(|(name, _)| *name == wanted)
        .map(|(_, value)| value.to_owned()))
}

async fn number_param<T: std::str::FromStr>(parts: &mut Parts, name: &str) -> Result<T, ApiError> {
    let text = path_param(parts, name).await?.unwrap_or_default();
    plain_number(&text).ok_or_else(|| {
        ApiError::invalid(format!("{name} {:?} is not a number in range", cut(&text)))
    })
}

/// A number in digits alone: no sign, no space.
pub(super) fn plain_number<T: std::str::FromStr>(text: &str) -> Option<T> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// The first 64 characters of what a client sent, for a message back to it.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

/// The partition of the path.
pub(super) struct PathPartition(pub(super) Partition);

impl<S: Sync> FromRequestParts<S> for PathPartition {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        number_param(parts, "partition")
            .await
            .map(|number| Self(Partition(number)))
    }
}

/// The offset of the path.
pub(super) struct PathOffset(pub(super) Offset);

impl<S: Sync> FromRequestParts<S> for PathOffset {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        number_param(parts, "offset")
            .await
            .map(|number| Self(Offset(number)))
    }
}

/// The query string as `T`; unknown and repeated parameters are refused.
pub(super) struct Params<T>(pub(super) T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        match Query::<T>::try_from_uri(&parts.uri) {
            Ok(Query(params)) => Ok(Self(params)),
            Err(error) => Err(ApiError::invalid(super::error::chain(&error))),
        }
    }
}

/// A small JSON body.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Json<T> {
    type Rejection = ApiError;
    async fn from_request(request: Request<Body>, _: &Arc<App>) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        expect_json(&parts.headers)?;
        let bytes = read_whole(&parts.headers, body, limits::ADMIN_BODY_BYTES).await?;
        parse(&bytes).map(Self)
    }
}

/// A small JSON body that may be left out.
pub(super) struct OptionalJson<T>(pub(super) T);

impl<T: DeserializeOwned + Default> FromRequest<Arc<App>> for OptionalJson<T> {
    type Rejection = ApiError;
    async fn from_request(request: Request<Body>, _: &Arc<App>) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let bytes = read_whole(&parts.headers, body, limits::ADMIN_BODY_BYTES).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        expect_json(&parts.headers)?;
        parse(&bytes).map(Self)
    }
}

fn parse<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| not_json(&error))
}

/// The media type of the body without its parameters, in lower case.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(
        value
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase(),
    )
}

/// A form or plain text can be sent by any web page without asking; JSON cannot. So JSON is only
/// taken from those who say that it is JSON.
pub(super) fn expect_json(headers: &HeaderMap) -> Result<(), ApiError> {
    match media_type(headers).as_deref() {
        Some("application/json") => Ok(()),
        other => Err(not_taken(other, "application/json")),
    }
}

pub(super) fn not_taken(given: Option<&str>, wanted: &str) -> ApiError {
    let given = match given {
        Some(given) => format!("the content type {:?} is not taken here", cut(given)),
        None => "the body has no content type".to_owned(),
    };
    ApiError::new(
        Code::UnsupportedMediaType,
        format!("{given}; send it with the header \"content-type: {wanted}\""),
    )
}
