//! Rows of activations in the words that a tile reads.

use pulp::{Simd, WithSimd};

use super::int8::{self, Rotation, Rounding};
use crate::ops::simd;

/// What a row is turned into before it meets the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) enum Activations {
    F32,
    /// Two bf16 to a word.
    Bf16,
    /// bf16, each in an f32: the same numbers, for processors that cannot multiply bf16.
    Bf16InF32,
    /// Four 8-bit integers to a word.
    Int8,
    /// The same integers, two to a word.
    Int16,
}

/// Turns rows into words, in memory of its own.
#[derive(Default)]
pub(in crate::ops) struct Encoder {
    rotation: Rotation,
    bytes: Vec<u8>,
    words: Vec<u32>,
    roundings: Vec<Rounding>,
}

impl Encoder {
    /// Rows side by side, `across` to a panel: `[panel][step][row]`. What remains of the last panel is zero. Returns how
    /// each row was rounded.
    pub(in crate::ops) fn lay_out<'a>(
        &mut self,
        rows: impl ExactSizeIterator<Item = &'a [f32]>,
        activations: Activations,
        across: usize,
        out: &mut [u32],
    ) -> &[Rounding] {
        self.roundings.clear();
        let steps = out.len() / rows.len().next_multiple_of(across);
        let filled = rows.len() % across;
        if filled > 0 {
            let last = out.len() - steps * across;
            for step in out[last..].chunks_exact_mut(across) {
                step[filled..].fill(0);
            }
        }
        for (i, row) in rows.enumerate() {
            let rounding = self.encode(row, activations);
            self.roundings.push(rounding);
            let panel = &mut out[i / across * across * steps..][..across * steps];
            for (step, &word) in panel.chunks_exact_mut(across).zip(&self.words) {
                step[i % across] = word;
            }
        }
        &self.roundings
    }

    /// Leaves the words of one row, and returns how its numbers were rounded, which matters for integers only.
    fn encode(&mut self, row: &[f32], activations: Activations) -> Rounding {
        let mut rounding = Rounding::default();
        self.words.clear();
        match activations {
            Activations::F32 => self.words.extend(row.iter().map(|x| x.to_bits())),
            Activations::Bf16InF32 => self.round_to_bf16(row),
            Activations::Bf16 => {
                self.round_to_bf16(row);
                self.join_halves();
            }
            Activations::Int8 => {
                rounding = self.round_to_bytes(row, 4);
                let (quads, _) = self.bytes.as_chunks::<4>();
                self.words
                    .extend(quads.iter().map(|quad| u32::from_le_bytes(*quad)));
            }
            Activations::Int16 => {
                rounding = self.round_to_bytes(row, 2);
                let (pairs, _) = self.bytes.as_chunks::<2>();
                self.words.extend(
                    pairs
                        .iter()
                        .map(|&[a, b]| u32::from(a) | u32::from(b) << 16),
                );
            }
        }
        rounding
    }

    fn round_to_bf16(&mut self, row: &[f32]) {
        self.words.resize(row.len(), 0);
        simd::run(RoundToBf16(row, &mut self.words));
    }

    /// From one bf16 in the upper half of each word to two a word.
    fn join_halves(&mut self) {
        let words = self.words.len().div_ceil(2);
        for i in 0..words {
            let high = self.words.get(2 * i + 1).copied().unwrap_or(0);
            self.words[i] = self.words[2 * i] >> 16 | high;
        }
        self.words.truncate(words);
    }

    /// Leaves a whole number of words' bytes.
    fn round_to_bytes(&mut self, row: &[f32], depth: usize) -> Rounding {
        self.bytes.resize(row.len().next_multiple_of(depth), 0);
        int8::round_row(self.rotation.apply(row), &mut self.bytes)
    }
}

/// The nearest bf16, ties to even, in the upper half of a word.
#[inline(always)]
pub(in crate::ops) fn nearest_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
    // Rounding could carry a NaN's mantissa away.
    if x.is_nan() { 0x7fc0_0000 } else { rounded }
}

struct RoundToBf16<'a>(&'a [f32], &'a mut [u32]);

impl WithSimd for RoundToBf16<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (word, x) in self.1.iter_mut().zip(self.0) {
            *word = nearest_bf16(*x);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn bf16_rounds_as_half_does() {
        let odd: Vec<f32> = (0..1001u32)
            .map(|i| f32::from_bits(i.wrapping_mul(0x9E37_79B9)))
            .chain([0.0, -0.0, f32::NAN, f32::INFINITY, f32::MAX])
            .collect();
        let mut encoder = Encoder::default();
        encoder.encode(&odd, Activations::Bf16InF32);
        let words = encoder.words.clone();
        for (&word, &x) in words.iter().zip(&odd) {
            let want = bf16::from_f32(x);
            assert!(
                word == want.to_f32().to_bits() || want.is_nan() && f32::from_bits(word).is_nan(),
                "{x:e}"
            );
        }
        encoder.encode(&odd[..3], Activations::Bf16);
        assert_eq!(encoder.words, [words[0] >> 16 | words[1], words[2] >> 16]);
    }
}
