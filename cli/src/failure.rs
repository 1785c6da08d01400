//! How commands end: exit codes, error lines, hints.

use std::io::{IsTerminal, Write};

use pilgrimage::client::{ClientError, InvalidPosition};
use pilgrimage::types::{Code, InvalidName, Outcome};

/// Exit codes. Scripts build on these: their meaning never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// What was asked for happened.
    Ok = 0,
    /// It did not, or it may not have; also: no such broker runs here.
    Failed = 1,
    /// The command line is not valid.
    Usage = 2,
    /// The topic, partition, record or context does not exist.
    NotFound = 3,
    /// The node understood and refused: nothing happened.
    Refused = 4,
    /// The node cannot be reached, or is too busy or not ready; trying later may help.
    Unavailable = 5,
}

/// The table of exit codes as help shows it.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  what was asked for happened
  1  failed, or the outcome is not known; no such broker runs here
  2  the command line is not valid
  3  the topic, partition, record or context does not exist
  4  the node understood and refused: nothing happened
  5  the node cannot be reached, is too busy or not ready: try again later";

/// Why a command did not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// What was tried, on what, and why it failed; empty = nothing to say.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            hint: None,
        }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Writes the error and its hint to stderr. A closed stderr is nobody's concern.
    pub(crate) fn report(&self) {
        if self.message.is_empty() {
            return;
        }
        let mut err = std::io::stderr().lock();
        let colour = err.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let (red, cyan, off) = if colour {
            ("\x1b[1;31m", "\x1b[36m", "\x1b[0m")
        } else {
            ("", "", "")
        };
        let message = printable(&self.message);
        let _ = writeln!(err, "{red}error:{off} {message}");
        if let Some(hint) = &self.hint {
            let _ = writeln!(err, " {cyan}hint:{off} {}", printable(hint));
        }
    }
}

/// What others wrote may not steer the terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\n' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::Address { .. } => Exit::Usage,
            ClientError::Connect { .. }
            | ClientError::Timeout { .. }
            | ClientError::Transport { .. } => Exit::Unavailable,
            ClientError::Problem { problem, .. } => exit_of(problem.code),
            ClientError::Console { .. }
            | ClientError::Unexpected { .. }
            | ClientError::Batch { .. }
            | ClientError::OutOfOrder { .. }
            | ClientError::Source(_)
            | ClientError::Encode(_) => Exit::Failed,
        };
        let hint = hint_for(&error);
        let message = match &error {
            // The method and path are the program's business; the node's own words say enough.
            ClientError::Problem { problem, .. } => problem.to_string(),
            other => other.to_string(),
        };
        Self {
            exit,
            message,
            hint,
        }
    }
}

fn exit_of(code: Code) -> Exit {
    match code.status() {
        404 => Exit::NotFound,
        // It did happen, by an earlier request.
        _ if code.outcome() == Outcome::Applied => Exit::Failed,
        _ if code.retryable() && code.outcome() == Outcome::Refused => Exit::Unavailable,
        400..=499 => Exit::Refused,
        _ => Exit::Failed,
    }
}

fn hint_for(error: &ClientError) -> Option<String> {
    let hint = match error {
        ClientError::Connect { .. } => {
            "is a node running there? `pilgrimage start` starts one; --url, PILGRIMAGE_URL or `pilgrimage context` name another"
        }
        ClientError::Unexpected { .. } => {
            "is this the address of a Pilgrimage node of this version?"
        }
        ClientError::Timeout { .. } | ClientError::Transport { .. }
            if error.outcome() == Outcome::Unknown =>
        {
            "if this was a write, it may have happened: look before you repeat it"
        }
        _ => match error.code()? {
            Code::TopicNotFound => {
                "`pilgrimage topic list` shows the topics, `pilgrimage topic create` makes one"
            }
            Code::PartitionNotFound => "`pilgrimage topic describe` shows the partitions",
            Code::TopicExists => {
                "`pilgrimage topic describe` shows its settings, `pilgrimage topic alter` changes them"
            }
            Code::OffsetTrimmed => "--from earliest begins at the first record that is still there",
            Code::OffsetOutOfRange => "--from latest begins at the end",
            Code::InsufficientStorage => {
                "free space on the node's disk, or trim or delete topics; reading goes on meanwhile"
            }
            Code::HostNotAllowed => {
                "name the node by an address it knows, or start it with --allowed-hosts"
            }
            _ => return None,
        },
    };
    Some(hint.into())
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        // Whoever read our output has seen enough (`| head`): not an error.
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::new(Exit::Ok, "");
        }
        Self::failed(error.to_string())
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        if error.io_error_kind() == Some(std::io::ErrorKind::BrokenPipe) {
            return Self::new(Exit::Ok, "");
        }
        Self::failed(format!("write JSON: {error}"))
    }
}

impl From<InvalidName> for Failure {
    fn from(error: InvalidName) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<InvalidPosition> for Failure {
    fn from(error: InvalidPosition) -> Self {
        Self::usage(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pilgrimage::api::v1::Problem;

    #[test]
    fn codes_of_a_node_become_the_exit_codes_that_the_table_promises() {
        let exit = |code| {
            Failure::from(ClientError::Problem {
                what: "GET /".into(),
                problem: Box::new(Problem::new(code, "x")),
            })
            .exit
        };
        for (expected, codes) in [
            (
                Exit::NotFound,
                [
                    Code::TopicNotFound,
                    Code::PartitionNotFound,
                    Code::RecordNotFound,
                ],
            ),
            (
                Exit::Refused,
                [Code::InvalidRecord, Code::TopicExists, Code::OffsetMismatch],
            ),
            (
                Exit::Unavailable,
                [Code::Overloaded, Code::NotReady, Code::InsufficientStorage],
            ),
            (
                Exit::Failed,
                [Code::Internal, Code::StorageFailed, Code::PartitionOffline],
            ),
        ] {
            assert_eq!(codes.map(exit), [expected; 3]);
        }
        // Whatever may have happened must not look like something that did not.
        for &code in Code::ALL
            .iter()
            .filter(|code| code.outcome() == Outcome::Unknown)
        {
            assert_eq!(exit(code), Exit::Failed, "{code}");
        }
    }

    #[test]
    fn what_a_node_says_cannot_steer_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\nc"), "a\u{fffd}[2Jb\nc");
    }
}
