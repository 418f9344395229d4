//! Matrix products with weights that are known in advance.
//!
//! `out [rows, outputs] = activation(x [rows, inputs] · weightᵀ + bias)`. Weights are packed once,
//! at load, as the micro-kernels ([`tile`]) read them. A product is cut into tasks of some rows and
//! some outputs (all, where there are rows enough for every thread); each task packs its rows, then
//! goes through the weights in **blocks** that stay in the second-level cache while every one of
//! its row panels passes by (Goto and van de Geijn 2008). A tile of sums goes through the
//! **epilogue**, bias and activation, as soon as it is complete: its outputs are on their way to
//! memory while the next tile is computed.

mod epilogue;
pub(super) mod int8;
pub(crate) mod kernels;
pub(super) mod pack;
mod prefetch;
pub(crate) mod tile;
pub(crate) mod weights;

use std::{cell::RefCell, ops::Range};

use rayon::prelude::*;

use self::{epilogue::Epilogue, pack::Packer, weights::PackedWeights};
use super::{activation::Activation, aligned::Aligned, disjoint::OutputView, precision::Precision};

/// Rows of a task, at most and at least (but for the last). From about 50 on, reading the weights
/// costs next to nothing beside multiplying.
const TASK_ROWS: Range<usize> = 48..192;
/// Lanes of one task's rows, so that a block's share of them stays in the second-level cache.
const TASK_LANES: usize = 96 * 1024;
/// Accumulators that one task keeps at a time, again for the second-level cache.
const TASK_SUMS: usize = 24 * 1024;
/// Tasks per thread, so that none waits long for the last.
const TASKS_PER_THREAD: usize = 4;

/// `out [rows, outputs] = activation(x [rows, inputs] · weightᵀ + bias)`.
pub(crate) fn multiply(
    x: &[f32],
    weights: &PackedWeights,
    activation: Activation,
    out: &mut [f32],
) {
    let rows = x.len() / weights.inputs;
    assert!(
        x.len() == rows * weights.inputs && out.len() == rows * weights.outputs,
        "{} numbers cannot go through {} inputs and {} outputs to {}",
        x.len(),
        weights.inputs,
        weights.outputs,
        out.len()
    );
    let out = OutputView::new(out, weights.outputs);
    let grid = Grid::new(rows, weights);
    grid.tasks().for_each(|(rows, panels)| {
        SCRATCH.with_borrow_mut(|scratch| {
            let task = Task {
                weights,
                x: &x[rows.start * weights.inputs..rows.end * weights.inputs],
                first_row: rows.start,
                rows: rows.len(),
                out: &out,
                activation,
            };
            task.run(panels, scratch);
        });
    });
}

/// Rows of padding that a product computes beside so many rows.
pub(crate) fn padding(rows: usize, precision: Precision) -> usize {
    rows.next_multiple_of(kernels::best(precision).mr) - rows
}

/// The instructions that multiply weights of this precision on this processor.
pub(crate) fn instructions(precision: Precision) -> &'static str {
    kernels::best(precision).instructions
}

/// How a product is cut into tasks.
struct Grid {
    rows: usize,
    rows_per_task: usize,
    panels: usize,
    panels_per_task: usize,
}

impl Grid {
    fn new(rows: usize, weights: &PackedWeights) -> Self {
        let threads = rayon::current_num_threads();
        let most = (TASK_LANES / weights.layout.k).clamp(TASK_ROWS.start, TASK_ROWS.end);
        let least = if threads == 1 {
            1
        } else {
            threads * TASKS_PER_THREAD
        };
        // As many for each thread.
        let by_rows = rows.div_ceil(most).max(least).next_multiple_of(threads);
        let rows_per_task = rows
            .div_ceil(by_rows)
            .max(TASK_ROWS.start)
            .next_multiple_of(weights.tile.mr);
        let by_rows = rows.div_ceil(rows_per_task);
        let by_panels = if threads == 1 {
            1
        } else {
            (2 * threads).div_ceil(by_rows)
        };
        let panels = weights.layout.panels;
        Self {
            rows,
            rows_per_task,
            panels,
            panels_per_task: panels.div_ceil(by_panels.max(1)),
        }
    }

    /// Rows and panels of each task.
    fn tasks(&self) -> impl ParallelIterator<Item = (Range<usize>, Range<usize>)> {
        let by_panels = self.panels.div_ceil(self.panels_per_task);
        let by_rows = self.rows.div_ceil(self.rows_per_task);
        let part = |i: usize, size: usize, end: usize| i * size..((i + 1) * size).min(end);
        let tasks = (0..by_rows * by_panels).into_par_iter().with_max_len(1);
        tasks.map(move |task| {
            (
                part(task / by_panels, self.rows_per_task, self.rows),
                part(task % by_panels, self.panels_per_task, self.panels),
            )
        })
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// What a task works in. Kept by each thread, since fresh memory costs a page fault for every 4
/// KiB.
#[derive(Default)]
struct Scratch {
    lhs: Aligned<u32>,
    packer: Packer,
    block: Aligned<u32>,
    sums: Aligned<u32>,
}

/// Some rows times some panels of the weights.
struct Task<'a> {
    weights: &'a PackedWeights,
    /// `[rows, inputs]`.
    x: &'a [f32],
    first_row: usize,
    rows: usize,
    out: &'a OutputView<'a>,
    activation: Activation,
}

impl Task<'_> {
    fn run(&self, panels: Range<usize>, scratch: &mut Scratch) {
        let (weights, tile) = (self.weights, self.weights.tile);
        let (k, mr) = (weights.layout.k, tile.mr);
        let padded_rows = self.rows.next_multiple_of(mr);
        let lhs = scratch.lhs.scratch(padded_rows * k);
        let x = self.x.chunks_exact(weights.inputs);
        let params = scratch.packer.pack(x, weights.lhs_format(), mr, lhs);
        let tiles = padded_rows / mr;
        let tile_len = mr * tile.nr;
        let blocks = weights.layout.blocks();
        let last = blocks.len() - 1;
        // Sums are kept from block to block; where there is one alone, the same tile serves all.
        let (at_once, kept) = match last {
            0 => (1, 1),
            _ => ((TASK_SUMS / (tiles * tile_len)).max(1), tiles),
        };
        let sums = scratch.sums.scratch(at_once * kept * tile_len);
        for first in panels.clone().step_by(at_once) {
            for (n, steps) in blocks.clone().enumerate() {
                for panel in first..(first + at_once).min(panels.end) {
                    let rhs = weights.block(&steps, panel, &mut scratch.block);
                    for (i, lhs) in lhs.chunks_exact(k * mr).enumerate() {
                        let place = (panel - first) * kept + i % kept;
                        let sums = &mut sums[place * tile_len..][..tile_len];
                        let lhs = &lhs[steps.start * mr..steps.end * mr];
                        tile.run((lhs, mr), rhs, sums, n > 0);
                        if n == last {
                            let epilogue = Epilogue {
                                weights,
                                panel,
                                first_row: self.first_row + i * mr,
                                sums,
                                params: &params[i * mr..self.rows.min((i + 1) * mr)],
                                out: self.out,
                            };
                            epilogue.run(self.activation);
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{tile::LaneType, *};

    /// Reproducible numbers in [-1, 1], the same for the same seed.
    fn random(len: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / 8_388_608.0 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    const SHAPES: [(usize, usize, usize); 8] = [
        (1, 1, 1),
        (1, 64, 17),
        (2, 3, 5),
        (5, 320, 33),
        (7, 130, 64),
        (13, 1300, 70),
        (100, 33, 130),
        (193, 257, 20),
    ];

    const PRECISIONS: [Precision; 4] = [
        Precision::F32,
        Precision::F16,
        Precision::Bf16,
        Precision::Int8,
    ];

    /// Packed for every tile that this processor has, and for the portable ones.
    fn weights(weight: &[f32], bias: &[f32], precision: Precision) -> Vec<PackedWeights> {
        let tiles = kernels::all().filter(|tile| match precision {
            Precision::F32 | Precision::F16 => tile.lane_type == LaneType::F32,
            Precision::Bf16 => matches!(tile.lane_type, LaneType::F32 | LaneType::Bf16),
            Precision::Int8 => matches!(tile.lane_type, LaneType::Int8 | LaneType::Int16),
        });
        tiles
            .map(|tile| PackedWeights::for_tile(weight, bias.to_vec(), precision, tile))
            .collect()
    }

    /// Relative to the length of the vectors that are multiplied.
    fn tolerance(precision: Precision) -> f64 {
        match precision {
            Precision::F32 => 1e-6,
            Precision::F16 => 1e-3,
            Precision::Bf16 => 8e-3,
            Precision::Int8 => 2e-2,
        }
    }

    fn length(x: &[f32]) -> f64 {
        x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
    }

    #[test]
    fn every_tile_equals_the_slow_product_over_odd_shapes() {
        for (rows, inputs, outputs) in SHAPES {
            let (x, w) = (random(rows * inputs, 1), random(outputs * inputs, 2));
            let bias = random(outputs, 3);
            for precision in PRECISIONS {
                for weight in weights(&w, &bias, precision) {
                    let mut out = vec![f32::NAN; rows * outputs];
                    multiply(&x, &weight, Activation::None, &mut out);
                    for (i, &got) in out.iter().enumerate() {
                        let (x, w) = (
                            &x[i / outputs * inputs..][..inputs],
                            &w[i % outputs * inputs..][..inputs],
                        );
                        let dot = x.iter().zip(w).map(|(&a, &b)| f64::from(a) * f64::from(b));
                        let want = dot.sum::<f64>() + f64::from(bias[i % outputs]);
                        let error = (f64::from(got) - want).abs() / (length(x) * length(w) + 1.0);
                        assert!(
                            error < tolerance(precision),
                            "{precision:?} with {}: {rows}x{inputs}x{outputs} at {i}: {got}, not {want}",
                            weight.tile.instructions
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn integers_are_the_same_to_the_last_bit_with_any_instructions() {
        let (rows, inputs, outputs) = (29, 192, 70);
        let (x, w) = (random(rows * inputs, 1), random(outputs * inputs, 2));
        let mut results = Vec::new();
        for weight in weights(&w, &random(outputs, 3), Precision::Int8) {
            let mut out = vec![0.0; rows * outputs];
            multiply(&x, &weight, Activation::Gelu, &mut out);
            results.push(out);
        }
        assert!(results.len() > 1 && results.windows(2).all(|two| two[0] == two[1]));
    }

    #[test]
    fn a_row_does_not_depend_on_the_others() {
        for (inputs, outputs) in [(64, 64), (192, 320), (1024, 300), (4096, 40)] {
            let (x, w) = (random(300 * inputs, 1), random(outputs * inputs, 2));
            for precision in PRECISIONS {
                let weight = PackedWeights::new(&w, random(outputs, 3), &[], precision);
                let mut whole = vec![0.0; 300 * outputs];
                multiply(&x, &weight, Activation::None, &mut whole);
                for rows in [1, 2, 5, 6, 7, 13, 64, 191, 257] {
                    let mut part = vec![0.0; rows * outputs];
                    let x = &x[43 * inputs..][..rows * inputs];
                    multiply(x, &weight, Activation::None, &mut part);
                    assert_eq!(
                        part,
                        whole[43 * outputs..][..rows * outputs],
                        "{precision:?}, {rows} rows"
                    );
                }
            }
        }
    }

    #[test]
    fn a_mean_shift_protects_from_outliers_that_are_in_every_row() {
        let (rows, inputs, outputs) = (7, 128, 40);
        let (plain, w) = (random(rows * inputs, 1), random(outputs * inputs, 2));
        let mut mean_shift = random(inputs, 4);
        mean_shift[5] = 1000.0;
        let rows_of = |x: &[f32]| {
            x.chunks(inputs)
                .flat_map(|row| {
                    row.iter()
                        .zip(&mean_shift)
                        .map(|(x, c)| x + c)
                        .collect::<Vec<_>>()
                })
                .collect::<Vec<f32>>()
        };
        let x = rows_of(&plain);
        let product = |mean_shift: &[f32], precision| {
            let mut out = vec![0.0; rows * outputs];
            let weights = PackedWeights::new(&w, vec![0.0; outputs], mean_shift, precision);
            multiply(&x, &weights, Activation::None, &mut out);
            out
        };
        let exact = product(&[], Precision::F32);
        let error = |out: Vec<f32>| {
            out.iter()
                .zip(&exact)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max)
        };
        let (with, without) = (
            error(product(&mean_shift, Precision::Int8)),
            error(product(&[], Precision::Int8)),
        );
        assert!(
            with < 0.3 && without > 3.0 * with,
            "{with} with a mean shift, {without} without"
        );
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        let (inputs, outputs) = (96, 40);
        let w = random(outputs * inputs, 2);
        for precision in PRECISIONS {
            for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = random(3 * inputs, 1);
                x[inputs + 11] = poison;
                let mut out = vec![0.0; 3 * outputs];
                let weights = PackedWeights::new(&w, vec![0.0; outputs], &[], precision);
                multiply(&x, &weights, Activation::None, &mut out);
                let rows: Vec<bool> = out
                    .chunks(outputs)
                    .map(|row| row.iter().all(|x| x.is_finite()))
                    .collect();
                assert_eq!(rows, [true, false, true], "{precision:?} with {poison}");
            }
        }
    }
}
