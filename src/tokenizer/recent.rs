//! A memory of whole documents: a retriever finds the same chunks again and again.
//!
//! Documents are known by their SHA-256, so that the memory holds tokens and no texts, and nobody can make one document pass for
//! another. Which are kept is `quick_cache`'s affair (S3-FIFO: what is seen once does not drive out what recurs).

use std::sync::Arc;

use quick_cache::{Weighter, sync::Cache};
use sha2::{Digest as _, Sha256};

use super::Tokens;

type Key = [u8; 32];

/// Tokens of recent documents, within a number of bytes.
pub(super) struct Recent(Cache<Key, Arc<[u32]>, Bytes>);

#[derive(Clone)]
struct Bytes;

impl Weighter<Key, Arc<[u32]>> for Bytes {
    fn weight(&self, _: &Key, tokens: &Arc<[u32]>) -> u64 {
        /// The key, the cache's own bookkeeping and the head of the allocation, rounded up.
        const ENTRY: usize = 128;
        (size_of_val(&**tokens) + ENTRY) as u64
    }
}

impl Recent {
    /// Room for so many bytes of tokens and keys.
    pub(super) fn new(bytes: usize) -> Self {
        /// What a chunk of 100 tokens weighs.
        const TYPICAL: usize = 528;
        Self(Cache::with_weighter(bytes / TYPICAL, bytes as u64, Bytes))
    }

    /// The tokens of a document, from memory or read now.
    ///
    /// # Errors
    /// What reading it gives.
    pub(super) fn get_or_read<E>(
        &self,
        text: &str,
        read: impl FnOnce() -> Result<Tokens, E>,
    ) -> Result<Tokens, E> {
        let key = Sha256::digest(text).into();
        if let Some(tokens) = self.0.get(&key) {
            return Ok(tokens.to_vec());
        }
        let tokens = read()?;
        self.0.insert(key, tokens.as_slice().into());
        Ok(tokens)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn get(recent: &Recent, text: &str, tokens: &[u32]) -> (Tokens, bool) {
        let mut was_read = false;
        let read = || {
            was_read = true;
            Ok::<_, Infallible>(tokens.to_vec())
        };
        let Ok(found) = recent.get_or_read(text, read);
        (found, was_read)
    }

    #[test]
    fn a_document_is_read_once() {
        let recent = Recent::new(1_000_000);
        assert_eq!(get(&recent, "a", &[1, 2]), (vec![1, 2], true));
        assert_eq!(get(&recent, "a", &[9]), (vec![1, 2], false));
        assert_eq!(get(&recent, "b", &[]), (vec![], true));
        assert_eq!(get(&recent, "b", &[9]), (vec![], false));
    }

    #[test]
    fn an_error_is_not_remembered() {
        let recent = Recent::new(1_000_000);
        assert_eq!(recent.get_or_read("a", || Err("no")), Err("no"));
        assert_eq!(get(&recent, "a", &[1]), (vec![1], true));
    }

    #[test]
    fn it_stays_within_its_bytes_and_keeps_what_recurs() {
        let recent = Recent::new(100_000);
        let tokens = [7u32; 100];
        for i in 0..5000 {
            get(&recent, &format!("once {i}"), &tokens);
            get(&recent, "often", &tokens);
        }
        assert!(recent.0.weight() <= 100_000, "{}", recent.0.weight());
        assert!(recent.0.len() > 50, "{}", recent.0.len());
        assert!(!get(&recent, "often", &tokens).1);
    }

    #[test]
    fn a_document_that_is_too_large_is_read_every_time() {
        let recent = Recent::new(1000);
        let tokens = vec![1; 10_000];
        assert!(get(&recent, "a", &tokens).1 && get(&recent, "a", &tokens).1);
    }
}
