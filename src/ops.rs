//! The operations of the network that candle does not have in the form we need.
//!
//! Each is a custom op behind a safe function on [`Tensor`]s. The CPU kernels are in the sub-modules and work on
//! plain slices; every one is tested there against a slow reference. This module and its children are the only
//! place with vector code.
//!
//! **Determinism.** A row of any result depends on the same row of the inputs alone, never on how many rows there
//! are: that is what makes a pair's score independent of its batch mates. See [`linear`] for the one trap.

#![expect(
    clippy::inline_always,
    reason = "a kernel must be inlined into the copy for its instruction set"
)]

mod attention;
mod gelu;
mod layer_norm;
mod simd;

use std::sync::Arc;

use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, Tensor, bail};

/// Matrix products are padded to this many rows. Below it the `gemm` crate switches to matrix-vector and
/// dot-product kernels that add in another order, so a row's last bits would depend on the batch it came in.
const MIN_LINEAR_ROWS: usize = 17;

/// `x [rows, in] · weightᵀ [in, out]` → `[rows, out]`, with `weight` stored `[out, in]` as checkpoints have it.
///
/// The bias is left to the op that follows, which reads the result anyway.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (rows, _) = x.dims2()?;
    if rows >= MIN_LINEAR_ROWS || !x.device().is_cpu() {
        return x.matmul(&weight.t()?);
    }
    x.pad_with_zeros(0, 0, MIN_LINEAR_ROWS - rows)?
        .matmul(&weight.t()?)?
        .narrow(0, 0, rows)?
        .contiguous()
}

/// Rows of padding that [`linear`] computes on the CPU beside so many rows.
pub fn linear_padding(rows: usize) -> usize {
    MIN_LINEAR_ROWS.saturating_sub(rows)
}

/// `x + bias` in place: `x [rows, width]`, `bias [width]`.
pub fn add_bias(x: Tensor, bias: &Tensor) -> Result<Tensor> {
    x.inplace_op2(bias, &RowOp(gelu::add_bias))?;
    Ok(x)
}

/// `gelu(x + bias)` in place, with the exact (erf) GELU: `x [rows, width]`, `bias [width]`.
pub fn bias_gelu(x: Tensor, bias: &Tensor) -> Result<Tensor> {
    x.inplace_op2(bias, &RowOp(gelu::bias_gelu))?;
    Ok(x)
}

/// A layer norm together with the bias of the projection before it.
#[derive(Debug, Clone)]
pub struct BiasNorm {
    /// `[3, width]`: projection bias, then the norm's gain, then its shift.
    pub parameters: Tensor,
    /// Added to the variance.
    pub eps: f32,
}

/// `layer_norm(x + bias + residual)` in place of `x`: `x` and `residual` are `[rows, width]`.
pub fn residual_layer_norm(x: Tensor, residual: &Tensor, norm: &BiasNorm) -> Result<Tensor> {
    x.inplace_op3(residual, &norm.parameters, &ResidualLayerNorm(norm.eps))?;
    Ok(x)
}

/// Where each sequence of a packed batch begins: `n + 1` row offsets, from 0 to the total.
pub type Offsets = Arc<[usize]>;

/// Softmax attention of every sequence of a packed batch over itself, without padding.
///
/// `queries [query_rows, heads · d]`, `keys_values [rows, 2 · heads · d]` (keys, then values); both may be views into
/// a wider fused projection. Sequence `i` has its queries in rows `query_offsets[i]..query_offsets[i + 1]` and its keys
/// in rows `offsets[i]..offsets[i + 1]`. Returns `[query_rows, heads · d]`.
pub fn attention(
    queries: &Tensor,
    keys_values: &Tensor,
    query_offsets: &Offsets,
    offsets: &Offsets,
    heads: usize,
) -> Result<Tensor> {
    let op = attention::Attention {
        query_offsets: Arc::clone(query_offsets),
        offsets: Arc::clone(offsets),
        heads,
    };
    queries.apply_op2_no_bwd(keys_values, &op)
}

/// A CPU kernel over the rows of a matrix, given one vector of parameters.
struct RowOp(fn(&mut [f32], &[f32]));

impl InplaceOp2 for RowOp {
    fn name(&self) -> &'static str {
        "row-op"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<()> {
        let bias = contiguous(bias, bias_layout)?;
        (self.0)(contiguous_mut(x, x_layout)?, bias);
        Ok(())
    }
}

struct ResidualLayerNorm(f32);

impl InplaceOp3 for ResidualLayerNorm {
    fn name(&self) -> &'static str {
        "residual-layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_layout: &Layout,
        residual: &CpuStorage,
        residual_layout: &Layout,
        parameters: &CpuStorage,
        parameters_layout: &Layout,
    ) -> Result<()> {
        let residual = contiguous(residual, residual_layout)?;
        let parameters = contiguous(parameters, parameters_layout)?;
        layer_norm::residual_layer_norm(contiguous_mut(x, x_layout)?, residual, parameters, self.0);
        Ok(())
    }
}

fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("this operation needs a contiguous tensor, not {layout:?}"),
    }
}

fn contiguous_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("this operation needs a contiguous tensor, not {layout:?}");
    };
    match storage {
        CpuStorage::F32(data) => Ok(&mut data[start..end]),
        other => bail!(
            "this operation is for f32 on the CPU, not {:?}",
            dtype(other)
        ),
    }
}

fn dtype(storage: &CpuStorage) -> candle_core::DType {
    use candle_core::backend::BackendStorage as _;
    storage.dtype()
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    /// Reproducible numbers in [-1, 1], the same for the same seed.
    fn random(rows: usize, width: usize, seed: u64) -> Tensor {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let data: Vec<f32> = (0..rows * width)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / 8_388_608.0 - 1.0
            })
            .collect();
        Tensor::from_vec(data, (rows, width), &Device::Cpu).unwrap()
    }

    #[test]
    fn linear_rows_do_not_depend_on_the_number_of_rows() {
        for (width, out) in [(64, 64), (256, 1024), (1024, 256), (192, 320), (1024, 3072)] {
            let weight = random(out, width, 1);
            let x = random(300, width, 2);
            let whole = linear(&x, &weight).unwrap().to_vec2::<f32>().unwrap();
            for rows in [1, 2, 3, 5, 16, 17, 18, 63, 64, 65, 100, 257] {
                for start in [0, 43] {
                    let part = x.narrow(0, start, rows).unwrap();
                    let part = linear(&part, &weight).unwrap().to_vec2::<f32>().unwrap();
                    assert_eq!(
                        part,
                        whole[start..start + rows],
                        "{rows} rows of {width}x{out}"
                    );
                }
            }
        }
    }

    #[test]
    fn in_place_ops_refuse_a_view_with_gaps() {
        let view = random(4, 8, 3).narrow(1, 0, 4).unwrap();
        let bias = Tensor::zeros(4, candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(add_bias(view, &bias).is_err());
    }
}
