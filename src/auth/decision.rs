//! The one place that decides who may do what.

use crate::types::{BrokerId, Code, TopicName};

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// The program that embeds the broker, and the node's own tasks.
    Process,
    /// A caller that has not said who it is.
    Anonymous {
        /// Whether it is connected from the node's own machine over loopback.
        loopback: bool,
    },
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// To see that something exists, its settings and its state.
    Describe,
    /// To read records, or what a public page shows.
    Read,
    /// To append records.
    Write,
    /// To make something.
    Create,
    /// To change settings, trim records, move positions.
    Alter,
    /// To delete something for good.
    Delete,
    /// To start and stop brokers, and whatever else concerns the node as a whole.
    Admin,
}

impl Operation {
    /// All operations.
    pub const ALL: [Self; 7] = [
        Self::Describe,
        Self::Read,
        Self::Write,
        Self::Create,
        Self::Alter,
        Self::Delete,
        Self::Admin,
    ];

    /// Whether the operation leaves everything as it is.
    pub const fn only_looks(self) -> bool {
        matches!(self, Self::Describe | Self::Read)
    }
}

/// What it is asked of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Resource {
    /// One topic with its records.
    Topic(TopicName),
    /// One broker.
    Broker(BrokerId),
    /// The node and the cluster: lists of topics, load, metrics.
    Cluster,
    /// What says nothing about anyone's data: health probes, documentation, the console's files.
    Public,
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Topic(name) => write!(f, "topic {name}"),
            Self::Broker(id) => write!(f, "broker {id}"),
            Self::Cluster => f.write_str("the cluster"),
            Self::Public => f.write_str("the public pages"),
        }
    }
}

/// From where callers need not say who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AnonymousAccess {
    /// From the node's own machine only.
    #[default]
    Loopback,
    /// From anywhere: the operator has asked for it by name.
    Anywhere,
}

/// The rules in force.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// From where callers need not say who they are.
    pub anonymous: AnonymousAccess,
}

/// Why an operation is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The caller is a stranger from another machine.
    #[error("anonymous access to {resource} is open to this machine only")]
    AnonymousFromElsewhere {
        /// What it asked for.
        resource: Resource,
    },
    /// The topic belongs to the system.
    #[error("topic {topic} belongs to the system and is not changed from outside")]
    InternalTopic {
        /// The topic.
        topic: TopicName,
    },
    /// The resource does not know the operation.
    #[error("{resource} can only be read")]
    ReadOnly {
        /// What it asked for.
        resource: Resource,
    },
}

impl Denied {
    /// The code that clients see.
    pub const fn code(&self) -> Code {
        Code::Forbidden
    }
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a decision that nobody reads protects nothing"]
pub enum Decision {
    /// Go ahead.
    Allow,
    /// Do nothing, and say why.
    Deny(Denied),
}

impl Decision {
    /// The decision as a result, for `?`.
    ///
    /// # Errors
    /// [`Denied`] if the operation is refused.
    pub fn into_result(self) -> Result<(), Denied> {
        match self {
            Self::Allow => Ok(()),
            Self::Deny(denied) => Err(denied),
        }
    }
}

/// Decides whether `principal` may do `operation` on `resource`. Every path that serves a caller
/// asks here, and nowhere else.
pub fn decide(
    principal: &Principal,
    operation: Operation,
    resource: &Resource,
    policy: &Policy,
) -> Decision {
    let loopback = match principal {
        Principal::Process => return Decision::Allow,
        Principal::Anonymous { loopback } => *loopback,
    };
    if *resource == Resource::Public {
        return if operation.only_looks() {
            Decision::Allow
        } else {
            Decision::Deny(Denied::ReadOnly {
                resource: resource.clone(),
            })
        };
    }
    let open = match policy.anonymous {
        AnonymousAccess::Anywhere => true,
        AnonymousAccess::Loopback => loopback,
    };
    if !open {
        return Decision::Deny(Denied::AnonymousFromElsewhere {
            resource: resource.clone(),
        });
    }
    match resource {
        Resource::Topic(topic) if topic.is_internal() && !operation.only_looks() => {
            Decision::Deny(Denied::InternalTopic {
                topic: topic.clone(),
            })
        }
        _ => Decision::Allow,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources() -> [Resource; 5] {
        [
            Resource::Topic("orders".try_into().unwrap()),
            Resource::Topic("__offsets".try_into().unwrap()),
            Resource::Broker("b1".try_into().unwrap()),
            Resource::Cluster,
            Resource::Public,
        ]
    }

    /// For each operation one letter per resource: allowed, elsewhere, internal topic, read-only.
    fn table(principal: &Principal, anonymous: AnonymousAccess) -> [String; 7] {
        Operation::ALL.map(|operation| {
            resources()
                .iter()
                .map(|resource| {
                    match decide(principal, operation, resource, &Policy { anonymous }) {
                        Decision::Allow => 'a',
                        Decision::Deny(Denied::AnonymousFromElsewhere { .. }) => 'e',
                        Decision::Deny(Denied::InternalTopic { .. }) => 'i',
                        Decision::Deny(Denied::ReadOnly { .. }) => 'r',
                    }
                })
                .collect()
        })
    }

    #[test]
    fn every_combination_is_decided_as_listed() {
        let open = [
            "aaaaa", "aaaaa", "aiaar", "aiaar", "aiaar", "aiaar", "aiaar",
        ];
        let shut = [
            "eeeea", "eeeea", "eeeer", "eeeer", "eeeer", "eeeer", "eeeer",
        ];
        let near = Principal::Anonymous { loopback: true };
        let far = Principal::Anonymous { loopback: false };

        assert_eq!(table(&near, AnonymousAccess::Loopback), open);
        assert_eq!(table(&near, AnonymousAccess::Anywhere), open);
        assert_eq!(table(&far, AnonymousAccess::Anywhere), open);
        assert_eq!(table(&far, AnonymousAccess::Loopback), shut);
        for anonymous in [AnonymousAccess::Loopback, AnonymousAccess::Anywhere] {
            assert_eq!(table(&Principal::Process, anonymous), ["aaaaa"; 7]);
        }
    }

    #[test]
    fn strangers_are_kept_out_unless_asked_for_by_name() {
        assert_eq!(
            Policy::default(),
            Policy {
                anonymous: AnonymousAccess::Loopback
            }
        );
        let denied = decide(
            &Principal::Anonymous { loopback: false },
            Operation::Read,
            &Resource::Topic("orders".try_into().unwrap()),
            &Policy::default(),
        )
        .into_result()
        .unwrap_err();
        assert_eq!(
            denied.to_string(),
            "anonymous access to topic orders is open to this machine only"
        );
        assert_eq!(denied.code(), Code::Forbidden);
    }
}
