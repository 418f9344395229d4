//! Every kernel, and cuBLASLt, against slow references on the host: over odd shapes and random numbers, on whatever GPU this is.
//!
//! The same checks are the tests of this module and a part of `reranker gpu-check`. Inputs are rounded to the kernel's own type
//! first, so that what is left is the kernel's error; references sum in f64.

#![expect(clippy::cast_possible_truncation, reason = "test shapes are small")]

mod attention;
mod products;
mod rows;

use anyhow::Result;
use half::f16;
use serde::Serialize;

use self::{
    attention::{attention, first_attention, overflow},
    products::{multiply, narrow},
    rows::{add_norm, embed, gather, gelu, gelu_of_infinity, head},
};
use super::{Buffer, Gpu, Number};

/// One comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What was run.
    pub kernel: String,
    /// On what.
    pub shape: String,
    /// The largest difference from the reference, relative to the largest number of the reference or to 1.
    pub error: f64,
    /// What the arithmetic allows.
    pub limit: f64,
    /// Whether it is within.
    pub passed: bool,
}

impl Check {
    /// That an overflow in the input shows in every number of the output.
    fn nothing_finite(gpu: &Gpu, kernel: &str, shape: &str, found: &Buffer<f16>) -> Result<Self> {
        let finite = gpu
            .download(found)?
            .iter()
            .filter(|x| x.is_finite())
            .count();
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

/// Runs all of them: a second or so on a GPU.
pub fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
    let mut all = Vec::new();
    for width in [64, 100, 256, 1024] {
        all.push(embed::<f16, f16>(gpu, 7, width)?);
        all.push(embed::<f16, f32>(gpu, 7, width)?);
        all.push(embed::<f32, f32>(gpu, 7, width)?);
        all.push(add_norm::<f16>(gpu, 13, width)?);
        all.push(add_norm::<f32>(gpu, 13, width)?);
    }
    for (rows, width) in [(1, 4), (5, 256), (33, 1024)] {
        all.push(gelu::<f16>(gpu, rows, width)?);
        all.push(gelu::<f32>(gpu, rows, width)?);
        all.push(gather::<f16>(gpu, rows, width)?);
        all.push(gather::<f32>(gpu, rows, width)?);
        all.push(head(gpu, rows, width)?);
    }
    for lengths in [&[1][..], &[5, 64, 17], &[65, 1, 128, 130], &[200]] {
        for (head, heads) in [(64, 1), (64, 3), (32, 2), (80, 1)] {
            all.push(attention::<f16>(gpu, lengths, head, heads)?);
            all.push(attention::<f32>(gpu, lengths, head, heads)?);
        }
        all.push(first_attention(gpu, lengths)?);
    }
    for (rows, outputs, inputs) in [(1, 64, 64), (64, 256, 128), (70, 192, 64), (130, 64, 256)] {
        all.push(multiply::<f16, f16>(gpu, (rows, outputs, inputs), true)?);
        all.push(multiply::<f16, f32>(gpu, (rows, outputs, inputs), false)?);
        all.push(multiply::<f32, f32>(gpu, (rows, outputs, inputs), true)?);
    }
    all.push(narrow(gpu, 1000)?);
    all.push(overflow(gpu)?);
    all.push(gelu_of_infinity(gpu)?);
    Ok(all)
}

/// Random numbers of a type, and what they are exactly.
struct Numbers<T> {
    on_gpu: Buffer<T>,
    exact: Vec<f64>,
}

impl<T: Number> Numbers<T> {
    fn random(gpu: &Gpu, count: usize, seed: u64, scale: f32) -> Result<Self> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let numbers: Vec<T> = (0..count)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                T::from_f32(((state >> 40) as f32 / 8_388_608.0 - 1.0) * scale)
            })
            .collect();
        Ok(Self {
            exact: numbers.iter().map(|&x| f64::from(x.to_f32())).collect(),
            on_gpu: gpu.upload(&numbers)?,
        })
    }

    fn row(&self, row: usize, width: usize) -> &[f64] {
        &self.exact[row * width..][..width]
    }
}

/// Room that shows what nobody wrote.
fn poisoned<T: Number>(gpu: &Gpu, count: usize) -> Result<Buffer<T>> {
    gpu.upload(&vec![T::from_f32(f32::NAN); count])
}

fn compare<T: Number>(
    gpu: &Gpu,
    kernel: &str,
    shape: String,
    found: &Buffer<T>,
    expected: &[f64],
) -> Result<Check> {
    let found: Vec<f64> = gpu
        .download(found)?
        .iter()
        .map(|x| f64::from(x.to_f32()))
        .collect();
    let largest = expected.iter().fold(1.0, |most: f64, x| most.max(x.abs()));
    let differences = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs() / largest);
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
        kernel: kernel.to_owned(),
        shape,
        error,
        limit,
        passed: error <= limit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where there is no GPU this shows that, and nothing else; `tests/gpu/run` brings an emulated one and asks for it.
    #[test]
    fn every_kernel_agrees_with_its_reference() {
        let gpu = match Gpu::open(0) {
            Ok(gpu) => gpu,
            Err(why) => {
                assert!(
                    std::env::var_os("RERANKER_REQUIRE_GPU").is_none(),
                    "{why:#}"
                );
                return;
            }
        };
        let all = checks(&gpu).unwrap();
        let failed: Vec<&Check> = all.iter().filter(|check| !check.passed).collect();
        assert!(
            failed.is_empty(),
            "{} of {}: {failed:#?}",
            failed.len(),
            all.len()
        );
    }
}
