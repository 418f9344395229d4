//! Whole numbers. As with `pydantic` in its lax mode, strings, integral floats and booleans pass
//! for integers. A value below zero is refused, which is our own choice: nothing here counts below
//! it.

use serde_json::value::RawValue;

use super::{json::text, violation::Problem};

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

/// A string that holds an integer: white space around it, a sign, leading zeros and a fraction of
/// zeros are accepted, as `pydantic` does.
fn integer_in_string(text: &str) -> Result<usize, Problem> {
    let text = text.trim();
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (digits, fraction) = unsigned.split_once('.').unwrap_or((unsigned, "0"));
    let is_integral = !fraction.is_empty() && fraction.bytes().all(|byte| byte == b'0');
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_integral || !is_number {
        return Err(Problem::NoIntegerInString);
    }
    if text.starts_with('-') {
        return not_positive(digits);
    }
    Ok(saturating(digits))
}

/// What follows a minus sign: zero is as good as without it.
fn not_positive(digits: &str) -> Result<usize, Problem> {
    if digits.bytes().all(|digit| digit == b'0') {
        Ok(0)
    } else {
        Err(Problem::Negative)
    }
}

/// The value of decimal digits.
fn saturating(digits: &str) -> usize {
    digits.parse().unwrap_or(usize::MAX)
}
