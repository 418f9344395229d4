//! Weights on the GPU, and how a product of either type reads them.

use anyhow::{Context as _, Result};
use half::f16;

use crate::{
    model::backend::DeviceWeights,
    ops::cuda::{Buffer, Gpu, Norm, Number, WeightView},
};

/// The type of weights, and of most batches' activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FloatWidth {
    /// Half precision, f16.
    Half,
    /// Single precision, f32.
    Full,
}

impl FloatWidth {
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Half => 2,
            Self::Full => 4,
        }
    }
}

/// Weights on a GPU are all of one type, but for biases, which products of both types add.
pub(super) struct CudaWeights;

impl DeviceWeights for CudaWeights {
    type Embeddings = CudaEmbeddings;
    type Linear = CudaLinear;
    type Norm = CudaNorm;
    type Head = CudaHead;
}

/// The numbers of a weight, in the type in which they are kept.
pub(super) enum Weight {
    Half(Buffer<f16>),
    Full(Buffer<f32>),
}

/// A projection, `y = x · weightᵀ + bias`.
pub(super) struct CudaLinear {
    pub(super) label: &'static str,
    /// `[outputs, inputs]`.
    pub(super) weight: Weight,
    pub(super) bias: Bias,
    pub(super) outputs: usize,
    pub(super) inputs: usize,
}

/// `[outputs]`, in both types, because it is added before a product is rounded.
pub(super) struct Bias {
    pub(super) half: Buffer<f16>,
    pub(super) full: Buffer<f32>,
}

pub(super) struct CudaNorm {
    pub(super) label: &'static str,
    pub(super) norm: Norm,
}

pub(super) struct CudaEmbeddings {
    /// `[vocabulary, hidden]`.
    pub(super) tokens: Weight,
    /// `[positions, hidden]`, in f32: a row of it is added to every token.
    pub(super) positions: Buffer<f32>,
    pub(super) norm: CudaNorm,
}

pub(super) struct CudaHead {
    pub(super) dense: CudaLinear,
    /// `[hidden]`.
    pub(super) output: Buffer<f32>,
    /// `[1]`.
    pub(super) output_bias: Buffer<f32>,
}

/// What activations can be, seen from the weights.
pub(super) trait Operand: Number {
    /// A weight in this type, which may go through `widened`.
    fn view<'a>(
        gpu: &Gpu,
        linear: &'a CudaLinear,
        widened: &'a mut Option<Buffer<f32>>,
    ) -> Result<WeightView<'a, Self>>;

    /// The bias in this type.
    fn bias(bias: &Bias) -> &Buffer<Self>;
}

impl Operand for f16 {
    fn view<'a>(
        _gpu: &Gpu,
        linear: &'a CudaLinear,
        _widened: &'a mut Option<Buffer<f32>>,
    ) -> Result<WeightView<'a, Self>> {
        match &linear.weight {
            Weight::Half(weight) => Ok(linear.view(weight)),
            Weight::Full(_) => {
                anyhow::bail!("weights in f32 cannot be multiplied by activations in f16")
            }
        }
    }

    fn bias(bias: &Bias) -> &Buffer<Self> {
        &bias.half
    }
}

impl Operand for f32 {
    /// Weights kept in f16 are widened each time: that is for batches that overflowed.
    fn view<'a>(
        gpu: &Gpu,
        linear: &'a CudaLinear,
        widened: &'a mut Option<Buffer<f32>>,
    ) -> Result<WeightView<'a, Self>> {
        let half = match &linear.weight {
            Weight::Full(weight) => return Ok(linear.view(weight)),
            Weight::Half(half) => half.as_view(),
        };
        let count = half.len();
        if widened.as_ref().is_none_or(|widened| widened.len() < count) {
            *widened = None;
            *widened = Some(gpu.stream.alloc(count)?);
        }
        let widened = widened.as_mut().context("it has just been made")?;
        gpu.kernels.widen(&half, &mut widened.slice_mut(..count))?;
        Ok(WeightView {
            numbers: widened.slice(..count),
            outputs: linear.outputs,
            inputs: linear.inputs,
        })
    }

    fn bias(bias: &Bias) -> &Buffer<Self> {
        &bias.full
    }
}

impl CudaLinear {
    fn view<'a, T>(&self, weight: &'a Buffer<T>) -> WeightView<'a, T> {
        WeightView {
            numbers: weight.as_view(),
            outputs: self.outputs,
            inputs: self.inputs,
        }
    }
}
