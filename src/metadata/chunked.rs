//! An ordered map that is cheap to clone and to change after it was cloned: a change copies one
//! chunk and the list of chunks, not the entries. With 10,000 entries that is a hundredth of what
//! copying a `BTreeMap` costs.

use std::sync::Arc;

/// A chunk of this size is cut in two when it gets one more entry.
const CHUNK: usize = 128;

/// Entries in the order of their keys. Invariant: no chunk is empty or longer than [`CHUNK`].
#[derive(Debug, Clone)]
pub(super) struct ChunkedMap<K, V> {
    chunks: Vec<Arc<Vec<(K, V)>>>,
    len: usize,
}

impl<K, V> Default for ChunkedMap<K, V> {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            len: 0,
        }
    }
}

/// How an entry is cut matters to nobody.
impl<K: PartialEq, V: PartialEq> PartialEq for ChunkedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.entries().eq(other.entries())
    }
}

impl<K: Eq, V: Eq> Eq for ChunkedMap<K, V> {}

impl<K, V> ChunkedMap<K, V> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// All keys with their values, in order.
    pub(super) fn entries(&self) -> impl DoubleEndedIterator<Item = &(K, V)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    /// All values, by key.
    pub(super) fn values(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.entries().map(|(_, value)| value)
    }
}

impl<K: Ord + Clone, V: Clone> ChunkedMap<K, V> {
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        let chunk = self.chunks.get(self.chunk_of(key)?)?;
        let at = chunk.binary_search_by(|(k, _)| k.cmp(key)).ok()?;
        chunk.get(at).map(|(_, value)| value)
    }

    pub(super) fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// The values whose keys come after `key`, in order.
    pub(super) fn values_after(&self, key: &K) -> impl DoubleEndedIterator<Item = &V> {
        let place = self.place_of(key, |k| k <= key);
        self.entries_at(place).map(|(_, value)| value)
    }

    /// The entries whose keys are `key` or come after it, in order.
    pub(super) fn entries_from<'a>(
        &'a self,
        key: &K,
    ) -> impl DoubleEndedIterator<Item = &'a (K, V)> + use<'a, K, V> {
        self.entries_at(self.place_of(key, |k| k < key))
    }

    /// The chunk in which `key` is or would be, and how many of its entries come before it.
    fn place_of(&self, key: &K, before: impl Fn(&K) -> bool) -> (usize, usize) {
        let first = self.chunk_of(key).unwrap_or(0);
        let chunk = self.chunks.get(first);
        let skipped = chunk.map_or(0, |chunk| chunk.partition_point(|(k, _)| before(k)));
        (first, skipped)
    }

    fn entries_at(
        &self,
        (first, skipped): (usize, usize),
    ) -> impl DoubleEndedIterator<Item = &(K, V)> {
        let rest = self.chunks.get(first..).unwrap_or_default();
        rest.iter().enumerate().flat_map(move |(n, chunk)| {
            let from = if n == 0 { skipped } else { 0 };
            chunk.iter().skip(from)
        })
    }

    /// Puts a value; returns the one that was there.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let Some(index) = self.chunk_of(&key) else {
            self.chunks.push(Arc::new(vec![(key, value)]));
            self.len += 1;
            return None;
        };
        let chunk = Arc::make_mut(&mut self.chunks[index]);
        match chunk.binary_search_by(|(k, _)| k.cmp(&key)) {
            Ok(at) => return Some(std::mem::replace(&mut chunk[at].1, value)),
            Err(at) => {
                chunk.insert(at, (key, value));
                self.len += 1;
                if CHUNK < chunk.len() {
                    let upper = chunk.split_off(chunk.len() / 2);
                    self.chunks.insert(index + 1, Arc::new(upper));
                }
            }
        }
        None
    }

    /// Takes a value out.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let index = self.chunk_of(key)?;
        let found = self.chunks[index].binary_search_by(|(k, _)| k.cmp(key));
        let at = found.ok()?;
        let chunk = Arc::make_mut(&mut self.chunks[index]);
        let (_, value) = chunk.remove(at);
        self.len -= 1;
        if chunk.is_empty() {
            self.chunks.remove(index);
        }
        Some(value)
    }

    /// The chunk in which `key` is, or would be put; none in an empty map.
    fn chunk_of(&self, key: &K) -> Option<usize> {
        let after = self
            .chunks
            .partition_point(|chunk| chunk.first().is_some_and(|(first, _)| first <= key));
        if self.chunks.is_empty() {
            return None;
        }
        Some(after.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn it_is_an_ordered_map_and_its_clones_stay_as_they_were(
            changes in prop::collection::vec((0..600u32, prop::option::weighted(0.7, 0..9u8)), 0..2000),
            probe in 0..600u32,
        ) {
            let mut map = ChunkedMap::default();
            let mut model = BTreeMap::new();
            let mut kept = None;
            for (n, (key, value)) in changes.iter().enumerate() {
                match value {
                    Some(value) => {
                        prop_assert_eq!(map.insert(*key, *value), model.insert(*key, *value));
                    }
                    None => {
                        prop_assert_eq!(map.remove(key), model.remove(key));
                    }
                }
                if n == changes.len() / 2 {
                    kept = Some((map.clone(), model.clone()));
                }
            }
            for (map, model) in kept.iter().chain([&(map, model)]) {
                prop_assert!(map.values().eq(model.values()));
                prop_assert!(map.values().rev().eq(model.values().rev()));
                prop_assert!(map.values_after(&probe).eq(model.range(probe + 1..).map(|(_, v)| v)));
                prop_assert!(map.entries_from(&probe).map(|(k, v)| (k, v)).eq(model.range(probe..)));
                prop_assert_eq!(map.get(&probe), model.get(&probe));
                prop_assert_eq!(map.len(), model.len());
                prop_assert!(map.chunks.iter().all(|chunk| (1..=CHUNK).contains(&chunk.len())));
            }
        }
    }

    #[test]
    fn maps_with_the_same_entries_are_equal_however_they_came_about() {
        let (mut up, mut down) = (ChunkedMap::default(), ChunkedMap::default());
        for n in 0..1000 {
            up.insert(n, n);
            down.insert(999 - n, 999 - n);
        }
        assert_eq!(up, down);
        down.insert(0, 1);
        assert_ne!(up, down);
    }

    #[test]
    fn a_change_after_a_clone_copies_one_chunk() {
        let mut map = ChunkedMap::default();
        for n in 0..10_000 {
            map.insert(n, n);
        }
        let before = map.clone();
        map.insert(10_000, 10_000);
        map.remove(&17);
        let shared = |chunk| before.chunks.iter().any(|other| Arc::ptr_eq(chunk, other));
        let copied = map.chunks.iter().filter(|chunk| !shared(chunk)).count();
        assert_eq!(copied, 2);
    }
}
