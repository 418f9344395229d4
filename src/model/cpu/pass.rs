//! A forward pass in plain slices, with the time of each kind of operation.

use anyhow::Result;

use super::load::{CpuHead, CpuWeights};
use crate::{
    model::{
        backend::{ForwardPass, Rows},
        inputs::Inputs,
    },
    ops::{
        self, Activation, Aligned, Clock, Embeddings, Heads, LayerNorm, Operation, PackedRows,
        PackedWeights, Precision,
    },
};

/// Memory that grows when an operation needs more of it.
pub(super) type CpuBuffer = Aligned<f32>;

pub(super) struct CpuPass<'a> {
    pub(super) inputs: &'a Inputs<'a>,
    pub(super) precision: Precision,
    pub(super) clock: &'a Clock,
    pub(super) product: &'a mut CpuBuffer,
}

impl CpuPass<'_> {
    fn count(&self, rows: Rows) -> usize {
        match rows {
            Rows::Tokens => self.inputs.tokens(),
            Rows::Sequences => self.inputs.sequences(),
        }
    }
}

impl ForwardPass<CpuWeights> for CpuPass<'_> {
    type Buffer = CpuBuffer;

    fn embed(&mut self, embeddings: &Embeddings, out: &mut CpuBuffer) -> Result<()> {
        let inputs = self.inputs;
        let out = out.scratch(inputs.tokens() * embeddings.norm.width());
        self.clock.time(Operation::Norm, || {
            embeddings.forward(inputs.token_ids, &inputs.position_ids, out);
        });
        Ok(())
    }

    fn linear(
        &mut self,
        (x, rows): (&CpuBuffer, Rows),
        linear: &PackedWeights,
        activation: Activation,
        out: &mut CpuBuffer,
    ) -> Result<()> {
        let rows = self.count(rows);
        let x = &x[..rows * linear.inputs];
        let out = out.scratch(rows * linear.outputs);
        self.clock.time(Operation::Projection, || {
            ops::multiply(x, linear, activation, out);
        });
        Ok(())
    }

    fn linear_add_norm(
        &mut self,
        (x, rows): (&CpuBuffer, Rows),
        linear: &PackedWeights,
        norm: &LayerNorm,
        residual: &mut CpuBuffer,
    ) -> Result<()> {
        let rows = self.count(rows);
        let product = self.product.scratch(rows * linear.outputs);
        let x = &x[..rows * linear.inputs];
        self.clock.time(Operation::Projection, || {
            ops::multiply(x, linear, Activation::None, product);
        });
        self.clock.time(Operation::Norm, || {
            ops::add_norm(&mut residual[..product.len()], product, norm);
        });
        Ok(())
    }

    fn attention(
        &mut self,
        (queries, rows): (&CpuBuffer, Rows),
        keys_values: &CpuBuffer,
        heads: Heads,
        out: &mut CpuBuffer,
    ) -> Result<()> {
        let (width, cu_seqlens) = (heads.width(), self.inputs.cu_seqlens);
        let ones: Vec<usize> = (0..cu_seqlens.len()).collect();
        let (stride, query_seqlens, before_keys) = match rows {
            Rows::Tokens => (3 * width, cu_seqlens, width),
            Rows::Sequences => (width, &*ones, 0),
        };
        let queries = PackedRows {
            data: queries,
            stride,
            cu_seqlens: query_seqlens,
        };
        let keys_values = PackedRows {
            data: &keys_values[before_keys..],
            stride: before_keys + 2 * width,
            cu_seqlens,
        };
        let out = out.scratch(self.count(rows) * width);
        self.clock.time(Operation::Attention, || {
            ops::attention(queries, keys_values, heads, self.precision, out)
        })
    }

    fn gather_first(&mut self, x: &CpuBuffer, width: usize, out: &mut CpuBuffer) -> Result<()> {
        let out = out.scratch(self.inputs.sequences() * width);
        for (out, &row) in out.chunks_exact_mut(width).zip(self.inputs.cu_seqlens) {
            out.copy_from_slice(&x[row * width..][..width]);
        }
        Ok(())
    }

    fn head(&mut self, head: &CpuHead, x: &CpuBuffer) -> Result<Vec<f32>> {
        let (rows, dense) = (self.inputs.sequences(), &head.dense);
        let x = &x[..rows * dense.inputs];
        let features = self.product.scratch(rows * dense.outputs);
        self.clock.time(Operation::Projection, || {
            ops::multiply(x, dense, Activation::None, features);
        });
        Ok(ops::logits(features, &head.output, head.output_bias))
    }
}
