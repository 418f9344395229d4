//! From text to tokens: query and document pairs as XLM-RoBERTa was trained to read them.
//!
//! The query is encoded once per request, then joined to each document as `<s> query </s></s>
//! document </s>` with `longest_first` truncation, bit-exact with what Hugging Face's library does
//! to a pair (`tests/it/parity.rs` compares on golden data). Their library reads a text whole; ours
//! reads as much of it as can matter ([`PairTokenizer::query_extent`],
//! [`PairTokenizer::document_extent`]), and the tests compare every outcome with theirs.

mod described;
mod layout;
mod normal;
mod reader;
mod recent;
mod tokens;
mod truncation;
mod unigram;
mod words;

use anyhow::{Context as _, Result, anyhow, ensure};
use tokenizers::Tokenizer;

pub use self::{
    described::Described,
    tokens::{Extent, Side, Tokens},
    truncation::{TooLong, Truncation},
};
use self::{reader::Reader, recent::Recent};
use crate::error;

/// `<s>`, `</s></s>` and `</s>`: what the template adds to a pair.
const SPECIAL_TOKENS: usize = 4;

/// The shortest limit on a pair that makes sense: a few tokens of text beside the specials.
pub const MIN_LENGTH: usize = 8;

/// Tokens that neighbouring windows of a long document share, or a quarter of a window if that is
/// less. From `BCEmbedding`'s reranker, which reads windows of the same length.
const MAX_OVERLAP: usize = 80;

/// The tokens of a refused pair are counted as far as this many times what is allowed.
const COUNTED: usize = 4;

/// A tokenizer for pairs, with the special tokens of its checkpoint.
pub struct PairTokenizer {
    tokenizer: Tokenizer,
    /// Our reader; none if only Hugging Face's library can read this tokenizer, which reads all
    /// texts whole and cannot be stopped.
    reader: Option<Reader>,
    /// The tokens of recent documents; none unless the operator asks for them.
    recent: Option<Recent>,
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
    /// A tokenizer that cannot be read, lacks `<s>` or `</s>`, or puts pairs together in another
    /// way.
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
            reader: Reader::new(json, &tokenizer),
            tokenizer,
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

    /// The number of tokens that the tokenizer knows; all ids are below it.
    pub fn vocabulary(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The tokens of a text, stripped: all, or at least those of this extent. None if `keep_going`,
    /// which is asked after less than a millisecond of work each time, said no.
    ///
    /// # Errors
    /// [`error::Error::Inference`] if the tokenizer fails on the text.
    pub fn encode(
        &self,
        text: &str,
        extent: Extent,
        keep_going: &(dyn Fn() -> bool + Sync),
    ) -> error::Result<Option<Tokens>> {
        let text = strip(text);
        if let Some(reader) = &self.reader {
            return Ok(reader.read(text, extent, keep_going));
        }
        if !keep_going() {
            return Ok(None);
        }
        let encoding = self.tokenizer.encode_fast(text, false);
        let encoding = encoding.map_err(|e| error::Error::Inference(format!("tokenizer: {e}")))?;
        Ok(Some(Tokens::whole(encoding.get_ids().to_vec())))
    }

    /// The tokens of a text with what they stand for, as Hugging Face's library reads it.
    ///
    /// # Errors
    /// [`error::Error::Inference`] if the tokenizer fails on the text.
    pub fn describe(&self, text: &str, with_special: bool) -> error::Result<Vec<Described>> {
        described::describe(&self.tokenizer, text, with_special)
    }

    /// Encodes a text that is likely to come again: its tokens may be remembered.
    ///
    /// # Errors
    /// [`error::Error::Inference`] if the tokenizer fails on the text.
    pub fn encode_document(
        &self,
        text: &str,
        extent: Extent,
        keep_going: &(dyn Fn() -> bool + Sync),
    ) -> error::Result<Option<Tokens>> {
        let Some(recent) = &self.recent else {
            return self.encode(text, extent, keep_going);
        };
        let read = || {
            self.encode(text, extent, keep_going)
                .transpose()
                .ok_or(None)?
                .map_err(Some)
        };
        match recent.get_or_read(strip(text), extent, read) {
            Ok(tokens) => Ok(Some(tokens)),
            Err(None) => Ok(None),
            Err(Some(error)) => Err(error),
        }
    }

    /// The part of a query that decides every outcome of [`Self::join`].
    ///
    /// `longest_first` asks for lengths up to the room for both texts, and which text is longer if
    /// neither fits in half of it. The answer to that is the odd token, so it matters only if the
    /// room is odd: then the query is read whole.
    pub fn query_extent(&self, truncation: Truncation) -> Extent {
        let room = self.room(truncation);
        let tokens = match (truncation.refuse, room % 2) {
            (true, _) => COUNTED * room,
            (false, 0) => room,
            (false, _) => usize::MAX,
        };
        truncation.extent(tokens, truncation.query_tokens)
    }

    /// The part of a document that decides every outcome of [`Self::join`] with this query.
    pub fn document_extent(&self, query: &Tokens, truncation: Truncation) -> Extent {
        let room = self.room(truncation);
        let query = truncation.query(query).len();
        let windows = |length| {
            let others = truncation.chunks.unwrap_or(1).saturating_sub(1);
            others.saturating_mul(stride(length)).saturating_add(length)
        };
        let tokens = if truncation.refuse {
            COUNTED * room
        } else if 2 * query <= room {
            windows(room - query)
        } else {
            // One more than half the room tells that both are cut in halves, and so many as the
            // query has, which is longer.
            let odd = if room % 2 == 1 { query } else { 0 };
            windows(room.div_ceil(2)).max(room / 2 + 1).max(odd)
        };
        truncation.extent(tokens, truncation.document_tokens)
    }

    /// Tokens of text that fit.
    fn room(&self, truncation: Truncation) -> usize {
        self.limit(truncation) - SPECIAL_TOKENS
    }

    /// Tokens of a pair that fit.
    fn limit(&self, truncation: Truncation) -> usize {
        let limit = truncation.max_length.unwrap_or(self.max_length);
        limit.clamp(MIN_LENGTH, self.max_length)
    }

    /// Joins a query to a document: one encoding, or one for each window of a document that is read
    /// in chunks.
    ///
    /// # Errors
    /// [`TooLong`] if the pair does not fit and truncation is not wanted.
    pub fn join(
        &self,
        query: &Tokens,
        document: &Tokens,
        truncation: Truncation,
    ) -> Result<Vec<Encoding>, TooLong> {
        let are_all =
            query.are_all(truncation.query_tokens) && document.are_all(truncation.document_tokens);
        let (limit, room, side) = (
            self.limit(truncation),
            self.room(truncation),
            truncation.side,
        );
        let query = truncation.query(query);
        let document = side.cut(&document.ids, truncation.document_tokens);
        if truncation.refuse && query.len() + document.len() > room {
            let tokens = query.len() + document.len() + SPECIAL_TOKENS;
            return Err(TooLong {
                tokens,
                are_all,
                limit,
            });
        }
        let (q, d) = longest_first(query.len(), document.len(), room);
        let query = side.cut(query, Some(q));
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
        let whole = |text| self.encode(text, Extent::WHOLE, &|| true);
        let (query, document) = (whole(query)?, whole(document)?);
        let ids = |tokens: Option<Tokens>| tokens.map(|tokens| tokens.ids).unwrap_or_default();
        let ours = self.template(&ids(query), &ids(document));
        ensure!(
            theirs.get_ids() == ours,
            "tokenizer.json: `post_processor` does not join pairs as <s> A </s></s> B </s>"
        );
        Ok(())
    }
}

/// Windows of `length` tokens over a document, at most `chunks`, starting at the end that
/// truncation would keep. Each overlaps the one before, so that a sentence cut by one window is
/// whole in the next; the last one reaches to the end of the document, at full length.
fn windows(
    document: &[u32],
    length: usize,
    chunks: usize,
    side: Side,
) -> impl Iterator<Item = &[u32]> {
    let overhang = document.len() - length;
    let stride = stride(length);
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

/// Tokens from the start of a window of this length to the start of the next.
fn stride(length: usize) -> usize {
    (length - MAX_OVERLAP.min(length / 4)).max(1)
}

/// How many tokens of each side remain when `room` are allowed: the longer side is cut to the
/// length of the shorter one, then both alike. The odd token goes to the longer side, as in Hugging
/// Face's `truncate_encodings`.
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

/// Python's `str.strip()`, which the old service applied: Unicode white space and the four
/// separators U+001C..U+001F.
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_python_space)
}

fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

#[cfg(test)]
mod tests;
