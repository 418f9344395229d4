//! Reading a text as Hugging Face's tokenizer does, from the front, as far as it matters.
//!
//! Their steps over the whole text become one pass: added tokens cut the text into segments; a
//! segment's normal form is that of its clusters, one after the other; spaces and `▁` cut it into
//! words that begin with `▁`; the vocabulary cuts a word into tokens. After a space the state of
//! this pass is always the same (no word is begun, a space has been read), which gives two short
//! cuts. A word between spaces has the same tokens wherever it stands, unless its normal form is
//! empty or has a space or `▁` at an end: most words come from memory. And the last tokens of a
//! text are those of its last words: reading starts at a space near the end, and further back if
//! that was too near.

use std::ops::Range;

use tokenizers::{ModelWrapper, Tokenizer};

use super::{
    layout::{Added, Layout, Spaces},
    normal::{Clusters, is_space_alone, normal_form},
    tokens::{Extent, Side, Tokens},
    unigram::{Lattice, Unigram},
    words::{MAX_WORD, Words},
};

/// SentencePiece's sign for a space.
const MARK: char = '▁';

/// Bytes that are read between two questions whether to go on; less than a millisecond of work.
const STRETCH: usize = 4096;

/// Bytes in which a token is usually found.
const TOKEN_BYTES: usize = 8;

/// An `XLM-RoBERTa` tokenizer.
pub(super) struct Reader {
    layout: Layout,
    unigram: Unigram,
    words: Words,
}

impl Reader {
    /// Reads the tokenizer; none if it is another, or does something unusual.
    pub(super) fn new(json: &[u8], tokenizer: &Tokenizer) -> Option<Self> {
        let layout = Layout::new(json, tokenizer)?;
        let ModelWrapper::Unigram(model) = tokenizer.get_model() else {
            return None;
        };
        let reader = Self {
            unigram: Unigram::new(model, layout.unknown)?,
            layout,
            words: Words::default(),
        };
        reader.agrees(tokenizer).then_some(reader)
    }

    /// Whether a text that has a little of everything is read like this by Hugging Face's library
    /// too.
    fn agrees(&self, tokenizer: &Tokenizer) -> bool {
        let text = "Où est  l'été ?\r\n\tÀ Noël ﬁ ½ ﷺ Большая панда 大熊猫是中国特有的 <mask> عربي 다 e\u{301} ▁a▁▁ ▁ \u{600} </s>\u{200b} \u{1}";
        let ours = self.read(text, Extent::WHOLE, &|| true);
        let theirs = tokenizer.encode_fast(text, false);
        theirs.is_ok_and(|theirs| ours.is_some_and(|ours| ours.ids == theirs.get_ids()))
    }

    /// The tokens of a stripped text; see [`PairTokenizer::encode`](super::PairTokenizer::encode).
    pub(super) fn read(
        &self,
        text: &str,
        extent: Extent,
        keep_going: &(dyn Fn() -> bool + Sync),
    ) -> Option<Tokens> {
        let mut bytes = match extent.side {
            Side::Left => extent
                .tokens
                .saturating_mul(TOKEN_BYTES)
                .saturating_add(STRETCH / 4),
            Side::Right => usize::MAX,
        };
        loop {
            let start = self.space_before(text, text.len().saturating_sub(bytes), keep_going)?;
            let mut reading = Reading::new(self, text, start, extent);
            reading.read_on(keep_going)?;
            let mut tokens = reading.tokens;
            let excess = tokens.len().saturating_sub(extent.tokens);
            if start == 0 || excess > 0 {
                match extent.side {
                    Side::Left => drop(tokens.drain(..excess)),
                    Side::Right => tokens.truncate(extent.tokens),
                }
                return Some(Tokens {
                    ids: tokens,
                    is_whole: start == 0 && excess == 0,
                });
            }
            bytes = bytes.saturating_mul(4);
        }
    }

    /// A place after a space at which reading can start, at or before this one; 0 if there is none.
    fn space_before(
        &self,
        text: &str,
        from: usize,
        keep_going: &(dyn Fn() -> bool + Sync),
    ) -> Option<usize> {
        let bytes = text.as_bytes();
        for at in (1..=from).rev() {
            if at % STRETCH == 0 && !keep_going() {
                return None;
            }
            if matches!(bytes[at - 1], b' ' | b'\t' | b'\n') && self.can_start(text, at) {
                return Some(at);
            }
        }
        Some(0)
    }

    /// Whether the space before this place is a cluster of its own, and none of the spaces there
    /// belongs to an added token.
    fn can_start(&self, text: &str, at: usize) -> bool {
        let (before, after) = (&text[..at - 1], &text[at..]);
        let (Some(last), Some(first)) = (before.chars().next_back(), after.chars().next()) else {
            return false;
        };
        if first.is_whitespace() || !is_space_alone(last, first) {
            return false;
        }
        let before = before.trim_end();
        let touches =
            |token: &Added| before.ends_with(&token.content) || after.starts_with(&token.content);
        !self.layout.added.iter().any(touches)
    }
}

impl Reader {
    /// The tokens of a word, or none if they depend on what is around.
    fn read_word(&self, word: &str) -> Option<Box<[u32]>> {
        let normal = normal_form(&self.layout.rules, word);
        let is_edge = |c: char| c.is_whitespace() || c == MARK;
        if normal.is_empty() || normal.starts_with(is_edge) || normal.ends_with(is_edge) {
            return None;
        }
        let mut reading = Reading::new(self, word, 0, Extent::WHOLE);
        normal.chars().for_each(|c| reading.feed(c));
        reading.end_segment();
        Some(reading.tokens.into())
    }
}

/// A text of which a part has been read.
struct Reading<'a> {
    reader: &'a Reader,
    text: &'a str,
    clusters: Clusters<'a>,
    /// The place at which to look next for each added token.
    next_added: Vec<NextAdded>,
    /// The normal form of a cluster.
    normal: String,
    /// Whether a word has begun.
    is_in_word: bool,
    /// Whether the last character of the normal form was a space that counts for the next word.
    is_after_space: bool,
    lattice: Lattice<'a>,
    tokens: Vec<u32>,
    /// The number of tokens beyond which no more matter.
    enough: usize,
    extent: Extent,
}

/// An added token's next place.
#[derive(Clone, Default)]
struct NextAdded {
    /// The token does not start before this place.
    clear: usize,
    /// Whether the token starts at that place.
    is_found: bool,
}

impl<'a> Reading<'a> {
    /// Starts at the beginning of a text or after a space.
    fn new(reader: &'a Reader, text: &'a str, start: usize, extent: Extent) -> Self {
        Self {
            reader,
            text,
            clusters: Clusters::new(&reader.layout.rules, text, start),
            next_added: vec![NextAdded::default(); reader.layout.added.len()],
            normal: String::new(),
            is_in_word: false,
            is_after_space: start > 0 && reader.layout.spaces != Spaces::Removed,
            lattice: Lattice::new(&reader.unigram, extent),
            tokens: Vec::with_capacity(
                (text.len() - start).min(extent.tokens.saturating_mul(4)) / 3,
            ),
            enough: match extent.side {
                Side::Left => usize::MAX,
                Side::Right => extent.tokens,
            },
            extent,
        }
    }

    /// Reads to the end of the text, or as far as it matters.
    fn read_on(&mut self, keep_going: &(dyn Fn() -> bool + Sync)) -> Option<()> {
        let mut seen = self.clusters.at; // no added token starts between here and there
        let mut ink = seen; // where the last character before that ends that is no space
        let mut ask = seen;
        while !self.is_enough() {
            if seen >= ask {
                keep_going().then_some(())?;
                ask = seen + STRETCH;
            }
            let end = self.text.floor_char_boundary(seen + STRETCH);
            let found = self.find_added(seen..end);
            let end = found.map_or(end, |(_, at)| at);
            let stretch = self.text[seen..end].trim_end();
            if !stretch.is_empty() {
                ink = seen + stretch.len();
            }
            seen = end;
            match found {
                None if end == self.text.len() => {
                    self.read_to(end, true);
                    self.end_segment();
                    break;
                }
                // Spaces may belong to an added token that follows.
                None => self.read_to(ink, false),
                Some((token, at)) => {
                    self.read_to(if token.strips_left { ink } else { at }, true);
                    self.end_segment();
                    self.tokens.push(token.id);
                    seen = at + token.content.len();
                    if token.strips_right {
                        seen = self.text.len() - self.text[seen..].trim_start().len();
                    }
                    ink = seen;
                    self.clusters = Clusters::new(&self.reader.layout.rules, self.text, seen);
                }
            }
            self.forget();
        }
        Some(())
    }

    /// The first added token that starts in this part of the text, the longest if there are
    /// several, and where it is.
    fn find_added(&mut self, part: Range<usize>) -> Option<(&'a Added, usize)> {
        for (token, next) in self.reader.layout.added.iter().zip(&mut self.next_added) {
            let from = part.start.max(next.clear);
            if next.is_found && next.clear >= part.start || from >= part.end {
                continue;
            }
            let end = self
                .text
                .floor_char_boundary(part.end + token.content.len() - 1);
            let text = &self.text[from..end];
            // To tell that there is none is faster than to look for one.
            let is_there = text.contains(&token.content);
            let at = is_there.then(|| text.find(&token.content)).flatten();
            next.is_found = at.is_some();
            next.clear = at.map_or(part.end, |at| from + at);
        }
        let found = self.reader.layout.added.iter().zip(&self.next_added);
        let found = found.filter(|(_, next)| next.is_found && part.contains(&next.clear));
        let first =
            found.min_by_key(|(token, next)| (next.clear, usize::MAX - token.content.len()));
        first.map(|(token, next)| (token, next.clear))
    }

    /// Whether more tokens would not matter.
    fn is_enough(&self) -> bool {
        self.tokens.len() > self.enough
    }

    /// Drops tokens that are too far from the end to matter.
    fn forget(&mut self) {
        let excess = self
            .tokens
            .len()
            .saturating_sub(self.extent.tokens.saturating_add(1));
        if self.extent.side == Side::Left && excess > self.extent.tokens.max(STRETCH) {
            self.tokens.drain(..excess);
        }
    }

    /// Reads what can be read without what follows `stop`, unless the segment `ends` there.
    fn read_to(&mut self, stop: usize, ends: bool) {
        while self.clusters.at < stop && !self.is_enough() {
            if !self.is_in_word && self.clusters.is_at_boundary() {
                if self.read_known(stop, ends) {
                    continue;
                }
                self.skip_spaces(stop);
            }
            self.normal.clear();
            if !self.clusters.read(stop, ends, &mut self.normal) {
                break;
            }
            let normal = std::mem::take(&mut self.normal);
            normal.chars().for_each(|c| self.feed(c));
            self.normal = normal;
        }
    }

    /// Reads all but the last of several spaces, to which the next character may attach.
    fn skip_spaces(&mut self, stop: usize) {
        if self.reader.layout.spaces != Spaces::Kept {
            let rest = &self.text.as_bytes()[self.clusters.at..stop];
            let spaces = rest.iter().take_while(|&&byte| is_space(byte)).count();
            if spaces > 1 {
                self.clusters.at += spaces - 1;
                self.is_after_space = self.reader.layout.spaces == Spaces::Collapsed;
            }
        }
    }

    /// Reads short words, and a space after each, as long as their tokens do not depend on what is
    /// around. False if the first does.
    fn read_known(&mut self, stop: usize, ends: bool) -> bool {
        let begun = self.clusters.at;
        let mut at = begun;
        while at < stop && !self.is_enough() {
            let rest = &self.text[at..stop];
            let Some(word) = first_word(rest, ends) else {
                break;
            };
            let read = || self.reader.read_word(word);
            if !self.reader.words.append(word, &mut self.tokens, read) {
                break;
            }
            at += word.len();
            // A carriage return may be half of an end of line.
            let space = rest.as_bytes().get(word.len());
            let is_read = space.is_some_and(|&byte| byte != b'\r');
            at += usize::from(is_read);
            self.is_after_space = is_read && self.reader.layout.spaces != Spaces::Removed;
        }
        self.clusters.at = at;
        at > begun
    }

    /// Takes a character of the normal form.
    fn feed(&mut self, c: char) {
        match self.reader.layout.spaces {
            Spaces::Removed if c.is_whitespace() => self.end_word(),
            Spaces::Collapsed if c == ' ' => {
                self.end_word();
                self.is_after_space = true;
            }
            Spaces::Kept if c == ' ' => {
                self.end_word();
                self.end_space();
                self.is_after_space = true;
            }
            _ if c == MARK => {
                self.end_word();
                self.end_space();
                self.begin_word();
            }
            _ => {
                if !self.is_in_word {
                    self.begin_word();
                }
                self.lattice.push(c, &mut self.tokens);
            }
        }
    }

    fn begin_word(&mut self) {
        self.lattice.push(MARK, &mut self.tokens);
        self.is_in_word = true;
        self.is_after_space = false;
    }

    fn end_word(&mut self) {
        if self.is_in_word {
            self.lattice.finish(&mut self.tokens);
            self.is_in_word = false;
        }
    }

    /// Makes a word of a space that nothing follows.
    fn end_space(&mut self) {
        if self.is_after_space {
            self.begin_word();
            self.end_word();
        }
    }

    fn end_segment(&mut self) {
        self.end_word();
        self.end_space();
    }
}

/// The white space of ASCII that [`Layout`] is about.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// What is before the first space, if it is short and that space is a cluster of its own. The text
/// after `rest` is not known unless the segment `ends` there.
fn first_word(rest: &str, ends: bool) -> Option<&str> {
    let bytes = rest.as_bytes();
    let start = &bytes[..bytes.len().min(MAX_WORD + 1)];
    let Some(end) = start.iter().position(|&byte| is_space(byte)) else {
        return (ends && rest.len() <= MAX_WORD).then_some(rest);
    };
    let is_alone = match (bytes[..end].last()?, bytes.get(end + 1)) {
        (before, Some(after)) if before.is_ascii() && after.is_ascii() => true,
        _ => {
            let before = rest[..end].chars().next_back()?;
            let after = rest[end + 1..].chars().next();
            is_space_alone(before, after.or(ends.then_some('a'))?)
        }
    };
    is_alone.then(|| &rest[..end])
}
