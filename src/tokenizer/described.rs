//! Tokens with what they stand for, for people and for clients that count.

use std::ops::Range;

use tokenizers::Tokenizer;

use crate::error::{Error, Result};

/// A token of a text, and where it stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// The number that the model reads.
    pub id: u32,
    /// The part of the text; the name of a special token.
    pub text: String,
    /// The bytes of that part; none for a special token.
    pub span: Option<Range<usize>>,
}

/// The tokens of a text as it is, not stripped; with special ones around it if they are wanted.
///
/// # Errors
/// [`Error::Inference`] if the tokenizer fails on the text.
pub(super) fn describe(
    tokenizer: &Tokenizer,
    text: &str,
    with_special: bool,
) -> Result<Vec<Described>> {
    let encoding = tokenizer.encode(text, with_special);
    let encoding = encoding.map_err(|e| Error::Inference(format!("tokenizer: {e}")))?;
    let special = encoding.get_special_tokens_mask().iter();
    let places = encoding.get_offsets().iter().zip(special);
    let tokens = encoding
        .get_ids()
        .iter()
        .zip(encoding.get_tokens())
        .zip(places);
    let described = tokens.map(|((&id, name), (&(start, end), &special))| {
        let is_special = special == 1;
        Described {
            id,
            text: if is_special {
                name.clone()
            } else {
                // A span can end within a character whose bytes are tokens of their own.
                let bytes = text.as_bytes().get(start..end).unwrap_or_default();
                String::from_utf8_lossy(bytes).into_owned()
            },
            span: (!is_special).then_some(start..end),
        }
    });
    Ok(described.collect())
}
