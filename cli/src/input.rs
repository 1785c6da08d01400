//! What people write on the command line: spans of time, sizes, pairs; and lines of input.

use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

fn number_and_unit(text: &str) -> Option<(f64, &str)> {
    let at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    // No sign, no exponent, no "inf": what `f64` takes beyond that means nothing here.
    Some((number.parse().ok()?, unit.trim()))
}

/// A span of time in milliseconds: `500ms`, `10s`, `5m`, `12h`, `7d`, or a plain number of ms.
pub(crate) fn span_ms(text: &str) -> Result<u64, String> {
    let invalid = || format!("{text:?} is no span of time; write 500ms, 10s, 5m, 12h or 7d");
    let (number, unit) = number_and_unit(text).ok_or_else(invalid)?;
    let factor = match unit {
        "" | "ms" => 1.0,
        "s" => 1e3,
        "m" | "min" => 60e3,
        "h" => 3_600e3,
        "d" => 86_400e3,
        "w" => 604_800e3,
        _ => return Err(invalid()),
    };
    let ms = number * factor;
    if 9e15 < ms {
        Err(invalid())
    } else {
        Ok(ms.round() as u64)
    }
}

/// A span of time.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    span_ms(text).map(Duration::from_millis)
}

/// A number of bytes: `512`, `64KiB`, `10GiB`, `500MB`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let invalid =
        || format!("{text:?} is no size; write a number of bytes, or 64KiB, 256MiB, 10GiB, 500MB");
    let (number, unit) = number_and_unit(text).ok_or_else(invalid)?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024.0 * 1024.0,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "t" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        _ => return Err(invalid()),
    };
    let bytes = number * factor;
    if 9e15 < bytes {
        Err(invalid())
    } else {
        Ok(bytes.round() as u64)
    }
}

/// `NAME=VALUE`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not of the form NAME=VALUE")),
    }
}

/// `/POINTER=JSON`; a value that is no JSON is taken as a text.
pub(crate) fn json_pair(text: &str) -> Result<(String, serde_json::Value), String> {
    match text.split_once('=') {
        Some((pointer, value)) if pointer.is_empty() || pointer.starts_with('/') => {
            let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
            Ok((pointer.to_owned(), value))
        }
        _ => Err(format!("{text:?} is not of the form /POINTER=VALUE")),
    }
}

/// Why a line could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    #[error("a line is longer than {0} bytes")]
    TooLong(usize),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Reads up to the end of a line into `line`, the line feed taken off and nothing else. False at
/// the end of the input. May be cancelled: what was read so far is then in `line`, and the next call
/// goes on from there.
pub(crate) async fn read_line(
    from: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
    max: usize,
) -> Result<bool, LineError> {
    loop {
        let ready = from.fill_buf().await?;
        if ready.is_empty() {
            return Ok(!line.is_empty());
        }
        let end = ready.iter().position(|&b| b == b'\n');
        let taken = end.unwrap_or(ready.len());
        if max < line.len() + taken {
            return Err(LineError::TooLong(max));
        }
        line.extend_from_slice(&ready[..taken]);
        from.consume(end.map_or(taken, |end| end + 1));
        if end.is_some() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes_are_taken_as_people_write_them() {
        for (text, ms) in [("250", 250), ("1.5s", 1500), ("7d", 604_800_000), ("0s", 0)] {
            assert_eq!(span_ms(text), Ok(ms));
        }
        for (text, bytes) in [
            ("512", 512),
            ("64KiB", 65_536),
            ("1.5 MiB", 1_572_864),
            ("500MB", 500_000_000),
        ] {
            assert_eq!(size(text), Ok(bytes));
        }
        for bad in [
            "",
            "s",
            "-1s",
            "1e9",
            "inf",
            "NaN",
            "10 parsecs",
            "99999999999999999999d",
            ".",
        ] {
            assert!(span_ms(bad).is_err(), "{bad}");
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn pairs_are_split_at_the_first_equals_sign() {
        assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(pair("=b").is_err() && pair("a").is_err());
        assert_eq!(json_pair("/a/b=7"), Ok(("/a/b".into(), 7.into())));
        assert_eq!(json_pair("/a=seven"), Ok(("/a".into(), "seven".into())));
        assert!(json_pair("a=7").is_err());
    }

    #[tokio::test]
    async fn lines_keep_every_byte_but_the_line_feed() {
        let mut input =
            tokio::io::BufReader::with_capacity(3, &b"a\r\n\n\xff\x00long line\nend"[..]);
        let mut lines = Vec::new();
        let mut line = Vec::new();
        while read_line(&mut input, &mut line, 100).await.unwrap() {
            lines.push(std::mem::take(&mut line));
        }
        assert_eq!(lines, [&b"a\r"[..], b"", b"\xff\x00long line", b"end"]);
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_an_error_and_not_memory() {
        let mut input = tokio::io::BufReader::new(&[b'x'; 100][..]);
        let error = read_line(&mut input, &mut Vec::new(), 10)
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "a line is longer than 10 bytes");
    }
}
