//! 8-bit integers: how weights and activations are rounded to them, and sums turned back into numbers.
//!
//! **Scheme.** Weights have one scale per output (symmetric, ±127), activations one scale and one zero point per row, taken from
//! that row as it comes (0 to 255); sums are exact in i32. So a row's result depends on that row alone, and is the same to
//! the last bit whichever instructions add it up.
//!
//! **Outliers.** Transformers have a few channels that are tens of times larger than the rest, always the same ones (Bondarenko et
//! al. 2021, Dettmers et al. 2022); with one scale for the row they leave the others a handful of steps. So both operands
//! are rotated before they are rounded: the inner dimension is multiplied by a matrix R that is orthonormal up to a
//! factor, which changes nothing in exact arithmetic (`W·x = (W·R)·(Rᵀ·x)`) and spreads each outlier over 64 channels (QuaRot, Ashkboos et
//! al. 2024). R is a Walsh-Hadamard transform after a fixed pattern of signs, so it costs six additions per number
//! and needs no calibration.

use pulp::{Simd, WithSimd};

use crate::ops::simd;

/// Channels that are mixed with one another, at most. Always a power of two that divides the width.
const MAX_MIXED: usize = 64;

/// How the numbers of one row were rounded: `number ≈ scale · (integer - zero)`.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::ops) struct Rounding {
    pub(in crate::ops) scale: f32,
    pub(in crate::ops) zero: i32,
}

/// How many channels are mixed in rows of this width.
pub(super) fn mixed(width: usize) -> usize {
    MAX_MIXED.min(1 << width.trailing_zeros())
}

/// Multiplies a row by R, without the factor `1 / √mixed(width)` that would make it orthonormal.
pub(super) fn rotate(row: &mut [f32]) {
    simd::run(Rotate(row));
}

/// Rounds a row to 0 ... 255, the zero point on an integer so that zero stays zero. A row with a number that is not
/// finite gets a scale that is not finite.
pub(super) fn round_row(row: &[f32], out: &mut [u8]) -> Rounding {
    simd::run(RoundRow { row, out })
}

/// Rounds a row to -127 ... 127 and returns the scale.
pub(super) fn round_weights(row: &[f32], out: &mut [i8]) -> f32 {
    let largest = row.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let scale = if largest > 0.0 { largest / 127.0 } else { 1.0 };
    for (out, x) in out.iter_mut().zip(row) {
        #[expect(clippy::cast_possible_truncation, reason = "within ±127 by the choice of the scale")]
        let integer = (x / scale).round_ties_even() as i8;
        *out = integer;
    }
    scale
}

/// `scale · scales[j] · (sums[j] - zero · weight_sums[j])`, as the bits of f32 in the place of the sums.
#[inline(always)]
pub(super) fn restore(sums: &mut [u32], rounding: Rounding, scales: &[f32], weight_sums: &[i32]) {
    let Rounding { scale, zero } = rounding;
    for ((sum, &s), &w) in sums.iter_mut().zip(scales).zip(weight_sums) {
        let exact = sum.cast_signed().wrapping_sub(zero.wrapping_mul(w));
        *sum = (exact as f32 * (scale * s)).to_bits();
    }
}

struct Rotate<'a>(&'a mut [f32]);

impl WithSimd for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        flip_signs(self.0);
        let width = self.0.len();
        let blocks = width / mixed(width);
        let mut half = width / 2;
        // The mixed channels lie far apart, so that each step adds and subtracts whole vectors.
        while half >= blocks && half > 0 {
            for pair in self.0.chunks_exact_mut(2 * half) {
                let (low, high) = pair.split_at_mut(half);
                for (a, b) in low.iter_mut().zip(high) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half /= 2;
        }
    }
}

/// A fixed pattern, so that what is alike in neighbouring channels (a mean, say) is spread too and not gathered in one place.
#[inline(always)]
fn flip_signs(row: &mut [f32]) {
    for (i, x) in (0u32..).zip(row) {
        let sign = i.wrapping_mul(0x9E37_79B9) ^ i.wrapping_mul(0x85EB_CA6B).rotate_left(13);
        *x = f32::from_bits(x.to_bits() ^ (sign & 0x8000_0000));
    }
}

struct RoundRow<'a> {
    row: &'a [f32],
    out: &'a mut [u8],
}

impl WithSimd for RoundRow<'_> {
    type Output = Rounding;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Rounding {
        // Adding 1.5 · 2²³ rounds to an integer and leaves it in the low bits.
        const ROUND: f32 = 12_582_912.0;
        let (low, high) = (simd::min(self.row).min(0.0), simd::max(self.row).max(0.0));
        // Zero times anything finite is zero; NaN and infinity become NaN, which the comparisons above pass over.
        let poison = simd::sum(self.row, |x| x * 0.0);
        let scale = if high > low { (high - low) / 255.0 } else { 1.0 };
        let inverse = 1.0 / scale;
        let zero = (-low * inverse).round_ties_even();
        for (out, &x) in self.out.iter_mut().zip(self.row) {
            let integer = x.mul_add(inverse, zero);
            let integer = if integer > 0.0 { integer } else { 0.0 };
            let integer = if integer < 255.0 { integer } else { 255.0 };
            #[expect(clippy::cast_possible_truncation, reason = "the low byte holds the integer")]
            let byte = (integer + ROUND).to_bits() as u8;
            *out = byte;
        }
        #[expect(clippy::cast_possible_truncation, reason = "0 to 255")]
        let zero = zero as i32;
        Rounding { scale: scale + poison, zero }
    }
}
