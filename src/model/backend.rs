//! What an architecture asks of a device. The CPU (`cpu`) and CUDA (`gpu`) answer.
//!
//! A [`WeightLoader`] takes tensors from the checkpoint into the forms in which the device keeps
//! them, a [`ForwardPass`] computes with those. What only one device knows (splitting a batch,
//! computing it again, telling operations apart) stands behind these traits, not in them.

use anyhow::Result;

use crate::ops::{Activation, Heads};

/// The forms in which a device keeps weights.
pub(super) trait DeviceWeights {
    type Embeddings;
    type Linear: Send;
    type Norm: Send;
    type Head;
}

/// One or several projections of the same input as one.
pub(super) struct LinearSpec<'a> {
    /// The name of this part in traces.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(dead_code, reason = "the CPU tells operations apart by kind")
    )]
    pub(super) label: &'static str,
    /// Tensors `{name}.weight [outputs, inputs]` and `{name}.bias [outputs]`, one below the other.
    pub(super) names: &'a [String],
    /// Outputs of each.
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    /// The layer norm that the input comes out of, if it does: it varies around the norm's shift.
    pub(super) norm_before: Option<&'a str>,
}

impl LinearSpec<'_> {
    /// The names of one tensor, `weight` or `bias`, of each projection.
    pub(super) fn tensors(&self, kind: &str) -> Vec<String> {
        let names = self.names.iter();
        names.map(|name| format!("{name}.{kind}")).collect()
    }
}

/// A layer norm: tensors `{name}.weight [width]` and `{name}.bias [width]`.
pub(super) struct NormSpec<'a> {
    /// The name of this part in traces.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(dead_code, reason = "the CPU tells operations apart by kind")
    )]
    pub(super) label: &'static str,
    pub(super) name: &'a str,
    pub(super) width: usize,
    pub(super) eps: f32,
}

/// The first step: look-ups in two tables, and the norm of their sum.
pub(super) struct EmbeddingsSpec<'a> {
    /// The tensor `[vocabulary, width]`.
    pub(super) tokens: &'a str,
    pub(super) vocabulary: usize,
    /// `[positions, width]`.
    pub(super) positions: Vec<f32>,
    pub(super) norm: NormSpec<'a>,
}

/// The last step: a projection, tanh, and a sum of its outputs for each row.
pub(super) struct HeadSpec<'a> {
    pub(super) dense: LinearSpec<'a>,
    /// `[outputs]`.
    pub(super) output: Vec<f32>,
    /// `[1]`.
    pub(super) output_bias: Vec<f32>,
}

/// Brings the weights of a checkpoint to a device.
pub(super) trait WeightLoader<W: DeviceWeights> {
    fn embeddings(&self, spec: EmbeddingsSpec<'_>) -> Result<W::Embeddings>;

    fn linear(&self, spec: &LinearSpec<'_>) -> Result<W::Linear>;

    fn norm(&self, spec: &NormSpec<'_>) -> Result<W::Norm>;

    fn head(&self, spec: HeadSpec<'_>) -> Result<W::Head>;

    /// Loads layers in whatever order suits the device, and returns them in theirs.
    fn layers<T: Send>(
        &self,
        count: usize,
        load: impl Fn(&Self, usize) -> Result<T> + Sync,
    ) -> Result<Vec<T>>;
}

/// Which rows of a batch an operation computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    /// One for each token.
    Tokens,
    /// One for each sequence, which stands for its first token.
    Sequences,
}

/// The operations on one batch, whose tokens the pass knows.
pub(super) trait ForwardPass<W: DeviceWeights> {
    /// Activations, row by row.
    type Buffer;

    /// `out = norm(token embedding + position embedding)` of every token.
    fn embed(&mut self, embeddings: &W::Embeddings, out: &mut Self::Buffer) -> Result<()>;

    /// `out = activation(linear(x))`.
    fn linear(
        &mut self,
        x: (&Self::Buffer, Rows),
        linear: &W::Linear,
        activation: Activation,
        out: &mut Self::Buffer,
    ) -> Result<()>;

    /// `residual = norm(residual + linear(x))`.
    fn linear_add_norm(
        &mut self,
        x: (&Self::Buffer, Rows),
        linear: &W::Linear,
        norm: &W::Norm,
        residual: &mut Self::Buffer,
    ) -> Result<()>;

    /// Softmax attention of some rows over all tokens of their sequence. Keys and values of every
    /// token are the last columns of `keys_values`. If every token attends, the queries are the
    /// columns before, and `queries` is the same buffer.
    fn attention(
        &mut self,
        queries: (&Self::Buffer, Rows),
        keys_values: &Self::Buffer,
        heads: Heads,
        out: &mut Self::Buffer,
    ) -> Result<()>;

    /// The rows, of so many numbers, of the first token of each sequence.
    fn gather_first(
        &mut self,
        x: &Self::Buffer,
        width: usize,
        out: &mut Self::Buffer,
    ) -> Result<()>;

    /// The logits of the sequences.
    fn head(&mut self, head: &W::Head, x: &Self::Buffer) -> Result<Vec<f32>>;
}
