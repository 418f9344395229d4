//! Rows of activations in the words that a tile reads.
//!
//! The numbers that share a word are a whole row of words apart, not neighbours: word `i` of a row of `n` words holds the numbers
//! `i`, `i + n`, … Which ones share a word is of no consequence as long as both sides agree, and this way words are made
//! of whole vectors, without moving anything between lanes. Numbers that are missing at the end are zero.

use pulp::{Simd, WithSimd};

use super::{
    int8::{self, Rotation, Rounding},
    prefetch::prefetch,
};
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

impl Activations {
    /// How many share a word.
    fn depth(self) -> usize {
        match self {
            Self::F32 | Self::Bf16InF32 => 1,
            Self::Bf16 | Self::Int16 => 2,
            Self::Int8 => 4,
        }
    }
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
        rows: impl ExactSizeIterator<Item = &'a [f32]> + Clone,
        form: Form<'_>,
        across: usize,
        out: &mut [u32],
    ) -> &[Rounding] {
        simd::run(LayOut {
            encoder: self,
            rows,
            form,
            across,
            out,
        });
        &self.roundings
    }

    /// The words of one row alone, for what is not rounded to integers.
    pub(super) fn words(&mut self, row: &[f32], activations: Activations) -> Vec<u32> {
        let mut words = vec![0; row.len().div_ceil(activations.depth())];
        self.lay_out([row].into_iter(), Form::plain(activations), 1, &mut words);
        words
    }
}

/// The words of one row, and how its numbers were rounded, which matters for integers only.
#[inline(always)]
fn encode<S: Simd>(
    rotation: &mut Rotation,
    simd: S,
    row: &[f32],
    form: Form<'_>,
    words: &mut [u32],
) -> Rounding {
    match form.activations {
        Activations::F32 => {
            for (word, x) in words.iter_mut().zip(row) {
                *word = x.to_bits();
            }
        }
        Activations::Bf16InF32 => {
            for (word, &x) in words.iter_mut().zip(row) {
                *word = nearest_bf16(x);
            }
        }
        Activations::Bf16 => {
            let (low, high) = row.split_at(words.len());
            pair_bf16(low, high, words);
        }
        Activations::Int8 | Activations::Int16 => {
            let depth = form.activations.depth();
            let rotated = rotation.apply(simd, row, form.center, words.len() * depth);
            return int8::round_row(rotated, depth, words);
        }
    }
    Rounding::default()
}

struct LayOut<'a, 'b, R> {
    encoder: &'a mut Encoder,
    rows: R,
    form: Form<'b>,
    across: usize,
    out: &'a mut [u32],
}

impl<'c, R: ExactSizeIterator<Item = &'c [f32]> + Clone> WithSimd for LayOut<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            encoder,
            rows,
            form,
            across,
            out,
        } = self;
        encoder.roundings.clear();
        let steps = out.len() / rows.len().next_multiple_of(across);
        let filled = rows.len() % across;
        if filled > 0 {
            let last = out.len() - steps * across;
            for step in out[last..].chunks_exact_mut(across) {
                step[filled..].fill(0);
            }
        }
        encoder.words.resize(across * steps, 0);
        // Rows come from far away and are read here and there: each is asked for a panel ahead.
        let mut ahead = rows.clone().skip(across);
        let mut rows = rows;
        for panel in out.chunks_exact_mut(across * steps) {
            let mut filled = 0;
            for (words, row) in encoder.words.chunks_exact_mut(steps).zip(rows.by_ref()) {
                prefetch(ahead.next());
                let rounding = encode(&mut encoder.rotation, simd, row, form, words);
                encoder.roundings.push(rounding);
                filled += 1;
            }
            let words = &encoder.words[..filled * steps];
            // A number of rows that is known to the compiler makes it a few shuffles; the sizes are those of the AVX-512 tiles.
            match filled {
                6 if across == 6 => interleave::<6>(words, panel),
                8 if across == 8 => interleave::<8>(words, panel),
                _ => {
                    for (i, words) in words.chunks_exact(steps).enumerate() {
                        for (step, &word) in panel.chunks_exact_mut(across).zip(words) {
                            step[i] = word;
                        }
                    }
                }
            }
        }
    }
}

/// From `[row][step]` to `[step][row]`, for a whole panel.
#[inline(always)]
fn interleave<const N: usize>(words: &[u32], panel: &mut [u32]) {
    let (panel, _) = panel.as_chunks_mut::<N>();
    let steps = panel.len();
    let rows: [&[u32]; N] = std::array::from_fn(|i| &words[i * steps..][..steps]);
    for step in 0..steps {
        for i in 0..N {
            panel[step][i] = rows[i][step];
        }
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

/// Numbers to bf16, two to a word: `low` in the low halves and `high`, which may be shorter by one, in the high ones.
#[inline(always)]
pub(in crate::ops) fn pair_bf16(low: &[f32], high: &[f32], words: &mut [u32]) {
    let (both, odd) = words.split_at_mut(high.len());
    for ((word, &a), &b) in both.iter_mut().zip(low).zip(high) {
        *word = nearest_bf16(a) >> 16 | nearest_bf16(b);
    }
    for (word, &a) in odd.iter_mut().zip(&low[high.len()..]) {
        *word = nearest_bf16(a) >> 16;
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
        let words = encoder.words(&odd, Activations::Bf16InF32);
        for (&word, &x) in words.iter().zip(&odd) {
            let want = bf16::from_f32(x);
            assert!(
                word == want.to_f32().to_bits() || want.is_nan() && f32::from_bits(word).is_nan(),
                "{x:e}"
            );
        }
        let paired = encoder.words(&odd[..3], Activations::Bf16);
        assert_eq!(paired, [words[0] >> 16 | words[2], words[1] >> 16]);
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
