//! From the sums of a tile to outputs: integers restored, bias, activation.

use pulp::{Simd, WithSimd};

use super::{
    Task,
    int8::{self, Rounding},
};
use crate::ops::{Activation, gelu};

/// Outputs that are computed side by side. Tiles have a multiple of them.
const LANES: usize = 16;

/// Turns the sums of a tile into outputs.
pub(super) struct Finish<'a> {
    pub(super) task: &'a Task<'a>,
    pub(super) panel: usize,
    /// Of the tile, in the task.
    pub(super) first_row: usize,
    /// `[row][column]`.
    pub(super) sums: &'a [u32],
    /// Of the task's rows.
    pub(super) roundings: &'a [Rounding],
}

impl WithSimd for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        match self.task.activation {
            Activation::None => self.write(|x| x),
            Activation::Gelu => self.write(gelu::gelu),
        }
    }
}

impl Finish<'_> {
    #[expect(
        unsafe_code,
        reason = "shared between tasks that write to disjoint places"
    )]
    #[inline(always)]
    fn write(self, f: impl Fn(f32) -> f32) {
        let weight = self.task.weight;
        let tile = weight.panels.tile;
        let (start, vectors) = (self.panel * tile.columns, tile.columns / LANES);
        let columns = start..(start + tile.columns).min(weight.outputs);
        let bias = vectors_of(&weight.bias, start, tile.columns);
        let integers = weight.panels.integers.as_ref().map(|integers| {
            (
                vectors_of(&integers.scales, start, tile.columns),
                vectors_of(&integers.sums, start, tile.columns),
            )
        });
        let rows = self.first_row..self.task.rows;
        let sums = self.sums.as_chunks::<LANES>().0.chunks_exact(vectors);
        for (row, sums) in rows.zip(sums) {
            // SAFETY: tasks have different rows or different panels, and a task finishes each of its tiles once.
            let out = unsafe {
                self.task
                    .out
                    .part(self.task.first_row + row, columns.clone())
            };
            let rounding = self.roundings[row];
            let (whole, rest) = out.as_chunks_mut::<LANES>();
            for (vector, out) in whole.iter_mut().enumerate() {
                let integers = integers.map(|(scales, sums)| (&scales[vector], &sums[vector]));
                *out = outputs(&sums[vector], rounding, integers, &bias[vector], &f);
            }
            if !rest.is_empty() {
                let vector = whole.len();
                let integers = integers.map(|(scales, sums)| (&scales[vector], &sums[vector]));
                let last = outputs(&sums[vector], rounding, integers, &bias[vector], &f);
                rest.copy_from_slice(&last[..rest.len()]);
            }
        }
    }
}

/// `f(sums + bias)`, the sums restored if they are of integers.
#[inline(always)]
fn outputs(
    sums: &[u32; LANES],
    rounding: Rounding,
    integers: Option<(&[f32; LANES], &[i32; LANES])>,
    bias: &[f32; LANES],
    f: impl Fn(f32) -> f32,
) -> [f32; LANES] {
    let mut outputs = [0.0; LANES];
    match integers {
        None => {
            for i in 0..LANES {
                outputs[i] = f(f32::from_bits(sums[i]) + bias[i]);
            }
        }
        Some((scales, weight_sums)) => {
            for i in 0..LANES {
                let weights = (scales[i], weight_sums[i]);
                outputs[i] = f(int8::restore(sums[i], rounding, weights) + bias[i]);
            }
        }
    }
    outputs
}

/// As many numbers as a panel has columns, side by side.
#[inline(always)]
fn vectors_of<T>(numbers: &[T], start: usize, columns: usize) -> &[[T; LANES]] {
    numbers[start..start + columns].as_chunks().0
}
