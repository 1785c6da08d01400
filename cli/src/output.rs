//! What goes to stdout: tables for people, JSON for programs.

use std::io::Write;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::failure::Failure;

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One JSON value per line.
    Ndjson,
    /// One YAML document.
    Yaml,
}

impl Output {
    /// One thing: `table` says it to people.
    pub(crate) fn one<T: Serialize>(
        self,
        thing: &T,
        table: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        match self {
            Self::Table => line(&table()),
            Self::Json => line(&serde_json::to_string_pretty(thing)?),
            Self::Ndjson => line(&serde_json::to_string(thing)?),
            Self::Yaml => line(&yaml(thing)?),
        }
    }

    /// Several things of a kind.
    pub(crate) fn many<T: Serialize>(
        self,
        things: &[T],
        table: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        match self {
            Self::Ndjson => {
                let mut out = std::io::stdout().lock();
                for thing in things {
                    serde_json::to_writer(&mut out, thing)?;
                    out.write_all(b"\n")?;
                }
                Ok(out.flush()?)
            }
            other => other.one(&things, table),
        }
    }
}

/// A thing in YAML.
pub(crate) fn yaml<T: Serialize>(thing: &T) -> Result<String, Failure> {
    // By way of JSON: values that are kept as they were written exist in JSON alone.
    let value = serde_json::to_value(thing)?;
    serde_saphyr::to_string(&value).map_err(|error| Failure::failed(format!("write YAML: {error}")))
}

/// Writes one line (or block) to stdout.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

/// Writes a remark to stderr; nothing depends on it.
pub(crate) fn remark(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A table without lines. Columns whose heading ends with `>` are set flush right.
pub(crate) fn table(headings: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(headings.iter().map(|heading| heading.trim_end_matches('>')));
    for (i, heading) in headings.iter().enumerate() {
        if let Some(column) = table.column_mut(i) {
            column.set_padding((0, 2));
            if heading.ends_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table.add_rows(rows);
    let text = table.to_string();
    text.lines()
        .map(str::trim_end)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Names and values, one per line.
pub(crate) fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    fields
        .iter()
        .map(|(name, value)| format!("{name:width$}  {value}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// A number of bytes as people read it.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let (mut value, mut unit) = (n as f64 / 1024.0, 0);
    while 1023.95 <= value && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A span of milliseconds as people read it, exact.
pub(crate) fn millis(ms: u64) -> String {
    for (unit, size) in [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
    ] {
        if ms != 0 && ms.is_multiple_of(size) {
            return format!("{}{unit}", ms / size);
        }
    }
    format!("{ms}ms")
}

/// A span of milliseconds in its two greatest units.
pub(crate) fn span(ms: u64) -> String {
    let (seconds, units) = (ms / 1000, [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)]);
    let first = units.iter().position(|(_, size)| *size <= seconds);
    let Some(first) = first else {
        return "0 s".into();
    };
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (unit, size) in units.iter().skip(first).take(2) {
        parts.push(format!("{} {unit}", rest / size));
        rest %= size;
    }
    parts.join(" ")
}

/// A time as people read it.
pub(crate) fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms)
        .map_or_else(|_| ms.to_string(), |time| format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans_are_written_as_people_read_them() {
        for (n, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (268_435_456, "256.0 MiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(bytes(n), text);
        }
        for (ms, text) in [
            (0, "0ms"),
            (604_800_000, "7d"),
            (90_000, "90s"),
            (1_001, "1001ms"),
        ] {
            assert_eq!(millis(ms), text);
        }
        for (ms, text) in [
            (0, "0 s"),
            (59_999, "59 s"),
            (60_000, "1 m 0 s"),
            (273_600_000, "3 d 4 h"),
        ] {
            assert_eq!(span(ms), text);
        }
        assert_eq!(time(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
    }

    #[test]
    fn what_yaml_would_take_for_something_else_is_quoted() {
        let thing =
            serde_json::json!([{"no": "yes", "n": 1, "s": "1", "t": "a: b\n# c", "e": null}]);
        let text = yaml(&thing).unwrap();
        let expected = concat!(
            "- e: null\n",
            "  \"n\": 1\n",
            "  \"no\": \"yes\"\n",
            "  s: \"1\"\n",
            "  t: |-\n    a: b\n    # c\n",
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn tables_line_up() {
        let text = table(
            &["NAME", "SIZE>"],
            vec![
                vec!["a".into(), "10".into()],
                vec!["bcdefg".into(), "9".into()],
            ],
        );
        assert_eq!(text, "NAME    SIZE\na         10\nbcdefg     9");
    }
}
