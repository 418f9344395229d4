//! Variable-length attention on the CPU: per sequence and head, two small matrix products around a
//! softmax.
//!
//! The scores are computed **transposed**, keys down and queries across: the softmax over keys is
//! one lane per query then, without a sum across a vector, and its result lies as the left operand
//! of the second product, a query to a row. Scores are there for one panel of queries at a time, so
//! scratch is `columns · length` however many queries there are. candle-nn's
//! `flash_attn_varlen_cpu`, a row at a time, is the slow reference of the tests.

use std::{cell::RefCell, ops::Range};

use anyhow::{Result, ensure};
use rayon::prelude::*;

use super::{
    aligned::Aligned,
    disjoint::OutputView,
    matmul::{
        kernels,
        pack::{Packer, pair_bf16},
        tile::{LaneType, Tile},
    },
    precision::Precision,
    simd,
    softmax::softmax,
};

/// The rows of packed sequences, in some columns of a matrix.
#[derive(Clone, Copy)]
pub(crate) struct PackedRows<'a> {
    /// The matrix, from the first of these columns on.
    pub(crate) data: &'a [f32],
    /// Numbers from the beginning of one row to that of the next.
    pub(crate) stride: usize,
    /// Sequence `i` has the rows `cu_seqlens[i]..cu_seqlens[i + 1]`: from 0 to the total.
    pub(crate) cu_seqlens: &'a [usize],
}

/// Attention heads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    pub(crate) count: usize,
    /// The dimensions of each.
    pub(crate) size: usize,
}

/// Softmax attention of every sequence over itself, without padding.
///
/// Queries are the first `count · size` columns of theirs; keys are as many of their own and values
/// as many again. `out [rows of queries, count · size]`.
pub(crate) fn attention(
    queries: PackedRows<'_>,
    keys_values: PackedRows<'_>,
    heads: Heads,
    precision: Precision,
    out: &mut [f32],
) -> Result<()> {
    let attention = Attention {
        queries,
        keys_values,
        heads,
        tile: kernels::for_attention(precision),
    };
    attention.run(out)
}

struct Attention<'a> {
    queries: PackedRows<'a>,
    keys_values: PackedRows<'a>,
    heads: Heads,
    /// The micro-kernel, which is for f32 or for bf16.
    tile: &'static Tile,
}

impl Heads {
    /// The dimensions of all heads, side by side.
    pub(crate) fn width(self) -> usize {
        self.count * self.size
    }
}

impl<'a> PackedRows<'a> {
    fn rows(&self) -> usize {
        *self.cu_seqlens.last().unwrap_or(&0)
    }

    fn of_sequence(&self, sequence: usize) -> Range<usize> {
        self.cu_seqlens[sequence]..self.cu_seqlens[sequence + 1]
    }

    /// Some columns of some rows, row by row.
    fn part(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
    ) -> impl ExactSizeIterator<Item = &'a [f32]> + Clone {
        let (data, stride) = (self.data, self.stride);
        rows.map(move |row| &data[row * stride..][columns.clone()])
    }

    /// Refuses rows that are not there: each has this width.
    fn check(&self, width: usize) -> Result<()> {
        let ends = self.cu_seqlens;
        ensure!(
            ends.first() == Some(&0) && ends.windows(2).all(|two| two[0] < two[1]),
            "cu_seqlens of attention do not ascend from 0"
        );
        ensure!(
            self.rows() == 0 || (self.rows() - 1) * self.stride + width <= self.data.len(),
            "attention was given {} numbers for {} rows of {width}",
            self.data.len(),
            self.rows()
        );
        Ok(())
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// What a task works in. Kept by each thread, since fresh memory costs a page fault for every 4
/// KiB.
#[derive(Default)]
struct Scratch {
    packer: Packer,
    /// Left panels, a key to a row.
    keys: Aligned<u32>,
    /// Right panels, a dimension of the head to a column.
    values: Aligned<u32>,
    /// A right panel, a query to a column.
    queries: Aligned<u32>,
    /// `[key][query]`: scores, then their exponentials.
    scores: Aligned<u32>,
    /// The sum of the exponentials of each query.
    sums: Aligned<f32>,
    /// Tiles of the result, `[rows of queries][panel of dimensions]`.
    context: Aligned<u32>,
}

impl Attention<'_> {
    fn run(&self, out: &mut [f32]) -> Result<()> {
        let (width, count) = (self.heads.width(), self.heads.count);
        self.queries.check(width)?;
        self.keys_values.check(2 * width)?;
        ensure!(
            self.queries.cu_seqlens.len() == self.keys_values.cu_seqlens.len()
                && out.len() == self.queries.rows() * width,
            "attention was given other sequences of queries than of keys, or too little for them"
        );
        let out = OutputView::new(out, width);
        let heads = (self.queries.cu_seqlens.len() - 1) * count;
        let heads = (0..heads).into_par_iter().with_max_len(1);
        heads.for_each(|i| {
            SCRATCH.with_borrow_mut(|scratch| self.head((i / count, i % count), &out, scratch));
        });
        Ok(())
    }

    /// Computes one head of one sequence, a panel of queries at a time.
    fn head(&self, (sequence, head): (usize, usize), out: &OutputView<'_>, scratch: &mut Scratch) {
        let (q, kv) = (self.queries, self.keys_values);
        let tile = self.tile;
        let (format, packing_factor) = (tile.lane_type.into(), tile.lane_type.packing_factor());
        let (d, width) = (self.heads.size, self.heads.width());
        let columns = head * d..(head + 1) * d;
        let rows = kv.of_sequence(sequence);
        let length = rows.len();
        let padded = length.next_multiple_of(tile.mr);

        let steps = d.div_ceil(packing_factor);
        let keys = scratch.keys.scratch(padded * steps);
        let rows_of_keys = kv.part(rows.clone(), columns.clone());
        scratch.packer.pack(rows_of_keys, format, tile.mr, keys);
        let value_columns = width + columns.start..width + columns.end;
        let steps_of_values = length.div_ceil(packing_factor);
        let lanes_of_values = d.next_multiple_of(tile.nr) * steps_of_values;
        let values = scratch.values.scratch(lanes_of_values);
        pack_values(kv.part(rows, value_columns), steps_of_values, tile, values);

        let query_rows = q.of_sequence(sequence);
        for first in query_rows.clone().step_by(tile.nr) {
            let some = first..(first + tile.nr).min(query_rows.end);
            let queries = scratch.queries.scratch(tile.nr * steps);
            let rows = q.part(some.clone(), columns.clone());
            scratch.packer.pack(rows, format, tile.nr, queries);
            // The last rows of queries may stick out by some lanes.
            let scores = scratch.scores.scratch(padded * tile.nr + tile.mr);
            let tiles = scores.chunks_exact_mut(tile.mr * tile.nr);
            for (keys, scores) in keys.chunks_exact(steps * tile.mr).zip(tiles) {
                tile.run((keys, tile.mr), queries, scores, false);
            }
            let sums = scratch.sums.scratch(tile.nr);
            let (there, scale) = (&mut scores[..length * tile.nr], 1.0 / (d as f32).sqrt());
            softmax(there, sums, scale, tile.lane_type);
            let tiles = some.len().div_ceil(tile.mr) * d.div_ceil(tile.nr);
            let context = scratch.context.scratch(tiles * tile.mr * tile.nr);
            let mut places = context.chunks_exact_mut(tile.mr * tile.nr);
            for query in (0..some.len()).step_by(tile.mr) {
                let weights = (&scores[query..], tile.nr);
                let panels = values.chunks_exact(steps_of_values * tile.nr);
                for (values, place) in panels.zip(&mut places) {
                    tile.run(weights, values, place, false);
                }
            }
            write((context, sums), tile, (some, columns.clone()), out);
        }
    }
}

/// Packs values, a row per key, as right panels with a dimension to a column:
/// `[panel][step][dimension]`. Columns of the last panel beyond the head's size are left as they
/// were; what they give is not read.
fn pack_values<'a>(
    values: impl Iterator<Item = &'a [f32]> + Clone,
    steps: usize,
    tile: &Tile,
    out: &mut [u32],
) {
    simd::vectorize(
        #[inline(always)]
        move || {
            let mut high = values.clone().skip(steps);
            for (step, low) in values.clone().take(steps).enumerate() {
                let high = high.next().unwrap_or_default();
                for (panel, low) in low.chunks(tile.nr).enumerate() {
                    let lanes = &mut out[(panel * steps + step) * tile.nr..][..low.len()];
                    match tile.lane_type {
                        LaneType::Bf16 => {
                            let high = high.chunks(tile.nr).nth(panel).unwrap_or_default();
                            pair_bf16(low, high, lanes);
                        }
                        _ => {
                            for (lane, x) in lanes.iter_mut().zip(low) {
                                *lane = x.to_bits();
                            }
                        }
                    }
                }
            }
        },
    );
}

/// Writes `out[query] = context[query] / sums[query]` to a head's columns of some rows. `context`
/// is tiles, `[rows of queries][panel of dimensions]`.
#[expect(
    unsafe_code,
    reason = "shared between tasks that write to disjoint places"
)]
fn write(
    (context, sums): (&[u32], &[f32]),
    &Tile { mr, nr, .. }: &Tile,
    (rows, columns): (Range<usize>, Range<usize>),
    out: &OutputView<'_>,
) {
    simd::vectorize(
        #[inline(always)]
        move || {
            let panels = columns.len().div_ceil(nr);
            for ((i, row), sum) in rows.clone().enumerate().zip(sums) {
                let inverse = 1.0 / sum;
                // SAFETY: a task alone writes the columns of its head in the rows of its sequence,
                // one row after another.
                let out = unsafe { out.part(row, columns.clone()) };
                for (panel, out) in out.chunks_mut(nr).enumerate() {
                    let tile = i / mr * panels + panel;
                    let context = &context[(tile * mr + i % mr) * nr..];
                    for (out, &x) in out.iter_mut().zip(context) {
                        *out = f32::from_bits(x) * inverse;
                    }
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use candle_nn::attention::flash_attn_varlen_cpu;

    use super::*;

    type Lengths<'a> = &'a [usize];

    /// Attention over `qkv [rows, 3 · width]`, or of `queries` of their own over its keys and
    /// values.
    fn run(
        tile: &'static Tile,
        queries: Option<&[f32]>,
        qkv: &[f32],
        lengths: (Lengths<'_>, Lengths<'_>),
        heads: Heads,
    ) -> Result<Vec<f32>> {
        let width = heads.width();
        let (query_cu_seqlens, cu_seqlens) = (cu_seqlens(lengths.0), cu_seqlens(lengths.1));
        let mut out = vec![f32::NAN; query_cu_seqlens.last().unwrap() * width];
        let attention = Attention {
            queries: PackedRows {
                data: queries.unwrap_or(qkv),
                stride: if queries.is_some() { width } else { 3 * width },
                cu_seqlens: &query_cu_seqlens,
            },
            keys_values: PackedRows {
                data: &qkv[width..],
                stride: 3 * width,
                cu_seqlens: &cu_seqlens,
            },
            heads,
            tile,
        };
        attention.run(&mut out)?;
        Ok(out)
    }

    /// The tiles of attention, each with its tolerance: bf16 has 8 bits.
    fn tiles() -> impl Iterator<Item = (&'static Tile, f32)> {
        kernels::all().filter_map(|tile| match tile.lane_type {
            LaneType::F32 => Some((tile, 5e-6)),
            LaneType::Bf16 => Some((tile, 2e-2)),
            _ => None,
        })
    }

    fn wave(count: usize, step: usize) -> Vec<f32> {
        (0..count)
            .map(|i| ((i * step % 1009) as f32 - 504.0) / 300.0)
            .collect()
    }

    fn cu_seqlens(lengths: &[usize]) -> Vec<usize> {
        let ends = lengths.iter().scan(0, |end, n| {
            *end += n;
            Some(*end)
        });
        std::iter::once(0).chain(ends).collect()
    }

    fn lengths_tensor(lengths: &[usize]) -> Tensor {
        let lengths: Vec<u32> = lengths.iter().map(|&n| u32::try_from(n).unwrap()).collect();
        Tensor::new(lengths, &Device::Cpu).unwrap()
    }

    /// Runs ours and candle-nn's on the same fused projection and compares.
    fn check(lengths: &[usize], heads: usize, size: usize, first_row_only: bool) {
        let heads = Heads { count: heads, size };
        let (rows, width) = (lengths.iter().sum::<usize>(), heads.width());
        let qkv = wave(rows * 3 * width, 37);
        let column = |matrix: usize, rows: &[usize]| -> Vec<f32> {
            let rows = rows.iter();
            rows.flat_map(|row| &qkv[row * 3 * width + matrix * width..][..width])
                .copied()
                .collect()
        };
        let all: Vec<usize> = (0..rows).collect();
        let (query_rows, query_lengths) = if first_row_only {
            let starts = cu_seqlens(lengths)[..lengths.len()].to_vec();
            (starts, vec![1; lengths.len()])
        } else {
            (all.clone(), lengths.to_vec())
        };
        let queries = column(0, &query_rows);

        let tensor = |data: Vec<f32>| {
            let shape = (data.len() / width, heads.count, size);
            Tensor::from_vec(data, shape, &Device::Cpu).unwrap()
        };
        let max = *lengths.iter().max().unwrap();
        let slow = flash_attn_varlen_cpu(
            &tensor(queries.clone()),
            &tensor(column(1, &all)),
            &tensor(column(2, &all)),
            None,
            &lengths_tensor(&query_lengths),
            &lengths_tensor(lengths),
            max,
            max,
            1.0 / (size as f32).sqrt(),
            false,
            None,
            None,
        )
        .unwrap();
        let slow = slow.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (tile, tolerance) in tiles() {
            let queries = first_row_only.then_some(queries.as_slice());
            let fast = run(tile, queries, &qkv, (&query_lengths, lengths), heads).unwrap();
            for (fast, slow) in fast.iter().zip(&slow) {
                assert!(
                    (fast - slow).abs() < tolerance,
                    "{}: lengths {lengths:?}, {heads:?}: {fast}, not {slow}",
                    tile.instructions
                );
            }
        }
    }

    #[test]
    fn equals_candle_nn_over_odd_shapes() {
        check(&[1], 1, 64, false);
        check(&[3, 1, 2], 4, 64, false);
        check(&[64, 65, 63], 2, 64, false);
        check(&[512, 5, 128, 200], 4, 64, false);
        check(&[7, 19], 3, 32, false);
        check(&[700], 1, 80, false);
    }

    #[test]
    fn equals_candle_nn_for_first_rows_only() {
        check(&[3], 4, 64, true);
        check(&[5, 17, 512, 64, 1], 4, 64, true);
    }

    #[test]
    fn a_sequence_does_not_depend_on_its_neighbours() {
        let heads = Heads { count: 2, size: 64 };
        let width = heads.width();
        let qkv = wave(40 * 3 * width, 91);
        let run = |qkv: &[f32], lengths: &[usize]| {
            let tile = kernels::for_attention(Precision::Bf16);
            run(tile, None, qkv, (lengths, lengths), heads).unwrap()
        };
        let together = run(&qkv, &[11, 9, 20]);
        let alone = run(&qkv[11 * 3 * width..20 * 3 * width], &[9]);
        assert_eq!(together[11 * width..20 * width], alone);
    }

    #[test]
    fn sequences_that_do_not_fit_are_refused() {
        let (qkv, heads) = (wave(4 * 192, 3), Heads { count: 1, size: 64 });
        let tile = kernels::best(Precision::F32);
        let says = |lengths| run(tile, None, &qkv, lengths, heads).err();
        assert!(says((&[2, 2], &[2, 2])).is_none());
        let two: Lengths<'_> = &[2, 2];
        for bad in [&[3, 0][..], &[5], &[2, 3]] {
            assert!(says((bad, bad)).is_some(), "{bad:?}");
        }
        assert!(says((two, &[4])).is_some());
    }
}
