//! From a checkpoint to weights on the GPU: read in pieces, converted where they will be used.

use anyhow::{Result, ensure};
use half::f16;

use super::{
    Precision,
    network::{Head, Layer, Network, Sizes},
    plan::Tables,
    weight::{Linear, Weight},
};
use crate::{
    model::{ModelConfig, names, weights::Weights},
    ops::cuda::{Buffer, Gpu, Norm},
};

/// Numbers copied at a time.
const PIECE: usize = 4 << 20;

/// Bytes that the weights take on the GPU, but for biases and norms.
pub(super) fn bytes(config: &ModelConfig, precision: Precision) -> usize {
    let (hidden, wide) = (config.hidden, config.intermediate);
    let layer = 4 * hidden * hidden + 2 * hidden * wide;
    let numbers = config.vocabulary * hidden + config.layers * layer + hidden * hidden;
    let positions = 4 * config.positions * hidden;
    positions
        + numbers
            * match precision {
                Precision::Half => 2,
                Precision::Full => 4,
            }
}

/// Reads tensors by the names that transformers gives them.
pub(super) struct Loader<'a> {
    gpu: &'a Gpu,
    config: &'a ModelConfig,
    weights: &'a Weights,
    precision: Precision,
    /// A piece on its way into f16.
    staging: Buffer<f32>,
    /// Set by the GPU when a number does not fit.
    lost: Buffer<u32>,
}

impl<'a> Loader<'a> {
    pub(super) fn new(
        gpu: &'a Gpu,
        config: &'a ModelConfig,
        weights: &'a Weights,
        precision: Precision,
    ) -> Result<Self> {
        Ok(Self {
            staging: gpu.room(PIECE)?,
            lost: gpu.upload(&[0])?,
            gpu,
            config,
            weights,
            precision,
        })
    }

    pub(super) fn network(mut self) -> Result<Network> {
        let c = self.config;
        ensure!(
            c.layers > 0,
            "num_hidden_layers is 0; a model needs at least one layer"
        );
        let words = names::embeddings("word_embeddings.weight");
        Ok(Network {
            words: self.weight(&[words], &[c.vocabulary, c.hidden])?,
            positions: self.positions()?,
            norm: self.norm(&names::embeddings("LayerNorm"))?,
            layers: (0..c.layers)
                .map(|n| self.layer(n))
                .collect::<Result<_>>()?,
            head: self.head()?,
            sizes: Sizes {
                hidden: c.hidden,
                intermediate: c.intermediate,
                head: c.hidden / c.heads,
                tables: Tables {
                    words: c.vocabulary,
                    positions: c.positions,
                    pad_token_id: c.pad_token_id,
                },
            },
        })
    }

    /// In f32: a row of it is added to every token.
    fn positions(&self) -> Result<Buffer<f32>> {
        let (c, at) = (self.config, names::embeddings);
        let types = at("token_type_embeddings.weight");
        let token_types = self.weights.read(&types, &[c.token_types, c.hidden])?;
        let name = at("position_embeddings.weight");
        let mut positions = self.weights.read(&name, &[c.positions, c.hidden])?;
        for row in positions.chunks_exact_mut(c.hidden) {
            for (x, t) in row.iter_mut().zip(&token_types) {
                *x += t;
            }
        }
        self.gpu.upload(&positions)
    }

    fn layer(&mut self, n: usize) -> Result<Layer> {
        let (hidden, wide) = (self.config.hidden, self.config.intermediate);
        let at = |part: &str| names::layer(n, part);
        let qkv = ["query", "key", "value"].map(|part| at(&format!("attention.self.{part}")));
        Ok(Layer {
            qkv: self.linear(&qkv, (hidden, hidden))?,
            attention_output: self.linear(&[at("attention.output.dense")], (hidden, hidden))?,
            attention_norm: self.norm(&at("attention.output.LayerNorm"))?,
            up: self.linear(&[at("intermediate.dense")], (wide, hidden))?,
            down: self.linear(&[at("output.dense")], (hidden, wide))?,
            output_norm: self.norm(&at("output.LayerNorm"))?,
        })
    }

    fn head(&mut self) -> Result<Head> {
        let hidden = self.config.hidden;
        let output = self.weights.read(names::OUTPUT_WEIGHT, &[1, hidden])?;
        let output_bias = self.weights.read(names::OUTPUT_BIAS, &[1])?;
        Ok(Head {
            dense: self.linear(&[names::DENSE.to_owned()], (hidden, hidden))?,
            output: self.gpu.upload(&output)?,
            output_bias: self.gpu.upload(&output_bias)?,
        })
    }

    fn norm(&self, name: &str) -> Result<Norm> {
        let hidden = self.config.hidden;
        let mut parameters = self.weights.read(&format!("{name}.weight"), &[hidden])?;
        self.weights
            .append(&format!("{name}.bias"), &[hidden], &mut parameters)?;
        Ok(Norm {
            parameters: self.gpu.upload(&parameters)?,
            #[expect(clippy::cast_possible_truncation, reason = "the arithmetic is in f32")]
            eps: self.config.layer_norm_eps as f32,
        })
    }

    /// Several projections of the same input as one, of shape `(outputs, inputs)` each.
    fn linear(&mut self, names: &[String], (outputs, inputs): (usize, usize)) -> Result<Linear> {
        let mut bias = Vec::new();
        for name in names {
            self.weights
                .append(&format!("{name}.bias"), &[outputs], &mut bias)?;
        }
        let halves: Vec<f16> = bias.iter().map(|&x| f16::from_f32(x)).collect();
        let weights: Vec<String> = names.iter().map(|name| format!("{name}.weight")).collect();
        Ok(Linear {
            weight: self.weight(&weights, &[outputs, inputs])?,
            bias: (self.gpu.upload(&halves)?, self.gpu.upload(&bias)?),
            inputs,
        })
    }

    /// Tensors of the same shape, one after the other.
    fn weight(&mut self, names: &[String], shape: &[usize]) -> Result<Weight> {
        let each: usize = shape.iter().product();
        match self.precision {
            Precision::Full => {
                let mut all = self.gpu.room::<f32>(names.len() * each)?;
                let mut start = 0;
                for name in names {
                    self.weights.for_each_piece(name, shape, PIECE, |piece| {
                        let end = start + piece.len();
                        self.gpu.write(piece, &mut all.slice_mut(start..end))?;
                        start = end;
                        Ok(())
                    })?;
                }
                Ok(Weight::Full(all))
            }
            Precision::Half => {
                let mut all = self.gpu.room::<f16>(names.len() * each)?;
                let (gpu, staging, lost) = (self.gpu, &mut self.staging, &mut self.lost);
                let mut start = 0;
                for name in names {
                    self.weights.for_each_piece(name, shape, PIECE, |piece| {
                        let end = start + piece.len();
                        gpu.write(piece, &mut staging.slice_mut(..piece.len()))?;
                        let from = staging.slice(..piece.len());
                        gpu.narrow(&from, &mut all.slice_mut(start..end), lost)?;
                        start = end;
                        Ok(())
                    })?;
                    let lost = gpu.download(lost)?[0];
                    ensure!(
                        lost == 0,
                        "tensor `{name}` has a weight beyond f16's range of {}; set RERANKER_DTYPE=f32",
                        f16::MAX
                    );
                }
                Ok(Weight::Half(all))
            }
        }
    }
}
