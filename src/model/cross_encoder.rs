//! What the rest of the program sees of a model.

use anyhow::Result;

use crate::{
    batch::Batch,
    ops::{GpuInfo, Spent},
};

/// A model that reads a query and a document together and says how well the second answers the
/// first.
pub trait CrossEncoder: Send {
    /// One raw logit per sequence of the batch, in its order. They may be non-finite; the caller
    /// checks.
    ///
    /// # Errors
    /// Whatever the device reports, out of memory above all.
    fn predict(&self, batch: &Batch) -> Result<Vec<f32>>;

    /// Tokens of padding that are computed beside those of the batch.
    fn padding(&self, batch: &Batch) -> usize;

    /// How many batches so far left the range of fast arithmetic and were computed again in
    /// another.
    fn batches_redone(&self) -> u64 {
        0
    }

    /// The time that operations have taken since this was asked last; none where they are not told
    /// apart.
    fn take_spent(&self) -> Option<Spent> {
        None
    }
}

/// A network, ready to compute.
pub struct LoadedModel {
    /// The network itself, once for every worker.
    pub encoders: Vec<Box<dyn CrossEncoder>>,
    /// The device that computes: `cpu` or `cuda`.
    pub device: &'static str,
    /// The GPUs among that, in the order of the workers.
    pub gpus: Vec<GpuInfo>,
    /// The type of number it computes in, by the name that `config.json` would give it.
    pub dtype: &'static str,
    /// Tokens to compute at once.
    pub batch_tokens: usize,
    /// Tokens to compute at once of large requests while small ones come.
    pub turn_tokens: usize,
}
