//! `Content-Encoding` of request bodies: gzip and zstd, decoded piece by piece under bounds that a
//! decompression bomb runs into long before it fills memory.

use std::io::Write;

use axum::http::{HeaderMap, header};
use bytes::{Buf, Bytes, BytesMut};
use flate2::write::MultiGzDecoder;
use zstd::stream::raw::{DParameter, Operation};

use super::error::ApiError;
use crate::types::Code;

/// Bytes that a body may unpack to whatever its packed size.
const FREE_BYTES: u64 = 1024 * 1024;
/// Bytes that each packed byte may unpack to beyond that.
const RATIO: u64 = 100;
/// Unpacked bytes that are held at once for zstd.
const PIECE: usize = 64 * 1024;
/// Packed bytes that gzip is given at once: deflate unpacks a byte to at most 1032.
const GZIP_STEP: usize = 512;
/// Largest zstd window: 8 MiB, what every decoder must support.
const WINDOW_LOG_MAX: u32 = 23;

/// A body's encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

impl Encoding {
    /// What `Content-Encoding` says; one encoding, not several on top of each other.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
        let Some(value) = values.next() else {
            return Ok(Self::Identity);
        };
        let name = value.to_str().unwrap_or_default().trim();
        for (known, encoding) in [
            ("identity", Self::Identity),
            ("gzip", Self::Gzip),
            ("x-gzip", Self::Gzip),
            ("zstd", Self::Zstd),
        ] {
            if name.eq_ignore_ascii_case(known) && values.next().is_none() {
                return Ok(encoding);
            }
        }
        Err(ApiError::new(
            Code::UnsupportedMediaType,
            "the request body's Content-Encoding is not supported; use gzip, zstd or none",
        ))
    }
}

enum Codec {
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    Zstd {
        raw: Box<zstd::stream::raw::Decoder<'static>>,
        /// Whether the last step ended a frame.
        between_frames: bool,
        /// Whether the last step filled its buffer: there may be more without further input.
        more: bool,
    },
}

/// Unpacks what it is fed, a bounded piece at a time.
pub(super) struct Decoder {
    codec: Codec,
    packed: Bytes,
    taken_in: u64,
    given_out: u64,
}

impl Decoder {
    pub(super) fn new(encoding: Encoding) -> Result<Self, ApiError> {
        let codec = if encoding == Encoding::Zstd {
            let broken = |_| ApiError::new(Code::Internal, "zstd could not be set up");
            let mut raw = zstd::stream::raw::Decoder::new().map_err(broken)?;
            raw.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))
                .map_err(broken)?;
            Codec::Zstd {
                raw: Box::new(raw),
                between_frames: true,
                more: false,
            }
        } else {
            Codec::Gzip(Box::new(MultiGzDecoder::new(Vec::new())))
        };
        Ok(Self {
            codec,
            packed: Bytes::new(),
            taken_in: 0,
            given_out: 0,
        })
    }

    /// Takes packed bytes; the ones before must have been unpacked.
    pub(super) fn feed(&mut self, packed: Bytes) {
        debug_assert!(self.packed.is_empty());
        self.packed = packed;
    }

    /// Unpacks the next piece; none when it must be fed first.
    pub(super) fn next_piece(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            let piece = match &mut self.codec {
                Codec::Gzip(gzip) => {
                    if self.packed.is_empty() {
                        return Ok(None);
                    }
                    let step = &self.packed[..self.packed.len().min(GZIP_STEP)];
                    let taken = gzip.write(step).map_err(|_| damaged("gzip"))?;
                    if taken == 0 {
                        return Err(damaged("gzip"));
                    }
                    gzip.flush().map_err(|_| damaged("gzip"))?;
                    self.packed.advance(taken);
                    self.taken_in += taken as u64;
                    Bytes::from(std::mem::take(gzip.get_mut()))
                }
                Codec::Zstd {
                    raw,
                    between_frames,
                    more,
                } => {
                    if self.packed.is_empty() && !*more {
                        return Ok(None);
                    }
                    let mut out = BytesMut::zeroed(PIECE);
                    let status = raw
                        .run_on_buffers(&self.packed, &mut out)
                        .map_err(|_| damaged("zstd"))?;
                    *between_frames = status.remaining == 0;
                    *more = status.bytes_written == PIECE;
                    if status.bytes_read == 0
                        && status.bytes_written == 0
                        && !self.packed.is_empty()
                    {
                        return Err(damaged("zstd"));
                    }
                    self.packed.advance(status.bytes_read);
                    self.taken_in += status.bytes_read as u64;
                    out.truncate(status.bytes_written);
                    out.freeze()
                }
            };
            self.given_out += piece.len() as u64;
            if FREE_BYTES + RATIO * self.taken_in < self.given_out {
                return Err(ApiError::new(
                    Code::TooLarge,
                    format!("the request body unpacks to more than {RATIO} times its size"),
                ));
            }
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
    }

    /// Whether what was fed is a whole body.
    pub(super) fn check_complete(&mut self) -> Result<(), ApiError> {
        match &mut self.codec {
            Codec::Gzip(gzip) => gzip.try_finish().map_err(|_| damaged("gzip")),
            Codec::Zstd {
                between_frames: true,
                ..
            } => Ok(()),
            Codec::Zstd { .. } => Err(damaged("zstd")),
        }
    }
}

fn damaged(what: &str) -> ApiError {
    ApiError::new(
        Code::InvalidBody,
        format!("the request body is not whole, valid {what}"),
    )
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        flate2::bufread::GzEncoder::new(bytes, flate2::Compression::best())
            .read_to_end(&mut packed)
            .unwrap();
        packed
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(bytes, 19).unwrap()
    }

    fn unpack(encoding: Encoding, packed: &[u8], step: usize) -> Result<Vec<u8>, ApiError> {
        let mut decoder = Decoder::new(encoding)?;
        let mut out = Vec::new();
        for part in packed.chunks(step) {
            decoder.feed(Bytes::copy_from_slice(part));
            while let Some(piece) = decoder.next_piece()? {
                out.extend_from_slice(&piece);
            }
        }
        decoder.check_complete()?;
        Ok(out)
    }

    fn text() -> Vec<u8> {
        (0..20_000u32)
            .flat_map(|i| (i.wrapping_mul(2_654_435_761)).to_string().into_bytes())
            .collect()
    }

    #[test]
    fn whatever_way_it_is_cut_a_packed_body_comes_out_whole() {
        let text = text();
        for (encoding, mut packed) in [(Encoding::Gzip, gzip(&text)), (Encoding::Zstd, zstd(&text))]
        {
            for step in [1, 7, 1000, usize::MAX >> 1] {
                assert_eq!(
                    unpack(encoding, &packed, step).unwrap(),
                    text,
                    "{encoding:?} by {step}"
                );
            }
            packed.extend_from_within(..);
            assert_eq!(
                unpack(encoding, &packed, 1000).unwrap(),
                [text.clone(), text.clone()].concat()
            );
        }
    }

    #[test]
    fn half_a_body_and_a_damaged_one_are_refused() {
        let text = text();
        for (encoding, packed) in [(Encoding::Gzip, gzip(&text)), (Encoding::Zstd, zstd(&text))] {
            for cut in [1, 9, packed.len() / 2, packed.len() - 1] {
                let error = unpack(encoding, &packed[..cut], 1000).unwrap_err();
                assert_eq!(error.code(), Code::InvalidBody, "{encoding:?} cut to {cut}");
            }
            assert_eq!(
                unpack(encoding, b"not packed at all", 5)
                    .unwrap_err()
                    .code(),
                Code::InvalidBody
            );
        }
    }

    #[test]
    fn a_bomb_is_refused_after_little_of_it() {
        let zeros = vec![0; 64 << 20];
        for (encoding, packed) in [
            (Encoding::Gzip, gzip(&zeros)),
            (Encoding::Zstd, zstd(&zeros)),
        ] {
            let mut decoder = Decoder::new(encoding).unwrap();
            decoder.feed(packed.into());
            let mut held = 0;
            let error = loop {
                match decoder.next_piece() {
                    Ok(Some(piece)) => held = held.max(piece.len()),
                    Ok(None) => panic!("{encoding:?} let the bomb through"),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.code(), Code::TooLarge);
            assert!(
                held < 1 << 20 && decoder.given_out < 16 << 20,
                "{encoding:?}"
            );
        }
    }

    #[test]
    fn encodings_on_top_of_each_other_and_unknown_ones_are_refused() {
        for (value, expected) in [
            ("gzip", Some(Encoding::Gzip)),
            ("ZSTD", Some(Encoding::Zstd)),
            ("identity", Some(Encoding::Identity)),
            ("gzip, gzip", None),
            ("br", None),
            ("deflate", None),
        ] {
            let headers =
                HeaderMap::from_iter([(header::CONTENT_ENCODING, value.parse().unwrap())]);
            assert_eq!(Encoding::of(&headers).ok(), expected, "{value}");
        }
    }
}
