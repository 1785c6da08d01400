//! Brokers of the console routes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of `POST /start`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartBroker {
    /// The broker's id.
    pub id: String,
    /// Partitions of topics that it creates on first use.
    pub partitions: u32,
    /// Copies wanted of each partition.
    pub replication: u32,
    /// Directory of its data.
    pub storage: String,
}

/// Body of `POST /stop` and `POST /status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BrokerRef {
    /// The broker's id.
    pub id: String,
}

/// Body of `POST /send`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SendMessage {
    /// The broker's id.
    pub id: String,
    /// The message.
    pub message: String,
    /// The topic; absent = `messages`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// The key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// Body of `POST /consume`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsumeMessage {
    /// The broker's id.
    pub id: String,
    /// The topic; absent = `messages`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Whose position is continued; absent = `console`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// How long to wait for a message; absent = not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// The topic of the console routes when none is named.
pub const DEFAULT_TOPIC: &str = "messages";
/// The position that the console routes continue when no group is named.
pub const DEFAULT_GROUP: &str = "console";
