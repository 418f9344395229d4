//! The operations of the network.
//!
//! On the CPU they work on plain slices, in `attention`, `embedding`, `head`, `layer_norm` and
//! `matmul`; every one is tested there against a slow reference. This module and its children are
//! the only place with vector code. `cuda` has those of a GPU.
//!
//! **Determinism.** A row of any result depends on the same row of the inputs alone, never on how
//! many rows there are: that is what makes a pair's score independent of its batch mates.

#![expect(
    clippy::inline_always,
    reason = "a kernel must be inlined into the copy for its instruction set"
)]

pub(crate) mod activation;
mod aligned;
mod attention;
mod clock;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod disjoint;
mod embedding;
mod gpu_info;
mod head;
mod layer_norm;
pub(crate) mod matmul;
mod peak;
mod precision;
pub(crate) mod simd;
pub(crate) mod softmax;

#[cfg(feature = "cuda")]
pub(crate) use self::cuda::gpu_states;
#[cfg(not(feature = "cuda"))]
pub(crate) use self::gpu_info::gpu_states;
pub(crate) use self::{
    activation::Activation,
    aligned::Aligned,
    attention::{Heads, PackedRows, attention},
    clock::{Clock, Operation, Spent},
    embedding::{EmbeddingTable, Embeddings},
    gpu_info::GpuInfo,
    head::logits,
    layer_norm::{LayerNorm, add_norm},
    matmul::{instructions, multiply, padding, weights::PackedWeights},
    peak::peak,
    precision::Precision,
};
