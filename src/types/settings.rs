//! A topic's settings and the rules they obey.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::limits;

/// How record batches are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// As the producer sent them.
    #[default]
    Producer,
    /// zstd on append, and again, harder, once a segment is sealed.
    Zstd,
}

/// What an acknowledgement proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// The record is on stable storage (fdatasync) of every in-sync replica.
    #[default]
    Fsync,
    /// The record is in the page cache of every in-sync replica: survives a killed process, not a power cut.
    Replicated,
}

/// What a producer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Acks {
    /// Every in-sync replica has the records, as durably as the topic asks for.
    #[default]
    All,
    /// The leader has them, as durably as the topic asks for.
    Leader,
    /// Nothing: the answer comes at once, says nothing of where the records went, and they may be lost.
    None,
}

impl Acks {
    /// As the wire writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Leader => "leader",
            Self::None => "none",
        }
    }
}

/// Which time a record carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TimestampType {
    /// The producer's, or the time of arrival if it gave none.
    #[default]
    Create,
    /// The time at which the leader appended it.
    Append,
}

/// The settings of a topic, complete and valid. Times in milliseconds, sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicSettings {
    /// Number of partitions; can grow, never shrink.
    pub partitions: u32,
    /// Copies wanted of each partition; as many are kept as there are nodes for.
    pub replication_factor: u32,
    /// In-sync replicas without which `acks=all` is refused.
    pub min_insync_replicas: u32,
    /// Age after which sealed segments are deleted; none = kept for ever.
    pub retention_ms: Option<u64>,
    /// Size of a partition above which its oldest sealed segments are deleted; none = unbounded.
    pub retention_bytes: Option<u64>,
    /// Size at which a segment is sealed and the next one begins.
    pub segment_bytes: u64,
    /// Age of its first record at which a segment is sealed.
    pub segment_ms: u64,
    /// How batches are stored.
    pub compression: Compression,
    /// Which time records carry.
    pub timestamp_type: TimestampType,
    /// Greatest record (key + value + headers).
    pub max_record_bytes: u32,
    /// What an acknowledgement proves.
    pub durability: Durability,
}

impl Default for TopicSettings {
    fn default() -> Self {
        Self {
            partitions: 1,
            replication_factor: 1,
            min_insync_replicas: 1,
            retention_ms: Some(7 * 24 * 3_600_000),
            retention_bytes: None,
            segment_bytes: 256 * 1024 * 1024,
            segment_ms: 24 * 3_600_000,
            compression: Compression::default(),
            timestamp_type: TimestampType::default(),
            max_record_bytes: limits::RECORD_BYTES_DEFAULT,
            durability: Durability::default(),
        }
    }
}

/// Changes to a topic's settings: what is absent stays, `retention_* = null` lifts the bound.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TopicPatch {
    /// Number of partitions, 1 to 10,000; can grow, never shrink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10_000)]
    pub partitions: Option<u32>,
    /// Copies wanted of each partition, 1 to 7; as many are kept as there are nodes for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 7)]
    pub replication_factor: Option<u32>,
    /// In-sync replicas without which `acks=all` is refused; at most `replication_factor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 7)]
    pub min_insync_replicas: Option<u32>,
    /// Age in milliseconds after which sealed segments are deleted; `null` = kept for ever.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "nullable")]
    #[schema(value_type = Option<u64>, minimum = 1)]
    pub retention_ms: Option<Option<u64>>,
    /// Bytes of a partition above which its oldest sealed segments are deleted; `null` = unbounded.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "nullable")]
    #[schema(value_type = Option<u64>, minimum = 1)]
    pub retention_bytes: Option<Option<u64>>,
    /// Bytes at which a segment is sealed and the next one begins; 4 KiB to 2 GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 4096, maximum = 2_147_483_648u64)]
    pub segment_bytes: Option<u64>,
    /// Age in milliseconds of its first record at which a segment is sealed; at least 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 100)]
    pub segment_ms: Option<u64>,
    /// How batches are stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// Which time records carry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp_type: Option<TimestampType>,
    /// Greatest record (key + value + headers) in bytes, 1 to 16 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 16_777_216)]
    pub max_record_bytes: Option<u32>,
    /// What an acknowledgement proves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
}

/// Tells `null` (lift the bound) from absent (leave it).
mod nullable {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Option<u64>>, D::Error> {
        Option::<u64>::deserialize(from).map(Some)
    }
    pub(super) fn serialize<S: Serializer>(
        value: &Option<Option<u64>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        value.flatten().serialize(to)
    }
}

/// A setting out of its bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{setting} {why}")]
pub struct InvalidSettings {
    /// The setting's name as users write it.
    pub setting: Cow<'static, str>,
    /// The rule it breaks.
    pub why: String,
}

impl TopicSettings {
    /// These settings with `patch` laid over them, checked as a whole.
    ///
    /// # Errors
    /// The first setting that is out of its bounds.
    pub fn with(&self, patch: &TopicPatch) -> Result<Self, InvalidSettings> {
        let next = Self {
            partitions: patch.partitions.unwrap_or(self.partitions),
            replication_factor: patch.replication_factor.unwrap_or(self.replication_factor),
            min_insync_replicas: patch
                .min_insync_replicas
                .unwrap_or(self.min_insync_replicas),
            retention_ms: patch.retention_ms.unwrap_or(self.retention_ms),
            retention_bytes: patch.retention_bytes.unwrap_or(self.retention_bytes),
            segment_bytes: patch.segment_bytes.unwrap_or(self.segment_bytes),
            segment_ms: patch.segment_ms.unwrap_or(self.segment_ms),
            compression: patch.compression.unwrap_or(self.compression),
            timestamp_type: patch.timestamp_type.unwrap_or(self.timestamp_type),
            max_record_bytes: patch.max_record_bytes.unwrap_or(self.max_record_bytes),
            durability: patch.durability.unwrap_or(self.durability),
        };
        next.check()?;
        Ok(next)
    }

    fn check(&self) -> Result<(), InvalidSettings> {
        let within = |setting: &'static str, value: u64, min: u64, max: u64| {
            if (min..=max).contains(&value) {
                return Ok(());
            }
            Err(InvalidSettings {
                setting: setting.into(),
                why: format!("must be between {min} and {max}, not {value}"),
            })
        };
        within(
            "partitions",
            self.partitions.into(),
            1,
            limits::PARTITIONS_PER_TOPIC.into(),
        )?;
        within(
            "replication_factor",
            self.replication_factor.into(),
            1,
            limits::REPLICATION_FACTOR.into(),
        )?;
        within(
            "min_insync_replicas",
            self.min_insync_replicas.into(),
            1,
            self.replication_factor.into(),
        )?;
        within(
            "retention_ms",
            self.retention_ms.unwrap_or(1),
            1,
            i64::MAX as u64,
        )?;
        within(
            "retention_bytes",
            self.retention_bytes.unwrap_or(1),
            1,
            i64::MAX as u64,
        )?;
        within("segment_bytes", self.segment_bytes, 4096, 2 << 30)?;
        within("segment_ms", self.segment_ms, 100, i64::MAX as u64)?;
        within(
            "max_record_bytes",
            self.max_record_bytes.into(),
            1,
            limits::RECORD_BYTES_MAX.into(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_changes_what_it_names_and_null_lifts_a_bound() {
        let patch: TopicPatch =
            serde_json::from_str(r#"{"partitions":3,"retention_ms":null}"#).unwrap();
        let settings = TopicSettings::default().with(&patch).unwrap();
        assert_eq!(
            settings,
            TopicSettings {
                partitions: 3,
                retention_ms: None,
                ..TopicSettings::default()
            }
        );
        assert_eq!(
            serde_json::to_string(&patch).unwrap(),
            r#"{"partitions":3,"retention_ms":null}"#
        );
    }

    #[test]
    fn settings_out_of_bounds_are_named() {
        let patch = TopicPatch {
            partitions: Some(0),
            ..TopicPatch::default()
        };
        assert_eq!(
            TopicSettings::default().with(&patch),
            Err(InvalidSettings {
                setting: "partitions".into(),
                why: "must be between 1 and 10000, not 0".into()
            })
        );
        let patch = TopicPatch {
            min_insync_replicas: Some(2),
            ..TopicPatch::default()
        };
        assert_eq!(
            TopicSettings::default().with(&patch).unwrap_err().setting,
            "min_insync_replicas"
        );
    }
}
