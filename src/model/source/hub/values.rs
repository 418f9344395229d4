//! What a hub, or a cache that others write to, may say: values that become a name of a file.

use anyhow::{Result, ensure};

/// No name of a file may be longer on any common file system, and suffixes are added to it.
const MAX_NAME: usize = 128;

/// The commit of a repository: the name of a directory in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Commit(String);

impl Commit {
    /// # Errors
    /// The text has another character than letters and digits, none at all, or too many.
    pub(super) fn parse(text: &str) -> Result<Self> {
        ensure!(
            is_name(text, ""),
            "`{}` is no commit: one has letters and digits only",
            excerpt(text)
        );
        Ok(Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it says all of a commit, so that it can never stand for another one.
    pub(super) fn is_full(text: &str) -> bool {
        text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    }
}

/// What the hub calls the contents of a file: the name of a blob in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Etag(String);

impl Etag {
    /// Reads the header as it came, with its quotes and the mark of a weak etag.
    ///
    /// # Errors
    /// What is left has a character that leads to another directory or to another kind of file.
    pub(super) fn parse(header: &str) -> Result<Self> {
        let bare = header.strip_prefix("W/").unwrap_or(header);
        let bare = bare.trim_matches('"');
        ensure!(
            is_name(bare, "-_+="),
            "the etag `{}` is malformed: it becomes the name of a file, so it may have letters, \
             digits and -_+= only",
            excerpt(header)
        );
        Ok(Self(bare.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_name(text: &str, also: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || also.contains(c);
    (1..=MAX_NAME).contains(&text.len()) && text.chars().all(allowed)
}

/// The beginning of a text that may be long or hold control characters.
pub(super) fn excerpt(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD: [&str; 9] = [
        "",
        ".",
        "..",
        "../../evil",
        "/etc/evil",
        r"..\evil",
        "c:evil",
        "a\0b",
        "a b",
    ];

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let long = "a".repeat(MAX_NAME + 1);
        for text in BAD.into_iter().chain([long.as_str(), "a.part", "ä"]) {
            assert!(Commit::parse(text).is_err(), "{text}");
            assert!(Etag::parse(text).is_err(), "{text}");
            assert!(Etag::parse(&format!("W/\"{text}\"")).is_err(), "{text}");
        }
    }

    #[test]
    fn an_etag_loses_quotes_and_the_mark_of_a_weak_one() {
        for header in ["abc-1", "\"abc-1\"", "W/\"abc-1\""] {
            assert_eq!(Etag::parse(header).unwrap().as_str(), "abc-1");
        }
    }

    #[test]
    fn only_forty_hexadecimal_digits_are_a_full_commit() {
        assert!(Commit::is_full(&"0aF9".repeat(10)));
        for text in ["main", &"0".repeat(39), &"0".repeat(41), &"g".repeat(40)] {
            assert!(!Commit::is_full(text), "{text}");
        }
    }

    #[test]
    fn an_excerpt_is_short_and_has_no_control_characters() {
        assert_eq!(excerpt("a\r\nb"), r"a\r\nb");
        assert_eq!(excerpt(&"x".repeat(1000)).len(), 80);
    }
}
