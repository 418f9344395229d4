//! 8-bit integers: how weights and activations are quantized, and sums dequantized.
//!
//! **Scheme.** Weights have one scale per output (symmetric, ±127), activations one scale and one
//! zero point per row, taken from that row as it comes (0 to 255); sums are exact in i32. So a
//! row's result depends on that row alone, and is the same to the last bit whichever instructions
//! add it up.
//!
//! **Outliers.** Transformers have a few channels that are tens of times larger than the rest,
//! always the same ones (Bondarenko et al. 2021, Dettmers et al. 2022); with one scale for the row
//! they leave the others a handful of steps. So both operands are rotated before they are
//! quantized: the inner dimension is multiplied by a matrix R that is orthonormal up to a factor,
//! which changes nothing in exact arithmetic (`W·x = (W·R)·(Rᵀ·x)`) and spreads each outlier over
//! 64 channels (`QuaRot`, Ashkboos et al. 2024). R is a Walsh-Hadamard transform after a fixed
//! pattern of signs, so it costs six additions per number and needs no calibration. Where the input
//! is the output of a layer norm, its shift is taken off first, and the shift's product with the
//! weights added to the bias: some outliers are the same in every row, and those cost nothing then.

use pulp::Simd;

/// Channels that are mixed with one another, at most. Always a power of two that divides the width.
const MAX_MIXED: usize = 64;
/// How far apart these lie in rows that divide so, a whole number of vectors; in others it is as
/// far as the row lets them.
const STRIDE: usize = 16;

/// How the numbers of one row were quantized: `number ≈ scale · (integer - zero_point)`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct QuantParams {
    pub(crate) scale: f32,
    pub(crate) zero_point: i32,
}

/// How many channels are mixed in rows of this width.
pub(crate) fn mixed(width: usize) -> usize {
    MAX_MIXED.min(1 << width.trailing_zeros())
}

/// Multiplies rows by R, without the factor `1 / √mixed(width)` that would make it orthonormal.
#[derive(Default)]
pub(crate) struct Rotation {
    /// A zero per channel, whose sign its numbers' are flipped by: a fixed pattern, so that what is
    /// alike in neighbouring channels (a mean, say) is spread too and not gathered in one place.
    signs: Vec<f32>,
    rotated: Vec<f32>,
}

impl Rotation {
    /// The row less its mean shift (if there is one), rotated, followed by zeros up to this length;
    /// and the range of that.
    #[inline(always)]
    pub(crate) fn apply<S: Simd>(
        &mut self,
        simd: S,
        row: &[f32],
        mean_shift: &[f32],
        length: usize,
    ) -> (&[f32], MinMax) {
        for i in (0u32..).take(row.len()).skip(self.signs.len()) {
            let mixed = i.wrapping_mul(0x9E37_79B9) ^ i.wrapping_mul(0x85EB_CA6B).rotate_left(13);
            self.signs.push(f32::from_bits(mixed & 0x8000_0000));
        }
        self.rotated.resize(length, 0.0);
        let (out, rest) = self.rotated.split_at_mut(row.len());
        rest.fill(0.0);
        let signs = &self.signs[..row.len()];
        let range = if !row.len().is_multiple_of(MAX_MIXED * STRIDE) {
            rotate(row, mean_shift, signs, out)
        } else if mean_shift.is_empty() {
            rotate_vectors::<S, false>(simd, row, row, signs, out)
        } else {
            rotate_vectors::<S, true>(simd, row, mean_shift, signs, out)
        };
        (&self.rotated, range)
    }
}

/// The least and the greatest of some numbers and zero.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct MinMax {
    low: f32,
    high: f32,
    /// Zero if all are finite, else NaN, which comparisons pass over.
    poison: f32,
}

/// Signs, and Walsh-Hadamard transforms of `mixed` channels each.
#[inline(always)]
fn rotate(row: &[f32], mean_shift: &[f32], signs: &[f32], out: &mut [f32]) -> MinMax {
    for (i, (out, (x, sign))) in out.iter_mut().zip(row.iter().zip(signs)).enumerate() {
        let difference = x - mean_shift.get(i).unwrap_or(&0.0);
        *out = f32::from_bits(difference.to_bits() ^ sign.to_bits());
    }
    let mixed = mixed(out.len());
    let stride = if out.len().is_multiple_of(MAX_MIXED * STRIDE) {
        STRIDE
    } else {
        out.len() / mixed
    };
    for group in out.chunks_exact_mut(mixed * stride) {
        let mut block = group.len();
        while block > stride {
            for part in group.chunks_exact_mut(block) {
                let (a, b) = part.split_at_mut(block / 2);
                for (a, b) in a.iter_mut().zip(b) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            block /= 2;
        }
    }
    let mut range = MinMax::default();
    for &x in &*out {
        range.low = range.low.min(x);
        range.high = range.high.max(x);
        range.poison += x * 0.0;
    }
    range
}

/// Does what `rotate` does, with 64 channels that lie 16 apart, in two passes of three steps each:
/// a transform of 64 is one of 8 after another.
#[inline(always)]
fn rotate_vectors<S: Simd, const SHIFTED: bool>(
    simd: S,
    row: &[f32],
    mean_shift: &[f32],
    signs: &[f32],
    out: &mut [f32],
) -> MinMax {
    // Filled by loops: a closure passed to `from_fn` would not have the vector instructions and be
    // called for each.
    let mut x = [simd.splat_f32s(0.0); 8];
    let (mut low, mut high, mut poison) = ([x[0]; 2], [x[0]; 2], [x[0]; 2]);
    let stride = STRIDE / S::F32_LANES;
    let groups = |x| S::as_simd_f32s(x).0.chunks_exact(MAX_MIXED * stride);
    let rows = groups(row).zip(groups(mean_shift)).zip(groups(signs));
    let out = S::as_mut_simd_f32s(out).0;
    for (out, ((row, mean_shift), signs)) in out.chunks_exact_mut(MAX_MIXED * stride).zip(rows) {
        for i in 0..8 * stride {
            for (k, x) in x.iter_mut().enumerate() {
                let at = i + k * 8 * stride;
                let shifted = if SHIFTED {
                    simd.sub_f32s(row[at], mean_shift[at])
                } else {
                    row[at]
                };
                *x = simd.xor_f32s(shifted, signs[at]);
            }
            x = transform_8(simd, x);
            for k in 0..8 {
                out[i + k * 8 * stride] = x[k];
            }
        }
        for part in out.chunks_exact_mut(8 * stride) {
            for i in 0..stride {
                for k in 0..8 {
                    x[k] = part[i + k * stride];
                }
                x = transform_8(simd, x);
                for k in 0..8 {
                    let two = k % 2;
                    low[two] = simd.min_f32s(x[k], low[two]);
                    high[two] = simd.max_f32s(x[k], high[two]);
                    poison[two] = simd.mul_add_f32s(x[k], simd.splat_f32s(0.0), poison[two]);
                    part[i + k * stride] = x[k];
                }
            }
        }
    }
    MinMax {
        low: simd.reduce_min_f32s(simd.min_f32s(low[0], low[1])),
        high: simd.reduce_max_f32s(simd.max_f32s(high[0], high[1])),
        poison: simd.reduce_sum_f32s(simd.add_f32s(poison[0], poison[1])),
    }
}

#[inline(always)]
fn transform_8<S: Simd>(simd: S, mut x: [S::f32s; 8]) -> [S::f32s; 8] {
    for half in [4, 2, 1] {
        for i in 0..8 {
            if i & half == 0 {
                let (a, b) = (x[i], x[i + half]);
                (x[i], x[i + half]) = (simd.add_f32s(a, b), simd.sub_f32s(a, b));
            }
        }
    }
    x
}

/// `scale · weight_scale · (sum - zero_point · weight_sum)`.
#[inline(always)]
pub(crate) fn dequantize(
    sum: u32,
    QuantParams { scale, zero_point }: QuantParams,
    (weight_scale, weight_sum): (f32, i32),
) -> f32 {
    let exact = sum
        .cast_signed()
        .wrapping_sub(zero_point.wrapping_mul(weight_sum));
    exact as f32 * (scale * weight_scale)
}

/// Quantizes a row of this range to -127 ... 127 and returns the scale.
#[inline(always)]
pub(crate) fn quantize_weights((row, range): (&[f32], MinMax), out: &mut [i8]) -> f32 {
    let largest = range.high.max(-range.low);
    let scale = if largest > 0.0 { largest / 127.0 } else { 1.0 };
    for (out, x) in out.iter_mut().zip(row) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "within ±127 by the choice of the scale"
        )]
        let integer = (x / scale).round_ties_even() as i8;
        *out = integer;
    }
    scale + range.poison
}

/// Quantizes a row of this range to 0 ... 255, the zero point on an integer so that zero stays
/// zero, and puts `packing_factor` of them into each lane (see [`super::pack`]). The row must be
/// whole lanes. One with a number that is not finite gets a scale that is not.
#[inline(always)]
pub(crate) fn quantize_row(
    (row, range): (&[f32], MinMax),
    packing_factor: usize,
    lanes: &mut [u32],
) -> QuantParams {
    // Adding 1.5 · 2²³ rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let MinMax { low, high, poison } = range;
    let scale = if high > low {
        (high - low) / 255.0
    } else {
        1.0
    };
    let inverse = 1.0 / scale;
    let zero = (-low * inverse).round_ties_even();
    let quantize = |x: f32| {
        let integer = x.mul_add(inverse, zero);
        let integer = if integer > 0.0 { integer } else { 0.0 };
        let integer = if integer < 255.0 { integer } else { 255.0 };
        (integer + ROUND).to_bits() & 0xff
    };
    let mut parts = row.chunks_exact(lanes.len());
    let mut next = || parts.next().unwrap_or_default();
    if packing_factor == 4 {
        let parts = next().iter().zip(next()).zip(next()).zip(next());
        for (lane, (((&a, &b), &c), &d)) in lanes.iter_mut().zip(parts) {
            *lane = quantize(a) | quantize(b) << 8 | quantize(c) << 16 | quantize(d) << 24;
        }
    } else {
        for (lane, (&a, &b)) in lanes.iter_mut().zip(next().iter().zip(next())) {
            *lane = quantize(a) | quantize(b) << 16;
        }
    }
    #[expect(clippy::cast_possible_truncation, reason = "0 to 255")]
    let zero_point = zero as i32;
    QuantParams {
        scale: scale + poison,
        zero_point,
    }
}

#[cfg(test)]
mod tests {
    use pulp::WithSimd;

    use super::*;
    use crate::ops::simd;

    fn wave(len: usize) -> Vec<f32> {
        (0..len)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) / 30.0)
            .collect()
    }

    fn rotated(rotation: &mut Rotation, row: &[f32]) -> Vec<f32> {
        simd::run(Rotate {
            rotation,
            row,
            mean_shift: &[],
        })
        .0
    }

    struct Rotate<'a> {
        rotation: &'a mut Rotation,
        row: &'a [f32],
        mean_shift: &'a [f32],
    }

    impl WithSimd for Rotate<'_> {
        type Output = (Vec<f32>, MinMax);

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> (Vec<f32>, MinMax) {
            let (rotated, range) =
                self.rotation
                    .apply(simd, self.row, self.mean_shift, self.row.len());
            (rotated.to_vec(), range)
        }
    }

    fn quantized(row: &[f32], packing_factor: usize, lanes: &mut [u32]) -> QuantParams {
        let mut range = MinMax::default();
        for &x in row {
            range.low = range.low.min(x);
            range.high = range.high.max(x);
            range.poison += x * 0.0;
        }
        quantize_row((row, range), packing_factor, lanes)
    }

    #[test]
    fn vectors_are_rotated_as_numbers_are() {
        for width in [64, 192, 1024, 2048, 4096] {
            let (row, mean_shift) = (wave(width), wave(width + 3)[3..].to_vec());
            for mean_shift in [&mean_shift[..], &[]] {
                let mut rotation = Rotation::default();
                let row = &row;
                let fast = simd::run(Rotate {
                    rotation: &mut rotation,
                    row,
                    mean_shift,
                });
                let mut slow = vec![0.0; width];
                let range = rotate(row, mean_shift, &rotation.signs, &mut slow);
                assert_eq!(fast, (slow, range), "{width}");
            }
        }
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
            let (rx, rw) = (rotated(&mut rotation, &x), rotated(&mut rotation, &w));
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
        let spread = rotated(&mut rotation, &row);
        assert!(
            spread
                .iter()
                .filter(|x| (x.abs() - 64.0).abs() < 1e-6)
                .count()
                == 64
        );
        let level = [1.0; 1024];
        let largest = rotated(&mut rotation, &level)
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
            for packing_factor in [2, 4] {
                let steps = row.len() / packing_factor;
                let mut lanes = vec![0; steps];
                let QuantParams { scale, zero_point } =
                    quantized(&row[..steps * packing_factor], packing_factor, &mut lanes);
                for (i, &x) in row[..steps * packing_factor].iter().enumerate() {
                    let byte = lanes[i % steps] >> (i / steps * 32 / packing_factor) & 0xff;
                    let dequantized = (byte.cast_signed() - zero_point) as f32 * scale;
                    assert!(
                        (dequantized - x).abs() <= scale * 0.501,
                        "{x} became {dequantized}"
                    );
                    assert!(x != 0.0 || dequantized == 0.0);
                }
            }
        }
        for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [0, 99] {
                let mut row = wave(100);
                row[place] = poison;
                assert!(!quantized(&row, 4, &mut [0; 25]).scale.is_finite());
            }
        }
    }
}
