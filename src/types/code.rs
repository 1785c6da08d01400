//! The closed list of error codes that clients may build on. Retired codes are never reused.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Whether the thing that was asked for happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It did not happen and will not.
    Refused,
    /// It may have happened, or may happen yet.
    Unknown,
    /// It has happened before, by an earlier request that was the same.
    Applied,
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $name:ident = ($text:literal, $status:literal, $retryable:literal, $outcome:ident),)*) => {
        /// What went wrong, in one stable word.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum Code { $($(#[doc = $doc])* $name,)* }

        impl Code {
            /// All codes, in the order of this page.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code as it stands in a problem document.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
            /// The HTTP status that carries it.
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }
            /// What it means, in a sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),*).trim_start(),)* }
            }
            /// Whether the same request may succeed later.
            pub const fn retryable(self) -> bool {
                match self { $(Self::$name => $retryable,)* }
            }
            /// Whether the request had an effect.
            pub const fn outcome(self) -> Outcome {
                match self { $(Self::$name => Outcome::$outcome,)* }
            }
        }
    };
}

codes! {
    /// A parameter, header or field is not of its form.
    InvalidRequest = ("invalid_request", 400, false, Refused),
    /// The body is not what its content type says.
    InvalidBody = ("invalid_body", 400, false, Refused),
    /// A name breaks the naming rules.
    InvalidName = ("invalid_name", 400, false, Refused),
    /// A record breaks a rule (size, headers, timestamp).
    InvalidRecord = ("invalid_record", 400, false, Refused),
    /// A topic setting is out of its bounds.
    InvalidSettings = ("invalid_settings", 400, false, Refused),
    /// The caller may not do this.
    Forbidden = ("forbidden", 403, false, Refused),
    /// The `Host` header names a host that this node does not answer for.
    HostNotAllowed = ("host_not_allowed", 403, false, Refused),
    /// A web page of another origin sent this.
    OriginNotAllowed = ("origin_not_allowed", 403, false, Refused),
    /// No such route.
    RouteNotFound = ("route_not_found", 404, false, Refused),
    /// No such topic.
    TopicNotFound = ("topic_not_found", 404, false, Refused),
    /// The topic has no such partition.
    PartitionNotFound = ("partition_not_found", 404, false, Refused),
    /// No record stands at that offset.
    RecordNotFound = ("record_not_found", 404, false, Refused),
    /// No broker of that id runs here.
    BrokerNotFound = ("broker_not_found", 404, false, Refused),
    /// The cluster has no such node.
    NodeNotFound = ("node_not_found", 404, false, Refused),
    /// The route does not take this method.
    MethodNotAllowed = ("method_not_allowed", 405, false, Refused),
    /// None of the formats in `Accept` can be given.
    NotAcceptable = ("not_acceptable", 406, false, Refused),
    /// The body did not arrive in time.
    RequestTimeout = ("request_timeout", 408, true, Refused),
    /// A topic of that name exists with other settings.
    TopicExists = ("topic_exists", 409, false, Refused),
    /// The cluster is not, or is no longer, in a state that allows this.
    Conflict = ("conflict", 409, false, Refused),
    /// The producer goes on in a newer epoch: somebody else has taken its place.
    ProducerFenced = ("producer_fenced", 409, false, Refused),
    /// What the producer sent before this has not arrived; send that first.
    OutOfOrder = ("out_of_order", 409, true, Refused),
    /// The producer is not known to the partition, or was silent for too long.
    UnknownProducer = ("unknown_producer", 409, false, Refused),
    /// The records were appended by an earlier request, too long ago to say where.
    DuplicateUnknownOffset = ("duplicate_unknown_offset", 409, false, Applied),
    /// The records at that offset are gone (retention or trim).
    OffsetTrimmed = ("offset_trimmed", 410, false, Refused),
    /// The record at that offset is damaged on every replica.
    RecordCorrupt = ("record_corrupt", 410, false, Refused),
    /// The partition does not end at the expected offset.
    OffsetMismatch = ("offset_mismatch", 412, false, Refused),
    /// The body or a record is larger than allowed.
    TooLarge = ("too_large", 413, false, Refused),
    /// The content type or encoding is not one that the route takes.
    UnsupportedMediaType = ("unsupported_media_type", 415, false, Refused),
    /// The offset lies beyond the end of the partition.
    OffsetOutOfRange = ("offset_out_of_range", 416, false, Refused),
    /// A node-wide bound on topics or partitions is reached.
    LimitReached = ("limit_reached", 422, false, Refused),
    /// The producer sent something else under this sequence number.
    SequenceReuse = ("sequence_reuse", 422, false, Refused),
    /// Another request was sent under this idempotency key.
    IdempotencyKeyReuse = ("idempotency_key_reuse", 422, false, Refused),
    /// Too much work is waiting; try again after `Retry-After`.
    Overloaded = ("overloaded", 429, true, Refused),
    /// The request's headers are too large.
    HeadersTooLarge = ("headers_too_large", 431, false, Refused),
    /// Something broke inside the node; the request may have had its effect.
    Internal = ("internal", 500, true, Unknown),
    /// No replica of the partition that may lead it is alive.
    NoLeader = ("no_leader", 503, true, Refused),
    /// Leadership moved before the acknowledgement; the new leader may or may not have the records.
    LeadershipLost = ("leadership_lost", 503, true, Unknown),
    /// The node that leads the partition cannot be reached; nothing was sent to it.
    NodeUnreachable = ("node_unreachable", 503, true, Refused),
    /// The connection to the node that leads the partition broke before it answered.
    ConnectionLost = ("connection_lost", 503, true, Unknown),
    /// The in-sync replicas did not confirm in time; they may yet.
    AckTimeout = ("ack_timeout", 504, true, Unknown),
    /// Fewer in-sync replicas than the topic demands.
    NotEnoughReplicas = ("not_enough_replicas", 503, true, Refused),
    /// The node is starting or stopping.
    NotReady = ("not_ready", 503, true, Refused),
    /// The partition's storage failed before the record was acknowledged.
    StorageFailed = ("storage_failed", 503, false, Unknown),
    /// The write failed and was undone; nothing was appended.
    WriteFailed = ("write_failed", 503, true, Refused),
    /// The partition's storage has failed earlier and takes no more records.
    PartitionOffline = ("partition_offline", 503, false, Refused),
    /// The bytes at this offset do not match their checksum; they are not served.
    Corrupt = ("corrupt", 503, true, Refused),
    /// The disk has no room.
    InsufficientStorage = ("insufficient_storage", 507, true, Refused),
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_written_the_same_everywhere() {
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }
}
