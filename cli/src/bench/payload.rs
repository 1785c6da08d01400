//! What the benchmark writes, and how it knows that it reads the same.

use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;

/// Letters of the filler: no byte that JSON would have to escape.
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// Length of the stretch that filler is cut from.
const POOL: usize = 64 * 1024;
/// Length of the number that makes every value different.
const NUMBER: usize = 16;

/// Makes values: the record's number, then letters that do not repeat within a batch.
#[derive(Debug, Clone)]
pub(crate) struct Values {
    pool: Bytes,
    size: usize,
}

impl Values {
    pub(crate) fn new(size: usize) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let pool = (0..POOL + size)
            .map(|_| {
                state = mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15));
                LETTERS[(state & 63) as usize]
            })
            .collect();
        Self { pool, size }
    }

    /// Appends the value of record `number`.
    pub(crate) fn put(&self, number: u64, to: &mut Vec<u8>) {
        let mut digits = [0; NUMBER];
        for (i, digit) in digits.iter_mut().rev().enumerate() {
            *digit = b"0123456789abcdef"[(number >> (4 * i) & 15) as usize];
        }
        // Of a value too short for the whole number, the last digits differ the longest.
        let head = self.size.min(NUMBER);
        to.extend_from_slice(&digits[NUMBER - head..]);
        let from = (number.wrapping_mul(7919) % POOL as u64) as usize;
        to.extend_from_slice(&self.pool[from..from + self.size - head]);
    }

    /// The value of record `number`.
    pub(crate) fn get(&self, number: u64) -> Vec<u8> {
        let mut value = Vec::with_capacity(self.size);
        self.put(number, &mut value);
        value
    }
}

/// The number at the front of a value.
pub(crate) fn number_of(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value.get(..NUMBER)?).ok()?;
    u64::from_str_radix(digits, 16).ok()
}

/// The finishing steps of splitmix64: every bit of the answer depends on every bit of `x`.
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Hashes values under a key that is made anew for each run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hasher(RandomState);

impl Hasher {
    pub(crate) fn value(&self, value: &[u8]) -> u64 {
        self.0.hash_one(value)
    }
}

/// What a partition holds, in a form that does not depend on the order in which it was learnt:
/// connections write side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sum {
    pub(crate) records: u64,
    /// Sum of the values' hashes.
    values: u128,
    /// Sum of the hashes of each value *at its offset*; none where answers do not say offsets.
    places: u128,
}

impl Sum {
    /// Takes in a value. Without an offset only values can be compared.
    pub(crate) fn add(&mut self, hash: u64, offset: Option<u64>) {
        self.records += 1;
        self.values = self.values.wrapping_add(hash.into());
        if let Some(offset) = offset {
            self.places = self
                .places
                .wrapping_add(mix(hash ^ mix(offset.wrapping_add(1))).into());
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.records += other.records;
        self.values = self.values.wrapping_add(other.values);
        self.places = self.places.wrapping_add(other.places);
    }

    /// Whether what was read is what was written.
    pub(crate) fn equals(&self, read: &Self, with_places: bool) -> bool {
        let places = !with_places || self.places == read.places;
        self.records == read.records && self.values == read.values && places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_different_has_its_size_and_knows_its_number() {
        for size in [1, 15, 16, 17, 100, 70_000] {
            let values = Values::new(size);
            assert_eq!(values.get(5).len(), size);
            assert_ne!(values.get(5), values.get(6), "size {size}");
            assert_eq!(number_of(&values.get(5)), (NUMBER <= size).then_some(5));
        }
        let far = Values::new(100);
        assert_eq!(number_of(&far.get(u64::MAX)), Some(u64::MAX));
    }

    #[test]
    fn a_sum_sees_every_kind_of_wrong_answer() {
        let (hasher, values) = (Hasher::default(), Values::new(100));
        let sum = |records: &[(u64, u64)]| {
            let mut sum = Sum::default();
            for &(number, offset) in records {
                sum.add(hasher.value(&values.get(number)), Some(offset));
            }
            sum
        };
        let written = sum(&[(0, 0), (1, 1), (2, 2)]);
        assert!(
            written.equals(&sum(&[(2, 2), (0, 0), (1, 1)]), true),
            "order of learning must not matter"
        );
        for (wrong, what) in [
            (sum(&[(0, 0), (1, 1)]), "lost"),
            (sum(&[(0, 0), (1, 1), (1, 1)]), "one twice, one lost"),
            (sum(&[(0, 0), (1, 1), (2, 2), (2, 3)]), "twice"),
            (sum(&[(0, 0), (1, 1), (3, 2)]), "another value"),
        ] {
            assert!(!written.equals(&wrong, false), "{what}");
        }
        let swapped = sum(&[(0, 1), (1, 0), (2, 2)]);
        assert!(!written.equals(&swapped, true) && written.equals(&swapped, false));
    }
}
