//! XLM-RoBERTa (Conneau et al. 2020) with a classification head of one label, over packed sequences.
//!
//! Reads like the paper and calls only [`crate::ops`]. What differs from the textbook, none of it in the results:
//! queries, keys and values are one projection; the one row of token-type embeddings is folded into the positions;
//! the last layer computes what the head reads, the `<s>` row of each sequence, and no more.

use anyhow::Result;
use candle_core::{Device, Tensor};

use super::{Batch, CrossEncoder, ModelConfig, weights::Weights};
use crate::ops::{self, BiasNorm, Offsets};

/// The network, all weights in `f32`.
pub(super) struct XlmRoberta {
    embeddings: Embeddings,
    layers: Vec<Layer>,
    head: Head,
}

struct Embeddings {
    /// `[vocabulary, hidden]`.
    words: Tensor,
    /// `[positions, hidden]`, the token type added.
    positions: Tensor,
    norm: BiasNorm,
    pad_token_id: u32,
}

struct Layer {
    heads: usize,
    /// `[3 · hidden, hidden]`: queries, keys, values.
    qkv: Linear,
    attention_output: Tensor,
    attention_norm: BiasNorm,
    up: Linear,
    down: Tensor,
    output_norm: BiasNorm,
}

struct Head {
    dense: Linear,
    /// `[hidden]`.
    output: Tensor,
    /// `[1]`.
    output_bias: Tensor,
}

/// A projection whose bias is not folded into the norm that follows.
struct Linear {
    /// `[out, in]`.
    weight: Tensor,
    /// `[out]`.
    bias: Tensor,
}

impl CrossEncoder for XlmRoberta {
    fn predict(&self, batch: &Batch) -> Result<Vec<f32>> {
        Ok(self.forward(batch)?.to_vec1()?)
    }

    fn padding(&self, batch: &Batch) -> usize {
        ops::linear_padding(batch.input_ids.len())
    }
}

impl XlmRoberta {
    pub(super) fn new(config: &ModelConfig, weights: &Weights) -> Result<Self> {
        let reader = Reader { config, weights };
        Ok(Self {
            embeddings: reader.embeddings()?,
            layers: (0..config.layers)
                .map(|n| reader.layer(n))
                .collect::<Result<_>>()?,
            head: reader.head()?,
        })
    }

    /// Logits, `[sequences]`.
    fn forward(&self, batch: &Batch) -> candle_core::Result<Tensor> {
        let mut hidden_states = self.embeddings.forward(batch)?;
        let Some((last, layers)) = self.layers.split_last() else {
            candle_core::bail!("the model has no layers");
        };
        for layer in layers {
            hidden_states = layer.forward(&hidden_states, &batch.offsets)?;
        }
        let first_rows = last.forward_first_rows(&hidden_states, &batch.offsets)?;
        self.head.forward(&first_rows)
    }
}

impl Embeddings {
    fn forward(&self, batch: &Batch) -> candle_core::Result<Tensor> {
        let device = self.words.device();
        let input_ids = Tensor::new(batch.input_ids.as_slice(), device)?;
        let position_ids = Tensor::new(self.position_ids(batch), device)?;
        let words = self.words.index_select(&input_ids, 0)?;
        let positions = self.positions.index_select(&position_ids, 0)?;
        ops::residual_layer_norm(words, &positions, &self.norm)
    }

    /// Positions count from `pad_token_id + 1`. A literal `<pad>` in the text neither counts nor has a position of its
    /// own: that is how transformers computes them.
    fn position_ids(&self, batch: &Batch) -> Vec<u32> {
        let mut position_ids = Vec::with_capacity(batch.input_ids.len());
        for sequence in batch.sequences() {
            let mut position = self.pad_token_id;
            position_ids.extend(sequence.iter().map(|&id| {
                if id == self.pad_token_id {
                    return self.pad_token_id;
                }
                position += 1;
                position
            }));
        }
        position_ids
    }
}

impl Layer {
    /// `[tokens, hidden]` → `[tokens, hidden]`.
    fn forward(&self, hidden_states: &Tensor, offsets: &Offsets) -> candle_core::Result<Tensor> {
        let hidden = hidden_states.dim(1)?;
        let qkv = self.qkv.forward(hidden_states)?;
        let (q, kv) = (
            qkv.narrow(1, 0, hidden)?,
            qkv.narrow(1, hidden, 2 * hidden)?,
        );
        let context = ops::attention(&q, &kv, offsets, offsets, self.heads)?;
        self.after_attention(&context, hidden_states)
    }

    /// `[tokens, hidden]` → `[sequences, hidden]`: keys and values of every token, everything else of `<s>` only.
    fn forward_first_rows(
        &self,
        hidden_states: &Tensor,
        offsets: &Offsets,
    ) -> candle_core::Result<Tensor> {
        let hidden = hidden_states.dim(1)?;
        let sequences = offsets.len() - 1;
        let first = offsets[..sequences].iter().map(|&row| u32::try_from(row));
        let first: Vec<u32> = first
            .collect::<Result<_, _>>()
            .map_err(candle_core::Error::wrap)?;
        let first_rows =
            hidden_states.index_select(&Tensor::new(first, hidden_states.device())?, 0)?;
        let q = self.qkv.rows(0, hidden)?.forward(&first_rows)?;
        let kv = self.qkv.rows(hidden, 2 * hidden)?.forward(hidden_states)?;
        let query_offsets: Offsets = (0..=sequences).collect();
        let context = ops::attention(&q, &kv, &query_offsets, offsets, self.heads)?;
        self.after_attention(&context, &first_rows)
    }

    /// Output projection and feed-forward layer, each with its residual and norm.
    fn after_attention(&self, context: &Tensor, residual: &Tensor) -> candle_core::Result<Tensor> {
        let attended = ops::linear(context, &self.attention_output)?;
        let attended = ops::residual_layer_norm(attended, residual, &self.attention_norm)?;
        let expanded = ops::bias_gelu(ops::linear(&attended, &self.up.weight)?, &self.up.bias)?;
        let output = ops::linear(&expanded, &self.down)?;
        ops::residual_layer_norm(output, &attended, &self.output_norm)
    }
}

impl Head {
    /// `[sequences, hidden]` → `[sequences]`.
    fn forward(&self, first_rows: &Tensor) -> candle_core::Result<Tensor> {
        let features = self.dense.forward(first_rows)?.tanh()?;
        // A sum per row instead of a product with one column: its order does not depend on the number of rows.
        let logits = features.broadcast_mul(&self.output)?.sum(1)?;
        logits.broadcast_add(&self.output_bias)
    }
}

impl Linear {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        ops::add_bias(ops::linear(x, &self.weight)?, &self.bias)
    }

    /// The projection onto some of the outputs.
    fn rows(&self, start: usize, len: usize) -> candle_core::Result<Self> {
        Ok(Self {
            weight: self.weight.narrow(0, start, len)?,
            bias: self.bias.narrow(0, start, len)?,
        })
    }
}

/// Finds the tensors of a checkpoint by the names transformers gives them.
struct Reader<'a> {
    config: &'a ModelConfig,
    weights: &'a Weights,
}

impl Reader<'_> {
    fn embeddings(&self) -> Result<Embeddings> {
        let c = self.config;
        let at = |name: &str| format!("roberta.embeddings.{name}");
        let token_types = self.weights.read(
            &at("token_type_embeddings.weight"),
            &[c.token_types, c.hidden],
        )?;
        let mut positions = self
            .weights
            .read(&at("position_embeddings.weight"), &[c.positions, c.hidden])?;
        for row in positions.chunks_exact_mut(c.hidden) {
            for (x, t) in row.iter_mut().zip(&token_types) {
                *x += t;
            }
        }
        Ok(Embeddings {
            words: self.matrix(&at("word_embeddings.weight"), c.vocabulary, c.hidden)?,
            positions: Tensor::from_vec(positions, (c.positions, c.hidden), &Device::Cpu)?,
            norm: self.norm(None, &at("LayerNorm"))?,
            pad_token_id: c.pad_token_id,
        })
    }

    fn layer(&self, n: usize) -> Result<Layer> {
        let c = self.config;
        let at = |name: &str| format!("roberta.encoder.layer.{n}.{name}");
        Ok(Layer {
            heads: c.heads,
            qkv: self.linear(
                &["query", "key", "value"].map(|name| at(&format!("attention.self.{name}"))),
                c.hidden,
                c.hidden,
            )?,
            attention_output: self.matrix(
                &at("attention.output.dense.weight"),
                c.hidden,
                c.hidden,
            )?,
            attention_norm: self.norm(
                Some(&at("attention.output.dense.bias")),
                &at("attention.output.LayerNorm"),
            )?,
            up: self.linear(&[at("intermediate.dense")], c.intermediate, c.hidden)?,
            down: self.matrix(&at("output.dense.weight"), c.hidden, c.intermediate)?,
            output_norm: self.norm(Some(&at("output.dense.bias")), &at("output.LayerNorm"))?,
        })
    }

    fn head(&self) -> Result<Head> {
        let hidden = self.config.hidden;
        let output = self
            .weights
            .read("classifier.out_proj.weight", &[1, hidden])?;
        let output_bias = self.weights.read("classifier.out_proj.bias", &[1])?;
        Ok(Head {
            dense: self.linear(&["classifier.dense".to_owned()], hidden, hidden)?,
            output: Tensor::from_vec(output, hidden, &Device::Cpu)?,
            output_bias: Tensor::from_vec(output_bias, 1, &Device::Cpu)?,
        })
    }

    fn matrix(&self, name: &str, out: usize, input: usize) -> Result<Tensor> {
        let data = self.weights.read(name, &[out, input])?;
        Ok(Tensor::from_vec(data, (out, input), &Device::Cpu)?)
    }

    /// Several projections of the same input as one, `out` rows each.
    fn linear(&self, names: &[String], out: usize, input: usize) -> Result<Linear> {
        let rows = names.len() * out;
        let (mut weight, mut bias) = (Vec::with_capacity(rows * input), Vec::with_capacity(rows));
        for name in names {
            self.weights
                .append(&format!("{name}.weight"), &[out, input], &mut weight)?;
            self.weights
                .append(&format!("{name}.bias"), &[out], &mut bias)?;
        }
        Ok(Linear {
            weight: Tensor::from_vec(weight, (rows, input), &Device::Cpu)?,
            bias: Tensor::from_vec(bias, rows, &Device::Cpu)?,
        })
    }

    fn norm(&self, bias: Option<&str>, norm: &str) -> Result<BiasNorm> {
        let hidden = self.config.hidden;
        let mut parameters = match bias {
            Some(bias) => self.weights.read(bias, &[hidden])?,
            None => vec![0.0; hidden],
        };
        self.weights
            .append(&format!("{norm}.weight"), &[hidden], &mut parameters)?;
        self.weights
            .append(&format!("{norm}.bias"), &[hidden], &mut parameters)?;
        Ok(BiasNorm {
            parameters: Tensor::from_vec(parameters, (3, hidden), &Device::Cpu)?,
            #[expect(clippy::cast_possible_truncation, reason = "the arithmetic is in f32")]
            eps: self.config.layer_norm_eps as f32,
        })
    }
}
