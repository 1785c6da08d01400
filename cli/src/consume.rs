//! `consume`: the next message of a broker, or any stretch of a topic.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::{Args, ValueEnum};
use pilgrimage::api::v1;
use pilgrimage::client::{Batches, Client, Next, Read, ReadBatches, Start};
use pilgrimage::record::{Batch, RecordRef};
use pilgrimage::types::{BrokerId, Offset, Partition, TopicName};
use tokio::task::JoinSet;

use crate::failure::Failure;
use crate::input;
use crate::output::Output;
use crate::target::Target;

const AFTER_HELP: &str = "\
Two forms:
  pilgrimage consume BROKER_ID      the next message, by a position that the broker keeps: asking
                                    again gives the message after it. --topic, --group and --wait
                                    say whose position and for how long.
  pilgrimage consume --topic TOPIC  records of the topic from --from on. Moves no position: the same
                                    command gives the same records again.

`--format raw` writes each value and a line feed, byte for byte what `pilgrimage produce` was given.
The other forms are lines too; what could steer a terminal is escaped in `text`.";

/// Read messages.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ConsumeArgs {
    /// The broker whose next message is wanted.
    #[arg(value_name = "BROKER_ID", required_unless_present = "topic")]
    id: Option<BrokerId>,
    /// The topic.
    #[arg(long, short)]
    topic: Option<TopicName>,
    /// Whose position goes on (with BROKER_ID).
    #[arg(long, short, requires = "id")]
    group: Option<String>,
    /// How long to wait for a message (with BROKER_ID).
    #[arg(long, value_name = "SPAN", requires = "id", value_parser = input::span)]
    wait: Option<Duration>,
    /// Where to begin: earliest, latest, an offset, timestamp:MILLISECONDS, or PARTITION:OFFSET,...
    #[arg(long, value_name = "POSITION", conflicts_with = "id")]
    from: Option<Start>,
    /// Only this partition.
    #[arg(long, short, conflicts_with = "id")]
    partition: Option<u32>,
    /// Goes on with what arrives, until it is interrupted. Begins at the end unless --from says otherwise.
    #[arg(long, short, conflicts_with = "id")]
    follow: bool,
    /// Ends after so many records.
    #[arg(long, short = 'n', value_name = "RECORDS", conflicts_with = "id")]
    limit: Option<u64>,
    /// How records are written.
    #[arg(long, value_enum, conflicts_with = "id")]
    format: Option<RecordFormat>,
    /// Only records with this key.
    #[arg(long, value_name = "KEY", conflicts_with = "id")]
    filter_key: Option<String>,
    /// Only records with this header; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", conflicts_with = "id", value_parser = input::pair)]
    filter_header: Vec<(String, String)>,
    /// Only records whose JSON value has this at a JSON pointer (/customer/id=7); may be repeated.
    #[arg(long, value_name = "/POINTER=VALUE", conflicts_with = "id", value_parser = input::json_pair)]
    filter_json: Vec<(String, serde_json::Value)>,
}

/// How records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RecordFormat {
    /// PARTITION:OFFSET, time, key and value for people.
    Text,
    /// One JSON document with all records.
    Json,
    /// One JSON record per line.
    Ndjson,
    /// A YAML list of records.
    Yaml,
    /// Each value and a line feed, byte for byte.
    Raw,
    /// Each value in hexadecimal.
    Hex,
}

/// Partitions that are followed at once byte for byte: each takes a connection.
const FOLLOWED_PARTITIONS_MAX: usize = 256;

/// Runs `consume`.
pub(crate) async fn run(args: ConsumeArgs, target: &Target, output: Output) -> Result<(), Failure> {
    if let Some(id) = &args.id {
        let wait = args.wait.unwrap_or_default();
        return crate::brokers::consume(id, args.topic, args.group, wait, target, output).await;
    }
    let Some(topic) = args.topic.clone() else {
        return Err(Failure::usage("name a BROKER_ID or a --topic"));
    };
    let format = args.format.unwrap_or(match output {
        Output::Table => RecordFormat::Text,
        Output::Json => RecordFormat::Json,
        Output::Ndjson => RecordFormat::Ndjson,
        Output::Yaml => RecordFormat::Yaml,
    });
    if args.follow && format == RecordFormat::Json {
        return Err(Failure::usage(
            "a JSON document must end: use --format ndjson with --follow",
        ));
    }
    let start = args.from.clone().unwrap_or(if args.follow {
        Start::Latest
    } else {
        Start::Earliest
    });
    let reader = Reader {
        client: target.client()?,
        topic,
        partition: args.partition.map(Partition),
        read: Read {
            from: start,
            limit: None,
            max_bytes: None,
            wait: Duration::ZERO,
            key: args.filter_key,
            headers: args.filter_header,
            json: args.filter_json,
        },
        follow: args.follow,
    };
    let mut printer = Printer {
        out: std::io::BufWriter::with_capacity(256 * 1024, std::io::stdout()),
        format,
        left: args.limit.unwrap_or(u64::MAX),
        begun: false,
        bound: BTreeMap::new(),
    };
    if printer.left != 0 {
        let exact = matches!(format, RecordFormat::Raw | RecordFormat::Hex);
        let work = async {
            if exact {
                reader.exact(&mut printer).await
            } else {
                reader.rendered(&mut printer).await
            }
        };
        tokio::select! {
            done = work => done?,
            // Ending what would not end by itself is not an error.
            _ = tokio::signal::ctrl_c() => {}
        }
    }
    printer.finish()
}

/// Where the reading takes place.
struct Reader {
    client: Client,
    topic: TopicName,
    partition: Option<Partition>,
    read: Read,
    follow: bool,
}

impl Reader {
    /// Ends of the partitions as they are now: what arrives later is not part of a read that ends.
    async fn ends(&self) -> Result<BTreeMap<u32, Offset>, Failure> {
        let list = self.client.partitions(&self.topic).await?.partitions;
        let wanted = |p: u32| self.partition.is_none_or(|only| only.0 == p);
        Ok(list
            .iter()
            .filter(|p| wanted(p.partition))
            .map(|p| (p.partition, Offset(p.high_watermark)))
            .collect())
    }

    /// Records as the node renders and filters them.
    async fn rendered(&self, printer: &mut Printer) -> Result<(), Failure> {
        if self.follow {
            let mut follow = self
                .client
                .follow(&self.topic, self.partition, self.read.clone());
            loop {
                let record =
                    match tokio::time::timeout(Duration::from_millis(5), follow.next()).await {
                        Ok(record) => record?,
                        Err(_) => {
                            printer.out.flush()?;
                            follow.next().await?
                        }
                    };
                if printer.record(&record)? {
                    return Ok(());
                }
            }
        }
        printer.bound = self.ends().await?;
        let mut read = Read {
            limit: Some(10_000),
            max_bytes: Some(4 * 1024 * 1024),
            ..self.read.clone()
        };
        loop {
            let wanted = usize::try_from(printer.left).unwrap_or(usize::MAX);
            read.limit = Some(wanted.min(10_000));
            let page = self.client.read(&self.topic, self.partition, &read).await?;
            for record in &page.records {
                if printer.record(record)? {
                    return Ok(());
                }
            }
            let next: Next = page.next.parse()?;
            let reached = |(&p, &end): (&u32, &Offset)| next.of(p).is_none_or(|at| end <= at);
            let stands_still = read.from == Start::Next(next.clone());
            if stands_still || printer.bound.iter().all(reached) {
                return Ok(());
            }
            read.from = Start::Next(next);
        }
    }

    /// Values byte for byte: batches as they stand in the log.
    async fn exact(&self, printer: &mut Printer) -> Result<(), Failure> {
        let ends = self.ends().await?;
        if let Some(partition) = self.partition.filter(|p| !ends.contains_key(&p.0)) {
            // The node says it best.
            self.client
                .read(&self.topic, Some(partition), &self.read)
                .await?;
        }
        let mut starts = Vec::with_capacity(ends.len());
        for (&partition, &end) in &ends {
            let from = self.start_of(Partition(partition)).await?;
            if end < from {
                // What is wrong with that, the node says best.
                let read = Read {
                    from: Start::Offset(from),
                    ..Read::default()
                };
                self.client
                    .read(&self.topic, Some(Partition(partition)), &read)
                    .await?;
            }
            starts.push((Partition(partition), from, end));
        }
        if self.follow {
            return self.exact_follow(starts, printer).await;
        }
        for (partition, from, end) in starts {
            let mut batches =
                self.client
                    .batches(&self.topic, partition, ReadBatches::range(from, end));
            while let Some(batch) = batches.next().await? {
                if self.print(&batch, from, end, printer)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn exact_follow(
        &self,
        starts: Vec<(Partition, Offset, Offset)>,
        printer: &mut Printer,
    ) -> Result<(), Failure> {
        if FOLLOWED_PARTITIONS_MAX < starts.len() {
            return Err(Failure::usage(format!(
                "{} has {} partitions, at most {FOLLOWED_PARTITIONS_MAX} can be followed byte for byte",
                self.topic,
                starts.len()
            ))
            .hint("choose one with --partition, or use --format ndjson"));
        }
        let mut readers = JoinSet::new();
        for (partition, from, _) in starts {
            let batches = self
                .client
                .batches(&self.topic, partition, ReadBatches::follow(from));
            readers.spawn(step(batches, from));
        }
        while let Some(done) = readers.join_next().await {
            let (batches, from, batch) =
                done.map_err(|error| Failure::failed(error.to_string()))??;
            if let Some(batch) = batch
                && self.print(&batch, from, Offset(u64::MAX), printer)?
            {
                return Ok(());
            }
            printer.out.flush()?;
            readers.spawn(step(batches, from));
        }
        Ok(())
    }

    async fn start_of(&self, partition: Partition) -> Result<Offset, Failure> {
        if let Start::Offset(offset) = self.read.from {
            return Ok(offset);
        }
        if let Start::Next(next) = &self.read.from
            && let Some(offset) = next.of(partition.0)
        {
            return Ok(offset);
        }
        let from = match &self.read.from {
            Start::Next(_) => Start::Earliest,
            other => other.clone(),
        };
        // The node knows where "earliest" and times are: ask for one record and see where it stands.
        let read = Read {
            from,
            limit: Some(1),
            ..Read::default()
        };
        let page = self
            .client
            .read(&self.topic, Some(partition), &read)
            .await?;
        match page.records.first() {
            Some(record) => Ok(Offset(record.offset)),
            None => Ok(page
                .next
                .parse::<Next>()?
                .of(partition.0)
                .unwrap_or_default()),
        }
    }

    /// Prints the records of a batch that stand in `[from, end)` and pass the filters; true when the
    /// last that is wanted was among them.
    fn print(
        &self,
        batch: &Batch,
        from: Offset,
        end: Offset,
        printer: &mut Printer,
    ) -> Result<bool, Failure> {
        let damaged = |error| {
            Failure::failed(format!(
                "batch at offset {}: {error}",
                batch.header.base_offset
            ))
        };
        for record in batch.unpack().map_err(damaged)?.records() {
            let record = record.map_err(damaged)?;
            let wanted = (from..end).contains(&record.offset) && self.takes(&record);
            if wanted && printer.value(record.value)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The filters, on bytes: a JSON rendering would not tell the text `7` from the number 7.
    fn takes(&self, record: &RecordRef<'_>) -> bool {
        let key = self.read.key.as_ref();
        if key.is_some_and(|key| record.key != Some(key.as_bytes())) {
            return false;
        }
        let has = |(name, value): &(String, String)| {
            record
                .headers()
                .any(|(n, v)| n == name && v == value.as_bytes())
        };
        if !self.read.headers.iter().all(has) {
            return false;
        }
        if self.read.json.is_empty() {
            return true;
        }
        let value = record.value.unwrap_or_default();
        serde_json::from_slice::<serde_json::Value>(value).is_ok_and(|value| {
            self.read
                .json
                .iter()
                .all(|(pointer, wanted)| value.pointer(pointer) == Some(wanted))
        })
    }
}

type Step = (Batches, Offset, Option<Batch>);

async fn step(mut batches: Batches, from: Offset) -> Result<Step, Failure> {
    let batch = batches.next().await?;
    Ok((batches, from, batch))
}

/// Writes records to stdout.
struct Printer {
    out: std::io::BufWriter<std::io::Stdout>,
    format: RecordFormat,
    left: u64,
    begun: bool,
    /// Records at or beyond these offsets are not written.
    bound: BTreeMap<u32, Offset>,
}

impl Printer {
    /// Writes one record; true when it was the last that is wanted.
    fn record(&mut self, record: &v1::Record) -> Result<bool, Failure> {
        if self
            .bound
            .get(&record.partition)
            .is_some_and(|end| end.0 <= record.offset)
        {
            return Ok(false);
        }
        match self.format {
            RecordFormat::Json => {
                self.out
                    .write_all(if self.begun { b",\n  " } else { b"[\n  " })?;
                serde_json::to_writer(&mut self.out, record)?;
            }
            RecordFormat::Ndjson => {
                serde_json::to_writer(&mut self.out, record)?;
                self.out.write_all(b"\n")?;
            }
            RecordFormat::Yaml => {
                // Lists of one, one after another, are one list.
                self.out
                    .write_all(crate::output::yaml(&[record])?.as_bytes())?;
            }
            RecordFormat::Text | RecordFormat::Raw | RecordFormat::Hex => {
                let time = crate::output::time(record.timestamp);
                write!(self.out, "{}:{}  {time}  ", record.partition, record.offset)?;
                if let Some(key) = record.key.as_ref().or(record.key_base64.as_ref()) {
                    write!(self.out, "{}  ", shown(key.as_bytes()))?;
                }
                writeln!(self.out, "{}", shown(&text_of(record)))?;
            }
        }
        Ok(self.count())
    }

    /// Writes one value byte for byte, or in hexadecimal; true when it was the last that is wanted.
    fn value(&mut self, value: Option<&[u8]>) -> Result<bool, Failure> {
        let value = value.unwrap_or_default();
        if self.format == RecordFormat::Hex {
            for byte in value {
                write!(self.out, "{byte:02x}")?;
            }
        } else {
            self.out.write_all(value)?;
        }
        self.out.write_all(b"\n")?;
        Ok(self.count())
    }

    fn count(&mut self) -> bool {
        self.begun = true;
        self.left -= 1;
        self.left == 0
    }

    fn finish(mut self) -> Result<(), Failure> {
        if self.format == RecordFormat::Json {
            self.out
                .write_all(if self.begun { b"\n]\n" } else { b"[]\n" })?;
        }
        Ok(self.out.flush()?)
    }
}

/// A record's value as people read it.
fn text_of(record: &v1::Record) -> Cow<'_, [u8]> {
    match (&record.value, &record.value_base64) {
        (Some(raw), _) => match serde_json::from_str::<String>(raw.get()) {
            Ok(text) => Cow::Owned(text.into_bytes()),
            Err(_) => Cow::Borrowed(raw.get().as_bytes()),
        },
        (None, Some(base64)) => Cow::Owned(format!("base64:{base64}").into_bytes()),
        (None, None) => Cow::Borrowed(b"null"),
    }
}

/// Bytes fit for where stdout goes: on a terminal, what could steer it is escaped.
pub(crate) fn shown(bytes: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(bytes);
    if std::io::stdout().is_terminal() {
        escape(text)
    } else {
        text
    }
}

fn escape(text: Cow<'_, str>) -> Cow<'_, str> {
    if !text.chars().any(|c| c.is_control() && c != '\t') {
        return text;
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if c.is_control() && c != '\t' {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_cannot_steer_the_terminal() {
        assert_eq!(escape("a\x1b[2Jb\nc\td".into()), "a\\u{1b}[2Jb\\nc\td");
        assert_eq!(escape("naïve ☃".into()), "naïve ☃");
    }

    #[test]
    fn values_are_shown_as_what_they_are() {
        let record = |json: &str| serde_json::from_str::<v1::Record>(json).unwrap();
        for (field, text) in [
            (r#""value":"a\"b""#, &b"a\"b"[..]),
            (r#""value":{"a": 1}"#, br#"{"a": 1}"#),
            (r#""value":null"#, b"null"),
            (r#""value_base64":"/w==""#, b"base64:/w=="),
        ] {
            let record = record(&format!(
                r#"{{"partition":0,"offset":0,"timestamp":0,{field}}}"#
            ));
            assert_eq!(&*text_of(&record), text);
        }
    }
}
