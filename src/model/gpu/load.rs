//! Loads a checkpoint onto the GPU: weights are read in pieces and converted on the GPU.

use std::cell::RefCell;

use anyhow::{Result, ensure};
use half::f16;

use super::operand::{
    Bias, CudaEmbeddings, CudaHead, CudaLinear, CudaNorm, CudaWeights, FloatWidth, Weight,
};
use crate::{
    model::{
        backend::{EmbeddingsSpec, HeadSpec, LinearSpec, NormSpec, WeightLoader},
        config::ModelConfig,
        weights::Weights,
    },
    ops::cuda::{Buffer, Gpu, Norm},
};

/// Numbers copied at a time.
const PIECE: usize = 4 << 20;

/// Bytes that the weights take on the GPU, but for biases and norms.
pub(super) fn bytes(config: &ModelConfig, width: FloatWidth) -> usize {
    let (hidden, wide) = (config.hidden, config.intermediate);
    let layer = 4 * hidden * hidden + 2 * hidden * wide;
    let numbers = config.vocabulary * hidden + config.layers * layer + hidden * hidden;
    4 * config.positions * hidden + numbers * width.bytes()
}

pub(super) struct CudaLoader<'a> {
    gpu: &'a Gpu,
    weights: &'a Weights,
    width: FloatWidth,
    staging: RefCell<Staging>,
}

/// What weights go through on their way into f16.
struct Staging {
    piece: Buffer<f32>,
    /// Set by the GPU when a number does not fit.
    lost: Buffer<u32>,
}

impl<'a> CudaLoader<'a> {
    pub(super) fn new(gpu: &'a Gpu, weights: &'a Weights, width: FloatWidth) -> Result<Self> {
        let staging = Staging {
            piece: gpu.stream.alloc(PIECE)?,
            lost: gpu.stream.upload(&[0])?,
        };
        Ok(Self {
            gpu,
            weights,
            width,
            staging: RefCell::new(staging),
        })
    }

    /// Tensors of the same shape, one after the other.
    fn weight(&self, names: &[String], shape: [usize; 2]) -> Result<Weight> {
        let (stream, kernels) = (&self.gpu.stream, &self.gpu.kernels);
        let staging = &mut *self.staging.borrow_mut();
        let (staged, lost) = (&mut staging.piece, &mut staging.lost);
        let count = names.len() * shape[0] * shape[1];
        let mut all = match self.width {
            FloatWidth::Full => Weight::Full(stream.alloc(count)?),
            FloatWidth::Half => Weight::Half(stream.alloc(count)?),
        };
        let mut end = 0;
        for name in names {
            self.weights.for_each_piece(name, &shape, PIECE, |piece| {
                let place = end..end + piece.len();
                end = place.end;
                match &mut all {
                    Weight::Full(all) => stream.write(piece, &mut all.slice_mut(place)),
                    Weight::Half(all) => {
                        stream.write(piece, &mut staged.slice_mut(..piece.len()))?;
                        let staged = staged.slice(..piece.len());
                        kernels.narrow(&staged, &mut all.slice_mut(place), lost)
                    }
                }
            })?;
            ensure!(
                stream.download(lost)?[0] == 0,
                "tensor `{name}` has a weight beyond f16's range of {}; set RERANKER_DTYPE=f32",
                f16::MAX
            );
        }
        Ok(all)
    }
}

impl WeightLoader<CudaWeights> for CudaLoader<'_> {
    fn embeddings(&self, spec: EmbeddingsSpec<'_>) -> Result<CudaEmbeddings> {
        let names = [spec.tokens.to_owned()];
        Ok(CudaEmbeddings {
            tokens: self.weight(&names, [spec.vocabulary, spec.norm.width])?,
            positions: self.gpu.stream.upload(&spec.positions)?,
            norm: self.norm(&spec.norm)?,
        })
    }

    fn linear(&self, spec: &LinearSpec<'_>) -> Result<CudaLinear> {
        let bias = self.weights.read(&spec.tensors("bias"), &[spec.outputs])?;
        let halves: Vec<f16> = bias.iter().map(|&x| f16::from_f32(x)).collect();
        let shape = [spec.outputs, spec.inputs];
        Ok(CudaLinear {
            label: spec.label,
            weight: self.weight(&spec.tensors("weight"), shape)?,
            outputs: bias.len(),
            bias: Bias {
                half: self.gpu.stream.upload(&halves)?,
                full: self.gpu.stream.upload(&bias)?,
            },
            inputs: spec.inputs,
        })
    }

    fn norm(&self, spec: &NormSpec<'_>) -> Result<CudaNorm> {
        let parameters = self.weights.read_norm(spec.name, spec.width)?;
        Ok(CudaNorm {
            label: spec.label,
            norm: Norm {
                parameters: self.gpu.stream.upload(&parameters)?,
                eps: spec.eps,
            },
        })
    }

    fn head(&self, spec: HeadSpec<'_>) -> Result<CudaHead> {
        Ok(CudaHead {
            dense: self.linear(&spec.dense)?,
            output: self.gpu.stream.upload(&spec.output)?,
            output_bias: self.gpu.stream.upload(&spec.output_bias)?,
        })
    }

    /// One after the other: all of it goes through one stream.
    fn layers<T: Send>(
        &self,
        count: usize,
        load: impl Fn(&Self, usize) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        (0..count).map(|n| load(self, n)).collect()
    }
}
