//! From text to tokens: query and document pairs as XLM-RoBERTa was trained to read them.
//!
//! The tokenizer itself is Hugging Face's. What is ours is the pair: the query is encoded once per request, then
//! joined to each document as `<s> query </s></s> document </s>` with `longest_first` truncation, bit-exact with what
//! their library does to a pair (`tests/it/parity.rs` compares on golden data).

mod recent;
mod words;

use std::str;

use anyhow::{Context as _, Result, anyhow, ensure};
use rayon::prelude::*;
use tokenizers::Tokenizer;

use self::{recent::Recent, words::Words};
use crate::error;

/// `<s>`, `</s></s>` and `</s>`: what the template adds to a pair.
const SPECIAL_TOKENS: usize = 4;

/// The shortest limit on a pair that makes sense: a few tokens of text beside the specials.
pub const MIN_LENGTH: usize = 8;

/// Tokens that neighbouring windows of a long document share, or a quarter of a window if that is less. From
/// `BCEmbedding`'s reranker, which reads windows of the same length.
const MAX_OVERLAP: usize = 80;

/// A tokenizer for pairs, with the special tokens of its checkpoint.
pub struct PairTokenizer {
    tokenizer: Tokenizer,
    /// None if this tokenizer does not read texts word by word.
    words: Option<Words>,
    /// None unless asked for.
    recent: Option<Recent>,
    bos: u32,
    eos: u32,
    max_length: usize,
}

/// The tokens of one pair, specials included.
pub type Encoding = Vec<u32>;

/// The tokens of one text, without specials.
pub type Tokens = Vec<u32>;

/// What to do with a pair that is too long. The default is the old service's: `longest_first`, at the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Truncation {
    /// Tokens per pair, where that is less than the server's own limit.
    pub max_length: Option<usize>,
    /// Tokens of the query that are looked at.
    pub query_tokens: Option<usize>,
    /// Tokens of the document that are looked at.
    pub document_tokens: Option<usize>,
    /// Which end of a text loses tokens.
    pub side: Side,
    /// How many overlapping windows of a document that does not fit are read; the first is what truncation would
    /// leave. `None`: the server's choice.
    pub chunks: Option<usize>,
    /// Refuse instead of truncating.
    pub refuse: bool,
}

/// SHIM
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// SHIM
    pub tokens: usize,
    /// SHIM
    pub side: Side,
}

/// An end of a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Side {
    /// The beginning.
    Left,
    /// The end.
    #[default]
    Right,
}

impl Side {
    /// What remains of a text when this end is cut off until `length` tokens are left.
    fn cut(self, tokens: &[u32], length: usize) -> &[u32] {
        let excess = tokens.len().saturating_sub(length);
        match self {
            Self::Left => &tokens[excess..],
            Self::Right => &tokens[..tokens.len() - excess],
        }
    }
}

/// A pair was longer than allowed, and truncation was not wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong {
    /// Tokens of the pair, specials included.
    pub tokens: usize,
    /// Tokens that were allowed.
    pub limit: usize,
}

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
            max_length >= MIN_LENGTH,
            "a maximum length of {max_length} tokens leaves no room for text beside {SPECIAL_TOKENS} special tokens; it must be at least {MIN_LENGTH}"
        );
        let tokenizer = Self {
            tokenizer,
            words: Words::new(json),
            recent: None,
            bos,
            eos,
            max_length,
        };
        tokenizer.check_template()?;
        Ok(tokenizer)
    }

    /// Remembers the tokens of documents too, in so many bytes; none of them turns it off.
    #[must_use]
    pub fn remember(mut self, bytes: usize) -> Self {
        self.recent = (bytes > 0).then(|| Recent::new(bytes));
        self
    }

    /// The ids are below this.
    pub fn vocabulary(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// Encodes texts, stripped, on all processors.
    ///
    /// # Errors
    /// [`error::Error::Inference`] if the tokenizer fails on a text.
    pub fn encode(&self, texts: &[&str]) -> error::Result<Vec<Tokens>> {
        texts.par_iter().map(|text| self.encode_one(text)).collect()
    }

    /// The same for texts that are likely to come again.
    ///
    /// # Errors
    /// [`error::Error::Inference`] if the tokenizer fails on a text.
    pub fn encode_documents(&self, texts: &[&str]) -> error::Result<Vec<Tokens>> {
        let Some(recent) = &self.recent else {
            return self.encode(texts);
        };
        let encode = |&text: &&str| recent.get_or_read(text, || self.encode_one(text));
        texts.par_iter().map(encode).collect()
    }

    /// SHIM
    pub fn extents(&self, _: Truncation) -> (Extent, Extent) {
        let extent = Extent {
            tokens: self.max_length,
            side: Side::Right,
        };
        (extent, extent)
    }

    /// SHIM
    pub fn encode_within(
        &self,
        text: &str,
        _: Extent,
        _: &(dyn Fn() -> bool + Sync),
    ) -> error::Result<Tokens> {
        self.encode_one(text)
    }

    fn encode_one(&self, text: &str) -> error::Result<Tokens> {
        self.tokens(strip(text))
            .map_err(|e| error::Error::Inference(format!("tokenizer: {e}")))
    }

    fn tokens(&self, text: &str) -> tokenizers::Result<Tokens> {
        if let Some(words) = &self.words
            && let Some(tokens) = words.encode(&self.tokenizer, text)?
        {
            return Ok(tokens);
        }
        let encoding = self.tokenizer.encode_fast(text, false)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Joins a query to a document: one encoding, or one for each window of a document that is read in chunks.
    ///
    /// # Errors
    /// [`TooLong`] if the pair does not fit and truncation is not wanted.
    pub fn join(
        &self,
        query: &[u32],
        document: &[u32],
        truncation: Truncation,
    ) -> Result<Vec<Encoding>, TooLong> {
        let limit = truncation.max_length.unwrap_or(self.max_length);
        let limit = limit.clamp(MIN_LENGTH, self.max_length);
        let room = limit - SPECIAL_TOKENS;
        let side = truncation.side;
        let query = side.cut(query, truncation.query_tokens.unwrap_or(usize::MAX));
        let document = side.cut(document, truncation.document_tokens.unwrap_or(usize::MAX));
        if truncation.refuse && query.len() + document.len() > room {
            let tokens = query.len() + document.len() + SPECIAL_TOKENS;
            return Err(TooLong { tokens, limit });
        }
        let (q, d) = longest_first(query.len(), document.len(), room);
        let query = side.cut(query, q);
        let windows = windows(document, d, truncation.chunks.unwrap_or(1), side);
        Ok(windows.map(|window| self.template(query, window)).collect())
    }

    /// `<s> query </s></s> document </s>`.
    fn template(&self, query: &[u32], document: &[u32]) -> Encoding {
        let mut ids = Vec::with_capacity(query.len() + document.len() + SPECIAL_TOKENS);
        ids.push(self.bos);
        ids.extend_from_slice(query);
        ids.extend([self.eos, self.eos]);
        ids.extend_from_slice(document);
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
        let ours = self.template(&self.encode_one(query)?, &self.encode_one(document)?);
        ensure!(
            theirs.get_ids() == ours,
            "tokenizer.json: `post_processor` does not join pairs as <s> A </s></s> B </s>"
        );
        Ok(())
    }
}

/// Windows of `length` tokens over a document, at most `chunks`, starting at the end that truncation would keep. Each
/// overlaps the one before, so that a sentence cut by one window is whole in the next; the last one reaches to the end
/// of the document, at full length.
fn windows(
    document: &[u32],
    length: usize,
    chunks: usize,
    side: Side,
) -> impl Iterator<Item = &[u32]> {
    let overhang = document.len() - length;
    let stride = (length - length.min(MAX_OVERLAP).min(length / 4)).max(1);
    let count = (1 + overhang.div_ceil(stride)).min(chunks.max(1));
    (0..count).map(move |window| {
        let skipped = (window * stride).min(overhang);
        let start = match side {
            Side::Left => overhang - skipped,
            Side::Right => skipped,
        };
        &document[start..start + length]
    })
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
    fn windows_overlap_and_reach_the_end() {
        let document: Vec<u32> = (0..10).collect();
        let all = |length, chunks, side| -> Vec<Vec<u32>> {
            windows(&document, length, chunks, side)
                .map(<[u32]>::to_vec)
                .collect()
        };
        let firsts =
            |windows: Vec<Vec<u32>>| -> Vec<u32> { windows.iter().map(|w| w[0]).collect() };
        assert_eq!(firsts(all(4, 9, Side::Right)), [0, 3, 6]);
        assert_eq!(firsts(all(4, 2, Side::Right)), [0, 3]);
        assert_eq!(firsts(all(4, 9, Side::Left)), [6, 3, 0]);
        assert_eq!(all(10, 9, Side::Right), std::slice::from_ref(&document));
        assert_eq!(all(0, 1, Side::Right), [Vec::<u32>::new()]);
        assert_eq!(all(4, 0, Side::Left), [[6, 7, 8, 9]]);
    }

    proptest! {
        #[test]
        fn windows_cover_the_document_unless_there_are_too_many(
            tokens in 0usize..2000, length in 1usize..600, chunks in 1usize..30, left: bool,
        ) {
            let document: Vec<u32> = (0..).take(tokens).collect();
            let length = length.min(tokens);
            let side = if left { Side::Left } else { Side::Right };
            let windows: Vec<&[u32]> = windows(&document, length, chunks, side).collect();
            prop_assert!((1..=chunks).contains(&windows.len()));
            prop_assert!(windows.iter().all(|window| window.len() == length));
            prop_assert_eq!(windows[0], side.cut(&document, length));
            let seen: std::collections::HashSet<u32> = windows.iter().flat_map(|w| w.iter().copied()).collect();
            prop_assert!(seen.len() == tokens || windows.len() == chunks);
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
