//! Topics: `topic create|list|describe|alter|delete|trim`.

use std::io::{BufRead, IsTerminal, Write};

use clap::{Args, Subcommand};
use pilgrimage::api::v1::{PartitionInfo, Topic, TopicSummary};
use pilgrimage::client::Creation;
use pilgrimage::types::{
    Compression, Durability, Offset, Partition, TimestampType, TopicName, TopicPatch, limits,
};
use serde::Serialize;

use crate::failure::Failure;
use crate::input;
use crate::output::{self, Output, bytes, millis};
use crate::target::Target;

/// Create, list, describe, alter, delete and trim topics.
#[derive(Debug, Args)]
pub(crate) struct TopicArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Create a topic. Creating it again with the same settings changes nothing.
    Create {
        /// Its name.
        name: TopicName,
        #[command(flatten)]
        settings: Settings,
    },
    /// List topics.
    List {
        /// Only names that begin with this.
        #[arg(long)]
        prefix: Option<String>,
    },
    /// Show a topic's settings and partitions.
    Describe {
        /// Its name.
        name: TopicName,
    },
    /// Change settings of a topic.
    Alter {
        /// Its name.
        name: TopicName,
        #[command(flatten)]
        settings: Settings,
    },
    /// Delete a topic and all its records.
    Delete {
        /// Its name.
        name: TopicName,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
    /// Delete the records of a partition below an offset.
    Trim {
        /// The topic.
        name: TopicName,
        /// The partition.
        #[arg(long, short)]
        partition: u32,
        /// First offset that stays.
        #[arg(long, value_name = "OFFSET")]
        before: u64,
    },
}

#[derive(Debug, Clone, Args)]
struct Settings {
    /// Number of partitions; can grow, never shrink.
    #[arg(long, short, value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::PARTITIONS_PER_TOPIC)))]
    partitions: Option<u32>,
    /// Copies wanted of each partition.
    #[arg(long, short, value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::REPLICATION_FACTOR)))]
    replication: Option<u32>,
    /// In-sync replicas without which writes are refused.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::REPLICATION_FACTOR)))]
    min_insync_replicas: Option<u32>,
    /// How long records are kept: 7d, 12h, 500ms, none.
    #[arg(long, value_name = "SPAN", value_parser = optional(input::span_ms))]
    retention: Option<Bound>,
    /// Bytes of a partition that are kept: 10GiB, 500MB, none.
    #[arg(long, value_name = "SIZE", value_parser = optional(input::size))]
    retention_bytes: Option<Bound>,
    /// Size at which a segment is sealed.
    #[arg(long, value_name = "SIZE", value_parser = input::size)]
    segment_bytes: Option<u64>,
    /// Age at which a segment is sealed.
    #[arg(long, value_name = "SPAN", value_parser = input::span_ms)]
    segment_age: Option<u64>,
    /// How records are stored: as the producer sent them, or under zstd.
    #[arg(long, value_parser = ["producer", "zstd"])]
    compression: Option<String>,
    /// Which time records carry: the producer's, or that of the append.
    #[arg(long, value_parser = ["create", "append"])]
    timestamp_type: Option<String>,
    /// Greatest record.
    #[arg(long, value_name = "SIZE", value_parser = input::size)]
    max_record_bytes: Option<u64>,
    /// What an acknowledgement proves: on stable storage, or in the replicas' memory.
    #[arg(long, value_parser = ["fsync", "replicated"])]
    durability: Option<String>,
}

/// A bound that can be lifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bound(Option<u64>);

fn optional(
    parse: fn(&str) -> Result<u64, String>,
) -> impl Fn(&str) -> Result<Bound, String> + Clone + Send + Sync + 'static {
    move |text| {
        if text == "none" {
            Ok(Bound(None))
        } else {
            parse(text).map(|n| Bound(Some(n)))
        }
    }
}

impl Settings {
    fn patch(self) -> Result<TopicPatch, Failure> {
        let max_record_bytes = self
            .max_record_bytes
            .map(|n| {
                u32::try_from(n).map_err(|_| Failure::usage("--max-record-bytes is too large"))
            })
            .transpose()?;
        Ok(TopicPatch {
            partitions: self.partitions,
            replication_factor: self.replication,
            min_insync_replicas: self.min_insync_replicas,
            retention_ms: self.retention.map(|bound| bound.0),
            retention_bytes: self.retention_bytes.map(|bound| bound.0),
            segment_bytes: self.segment_bytes,
            segment_ms: self.segment_age,
            compression: self.compression.map(|text| match text.as_str() {
                "zstd" => Compression::Zstd,
                _ => Compression::Producer,
            }),
            timestamp_type: self.timestamp_type.map(|text| match text.as_str() {
                "append" => TimestampType::Append,
                _ => TimestampType::Create,
            }),
            max_record_bytes,
            durability: self.durability.map(|text| match text.as_str() {
                "replicated" => Durability::Replicated,
                _ => Durability::Fsync,
            }),
        })
    }
}

#[derive(Debug, Serialize)]
struct Described<'a> {
    #[serde(flatten)]
    topic: &'a Topic,
    partition_list: &'a [PartitionInfo],
}

#[derive(Debug, Serialize)]
struct Deleted<'a> {
    deleted: &'a TopicName,
}

/// Runs `topic`.
pub(crate) async fn run(args: TopicArgs, target: &Target, output: Output) -> Result<(), Failure> {
    let client = target.client()?;
    match args.action {
        Action::Create { name, settings } => {
            let (topic, verb) = match client.create_topic(&name, &settings.patch()?).await? {
                Creation::Created(topic) => (topic, "created"),
                Creation::Existed(topic) => (topic, "exists already, with the same settings:"),
            };
            output.one(&topic, || {
                format!("topic {name} {verb}\n{}", describe(&topic))
            })
        }
        Action::List { prefix } => {
            let topics = client.all_topics(prefix.as_deref()).await?;
            output.many(&topics, || list(&topics))
        }
        Action::Describe { name } => {
            let topic = client.topic(&name).await?;
            let partitions = client.partitions(&name).await?.partitions;
            output.one(
                &Described {
                    topic: &topic,
                    partition_list: &partitions,
                },
                || format!("{}\n\n{}", describe(&topic), list_partitions(&partitions)),
            )
        }
        Action::Alter { name, settings } => {
            let patch = settings.patch()?;
            if patch == TopicPatch::default() {
                return Err(Failure::usage(
                    "nothing to alter: name at least one setting",
                ));
            }
            let topic = client.alter_topic(&name, &patch).await?;
            output.one(&topic, || {
                format!("topic {name} altered\n{}", describe(&topic))
            })
        }
        Action::Delete { name, yes } => {
            if !yes {
                confirm(&name)?;
            }
            client.delete_topic(&name).await?;
            output.one(&Deleted { deleted: &name }, || {
                format!("topic {name} deleted")
            })
        }
        Action::Trim {
            name,
            partition,
            before,
        } => {
            let trimmed = client
                .trim(&name, Partition(partition), Offset(before))
                .await?;
            output.one(&trimmed, || {
                format!(
                    "{name}/{partition} now begins at offset {}",
                    trimmed.log_start
                )
            })
        }
    }
}

/// Asks a person; a program must say `--yes`.
fn confirm(name: &TopicName) -> Result<(), Failure> {
    let mut answer = String::new();
    if std::io::stdin().is_terminal() {
        write!(
            std::io::stderr(),
            "Delete topic {name} and all its records? Type its name: "
        )?;
        std::io::stdin().lock().read_line(&mut answer)?;
    }
    if answer.trim() == name.as_str() {
        return Ok(());
    }
    Err(Failure::failed(format!("topic {name} was not deleted"))
        .hint("--yes deletes without asking"))
}

fn kept(bound: Option<u64>, show: impl Fn(u64) -> String) -> String {
    bound.map_or_else(|| "unbounded".to_owned(), show)
}

fn describe(t: &Topic) -> String {
    let replication = format!(
        "{} (at least {} in sync)",
        t.replication_factor, t.min_insync_replicas
    );
    let compression = match t.compression {
        Compression::Producer => "as the producer sends",
        Compression::Zstd => "zstd",
    };
    let durability = match t.durability {
        Durability::Fsync => "fsync: acknowledged = on stable storage",
        Durability::Replicated => "replicated: acknowledged = in memory of every in-sync replica",
    };
    let timestamp = match t.timestamp_type {
        TimestampType::Create => "the producer's",
        TimestampType::Append => "that of the append",
    };
    output::fields(&[
        ("Topic", t.name.to_string()),
        ("Id", t.id.clone()),
        ("Created", t.created_at.clone()),
        ("Partitions", t.partitions.to_string()),
        ("Replication", replication),
        (
            "Kept",
            format!(
                "{}, {}",
                kept(t.retention_ms, millis),
                kept(t.retention_bytes, bytes)
            ),
        ),
        (
            "Segments",
            format!("{}, {}", bytes(t.segment_bytes), millis(t.segment_ms)),
        ),
        ("Compression", compression.into()),
        ("Timestamps", timestamp.into()),
        ("Max record", bytes(t.max_record_bytes.into())),
        ("Durability", durability.into()),
    ])
}

fn list(topics: &[TopicSummary]) -> String {
    let rows = topics
        .iter()
        .map(|summary| {
            let t = &summary.topic;
            vec![
                t.name.to_string(),
                t.partitions.to_string(),
                t.replication_factor.to_string(),
                summary.records.to_string(),
                bytes(summary.bytes),
                kept(t.retention_ms, millis),
            ]
        })
        .collect();
    output::table(
        &[
            "NAME",
            "PARTITIONS>",
            "REPLICATION>",
            "RECORDS>",
            "BYTES>",
            "RETENTION",
        ],
        rows,
    )
}

fn list_partitions(partitions: &[PartitionInfo]) -> String {
    let rows = partitions
        .iter()
        .map(|p| {
            vec![
                p.partition.to_string(),
                p.leader.clone().unwrap_or_else(|| "-".into()),
                p.leader_epoch.to_string(),
                p.isr.join(","),
                p.log_start.to_string(),
                p.high_watermark.to_string(),
                p.segments.to_string(),
                bytes(p.bytes),
                bytes(p.appended_bytes.saturating_sub(p.bytes)),
                p.state.clone(),
            ]
        })
        .collect();
    output::table(
        &[
            "PARTITION>",
            "LEADER",
            "EPOCH>",
            "ISR",
            "START>",
            "END>",
            "SEGMENTS>",
            "BYTES>",
            "SAVED>",
            "STATE",
        ],
        rows,
    )
}
