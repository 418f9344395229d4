//! What `tokenizer.json` says that can be read in one pass over a text, as `XLM-RoBERTa`'s
//! checkpoints put it.

use serde_json::Value;
use tokenizers::{Tokenizer, normalizers::Precompiled};

use super::normal::normal_form;

/// How texts become words.
pub(super) struct Layout {
    /// Tokens that are looked for in the text as it is.
    pub(super) added: Vec<Added>,
    pub(super) rules: Precompiled,
    pub(super) spaces: Spaces,
    /// The token of unknown characters.
    pub(super) unknown: usize,
}

/// A token that stands in the text as it is.
pub(super) struct Added {
    pub(super) content: String,
    pub(super) id: u32,
    /// Whether spaces before it belong to it.
    pub(super) strips_left: bool,
    /// Whether spaces after it belong to it.
    pub(super) strips_right: bool,
}

/// What becomes of spaces.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Spaces {
    /// All white space ends words and disappears.
    Removed,
    /// A space becomes `▁`, and several together are one.
    Collapsed,
    /// A space becomes `▁`.
    Kept,
}

impl Layout {
    /// Reads the layout; none if the tokenizer is another, or does something unusual.
    pub(super) fn new(json: &[u8], tokenizer: &Tokenizer) -> Option<Self> {
        let json: Value = serde_json::from_slice(json).ok()?;
        let (rules, collapses) = normalizer(&json["normalizer"])?;
        let spaces = match (removes_spaces(&json["pre_tokenizer"])?, collapses) {
            (true, _) => Spaces::Removed,
            (false, true) => Spaces::Collapsed,
            (false, false) => Spaces::Kept,
        };
        let added = json["added_tokens"].as_array()?.iter();
        let added = added.map(|token| Added::new(token, tokenizer));
        let layout = Self {
            added: added.collect::<Option<_>>()?,
            rules,
            spaces,
            unknown: usize::try_from(json["model"]["unk_id"].as_u64()?).ok()?,
        };
        layout.has_plain_spaces().then_some(layout)
    }

    /// Whether what separates words here does so in the normal form.
    fn has_plain_spaces(&self) -> bool {
        [" ", "\t", "\n", "\r", "\r\n"].iter().all(|space| {
            let normal = normal_form(&self.rules, space);
            match self.spaces {
                Spaces::Removed => !normal.is_empty() && normal.chars().all(char::is_whitespace),
                Spaces::Collapsed | Spaces::Kept => normal == " ",
            }
        })
    }
}

impl Added {
    fn new(token: &Value, tokenizer: &Tokenizer) -> Option<Self> {
        let content = token["content"].as_str()?;
        let is_plain = !token["normalized"].as_bool()?
            && !token["single_word"].as_bool()?
            && !content.is_empty()
            && !content.contains(char::is_whitespace);
        is_plain.then_some(())?;
        Some(Self {
            content: content.to_owned(),
            id: tokenizer.token_to_id(content)?,
            strips_left: token["lstrip"].as_bool()?,
            strips_right: token["rstrip"].as_bool()?,
        })
    }
}

/// The rules, and whether spaces that run together become one.
fn normalizer(json: &Value) -> Option<(Precompiled, bool)> {
    let rules = |json: &Value| {
        let is_precompiled = json["type"] == "Precompiled";
        is_precompiled.then(|| serde_json::from_str(&json.to_string()).ok())?
    };
    let steps = json["normalizers"].as_array().map(Vec::as_slice);
    match (json["type"].as_str()?, steps) {
        ("Precompiled", _) => Some((rules(json)?, false)),
        ("Sequence", Some([first])) => normalizer(first),
        ("Sequence", Some([first, second])) => {
            let collapses = second["type"] == "Replace"
                && second["pattern"]["Regex"] == " {2,}"
                && second["content"] == " ";
            collapses.then_some((rules(first)?, true))
        }
        _ => None,
    }
}

/// Whether white space disappears, if words are what stands between spaces, each with the sign for
/// a space in front.
fn removes_spaces(json: &Value) -> Option<bool> {
    match json["type"].as_str()? {
        "Metaspace" => {
            let scheme = &json["prepend_scheme"];
            let is_always =
                scheme == "always" || (scheme.is_null() && json["add_prefix_space"] == true);
            let is_usual = is_always && json["replacement"] == "▁" && json["split"] != false;
            is_usual.then_some(false)
        }
        "Sequence" => match json["pretokenizers"].as_array()?.as_slice() {
            [first, second] if first["type"] == "WhitespaceSplit" => {
                removes_spaces(second).map(|_| true)
            }
            _ => None,
        },
        _ => None,
    }
}
