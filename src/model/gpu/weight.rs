//! Weights on the GPU, and how a product of either type reads them.

use std::ops::Range;

use anyhow::{Context as _, Result};
use half::f16;

use crate::ops::cuda::{Buffer, Factor, Gpu, Number, View};

/// Numbers as they are kept.
pub(super) enum Weight {
    Half(Buffer<f16>),
    Full(Buffer<f32>),
}

/// A projection, `y = x · weightᵀ + bias`.
pub(super) struct Linear {
    /// `[outputs, inputs]`.
    pub(super) weight: Weight,
    /// `[outputs]`, in both types, because it is added before a product is rounded.
    pub(super) bias: (Buffer<f16>, Buffer<f32>),
    pub(super) inputs: usize,
}

/// Weights on the way into a product in f32.
pub(super) type Scratch = Option<Buffer<f32>>;

/// What activations can be, seen from the weights.
pub(super) trait Activations: Number {
    /// Rows of a weight as a factor of the same type.
    fn factor<'a>(
        gpu: &Gpu,
        linear: &'a Linear,
        outputs: Range<usize>,
        scratch: &'a mut Scratch,
    ) -> Result<Factor<'a, Self>>;

    /// The bias of a projection in the same type.
    fn bias(linear: &Linear) -> &Buffer<Self>;
}

impl Activations for f16 {
    fn factor<'a>(
        _gpu: &Gpu,
        linear: &'a Linear,
        outputs: Range<usize>,
        _scratch: &'a mut Scratch,
    ) -> Result<Factor<'a, Self>> {
        match &linear.weight {
            Weight::Half(weight) => Ok(linear.rows(&weight.as_view(), outputs)),
            Weight::Full(_) => {
                anyhow::bail!("weights in f32 cannot be multiplied by activations in f16")
            }
        }
    }

    fn bias(linear: &Linear) -> &Buffer<Self> {
        &linear.bias.0
    }
}

impl Activations for f32 {
    /// Weights kept in f16 are widened each time: that is for batches that overflowed.
    fn factor<'a>(
        gpu: &Gpu,
        linear: &'a Linear,
        outputs: Range<usize>,
        scratch: &'a mut Scratch,
    ) -> Result<Factor<'a, Self>> {
        let half = match &linear.weight {
            Weight::Full(weight) => return Ok(linear.rows(&weight.as_view(), outputs)),
            Weight::Half(half) => linear.rows(&half.as_view(), outputs),
        };
        let count = half.weight.len();
        if scratch.as_ref().is_none_or(|scratch| scratch.len() < count) {
            *scratch = None;
            *scratch = Some(gpu.room(count)?);
        }
        let wide = scratch.as_mut().context("it has just been made")?;
        gpu.widen(&half.weight, &mut wide.slice_mut(..count))?;
        Ok(Factor {
            weight: wide.slice(..count),
            outputs: half.outputs,
            inputs: half.inputs,
        })
    }

    fn bias(linear: &Linear) -> &Buffer<Self> {
        &linear.bias.1
    }
}

impl Linear {
    fn rows<'a, T>(&self, weight: &View<'a, T>, outputs: Range<usize>) -> Factor<'a, T> {
        Factor {
            outputs: outputs.len(),
            inputs: self.inputs,
            weight: weight.slice(outputs.start * self.inputs..outputs.end * self.inputs),
        }
    }

    pub(super) fn outputs(&self) -> usize {
        self.bias.1.len()
    }
}
