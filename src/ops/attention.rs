//! Variable-length attention on the CPU: per sequence and head, two small matrix products around a softmax.
//!
//! The scores are computed **transposed**, keys down and queries across: the softmax over keys is one lane per query then, without a
//! sum across a vector, and its result lies as the left operand of the second product, a query to a row. Scores are there for one
//! panel of queries at a time, so scratch is `columns · length` however many queries there are. candle-nn's
//! `flash_attn_varlen_cpu`, a row at a time, is the slow reference of the tests.

use std::{cell::RefCell, ops::Range};

use candle_core::{CpuStorage, InplaceOp3, Layout, Result, bail};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{
    Offsets,
    aligned::Aligned,
    contiguous_mut,
    disjoint::Disjoint,
    matmul::{
        rows::{Activations, Encoder, Form, pair_bf16},
        tile::{Numbers, Tile},
    },
    simd,
    softmax::softmax,
};

/// See [`super::attention()`] for the shapes.
pub(super) struct Attention {
    pub(super) query_offsets: Offsets,
    pub(super) offsets: Offsets,
    pub(super) heads: usize,
    /// For f32 or for bf16.
    pub(super) tile: &'static Tile,
}

impl InplaceOp3 for Attention {
    fn name(&self) -> &'static str {
        "variable-length-attention"
    }

    fn cpu_fwd(
        &self,
        out: &mut CpuStorage,
        out_layout: &Layout,
        queries: &CpuStorage,
        queries_layout: &Layout,
        keys_values: &CpuStorage,
        keys_values_layout: &Layout,
    ) -> Result<()> {
        let q = Matrix::new(queries, queries_layout)?;
        let kv = Matrix::new(keys_values, keys_values_layout)?;
        self.check(&q, &kv)?;
        if out_layout.shape().dims2()? != (q.rows, q.width) {
            bail!(
                "attention needs {} x {} for its result, not {out_layout:?}",
                q.rows,
                q.width
            );
        }
        self.run(&q, &kv, contiguous_mut(out, out_layout)?);
        Ok(())
    }
}

/// A matrix whose rows are contiguous but may lie apart, as a view into a wider one.
struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    width: usize,
    stride: usize,
}

impl<'a> Matrix<'a> {
    fn new(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let (rows, width) = layout.shape().dims2()?;
        let &[stride, 1] = layout.stride() else {
            bail!("attention needs contiguous rows, not {layout:?}");
        };
        let data = &storage.as_slice::<f32>()?[layout.start_offset()..];
        if rows > 0 && (rows - 1) * stride + width > data.len() {
            bail!("attention was given {} floats for {layout:?}", data.len());
        }
        Ok(Self {
            data,
            rows,
            width,
            stride,
        })
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
}

/// One head of one sequence.
struct Task {
    sequence: usize,
    head: usize,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// What a task works in. Kept by each thread, since fresh memory costs a page fault for every 4 KiB.
#[derive(Default)]
struct Scratch {
    encoder: Encoder,
    /// Left panels, a key to a row.
    keys: Aligned<u32>,
    /// Right panels, a dimension of the head to a column.
    values: Aligned<u32>,
    /// A right panel, a query to a column.
    queries: Aligned<u32>,
    /// `[key][query]`: scores, then their exponentials.
    scores: Aligned<u32>,
    /// Per query, of the exponentials.
    sums: Aligned<f32>,
    /// Tiles of the result, `[rows of queries][panel of dimensions]`.
    context: Aligned<u32>,
}

impl Attention {
    fn check(&self, q: &Matrix<'_>, kv: &Matrix<'_>) -> Result<()> {
        let ascending = |o: &Offsets| o.first() == Some(&0) && o.windows(2).all(|w| w[0] < w[1]);
        if self.offsets.len() != self.query_offsets.len()
            || !ascending(&self.offsets)
            || !ascending(&self.query_offsets)
            || self.offsets.last() != Some(&kv.rows)
            || self.query_offsets.last() != Some(&q.rows)
        {
            bail!(
                "attention offsets do not cover {} query and {} key rows",
                q.rows,
                kv.rows
            );
        }
        if kv.width != 2 * q.width || !q.width.is_multiple_of(self.heads) {
            bail!(
                "attention widths {} and {} do not fit {} heads",
                q.width,
                kv.width,
                self.heads
            );
        }
        Ok(())
    }

    fn run(&self, q: &Matrix<'_>, kv: &Matrix<'_>, out: &mut [f32]) {
        let out = Disjoint::new(out, q.width);
        let heads = (self.offsets.len() - 1) * self.heads;
        let heads = (0..heads).into_par_iter().with_max_len(1);
        heads.for_each(|i| {
            let task = Task {
                sequence: i / self.heads,
                head: i % self.heads,
            };
            SCRATCH.with_borrow_mut(|scratch| self.head(&task, (q, kv), &out, scratch));
        });
    }

    /// Computes one head of one sequence, a panel of queries at a time.
    fn head(
        &self,
        task: &Task,
        (q, kv): (&Matrix<'_>, &Matrix<'_>),
        out: &Disjoint<'_>,
        scratch: &mut Scratch,
    ) {
        let tile = self.tile;
        let (form, depth) = (form(tile), tile.numbers.depth());
        let d = q.width / self.heads;
        let columns = task.head * d..(task.head + 1) * d;
        let rows = self.offsets[task.sequence]..self.offsets[task.sequence + 1];
        let length = rows.len();
        let padded = length.next_multiple_of(tile.rows);

        let steps = d.div_ceil(depth);
        let keys = scratch.keys.scratch(padded * steps);
        scratch.encoder.lay_out(
            kv.part(rows.clone(), columns.clone()),
            form,
            tile.rows,
            keys,
        );
        let value_columns = q.width + columns.start..q.width + columns.end;
        let steps_of_values = length.div_ceil(depth);
        let values = scratch
            .values
            .scratch(d.next_multiple_of(tile.columns) * steps_of_values);
        simd::run(LayOutValues {
            values: kv.part(rows, value_columns),
            steps: steps_of_values,
            tile,
            out: values,
        });

        let query_rows = self.query_offsets[task.sequence]..self.query_offsets[task.sequence + 1];
        for first in query_rows.clone().step_by(tile.columns) {
            let some = first..(first + tile.columns).min(query_rows.end);
            let queries = scratch.queries.scratch(tile.columns * steps);
            let rows = q.part(some.clone(), columns.clone());
            scratch.encoder.lay_out(rows, form, tile.columns, queries);
            // The last rows of queries may stick out by some words.
            let scores = scratch.scores.scratch(padded * tile.columns + tile.rows);
            for (keys, scores) in keys
                .chunks_exact(steps * tile.rows)
                .zip(scores.chunks_exact_mut(tile.rows * tile.columns))
            {
                tile.run((keys, tile.rows), queries, scores, false);
            }
            let sums = scratch.sums.scratch(tile.columns);
            softmax(
                &mut scores[..length * tile.columns],
                sums,
                1.0 / (d as f32).sqrt(),
                tile.numbers,
            );
            let tiles = some.len().div_ceil(tile.rows) * d.div_ceil(tile.columns);
            let context = scratch.context.scratch(tiles * tile.rows * tile.columns);
            let mut places = context.chunks_exact_mut(tile.rows * tile.columns);
            for query in (0..some.len()).step_by(tile.rows) {
                let weights = (&scores[query..], tile.columns);
                let panels = values.chunks_exact(steps_of_values * tile.columns);
                for (values, place) in panels.zip(&mut places) {
                    tile.run(weights, values, place, false);
                }
            }
            simd::run(Write {
                context,
                tile,
                sums,
                rows: some,
                columns: columns.clone(),
                out,
            });
        }
    }
}

fn form(tile: &Tile) -> Form<'static> {
    Form::plain(match tile.numbers {
        Numbers::Bf16 => Activations::Bf16,
        _ => Activations::F32,
    })
}

/// Values, a row per key, as right panels with a dimension to a column: `[panel][step][dimension]`. Columns of the last panel beyond
/// the head's size are left as they were; what they give is not read.
struct LayOutValues<'a, V> {
    values: V,
    steps: usize,
    tile: &'a Tile,
    out: &'a mut [u32],
}

impl<'b, V: Iterator<Item = &'b [f32]> + Clone> WithSimd for LayOutValues<'_, V> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let columns = self.tile.columns;
        let mut high = self.values.clone().skip(self.steps);
        for (step, low) in self.values.take(self.steps).enumerate() {
            let high = high.next().unwrap_or_default();
            for (panel, low) in low.chunks(columns).enumerate() {
                let words = &mut self.out[(panel * self.steps + step) * columns..][..low.len()];
                match self.tile.numbers {
                    Numbers::Bf16 => {
                        let high = high.chunks(columns).nth(panel).unwrap_or_default();
                        pair_bf16(low, high, words);
                    }
                    _ => {
                        for (word, x) in words.iter_mut().zip(low) {
                            *word = x.to_bits();
                        }
                    }
                }
            }
        }
    }
}

/// `out[query] = context[query] / sums[query]`.
struct Write<'a> {
    /// Tiles, `[rows of queries][panel of dimensions]`.
    context: &'a [u32],
    tile: &'a Tile,
    sums: &'a [f32],
    rows: Range<usize>,
    columns: Range<usize>,
    out: &'a Disjoint<'a>,
}

impl WithSimd for Write<'_> {
    type Output = ();

    #[expect(
        unsafe_code,
        reason = "shared between tasks that write to disjoint places"
    )]
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Tile { rows, columns, .. } = *self.tile;
        let panels = self.columns.len().div_ceil(columns);
        for ((i, row), sum) in self.rows.enumerate().zip(self.sums) {
            let inverse = 1.0 / sum;
            // SAFETY: a task alone writes the columns of its head in the rows of its sequence, one row after another.
            let out = unsafe { self.out.part(row, self.columns.clone()) };
            for (panel, out) in out.chunks_mut(columns).enumerate() {
                let tile = i / rows * panels + panel;
                let context = &self.context[(tile * rows + i % rows) * columns..];
                for (out, &x) in out.iter_mut().zip(context) {
                    *out = f32::from_bits(x) * inverse;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use candle_nn::attention::flash_attn_varlen_cpu;

    use super::*;
    use crate::ops::{Precision, matmul::tile};

    fn attention(
        tile: &'static Tile,
        (q, kv): (&Tensor, &Tensor),
        query_offsets: &Offsets,
        offsets: &Offsets,
        heads: usize,
    ) -> Result<Tensor> {
        let out = q.zeros_like()?.contiguous()?;
        let op = Attention {
            query_offsets: query_offsets.clone(),
            offsets: offsets.clone(),
            heads,
            tile,
        };
        out.inplace_op3(q, kv, &op)?;
        Ok(out)
    }

    /// With how far off each may be: bf16 has 8 bits.
    fn tiles() -> impl Iterator<Item = (&'static Tile, f32)> {
        tile::all().filter_map(|tile| match tile.numbers {
            Numbers::F32 => Some((tile, 5e-6)),
            Numbers::Bf16 => Some((tile, 2e-2)),
            _ => None,
        })
    }

    fn wave(rows: usize, width: usize, step: usize) -> Tensor {
        let data: Vec<f32> = (0..rows * width)
            .map(|i| ((i * step % 1009) as f32 - 504.0) / 300.0)
            .collect();
        Tensor::from_vec(data, (rows, width), &Device::Cpu).unwrap()
    }

    fn offsets(lengths: &[usize]) -> Offsets {
        let mut offsets = vec![0];
        offsets.extend(lengths.iter().scan(0, |end, n| {
            *end += n;
            Some(*end)
        }));
        offsets.into()
    }

    fn lengths_tensor(lengths: &[usize]) -> Tensor {
        let lengths: Vec<u32> = lengths.iter().map(|&n| u32::try_from(n).unwrap()).collect();
        Tensor::new(lengths, &Device::Cpu).unwrap()
    }

    /// Runs ours and candle-nn's on the same fused projection and compares.
    fn check(lengths: &[usize], heads: usize, d: usize, first_row_only: bool) {
        let (rows, width) = (lengths.iter().sum::<usize>(), heads * d);
        let qkv = wave(rows, 3 * width, 37);
        let key_offsets = offsets(lengths);
        let (q, query_lengths) = if first_row_only {
            let first: Vec<u32> = key_offsets[..lengths.len()]
                .iter()
                .map(|&o| u32::try_from(o).unwrap())
                .collect();
            let first = Tensor::new(first, &Device::Cpu).unwrap();
            let q = qkv.narrow(1, 0, width).unwrap().contiguous().unwrap();
            (q.index_select(&first, 0).unwrap(), vec![1; lengths.len()])
        } else {
            (qkv.narrow(1, 0, width).unwrap(), lengths.to_vec())
        };
        let kv = qkv.narrow(1, width, 2 * width).unwrap();

        let split =
            |t: &Tensor, rows: usize| t.contiguous().unwrap().reshape((rows, heads, d)).unwrap();
        let query_rows = query_lengths.iter().sum();
        let max = *lengths.iter().max().unwrap();
        let slow = flash_attn_varlen_cpu(
            &split(&q, query_rows),
            &split(&kv.narrow(1, 0, width).unwrap(), rows),
            &split(&kv.narrow(1, width, width).unwrap(), rows),
            None,
            &lengths_tensor(&query_lengths),
            &lengths_tensor(lengths),
            max,
            max,
            1.0 / (d as f32).sqrt(),
            false,
            None,
            None,
        )
        .unwrap();
        let slow = slow.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (tile, tolerance) in tiles() {
            let fast = attention(
                tile,
                (&q, &kv),
                &offsets(&query_lengths),
                &key_offsets,
                heads,
            )
            .unwrap();
            let fast = fast.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (fast, slow) in fast.iter().zip(&slow) {
                assert!(
                    (fast - slow).abs() < tolerance,
                    "{}: lengths {lengths:?}, {heads} heads of {d}: {fast}, not {slow}",
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
        let width = 128;
        let qkv = wave(40, 3 * width, 91);
        let run = |qkv: &Tensor, lengths: &[usize]| {
            let (q, kv) = (
                qkv.narrow(1, 0, width).unwrap(),
                qkv.narrow(1, width, 2 * width).unwrap(),
            );
            let tile = tile::for_attention(Precision::Bf16);
            attention(tile, (&q, &kv), &offsets(lengths), &offsets(lengths), 2)
                .unwrap()
                .to_vec2::<f32>()
                .unwrap()
        };
        let together = run(&qkv, &[11, 9, 20]);
        let alone = run(&qkv.narrow(0, 11, 9).unwrap(), &[9]);
        assert_eq!(together[11..20], alone);
    }

    #[test]
    fn offsets_that_do_not_fit_are_refused() {
        let (q, kv) = (wave(4, 64, 3), wave(4, 128, 5));
        for bad in [&[0usize, 3][..], &[0, 2, 2, 4], &[1, 4], &[0, 5]] {
            let bad: Offsets = bad.into();
            assert!(
                attention(tile::best(Precision::F32), (&q, &kv), &bad, &bad, 1).is_err(),
                "{bad:?}"
            );
        }
    }
}
