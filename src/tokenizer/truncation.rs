//! What to do with a pair that is too long.

use super::tokens::{Extent, Side, Tokens};

/// What to do with a pair that is too long. The default is the old service's: `longest_first`, at
/// the end.
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
    /// How many overlapping windows of a document that does not fit are read; the first is what
    /// truncation would leave. `None`: the server's choice.
    pub chunks: Option<usize>,
    /// Refuse instead of truncating.
    pub refuse: bool,
}

impl Truncation {
    /// What is looked at of a query.
    pub(super) fn query(self, query: &Tokens) -> &[u32] {
        self.side.cut(&query.ids, self.query_tokens)
    }

    /// The extent of at most so many tokens, at the end that is kept.
    pub(super) fn extent(self, tokens: usize, at_most: Option<usize>) -> Extent {
        Extent {
            tokens: tokens.min(at_most.unwrap_or(usize::MAX)),
            side: self.side,
        }
    }
}

/// A pair was longer than allowed, and truncation was not wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong {
    /// Tokens of the pair, specials included.
    pub tokens: usize,
    /// Whether that is all of them. They are not counted to the end if there are many more than
    /// allowed.
    pub are_all: bool,
    /// Tokens that were allowed.
    pub limit: usize,
}
