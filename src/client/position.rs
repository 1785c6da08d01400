//! Where a read begins, and where the next one goes on.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::types::{Offset, Timestamp};

/// Where a read begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Start {
    /// At the first record that is still there.
    #[default]
    Earliest,
    /// After the last record that is there now.
    Latest,
    /// At this offset (of one partition, or of each).
    Offset(Offset),
    /// At the first record of this time or later.
    Timestamp(Timestamp),
    /// Where an earlier read ended.
    Next(Next),
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Earliest => f.write_str("earliest"),
            Self::Latest => f.write_str("latest"),
            Self::Offset(offset) => offset.fmt(f),
            Self::Timestamp(time) => write!(f, "timestamp:{time}"),
            Self::Next(next) => next.fmt(f),
        }
    }
}

/// A text that names no position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no position: use earliest, latest, an offset, timestamp:MILLISECONDS or PARTITION:OFFSET,..."
)]
pub struct InvalidPosition(pub String);

impl FromStr for Start {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidPosition(text.to_owned());
        match text {
            "earliest" => return Ok(Self::Earliest),
            "latest" => return Ok(Self::Latest),
            _ => {}
        }
        if let Some(time) = text.strip_prefix("timestamp:") {
            return time
                .parse()
                .map(|ms| Self::Timestamp(Timestamp(ms)))
                .map_err(|_| invalid());
        }
        Ok(match text.parse::<Next>()? {
            Next::One(offset) => Self::Offset(offset),
            each => Self::Next(each),
        })
    }
}

/// Where a reader stands: what `next` of a page says, kept up to date record by record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// In the one partition that is read.
    One(Offset),
    /// In each partition of a topic.
    Each(BTreeMap<u32, Offset>),
}

impl Next {
    /// Takes note that the record at `offset` has been read.
    pub fn advance(&mut self, partition: u32, offset: u64) {
        let after = Offset(offset.saturating_add(1));
        match self {
            Self::One(next) => *next = after,
            Self::Each(next) => {
                next.insert(partition, after);
            }
        }
    }

    /// The offset that is due in `partition`; none if nothing is known of it.
    pub fn of(&self, partition: u32) -> Option<Offset> {
        match self {
            Self::One(next) => Some(*next),
            Self::Each(next) => next.get(&partition).copied(),
        }
    }
}

impl fmt::Display for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(offset) => offset.fmt(f),
            Self::Each(each) => {
                for (i, (partition, offset)) in each.iter().enumerate() {
                    let comma = if i == 0 { "" } else { "," };
                    write!(f, "{comma}{partition}:{offset}")?;
                }
                Ok(())
            }
        }
    }
}

impl FromStr for Next {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidPosition(text.to_owned());
        if !text.contains(':') {
            return text
                .parse()
                .map(|offset| Self::One(Offset(offset)))
                .map_err(|_| invalid());
        }
        let mut each = BTreeMap::new();
        for part in text.split(',') {
            let (partition, offset) = part.split_once(':').ok_or_else(invalid)?;
            let partition = partition.parse().map_err(|_| invalid())?;
            let offset = offset.parse().map_err(|_| invalid())?;
            if each.insert(partition, Offset(offset)).is_some() {
                return Err(invalid());
            }
        }
        Ok(Self::Each(each))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_position_reads_back_as_it_is_written() {
        for text in [
            "earliest",
            "latest",
            "17",
            "timestamp:1700000000000",
            "0:17,1:4",
            "3:0",
        ] {
            assert_eq!(text.parse::<Start>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_names_no_position_is_refused() {
        for bad in [
            "",
            "-1",
            "0:1,0:2",
            "0:",
            ":1",
            "0:1,",
            "timestamp:",
            "timestamp:now",
            "18446744073709551616",
            "newest",
        ] {
            assert_eq!(
                bad.parse::<Start>(),
                Err(InvalidPosition(bad.to_owned())),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn a_reader_stands_after_the_last_record_it_was_given() {
        let mut next: Next = "0:17,1:4".parse().unwrap();
        next.advance(1, 4);
        next.advance(2, 0);
        assert_eq!(next.to_string(), "0:17,1:5,2:1");
        assert_eq!(next.of(1), Some(Offset(5)));
        assert_eq!(next.of(9), None);
    }
}
