//! Records out of lines and values.

use bytes::Bytes;
use pilgrimage::record::{Format, InvalidRecord, Record, partition_for_key};

use crate::failure::Failure;

/// Makes records out of input.
#[derive(Debug)]
pub(super) struct Maker {
    pub(super) partitions: u32,
    pub(super) max_record_bytes: u32,
    pub(super) sticky: u32,
    pub(super) partition: Option<u32>,
    pub(super) key: Option<Bytes>,
    pub(super) separator: Option<Vec<u8>>,
    pub(super) headers: Vec<(String, Bytes)>,
    pub(super) json: bool,
}

impl Maker {
    pub(super) fn record(&self, line: Vec<u8>, number: u64) -> Result<(u32, Record), Failure> {
        let mut value = Bytes::from(line);
        let mut key = self.key.clone();
        if let Some(separator) = &self.separator {
            let at = value
                .windows(separator.len())
                .position(|part| part == separator.as_slice());
            let Some(at) = at else {
                let separator = String::from_utf8_lossy(separator).into_owned();
                return Err(Failure::failed(format!(
                    "line {number} has no key separator {separator:?}"
                )));
            };
            key = Some(value.split_to(at));
            value = value.slice(separator.len()..);
        }
        let format = match std::str::from_utf8(&value) {
            _ if self.json => Format::Json,
            Ok(_) => Format::Text,
            Err(_) => Format::Binary,
        };
        let record = Record {
            key,
            value: Some(value),
            format,
            headers: self.headers.clone(),
            timestamp: None,
        };
        let invalid = |error: InvalidRecord| Failure::failed(format!("record {number}: {error}"));
        record.check(self.max_record_bytes).map_err(invalid)?;
        let by_key = record
            .key
            .as_ref()
            .map(|key| partition_for_key(key, self.partitions));
        Ok((self.partition.or(by_key).unwrap_or(self.sticky), record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maker() -> Maker {
        Maker {
            partitions: 3,
            max_record_bytes: 100,
            sticky: 2,
            partition: None,
            key: None,
            separator: None,
            headers: Vec::new(),
            json: false,
        }
    }

    #[test]
    fn a_line_becomes_a_value_byte_for_byte() {
        for (line, format) in [
            (&b" a\r"[..], Format::Text),
            (b"\xff\x00", Format::Binary),
            (b"", Format::Text),
        ] {
            let (partition, record) = maker().record(line.to_vec(), 1).unwrap();
            let expected = Record {
                value: Some(line.to_vec().into()),
                format,
                ..Record::default()
            };
            assert_eq!((partition, record), (2, expected));
        }
    }

    #[test]
    fn a_separator_splits_once_and_the_key_chooses_the_partition() {
        let keyed = Maker {
            separator: Some(b"::".to_vec()),
            ..maker()
        };
        let (partition, record) = keyed.record(b"foobar::a::b".to_vec(), 1).unwrap();
        assert_eq!(record, Record::text("a::b").with_key("foobar"));
        assert_eq!(partition, partition_for_key(b"foobar", 3));
        assert_eq!(
            keyed.record(b"a:b".to_vec(), 7).unwrap_err().message,
            "line 7 has no key separator \"::\""
        );
    }

    #[test]
    fn a_record_that_the_topic_would_refuse_is_not_sent() {
        let error = maker().record(vec![b'x'; 101], 3).unwrap_err();
        assert!(
            error
                .message
                .starts_with("record 3: the record has 101 bytes"),
            "{}",
            error.message
        );
        let json = Maker {
            json: true,
            ..maker()
        };
        assert!(json.record(b"{".to_vec(), 1).is_err());
    }
}
