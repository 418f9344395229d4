//! The network: what is launched, in which order. Reads like `xlm_roberta.rs`; nothing here waits for the GPU until the logits come.

use anyhow::Result;

use super::{
    Precision,
    plan::{Plan, Tables},
    weight::{Activations, Linear, Scratch, Weight},
};
use crate::{
    batch::Batch,
    ops::cuda::{Buffer, Gpu, Mark, Norm, Pinned, Qkv, ROWS, Words},
};

/// All weights.
pub(super) struct Network {
    /// `[vocabulary, hidden]`.
    pub(super) words: Weight,
    /// `[positions, hidden]`, the token type added.
    pub(super) positions: Buffer<f32>,
    pub(super) norm: Norm,
    pub(super) layers: Vec<Layer>,
    pub(super) head: Head,
    pub(super) sizes: Sizes,
}

/// What shapes follow from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) hidden: usize,
    pub(super) intermediate: usize,
    /// Of one head of attention.
    pub(super) head: usize,
    pub(super) tables: Tables,
}

pub(super) struct Layer {
    /// Queries, keys, values.
    pub(super) qkv: Linear,
    pub(super) attention_output: Linear,
    pub(super) attention_norm: Norm,
    pub(super) up: Linear,
    pub(super) down: Linear,
    pub(super) output_norm: Norm,
}

pub(super) struct Head {
    pub(super) dense: Linear,
    /// `[hidden]`.
    pub(super) output: Buffer<f32>,
    /// `[1]`.
    pub(super) output_bias: Buffer<f32>,
}

/// Memory for the activations of a batch; the next one uses it again. Rows are rounded up to [`ROWS`].
pub(super) struct Buffers<T> {
    tokens: usize,
    sequences: usize,
    plan: Buffer<u32>,
    pinned_plan: Pinned<u32>,
    /// `[tokens, hidden]`: what goes from layer to layer.
    x: Buffer<T>,
    /// `[tokens, 3 · hidden]` or `[tokens, intermediate]`.
    wide: Buffer<T>,
    /// `[tokens, hidden]`.
    context: Buffer<T>,
    /// `[tokens, hidden]`, what a product leaves for the residual stream.
    product: Buffer<f32>,
    /// `[sequences, hidden]`: the `<s>` rows, and their queries.
    first: Buffer<T>,
    queries: Buffer<T>,
    scratch: Scratch,
    logits: Buffer<f32>,
    pinned_logits: Pinned<f32>,
}

/// The GPU's clock after each launch.
pub(super) type Trace = Vec<(&'static str, Mark)>;

impl Network {
    pub(super) fn plan(&self, batch: &Batch) -> Result<Plan> {
        Plan::new(batch, self.sizes.tables)
    }

    /// Bytes of GPU memory that [`Network::buffers`] takes, but for a few kB.
    pub(super) fn activation_bytes(&self, precision: Precision, tokens: usize) -> usize {
        let Sizes {
            hidden,
            intermediate,
            ..
        } = self.sizes;
        let (tokens, sequences) = (tokens.next_multiple_of(ROWS), most_sequences(tokens));
        let wide = intermediate.max(3 * hidden);
        let of_type = tokens * (2 * hidden + wide) + sequences * 2 * hidden;
        match precision {
            Precision::Half => 2 * of_type + 4 * tokens * hidden,
            Precision::Full => 4 * of_type + 4 * tokens * hidden,
        }
    }

    /// Memory for batches of up to so many tokens.
    pub(super) fn buffers<T: Activations>(&self, gpu: &Gpu, tokens: usize) -> Result<Buffers<T>> {
        let Sizes {
            hidden,
            intermediate,
            ..
        } = self.sizes;
        let (rows, sequences) = (tokens.next_multiple_of(ROWS), most_sequences(tokens));
        // Ids, positions, tiles (every sequence has one that may not be full), first tiles, first rows.
        let plan = 2 * rows + 4 * (rows / 64 + sequences) + 4 * sequences + sequences;
        Ok(Buffers {
            tokens: rows,
            sequences,
            plan: gpu.room(plan)?,
            pinned_plan: gpu.pinned(plan)?,
            x: gpu.room(rows * hidden)?,
            wide: gpu.room(rows * intermediate.max(3 * hidden))?,
            context: gpu.room(rows * hidden)?,
            product: gpu.room(rows * hidden)?,
            first: gpu.room(sequences * hidden)?,
            queries: gpu.room(sequences * hidden)?,
            scratch: None,
            logits: gpu.room(sequences)?,
            pinned_logits: gpu.pinned(sequences)?,
        })
    }

    /// The logits of a batch that the buffers hold.
    pub(super) fn forward<T: Activations>(
        &self,
        gpu: &Gpu,
        plan: &Plan,
        buffers: &mut Buffers<T>,
        trace: Option<&mut Trace>,
    ) -> Result<Vec<f32>> {
        let count = plan.numbers.len();
        buffers.pinned_plan.as_mut_slice()?[..count].copy_from_slice(&plan.numbers);
        gpu.write_pinned(&buffers.pinned_plan, count, &mut buffers.plan)?;
        let mut pass = Pass {
            gpu,
            sizes: self.sizes,
            plan,
            buffers,
            tracer: Tracer { gpu, trace },
        };
        pass.tracer.done("start")?;
        pass.embed(self)?;
        let (last, layers) = self
            .layers
            .split_last()
            .expect("loading refuses a model without layers");
        for layer in layers {
            pass.layer(layer)?;
        }
        pass.last_layer(last)?;
        pass.head(&self.head)?;
        let logits = buffers.logits.slice(..plan.sequences);
        gpu.read(&logits, &mut buffers.pinned_logits)?;
        Ok(buffers.pinned_logits.as_mut_slice()?[..plan.sequences].to_vec())
    }
}

/// A pair has four special tokens, so there are no more sequences than this.
fn most_sequences(tokens: usize) -> usize {
    tokens.div_ceil(4).next_multiple_of(ROWS)
}

impl<T: Activations> Buffers<T> {
    pub(super) fn hold(&self, plan: &Plan) -> bool {
        plan.tokens <= self.tokens
            && plan.sequences <= self.sequences
            && plan.numbers.len() <= self.plan.len()
    }
}

/// Says when each launch was done, to whoever wants to know.
struct Tracer<'a> {
    gpu: &'a Gpu,
    trace: Option<&'a mut Trace>,
}

impl Tracer<'_> {
    fn done(&mut self, what: &'static str) -> Result<()> {
        if let Some(trace) = &mut self.trace {
            trace.push((what, self.gpu.mark()?));
        }
        Ok(())
    }
}

/// One batch on its way through the network.
struct Pass<'a, T: Activations> {
    gpu: &'a Gpu,
    sizes: Sizes,
    plan: &'a Plan,
    buffers: &'a mut Buffers<T>,
    tracer: Tracer<'a>,
}

/// The rows that a step computes.
#[derive(Clone, Copy)]
enum Rows {
    /// Every token's, in `x`.
    All,
    /// Those of `<s>`, in `first`.
    First,
}

impl<T: Activations> Pass<'_, T> {
    fn embed(&mut self, network: &Network) -> Result<()> {
        let Buffers { plan, x, .. } = &mut *self.buffers;
        let at = Words {
            ids: plan.slice(self.plan.ids.clone()),
            positions: plan.slice(self.plan.positions.clone()),
        };
        let (gpu, positions, norm) = (self.gpu, &network.positions, &network.norm);
        let mut x = x.as_view_mut();
        match &network.words {
            Weight::Half(words) => gpu.embed((words, positions), &at, norm, &mut x)?,
            Weight::Full(words) => gpu.embed((words, positions), &at, norm, &mut x)?,
        }
        self.tracer.done("embeddings")
    }

    /// From `x` to `x`.
    fn layer(&mut self, layer: &Layer) -> Result<()> {
        let hidden = self.sizes.hidden;
        let Buffers {
            plan,
            x,
            wide,
            context,
            scratch,
            ..
        } = &mut *self.buffers;
        let (gpu, rows) = (self.gpu, self.plan.tokens);
        let factor = T::factor(gpu, &layer.qkv, 0..3 * hidden, scratch)?;
        let bias = T::bias(&layer.qkv).as_view();
        gpu.multiply(
            (&x.as_view(), rows),
            &factor,
            Some(&bias),
            &mut wide.as_view_mut(),
        )?;
        self.tracer.done("qkv")?;
        let from = Qkv {
            queries: wide.as_view(),
            query_stride: 3 * hidden,
            keys: wide.slice(hidden..),
            key_stride: 3 * hidden,
        };
        let tiles = plan.slice(self.plan.tiles.clone());
        let heads = (self.sizes.head, hidden);
        gpu.attention(&from, &tiles, heads, &mut context.as_view_mut())?;
        self.tracer.done("attention")?;
        self.after_attention(layer, Rows::All)
    }

    /// From `x` to `first`: keys and values of every token, everything else of `<s>` only.
    fn last_layer(&mut self, layer: &Layer) -> Result<()> {
        let hidden = self.sizes.hidden;
        let Buffers {
            plan,
            x,
            wide,
            context,
            first,
            queries,
            scratch,
            ..
        } = &mut *self.buffers;
        let (gpu, bias) = (self.gpu, T::bias(&layer.qkv));
        let first_rows = plan.slice(self.plan.first_rows.clone());
        gpu.gather(&x.as_view(), &first_rows, &mut first.as_view_mut(), hidden)?;
        self.tracer.done("<s> rows")?;

        let factor = T::factor(gpu, &layer.qkv, 0..hidden, scratch)?;
        let (of_queries, mut out) = (bias.slice(..hidden), queries.as_view_mut());
        gpu.multiply(
            (&first.as_view(), self.plan.sequences),
            &factor,
            Some(&of_queries),
            &mut out,
        )?;
        self.tracer.done("<s> queries")?;

        let factor = T::factor(gpu, &layer.qkv, hidden..3 * hidden, scratch)?;
        let (of_keys_values, mut out) = (bias.slice(hidden..), wide.as_view_mut());
        gpu.multiply(
            (&x.as_view(), self.plan.tokens),
            &factor,
            Some(&of_keys_values),
            &mut out,
        )?;
        self.tracer.done("last keys, values")?;

        let from = Qkv {
            queries: queries.as_view(),
            query_stride: hidden,
            keys: wide.as_view(),
            key_stride: 2 * hidden,
        };
        let tiles = plan.slice(self.plan.first_tiles.clone());
        gpu.attention(
            &from,
            &tiles,
            (self.sizes.head, hidden),
            &mut context.as_view_mut(),
        )?;
        self.tracer.done("<s> attention")?;
        self.after_attention(layer, Rows::First)
    }

    /// The output projection of attention and the feed-forward layer, each of those with residual and norm.
    fn after_attention(&mut self, layer: &Layer, rows: Rows) -> Result<()> {
        let Sizes {
            hidden,
            intermediate,
            ..
        } = self.sizes;
        let Buffers {
            x,
            first,
            wide,
            context,
            product,
            scratch,
            ..
        } = &mut *self.buffers;
        let (x, rows) = match rows {
            Rows::All => (x, self.plan.tokens),
            Rows::First => (first, self.plan.sequences),
        };
        let gpu = self.gpu;

        let factor = T::factor(gpu, &layer.attention_output, 0..hidden, scratch)?;
        gpu.multiply(
            (&context.as_view(), rows),
            &factor,
            None,
            &mut product.as_view_mut(),
        )?;
        self.tracer.done("attention output")?;
        let bias = &layer.attention_output.bias.1;
        gpu.add_norm(
            &product.as_view(),
            bias,
            &layer.attention_norm,
            &mut x.slice_mut(..rows * hidden),
        )?;
        self.tracer.done("attention norm")?;

        let factor = T::factor(gpu, &layer.up, 0..intermediate, scratch)?;
        let bias = T::bias(&layer.up).as_view();
        gpu.multiply(
            (&x.as_view(), rows),
            &factor,
            Some(&bias),
            &mut wide.as_view_mut(),
        )?;
        self.tracer.done("up")?;
        gpu.gelu(&mut wide.slice_mut(..rows * intermediate))?;
        self.tracer.done("GELU")?;

        let factor = T::factor(gpu, &layer.down, 0..hidden, scratch)?;
        gpu.multiply(
            (&wide.as_view(), rows),
            &factor,
            None,
            &mut product.as_view_mut(),
        )?;
        self.tracer.done("down")?;
        let bias = &layer.down.bias.1;
        gpu.add_norm(
            &product.as_view(),
            bias,
            &layer.output_norm,
            &mut x.slice_mut(..rows * hidden),
        )?;
        self.tracer.done("output norm")
    }

    /// From `first` to the logits.
    fn head(&mut self, head: &Head) -> Result<()> {
        let Buffers {
            first,
            product,
            logits,
            scratch,
            ..
        } = &mut *self.buffers;
        let (gpu, rows) = (self.gpu, self.plan.sequences);
        let factor = T::factor(gpu, &head.dense, 0..head.dense.outputs(), scratch)?;
        gpu.multiply(
            (&first.as_view(), rows),
            &factor,
            None,
            &mut product.as_view_mut(),
        )?;
        self.tracer.done("head dense")?;
        let output = (&head.output, &head.output_bias);
        let mut logits = logits.slice_mut(..rows);
        gpu.head(&product.as_view(), &head.dense.bias.1, output, &mut logits)?;
        self.tracer.done("head")
    }
}
