//! The operations of the network that candle does not have in the form we need.
//!
//! Each is a custom op behind a safe function on [`Tensor`]s. The CPU kernels are in the sub-modules and work on
//! plain slices; every one is tested there against a slow reference. This module and its children are the only
//! place with vector code.
//!
//! **Determinism.** A row of any result depends on the same row of the inputs alone, never on how many rows there
//! are: that is what makes a pair's score independent of its batch mates.

#![expect(
    clippy::inline_always,
    reason = "a kernel must be inlined into the copy for its instruction set"
)]

mod aligned;
mod attention;
mod clock;
#[cfg(feature = "cuda")]
pub mod cuda;
mod disjoint;
mod gelu;
mod gpu_info;
mod layer_norm;
mod matmul;
mod peak;
mod simd;
mod softmax;

use std::sync::Arc;

use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, Tensor, bail};

pub use clock::{Operation, Spent, take_spent};
pub use gpu_info::GpuInfo;
pub use peak::{Peak, peak};

/// The instructions that multiply weights of this precision on this processor.
pub fn instructions(precision: Precision) -> &'static str {
    matmul::tile::best(precision).instructions
}

/// How weights are kept and multiplied on the CPU. Everything between the products is f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// As they came.
    F32,
    /// Kept in 16 bits, multiplied in f32: half the memory at the speed of f32.
    F16,
    /// Kept in 16 bits; activations are rounded to bf16 too. Twice the speed where the processor multiplies bf16.
    Bf16,
    /// Both rounded to 8-bit integers; see `ops/matmul/int8.rs` for the scheme.
    Int8,
}

/// A projection, `y = activation(x · weightᵀ + bias)`.
pub struct Linear {
    weight: matmul::Weight,
    activation: Activation,
}

/// What follows a projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// The exact (erf) GELU.
    Gelu,
}

impl Linear {
    /// Lays out `weight [outputs, inputs]`, as checkpoints have it, and `bias [outputs]`. `center [inputs]` is what inputs vary around,
    /// the shift of the layer norm before it, say; empty if that is not known. It helps rounding and changes nothing else.
    pub fn new(
        weight: &[f32],
        bias: Vec<f32>,
        center: &[f32],
        activation: Activation,
        precision: Precision,
    ) -> Self {
        Self {
            weight: matmul::Weight::new(weight, bias, center, precision),
            activation,
        }
    }

    /// Writes the projection of `x [rows, inputs]` to `out [rows, outputs]`.
    pub fn forward(&self, x: &Tensor, out: &Tensor) -> Result<()> {
        clock::time(Operation::Projection, || out.inplace_op2(x, self))
    }
}

impl InplaceOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        out: &mut CpuStorage,
        out_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> Result<()> {
        let (rows, inputs) = x_layout.shape().dims2()?;
        let shape = out_layout.shape().dims2()?;
        if inputs != self.weight.inputs || shape != (rows, self.weight.outputs) {
            bail!(
                "a projection of {} inputs to {} outputs cannot turn {x_layout:?} into {out_layout:?}",
                self.weight.inputs,
                self.weight.outputs
            );
        }
        let x = contiguous(x, x_layout)?;
        self.weight
            .multiply(x, contiguous_mut(out, out_layout)?, self.activation);
        Ok(())
    }
}

/// Rows of padding that a projection computes beside so many rows.
pub fn linear_padding(rows: usize, precision: Precision) -> usize {
    matmul::padding(rows, precision)
}

/// Gain and shift of a layer norm.
#[derive(Debug, Clone)]
pub struct Norm {
    /// `[2, width]`: gain, then shift.
    pub parameters: Tensor,
    /// Added to the variance.
    pub eps: f32,
}

/// `layer_norm(x + residual)` in place of `x`: both are `[rows, width]`.
pub fn residual_layer_norm(x: &Tensor, residual: &Tensor, norm: &Norm) -> Result<()> {
    let op = ResidualLayerNorm(norm.eps);
    clock::time(Operation::Norm, || {
        x.inplace_op3(residual, &norm.parameters, &op)
    })
}

/// Where each sequence of a packed batch begins: `n + 1` row offsets, from 0 to the total.
pub type Offsets = Arc<[usize]>;

/// Softmax attention of every sequence of a packed batch over itself, without padding, written to `out`.
///
/// `queries [query_rows, heads · d]`, `keys_values [rows, 2 · heads · d]` (keys, then values); both may be views into
/// a wider fused projection. Sequence `i` has its queries in rows `query_offsets[i]..query_offsets[i + 1]` and its keys
/// in rows `offsets[i]..offsets[i + 1]`. `out` is `[query_rows, heads · d]`.
pub fn attention(
    out: &Tensor,
    (queries, keys_values): (&Tensor, &Tensor),
    (query_offsets, offsets): (&Offsets, &Offsets),
    heads: usize,
    precision: Precision,
) -> Result<()> {
    let op = attention::Attention {
        query_offsets: Arc::clone(query_offsets),
        offsets: Arc::clone(offsets),
        heads,
        tile: matmul::tile::for_attention(precision),
    };
    clock::time(Operation::Attention, || {
        out.inplace_op3(queries, keys_values, &op)
    })
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
    fn a_view_with_gaps_is_refused() {
        let view = random(4, 8, 3).narrow(1, 0, 4).unwrap();
        let linear = Linear::new(
            &[0.0; 8],
            vec![0.0; 2],
            &[],
            Activation::None,
            Precision::F32,
        );
        let out = Tensor::zeros((4, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(linear.forward(&view, &out).is_err());
        assert!(linear.forward(&view.contiguous().unwrap(), &out).is_ok());
        assert!(linear.forward(&random(3, 4, 1), &out).is_err());
    }
}
