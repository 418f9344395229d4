//! A memory of whole documents: a retriever finds the same chunks again and again.
//!
//! Documents are known by their SHA-256, so that the memory holds tokens and no texts, and nobody
//! can make one document pass for another. Of a document that is truncated the memory holds the
//! tokens of one end, and serves who needs no more of them. Which are kept is `quick_cache`'s
//! affair (S3-FIFO: what is seen once does not drive out what recurs).

use std::sync::Arc;

use quick_cache::{Weighter, sync::Cache};
use sha2::{Digest as _, Sha256};

use super::tokens::{Extent, Side, Tokens};

/// Bytes of the longest texts that are remembered. To read the beginning of a longer one again
/// costs no more than its digest.
const MAX_TEXT: usize = 16 * 1024;

/// The digest of the text, and the end that is cut off.
type Key = ([u8; 32], Side);

/// Tokens of recent documents, within a number of bytes.
pub(super) struct Recent(Cache<Key, Arc<Tokens>, Bytes>);

#[derive(Clone)]
struct Bytes;

impl Weighter<Key, Arc<Tokens>> for Bytes {
    fn weight(&self, _: &Key, tokens: &Arc<Tokens>) -> u64 {
        /// The key, the cache's own bookkeeping and the heads of the allocations, rounded up.
        const ENTRY: usize = 192;
        (size_of_val(&*tokens.ids) + ENTRY) as u64
    }
}

impl Recent {
    /// Room for so many bytes of tokens and keys.
    pub(super) fn new(bytes: usize) -> Self {
        /// What a chunk of 100 tokens weighs.
        const TYPICAL: usize = 592;
        Self(Cache::with_weighter(bytes / TYPICAL, bytes as u64, Bytes))
    }

    /// The tokens of a document, from memory or read now.
    ///
    /// # Errors
    /// What reading it gives instead.
    pub(super) fn get_or_read<E>(
        &self,
        text: &str,
        extent: Extent,
        read: impl FnOnce() -> Result<Tokens, E>,
    ) -> Result<Tokens, E> {
        if text.len() > MAX_TEXT {
            return read();
        }
        let key = (Sha256::digest(text).into(), extent.side);
        let known = self.0.get(&key);
        if let Some(tokens) = known.filter(|tokens| tokens.suffice(extent)) {
            return Ok(Tokens::clone(&tokens));
        }
        let mut tokens = read()?;
        tokens.ids.shrink_to_fit();
        self.0.insert(key, Arc::new(tokens.clone()));
        Ok(tokens)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn get(recent: &Recent, text: &str, ids: &[u32]) -> (Vec<u32>, bool) {
        let tokens = Tokens::whole(ids.to_vec());
        get_part(recent, text, Extent::WHOLE, tokens)
    }

    fn get_part(recent: &Recent, text: &str, extent: Extent, tokens: Tokens) -> (Vec<u32>, bool) {
        let mut was_read = false;
        let read = || {
            was_read = true;
            Ok::<_, Infallible>(tokens)
        };
        let Ok(found) = recent.get_or_read(text, extent, read);
        (found.ids, was_read)
    }

    #[test]
    fn a_part_serves_who_needs_no_more() {
        let recent = Recent::new(1_000_000);
        let part = |ids: &[u32]| Tokens {
            ids: ids.to_vec(),
            is_whole: false,
        };
        let extent = |tokens, side| Extent { tokens, side };
        let (left, right) = (Side::Left, Side::Right);
        let get = |extent, tokens| get_part(&recent, "a", extent, tokens);
        assert_eq!(get(extent(2, right), part(&[1, 2])), (vec![1, 2], true));
        assert_eq!(get(extent(1, right), part(&[])), (vec![1, 2], false));
        assert_eq!(
            get(extent(3, right), part(&[1, 2, 3])),
            (vec![1, 2, 3], true)
        );
        assert_eq!(
            get(extent(3, left), part(&[7, 8, 9])),
            (vec![7, 8, 9], true)
        );
        assert_eq!(get(extent(3, right), part(&[])), (vec![1, 2, 3], false));
        assert_eq!(get(Extent::WHOLE, Tokens::whole(vec![1])), (vec![1], true));
        assert_eq!(get(extent(9, right), part(&[])), (vec![1], false));
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
        assert_eq!(
            recent.get_or_read("a", Extent::WHOLE, || Err("no")),
            Err("no")
        );
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
