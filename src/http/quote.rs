//! What a client sent, made fit to be repeated: in an answer, or on a line of the log.

/// Keeps at most so many characters of a text, with control characters escaped; `…` if there were
/// more.
pub(super) fn cut(text: &str, limit: usize) -> String {
    let mut chars = text.chars();
    let mut quoted: String = chars
        .by_ref()
        .take(limit)
        .flat_map(char::escape_debug)
        .collect();
    if chars.next().is_some() {
        quoted.push('…');
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_long_or_invisible_is_repeated() {
        assert_eq!(cut("/v1/re%20rank", 100), "/v1/re%20rank");
        assert_eq!(cut("éàü", 3), "éàü");
        assert_eq!(cut("éàü", 2), "éà…");
        assert_eq!(
            cut("a\n\u{1b}[31m\u{7f}\u{2028}", 100),
            r"a\n\u{1b}[31m\u{7f}\u{2028}"
        );
        assert_eq!(cut(&"x".repeat(60_000), 100).chars().count(), 101);
    }
}
