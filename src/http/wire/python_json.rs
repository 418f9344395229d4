//! Says what is wrong with malformed JSON in the words of Python's `json` module.
//!
//! `serde_json` decides whether a body is valid. Only when it refuses does this scanner walk the
//! text again, to find the message and the offset that `json.JSONDecodeError` of Python 3.11 would
//! carry, because `FastAPI` puts both into the 422 that callers see. Python also takes `NaN` and
//! `Infinity`; as no JSON answer could echo them, they are refused here like any other non-value.

/// What `json.JSONDecodeError` says: its `msg` and its `pos`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    /// Python's message without the position.
    pub(super) message: &'static str,
    /// Counted in characters, not bytes, from the start of the text.
    pub(super) offset: usize,
}

/// Finds the first fault of a text that is not JSON.
pub(super) fn explain(text: &str) -> Fault {
    let mut scanner = Scanner {
        bytes: text.as_bytes(),
        at: 0,
    };
    // A text without a fault does not come here; were there one, its start is as good as any.
    let fault = scanner.document().err().unwrap_or(Fault {
        message: EXPECTING_VALUE,
        offset: 0,
    });
    let before = text.as_bytes().iter().take(fault.offset);
    Fault {
        offset: before.filter(|&&byte| !is_continuation(byte)).count(),
        ..fault
    }
}

const EXPECTING_VALUE: &str = "Expecting value";
const EXPECTING_NAME: &str = "Expecting property name enclosed in double quotes";
const EXPECTING_COLON: &str = "Expecting ':' delimiter";
const EXPECTING_COMMA: &str = "Expecting ',' delimiter";
const EXTRA_DATA: &str = "Extra data";
const UNTERMINATED: &str = "Unterminated string starting at";
const CONTROL_CHARACTER: &str = "Invalid control character at";
const INVALID_ESCAPE: &str = "Invalid \\escape";
const INVALID_UNICODE_ESCAPE: &str = "Invalid \\uXXXX escape";

/// A byte of a UTF-8 sequence other than its first.
fn is_continuation(byte: u8) -> bool {
    byte & 0b1100_0000 == 0b1000_0000
}

/// What an unclosed bracket waits for. Kept in a list, not on the call stack: the body decides how
/// deep it is.
#[derive(Clone, Copy)]
enum Container {
    Array,
    Object,
}

/// A position in the text; faults carry byte offsets until [`explain`] counts characters.
struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    /// One value and nothing after it.
    fn document(&mut self) -> Result<(), Fault> {
        let mut open = Vec::new();
        self.skip_whitespace();
        loop {
            if let Some(container) = self.value()? {
                open.push(container);
                continue;
            }
            if !self.next_value(&mut open)? {
                break;
            }
        }
        self.skip_whitespace();
        if self.peek().is_some() {
            return Err(self.fault(EXTRA_DATA));
        }
        Ok(())
    }

    /// After a value: closes what ends here, and moves to the next value if there is one.
    fn next_value(&mut self, open: &mut Vec<Container>) -> Result<bool, Fault> {
        while let Some(&container) = open.last() {
            self.skip_whitespace();
            match (container, self.peek()) {
                (Container::Array, Some(b']')) | (Container::Object, Some(b'}')) => {
                    self.at += 1;
                    open.pop();
                }
                (Container::Array, Some(b',')) => {
                    self.at += 1;
                    self.skip_whitespace();
                    return Ok(true);
                }
                (Container::Object, Some(b',')) => {
                    self.at += 1;
                    self.name()?;
                    return Ok(true);
                }
                _ => return Err(self.fault(EXPECTING_COMMA)),
            }
        }
        Ok(false)
    }

    /// A whole scalar or empty container, or the start of a container with something in it.
    fn value(&mut self) -> Result<Option<Container>, Fault> {
        match self.peek() {
            Some(b'"') => self.string().map(|()| None),
            Some(b'[') => Ok(self.opens(b']').then_some(Container::Array)),
            Some(b'{') if self.opens(b'}') => self.name().map(|()| Some(Container::Object)),
            Some(b'{') => Ok(None),
            _ => self.scalar().map(|()| None),
        }
    }

    /// Steps over a bracket; if its partner follows at once, over that too, and says false.
    fn opens(&mut self, close: u8) -> bool {
        self.at += 1;
        self.skip_whitespace();
        let is_empty = self.peek() == Some(close);
        self.at += usize::from(is_empty);
        !is_empty
    }

    /// The name of a member and its colon.
    fn name(&mut self) -> Result<(), Fault> {
        self.skip_whitespace();
        if self.peek() != Some(b'"') {
            return Err(self.fault(EXPECTING_NAME));
        }
        self.string()?;
        self.skip_whitespace();
        if self.peek() != Some(b':') {
            return Err(self.fault(EXPECTING_COLON));
        }
        self.at += 1;
        self.skip_whitespace();
        Ok(())
    }

    /// A literal or a number.
    fn scalar(&mut self) -> Result<(), Fault> {
        let rest = &self.bytes[self.at..];
        let literals: [&[u8]; 3] = [b"null", b"true", b"false"];
        let literal = literals.into_iter().find(|word| rest.starts_with(word));
        let length = literal.map_or_else(|| number_length(rest), <[u8]>::len);
        if length == 0 {
            return Err(self.fault(EXPECTING_VALUE));
        }
        self.at += length;
        Ok(())
    }

    /// A string with its quotes.
    fn string(&mut self) -> Result<(), Fault> {
        let unterminated = self.fault(UNTERMINATED);
        self.at += 1;
        loop {
            match self.peek() {
                None => return Err(unterminated),
                Some(b'"') => break,
                Some(b'\\') => self.escape(unterminated)?,
                Some(0..0x20) => return Err(self.fault(CONTROL_CHARACTER)),
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        Ok(())
    }

    /// A backslash and what belongs to it. Surrogates need no partner, neither here nor in Python.
    fn escape(&mut self, unterminated: Fault) -> Result<(), Fault> {
        match self.bytes.get(self.at + 1) {
            None => Err(unterminated),
            Some(b'u') => {
                // CPython's scanner wants the character after the digits before it reads them.
                let digits = self.bytes.get(self.at + 2..self.at + 7).map(|it| &it[..4]);
                if !digits.is_some_and(|four| four.iter().all(u8::is_ascii_hexdigit)) {
                    self.at += 1;
                    return Err(self.fault(INVALID_UNICODE_ESCAPE));
                }
                self.at += 6;
                Ok(())
            }
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(_) => Err(self.fault(INVALID_ESCAPE)),
        }
    }

    fn skip_whitespace(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// A fault at the current position.
    fn fault(&self, message: &'static str) -> Fault {
        Fault {
            message,
            offset: self.at,
        }
    }
}

/// Length of the longest number at the start, 0 if there is none. Like Python it stops before what
/// does not fit (`1.` is a 1 with extra data), and never fails for it.
fn number_length(text: &[u8]) -> usize {
    let sign = usize::from(text.first() == Some(&b'-'));
    let integer = match text.get(sign) {
        Some(b'0') => 1,
        Some(_) => digits(&text[sign..]),
        None => 0,
    };
    if integer == 0 {
        return 0;
    }
    let mut length = sign + integer;
    if text.get(length) == Some(&b'.') {
        length += part_length(text, length, 1);
    }
    if matches!(text.get(length), Some(b'e' | b'E')) {
        let is_signed = matches!(text.get(length + 1), Some(b'+' | b'-'));
        length += part_length(text, length, 1 + usize::from(is_signed));
    }
    length
}

/// Length of a fraction or exponent at `start` whose digits come after `prefix` bytes; 0 if there
/// are no digits.
fn part_length(text: &[u8], start: usize, prefix: usize) -> usize {
    match digits(text.get(start + prefix..).unwrap_or_default()) {
        0 => 0,
        n_digits => prefix + n_digits,
    }
}

/// Number of leading decimal digits.
fn digits(text: &[u8]) -> usize {
    text.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;

    #[track_caller]
    fn check(text: &str, message: &'static str, offset: usize) {
        assert_eq!(explain(text), Fault { message, offset }, "{text:?}");
    }

    // The messages of whole requests are compared with Python's in the fixture of the parent.
    #[test]
    fn offsets_count_characters() {
        check("[\"é😀\", x]", EXPECTING_VALUE, 7);
        check("\u{a0}[]", EXPECTING_VALUE, 0);
        check("[\"😀\\ud800\\u12", INVALID_UNICODE_ESCAPE, 10);
        check("{\"é\" 1}", EXPECTING_COLON, 5);
    }

    #[test]
    fn what_python_takes_beyond_json_is_no_value() {
        for (text, offset) in [("NaN", 0), ("[Infinity]", 1), ("{\"a\":-Infinity}", 5)] {
            check(text, EXPECTING_VALUE, offset);
        }
    }

    proptest! {
        /// Otherwise a refused body could be left without an explanation.
        #[test]
        fn finds_a_fault_where_the_parser_does(
            text in "([\\[\\]{}:,\"]|\\\\[u\"n]|[ \\n\u{1}é]|-|[0-9.eE+a]|true|\"a\":?|null){0,12}",
        ) {
            let mut scanner = Scanner { bytes: text.as_bytes(), at: 0 };
            let parsed = serde_json::from_str::<IgnoredAny>(&text);
            prop_assert_eq!(scanner.document().is_ok(), parsed.is_ok());
        }
    }
}
