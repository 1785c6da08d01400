//! What holds for every request before any route sees it, and for every answer after.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, Request, Response, StatusCode};
use axum::response::IntoResponse;
use bytes::Bytes;
use futures_util::FutureExt;
use hyper::body::{Frame, Incoming, SizeHint};
use tower::Service;

use super::App;
use super::assets;
use super::body::{Pace, PacedBody};
use super::error::ApiError;
use super::io::Answering;
use crate::api::v1::{NDJSON, PROBLEM};
use crate::auth::guard::{AllowedHosts, Provenance, check};
use crate::auth::{Policy, Principal};
use crate::types::Code;

/// Who is at the other end of a connection, and what it may ask for.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) principal: Principal,
    pub(super) policy: Policy,
    pub(super) allowed: Arc<AllowedHosts>,
}

/// An answer's body, which marks the request as answered when it is gone.
pub(super) struct Answer {
    body: Body,
    _answering: Answering,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Answers one request. Never fails and never panics.
pub(super) async fn answer(
    app: &App,
    mut router: Router,
    peer: Arc<Peer>,
    request: Request<Incoming>,
    answering: Answering,
) -> Response<Answer> {
    app.requests.fetch_add(1, Ordering::Relaxed);
    let origin = cors_origin(app, request.headers());
    let trace = request.headers().get("traceparent").cloned();
    let mut response = match admit(&peer, &request) {
        Err(refused) => refused.into_response(),
        Ok(()) if origin.is_some() && is_preflight(&request) => preflight(&request),
        Ok(()) => {
            let request = with_paced_body(request, peer);
            match AssertUnwindSafe(router.call(request)).catch_unwind().await {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                Err(_) => {
                    tracing::error!(traceparent = ?trace, "a request handler panicked");
                    ApiError::new(
                        Code::Internal,
                        "the node could not do this; its log says why",
                    )
                    .into_response()
                }
            }
        }
    };
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        response = as_problem(response);
        tracing::debug!(status = status.as_u16(), traceparent = ?trace, "request refused");
    } else {
        tracing::trace!(status = status.as_u16(), traceparent = ?trace, "request answered");
    }
    protect(response.headers_mut());
    if let Some(origin) = origin {
        share_with(response.headers_mut(), origin);
    }
    response.map(|body| Answer {
        body,
        _answering: answering,
    })
}

/// A header's values in one text; given twice they are joined, which makes them malformed.
fn text_of(headers: &HeaderMap, name: HeaderName) -> Result<Option<String>, ApiError> {
    let mut values = headers.get_all(&name).iter();
    let Some(first) = values.next() else {
        return Ok(None);
    };
    let malformed = |_| ApiError::invalid(format!("the header {name} is not plain text"));
    let mut text = first.to_str().map_err(malformed)?.to_owned();
    for value in values {
        text.push_str(", ");
        text.push_str(value.to_str().map_err(malformed)?);
    }
    Ok(Some(text))
}

/// Bytes of all header names and values of a request.
const HEADER_BYTES: usize = 32 * 1024;

fn admit(peer: &Peer, request: &Request<Incoming>) -> Result<(), ApiError> {
    let headers = request.headers();
    let bytes = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum::<usize>();
    if HEADER_BYTES < bytes + request.uri().path().len() {
        let detail = format!("the request's headers are larger than {HEADER_BYTES} bytes");
        return Err(ApiError::new(Code::HeadersTooLarge, detail));
    }
    let host = text_of(headers, header::HOST)?;
    // In HTTP/2, and where a proxy form is used, the target itself names the host.
    let authority = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    if let (Some(host), Some(authority)) = (&host, authority)
        && !host.eq_ignore_ascii_case(authority)
    {
        return Err(ApiError::invalid("the request names two different hosts"));
    }
    let origin = text_of(headers, header::ORIGIN)?;
    let site = text_of(headers, HeaderName::from_static("sec-fetch-site"))?;
    let (mode, dest) = match site {
        Some(_) => (
            text_of(headers, HeaderName::from_static("sec-fetch-mode"))?,
            text_of(headers, HeaderName::from_static("sec-fetch-dest"))?,
        ),
        None => (None, None),
    };
    let provenance = Provenance {
        host: authority.or(host.as_deref()),
        origin: origin.as_deref(),
        sec_fetch_site: site.as_deref(),
        sec_fetch_mode: mode.as_deref(),
        sec_fetch_dest: dest.as_deref(),
        safe_method: matches!(*request.method(), Method::GET | Method::HEAD),
        static_page: site.is_some() && assets::is_page(request.uri().path()),
    };
    check(&provenance, &peer.allowed)
        .map_err(|refusal| ApiError::new(refusal.code(), refusal.to_string()))
}

fn with_paced_body(request: Request<Incoming>, peer: Arc<Peer>) -> Request<Body> {
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(peer);
    let body = if hyper::body::Body::is_end_stream(&body) {
        Body::empty()
    } else {
        let is_stream = parts
            .headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(NDJSON.as_bytes()));
        let pace = if is_stream { Pace::STREAM } else { Pace::WHOLE };
        Body::new(PacedBody::new(body, pace))
    };
    Request::from_parts(parts, body)
}

fn is_problem(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    // The console routes answer with JSON strings; their handlers say so.
    matches!(kind, Some(kind) if kind == PROBLEM.as_bytes() || kind == b"application/json")
}

/// Replaces the bare errors of the libraries below by problem documents.
fn as_problem(response: Response<Body>) -> Response<Body> {
    if is_problem(response.headers()) {
        return response;
    }
    let code = match response.status() {
        StatusCode::NOT_FOUND => Code::RouteNotFound,
        StatusCode::METHOD_NOT_ALLOWED => Code::MethodNotAllowed,
        StatusCode::NOT_ACCEPTABLE => Code::NotAcceptable,
        StatusCode::REQUEST_TIMEOUT => Code::RequestTimeout,
        StatusCode::PAYLOAD_TOO_LARGE => Code::TooLarge,
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Code::UnsupportedMediaType,
        status if status.is_server_error() => Code::Internal,
        _ => Code::InvalidRequest,
    };
    let mut problem = ApiError::new(code, code.as_str().replace('_', " ")).into_response();
    if let Some(allow) = response.headers().get(header::ALLOW) {
        problem.headers_mut().insert(header::ALLOW, allow.clone());
    }
    problem
}

/// What an answer that says nothing else may do in a browser: nothing.
const NOTHING: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const SAME_ORIGIN: HeaderValue = HeaderValue::from_static("same-origin");
const NO_REFERRER: HeaderValue = HeaderValue::from_static("no-referrer");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Puts the headers of SECURITY S-16 on an answer; a handler's own stay.
fn protect(headers: &mut HeaderMap) {
    headers.reserve(8);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    headers.insert(header::REFERRER_POLICY, NO_REFERRER);
    headers.insert(
        HeaderName::from_static("cross-origin-resource-policy"),
        SAME_ORIGIN,
    );
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(NOTHING);
    headers.entry(header::CACHE_CONTROL).or_insert(NO_STORE);
}

/// The request's origin, if its pages may read answers.
fn cors_origin(app: &App, headers: &HeaderMap) -> Option<HeaderValue> {
    if app.cors.is_empty() {
        return None;
    }
    let origin = headers.get(header::ORIGIN)?;
    app.cors.iter().find(|allowed| *allowed == origin).cloned()
}

fn is_preflight(request: &Request<Incoming>) -> bool {
    request.method() == Method::OPTIONS
        && request
            .headers()
            .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

fn preflight(request: &Request<Incoming>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE"),
    );
    if let Some(wanted) = request
        .headers()
        .get(header::ACCESS_CONTROL_REQUEST_HEADERS)
    {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    headers.insert(
        header::ACCESS_CONTROL_MAX_AGE,
        HeaderValue::from_static("600"),
    );
    response
}

fn share_with(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    headers.insert(
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static(
            "pilgrimage-durability, pilgrimage-next, pilgrimage-high-watermark, pilgrimage-offset, \
             pilgrimage-partition, pilgrimage-timestamp, pilgrimage-key, idempotent-replayed, \
             retry-after",
        ),
    );
}
