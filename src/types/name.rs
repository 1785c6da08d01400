//! Names that users choose. None of them ever becomes part of a path.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::limits;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {name:?} is not valid: {why}")]
pub struct InvalidName {
    /// The kind of name ("topic name", "broker id").
    pub what: &'static str,
    /// What was given, cut to 64 characters.
    pub name: String,
    /// The rule that it breaks.
    pub why: String,
}

fn check(what: &'static str, name: &str, max: usize) -> Result<(), InvalidName> {
    let refuse = |why: String| {
        Err(InvalidName {
            what,
            name: name.chars().take(64).collect(),
            why,
        })
    };
    if name.is_empty() {
        return refuse("it is empty".into());
    }
    if max < name.len() {
        return refuse(format!("it is longer than {max} characters"));
    }
    if name == "." || name == ".." {
        return refuse("it must not be \".\" or \"..\"".into());
    }
    if !name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    {
        return refuse("use letters, digits, \".\", \"_\" and \"-\" only".into());
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(name: &str) -> Result<Self, InvalidName> {
                check($what, name, $max)?;
                Ok(Self(name.into()))
            }
        }
        impl TryFrom<&str> for $name {
            type Error = InvalidName;
            fn try_from(name: &str) -> Result<Self, InvalidName> {
                name.parse()
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(name: String) -> Result<Self, InvalidName> {
                name.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name!(
    /// A topic's name: 1 to 249 of `A-Z a-z 0-9 . _ -`, not `.` or `..`. Names that begin with
    /// `__` belong to the system.
    TopicName, "topic name", limits::TOPIC_NAME_BYTES
);
name!(
    /// The id by which people address a broker (a node): 1 to 64 of `A-Z a-z 0-9 . _ -`.
    BrokerId, "broker id", limits::BROKER_ID_BYTES
);

impl TopicName {
    /// Whether the name is reserved for the system.
    pub fn is_internal(&self) -> bool {
        self.0.starts_with("__")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_a_directory_or_forge_a_line_are_refused() {
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a\\b",
            "a b",
            "a\nb",
            "a\0",
            "é",
            "a%2e",
            &"x".repeat(250),
        ] {
            assert!(TopicName::try_from(bad).is_err(), "{bad:?} was accepted");
        }
        for good in ["a", "orders.eu-1_x", "...", "__internal", &"x".repeat(249)] {
            assert_eq!(
                TopicName::try_from(good).map(String::from),
                Ok(good.to_owned())
            );
        }
    }
}
