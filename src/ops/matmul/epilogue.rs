//! Turns the sums of a tile into outputs: dequantizes integers, adds the bias and applies the
//! activation.

use super::{
    int8::{self, QuantParams},
    weights::PackedWeights,
};
use crate::ops::{
    activation::{self, Activation},
    disjoint::OutputView,
    simd,
};

/// Outputs that are computed side by side. Tiles have a multiple of them.
const LANES: usize = 16;

/// Turns the sums of a tile into outputs.
pub(super) struct Epilogue<'a> {
    pub(super) weights: &'a PackedWeights,
    pub(super) panel: usize,
    /// The tile's first row of the output.
    pub(super) first_row: usize,
    /// `[row][column]`.
    pub(super) sums: &'a [u32],
    /// How each row of the tile was quantized: fewer than the tile has rows where those end.
    pub(super) params: &'a [QuantParams],
    pub(super) out: &'a OutputView<'a>,
}

impl Epilogue<'_> {
    #[expect(
        clippy::redundant_closure,
        reason = "a function that is passed by its name may be called instead of inlined"
    )]
    pub(super) fn run(self, activation: Activation) {
        simd::vectorize(
            #[inline(always)]
            move || match activation {
                Activation::None => self.write(
                    #[inline(always)]
                    |x| x,
                ),
                Activation::Gelu => self.write(
                    #[inline(always)]
                    |x| activation::gelu(x),
                ),
            },
        );
    }

    #[expect(
        unsafe_code,
        reason = "shared between tasks that write to disjoint places"
    )]
    #[inline(always)]
    fn write(&self, f: impl Fn(f32) -> f32 + Copy) {
        let (weights, nr) = (self.weights, self.weights.tile.nr);
        let (start, vectors) = (self.panel * nr, nr / LANES);
        let columns = start..(start + nr).min(weights.outputs);
        let bias = vectors_of(&weights.bias, start, nr);
        let quantized = weights.quantized.as_ref().map(|quantized| {
            (
                vectors_of(&quantized.scales, start, nr),
                vectors_of(&quantized.sums, start, nr),
            )
        });
        let sums = self.sums.as_chunks::<LANES>().0.chunks_exact(vectors);
        for ((row, sums), &params) in (self.first_row..).zip(sums).zip(self.params) {
            // SAFETY: tasks have different rows or different panels, and a task has one epilogue
            // for each of its tiles.
            let out = unsafe { self.out.part(row, columns.clone()) };
            let (whole, rest) = out.as_chunks_mut::<LANES>();
            for (vector, out) in whole.iter_mut().enumerate() {
                let quantized = quantized.map(|(scales, sums)| (&scales[vector], &sums[vector]));
                *out = outputs(&sums[vector], params, quantized, &bias[vector], f);
            }
            if !rest.is_empty() {
                let vector = whole.len();
                let quantized = quantized.map(|(scales, sums)| (&scales[vector], &sums[vector]));
                let last = outputs(&sums[vector], params, quantized, &bias[vector], f);
                rest.copy_from_slice(&last[..rest.len()]);
            }
        }
    }
}

/// `f(sums + bias)`, the sums dequantized if they are of integers.
#[inline(always)]
fn outputs(
    sums: &[u32; LANES],
    params: QuantParams,
    quantized: Option<(&[f32; LANES], &[i32; LANES])>,
    bias: &[f32; LANES],
    f: impl Fn(f32) -> f32 + Copy,
) -> [f32; LANES] {
    let mut outputs = [0.0; LANES];
    match quantized {
        None => {
            for i in 0..LANES {
                outputs[i] = f(f32::from_bits(sums[i]) + bias[i]);
            }
        }
        Some((scales, weight_sums)) => {
            for i in 0..LANES {
                let weights = (scales[i], weight_sums[i]);
                outputs[i] = f(int8::dequantize(sums[i], params, weights) + bias[i]);
            }
        }
    }
    outputs
}

/// The numbers of the columns of a panel, in vectors.
#[inline(always)]
fn vectors_of<T>(numbers: &[T], start: usize, nr: usize) -> &[[T; LANES]] {
    numbers[start..start + nr].as_chunks().0
}
