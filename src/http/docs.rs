//! The interactive documentation (Swagger UI, without a network) and the page of problem codes.

use std::fmt::Write;
use std::sync::{Arc, LazyLock};

use axum::body::Body;
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{Response, StatusCode};
use utoipa_swagger_ui::Config;

use super::assets::with_tag;
use crate::types::{Code, Outcome};

/// Swagger UI sets styles from its scripts and has its icons inline.
const SWAGGER_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; \
     img-src 'self' data:; font-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);
const PLAIN_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

static CONFIG: LazyLock<Arc<Config<'static>>> =
    LazyLock::new(|| Arc::new(Config::from("/openapi.json").try_it_out_enabled(true)));

static PROBLEMS: LazyLock<String> = LazyLock::new(problems);

pub(super) fn is_page(path: &str) -> bool {
    path == "/docs" || path.starts_with("/docs/")
}

pub(super) fn page(path: &str, headers: &HeaderMap) -> Option<Response<Body>> {
    let file = match path {
        "/docs" => return Some(redirect("/docs/")),
        "/docs/problems" => return Some(problems_page(headers)),
        _ => path.strip_prefix("/docs/")?,
    };
    let file = utoipa_swagger_ui::serve(file, CONFIG.clone())
        .ok()
        .flatten()?;
    let mut response = Response::new(Body::from(file.bytes.into_owned()));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::try_from(file.content_type).ok()?,
    );
    if file.gzpipped {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::CONTENT_SECURITY_POLICY, SWAGGER_POLICY);
    Some(response)
}

fn redirect(to: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response
        .headers_mut()
        .insert(header::LOCATION, HeaderValue::from_static(to));
    response
}

fn problems_page(headers: &HeaderMap) -> Response<Body> {
    let version = env!("CARGO_PKG_VERSION").as_bytes();
    let tag = [version, &PROBLEMS.len().to_be_bytes()].concat();
    let mut response = with_tag(headers, &tag, Body::from(PROBLEMS.as_str()));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    headers.insert(header::CONTENT_SECURITY_POLICY, PLAIN_POLICY);
    response
}

fn problems() -> String {
    let mut page = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Problems</title>\
         <h1>Problems</h1><p>Every error is a problem document (RFC 9457) with one of these codes. \
         <em>Retry</em>: the same request may succeed later. <em>Outcome</em>: refused = it did not \
         happen; unknown = it may have happened; applied = it happened before.</p>\
         <table><tr><th>Code<th>Status<th>Meaning<th>Retry<th>Outcome",
    );
    for code in Code::ALL {
        let outcome = match code.outcome() {
            Outcome::Refused => "refused",
            Outcome::Unknown => "unknown",
            Outcome::Applied => "applied",
        };
        let (status, meaning) = (code.status(), code.meaning());
        let retry = if code.retryable() { "yes" } else { "no" };
        // Writing into a text does not fail.
        let _ = write!(
            page,
            "<tr id=\"{code}\"><td><code>{code}</code><td>{status}<td>{meaning}<td>{retry}<td>{outcome}"
        );
    }
    page.push_str("</table></html>");
    page
}
