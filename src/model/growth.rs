//! How much longer a `tokenizer.json` may make a text.
//!
//! A tokenizer changes texts before it cuts them up. A file that puts ten megabytes before each
//! text, or in the place of each space, would make every request take that much memory.

use anyhow::{Result, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Deserialize;
use serde_json::Value;

/// Times the bytes of a text that all replacements together may make of it. Real tokenizers need 4.
const MAX_FACTOR: usize = 64;

/// Bytes that all steps together may put before a text. Real tokenizers need 3.
const MAX_PREFIX: usize = 1024;

/// Bytes that a character may become. The most that Unicode's own tables need is 33.
const MAX_CHARACTER: usize = 256;

/// Steps, one after the other. Real tokenizers have 5 at most.
const MAX_STEPS: usize = 64;

/// The parts of the file that change texts; the vocabulary is passed over.
#[derive(Deserialize)]
struct Tokenizer {
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
}

#[derive(Debug)]
struct Growth {
    factor: usize,
    prefix: usize,
    character: usize,
    steps: usize,
}

/// # Errors
/// What in the file makes texts too long. A file that is no JSON is left to the tokenizer.
pub(super) fn check(json: &[u8]) -> Result<()> {
    let Ok(tokenizer) = serde_json::from_slice::<Tokenizer>(json) else {
        return Ok(());
    };
    let mut growth = Growth {
        factor: 1,
        prefix: 0,
        character: 0,
        steps: 0,
    };
    for step in [tokenizer.normalizer, tokenizer.pre_tokenizer]
        .iter()
        .flatten()
    {
        growth.add(step);
    }
    for (what, value, limit) in [
        ("texts are made {} times as long", growth.factor, MAX_FACTOR),
        ("{} bytes are put before a text", growth.prefix, MAX_PREFIX),
        (
            "a character becomes {} bytes",
            growth.character,
            MAX_CHARACTER,
        ),
        ("there are {} steps", growth.steps, MAX_STEPS),
    ] {
        ensure!(
            value <= limit,
            "{} by its normalizer and pre-tokenizer, and {limit} is the most that is accepted: every \
             request would take that much more memory",
            what.replace("{}", &value.to_string())
        );
    }
    Ok(())
}

impl Growth {
    /// Takes in a step, or the steps of a sequence.
    fn add(&mut self, step: &Value) {
        self.steps += 1;
        let text = |name: &str| step[name].as_str().unwrap_or_default();
        match text("type") {
            "Sequence" => ["normalizers", "pretokenizers"]
                .iter()
                .filter_map(|name| step[*name].as_array())
                .flatten()
                .for_each(|step| self.add(step)),
            "Prepend" => self.prefix = self.prefix.saturating_add(text("prepend").len()),
            "Replace" => {
                // An expression can match between two characters, which then stay.
                let stays =
                    usize::from(step["pattern"]["String"].as_str().is_none_or(str::is_empty));
                let factor = text("content").len().max(1).saturating_add(stays);
                self.factor = self.factor.saturating_mul(factor);
            }
            // It writes every byte as a character of its own.
            "ByteLevel" => self.factor = self.factor.saturating_mul(2),
            "Precompiled" => {
                let longest = longest_of_map(text("precompiled_charsmap"));
                self.character = self.character.max(longest);
            }
            _ => {}
        }
    }
}

/// The longest text in a map of characters as SentencePiece writes it: the size of an index in four
/// bytes, the index, and texts with a zero byte after each.
fn longest_of_map(base64: &str) -> usize {
    let map = BASE64_STANDARD.decode(base64).unwrap_or_default();
    let Some((size, rest)) = map.split_first_chunk::<4>() else {
        return 0;
    };
    let size = usize::try_from(u32::from_le_bytes(*size)).unwrap_or(usize::MAX);
    let texts = rest.get(size..).unwrap_or_default();
    let lengths = texts.split(|&byte| byte == 0).map(<[u8]>::len);
    lengths.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(normalizer: &Value, pre_tokenizer: &Value) -> String {
        let file = json!({"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "model": {}});
        let checked = check(file.to_string().as_bytes());
        checked.map_or_else(|error| error.to_string(), |()| String::new())
    }

    fn charsmap(longest: usize) -> Value {
        let index = [8, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        let texts = [b"ab\0".as_slice(), &vec![b'x'; longest], b"\0"].concat();
        let map = BASE64_STANDARD.encode([index.as_slice(), &texts].concat());
        json!({"type": "Precompiled", "precompiled_charsmap": map})
    }

    #[test]
    fn real_tokenizers_pass() {
        check(include_bytes!("../../models/demo/tokenizer.json")).unwrap();
        let spaces = json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"});
        let prefix = json!({"type": "Prepend", "prepend": "▁"});
        let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let steps = [charsmap(33), spaces, prefix, space];
        let normalizer = json!({"type": "Sequence", "normalizers": steps});
        let metaspace = json!({"type": "Metaspace", "replacement": "▁"});
        assert_eq!(message(&normalizer, &metaspace), "");
        assert_eq!(message(&Value::Null, &Value::Null), "");
    }

    #[test]
    fn steps_that_make_texts_long_are_refused() {
        let long = "x".repeat(10_000_000);
        let doubling = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
        let between = json!({"type": "Replace", "pattern": {"Regex": "x*"}, "content": ""});
        let sequence = |step: &Value| json!({"type": "Sequence", "normalizers": vec![step; 30]});
        let levels =
            json!({"type": "Sequence", "pretokenizers": vec![json!({"type": "ByteLevel"}); 30]});
        for (normalizer, pre_tokenizer, says) in [
            (
                json!({"type": "Prepend", "prepend": long}),
                Value::Null,
                "10000000 bytes are put before a text",
            ),
            (
                json!({"type": "Replace", "pattern": {"String": " "}, "content": long}),
                Value::Null,
                "10000000 times as long",
            ),
            (sequence(&doubling), Value::Null, "1073741824 times as long"),
            (sequence(&between), Value::Null, "1073741824 times as long"),
            (sequence(&sequence(&json!({}))), Value::Null, "steps"),
            (Value::Null, levels, "1073741824 times as long"),
            (charsmap(10_000), Value::Null, "becomes 10000 bytes"),
        ] {
            let message = message(&normalizer, &pre_tokenizer);
            assert!(message.contains(says), "{says}: {message}");
        }
    }

    #[test]
    fn a_damaged_file_is_left_to_the_tokenizer() {
        check(b"{").unwrap();
        check(b"[]").unwrap();
        let odd = json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="});
        assert_eq!(message(&odd, &Value::Null), "");
    }
}
