//! The types of number in which the CPU keeps and multiplies weights.

/// How weights are kept and multiplied on the CPU. Everything between the products is f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precision {
    /// Weights are f32.
    F32,
    /// Weights in 16 bits, multiplied in f32: half the memory at the speed of f32.
    F16,
    /// Weights in 16 bits; activations are rounded to bf16 too. Twice the speed where the processor
    /// multiplies bf16.
    Bf16,
    /// Weights and activations are 8-bit integers; see `ops/matmul/int8.rs` for the scheme.
    Int8,
}
