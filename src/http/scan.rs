//! A reader's walk through one partition or all of a topic: where it stands, what it lets through.

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::watch;

use super::error::ApiError;
use super::extract::{cut, plain_number};
use crate::broker::{Broker, FetchError, From as Begin};
use crate::record::{Batch, Format, RecordRef};
use crate::types::{Code, Offset, Partition, Timestamp, TopicName, TopicPartition};

/// Where a read begins, as clients write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum From {
    /// The same in every partition.
    Every(Begin),
    /// At an offset of its own in each; partitions that are not named begin at their beginning.
    Each(Vec<(Partition, Offset)>),
}

impl From {
    /// `earliest`, `latest`, `OFFSET`, `timestamp:T` or `PARTITION:OFFSET,...`.
    pub(super) fn parse(text: &str) -> Result<Self, ApiError> {
        let refused = || {
            ApiError::invalid(format!(
                "from {:?} is none of earliest, latest, OFFSET, timestamp:MILLISECONDS (or RFC 3339) and PARTITION:OFFSET,...",
                cut(text)
            ))
        };
        match text {
            "earliest" => return Ok(Self::Every(Begin::Earliest)),
            "latest" => return Ok(Self::Every(Begin::Latest)),
            _ => {}
        }
        if let Some(time) = text.strip_prefix("timestamp:") {
            let millis = plain_number::<i64>(time).or_else(|| {
                time.parse::<jiff::Timestamp>()
                    .ok()
                    .map(|time| time.as_millisecond())
            });
            return millis
                .map(|t| Self::Every(Begin::Timestamp(Timestamp(t))))
                .ok_or_else(refused);
        }
        if let Some(offset) = plain_number(text) {
            return Ok(Self::Every(Begin::Offset(Offset(offset))));
        }
        let mut each: Vec<(Partition, Offset)> = Vec::new();
        for part in text.split(',') {
            let (partition, offset) = part.split_once(':').ok_or_else(refused)?;
            let partition = Partition(plain_number(partition).ok_or_else(refused)?);
            if each.iter().any(|(other, _)| *other == partition) {
                return Err(refused());
            }
            each.push((partition, Offset(plain_number(offset).ok_or_else(refused)?)));
        }
        Ok(Self::Each(each))
    }

    fn of(&self, partition: Partition) -> Begin {
        match self {
            Self::Every(begin) => *begin,
            Self::Each(each) => each
                .iter()
                .find(|(named, _)| *named == partition)
                .map_or(Begin::Earliest, |(_, offset)| Begin::Offset(*offset)),
        }
    }
}

/// Which records a reader wants.
#[derive(Debug, Default)]
pub(super) struct Filter {
    key: Option<String>,
    header: Option<(String, String)>,
    json: Option<(String, Value)>,
}

impl Filter {
    /// From `key=`, `header=NAME:VALUE` and `json=/POINTER:VALUE`.
    pub(super) fn parse(
        key: Option<String>,
        header: Option<&str>,
        json: Option<&str>,
    ) -> Result<Self, ApiError> {
        let header = match header {
            None => None,
            Some(text) => {
                let (name, value) = text
                    .split_once(':')
                    .ok_or_else(|| ApiError::invalid("header must be NAME:VALUE"))?;
                Some((name.to_owned(), value.trim_start().to_owned()))
            }
        };
        let json = match json {
            None => None,
            Some(text) => Some(pointer_and_value(text).ok_or_else(|| {
                ApiError::invalid("json must be /POINTER:VALUE, a JSON pointer and a JSON value (texts in quotes)")
            })?),
        };
        Ok(Self { key, header, json })
    }

    fn lets_through(&self, record: &RecordRef<'_>) -> bool {
        if let Some(key) = &self.key
            && record.key != Some(key.as_bytes())
        {
            return false;
        }
        if let Some((name, value)) = &self.header
            && !record
                .headers()
                .any(|(n, v)| n.eq_ignore_ascii_case(name) && v == value.as_bytes())
        {
            return false;
        }
        let Some((pointer, wanted)) = &self.json else {
            return true;
        };
        record.format == Format::Json
            && record
                .value
                .and_then(|value| serde_json::from_slice::<Value>(value).ok())
                .is_some_and(|value| value.pointer(pointer) == Some(wanted))
    }
}

/// A pointer may contain colons itself: the first one behind which there is a JSON value counts.
fn pointer_and_value(text: &str) -> Option<(String, Value)> {
    if !text.starts_with(['/', ':']) {
        return None;
    }
    text.match_indices(':').find_map(|(at, _)| {
        let value = serde_json::from_str(&text[at + 1..]).ok()?;
        Some((text[..at].to_owned(), value))
    })
}

/// What takes the records of a scan.
pub(super) trait Sink {
    /// Takes one record. `next` tells where a reader goes on that has seen everything up to it.
    fn put(&mut self, partition: Partition, record: &RecordRef<'_>, next: &dyn Fn() -> String);
}

#[derive(Debug, Clone)]
struct Cursor {
    partition: Partition,
    at: Offset,
    high_watermark: Offset,
    /// Began at the beginning and has read nothing: goes along when that moves on.
    floating: bool,
}

/// How much one step of a scan found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It went on; some records may have been let through.
    Went,
    /// There is nothing more yet.
    CaughtUp,
    /// As much as was asked for has been read.
    Full,
}

/// How much a scan may read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) records: usize,
    pub(super) bytes: usize,
}

/// A walk through one partition or all of a topic.
pub(super) struct Scan {
    broker: Broker,
    topic: TopicName,
    cursors: Vec<Cursor>,
    turn: usize,
    all_partitions: bool,
    filter: Filter,
    left: Bounds,
    progress: watch::Receiver<u64>,
}

/// Bytes that one step reads.
const STEP_BYTES: usize = 256 * 1024;

impl Scan {
    /// Begins a walk; `partition` none = all of the topic.
    pub(super) async fn begin(
        broker: Broker,
        topic: TopicName,
        partition: Option<Partition>,
        from: &From,
        filter: Filter,
        left: Bounds,
    ) -> Result<Self, ApiError> {
        // Subscribed before the first look, so that nothing that comes in between is missed.
        let progress = broker.progress(&topic)?;
        let count = broker.partition_count(&topic)?;
        let partitions = match partition {
            Some(partition) => partition.0..partition.0.saturating_add(1),
            None => 0..count,
        };
        if let From::Each(each) = from
            && let Some((stranger, _)) = each
                .iter()
                .find(|(named, _)| !partitions.contains(&named.0))
        {
            return Err(ApiError::new(
                Code::PartitionNotFound,
                format!(
                    "from names partition {stranger}, which is not read here; topic {topic} has {count} partitions"
                ),
            ));
        }
        let mut cursors = Vec::with_capacity(partitions.len());
        for partition in partitions.map(Partition) {
            let begin = from.of(partition);
            let at = broker.resolve(&topic, partition, begin).await?;
            let (_, high_watermark) = broker.bounds(&topic, partition).await?;
            cursors.push(Cursor {
                partition,
                at,
                high_watermark,
                floating: begin == Begin::Earliest,
            });
        }
        let all_partitions = partition.is_none();
        Ok(Self {
            broker,
            topic,
            cursors,
            turn: 0,
            all_partitions,
            filter,
            left,
            progress,
        })
    }

    /// Reads on in the next partition that has something.
    pub(super) async fn step(&mut self, sink: &mut (impl Sink + Send)) -> Result<Step, ApiError> {
        if self.left.records == 0 || self.left.bytes == 0 {
            return Ok(Step::Full);
        }
        self.progress.borrow_and_update();
        self.take_in_new_partitions()?;
        for _ in 0..self.cursors.len() {
            let turn = self.turn % self.cursors.len();
            self.turn = turn + 1;
            let batches = self.fetch(turn).await?;
            if !batches.is_empty() {
                self.left.bytes = self.left.bytes.saturating_sub(batches.len());
                self.take(turn, batches, sink)?;
                return Ok(Step::Went);
            }
        }
        Ok(Step::CaughtUp)
    }

    /// Waits until there may be more; false when the topic is gone.
    pub(super) async fn wait(&mut self) -> bool {
        self.progress.changed().await.is_ok()
    }

    /// Number of partitions that are read.
    pub(super) fn partitions(&self) -> usize {
        self.cursors.len()
    }

    /// Where a reader goes on that has seen all so far.
    pub(super) fn next(&self) -> String {
        position_of(&self.cursors, self.all_partitions)
    }

    /// The end of what readers may see: of the partition, or summed over all.
    pub(super) fn high_watermark(&self) -> u64 {
        self.cursors
            .iter()
            .map(|cursor| cursor.high_watermark.0)
            .sum()
    }

    fn take_in_new_partitions(&mut self) -> Result<(), ApiError> {
        if self.all_partitions {
            let count = self.broker.partition_count(&self.topic)?;
            for partition in self.cursors.len() as u32..count {
                self.cursors.push(Cursor {
                    partition: Partition(partition),
                    at: Offset::ZERO,
                    high_watermark: Offset::ZERO,
                    floating: true,
                });
            }
        }
        Ok(())
    }

    async fn fetch(&mut self, turn: usize) -> Result<Bytes, ApiError> {
        // Few records need few bytes; a batch always comes whole.
        let want = (64 * 1024 + 1024 * self.left.records.min(1024))
            .min(self.left.bytes)
            .min(STEP_BYTES);
        let Cursor {
            partition,
            at,
            floating,
            ..
        } = self.cursors[turn];
        let fetched = match self.broker.fetch(&self.topic, partition, at, want).await {
            Err(FetchError::Trimmed { start, .. }) if floating => {
                self.cursors[turn].at = start;
                self.broker.fetch(&self.topic, partition, start, want).await
            }
            fetched => fetched,
        }?;
        self.cursors[turn].high_watermark = fetched.high_watermark;
        Ok(fetched.batches)
    }

    fn take(
        &mut self,
        turn: usize,
        mut batches: Bytes,
        sink: &mut impl Sink,
    ) -> Result<(), ApiError> {
        self.cursors[turn].floating = false;
        while !batches.is_empty() && self.left.records != 0 {
            let Cursor {
                partition,
                at: offset,
                ..
            } = self.cursors[turn];
            let topic = &self.topic;
            let corrupt = move |_| FetchError::Corrupt {
                partition: TopicPartition {
                    topic: topic.clone(),
                    partition,
                },
                offset,
            };
            let batch = Batch::take(&mut batches).map_err(corrupt)?;
            batch.verify().map_err(corrupt)?;
            let unpacked = batch.unpack().map_err(corrupt)?;
            let mut whole = true;
            for record in unpacked.records() {
                let record = record.map_err(corrupt)?;
                if record.offset < self.cursors[turn].at {
                    continue;
                }
                if self.left.records == 0 {
                    whole = false;
                    break;
                }
                self.cursors[turn].at = Offset(record.offset.0 + 1);
                if self.filter.lets_through(&record) {
                    self.left.records -= 1;
                    let next = || position_of(&self.cursors, self.all_partitions);
                    sink.put(self.cursors[turn].partition, &record, &next);
                }
            }
            if whole {
                // Past the offsets that compaction left out at the end of a batch.
                let end = batch.header.end_offset();
                self.cursors[turn].at = self.cursors[turn].at.max(end);
            }
        }
        Ok(())
    }
}

/// One partition's offset, or `PARTITION:OFFSET,...` without those that are at their beginning.
fn position_of(cursors: &[Cursor], all_partitions: bool) -> String {
    use std::fmt::Write;
    if let ([cursor], false) = (cursors, all_partitions) {
        return cursor.at.to_string();
    }
    let mut text = String::new();
    for cursor in cursors.iter().filter(|cursor| cursor.at != Offset::ZERO) {
        let comma = if text.is_empty() { "" } else { "," };
        // Writing into a text does not fail.
        let _ = write!(text, "{comma}{}:{}", cursor.partition, cursor.at);
    }
    if text.is_empty() {
        "earliest".into()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, Codec, Producer, Record};

    #[test]
    fn positions_are_read_as_clients_write_them() {
        let at = |offset| Ok(From::Every(Begin::Offset(Offset(offset))));
        let time = |ms| Ok(From::Every(Begin::Timestamp(Timestamp(ms))));
        let each = |pairs: &[(u32, u64)]| {
            Ok(From::Each(
                pairs
                    .iter()
                    .map(|(p, o)| (Partition(*p), Offset(*o)))
                    .collect(),
            ))
        };
        for (text, wanted) in [
            ("earliest", Ok(From::Every(Begin::Earliest))),
            ("latest", Ok(From::Every(Begin::Latest))),
            ("0", at(0)),
            ("18446744073709551615", at(u64::MAX)),
            ("timestamp:17", time(17)),
            ("timestamp:1970-01-01T00:00:01Z", time(1000)),
            ("0:17,1:4", each(&[(0, 17), (1, 4)])),
            ("", Err(())),
            ("-1", Err(())),
            ("+1", Err(())),
            ("1e3", Err(())),
            ("18446744073709551616", Err(())),
            ("timestamp:-1", Err(())),
            ("timestamp:9223372036854775808", Err(())),
            ("0:1,0:2", Err(())),
            ("0:1,", Err(())),
            ("4294967296:1", Err(())),
            ("Latest", Err(())),
        ] {
            assert_eq!(From::parse(text).map_err(|_| ()), wanted, "{text:?}");
        }
    }

    fn passes(filter: &Filter, record: &Record) -> bool {
        let mut builder = BatchBuilder::default();
        builder.push(record, Timestamp(0));
        let batch = builder.build(Codec::None, Producer::default()).unwrap();
        let unpacked = batch.unpack().unwrap();
        let record = unpacked.records().next().unwrap().unwrap();
        filter.lets_through(&record)
    }

    #[test]
    fn filters_look_at_key_header_and_json_and_all_must_hold() {
        let json = Record::json(&serde_json::json!({"a:b": [1, {"c": "x"}], "n": null})).unwrap();
        let record = json.with_key("k").with_header("Trace", "7");
        for (key, header, json, wanted) in [
            (None, None, None, true),
            (Some("k"), Some("trace:7"), Some(r#"/a:b/1/c:"x""#), true),
            (Some("K"), None, None, false),
            (None, Some("trace:8"), None, false),
            (None, None, Some("/a:b/0:1"), true),
            (None, None, Some("/a:b/0:2"), false),
            (None, None, Some("/n:null"), true),
            (None, None, Some("/missing:null"), false),
            (Some("k"), Some("trace:7"), Some("/a:b/0:2"), false),
        ] {
            let filter = Filter::parse(key.map(str::to_owned), header, json).unwrap();
            assert_eq!(
                passes(&filter, &record),
                wanted,
                "{key:?} {header:?} {json:?}"
            );
        }
        let text = Filter::parse(None, None, Some(":1")).unwrap();
        assert!(!passes(&text, &Record::text("1")));
        for (header, json) in [
            (Some("no-colon"), None),
            (None, Some("/a:x")),
            (None, Some("a:1")),
            (None, Some("")),
        ] {
            assert!(
                Filter::parse(None, header, json).is_err(),
                "{header:?} {json:?}"
            );
        }
    }
}
