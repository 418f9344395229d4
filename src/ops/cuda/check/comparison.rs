//! One comparison of what a GPU computed with what it should have.

use anyhow::Result;
use half::f16;
use serde::Serialize;

use crate::ops::cuda::{
    gpu::Gpu,
    memory::Buffer,
    number::{self, Number},
};

/// One comparison.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Check {
    /// The kernel that was run.
    pub kernel: String,
    /// The shape of its inputs.
    pub shape: String,
    /// The largest difference from the reference, relative to the largest number of the reference
    /// or to 1.
    pub error: f64,
    /// The largest error that the arithmetic allows.
    pub limit: f64,
    /// Whether the error is within the limit.
    pub passed: bool,
}

impl Check {
    /// Checks that an overflow in the input shows in every number of the output.
    pub(super) fn nothing_finite(
        gpu: &Gpu,
        (kernel, shape): (&str, &str),
        found: &Buffer<f16>,
    ) -> Result<Self> {
        let found = gpu.stream.download(found)?;
        let finite = found.iter().filter(|x| x.is_finite()).count();
        Ok(Self {
            kernel: kernel.to_owned(),
            shape: shape.to_owned(),
            error: finite as f64,
            limit: 0.0,
            passed: finite == 0,
        })
    }
}

/// Rounding of results of each type.
fn limit<T: Number>() -> f64 {
    if T::NAME == f16::NAME { 2e-3 } else { 2e-6 }
}

/// Random numbers of a type, and what they are exactly.
pub(super) struct Numbers<T> {
    pub(super) on_gpu: Buffer<T>,
    pub(super) exact: Vec<f64>,
}

impl<T: Number> Numbers<T> {
    pub(super) fn random(gpu: &Gpu, count: usize, seed: u64, scale: f32) -> Result<Self> {
        let numbers = number::random::<f32>(count, seed);
        let numbers: Vec<T> = numbers.map(|x| T::from_f32(x * scale)).collect();
        Ok(Self {
            exact: numbers.iter().map(|&x| f64::from(x.to_f32())).collect(),
            on_gpu: gpu.stream.upload(&numbers)?,
        })
    }

    pub(super) fn row(&self, row: usize, width: usize) -> &[f64] {
        &self.exact[row * width..][..width]
    }
}

/// Memory that shows what nobody wrote.
pub(super) fn poisoned<T: Number>(gpu: &Gpu, count: usize) -> Result<Buffer<T>> {
    gpu.stream.upload(&vec![T::from_f32(f32::NAN); count])
}

/// Compares what the GPU has with what the kernel should have computed on inputs of this shape.
pub(super) fn compare<T: Number>(
    gpu: &Gpu,
    (kernel, shape): (String, String),
    found: &Buffer<T>,
    expected: impl IntoIterator<Item = f64>,
) -> Result<Check> {
    let found = gpu.stream.download(found)?;
    let expected: Vec<f64> = expected.into_iter().collect();
    let largest = expected.iter().fold(1.0, |most: f64, x| most.max(x.abs()));
    let found = found.iter().map(|x| f64::from(x.to_f32()));
    let differences = found.zip(&expected).map(|(a, b)| (a - b).abs() / largest);
    // `max` passes over NaN, which must not pass.
    let error = differences.fold(0.0, |most: f64, x| {
        if x.is_nan() {
            f64::INFINITY
        } else {
            most.max(x)
        }
    });
    let limit = limit::<T>();
    Ok(Check {
        kernel,
        shape,
        error,
        limit,
        passed: error <= limit,
    })
}
