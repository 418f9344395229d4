//! XLM-RoBERTa (Conneau et al. 2020) with a classification head of one label, over packed
//! sequences, on any device.
//!
//! Reads like the paper. What differs from the textbook, none of it in the results: queries, keys
//! and values are one projection; the one row of token-type embeddings is folded into the
//! positions; the last layer computes what the head reads, the `<s>` row of each sequence, and no
//! more.

use anyhow::{Context as _, Result};

use super::{
    backend::{
        DeviceWeights, EmbeddingsSpec, ForwardPass, HeadSpec, LinearSpec, NormSpec, Rows,
        WeightLoader,
    },
    config::ModelConfig,
    names,
    weights::Weights,
};
use crate::ops::{Activation, Heads};

/// The weights of the network, as a device keeps them.
pub(super) struct XlmRoberta<W: DeviceWeights> {
    embeddings: W::Embeddings,
    layers: Vec<Layer<W>>,
    last: LastLayer<W>,
    head: W::Head,
    heads: Heads,
}

/// A layer for all tokens.
struct Layer<W: DeviceWeights> {
    qkv: W::Linear,
    rest: AfterQkv<W>,
}

/// The last layer, of which the head reads one row per sequence.
struct LastLayer<W: DeviceWeights> {
    queries: W::Linear,
    keys_values: W::Linear,
    rest: AfterQkv<W>,
}

struct AfterQkv<W: DeviceWeights> {
    attention_output: W::Linear,
    attention_norm: W::Norm,
    up: W::Linear,
    down: W::Linear,
    output_norm: W::Norm,
}

/// The activations of one batch, in memory that the next batch uses again.
pub(super) struct Buffers<B> {
    /// `[tokens, hidden]`, from layer to layer.
    hidden: B,
    /// `[tokens, 3 · hidden]` or `[tokens, intermediate]`.
    wide: B,
    /// `[tokens, hidden]`, between attention and its projection.
    context: B,
    /// `[sequences, hidden]`, the `<s>` rows.
    first: B,
    /// `[sequences, hidden]`, the queries of those.
    queries: B,
}

impl<B> Buffers<B> {
    /// Each of them is allocated by the number of numbers that it holds.
    pub(super) fn new(
        config: &ModelConfig,
        tokens: usize,
        sequences: usize,
        mut alloc: impl FnMut(usize) -> Result<B>,
    ) -> Result<Self> {
        let hidden = config.hidden;
        Ok(Self {
            hidden: alloc(tokens * hidden)?,
            wide: alloc(tokens * config.intermediate.max(3 * hidden))?,
            context: alloc(tokens * hidden)?,
            first: alloc(sequences * hidden)?,
            queries: alloc(sequences * hidden)?,
        })
    }
}

impl<W: DeviceWeights> XlmRoberta<W> {
    /// Takes the weights from the checkpoint.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape than the configuration says, by name.
    pub(super) fn load<L: WeightLoader<W>>(
        loader: &L,
        config: &ModelConfig,
        weights: &Weights,
    ) -> Result<Self> {
        let last = config.layers.checked_sub(1);
        let last = last.context("num_hidden_layers is 0; a model needs at least one layer")?;
        let reader = Reader { config, weights };
        Ok(Self {
            embeddings: reader.embeddings(loader)?,
            layers: loader.layers(last, |loader, n| reader.layer(loader, n))?,
            last: reader.last_layer(loader, last)?,
            head: reader.head(loader)?,
            heads: Heads {
                count: config.heads,
                size: config.hidden / config.heads,
            },
        })
    }

    /// The logits of the sequences.
    pub(super) fn forward<P: ForwardPass<W>>(
        &self,
        pass: &mut P,
        buffers: &mut Buffers<P::Buffer>,
    ) -> Result<Vec<f32>> {
        let Buffers {
            hidden,
            wide,
            context,
            first,
            queries,
        } = buffers;
        let (heads, none) = (self.heads, Activation::None);
        pass.embed(&self.embeddings, hidden)?;
        for layer in &self.layers {
            pass.linear((hidden, Rows::Tokens), &layer.qkv, none, wide)?;
            pass.attention((wide, Rows::Tokens), wide, heads, context)?;
            let rest = &layer.rest;
            rest.forward(pass, Rows::Tokens, (context, wide), hidden)?;
        }
        // The last layer: keys and values of every token, everything else of `<s>` only.
        let last = &self.last;
        pass.gather_first(hidden, heads.width(), first)?;
        pass.linear((first, Rows::Sequences), &last.queries, none, queries)?;
        pass.linear((hidden, Rows::Tokens), &last.keys_values, none, wide)?;
        pass.attention((queries, Rows::Sequences), wide, heads, context)?;
        let rest = &last.rest;
        rest.forward(pass, Rows::Sequences, (context, wide), first)?;
        pass.head(&self.head, first)
    }
}

impl<W: DeviceWeights> AfterQkv<W> {
    /// The output projection of attention and the feed-forward layer, each of those with residual
    /// and norm: `hidden` is the residual first and the result in the end.
    fn forward<P: ForwardPass<W>>(
        &self,
        pass: &mut P,
        rows: Rows,
        (context, wide): (&P::Buffer, &mut P::Buffer),
        hidden: &mut P::Buffer,
    ) -> Result<()> {
        let (attention, norm) = (&self.attention_output, &self.attention_norm);
        pass.linear_add_norm((context, rows), attention, norm, hidden)?;
        pass.linear((hidden, rows), &self.up, Activation::Gelu, wide)?;
        pass.linear_add_norm((wide, rows), &self.down, &self.output_norm, hidden)
    }
}

/// Finds the tensors of a checkpoint by the names transformers gives them.
struct Reader<'a> {
    config: &'a ModelConfig,
    weights: &'a Weights,
}

impl Reader<'_> {
    fn embeddings<W: DeviceWeights>(&self, loader: &impl WeightLoader<W>) -> Result<W::Embeddings> {
        let c = self.config;
        let table = |part: &str, rows: usize| {
            let name = names::embeddings(&format!("{part}_embeddings.weight"));
            self.weights.read(&[name], &[rows, c.hidden])
        };
        let token_types = table("token_type", c.token_types)?;
        let mut positions = table("position", c.positions)?;
        for row in positions.chunks_exact_mut(c.hidden) {
            for (x, t) in row.iter_mut().zip(&token_types) {
                *x += t;
            }
        }
        loader.embeddings(EmbeddingsSpec {
            tokens: &names::embeddings("word_embeddings.weight"),
            vocabulary: c.vocabulary,
            positions,
            norm: self.norm("embeddings", &names::embeddings("LayerNorm")),
        })
    }

    fn layer<W: DeviceWeights>(&self, loader: &impl WeightLoader<W>, n: usize) -> Result<Layer<W>> {
        Ok(Layer {
            qkv: self.attention(loader, n, "qkv", &["query", "key", "value"])?,
            rest: self.after_qkv(loader, n)?,
        })
    }

    fn last_layer<W: DeviceWeights>(
        &self,
        loader: &impl WeightLoader<W>,
        n: usize,
    ) -> Result<LastLayer<W>> {
        Ok(LastLayer {
            queries: self.attention(loader, n, "<s> queries", &["query"])?,
            keys_values: self.attention(loader, n, "last keys, values", &["key", "value"])?,
            rest: self.after_qkv(loader, n)?,
        })
    }

    fn attention<W: DeviceWeights>(
        &self,
        loader: &impl WeightLoader<W>,
        n: usize,
        label: &'static str,
        parts: &[&str],
    ) -> Result<W::Linear> {
        let name = |part: &&str| names::layer(n, &format!("attention.self.{part}"));
        let names: Vec<String> = parts.iter().map(name).collect();
        let norm_before = match n.checked_sub(1) {
            Some(before) => names::layer(before, "output.LayerNorm"),
            None => names::embeddings("LayerNorm"),
        };
        loader.linear(&LinearSpec {
            label,
            names: &names,
            outputs: self.config.hidden,
            inputs: self.config.hidden,
            norm_before: Some(&norm_before),
        })
    }

    fn after_qkv<W: DeviceWeights>(
        &self,
        loader: &impl WeightLoader<W>,
        n: usize,
    ) -> Result<AfterQkv<W>> {
        let (hidden, wide) = (self.config.hidden, self.config.intermediate);
        let at = |part: &str| names::layer(n, part);
        let linear = |label, part, (outputs, inputs), norm_before| {
            loader.linear(&LinearSpec {
                label,
                names: &[at(part)],
                outputs,
                inputs,
                norm_before,
            })
        };
        let norm = at("attention.output.LayerNorm");
        let square = (hidden, hidden);
        Ok(AfterQkv {
            attention_output: linear("attention output", "attention.output.dense", square, None)?,
            attention_norm: loader.norm(&self.norm("attention norm", &norm))?,
            up: linear("up", "intermediate.dense", (wide, hidden), Some(&norm))?,
            down: linear("down", "output.dense", (hidden, wide), None)?,
            output_norm: loader.norm(&self.norm("output norm", &at("output.LayerNorm")))?,
        })
    }

    fn head<W: DeviceWeights>(&self, loader: &impl WeightLoader<W>) -> Result<W::Head> {
        let hidden = self.config.hidden;
        loader.head(HeadSpec {
            dense: LinearSpec {
                label: "head dense",
                names: &[names::DENSE.to_owned()],
                outputs: hidden,
                inputs: hidden,
                norm_before: None,
            },
            output: self.weights.read(&[names::OUTPUT_WEIGHT], &[1, hidden])?,
            output_bias: self.weights.read(&[names::OUTPUT_BIAS], &[1])?,
        })
    }

    fn norm<'a>(&self, label: &'static str, name: &'a str) -> NormSpec<'a> {
        NormSpec {
            label,
            name,
            width: self.config.hidden,
            #[expect(clippy::cast_possible_truncation, reason = "the arithmetic is in f32")]
            eps: self.config.layer_norm_eps as f32,
        }
    }
}
