//! A memory of words: most words of a text have been tokenised before.

use std::{
    collections::HashMap,
    mem,
    sync::{PoisonError, RwLock},
};

/// Bytes of the longest words that are remembered.
pub(super) const MAX_WORD: usize = 48;

/// Tokens of those words that are remembered with the most: a character may be many tokens.
const MAX_TOKENS: usize = 24;

/// Words in a generation of a shard; with all shards and both generations 131,072 words: some 15
/// MB, or 32 MB of the worst ones.
const GENERATION: usize = 4096;

/// Enough that threads seldom meet in one.
const SHARDS: usize = 16;

/// What is known of words so far.
#[derive(Default)]
pub(super) struct Words {
    shards: [RwLock<Shard>; SHARDS],
}

/// Two generations: when the young one is full, the old one is forgotten and the young one grows
/// old.
#[derive(Default)]
struct Shard {
    young: Generation,
    old: Generation,
}

type Generation = HashMap<Box<str>, Word>;

/// The tokens of a word, or none if it cannot stand alone.
type Word = Option<Box<[u32]>>;

impl Words {
    /// Appends the tokens of a word of at most [`MAX_WORD`] bytes, from memory or read now; tells
    /// whether it can stand alone.
    #[inline]
    pub(super) fn append(
        &self,
        word: &str,
        tokens: &mut Vec<u32>,
        read: impl FnOnce() -> Word,
    ) -> bool {
        let shard = &self.shards[shard_of(word)];
        {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = shard.young.get(word).or_else(|| shard.old.get(word)) {
                return extend(tokens, known);
            }
        }
        let new = read();
        let stands_alone = extend(tokens, &new);
        if new.as_ref().is_none_or(|tokens| tokens.len() <= MAX_TOKENS) {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            let forgotten = shard.insert(word, new);
            drop(shard);
            drop(forgotten); // thousands of words, which nobody needs to wait for
        }
        stands_alone
    }
}

/// The shard of a word. This hash only spreads the words; the maps have one of their own.
fn shard_of(word: &str) -> usize {
    let bytes = word.bytes().map(usize::from);
    bytes.fold(0, |sum: usize, byte| {
        sum.wrapping_mul(31).wrapping_add(byte)
    }) % SHARDS
}

impl Shard {
    /// Remembers a word and returns what is forgotten for it.
    fn insert(&mut self, word: &str, tokens: Word) -> Option<Generation> {
        let is_full = self.young.len() >= GENERATION;
        let forgotten = is_full.then(|| {
            let new = Generation::with_capacity(GENERATION);
            mem::replace(&mut self.old, mem::replace(&mut self.young, new))
        });
        self.young.insert(word.into(), tokens);
        forgotten
    }
}

fn extend(tokens: &mut Vec<u32>, word: &Word) -> bool {
    if let Some(word) = word {
        tokens.extend_from_slice(word);
    }
    word.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_is_bounded() {
        let mut shard = Shard::default();
        for n in 0..=3 * GENERATION {
            shard.insert(&n.to_string(), None);
        }
        assert!(shard.young.len() + shard.old.len() <= 2 * GENERATION);
        assert!(
            shard
                .young
                .contains_key((3 * GENERATION).to_string().as_str())
        );
    }
}
