//! 8-bit integers: how weights and activations are rounded to them, and sums turned back into numbers.
//!
//! **Scheme.** Weights have one scale per output (symmetric, ±127), activations one scale and one zero point per row, taken from
//! that row as it comes (0 to 255); sums are exact in i32. So a row's result depends on that row alone, and is the same to
//! the last bit whichever instructions add it up.
//!
//! **Outliers.** Transformers have a few channels that are tens of times larger than the rest, always the same ones (Bondarenko et
//! al. 2021, Dettmers et al. 2022); with one scale for the row they leave the others a handful of steps. So both operands
//! are rotated before they are rounded: the inner dimension is multiplied by a matrix R that is orthonormal up to a
//! factor, which changes nothing in exact arithmetic (`W·x = (W·R)·(Rᵀ·x)`) and spreads each outlier over 64 channels (`QuaRot`, Ashkboos et
//! al. 2024). R is a Walsh-Hadamard transform after a fixed pattern of signs, so it costs six additions per number
//! and needs no calibration. Where the input is the output of a layer norm, its shift is taken off first, and the shift's
//! product with the weights added to the bias: some outliers are the same in every row, and those cost nothing then.

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
pub(in crate::ops) fn mixed(width: usize) -> usize {
    MAX_MIXED.min(1 << width.trailing_zeros())
}

/// Multiplies rows by R, without the factor `1 / √mixed(width)` that would make it orthonormal.
#[derive(Default)]
pub(in crate::ops) struct Rotation {
    /// Sign bits that each channel's are flipped by: a fixed pattern, so that what is alike in neighbouring channels (a mean,
    /// say) is spread too and not gathered in one place.
    signs: Vec<u32>,
    rotated: Vec<f32>,
}

impl Rotation {
    /// The row less its center (if there is one), rotated, followed by zeros up to this length.
    pub(in crate::ops) fn apply(&mut self, row: &[f32], center: &[f32], length: usize) -> &[f32] {
        for i in (0u32..).take(row.len()).skip(self.signs.len()) {
            let mixed = i.wrapping_mul(0x9E37_79B9) ^ i.wrapping_mul(0x85EB_CA6B).rotate_left(13);
            self.signs.push(mixed & 0x8000_0000);
        }
        self.rotated.resize(length, 0.0);
        self.rotated[row.len()..].fill(0.0);
        simd::run(Rotate {
            row,
            center,
            signs: &self.signs,
            out: &mut self.rotated[..row.len()],
        });
        &self.rotated
    }
}

/// Rounds a row to 0 ... 255, the zero point on an integer so that zero stays zero, and puts `depth` of them into each word
/// (see [`super::rows`]). The row must be whole words. One with a number that is not finite gets a scale that is not.
pub(in crate::ops) fn round_row(row: &[f32], depth: usize, words: &mut [u32]) -> Rounding {
    simd::run(RoundRow { row, depth, words })
}

/// Rounds a row to -127 ... 127 and returns the scale.
pub(in crate::ops) fn round_weights(row: &[f32], out: &mut [i8]) -> f32 {
    simd::run(RoundWeights { row, out })
}

/// The least and the greatest of a row and zero. The third is zero if all are finite, else NaN, which comparisons pass over.
#[inline(always)]
fn range<S: Simd>(simd: S, row: &[f32]) -> (f32, f32, f32) {
    let zero = simd.splat_f32s(0.0);
    let (vectors, tail) = S::as_simd_f32s(row);
    let (mut low, mut high, mut poison) = (zero, zero, zero);
    for &x in vectors {
        (low, high) = (simd.min_f32s(x, low), simd.max_f32s(x, high));
        poison = simd.mul_add_f32s(x, zero, poison);
    }
    let low = tail
        .iter()
        .copied()
        .fold(simd.reduce_min_f32s(low), f32::min);
    let high = tail
        .iter()
        .copied()
        .fold(simd.reduce_max_f32s(high), f32::max);
    let tail = tail.iter().map(|x| x * 0.0).sum::<f32>();
    (low, high, simd.reduce_sum_f32s(poison) + tail)
}

/// `scale · scales[j] · (sums[j] - zero · weight_sums[j])`, as the bits of f32 in the place of the sums.
#[inline(always)]
pub(in crate::ops) fn restore(
    sums: &mut [u32],
    rounding: Rounding,
    scales: &[f32],
    weight_sums: &[i32],
) {
    let Rounding { scale, zero } = rounding;
    for ((sum, &s), &w) in sums.iter_mut().zip(scales).zip(weight_sums) {
        let exact = sum.cast_signed().wrapping_sub(zero.wrapping_mul(w));
        *sum = (exact as f32 * (scale * s)).to_bits();
    }
}

struct Rotate<'a> {
    row: &'a [f32],
    center: &'a [f32],
    signs: &'a [u32],
    out: &'a mut [f32],
}

impl WithSimd for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let signed = self.row.iter().zip(self.signs).zip(self.out.iter_mut());
        if self.center.is_empty() {
            for ((x, sign), out) in signed {
                *out = f32::from_bits(x.to_bits() ^ sign);
            }
        } else {
            for (((x, sign), out), center) in signed.zip(self.center) {
                *out = f32::from_bits((x - center).to_bits() ^ sign);
            }
        }
        let mixed = mixed(self.out.len());
        if (self.out.len() / mixed).is_multiple_of(S::F32_LANES) {
            let (vectors, _) = S::as_mut_simd_f32s(self.out);
            transform(vectors, mixed, |a, b| {
                (simd.add_f32s(a, b), simd.sub_f32s(a, b))
            });
        } else {
            transform(self.out, mixed, |a, b| (a + b, a - b));
        }
    }
}

/// Walsh-Hadamard transforms of `mixed` channels each. They lie a stride apart, so that whole vectors are added and
/// subtracted. Two steps at a time: half as many loads and stores.
#[inline(always)]
fn transform<T: Copy>(row: &mut [T], mixed: usize, sum_difference: impl Fn(T, T) -> (T, T)) {
    let stride = row.len() / mixed;
    let mut block = row.len();
    while block >= 4 * stride {
        for part in row.chunks_exact_mut(block) {
            let (low, high) = part.split_at_mut(block / 2);
            let (a, b) = low.split_at_mut(block / 4);
            let (c, d) = high.split_at_mut(block / 4);
            for (((a, b), c), d) in a.iter_mut().zip(b).zip(c).zip(d) {
                let ((ac, a_c), (bd, b_d)) = (sum_difference(*a, *c), sum_difference(*b, *d));
                (*a, *b) = sum_difference(ac, bd);
                (*c, *d) = sum_difference(a_c, b_d);
            }
        }
        block /= 4;
    }
    if block == 2 * stride {
        for part in row.chunks_exact_mut(block) {
            let (a, b) = part.split_at_mut(stride);
            for (a, b) in a.iter_mut().zip(b) {
                (*a, *b) = sum_difference(*a, *b);
            }
        }
    }
}

struct RoundWeights<'a> {
    row: &'a [f32],
    out: &'a mut [i8],
}

impl WithSimd for RoundWeights<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let (low, high, poison) = range(simd, self.row);
        let largest = high.max(-low);
        let scale = if largest > 0.0 { largest / 127.0 } else { 1.0 };
        for (out, x) in self.out.iter_mut().zip(self.row) {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "within ±127 by the choice of the scale"
            )]
            let integer = (x / scale).round_ties_even() as i8;
            *out = integer;
        }
        scale + poison
    }
}

struct RoundRow<'a> {
    row: &'a [f32],
    depth: usize,
    words: &'a mut [u32],
}

impl WithSimd for RoundRow<'_> {
    type Output = Rounding;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Rounding {
        // Adding 1.5 · 2²³ rounds to an integer and leaves it in the low bits.
        const ROUND: f32 = 12_582_912.0;
        let (low, high, poison) = range(simd, self.row);
        let scale = if high > low {
            (high - low) / 255.0
        } else {
            1.0
        };
        let inverse = 1.0 / scale;
        let zero = (-low * inverse).round_ties_even();
        let round = |x: f32| {
            let integer = x.mul_add(inverse, zero);
            let integer = if integer > 0.0 { integer } else { 0.0 };
            let integer = if integer < 255.0 { integer } else { 255.0 };
            (integer + ROUND).to_bits() & 0xff
        };
        let mut parts = self.row.chunks_exact(self.words.len());
        let mut next = || parts.next().unwrap_or_default();
        if self.depth == 4 {
            let parts = next().iter().zip(next()).zip(next()).zip(next());
            for (word, (((&a, &b), &c), &d)) in self.words.iter_mut().zip(parts) {
                *word = round(a) | round(b) << 8 | round(c) << 16 | round(d) << 24;
            }
        } else {
            for (word, (&a, &b)) in self.words.iter_mut().zip(next().iter().zip(next())) {
                *word = round(a) | round(b) << 16;
            }
        }
        #[expect(clippy::cast_possible_truncation, reason = "0 to 255")]
        let zero = zero as i32;
        Rounding {
            scale: scale + poison,
            zero,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(len: usize) -> Vec<f32> {
        (0..len)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) / 30.0)
            .collect()
    }

    #[test]
    fn rotating_keeps_products_over_odd_widths() {
        for width in [1, 2, 3, 4, 6, 8, 20, 32, 64, 96, 192, 256, 257, 1024, 4096] {
            let (x, w) = (wave(width), wave(width + 7)[7..].to_vec());
            let dot = |a: &[f32], b: &[f32]| -> f64 {
                a.iter()
                    .zip(b)
                    .map(|(&a, &b)| f64::from(a) * f64::from(b))
                    .sum()
            };
            let mut rotation = Rotation::default();
            let (rx, rw) = (
                rotation.apply(&x, &[], width).to_vec(),
                rotation.apply(&w, &[], width).to_vec(),
            );
            let (got, want) = (dot(&rx, &rw) / mixed(width) as f64, dot(&x, &w));
            assert!(
                (got - want).abs() < 1e-4 * (1.0 + want.abs()),
                "{width}: {got}, not {want}"
            );
        }
    }

    #[test]
    fn an_outlier_is_spread() {
        let mut row = vec![0.0; 1024];
        row[77] = 64.0;
        let mut rotation = Rotation::default();
        let rotated = rotation.apply(&row, &[], 1024);
        assert!(
            rotated
                .iter()
                .filter(|x| (x.abs() - 64.0).abs() < 1e-6)
                .count()
                == 64
        );
        let level = [1.0; 1024];
        let largest = rotation
            .apply(&level, &[], 1024)
            .iter()
            .fold(0.0f32, |m, x| m.max(x.abs()));
        assert!(
            largest < 40.0,
            "a constant is gathered in one place: {largest}"
        );
    }

    #[test]
    fn rounding_is_within_half_a_step_and_keeps_zero() {
        for row in [
            wave(100),
            vec![0.0; 5],
            vec![3.0; 7],
            vec![-1e-30, 1e-30, 0.0, 0.0],
            vec![1e30, -2e30, 0.0, 1.0],
        ] {
            for depth in [2, 4] {
                let steps = row.len() / depth;
                let mut words = vec![0; steps];
                let Rounding { scale, zero } = round_row(&row[..steps * depth], depth, &mut words);
                for (i, &x) in row[..steps * depth].iter().enumerate() {
                    let byte = words[i % steps] >> (i / steps * 32 / depth) & 0xff;
                    let restored = (byte.cast_signed() - zero) as f32 * scale;
                    assert!(
                        (restored - x).abs() <= scale * 0.501,
                        "{x} became {restored}"
                    );
                    assert!(x != 0.0 || restored == 0.0);
                }
            }
        }
        for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [0, 99] {
                let mut row = wave(100);
                row[place] = poison;
                assert!(!round_row(&row, 4, &mut [0; 25]).scale.is_finite());
            }
        }
    }
}
