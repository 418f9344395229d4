//! Rows of activations in the words that a tile reads.
//!
//! The numbers that share a word are a whole row of words apart, not neighbours: word `i` of a row of `n` words holds the numbers
//! `i`, `i + n`, … Which ones share a word is of no consequence as long as both sides agree, and this way words are made
//! of whole vectors, without moving anything between lanes. Numbers that are missing at the end are zero.

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

/// What rows are to become.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Form<'a> {
    pub(in crate::ops) activations: Activations,
    /// What rows vary around, where that is known; integers stand for the difference.
    pub(in crate::ops) center: &'a [f32],
}

impl Form<'_> {
    /// Without a center.
    pub(in crate::ops) fn plain(activations: Activations) -> Self {
        Self {
            activations,
            center: &[],
        }
    }
}

/// Turns rows into words, in memory of its own.
#[derive(Default)]
pub(in crate::ops) struct Encoder {
    rotation: Rotation,
    words: Vec<u32>,
    roundings: Vec<Rounding>,
}

impl Encoder {
    /// Rows side by side, `across` to a panel: `[panel][step][row]`. What remains of the last panel is zero. Returns how
    /// each row was rounded.
    pub(in crate::ops) fn lay_out<'a>(
        &mut self,
        rows: impl ExactSizeIterator<Item = &'a [f32]>,
        form: Form<'_>,
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
            let rounding = self.encode(row, form);
            self.roundings.push(rounding);
            let panel = &mut out[i / across * across * steps..][..across * steps];
            for (step, &word) in panel.chunks_exact_mut(across).zip(&self.words) {
                step[i % across] = word;
            }
        }
        &self.roundings
    }

    /// The words of one row alone, for what is not rounded to integers.
    pub(super) fn words(&mut self, row: &[f32], activations: Activations) -> &[u32] {
        self.encode(row, Form::plain(activations));
        &self.words
    }

    /// Leaves the words of one row, and returns how its numbers were rounded, which matters for integers only.
    fn encode(&mut self, row: &[f32], form: Form<'_>) -> Rounding {
        match form.activations {
            Activations::F32 => {
                self.words.clear();
                self.words.extend(row.iter().map(|x| x.to_bits()));
            }
            Activations::Bf16InF32 => {
                self.words.resize(row.len(), 0);
                simd::run(RoundToBf16(row, &mut self.words));
            }
            Activations::Bf16 => {
                self.words.resize(row.len().div_ceil(2), 0);
                pair_bf16(row, |&x| x, &mut self.words);
            }
            Activations::Int8 => return self.round(row, form.center, 4),
            Activations::Int16 => return self.round(row, form.center, 2),
        }
        Rounding::default()
    }

    fn round(&mut self, row: &[f32], center: &[f32], depth: usize) -> Rounding {
        let steps = row.len().div_ceil(depth);
        self.words.resize(steps, 0);
        int8::round_row(
            self.rotation.apply(row, center, steps * depth),
            depth,
            &mut self.words,
        )
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

/// Numbers to bf16, two to a word: the first of them in the low halves, as many as there are words, the rest in the high ones.
pub(in crate::ops) fn pair_bf16<T>(items: &[T], number: impl Fn(&T) -> f32, words: &mut [u32]) {
    simd::run(PairBf16 {
        items,
        number,
        words,
    });
}

struct PairBf16<'a, T, F> {
    items: &'a [T],
    number: F,
    words: &'a mut [u32],
}

impl<T, F: Fn(&T) -> f32> WithSimd for PairBf16<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let (low, high) = self.items.split_at(self.words.len());
        let (both, odd) = self.words.split_at_mut(high.len());
        for ((word, a), b) in both.iter_mut().zip(low).zip(high) {
            *word = nearest_bf16((self.number)(a)) >> 16 | nearest_bf16((self.number)(b));
        }
        for (word, a) in odd.iter_mut().zip(&low[high.len()..]) {
            *word = nearest_bf16((self.number)(a)) >> 16;
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
        encoder.encode(&odd, Form::plain(Activations::Bf16InF32));
        let words = encoder.words.clone();
        for (&word, &x) in words.iter().zip(&odd) {
            let want = bf16::from_f32(x);
            assert!(
                word == want.to_f32().to_bits() || want.is_nan() && f32::from_bits(word).is_nan(),
                "{x:e}"
            );
        }
        encoder.encode(&odd[..3], Form::plain(Activations::Bf16));
        assert_eq!(encoder.words, [words[0] >> 16 | words[2], words[1] >> 16]);
    }
    #[test]
    fn rows_stand_side_by_side_however_many() {
        let row = |row: u8| (0..7u8).map(move |i| f32::from(row * 7 + i)).collect();
        let rows: Vec<Vec<f32>> = (0..11).map(row).collect();
        for across in [1, 3, 4, 6, 8, 16] {
            let mut out = vec![u32::MAX; rows.len().next_multiple_of(across) * 7];
            let (all, form) = (
                rows.iter().map(Vec::as_slice),
                Form::plain(Activations::F32),
            );
            Encoder::default().lay_out(all, form, across, &mut out);
            for (i, &word) in out.iter().enumerate() {
                let (row, step) = (i / (7 * across) * across + i % across, i / across % 7);
                let want = rows.get(row).map_or(0, |row| row[step].to_bits());
                assert_eq!(word, want, "{across} across, row {row}, step {step}");
            }
        }
    }
}
