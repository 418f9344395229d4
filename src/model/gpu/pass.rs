//! A forward pass on the GPU: what is launched for each operation. Nothing here waits for the GPU
//! until the logits come.

use anyhow::Result;

use super::{
    meta::BatchMeta,
    operand::{
        CudaEmbeddings, CudaHead, CudaLinear, CudaNorm, CudaWeights, FloatWidth, Operand, Weight,
    },
};
use crate::{
    model::{
        backend::{ForwardPass, Rows},
        config::ModelConfig,
        xlm_roberta::{Buffers, XlmRoberta},
    },
    ops::{
        Activation, Heads,
        cuda::{self, Buffer, Event, Gpu, Pinned, Qkv, ROWS},
    },
};

/// Memory for the activations of a batch; the next one uses it again. Rows are rounded up to
/// [`ROWS`].
pub(super) struct CudaBuffers<T> {
    tokens: usize,
    sequences: usize,
    activations: Buffers<Buffer<T>>,
    rest: Scratch,
}

/// What a pass needs beside activations, whatever their type.
struct Scratch {
    meta: Buffer<u32>,
    pinned_meta: Pinned<u32>,
    /// `[tokens, hidden]`, what a product leaves for the residual stream or the head.
    product: Buffer<f32>,
    /// A weight on its way into a product in f32.
    widened: Option<Buffer<f32>>,
    logits: Buffer<f32>,
    pinned_logits: Pinned<f32>,
}

/// An event after each launch.
pub(super) type Trace = Vec<(&'static str, Event)>;

impl<T: Operand> CudaBuffers<T> {
    /// Memory for batches of up to so many tokens.
    pub(super) fn new(gpu: &Gpu, config: &ModelConfig, tokens: usize) -> Result<Self> {
        let stream = &gpu.stream;
        let (rows, sequences) = (tokens.next_multiple_of(ROWS), most_sequences(tokens));
        let numbers = BatchMeta::most_numbers(rows, sequences);
        Ok(Self {
            tokens: rows,
            sequences,
            activations: Buffers::new(config, rows, sequences, |count| stream.alloc(count))?,
            rest: Scratch {
                meta: stream.alloc(numbers)?,
                pinned_meta: stream.pinned(numbers)?,
                product: stream.alloc(rows * config.hidden)?,
                widened: None,
                logits: stream.alloc(sequences)?,
                pinned_logits: stream.pinned(sequences)?,
            },
        })
    }

    pub(super) fn hold(&self, meta: &BatchMeta) -> bool {
        meta.tokens <= self.tokens
            && meta.sequences <= self.sequences
            && meta.numbers.len() <= self.rest.meta.len()
    }
}

/// Bytes of GPU memory that [`CudaBuffers`] take, but for a few kB.
pub(super) fn activation_bytes(config: &ModelConfig, width: FloatWidth, tokens: usize) -> usize {
    let (rows, sequences) = (tokens.next_multiple_of(ROWS), most_sequences(tokens));
    let mut numbers = 0;
    let count = |more| {
        numbers += more;
        Ok(())
    };
    Buffers::new(config, rows, sequences, count).expect("counting does not fail");
    width.bytes() * numbers + 4 * rows * config.hidden
}

/// A pair has four special tokens, so there are no more sequences than this.
fn most_sequences(tokens: usize) -> usize {
    tokens.div_ceil(4).next_multiple_of(ROWS)
}

/// The logits of a batch that the buffers hold.
pub(super) fn forward<T: Operand>(
    gpu: &Gpu,
    network: &XlmRoberta<CudaWeights>,
    meta: &BatchMeta,
    buffers: &mut CudaBuffers<T>,
    trace: Option<&mut Trace>,
) -> Result<Vec<f32>> {
    let scratch = &mut buffers.rest;
    let count = meta.numbers.len();
    let (pinned, on_gpu) = (&mut scratch.pinned_meta, &mut scratch.meta);
    pinned.as_mut_slice()?[..count].copy_from_slice(&meta.numbers);
    gpu.stream.write_pinned(pinned, count, on_gpu)?;
    let mut pass = CudaPass {
        gpu,
        meta,
        scratch,
        trace,
        operand: std::marker::PhantomData,
    };
    pass.done("start")?;
    network.forward(&mut pass, &mut buffers.activations)
}

struct CudaPass<'a, T> {
    gpu: &'a Gpu,
    meta: &'a BatchMeta,
    scratch: &'a mut Scratch,
    /// Events for whoever wants to know when each launch was done.
    trace: Option<&'a mut Trace>,
    operand: std::marker::PhantomData<T>,
}

impl<T: Operand> CudaPass<'_, T> {
    fn done(&mut self, what: &'static str) -> Result<()> {
        if let Some(trace) = &mut self.trace {
            trace.push((what, self.gpu.stream.record_event()?));
        }
        Ok(())
    }

    fn count(&self, rows: Rows) -> usize {
        match rows {
            Rows::Tokens => self.meta.tokens,
            Rows::Sequences => self.meta.sequences,
        }
    }

    /// Leaves a product in f32, without its bias, which whoever reads it adds.
    fn product(&mut self, x: &Buffer<T>, rows: usize, linear: &CudaLinear) -> Result<()> {
        let Scratch {
            product, widened, ..
        } = &mut *self.scratch;
        let weight = T::view(self.gpu, linear, widened)?;
        let (matmul, mut out) = (&self.gpu.matmul, product.as_view_mut());
        matmul.multiply((&x.as_view(), rows), &weight, None, &mut out)?;
        self.done(linear.label)
    }
}

impl<T: Operand> ForwardPass<CudaWeights> for CudaPass<'_, T> {
    type Buffer = Buffer<T>;

    fn embed(&mut self, embeddings: &CudaEmbeddings, out: &mut Buffer<T>) -> Result<()> {
        let numbers = &self.scratch.meta;
        let at = cuda::Rows {
            tokens: numbers.slice(self.meta.token_ids.clone()),
            positions: numbers.slice(self.meta.position_ids.clone()),
        };
        let (positions, norm) = (&embeddings.positions, &embeddings.norm);
        let (kernels, mut out) = (&self.gpu.kernels, out.as_view_mut());
        match &embeddings.tokens {
            Weight::Half(tokens) => {
                kernels.embed((tokens, positions), &at, &norm.norm, &mut out)?;
            }
            Weight::Full(tokens) => {
                kernels.embed((tokens, positions), &at, &norm.norm, &mut out)?;
            }
        }
        self.done(norm.label)
    }

    fn linear(
        &mut self,
        (x, rows): (&Buffer<T>, Rows),
        linear: &CudaLinear,
        activation: Activation,
        out: &mut Buffer<T>,
    ) -> Result<()> {
        let (gpu, rows) = (self.gpu, self.count(rows));
        let weight = T::view(gpu, linear, &mut self.scratch.widened)?;
        let bias = T::bias(&linear.bias).as_view();
        let (matmul, mut all) = (&gpu.matmul, out.as_view_mut());
        matmul.multiply((&x.as_view(), rows), &weight, Some(&bias), &mut all)?;
        self.done(linear.label)?;
        match activation {
            Activation::None => Ok(()),
            Activation::Gelu => {
                let mut outputs = out.slice_mut(..rows * linear.outputs);
                gpu.kernels.gelu(&mut outputs)?;
                self.done("GELU")
            }
        }
    }

    fn linear_add_norm(
        &mut self,
        (x, rows): (&Buffer<T>, Rows),
        linear: &CudaLinear,
        norm: &CudaNorm,
        residual: &mut Buffer<T>,
    ) -> Result<()> {
        let rows = self.count(rows);
        self.product(x, rows, linear)?;
        self.gpu.kernels.add_norm(
            &self.scratch.product.as_view(),
            &linear.bias.full,
            &norm.norm,
            &mut residual.slice_mut(..rows * linear.outputs),
        )?;
        self.done(norm.label)
    }

    fn attention(
        &mut self,
        (queries, rows): (&Buffer<T>, Rows),
        keys_values: &Buffer<T>,
        heads: Heads,
        out: &mut Buffer<T>,
    ) -> Result<()> {
        let (meta, width) = (self.meta, heads.width());
        let (label, tiles, query_stride, before_keys) = match rows {
            Rows::Tokens => ("attention", &meta.tiles, 3 * width, width),
            Rows::Sequences => ("<s> attention", &meta.first_tiles, width, 0),
        };
        let from = Qkv {
            queries: queries.as_view(),
            query_stride,
            keys: keys_values.slice(before_keys..),
            key_stride: before_keys + 2 * width,
        };
        let tiles = self.scratch.meta.slice(tiles.clone());
        let (kernels, sizes) = (&self.gpu.kernels, (heads.size, width));
        kernels.attention(&from, &tiles, sizes, &mut out.as_view_mut())?;
        self.done(label)
    }

    fn gather_first(&mut self, x: &Buffer<T>, width: usize, out: &mut Buffer<T>) -> Result<()> {
        let rows = self.scratch.meta.slice(self.meta.first_rows.clone());
        let kernels = &self.gpu.kernels;
        kernels.gather(&x.as_view(), &rows, &mut out.as_view_mut(), width)?;
        self.done("<s> rows")
    }

    fn head(&mut self, head: &CudaHead, x: &Buffer<T>) -> Result<Vec<f32>> {
        let (gpu, rows) = (self.gpu, self.meta.sequences);
        self.product(x, rows, &head.dense)?;
        let product = self.scratch.product.as_view();
        let (bias, output) = (&head.dense.bias.full, (&head.output, &head.output_bias));
        let mut logits = self.scratch.logits.slice_mut(..rows);
        gpu.kernels.head(&product, bias, output, &mut logits)?;
        self.done("head")?;
        let (logits, pinned) = (&self.scratch.logits, &mut self.scratch.pinned_logits);
        gpu.stream.read(&logits.slice(..rows), pinned)?;
        Ok(pinned.as_mut_slice()?[..rows].to_vec())
    }
}
