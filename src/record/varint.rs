//! LEB128 variable-length integers, zigzag for signed ones.

use bytes::BufMut;

pub(super) fn put(to: &mut impl BufMut, mut value: u64) {
    while 0x80 <= value {
        to.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    to.put_u8(value as u8);
}

pub(super) fn put_signed(to: &mut impl BufMut, value: i64) {
    put(to, ((value << 1) ^ (value >> 63)) as u64);
}

/// Takes one integer off the front of `from`. `None`: cut short, or longer than 64 bits.
pub(super) fn take(from: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = from.split_first()?;
        *from = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && 1 < bits {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

pub(super) fn take_signed(from: &mut &[u8]) -> Option<i64> {
    let raw = take(from)?;
    Some((raw >> 1) as i64 ^ -((raw & 1) as i64))
}

/// A length that must fit what is left, as a slice of it.
pub(super) fn take_bytes<'a>(from: &mut &'a [u8], len: u64) -> Option<&'a [u8]> {
    let (bytes, rest) = from.split_at_checked(usize::try_from(len).ok()?)?;
    *from = rest;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_integer_comes_back_and_no_prefix_is_taken_for_it(value: i64) {
            let mut bytes = Vec::new();
            put_signed(&mut bytes, value);
            proptest::prop_assert_eq!(take_signed(&mut bytes.as_slice()), Some(value));
            for cut in 0..bytes.len() {
                proptest::prop_assert_eq!(take_signed(&mut &bytes[..cut]), None);
            }
        }
    }

    #[test]
    fn more_than_64_bits_are_refused() {
        assert_eq!(
            take(
                &mut [0xff; 9]
                    .iter()
                    .copied()
                    .chain([0x02])
                    .collect::<Vec<_>>()
                    .as_slice()
            ),
            None
        );
        assert_eq!(take(&mut [0xff; 11].as_slice()), None);
    }
}
