//! The logits that this process remembers.

use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

use super::key::Key;

/// The most recent and most asked for of the logits, within a number of bytes. Which are kept is
/// `quick_cache`'s affair (S3-FIFO: what is seen once does not drive out what recurs).
pub(super) struct Memory {
    entries: Cache<Key, Entry>,
    ttl: Duration,
    origin: Instant,
}

#[derive(Clone, Copy)]
struct Entry {
    logit: f32,
    /// Whole seconds from the origin until it was kept.
    kept: u32,
}

impl Memory {
    /// What an entry takes, with the cache's own bookkeeping: a test compares it with what full
    /// caches take.
    const ENTRY_BYTES: usize = 112;

    /// Room for so many bytes. They are taken as they are needed.
    pub(super) fn new(bytes: usize, ttl: Duration) -> Self {
        Self {
            entries: Cache::new(bytes / Self::ENTRY_BYTES),
            ttl,
            origin: Instant::now(),
        }
    }

    pub(super) fn get(&self, key: &Key) -> Option<f32> {
        let entry = self.entries.get(key)?;
        let kept = self.origin + Duration::from_secs(entry.kept.into());
        if kept.elapsed() < self.ttl {
            return Some(entry.logit);
        }
        self.entries.remove(key);
        None
    }

    pub(super) fn insert(&self, key: Key, logit: f32) {
        let kept = self.origin.elapsed().as_secs();
        let kept = u32::try_from(kept).unwrap_or(u32::MAX); // 136 years
        self.entries.insert(key, Entry { logit, kept });
    }

    /// How many entries there are, and the bytes that they take.
    pub(super) fn size(&self) -> (i64, i64) {
        let entries = self.entries.len();
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        (count(entries), count(self.entries.memory_used().total()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::key::Keys;

    #[test]
    fn a_full_memory_stays_within_its_bytes() {
        let keys = Keys::random();
        // Tables double: what an entry takes depends on how full the last doubling is.
        for bytes in (1..=8).map(|step| step * 500_000) {
            let memory = Memory::new(bytes, Duration::from_hours(1));
            assert!(memory.size().1 < 100_000, "it starts small");
            for token in 0..100_000 {
                memory.insert(keys.key(&[token]), 1.5);
            }
            let (entries, taken) = memory.size();
            let taken = usize::try_from(taken).unwrap();
            assert!(
                (bytes / 3..=bytes).contains(&taken),
                "{taken} of {bytes} for {entries}"
            );
        }
    }

    #[test]
    fn a_logit_is_forgotten_after_its_time() {
        let key = Keys::random().key(&[1]);
        let mut memory = Memory::new(1_000_000, Duration::from_mins(1));
        memory.insert(key, -2.25);
        assert_eq!(memory.get(&key), Some(-2.25));
        memory.ttl = Duration::ZERO;
        assert_eq!(memory.get(&key), None);
        assert_eq!(memory.size().0, 0);
    }
}
