//! Reads whole numbers as `pydantic` does in its lax mode, where strings, integral floats and booleans pass for
//! integers. A value below zero is refused, which is our own choice: nothing here counts below it.

use serde_json::value::RawValue;

use super::json::text;
use super::violation::Problem;

/// Longest string taken for an integer, in significant digits: the bound of `pydantic` and Python.
const MAX_INTEGER_DIGITS: usize = 4300;

/// An integer not below zero. Beyond `usize` it is as good as no limit.
pub(super) fn natural(raw: &RawValue) -> Result<usize, Problem> {
    match raw.get().as_bytes().first() {
        Some(b't') => Ok(1),
        Some(b'f') => Ok(0),
        Some(b'"') => integer_in_string(&text(raw)?),
        Some(b'[' | b'{' | b'n') => Err(Problem::NotAnInteger),
        _ => integer_in_number(raw.get()),
    }
}

/// A JSON number. Python reads one with a fraction or an exponent as a `float`, any other as an
/// `int` of any size.
fn integer_in_number(literal: &str) -> Result<usize, Problem> {
    if literal.contains(['.', 'e', 'E']) {
        return integer_in_float(literal.parse().map_err(|_| Problem::NotAnInteger)?);
    }
    match literal.strip_prefix('-') {
        Some(digits) => not_positive(digits),
        None => Ok(saturating(literal)),
    }
}

/// A `float` must be integral and within `i64`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "integral and in 0..2^63; on a 32-bit machine saturation is what is wanted"
)]
fn integer_in_float(number: f64) -> Result<usize, Problem> {
    const I64_BOUND: f64 = 9_223_372_036_854_775_808.0;
    if !number.is_finite() {
        Err(Problem::NotFinite)
    } else if number.fract() != 0.0 {
        Err(Problem::Fractional)
    } else if number.abs() >= I64_BOUND {
        Err(Problem::IntegerTooLarge)
    } else if number < 0.0 {
        Err(Problem::Negative)
    } else {
        Ok(number as usize)
    }
}

/// A string holding an integer, as `pydantic-core` 2.27 reads it: white space around it, one sign,
/// leading zeros, single underscores between digits, and a fraction of zeros are all accepted. Not
/// followed is its reading of `0-1` as -1.
fn integer_in_string(text: &str) -> Result<usize, Problem> {
    let text = text.trim();
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (integer, fraction) = unsigned.split_once('.').unwrap_or((unsigned, "0"));
    let is_integral = !fraction.is_empty() && fraction.bytes().all(|byte| byte == b'0');
    if !is_integral || !integer.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(Problem::NoIntegerInString);
    }
    let significant = significant_digits(integer).ok_or(Problem::NoIntegerInString)?;
    if significant.len() > MAX_INTEGER_DIGITS {
        return Err(Problem::IntegerTooLarge);
    }
    if text.starts_with('-') {
        return not_positive(&significant);
    }
    Ok(saturating(&significant))
}

/// The digits of an integer without leading zeros and underscores; none if it is not one.
fn significant_digits(integer: &str) -> Option<String> {
    let is_zero_padded = integer.starts_with('0');
    let digits = if is_zero_padded {
        // In the padding, and only there, `pydantic` lets underscores pile up.
        integer.trim_start_matches(['0', '_'])
    } else {
        integer
    };
    let is_number = digits.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    if !is_number || integer.ends_with('_') || digits.contains("__") {
        return None;
    }
    Some(digits.replace('_', ""))
}

/// What follows a minus sign: zero is as good as without it.
fn not_positive(digits: &str) -> Result<usize, Problem> {
    if digits.bytes().all(|digit| digit == b'0') {
        Ok(0)
    } else {
        Err(Problem::Negative)
    }
}

/// The value of decimal digits, none meaning 0.
fn saturating(digits: &str) -> usize {
    if digits.is_empty() {
        return 0;
    }
    digits.parse().unwrap_or(usize::MAX)
}
