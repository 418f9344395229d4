//! Variable-length attention on the CPU: per sequence and head, two small matrix products around a softmax.
//!
//! Instead of candle-nn's `flash_attn_varlen_cpu`, which walks one row at a time at about a tenth of the machine's
//! peak; the tests keep it as the slow reference. Scores are computed for a block of query rows at once, so scratch
//! is `QUERY_BLOCK · length` floats however long the sequence.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, bail};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{Offsets, simd};

const QUERY_BLOCK: usize = 64;

/// See [`super::attention()`] for the shapes.
pub(super) struct Attention {
    pub(super) query_offsets: Offsets,
    pub(super) offsets: Offsets,
    pub(super) heads: usize,
}

impl CustomOp2 for Attention {
    fn name(&self) -> &'static str {
        "variable-length-attention"
    }

    fn cpu_fwd(
        &self,
        queries: &CpuStorage,
        queries_layout: &Layout,
        keys_values: &CpuStorage,
        keys_values_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let q = Matrix::new(queries, queries_layout)?;
        let kv = Matrix::new(keys_values, keys_values_layout)?;
        self.check(&q, &kv)?;
        let mut out = vec![0.0f32; q.rows * q.width];
        self.run(&q, &kv, &mut out);
        Ok((CpuStorage::F32(out), Shape::from((q.rows, q.width))))
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
}

/// One head of one sequence.
struct Task {
    sequence: usize,
    head: usize,
}

/// The result, shared between tasks that write to disjoint places.
struct Out(*mut f32);

#[expect(
    unsafe_code,
    reason = "shared between tasks that write disjoint places"
)]
// SAFETY: the pointer is to plain floats that outlive the parallel loop, and each task writes only the columns of its
// head in the rows of its sequence: no two tasks share a float.
unsafe impl Sync for Out {}

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
        let out = Out(out.as_mut_ptr());
        let out = &out;
        (0..(self.offsets.len() - 1) * self.heads)
            .into_par_iter()
            .map(|i| Task {
                sequence: i / self.heads,
                head: i % self.heads,
            })
            .for_each_init(Vec::new, |scores, task| {
                self.head(&task, (q, kv), out, scores);
            });
    }

    /// Computes one head of one sequence, a block of query rows at a time.
    #[expect(
        unsafe_code,
        reason = "the gemm crate's interface takes pointers and strides"
    )]
    fn head(
        &self,
        task: &Task,
        (q, kv): (&Matrix<'_>, &Matrix<'_>),
        out: &Out,
        scores: &mut Vec<f32>,
    ) {
        let d = q.width / self.heads;
        let scale = 1.0 / (d as f32).sqrt();
        let column = task.head * d;
        let (first_key, end_key) = (self.offsets[task.sequence], self.offsets[task.sequence + 1]);
        let length = end_key - first_key;
        let keys = &kv.data[first_key * kv.stride + column..];
        let values = &kv.data[first_key * kv.stride + q.width + column..];
        let query_rows = self.query_offsets[task.sequence]..self.query_offsets[task.sequence + 1];
        for row in query_rows.clone().step_by(QUERY_BLOCK) {
            let m = QUERY_BLOCK.min(query_rows.end - row);
            let queries = &q.data[row * q.stride + column..];
            scores.clear();
            scores.resize(m * length, 0.0);
            // SAFETY: `check` has shown that the offsets lie within both matrices and `Matrix::new` that every row lies
            // within its slice. The products read m or `length` rows of d floats at the strides given and write
            // m × length floats of `scores`, then d floats in each of m rows of `out`, which is rows × width and in
            // which this task alone writes these columns of these rows.
            unsafe {
                let (queries, keys, values) = (queries.as_ptr(), keys.as_ptr(), values.as_ptr());
                product(
                    (m, length, d),
                    (scores.as_mut_ptr(), length),
                    (queries, q.stride, 1),
                    (keys, 1, kv.stride),
                );
                simd::run(Softmax {
                    scores,
                    length,
                    scale,
                });
                let out = out.0.add(row * q.width + column);
                product(
                    (m, d, length),
                    (out, q.width),
                    (scores.as_ptr(), length, 1),
                    (values, kv.stride, 1),
                );
            }
        }
    }
}

/// `dst [m, n] = lhs [m, k] · rhs [k, n]` on this thread; `dst` has a row stride, `lhs` and `rhs` row and column strides.
///
/// # Safety
/// All three must be valid for the shapes and strides given, `dst` for writing and apart from the other two.
#[expect(
    unsafe_code,
    reason = "the gemm crate's interface takes pointers and strides"
)]
unsafe fn product(
    (m, n, k): (usize, usize, usize),
    dst: (*mut f32, usize),
    lhs: (*const f32, usize, usize),
    rhs: (*const f32, usize, usize),
) {
    let stride = |s: usize| isize::try_from(s).expect("a stride of a tensor in memory fits");
    // SAFETY: passed on to the caller.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.0,
            1,
            stride(dst.1),
            false,
            lhs.0,
            stride(lhs.2),
            stride(lhs.1),
            rhs.0,
            stride(rhs.2),
            stride(rhs.1),
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Softmax of `scale · scores` over each row of `length`.
struct Softmax<'a> {
    scores: &'a mut [f32],
    length: usize,
    scale: f32,
}

impl WithSimd for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for row in self.scores.chunks_exact_mut(self.length) {
            let max = simd::max(row);
            for x in row.iter_mut() {
                *x = simd::exp_negative((*x - max) * self.scale);
            }
            let inverse = 1.0 / simd::sum(row, |x| x);
            for x in row.iter_mut() {
                *x *= inverse;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use candle_nn::attention::flash_attn_varlen_cpu;

    use crate::ops::{Offsets, attention};

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
        let fast = attention(&q, &kv, &offsets(&query_lengths), &key_offsets, heads).unwrap();

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
        let (fast, slow) = (fast.flatten_all().unwrap(), slow.flatten_all().unwrap());
        let error = (fast - slow)
            .unwrap()
            .abs()
            .unwrap()
            .max(0)
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        assert!(
            error < 5e-6,
            "lengths {lengths:?}, {heads} heads of {d}: off by {error}"
        );
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
            attention(&q, &kv, &offsets(lengths), &offsets(lengths), 2)
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
            assert!(attention(&q, &kv, &bad, &bad, 1).is_err(), "{bad:?}");
        }
    }
}
