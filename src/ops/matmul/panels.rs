//! Weights in the words that a tile reads.

use std::ops::Range;

use half::f16;
use pulp::{Simd, WithSimd};

use super::{
    int8::{self, Rotation},
    rows::{Activations, Encoder},
    tile::{self, Numbers, Tile},
};
use crate::ops::{Precision, aligned::Aligned, simd};

/// A weight matrix in panels of as many outputs as a tile has columns: `[block][panel][step][column]`.
pub(super) struct Panels {
    pub(super) tile: &'static Tile,
    /// What rows must be turned into before they meet these weights.
    pub(super) activations: Activations,
    /// Words along the inner dimension.
    pub(super) steps: usize,
    pub(super) count: usize,
    /// How to restore numbers from sums of integers, where they are.
    pub(super) integers: Option<Integers>,
    storage: Storage,
}

/// Per output: its scale, and the sum of its integers; zero for those that fill up the last panel.
#[derive(Default)]
pub(super) struct Integers {
    pub(super) scales: Vec<f32>,
    pub(super) sums: Vec<i32>,
    rotation: Rotation,
}

/// Words as they are, or something of half the size that is widened whenever a block is used.
enum Storage {
    Words(Aligned<u32>),
    Halves(Aligned<u16>, fn(&[u16], &mut [u32])),
}

impl Panels {
    /// Lays out `weight [outputs, inputs]` for the best tile of this processor.
    pub(super) fn new(weight: &[f32], inputs: usize, precision: Precision) -> Self {
        Self::for_tile(weight, inputs, precision, tile::best(precision))
    }

    pub(super) fn for_tile(
        weight: &[f32],
        inputs: usize,
        precision: Precision,
        tile: &'static Tile,
    ) -> Self {
        let steps = inputs.div_ceil(tile.numbers.depth());
        let layout = Layout {
            steps,
            block_steps: Tile::block_steps(steps),
            columns: tile.columns,
            outputs: weight.len() / inputs,
        };
        let rows = weight.chunks_exact(inputs);
        let mut encoder = Encoder::default();
        let mut integers = Integers::default();
        let (activations, storage) = match (precision, tile.numbers) {
            (Precision::F32, _) => {
                let words = rows.map(|row| encoder.words(row, Activations::F32));
                (Activations::F32, Storage::Words(layout.fill(words)))
            }
            (Precision::F16, _) => {
                let halves =
                    |row: &[f32]| row.iter().map(|&x| f16::from_f32(x).to_bits()).collect();
                let halves = layout.fill(rows.map(halves));
                (
                    Activations::F32,
                    Storage::Halves(halves, |halves, words| simd::run(WidenF16(halves, words))),
                )
            }
            (Precision::Bf16, Numbers::Bf16) => {
                let words = rows.map(|row| encoder.words(row, Activations::Bf16));
                (Activations::Bf16, Storage::Words(layout.fill(words)))
            }
            (Precision::Bf16, _) => {
                let upper = |row| {
                    encoder
                        .words(row, Activations::Bf16InF32)
                        .iter()
                        .map(|word| (word >> 16) as u16)
                        .collect()
                };
                let halves = layout.fill(rows.map(upper));
                (
                    Activations::Bf16InF32,
                    Storage::Halves(halves, |halves, words| simd::run(WidenBf16(halves, words))),
                )
            }
            (Precision::Int8, Numbers::Int8) => {
                let words = rows.map(|row| join(&integers.round(row), 4).collect());
                (Activations::Int8, Storage::Words(layout.fill(words)))
            }
            (Precision::Int8, _) => {
                #[expect(clippy::cast_possible_truncation, reason = "two bytes to a word")]
                let halves = rows.map(|row| {
                    join(&integers.round(row), 2)
                        .map(|word| word as u16)
                        .collect()
                });
                let halves = layout.fill(halves);
                (
                    Activations::Int16,
                    Storage::Halves(halves, |halves, words| simd::run(WidenInt8(halves, words))),
                )
            }
        };
        Self {
            tile,
            activations,
            steps: layout.steps,
            count: layout.panels(),
            integers: (precision == Precision::Int8)
                .then(|| integers.padded(layout.panels() * tile.columns)),
            storage,
        }
    }

    /// Outputs, with those that fill up the last panel.
    pub(super) fn outputs(&self) -> usize {
        self.count * self.tile.columns
    }

    /// The steps of each block, in order.
    pub(super) fn blocks(&self) -> impl ExactSizeIterator<Item = Range<usize>> + Clone + use<> {
        let (size, steps) = (Tile::block_steps(self.steps), self.steps);
        (0..steps)
            .step_by(size)
            .map(move |start| start..(start + size).min(steps))
    }

    /// The words of one block of one panel, `[step][column]`, widened into `room` where need be.
    pub(super) fn block<'a>(
        &'a self,
        steps: &Range<usize>,
        panel: usize,
        room: &'a mut Aligned<u32>,
    ) -> &'a [u32] {
        let place = self.place(steps, panel);
        match &self.storage {
            Storage::Words(words) => &words[place],
            Storage::Halves(halves, widen) => {
                let room = room.scratch(place.len());
                widen(&halves[place], room);
                room
            }
        }
    }

    /// Where the block of these steps lies in the storage.
    fn place(&self, steps: &Range<usize>, panel: usize) -> Range<usize> {
        let columns = self.tile.columns;
        let len = steps.len() * columns;
        let start = steps.start * self.count * columns + panel * len;
        start..start + len
    }
}

impl Integers {
    fn padded(mut self, outputs: usize) -> Self {
        self.scales.resize(outputs, 0.0);
        self.sums.resize(outputs, 0);
        self
    }

    /// Rounds the weights of the next output.
    fn round(&mut self, weights: &[f32]) -> Vec<i8> {
        simd::run(RoundWeights {
            integers: self,
            weights,
        })
    }
}

struct RoundWeights<'a> {
    integers: &'a mut Integers,
    weights: &'a [f32],
}

impl WithSimd for RoundWeights<'_> {
    type Output = Vec<i8>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<i8> {
        let Integers {
            scales,
            sums,
            rotation,
        } = self.integers;
        let width = self.weights.len();
        let mut rounded = vec![0; width];
        let rotated = rotation.apply(simd, self.weights, &[], width);
        let scale = int8::round_weights(rotated, &mut rounded);
        // Both sides of the product are rotated without the factor that keeps lengths: it is made good here.
        scales.push(scale / int8::mixed(width) as f32);
        sums.push(rounded.iter().map(|&i| i32::from(i)).sum());
        rounded
    }
}

/// Where things go: see [`Panels`].
struct Layout {
    steps: usize,
    block_steps: usize,
    columns: usize,
    outputs: usize,
}

impl Layout {
    fn panels(&self) -> usize {
        self.outputs.div_ceil(self.columns)
    }

    /// Puts the words of each output in their places. Outputs that fill up the last panel are zero.
    fn fill<T: Copy + Default>(&self, outputs: impl Iterator<Item = Vec<T>>) -> Aligned<T> {
        let mut all = Aligned::zeroed(self.panels() * self.columns * self.steps);
        for (output, words) in outputs.enumerate() {
            let (panel, column) = (output / self.columns, output % self.columns);
            for (block, words) in words.chunks(self.block_steps).enumerate() {
                let start = block * self.block_steps * self.panels() * self.columns
                    + panel * words.len() * self.columns;
                let places = all[start + column..].iter_mut().step_by(self.columns);
                for (place, &word) in places.zip(words) {
                    *place = word;
                }
            }
        }
        all
    }
}

/// So many bytes to a word, in its low end; [`rows`](super::rows) says which ones share a word.
fn join(bytes: &[i8], depth: usize) -> impl Iterator<Item = u32> {
    let steps = bytes.len().div_ceil(depth);
    let byte = move |i: usize| {
        bytes
            .get(i)
            .map_or(0, |byte| u32::from(byte.cast_unsigned()))
    };
    (0..steps).map(move |step| {
        (0..depth).fold(0, |word, part| {
            word | byte(step + part * steps) << (8 * part)
        })
    })
}

/// bf16 is the upper half of an f32.
struct WidenBf16<'a>(&'a [u16], &'a mut [u32]);

impl WithSimd for WidenBf16<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (word, &half) in self.1.iter_mut().zip(self.0) {
            *word = u32::from(half) << 16;
        }
    }
}

/// f16, finite ([`f16::MAX`] is checked at load): exponent and mantissa moved to their places in an f32, whose exponent is then too small by 112.
struct WidenF16<'a>(&'a [u16], &'a mut [u32]);

impl WithSimd for WidenF16<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        const TWO_TO_112: f32 = f32::from_bits((127 + 112) << 23);
        for (word, &half) in self.1.iter_mut().zip(self.0) {
            let half = u32::from(half);
            let magnitude = f32::from_bits((half & 0x7fff) << 13) * TWO_TO_112;
            *word = magnitude.to_bits() | (half & 0x8000) << 16;
        }
    }
}

/// Two signed bytes to two signed halves of a word.
struct WidenInt8<'a>(&'a [u16], &'a mut [u32]);

impl WithSimd for WidenInt8<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (word, &pair) in self.1.iter_mut().zip(self.0) {
            let pair = u32::from(pair).cast_signed();
            let (low, high) = (pair << 24 >> 24, pair << 16 >> 24);
            *word = (low & 0xffff | high << 16).cast_unsigned();
        }
    }
}
