//! The normal form of a text, a grapheme cluster at a time.
//!
//! SentencePiece's rules are applied to clusters of less than six bytes as a whole, to the
//! characters of all others one by one, so a cluster may be as long as it likes: as soon as six
//! bytes of it are known, each character is read without its neighbours. Clusters are those of
//! `unicode-segmentation`, which decides a boundary by what is before it in the same cluster and by
//! the character after it. So clusters are the same wherever reading starts, as long as that is at
//! a boundary.

use std::ops::Range;

use tokenizers::normalizers::Precompiled;
use unicode_segmentation::{GraphemeCursor, UnicodeSegmentation as _};

/// Clusters with fewer bytes have rules of their own.
const LONG: usize = 6;

/// How far a text has been read.
pub(super) struct Clusters<'a> {
    rules: &'a Precompiled,
    text: &'a str,
    /// What comes before it has been read.
    pub(super) at: usize,
    /// A long cluster that was begun, and where.
    long: Option<(usize, GraphemeCursor)>,
}

impl<'a> Clusters<'a> {
    /// Begins at a boundary of clusters.
    pub(super) fn new(rules: &'a Precompiled, text: &'a str, at: usize) -> Self {
        Self {
            rules,
            text,
            at,
            long: None,
        }
    }

    /// Whether there is a boundary where reading stands.
    #[inline]
    pub(super) fn is_at_boundary(&self) -> bool {
        self.long.is_none()
    }

    /// Appends the normal form of the next cluster, or of a part of a long one, in the text before
    /// `stop`. If `ends` is false, the text goes on there. False if nothing can be read.
    pub(super) fn read(&mut self, stop: usize, ends: bool, normal: &mut String) -> bool {
        let begun = self.at;
        let mut chars = self.text[begun..stop].chars();
        let Some(first) = chars.next() else {
            return false;
        };
        let is_alone = match chars.next() {
            Some(second) => is_simple(first) && is_simple(second),
            None => ends,
        };
        if self.long.is_none() && is_alone {
            self.at += first.len_utf8();
            self.append_cluster(begun..self.at, normal);
            return true;
        }
        let (start, mut cursor) = self
            .long
            .take()
            .unwrap_or_else(|| (begun, GraphemeCursor::new(0, self.text.len() - begun, true)));
        let cluster = &self.text[start..stop];
        match cursor.next_boundary(cluster, 0) {
            Ok(Some(length)) => self.at = start + length,
            _ if ends => self.at = stop,
            _ if cluster.len() >= LONG => {
                self.at = stop;
                self.long = Some((start, cursor));
            }
            _ => return false,
        }
        if self.at - start < LONG {
            self.append_cluster(start..self.at, normal);
        } else {
            self.append_chars(begun..self.at, normal);
        }
        true
    }

    fn append_cluster(&self, range: Range<usize>, normal: &mut String) {
        match self.rules.transform(&self.text[range.clone()]) {
            Some(form) => normal.push_str(form),
            None => self.append_chars(range, normal),
        }
    }

    fn append_chars(&self, range: Range<usize>, normal: &mut String) {
        let text = &self.text[range];
        for (at, c) in text.char_indices() {
            match self.rules.transform(&text[at..at + c.len_utf8()]) {
                Some(form) => normal.push_str(form),
                None => normal.push(c),
            }
        }
    }
}

/// The normal form of a whole text.
pub(super) fn normal_form(rules: &Precompiled, text: &str) -> String {
    let mut normal = String::with_capacity(text.len());
    let mut clusters = Clusters::new(rules, text, 0);
    while clusters.read(text.len(), true, &mut normal) {}
    normal
}

/// Whether a space between these two characters is a cluster of its own.
#[inline]
pub(super) fn is_space_alone(before: char, after: char) -> bool {
    is_plain(before) && is_plain(after) || {
        let around: String = [before, ' ', after].iter().collect();
        around.graphemes(true).any(|cluster| cluster == " ")
    }
}

/// Below the first combining character of Unicode nothing attaches to a space.
#[inline]
fn is_plain(c: char) -> bool {
    c < '\u{300}'
}

/// Common characters that never join one of their kind in a cluster.
fn is_simple(c: char) -> bool {
    is_plain(c) && c != '\r'
        || matches!(c, '\u{400}'..='\u{482}' | '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30ff}' | '\u{4e00}'..='\u{9fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simple_characters_are_clusters_of_their_own() {
        for c in ('\0'..='\u{10ffff}').filter(|&c| is_simple(c)) {
            let text: String = ['a', c, c, 'a', '漢', c, 'я', c, '\u{ad}', c, '\n', c, '©']
                .iter()
                .collect();
            assert_eq!(text.graphemes(true).count(), 13, "{c:?}");
        }
    }
}
