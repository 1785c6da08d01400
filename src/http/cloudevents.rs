//! CloudEvents in structured mode. An event is kept as the same record that its binary mode makes:
//! attributes as `ce-` headers, data as the value, `partitionkey` as the key.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::value::RawValue;

use super::error::ApiError;
use super::json::{not_json, value_of};
use crate::record::{Format, Record};
use crate::types::{Code, limits};

type Event<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

/// The record of a body that is one event.
pub(super) fn event_of(body: &Bytes) -> Result<Record, ApiError> {
    let event: Event<'_> = serde_json::from_slice(body).map_err(|error| not_json(&error))?;
    record_of(body, &event).map_err(|why| ApiError::new(Code::InvalidBody, why))
}

/// The records of a body that is a list of events.
pub(super) fn events_of(body: &Bytes) -> Result<Vec<Record>, ApiError> {
    let events: Vec<&RawValue> = serde_json::from_slice(body).map_err(|error| not_json(&error))?;
    if limits::JSON_RECORDS < events.len() {
        let why = format!("a request may have {} events", limits::JSON_RECORDS);
        return Err(ApiError::new(Code::TooLarge, why));
    }
    let records = events.into_iter().enumerate().map(|(index, raw)| {
        let event: Event<'_> = serde_json::from_str(raw.get()).map_err(|error| not_json(&error))?;
        record_of(body, &event)
            .map_err(|why| ApiError::new(Code::InvalidBody, format!("event {index}: {why}")))
    });
    records.collect()
}

fn record_of(body: &Bytes, event: &Event<'_>) -> Result<Record, String> {
    for required in ["specversion", "id", "source", "type"] {
        match event.get(required) {
            Some(raw) if raw.get().starts_with('"') && raw.get() != "\"\"" => {}
            _ => {
                return Err(format!(
                    "the event's {required} must be a text that is not empty"
                ));
            }
        }
    }
    let mut record = Record::default();
    for (name, raw) in event {
        match name.as_ref() {
            "data" | "data_base64" => {}
            "datacontenttype" => record
                .headers
                .push(("content-type".into(), attribute(name, raw)?)),
            name => {
                if !name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
                {
                    return Err(format!(
                        "attribute names are lower-case letters and digits, not {name:?}"
                    ));
                }
                let value = attribute(name, raw)?;
                if name == "partitionkey" {
                    record.key = Some(value.clone());
                }
                record.headers.push((format!("ce-{name}"), value));
            }
        }
    }
    match (event.get("data"), event.get("data_base64")) {
        (Some(_), Some(_)) => return Err("give data or data_base64, not both".into()),
        (Some(data), None) => (record.value, record.format) = value_of(body, data)?,
        (None, Some(data)) => {
            let text: Cow<'_, str> =
                serde_json::from_str(data.get()).map_err(|_| "data_base64 must be a text")?;
            let bytes = STANDARD
                .decode(text.as_bytes())
                .map_err(|error| format!("data_base64: {error}"))?;
            (record.value, record.format) = (Some(bytes.into()), Format::Binary);
        }
        // An event without data is not a tombstone.
        (None, None) => record.value = Some(Bytes::new()),
    }
    Ok(record)
}

/// An attribute's value in the text form that binary mode has: texts, integers and truth values.
fn attribute(name: &str, raw: &RawValue) -> Result<Bytes, String> {
    match raw.get().as_bytes().first() {
        Some(b'"') => serde_json::from_str::<String>(raw.get())
            .map(Bytes::from)
            .map_err(|error| format!("{name} is not valid text: {error}")),
        Some(b'{' | b'[' | b'n') | None => {
            Err(format!("{name} must be a text, a number or a truth value"))
        }
        Some(_) => Ok(Bytes::copy_from_slice(raw.get().as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(json: &'static str) -> Result<Record, ApiError> {
        event_of(&Bytes::from_static(json.as_bytes()))
    }

    #[test]
    fn an_event_becomes_the_record_that_its_binary_mode_makes() {
        let got = record(
            r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","partitionkey":"k","count":7,
               "datacontenttype":"application/json","data":{"a": 1}}"#,
        );
        let wanted = Record {
            value: Some(r#"{"a": 1}"#.into()),
            format: Format::Json,
            ..Record::default()
        }
        .with_key("k")
        .with_header("ce-count", "7")
        .with_header("content-type", "application/json")
        .with_header("ce-id", "1")
        .with_header("ce-partitionkey", "k")
        .with_header("ce-source", "/s")
        .with_header("ce-specversion", "1.0")
        .with_header("ce-type", "t");
        assert_eq!(got.unwrap(), wanted);
    }

    #[test]
    fn events_of_a_batch_are_refused_by_number() {
        let good =
            r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":"AP8="}"#;
        let batch = |second: &str| events_of(&Bytes::from(format!("[{good},{second}]")));
        assert_eq!(
            batch(good).unwrap()[1].value.as_deref(),
            Some(&b"\0\xff"[..])
        );
        for (bad, why) in [
            ("7", "not what it should be"),
            (
                r#"{"specversion":"1.0","id":"","source":"/s","type":"t"}"#,
                "event 1: the event's id",
            ),
            (
                r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","Bad":"x"}"#,
                "lower-case",
            ),
            (
                r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","x":{}}"#,
                "x must be a text",
            ),
            (
                r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":1,"data_base64":""}"#,
                "not both",
            ),
        ] {
            let error = batch(bad).unwrap_err();
            assert!(
                error.problem().detail.contains(why),
                "{bad}: {}",
                error.problem().detail
            );
        }
    }
}
