//! A memory of words: most words of a text have been tokenised before.
//!
//! Hugging Face's tokenizer spends its time on the normal form of every text and on bookkeeping for offsets that nobody
//! here asks for. But `XLM-RoBERTa`'s reads a text word by word, so the tokens of a text are those of its words, one after
//! the other, as long as nothing reaches across a space. Where something might, the text is read as a whole, which is also
//! the slow reference that the tests compare with.

use std::{
    collections::HashMap,
    mem,
    sync::{PoisonError, RwLock},
};

use anyhow::anyhow;
use serde_json::Value;
use tokenizers::{NormalizedString, Normalizer as _, Tokenizer};
use unicode_segmentation::UnicodeSegmentation as _;

use super::Tokens;

/// Longer words are rare, and not remembered.
const MAX_WORD: usize = 48;

/// Words in a generation of a shard; with all shards and both generations 131,072 words, or some 15 MB.
const GENERATION: usize = 4096;

/// Enough that threads seldom meet in one.
const SHARDS: usize = 16;

/// What is known of words so far.
pub(super) struct Words {
    /// Tokens that are looked for in the text as it is, before there are words.
    added: Vec<String>,
    shards: [RwLock<Shard>; SHARDS],
}

/// Two generations: when the young one is full, the old one is forgotten and the young one grows old.
#[derive(Default)]
struct Shard {
    young: HashMap<Box<str>, Word>,
    old: HashMap<Box<str>, Word>,
}

/// The tokens of a word, or none if it cannot stand alone.
type Word = Option<Box<[u32]>>;

impl Words {
    /// An empty memory, if texts can be read word by word with this `tokenizer.json`.
    pub(super) fn new(json: &[u8]) -> Option<Self> {
        let json: Value = serde_json::from_slice(json).ok()?;
        let is_separable = json["model"]["type"] == "Unigram"
            && is_charwise(&json["normalizer"])
            && splits_at_spaces(&json["pre_tokenizer"]);
        let added = json["added_tokens"].as_array()?;
        let added: Vec<String> = added
            .iter()
            .map(|token| {
                let content = token["content"].as_str()?;
                let is_plain =
                    !token["normalized"].as_bool()? && !content.contains(char::is_whitespace);
                is_plain.then(|| content.to_owned())
            })
            .collect::<Option<_>>()?;
        is_separable.then(|| Self {
            added,
            shards: Default::default(),
        })
    }

    /// The tokens of a text, if it can be read word by word.
    ///
    /// # Errors
    /// What the tokenizer says of a word.
    pub(super) fn encode(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
    ) -> tokenizers::Result<Option<Tokens>> {
        if self.added.iter().any(|token| text.contains(token)) {
            return Ok(None);
        }
        let mut tokens = Tokens::with_capacity(text.len() / 3);
        let mut rest = text;
        while !rest.is_empty() {
            let Some(end) = end_of_word(rest) else {
                return Ok(None);
            };
            let (word, after) = rest.split_at(end);
            if !self.append(tokenizer, word, &mut tokens)? {
                return Ok(None);
            }
            rest = after.get(1..).unwrap_or_default(); // one space
        }
        Ok(Some(tokens))
    }

    /// Appends the tokens of a word; tells whether it can stand alone.
    fn append(
        &self,
        tokenizer: &Tokenizer,
        word: &str,
        tokens: &mut Tokens,
    ) -> tokenizers::Result<bool> {
        if word.len() > MAX_WORD {
            return Ok(extend(tokens, &read(tokenizer, word)?));
        }
        let shard = &self.shards[shard_of(word)];
        {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = shard.young.get(word).or_else(|| shard.old.get(word)) {
                return Ok(extend(tokens, known));
            }
        }
        let new = read(tokenizer, word)?;
        let stands_alone = extend(tokens, &new);
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        shard.insert(word, new);
        Ok(stands_alone)
    }
}

/// Only spreads the words; the maps have a hash of their own.
fn shard_of(word: &str) -> usize {
    let bytes = word.bytes().map(usize::from);
    bytes.fold(0, |sum: usize, byte| {
        sum.wrapping_mul(31).wrapping_add(byte)
    }) % SHARDS
}

impl Shard {
    fn insert(&mut self, word: &str, tokens: Word) {
        if self.young.len() >= GENERATION {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(word.into(), tokens);
    }
}

fn extend(tokens: &mut Tokens, word: &Word) -> bool {
    if let Some(word) = word {
        tokens.extend_from_slice(word);
    }
    word.is_some()
}

/// A word as the tokenizer alone reads it. One whose normal form is empty or has a space or the sign for one at an end
/// could mean something else beside its neighbours.
fn read(tokenizer: &Tokenizer, word: &str) -> tokenizers::Result<Word> {
    let mut normal = NormalizedString::from(word);
    if let Some(normalizer) = tokenizer.get_normalizer() {
        normalizer.normalize(&mut normal)?;
    }
    let normal = normal.get();
    let is_edge = |c: char| c.is_whitespace() || c == '▁';
    if normal.is_empty() || normal.starts_with(is_edge) || normal.ends_with(is_edge) {
        return Ok(None);
    }
    let encoding = tokenizer
        .encode_fast(word, false)
        .map_err(|e| anyhow!("{e}"))?;
    Ok(Some(encoding.get_ids().into()))
}

/// Where the first word of a stripped text ends: at a single space (or tab, or end of line) that no character beside it
/// attaches to. None if there is a space that is no such thing.
fn end_of_word(text: &str) -> Option<usize> {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    let Some(end) = text.as_bytes().iter().position(is_space) else {
        return Some(text.len());
    };
    let before = text[..end].chars().next_back()?;
    let after = text[end + 1..].chars().next()?;
    let stands_apart = !is_space_or_control(after)
        && (is_plain(before) && is_plain(after) || is_cluster_boundary(before, after));
    stands_apart.then_some(end)
}

fn is_space_or_control(c: char) -> bool {
    c.is_whitespace() || c.is_control()
}

/// Below the first combining character of Unicode nothing attaches to a space.
fn is_plain(c: char) -> bool {
    c < '\u{300}'
}

/// Whether a space between these two is a grapheme cluster of its own: the tokenizer normalises cluster by cluster.
fn is_cluster_boundary(before: char, after: char) -> bool {
    let around: String = [before, ' ', after].iter().collect();
    around.graphemes(true).any(|cluster| cluster == " ")
}

/// Whether the normal form of a text is that of its clusters, one after the other, apart from spaces that run together.
fn is_charwise(normalizer: &Value) -> bool {
    match normalizer["type"].as_str() {
        Some("Precompiled") => true,
        Some("Replace") => {
            normalizer["pattern"]["Regex"] == " {2,}" && normalizer["content"] == " "
        }
        Some("Sequence") => normalizer["normalizers"]
            .as_array()
            .is_some_and(|all| all.iter().all(is_charwise)),
        _ => false,
    }
}

/// Whether words are what stands between spaces, each with the sign for a space in front.
fn splits_at_spaces(pre_tokenizer: &Value) -> bool {
    match pre_tokenizer["type"].as_str() {
        Some("Metaspace") => {
            let scheme = &pre_tokenizer["prepend_scheme"];
            let is_always = scheme == "always"
                || (scheme.is_null() && pre_tokenizer["add_prefix_space"] == true);
            is_always && pre_tokenizer["replacement"] == "▁" && pre_tokenizer["split"] != false
        }
        Some("Sequence") => match pre_tokenizer["pretokenizers"].as_array().map(Vec::as_slice) {
            Some([first, second]) => first["type"] == "WhitespaceSplit" && splits_at_spaces(second),
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const DEMO: &[u8] = include_bytes!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/models/demo/tokenizer.json"
    ));

    /// The demo's tokenizer, and the same put together as newer checkpoints have it.
    fn tokenizers() -> [(Tokenizer, Words); 2] {
        let mut newer: Value = serde_json::from_slice(DEMO).unwrap();
        newer["pre_tokenizer"] = newer["pre_tokenizer"]["pretokenizers"][1].clone();
        let replace = json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "});
        newer["normalizer"] =
            json!({"type": "Sequence", "normalizers": [newer["normalizer"], replace]});
        let newer = newer.to_string().into_bytes();
        [DEMO, &newer].map(|json| {
            let tokenizer = Tokenizer::from_bytes(json).unwrap();
            (tokenizer, Words::new(json).unwrap())
        })
    }

    fn check(tokenizer: &Tokenizer, words: &Words, text: &str) -> bool {
        let text = crate::tokenizer::strip(text);
        let whole = tokenizer.encode_fast(text, false).unwrap();
        for _ in 0..2 {
            // the second time from memory
            match words.encode(tokenizer, text).unwrap() {
                Some(tokens) => assert_eq!(tokens, whole.get_ids(), "{text:?}"),
                None => return false,
            }
        }
        true
    }

    #[test]
    fn plain_text_is_read_word_by_word() {
        for (tokenizer, words) in tokenizers() {
            for text in [
                "A tool to compress and decompress files",
                "Où est l'été à Noël ?\nL'été, c'est « chaud » ; c'est tout.",
                "tab\tand\nnewline, 3.14 and C++; “curly” — dashes…",
                "Большая панда и 大熊猫是中国特有的熊科动物 다 عربي",
                "",
            ] {
                assert!(check(&tokenizer, &words, text), "{text}");
            }
        }
    }

    #[test]
    fn what_reaches_across_a_space_is_read_whole() {
        for (tokenizer, words) in tokenizers() {
            for text in [
                "two  spaces",
                "a line\r\nand another",
                "a \u{301}combining mark after the space",
                "a \u{200b}zero width space",
                "\u{600} a sign that goes before",
                "a <mask> and </s> in it",
                "the ▁ sign",
                "a \u{37a} that turns into a space",
            ] {
                assert!(!check(&tokenizer, &words, text), "{text}");
            }
        }
    }

    #[test]
    fn a_tokenizer_of_another_kind_is_not_read_by_words() {
        for (path, value) in [
            ("/pre_tokenizer", json!(null)),
            (
                "/pre_tokenizer/pretokenizers/1/prepend_scheme",
                json!("first"),
            ),
            ("/pre_tokenizer/pretokenizers/1/split", json!(false)),
            ("/normalizer", json!({"type": "NFKC"})),
            ("/model/type", json!("BPE")),
            ("/added_tokens/0/content", json!("two words")),
            ("/added_tokens/0/normalized", json!(true)),
        ] {
            let mut json: Value = serde_json::from_slice(DEMO).unwrap();
            *json.pointer_mut(path).unwrap() = value;
            assert!(Words::new(json.to_string().as_bytes()).is_none(), "{path}");
        }
    }

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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn tokens_are_those_of_the_whole_text(
            text in prop_oneof![
                any::<String>(),
                "[a-zéœß«»0-9.,'’ \n\t]{0,60}",
                "([a-z]{1,9}|[ \t\r\n\u{a0}\u{3000}\u{200b}\u{200d}]|[\u{300}\u{301}\u{903}\u{600}\u{ad}▁]|[ﷺͺ¨½①ｶﾞ\u{1100}\u{1161}👍🏽]){0,30}",
                "(<mask>|<s>|</s>|<pad>|[ a-c<>]){0,20}",
            ]
        ) {
            for (tokenizer, words) in &*TOKENIZERS {
                check(tokenizer, words, &text);
            }
        }
    }

    static TOKENIZERS: std::sync::LazyLock<[(Tokenizer, Words); 2]> =
        std::sync::LazyLock::new(tokenizers);
}
