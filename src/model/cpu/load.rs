//! Loads a checkpoint into packed weights.

use anyhow::{Result, bail};
use half::{f16, slice::HalfFloatSliceExt as _};
use rayon::prelude::*;

use crate::{
    model::{
        backend::{DeviceWeights, EmbeddingsSpec, HeadSpec, LinearSpec, NormSpec, WeightLoader},
        weights::Weights,
    },
    ops::{EmbeddingTable, Embeddings, LayerNorm, PackedWeights, Precision},
};

/// Weights of projections packed, all others in f32.
pub(super) struct CpuWeights;

impl DeviceWeights for CpuWeights {
    type Embeddings = Embeddings;
    type Linear = PackedWeights;
    type Norm = LayerNorm;
    type Head = CpuHead;
}

pub(super) struct CpuHead {
    pub(super) dense: PackedWeights,
    /// `[outputs]`.
    pub(super) output: Vec<f32>,
    pub(super) output_bias: f32,
}

pub(super) struct CpuLoader<'a> {
    pub(super) weights: &'a Weights,
    pub(super) precision: Precision,
}

impl WeightLoader<CpuWeights> for CpuLoader<'_> {
    fn embeddings(&self, spec: EmbeddingsSpec<'_>) -> Result<Embeddings> {
        let shape = [spec.vocabulary, spec.norm.width];
        let (weights, name) = (self.weights, spec.tokens);
        Ok(Embeddings {
            tokens: match self.precision {
                Precision::F32 => {
                    EmbeddingTable::F32(weights.read_as(name, &shape, <[f32]>::copy_from_slice)?)
                }
                _ => EmbeddingTable::F16(weights.read_as(
                    name,
                    &shape,
                    <[f16]>::convert_from_f32_slice,
                )?),
            },
            norm: self.norm(&spec.norm)?,
            positions: spec.positions,
        })
    }

    fn linear(&self, spec: &LinearSpec<'_>) -> Result<PackedWeights> {
        let shape = [spec.outputs, spec.inputs];
        let weight = self.weights.read(&spec.tensors("weight"), &shape)?;
        let bias = self.weights.read(&spec.tensors("bias"), &shape[..1])?;
        if self.precision == Precision::F16 {
            check_f16(&weight, spec.names)?;
        }
        let mean_shift = match spec.norm_before {
            Some(norm) => {
                let shift = format!("{norm}.bias");
                self.weights.read(&[shift], &[spec.inputs])?
            }
            None => Vec::new(),
        };
        Ok(PackedWeights::new(
            &weight,
            bias,
            &mean_shift,
            self.precision,
        ))
    }

    fn norm(&self, spec: &NormSpec<'_>) -> Result<LayerNorm> {
        Ok(LayerNorm {
            parameters: self.weights.read_norm(spec.name, spec.width)?,
            eps: spec.eps,
        })
    }

    /// The head is in f32 whatever the precision, because it is read only once per sequence.
    fn head(&self, spec: HeadSpec<'_>) -> Result<CpuHead> {
        let exact = Self {
            precision: Precision::F32,
            ..*self
        };
        Ok(CpuHead {
            dense: exact.linear(&spec.dense)?,
            output: spec.output,
            output_bias: spec.output_bias[0],
        })
    }

    fn layers<T: Send>(
        &self,
        count: usize,
        load: impl Fn(&Self, usize) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let layers = (0..count).into_par_iter();
        layers.map(|n| load(self, n)).collect()
    }
}

fn check_f16(weight: &[f32], names: &[String]) -> Result<()> {
    let beyond = |x: &&f32| x.is_nan() || x.abs() > f16::MAX.to_f32();
    if let Some(large) = weight.iter().find(beyond) {
        bail!(
            "{}: a weight is {large:e}, but f16 ends at {}; use RERANKER_DTYPE=f32 or bf16",
            names.join(", "),
            f16::MAX
        );
    }
    Ok(())
}
