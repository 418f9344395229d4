//! From text to tokens: query and document pairs as XLM-RoBERTa was trained to read them.
//!
//! The tokenizer itself is Hugging Face's. What is ours is the pair: the query is encoded once per request, then
//! joined to each document as `<s> query </s></s> document </s>` with `longest_first` truncation, bit-exact with what
//! their library does to a pair (`tests/it/parity.rs` compares on golden data).

use std::str;

use anyhow::{Context as _, Result, anyhow, ensure};
use rayon::prelude::*;
use tokenizers::Tokenizer;

use crate::error;

/// `<s>`, `</s></s>` and `</s>`: what the template adds to a pair.
const SPECIAL_TOKENS: usize = 4;

/// A tokenizer for pairs, with the special tokens of its checkpoint.
pub struct PairTokenizer {
    tokenizer: Tokenizer,
    bos: u32,
    eos: u32,
    max_length: usize,
}

/// The tokens of one pair, specials included.
pub type Encoding = Vec<u32>;

impl PairTokenizer {
    /// Reads `tokenizer.json`; pairs will be cut to `max_length` tokens.
    ///
    /// # Errors
    /// A tokenizer that cannot be read, lacks `<s>` or `</s>`, or puts pairs together in another way.
    pub fn new(json: &[u8], max_length: usize) -> Result<Self> {
        let mut tokenizer =
            Tokenizer::from_bytes(json).map_err(|e| anyhow!("cannot use tokenizer.json: {e}"))?;
        // A file may carry settings of its own; length and padding are ours to decide.
        tokenizer
            .with_truncation(None)
            .map_err(|e| anyhow!("cannot use tokenizer.json: {e}"))?
            .with_padding(None);
        let special = |token: &str| {
            tokenizer
                .token_to_id(token)
                .with_context(|| format!("tokenizer.json has no token `{token}`"))
        };
        let (bos, eos) = (special("<s>")?, special("</s>")?);
        ensure!(
            max_length > SPECIAL_TOKENS,
            "a maximum length of {max_length} tokens leaves no room for text beside {SPECIAL_TOKENS} special tokens"
        );
        let tokenizer = Self {
            tokenizer,
            bos,
            eos,
            max_length,
        };
        tokenizer.check_template()?;
        Ok(tokenizer)
    }

    /// The ids are below this.
    pub fn vocabulary(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// Encodes a query with each of the documents, in their order, on all processors. Both are stripped first.
    ///
    /// # Errors
    /// [`error::Error::Inference`] if the tokenizer fails on a text.
    pub fn encode_pairs(&self, query: &str, documents: &[&str]) -> error::Result<Vec<Encoding>> {
        let query = self.encode(query)?;
        documents
            .par_iter()
            .map(|document| Ok(self.join(&query, &self.encode(document)?)))
            .collect()
    }

    fn encode(&self, text: &str) -> error::Result<Vec<u32>> {
        let encoding = self
            .tokenizer
            .encode_fast(strip(text), false)
            .map_err(|e| error::Error::Inference(format!("tokenizer: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    fn join(&self, query: &[u32], document: &[u32]) -> Encoding {
        let room = self.max_length - SPECIAL_TOKENS;
        let (q, d) = longest_first(query.len(), document.len(), room);
        let mut ids = Vec::with_capacity(q + d + SPECIAL_TOKENS);
        ids.push(self.bos);
        ids.extend_from_slice(&query[..q]);
        ids.extend([self.eos, self.eos]);
        ids.extend_from_slice(&document[..d]);
        ids.push(self.eos);
        ids
    }

    /// Holds our way of joining a pair against the template in the file.
    fn check_template(&self) -> Result<()> {
        let (query, document) = ("query", "document");
        let theirs = self
            .tokenizer
            .encode_fast((query, document), true)
            .map_err(|e| anyhow!("cannot use tokenizer.json: {e}"))?;
        let ours = self.encode_pairs(query, &[document])?;
        ensure!(
            self.max_length < theirs.len() || theirs.get_ids() == ours[0],
            "tokenizer.json: `post_processor` does not join pairs as <s> A </s></s> B </s>"
        );
        Ok(())
    }
}

/// How many tokens of each side remain when `room` are allowed: the longer side is cut to the length of the shorter
/// one, then both alike. The odd token goes to the longer side, as in Hugging Face's `truncate_encodings`.
fn longest_first(query: usize, document: usize, room: usize) -> (usize, usize) {
    if query + document <= room {
        return (query, document);
    }
    let (short, long) = (query.min(document), query.max(document));
    let (short, long) = if 2 * short <= room {
        (short, (room - short).min(long))
    } else {
        (room / 2, room / 2 + room % 2)
    };
    if query <= document {
        (short, long)
    } else {
        (long, short)
    }
}

/// Python's `str.strip()`, which the old service applied: Unicode white space and the four separators U+001C..U+001F.
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_python_space)
}

fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn truncation_takes_from_the_longer_side() {
        for (query, document, room, want) in [
            (3, 4, 7, (3, 4)),
            (3, 100, 20, (3, 17)),
            (100, 3, 20, (17, 3)),
            (100, 100, 21, (10, 11)),
            (100, 99, 21, (11, 10)),
            (10, 11, 20, (10, 10)),
            (0, 30, 20, (0, 20)),
            (30, 30, 1, (0, 1)),
        ] {
            assert_eq!(
                longest_first(query, document, room),
                want,
                "{query} + {document} in {room}"
            );
        }
    }

    proptest! {
        #[test]
        fn truncation_fills_the_room_and_no_more(query in 0usize..600, document in 0usize..600, room in 1usize..600) {
            let (q, d) = longest_first(query, document, room);
            prop_assert!(q <= query && d <= document);
            prop_assert_eq!(q + d, (query + document).min(room));
        }
    }

    #[test]
    fn strips_what_python_strips() {
        assert_eq!(
            strip(" \t\n\u{a0}\u{2003}\u{1c}\u{85}a b\u{3000}\r\n"),
            "a b"
        );
        assert_eq!(
            strip("\u{200b}a\u{feff}"),
            "\u{200b}a\u{feff}",
            "zero-width characters are not space to Python"
        );
    }
}
