//! XLM-RoBERTa (Conneau et al. 2020) with a classification head of one label, over packed sequences.
//!
//! Reads like the paper and calls only [`crate::ops`]. What differs from the textbook, none of it in the results:
//! queries, keys and values are one projection; the one row of token-type embeddings is folded into the positions;
//! the last layer computes what the head reads, the `<s>` row of each sequence, and no more.

use std::cell::RefCell;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use half::{f16, slice::HalfFloatSliceExt as _};
use rayon::prelude::*;

use super::{CrossEncoder, ModelConfig, names, weights::Weights};
use crate::{
    batch::Batch,
    ops::{self, Activation, Linear, Norm, Offsets, Precision, Spent},
};

/// The network. Weights are kept as the precision says; all between the projections is f32.
pub(super) struct XlmRoberta {
    embeddings: Embeddings,
    layers: Vec<Layer>,
    last: LastLayer,
    head: Head,
    /// `[hidden, intermediate]`.
    widths: [usize; 2],
    /// Taken while a batch is computed, and lost with a batch that fails: a tensor whose writer panicked cannot be written again.
    buffers: RefCell<Option<Buffers>>,
    precision: Precision,
}

struct Embeddings {
    /// `[vocabulary, hidden]`, f32 or half of that.
    words: Tensor,
    /// `[positions, hidden]`, the token type added.
    positions: Tensor,
    norm: Norm,
    pad_token_id: u32,
}

/// A layer for all tokens.
struct Layer {
    /// Queries, keys, values.
    qkv: Linear,
    rest: AfterQkv,
}

/// The last layer, of which the head reads one row per sequence.
struct LastLayer {
    queries: Linear,
    keys_values: Linear,
    rest: AfterQkv,
}

struct AfterQkv {
    heads: usize,
    precision: Precision,
    attention_output: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    output_norm: Norm,
}

struct Head {
    dense: Linear,
    /// `[hidden]`.
    output: Tensor,
    /// `[1]`.
    output_bias: Tensor,
}

/// Activations of one batch, `[rows, …]` each, in memory that the next batch uses again.
struct Buffers {
    hidden: Tensor,
    qkv: Tensor,
    context: Tensor,
    attended: Tensor,
    expanded: Tensor,
}

impl Buffers {
    fn new(rows: usize, [hidden, intermediate]: [usize; 2]) -> candle_core::Result<Self> {
        let zeros = |width| Tensor::zeros((rows, width), DType::F32, &Device::Cpu);
        Ok(Self {
            hidden: zeros(hidden)?,
            qkv: zeros(3 * hidden)?,
            context: zeros(hidden)?,
            attended: zeros(hidden)?,
            expanded: zeros(intermediate)?,
        })
    }

    /// The first rows of each.
    fn narrow(&self, rows: usize) -> candle_core::Result<Self> {
        Ok(Self {
            hidden: self.hidden.narrow(0, 0, rows)?,
            qkv: self.qkv.narrow(0, 0, rows)?,
            context: self.context.narrow(0, 0, rows)?,
            attended: self.attended.narrow(0, 0, rows)?,
            expanded: self.expanded.narrow(0, 0, rows)?,
        })
    }
}

impl CrossEncoder for XlmRoberta {
    fn predict(&self, batch: &Batch) -> Result<Vec<f32>> {
        Ok(self.forward(batch)?.to_vec1()?)
    }

    fn padding(&self, batch: &Batch) -> usize {
        ops::linear_padding(batch.input_ids.len(), self.precision)
    }

    fn take_spent(&self) -> Option<Spent> {
        Some(ops::take_spent())
    }
}

impl XlmRoberta {
    pub(super) fn new(
        config: &ModelConfig,
        weights: &Weights,
        precision: Precision,
    ) -> Result<Self> {
        let reader = Reader {
            config,
            weights,
            precision,
        };
        let Some(last) = config.layers.checked_sub(1) else {
            anyhow::bail!("num_hidden_layers is 0; a model needs at least one layer");
        };
        Ok(Self {
            embeddings: reader.embeddings()?,
            layers: (0..last)
                .into_par_iter()
                .map(|n| reader.layer(n))
                .collect::<Result<_>>()?,
            last: reader.last_layer(last)?,
            head: reader.head()?,
            widths: [config.hidden, config.intermediate],
            buffers: RefCell::default(),
            precision,
        })
    }

    /// Logits, `[sequences]`.
    fn forward(&self, batch: &Batch) -> candle_core::Result<Tensor> {
        let all = self.take_buffers(batch.input_ids.len())?;
        let buffers = all.narrow(batch.input_ids.len())?;
        self.embeddings.forward(batch, &buffers.hidden)?;
        for layer in &self.layers {
            layer.forward(&buffers, &batch.offsets)?;
        }
        let first_rows = self.last.forward(&buffers, &batch.offsets)?;
        let logits = self.head.forward(&first_rows)?;
        self.buffers.replace(Some(all));
        Ok(logits)
    }

    /// Those of the last batch, or new ones where they are too small.
    fn take_buffers(&self, rows: usize) -> candle_core::Result<Buffers> {
        match self.buffers.take() {
            Some(buffers) if buffers.hidden.dim(0)? >= rows => Ok(buffers),
            too_small => {
                drop(too_small);
                Buffers::new(rows, self.widths)
            }
        }
    }
}

impl Embeddings {
    fn forward(&self, batch: &Batch, out: &Tensor) -> candle_core::Result<()> {
        let device = self.words.device();
        let input_ids = Tensor::new(batch.input_ids.as_slice(), device)?;
        let position_ids = Tensor::new(batch.position_ids(self.pad_token_id), device)?;
        let words = self
            .words
            .index_select(&input_ids, 0)?
            .to_dtype(DType::F32)?;
        let positions = self.positions.index_select(&position_ids, 0)?;
        out.slice_set(&words, 0, 0)?;
        ops::residual_layer_norm(out, &positions, &self.norm)
    }
}

impl Layer {
    /// From `hidden` to `hidden`.
    fn forward(&self, buffers: &Buffers, offsets: &Offsets) -> candle_core::Result<()> {
        let hidden = buffers.hidden.dim(1)?;
        self.qkv.forward(&buffers.hidden, &buffers.qkv)?;
        let q = buffers.qkv.narrow(1, 0, hidden)?;
        let kv = buffers.qkv.narrow(1, hidden, 2 * hidden)?;
        self.rest.forward(buffers, (&q, &kv), (offsets, offsets))
    }
}

impl LastLayer {
    /// From `hidden` to `[sequences, hidden]`: keys and values of every token, everything else of `<s>` only.
    fn forward(&self, buffers: &Buffers, offsets: &Offsets) -> candle_core::Result<Tensor> {
        let (tokens, hidden) = buffers.hidden.dims2()?;
        let sequences = offsets.len() - 1;
        let first = offsets[..sequences].iter().map(|&row| u32::try_from(row));
        let first: Vec<u32> = first
            .collect::<Result<_, _>>()
            .map_err(candle_core::Error::wrap)?;
        let first = Tensor::new(first, buffers.hidden.device())?;
        let few = Buffers {
            hidden: buffers.hidden.index_select(&first, 0)?,
            ..buffers.narrow(sequences)?
        };
        let q = few.hidden.zeros_like()?;
        self.queries.forward(&few.hidden, &q)?;
        // Two thirds of the buffer, as a matrix of its own.
        let kv = buffers
            .qkv
            .flatten_all()?
            .narrow(0, 0, tokens * 2 * hidden)?;
        let kv = kv.reshape((tokens, 2 * hidden))?;
        self.keys_values.forward(&buffers.hidden, &kv)?;
        let query_offsets: Offsets = (0..=sequences).collect();
        self.rest
            .forward(&few, (&q, &kv), (&query_offsets, offsets))?;
        Ok(few.hidden)
    }
}

impl AfterQkv {
    /// Attention, its output projection and the feed-forward layer, each of those with residual and norm: `hidden` is
    /// the residual first and the result in the end.
    fn forward(
        &self,
        buffers: &Buffers,
        queries_keys_values: (&Tensor, &Tensor),
        offsets: (&Offsets, &Offsets),
    ) -> candle_core::Result<()> {
        let Buffers {
            hidden,
            context,
            attended,
            expanded,
            ..
        } = buffers;
        ops::attention(
            context,
            queries_keys_values,
            offsets,
            self.heads,
            self.precision,
        )?;
        self.attention_output.forward(context, attended)?;
        ops::residual_layer_norm(attended, hidden, &self.attention_norm)?;
        self.up.forward(attended, expanded)?;
        self.down.forward(expanded, hidden)?;
        ops::residual_layer_norm(hidden, attended, &self.output_norm)
    }
}

impl Head {
    /// `[sequences, hidden]` → `[sequences]`.
    fn forward(&self, first_rows: &Tensor) -> candle_core::Result<Tensor> {
        let features = first_rows.zeros_like()?;
        self.dense.forward(first_rows, &features)?;
        // A sum per row instead of a product with one column: its order does not depend on the number of rows.
        let logits = features.tanh()?.broadcast_mul(&self.output)?.sum(1)?;
        logits.broadcast_add(&self.output_bias)
    }
}

/// Finds the tensors of a checkpoint by the names transformers gives them.
struct Reader<'a> {
    config: &'a ModelConfig,
    weights: &'a Weights,
    precision: Precision,
}

impl Reader<'_> {
    fn embeddings(&self) -> Result<Embeddings> {
        let c = self.config;
        let token_types = self.weights.read(
            &names::embeddings("token_type_embeddings.weight"),
            &[c.token_types, c.hidden],
        )?;
        let mut positions = self.weights.read(
            &names::embeddings("position_embeddings.weight"),
            &[c.positions, c.hidden],
        )?;
        for row in positions.chunks_exact_mut(c.hidden) {
            for (x, t) in row.iter_mut().zip(&token_types) {
                *x += t;
            }
        }
        Ok(Embeddings {
            words: self.word_embeddings(&names::embeddings("word_embeddings.weight"))?,
            positions: Tensor::from_vec(positions, (c.positions, c.hidden), &Device::Cpu)?,
            norm: self.norm(&names::embeddings("LayerNorm"))?,
            pad_token_id: c.pad_token_id,
        })
    }

    /// Rows are only looked up: 16 bits take nothing from the speed, and f16 has more of them for the number than bf16.
    fn word_embeddings(&self, name: &str) -> Result<Tensor> {
        let shape = [self.config.vocabulary, self.config.hidden];
        let weights = self.weights;
        Ok(match self.precision {
            Precision::F32 => {
                let numbers = weights.read_as(name, &shape, |numbers, out: &mut [f32]| {
                    out.copy_from_slice(numbers);
                })?;
                Tensor::from_vec(numbers, &shape, &Device::Cpu)?
            }
            Precision::F16 | Precision::Bf16 | Precision::Int8 => {
                let numbers = weights.read_as(name, &shape, |numbers, out: &mut [f16]| {
                    out.convert_from_f32_slice(numbers);
                })?;
                Tensor::from_vec(numbers, &shape, &Device::Cpu)?
            }
        })
    }

    fn layer(&self, n: usize) -> Result<Layer> {
        Ok(Layer {
            qkv: self.attention(n, &["query", "key", "value"])?,
            rest: self.after_qkv(n)?,
        })
    }

    fn last_layer(&self, n: usize) -> Result<LastLayer> {
        Ok(LastLayer {
            queries: self.attention(n, &["query"])?,
            keys_values: self.attention(n, &["key", "value"])?,
            rest: self.after_qkv(n)?,
        })
    }

    fn attention(&self, n: usize, names: &[&str]) -> Result<Linear> {
        let at = |name: &&str| names::layer(n, &format!("attention.self.{name}"));
        let names: Vec<String> = names.iter().map(at).collect();
        let norm_before = match n.checked_sub(1) {
            Some(before) => names::layer(before, "output.LayerNorm"),
            None => names::embeddings("LayerNorm"),
        };
        let hidden = self.config.hidden;
        self.linear(
            &names,
            (hidden, hidden),
            Some(&norm_before),
            Activation::None,
        )
    }

    fn after_qkv(&self, n: usize) -> Result<AfterQkv> {
        let (hidden, wide) = (self.config.hidden, self.config.intermediate);
        let at = |name: &str| names::layer(n, name);
        let linear = |name: &str, shape| self.linear(&[at(name)], shape, None, Activation::None);
        let attention_norm = at("attention.output.LayerNorm");
        let up = [at("intermediate.dense")];
        Ok(AfterQkv {
            heads: self.config.heads,
            precision: self.precision,
            attention_output: linear("attention.output.dense", (hidden, hidden))?,
            attention_norm: self.norm(&attention_norm)?,
            up: self.linear(&up, (wide, hidden), Some(&attention_norm), Activation::Gelu)?,
            down: linear("output.dense", (hidden, wide))?,
            output_norm: self.norm(&at("output.LayerNorm"))?,
        })
    }

    /// In f32 whatever the precision: it is read once per sequence.
    fn head(&self) -> Result<Head> {
        let hidden = self.config.hidden;
        let output = self.weights.read(names::OUTPUT_WEIGHT, &[1, hidden])?;
        let output_bias = self.weights.read(names::OUTPUT_BIAS, &[1])?;
        let exact = Self {
            precision: Precision::F32,
            ..*self
        };
        let dense = [names::DENSE.to_owned()];
        Ok(Head {
            dense: exact.linear(&dense, (hidden, hidden), None, Activation::None)?,
            output: Tensor::from_vec(output, hidden, &Device::Cpu)?,
            output_bias: Tensor::from_vec(output_bias, 1, &Device::Cpu)?,
        })
    }

    /// Several projections of the same input as one, of shape `(outputs, inputs)` each. The input may be the output of a
    /// layer norm, which varies around the norm's shift.
    fn linear(
        &self,
        names: &[String],
        (outputs, inputs): (usize, usize),
        norm_before: Option<&str>,
        activation: Activation,
    ) -> Result<Linear> {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        weight.reserve_exact(names.len() * outputs * inputs);
        for name in names {
            self.weights
                .append(&format!("{name}.weight"), &[outputs, inputs], &mut weight)?;
            self.weights
                .append(&format!("{name}.bias"), &[outputs], &mut bias)?;
        }
        if self.precision == Precision::F16
            && let Some(large) = weight
                .iter()
                .find(|x| x.is_nan() || x.abs() > f16::MAX.to_f32())
        {
            anyhow::bail!(
                "{}: a weight is {large:e}, but f16 ends at {}; use RERANKER_DTYPE=f32 or bf16",
                names.join(", "),
                f16::MAX
            );
        }
        let center = match norm_before {
            Some(norm) => self.weights.read(&format!("{norm}.bias"), &[inputs])?,
            None => Vec::new(),
        };
        Ok(Linear::new(
            &weight,
            bias,
            &center,
            activation,
            self.precision,
        ))
    }

    fn norm(&self, name: &str) -> Result<Norm> {
        let hidden = self.config.hidden;
        let mut parameters = self.weights.read(&format!("{name}.weight"), &[hidden])?;
        self.weights
            .append(&format!("{name}.bias"), &[hidden], &mut parameters)?;
        Ok(Norm {
            parameters: Tensor::from_vec(parameters, (2, hidden), &Device::Cpu)?,
            #[expect(clippy::cast_possible_truncation, reason = "the arithmetic is in f32")]
            eps: self.config.layer_norm_eps as f32,
        })
    }
}
