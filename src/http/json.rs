//! JSON in: records taken out of a body without building a tree, as slices of the body.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::error::ApiError;
use crate::api::v1::ProducerStamp;
use crate::record::{Format, Record};
use crate::types::{Code, Partition, Timestamp, limits};

/// A record and the partition that it asks for.
pub(super) type Addressed = (Option<Partition>, Record);

/// One record as it stands in a body: `api::v1::NewRecord`, borrowed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireRecord<'a> {
    #[serde(borrow, default)]
    key: Option<&'a RawValue>,
    #[serde(borrow, default)]
    key_base64: Option<&'a RawValue>,
    /// `null` is a value (the tombstone), absence is not.
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    #[serde(borrow, default)]
    value_base64: Option<&'a RawValue>,
    #[serde(default)]
    headers: Option<WireHeaders>,
    #[serde(default)]
    timestamp: Option<i64>,
    #[serde(default)]
    partition: Option<u32>,
}

fn present<'de: 'a, 'a, D: Deserializer<'de>>(from: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

/// Headers as an object of texts or lists of texts, or as a list of pairs.
struct WireHeaders(Vec<(String, Bytes)>);

impl<'de> Deserialize<'de> for WireHeaders {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct AsHeaders;
        impl<'de> Visitor<'de> for AsHeaders {
            type Value = WireHeaders;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(
                    "an object of texts or lists of texts, or a list of [name, value] pairs",
                )
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WireHeaders, A::Error> {
                let mut headers = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    map.next_value_seed(ValuesOf {
                        name,
                        headers: &mut headers,
                    })?;
                }
                Ok(WireHeaders(headers))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<WireHeaders, A::Error> {
                let mut headers = Vec::new();
                while let Some((name, value)) = seq.next_element::<(String, String)>()? {
                    push_header(&mut headers, name, value)?;
                }
                Ok(WireHeaders(headers))
            }
        }
        from.deserialize_any(AsHeaders)
    }
}

fn push_header<E: de::Error>(
    headers: &mut Vec<(String, Bytes)>,
    name: String,
    value: String,
) -> Result<(), E> {
    if headers.len() == limits::HEADERS {
        return Err(E::custom(format_args!(
            "a record may have {} headers",
            limits::HEADERS
        )));
    }
    headers.push((name, Bytes::from(value)));
    Ok(())
}

struct ValuesOf<'a> {
    name: String,
    headers: &'a mut Vec<(String, Bytes)>,
}

impl<'de> DeserializeSeed<'de> for ValuesOf<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValuesOf<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a text or a list of texts")
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
        push_header(self.headers, self.name, value.to_owned())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(value) = seq.next_element::<String>()? {
            push_header(self.headers, self.name.clone(), value)?;
        }
        Ok(())
    }
}

/// Why a part of a record was not taken.
type Refused = String;

/// The raw JSON as a slice of the body that it was parsed from.
fn slice_of(body: &Bytes, part: &str) -> Bytes {
    body.slice_ref(part.as_bytes())
}

/// A JSON string's text: a slice of the body unless it has escapes.
fn text_of(body: &Bytes, raw: &str, what: &str) -> Result<Bytes, Refused> {
    match raw
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    {
        Some(plain) if !plain.contains('\\') => Ok(slice_of(body, plain)),
        Some(_) => serde_json::from_str::<String>(raw)
            .map(Bytes::from)
            .map_err(|error| format!("{what} is not valid text: {error}")),
        None => Err(format!("{what} must be a string")),
    }
}

fn decode_base64(body: &Bytes, raw: &str, what: &str) -> Result<Bytes, Refused> {
    let text = text_of(body, raw, what)?;
    STANDARD
        .decode(&text)
        .map(Bytes::from)
        .map_err(|error| format!("{what} is not base64: {error}"))
}

/// A JSON value as a record's value: text as text, `null` as a tombstone, anything else kept as it
/// is written.
pub(super) fn value_of(body: &Bytes, raw: &RawValue) -> Result<(Option<Bytes>, Format), Refused> {
    let raw = raw.get();
    match raw.as_bytes().first() {
        Some(b'n') => Ok((None, Format::Binary)),
        Some(b'"') => Ok((Some(text_of(body, raw, "value")?), Format::Text)),
        _ => {
            check_value(raw)?;
            Ok((Some(slice_of(body, raw)), Format::Json))
        }
    }
}

impl WireRecord<'_> {
    fn into_record(self, body: &Bytes) -> Result<Addressed, Refused> {
        let key = match (self.key, self.key_base64) {
            (Some(_), Some(_)) => return Err("give key or key_base64, not both".into()),
            (Some(key), None) => Some(text_of(body, key.get(), "key")?),
            (None, Some(key)) => Some(decode_base64(body, key.get(), "key_base64")?),
            (None, None) => None,
        };
        let (value, format) = match (self.value, self.value_base64) {
            (Some(value), None) => value_of(body, value)?,
            (None, Some(value)) => (
                Some(decode_base64(body, value.get(), "value_base64")?),
                Format::Binary,
            ),
            _ => return Err("give exactly one of value and value_base64".into()),
        };
        let record = Record {
            key,
            value,
            format,
            headers: self.headers.map(|headers| headers.0).unwrap_or_default(),
            timestamp: self.timestamp.map(Timestamp),
        };
        Ok((self.partition.map(Partition), record))
    }
}

/// Takes the one record that `line`, a slice of itself, consists of.
pub(super) fn record_of_line(line: &Bytes) -> Result<Addressed, ApiError> {
    let wire: WireRecord<'_> = serde_json::from_slice(line).map_err(|error| not_json(&error))?;
    wire.into_record(line)
        .map_err(|why| ApiError::new(Code::InvalidBody, why))
}

/// The records of a request, and where they stand among all that their producer sends.
pub(super) type Asked = (Vec<Addressed>, Option<ProducerStamp>);

/// Takes a `{"records": [...]}` body apart.
pub(super) fn records_of(body: &Bytes) -> Result<Asked, ApiError> {
    let mut from = serde_json::Deserializer::from_slice(body);
    let records = Request { body }
        .deserialize(&mut from)
        .map_err(|error| not_json(&error))?;
    from.end().map_err(|error| not_json(&error))?;
    Ok(records)
}

pub(super) fn not_json(error: &serde_json::Error) -> ApiError {
    ApiError::new(
        Code::InvalidBody,
        format!("the body is not what it should be: {error}"),
    )
}

#[derive(Clone, Copy)]
struct Request<'b> {
    body: &'b Bytes,
}

impl<'de> DeserializeSeed<'de> for Request<'_> {
    type Value = Asked;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Request<'_> {
    type Value = Asked;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object with the field \"records\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut records, mut producer) = (None, None);
        while let Some(field) = map.next_key::<String>()? {
            match field.as_str() {
                "records" if records.is_some() => {
                    return Err(de::Error::duplicate_field("records"));
                }
                "records" => {
                    records = Some(map.next_value_seed(RecordList { body: self.body })?);
                }
                "producer" if producer.is_some() => {
                    return Err(de::Error::duplicate_field("producer"));
                }
                "producer" => producer = Some(map.next_value()?),
                _ => return Err(de::Error::unknown_field(&field, &["records", "producer"])),
            }
        }
        let records = records.ok_or_else(|| de::Error::missing_field("records"))?;
        Ok((records, producer))
    }
}

struct RecordList<'b> {
    body: &'b Bytes,
}

impl<'de> DeserializeSeed<'de> for RecordList<'_> {
    type Value = Vec<Addressed>;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for RecordList<'_> {
    type Value = Vec<Addressed>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut records = Vec::new();
        while let Some(wire) = seq.next_element::<WireRecord<'de>>()? {
            let index = records.len();
            if index == limits::JSON_RECORDS {
                return Err(de::Error::custom(format_args!(
                    "a request may have {} records; send more as application/x-ndjson",
                    limits::JSON_RECORDS
                )));
            }
            let record = wire.into_record(self.body);
            records.push(
                record.map_err(|why| de::Error::custom(format_args!("record {index}: {why}")))?,
            );
        }
        Ok(records)
    }
}

/// Checks what skipping over a value leaves unchecked: nesting, and surrogate escapes that are not
/// pairs (which could never be read back as text). The value is known to be JSON otherwise.
pub(super) fn check_value(json: &str) -> Result<(), Refused> {
    let bytes = json.as_bytes();
    let (mut at, mut depth, mut in_string) = (0, 0, false);
    while let Some(&byte) = bytes.get(at) {
        match (in_string, byte) {
            (_, b'"') => in_string = !in_string,
            (true, b'\\') => {
                if let Some(unit) = escaped_unit(bytes, at) {
                    let is_pair = (0xd800..0xdc00).contains(&unit)
                        && escaped_unit(bytes, at + 6)
                            .is_some_and(|low| (0xdc00..0xe000).contains(&low));
                    if (0xd800..0xe000).contains(&unit) && !is_pair {
                        return Err("value has half of a surrogate pair".into());
                    }
                    at += if is_pair { 11 } else { 5 };
                } else {
                    at += 1;
                }
            }
            (false, b'[' | b'{') => {
                depth += 1;
                if limits::JSON_DEPTH < depth {
                    return Err(format!(
                        "value is nested deeper than {}",
                        limits::JSON_DEPTH
                    ));
                }
            }
            (false, b']' | b'}') => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// The code unit of the `\uXXXX` that begins at `at`.
fn escaped_unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(json: &str) -> Result<Vec<Addressed>, ApiError> {
        records_of(&Bytes::copy_from_slice(json.as_bytes())).map(|(records, _)| records)
    }

    fn record(value: Option<&'static str>, format: Format) -> Record {
        Record {
            value: value.map(Bytes::from),
            format,
            ..Record::default()
        }
    }

    #[test]
    fn every_kind_of_value_is_kept_as_what_it_is() {
        let got = records(
            r#"{"records":[{"value":"plain"},{"value":"\u00e9\n\ud83d\ude00"},{"value":null},
               {"value": {"b" : [1.0e5, "\ud83d\ude00"],  "a":18446744073709551616} },{"value":7},
               {"value_base64":"AP8=","key":"k","partition":3,"timestamp":17,"headers":{"a":["1","2"],"b":"x"}},
               {"key_base64":"AP8=","value":true,"headers":[["z","1"],["a","2"],["z","3"]]}]}"#,
        )
        .unwrap();
        let wanted = [
            (None, record(Some("plain"), Format::Text)),
            (None, record(Some("é\n😀"), Format::Text)),
            (None, record(None, Format::Binary)),
            (
                None,
                record(
                    Some(r#"{"b" : [1.0e5, "\ud83d\ude00"],  "a":18446744073709551616}"#),
                    Format::Json,
                ),
            ),
            (None, record(Some("7"), Format::Json)),
            (
                Some(Partition(3)),
                Record {
                    timestamp: Some(Timestamp(17)),
                    ..Record::binary(&b"\0\xff"[..])
                        .with_key("k")
                        .with_header("a", "1")
                        .with_header("a", "2")
                        .with_header("b", "x")
                },
            ),
            (
                None,
                record(Some("true"), Format::Json)
                    .with_key(&b"\0\xff"[..])
                    .with_header("z", "1")
                    .with_header("a", "2")
                    .with_header("z", "3"),
            ),
        ];
        assert_eq!(got, wanted);
    }

    #[test]
    fn what_is_not_a_list_of_records_is_refused_as_such() {
        for (json, why) in [
            ("", "EOF"),
            ("[]", "an object"),
            ("{}", "missing field `records`"),
            (r#"{"records":[],"records":[]}"#, "duplicate field"),
            (r#"{"records":[],"extra":1}"#, "unknown field `extra`"),
            (r#"{"records":[]}x"#, "trailing"),
            (r#"{"records":[{}]}"#, "record 0: give exactly one of value"),
            (
                r#"{"records":[{"value":1},{"value":1,"value_base64":""}]}"#,
                "record 1: give exactly one",
            ),
            (r#"{"records":[{"value":1,"value":2}]}"#, "duplicate field"),
            (
                r#"{"records":[{"value":1,"role":"admin"}]}"#,
                "unknown field `role`",
            ),
            (
                r#"{"records":[{"value":1,"key":5}]}"#,
                "key must be a string",
            ),
            (r#"{"records":[{"value_base64":"!"}]}"#, "not base64"),
            (r#"{"records":[{"value":"\ud800"}]}"#, "not valid text"),
            (r#"{"records":[{"value":["\ud800"]}]}"#, "surrogate"),
            (r#"{"records":[{"value":["\udc00\ud800"]}]}"#, "surrogate"),
            (
                r#"{"records":[{"value":1,"partition":-1}]}"#,
                "invalid value",
            ),
            (
                r#"{"records":[{"value":1,"partition":4294967296}]}"#,
                "invalid value",
            ),
            (
                r#"{"records":[{"value":1,"timestamp":1e999}]}"#,
                "number out of range",
            ),
            (
                r#"{"records":[{"value":1,"timestamp":9223372036854775808}]}"#,
                "invalid value",
            ),
            (
                r#"{"records":[{"value":1,"headers":7}]}"#,
                "an object of texts",
            ),
            (r#"{"records":[{"value":01}]}"#, "invalid number"),
        ] {
            let error = records(json).unwrap_err();
            assert_eq!(error.code(), Code::InvalidBody, "{json}");
            assert!(
                error.problem().detail.contains(why),
                "{json}: {}",
                error.problem().detail
            );
        }
        let not_utf8 = Bytes::from_static(b"{\"records\":[{\"value\":\"\xff\"}]}");
        assert_eq!(records_of(&not_utf8).unwrap_err().code(), Code::InvalidBody);
    }

    #[test]
    fn nesting_is_bounded_and_never_overflows_the_stack() {
        let nested = |n: usize| {
            format!(
                r#"{{"records":[{{"value":{}{}}}]}}"#,
                "[".repeat(n),
                "]".repeat(n)
            )
        };
        assert!(records(&nested(limits::JSON_DEPTH)).is_ok());
        for depth in [limits::JSON_DEPTH + 1, 100_000] {
            let error = records(&nested(depth)).unwrap_err();
            assert!(
                error.problem().detail.contains("nested deeper"),
                "{}",
                error.problem().detail
            );
        }
        assert!(records(&"[".repeat(100_000)).is_err());
        assert!(check_value(r#"["]]]", "\"[[", {"a":"\\"}]"#).is_ok());
    }
}
