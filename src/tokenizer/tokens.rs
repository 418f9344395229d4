//! The tokens of a text, and how many of them can matter.

/// The tokens of one text, without specials, or as many of them as can matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    pub(super) ids: Vec<u32>,
    /// Whether there are no others.
    pub(super) is_whole: bool,
}

impl Tokens {
    pub(super) fn whole(ids: Vec<u32>) -> Self {
        Self {
            ids,
            is_whole: true,
        }
    }

    /// Whether none are missing, if so many are looked at.
    pub(super) fn are_all(&self, looked_at: Option<usize>) -> bool {
        self.is_whole || looked_at.is_some_and(|tokens| self.ids.len() >= tokens)
    }

    pub(super) fn suffice(&self, extent: Extent) -> bool {
        self.is_whole || self.ids.len() >= extent.tokens
    }
}

/// How many of a text's tokens can matter, and at which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The others are of no consequence, and neither is how many there are.
    pub tokens: usize,
    /// The end that is cut off.
    pub side: Side,
}

impl Extent {
    /// Every token.
    pub const WHOLE: Self = Self {
        tokens: usize::MAX,
        side: Side::Right,
    };
}

/// An end of a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Side {
    /// The beginning.
    Left,
    /// The end.
    #[default]
    Right,
}

impl Side {
    /// What remains of a text when this end is cut off until `length` tokens are left.
    pub(super) fn cut(self, tokens: &[u32], length: Option<usize>) -> &[u32] {
        let excess = tokens.len().saturating_sub(length.unwrap_or(usize::MAX));
        match self {
            Self::Left => &tokens[excess..],
            Self::Right => &tokens[..tokens.len() - excess],
        }
    }
}
