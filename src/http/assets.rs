//! The console's files and the documentation, embedded in the binary; and what no route takes.

use axum::body::Body;
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{Method, Request, Response, StatusCode};
use axum::response::IntoResponse;
use rust_embed::Embed;

use super::docs;
use super::error::ApiError;
use crate::types::Code;

#[derive(Embed)]
#[folder = "static/"]
struct Console;

/// Scripts, styles, images and calls of this origin alone; nothing inline.
const CONSOLE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
     base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
);

fn file_of(path: &str) -> Option<&str> {
    match path.strip_prefix('/')? {
        "" => Some("index.html"),
        file => Some(file),
    }
}

/// Whether a path is answered with a file that is the same for everybody.
pub(super) fn is_page(path: &str) -> bool {
    !path.starts_with("/v1/")
        && (docs::is_page(path) || file_of(path).is_some_and(|file| Console::get(file).is_some()))
}

/// Answers what no route takes: with a file, or with a problem.
pub(super) async fn fallback(request: Request<Body>) -> Response<Body> {
    let path = request.uri().path();
    let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
    let page = docs::page(path, request.headers()).or_else(|| console(path, request.headers()));
    match page {
        Some(page) if is_get => page,
        Some(_) => {
            let refused = ApiError::new(Code::MethodNotAllowed, "files can only be read");
            ([(header::ALLOW, "GET, HEAD")], refused).into_response()
        }
        None => ApiError::new(
            Code::RouteNotFound,
            "there is no such route; /docs lists those there are",
        )
        .into_response(),
    }
}

fn console(path: &str, headers: &HeaderMap) -> Option<Response<Body>> {
    let file = Console::get(file_of(path)?)?;
    let kind = match file.metadata.mimetype() {
        text if text.starts_with("text/") => format!("{text}; charset=utf-8"),
        other => other.to_owned(),
    };
    let hash = file.metadata.sha256_hash();
    let mut response = with_tag(headers, &hash[..16], file.data.into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::try_from(kind).ok()?);
    headers.insert(header::CONTENT_SECURITY_POLICY, CONSOLE_POLICY);
    Some(response)
}

/// An answer that the client may keep, but asks about each time; 304 if it has this one.
pub(super) fn with_tag(headers: &HeaderMap, hash: &[u8], body: Body) -> Response<Body> {
    let mut tag = String::with_capacity(2 + 2 * hash.len());
    tag.push('"');
    for byte in hash {
        tag.extend(
            [byte >> 4, byte & 15].map(|half| char::from_digit(half.into(), 16).unwrap_or('0')),
        );
    }
    tag.push('"');
    let known = headers.get_all(header::IF_NONE_MATCH).iter().any(|value| {
        let mut tags = value.to_str().unwrap_or_default().split(',').map(str::trim);
        tags.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
    });
    let mut response = Response::new(if known { Body::empty() } else { body });
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}
