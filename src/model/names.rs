//! What transformers calls the tensors of a checkpoint.

pub(super) const DENSE: &str = "classifier.dense";
pub(super) const OUTPUT_WEIGHT: &str = "classifier.out_proj.weight";
pub(super) const OUTPUT_BIAS: &str = "classifier.out_proj.bias";

/// A part of the embeddings.
pub(super) fn embeddings(part: &str) -> String {
    format!("roberta.embeddings.{part}")
}

/// A part of a layer, counted from 0.
pub(super) fn layer(n: usize, part: &str) -> String {
    format!("roberta.encoder.layer.{n}.{part}")
}
