//! JSON out: records written straight from their batches into the answer's bytes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::record::{Format, RecordRef};
use crate::types::Partition;

/// Writes `value`, which cannot fail to be JSON (numbers, texts).
fn put<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    // Writing into memory does not fail.
    let _ = serde_json::to_writer(out, value);
}

fn put_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    let room = base64::encoded_len(bytes.len(), true).unwrap_or(0);
    out.resize(start + room, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).unwrap_or(0);
    out.truncate(start + written);
}

/// Whether an answer has one record per line, so that none may contain a line break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// JSON values exactly as they were written.
    Verbatim,
    /// The same, with line breaks between their parts written as spaces.
    OneLine,
}

/// Writes a record as `api::v1::Record`.
pub(super) fn put_record(
    out: &mut Vec<u8>,
    partition: Partition,
    record: &RecordRef<'_>,
    layout: Layout,
) {
    out.extend_from_slice(b"{\"partition\":");
    put(out, &partition.0);
    out.extend_from_slice(b",\"offset\":");
    put(out, &record.offset.0);
    out.extend_from_slice(b",\"timestamp\":");
    put(out, &record.timestamp.0);
    match record.key.map(|key| (key, std::str::from_utf8(key))) {
        None => {}
        Some((_, Ok(key))) => {
            out.extend_from_slice(b",\"key\":");
            put(out, key);
        }
        Some((key, Err(_))) => {
            out.extend_from_slice(b",\"key_base64\":\"");
            put_base64(out, key);
            out.push(b'"');
        }
    }
    put_value(out, record, layout);
    put_headers(out, record);
    out.push(b'}');
}

fn put_value(out: &mut Vec<u8>, record: &RecordRef<'_>, layout: Layout) {
    let Some(value) = record.value else {
        out.extend_from_slice(b",\"value\":null");
        return;
    };
    match (record.format, std::str::from_utf8(value)) {
        (Format::Json, Ok(_)) => {
            out.extend_from_slice(b",\"value\":");
            let start = out.len();
            out.extend_from_slice(value);
            if layout == Layout::OneLine {
                // Inside JSON texts line breaks are always escaped: these stand between its parts.
                for byte in &mut out[start..] {
                    if matches!(byte, b'\n' | b'\r') {
                        *byte = b' ';
                    }
                }
            }
        }
        (Format::Text, Ok(text)) => {
            out.extend_from_slice(b",\"value\":");
            put(out, text);
        }
        (Format::Binary, _) | (_, Err(_)) => {
            out.extend_from_slice(b",\"value_base64\":\"");
            put_base64(out, value);
            out.push(b'"');
        }
    }
}

fn put_headers(out: &mut Vec<u8>, record: &RecordRef<'_>) {
    if record.header_count() == 0 {
        return;
    }
    out.extend_from_slice(b",\"headers\":[");
    for (index, (name, value)) in record.headers().enumerate() {
        if index != 0 {
            out.push(b',');
        }
        out.push(b'[');
        match std::str::from_utf8(value) {
            Ok(value) => {
                put(out, name);
                out.push(b',');
                put(out, value);
            }
            Err(_) => {
                put(out, &format!("{name};base64"));
                out.extend_from_slice(b",\"base64:");
                put_base64(out, value);
                out.push(b'"');
            }
        }
        out.push(b']');
    }
    out.push(b']');
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::record::{BatchBuilder, Codec, Producer, Record};
    use crate::types::Timestamp;

    fn rendered(record: &Record, layout: Layout) -> String {
        let mut builder = BatchBuilder::default();
        builder.push(record, Timestamp(17));
        let batch = builder.build(Codec::None, Producer::default()).unwrap();
        let unpacked = batch.unpack().unwrap();
        let mut out = Vec::new();
        let record = unpacked.records().next().unwrap().unwrap();
        put_record(&mut out, Partition(4), &record, layout);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_came_in_as_text_json_or_bytes_goes_out_as_such() {
        let json = Record {
            value: Some(Bytes::from("{\n \"a\" : 1}")),
            format: Format::Json,
            ..Record::default()
        };
        for (record, layout, wanted) in [
            (
                Record::text("a\n\"é"),
                Layout::Verbatim,
                r#","value":"a\n\"é"}"#,
            ),
            (
                Record::binary("raw"),
                Layout::Verbatim,
                r#","value_base64":"cmF3"}"#,
            ),
            (Record::default(), Layout::Verbatim, r#","value":null}"#),
            (json.clone(), Layout::Verbatim, ",\"value\":{\n \"a\" : 1}}"),
            (json, Layout::OneLine, r#","value":{  "a" : 1}}"#),
            (
                Record::default().with_key("k"),
                Layout::Verbatim,
                r#","key":"k","value":null}"#,
            ),
            (
                Record::default().with_key(&b"\xff"[..]),
                Layout::Verbatim,
                r#","key_base64":"/w==","value":null}"#,
            ),
            (
                Record::default()
                    .with_header("h", "v")
                    .with_header("h", &b"\xff"[..]),
                Layout::Verbatim,
                r#","value":null,"headers":[["h","v"],["h;base64","base64:/w=="]]}"#,
            ),
        ] {
            let wanted = format!(r#"{{"partition":4,"offset":0,"timestamp":17{wanted}"#);
            assert_eq!(rendered(&record, layout), wanted);
            serde_json::from_str::<crate::api::v1::Record>(&wanted).unwrap();
        }
    }
}
