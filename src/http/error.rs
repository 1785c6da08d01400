//! The one place where errors become answers: every one a problem document (RFC 9457).

use std::error::Error;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;

use crate::api::v1::{PROBLEM, Problem};
use crate::broker::{ClusterError, FetchError, ProduceError, TopicError};
use crate::types::{Code, InvalidName, Offset, Outcome};

/// A problem document on its way to the client.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(super) struct ApiError(Box<Problem>);

impl ApiError {
    pub(super) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem::new(code, detail)))
    }

    /// A parameter, header or field is not of its form.
    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, detail)
    }

    #[cfg(test)]
    pub(super) fn code(&self) -> Code {
        self.0.code
    }

    pub(super) fn problem(&self) -> &Problem {
        &self.0
    }

    pub(super) fn with_end(mut self, end: Option<Offset>) -> Self {
        self.0.end_offset = end.map(|offset| offset.0);
        self
    }

    pub(super) fn with_start(mut self, start: Option<Offset>) -> Self {
        self.0.start_offset = start.map(|offset| offset.0);
        self
    }

    /// In a stream of lines: the line that was not taken, and how many are appended all the same.
    pub(super) fn with_lines(mut self, line: Option<u64>, acknowledged: u64) -> Self {
        self.0.line = line;
        self.0.acknowledged = Some(acknowledged);
        self
    }

    pub(super) fn with_outcome(mut self, outcome: Outcome) -> Self {
        self.0.outcome = outcome;
        self
    }

    /// The error with what only the operator should see (paths, causes) logged instead of told.
    fn from_cause(code: Code, error: &(dyn Error + 'static)) -> Self {
        let detail = match code {
            Code::Internal | Code::StorageFailed | Code::PartitionOffline => {
                tracing::error!(code = code.as_str(), error = chain(error), "request failed");
                match code {
                    Code::Internal => "the node could not do this; its log says why",
                    Code::StorageFailed => {
                        "the storage failed before the records were safe; they may or may not be kept"
                    }
                    _ => "the partition's storage has failed; it takes no records until the node restarts",
                }
                .to_owned()
            }
            _ => error.to_string(),
        };
        Self::new(code, detail)
    }
}

/// An error and its causes in one line.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl From<InvalidName> for ApiError {
    fn from(error: InvalidName) -> Self {
        Self::new(Code::InvalidName, error.to_string())
    }
}

impl From<ClusterError> for ApiError {
    fn from(error: ClusterError) -> Self {
        Self::from_cause(error.code(), &error)
    }
}

impl From<TopicError> for ApiError {
    fn from(error: TopicError) -> Self {
        let end = match &error {
            TopicError::BeyondEnd { end, .. } => Some(*end),
            _ => None,
        };
        Self::from_cause(error.code(), &error).with_end(end)
    }
}

impl From<ProduceError> for ApiError {
    fn from(error: ProduceError) -> Self {
        Self::from_cause(error.code(), &error)
            .with_end(error.end_offset())
            .with_outcome(error.outcome())
    }
}

impl From<FetchError> for ApiError {
    fn from(error: FetchError) -> Self {
        let (start, end) = match &error {
            FetchError::OutOfRange { end, .. } => (None, Some(*end)),
            FetchError::Trimmed { start, .. } => (Some(*start), None),
            _ => (None, None),
        };
        Self::from_cause(error.code(), &error)
            .with_start(start)
            .with_end(end)
    }
}

/// Seconds after which a client should try again what was refused.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

impl IntoResponse for ApiError {
    fn into_response(self) -> Response<Body> {
        let problem = *self.0;
        // A problem is made of texts and numbers: it can always be written as JSON.
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() =
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
        if matches!(problem.status, 429 | 503 | 507) {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        if problem.code == Code::RequestTimeout {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
