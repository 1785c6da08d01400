//! What can go wrong between a client and a node, told apart by what it means for the request.

use std::time::Duration;

use crate::api::v1::Problem;
use crate::record::BatchError;
use crate::types::{Code, Offset, Outcome};

/// Why a request did not get the answer it asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is not one that a node can have.
    #[error("{url:?} is not the address of a node: {why}")]
    Address {
        /// What was given.
        url: String,
        /// The rule that it breaks.
        why: String,
    },
    /// No connection to the node; nothing was sent.
    #[error("connect to {url}: {why}")]
    Connect {
        /// The node.
        url: String,
        /// What the operating system said.
        why: String,
    },
    /// The node did not answer in time.
    #[error("{what}: no answer within {after:?}")]
    Timeout {
        /// Method and path.
        what: String,
        /// How long was waited.
        after: Duration,
    },
    /// The connection broke after the request was begun.
    #[error("{what}: {why}")]
    Transport {
        /// Method and path.
        what: String,
        /// The chain of causes.
        why: String,
    },
    /// The node answered with a problem document.
    #[error("{what}: {problem}")]
    Problem {
        /// Method and path.
        what: String,
        /// What the node said.
        problem: Box<Problem>,
    },
    /// A console route (`/start`, `/stop`, `/send`, `/consume`, `/status`) refused, in words.
    #[error("{reason}")]
    Console {
        /// The route.
        route: &'static str,
        /// The node's words.
        reason: String,
    },
    /// Something answered, but not as a node of this version does.
    #[error("{what}: unexpected answer, status {status}: {body}")]
    Unexpected {
        /// Method and path.
        what: String,
        /// The HTTP status.
        status: u16,
        /// What is wrong with the answer, or its beginning.
        body: String,
    },
    /// A batch that was read is not what the node stored.
    #[error("batch at offset {offset} as received: {source}")]
    Batch {
        /// Where it should stand.
        offset: Offset,
        /// What is wrong with it.
        source: BatchError,
    },
    /// Batches that were read do not follow one another.
    #[error("expected the batch that holds offset {expected}, received offsets {start} to {end}")]
    OutOfOrder {
        /// The offset that is due.
        expected: Offset,
        /// First offset of the batch that came.
        start: Offset,
        /// Offset after its last.
        end: Offset,
    },
    /// What was to be sent could not be read.
    #[error("read what is to be sent: {0}")]
    Source(#[from] std::io::Error),
    /// What was to be sent cannot be written as JSON.
    #[error("write the request as JSON: {0}")]
    Encode(#[from] serde_json::Error),
}

impl ClientError {
    /// The node's code, when the node answered with a problem.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Problem { problem, .. } => Some(problem.code),
            _ => None,
        }
    }

    /// Whether the request had an effect, as far as one can know.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Problem { problem, .. } => problem.outcome,
            Self::Address { .. }
            | Self::Connect { .. }
            | Self::Console { .. }
            | Self::Encode(_) => Outcome::Refused,
            Self::Timeout { .. }
            | Self::Transport { .. }
            | Self::Unexpected { .. }
            | Self::Batch { .. }
            | Self::OutOfOrder { .. }
            | Self::Source(_) => Outcome::Unknown,
        }
    }

    /// Whether the same request may succeed later. Says nothing of whether repeating it is safe:
    /// that is [`ClientError::outcome`].
    pub fn retryable(&self) -> bool {
        match self {
            Self::Problem { problem, .. } => problem.retryable,
            Self::Connect { .. } | Self::Timeout { .. } | Self::Transport { .. } => true,
            Self::Address { .. }
            | Self::Console { .. }
            | Self::Unexpected { .. }
            | Self::Batch { .. }
            | Self::OutOfOrder { .. }
            | Self::Source(_)
            | Self::Encode(_) => false,
        }
    }

    /// Whether repeating is both safe and worth it: the request certainly had no effect, or it is a
    /// read (`safe`), and a later try may succeed.
    pub(super) fn worth_repeating(&self, safe: bool) -> bool {
        self.retryable() && (safe || self.outcome() == Outcome::Refused)
    }

    /// The error of the last try, where an earlier one may have had its effect.
    pub(super) fn after(self, uncertain: bool) -> Self {
        match self {
            _ if !uncertain || self.outcome() != Outcome::Refused => self,
            Self::Problem { what, mut problem } => {
                problem.outcome = Outcome::Unknown;
                Self::Problem { what, problem }
            }
            Self::Connect { url, why } => Self::Transport {
                what: format!("connect to {url} once more"),
                why,
            },
            other => other,
        }
    }

    /// Sorts what the HTTP library says into what it means for the request.
    pub(super) fn from_reqwest(
        error: &reqwest::Error,
        what: &str,
        url: &str,
        timeout: Option<Duration>,
    ) -> Self {
        if error.is_connect() {
            return Self::Connect {
                url: url.to_owned(),
                why: innermost(error),
            };
        }
        if error.is_timeout() {
            return Self::Timeout {
                what: what.to_owned(),
                after: timeout.unwrap_or_default(),
            };
        }
        Self::Transport {
            what: what.to_owned(),
            why: innermost(error),
        }
    }
}

/// The last cause of a chain: the one that says something ("connection refused").
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
