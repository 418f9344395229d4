//! NVIDIA GPUs: finding one, its memory, and the operations of the network on it.
//!
//! Everything a [`Gpu`] does goes to one stream, in order and without waiting; only
//! [`Stream::read`] waits. Activations are f16 or f32 (a [`Number`]); sums, norms, softmax and what
//! leaves a product for a residual are always f32.
//!
//! This module and its children are the only place that names cudarc, and the kernels' only home.
#![expect(
    unsafe_code,
    reason = "launching kernels and calling NVIDIA's libraries"
)]

mod check;
mod gpu;
mod images;
mod kernels;
mod management;
mod matmul;
mod memory;
mod number;
mod peak;

pub(crate) use self::{
    check::{Check, checks},
    gpu::{Gpu, is_out_of_memory},
    kernels::{Norm, Qkv, Rows, TILE_QUERIES, WIDEST},
    management::gpu_states,
    matmul::{ROWS, WeightView},
    memory::{Buffer, Event, Pinned, seconds_between},
    number::Number,
    peak::{Peaks, peaks},
};
