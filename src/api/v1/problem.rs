//! Problem documents (RFC 9457).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::types::{Code, Outcome};

/// What every error answers: a problem document (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Where the code is explained: a path of the node's documentation.
    #[serde(rename = "type")]
    pub kind: Cow<'static, str>,
    /// The code in words.
    pub title: Cow<'static, str>,
    /// The HTTP status.
    pub status: u16,
    /// What was tried, on what, and what to do.
    pub detail: String,
    /// What programs should look at.
    pub code: Code,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// Whether the request had an effect.
    pub outcome: Outcome,
    /// Where the partition ends, with `offset_mismatch` and `offset_out_of_range`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_offset: Option<u64>,
    /// Where the partition begins, with `offset_trimmed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_offset: Option<u64>,
    /// In an NDJSON stream: the line, from 1, that could not be taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// In an NDJSON stream: lines from the first that are appended and acknowledged all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<u64>,
}

impl Problem {
    /// A problem of this code.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("/docs/problems#{code}").into(),
            title: code.as_str().replace('_', " ").into(),
            status: code.status(),
            detail: detail.into(),
            code,
            retryable: code.retryable(),
            outcome: code.outcome(),
            end_offset: None,
            start_offset: None,
            line: None,
            acknowledged: None,
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.detail, self.code)
    }
}
impl std::error::Error for Problem {}
