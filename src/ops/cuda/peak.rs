//! The most that a GPU can do: what products and copies reach when nothing else is in the way.

use anyhow::Result;
use half::f16;
use serde::Serialize;

use super::{Factor, Gpu};

/// Both measured, on random numbers.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Peaks {
    /// Of cuBLASLt's product of square f16 matrices, summed in f32.
    pub gemm_f16_gflop_per_s: f64,
    /// Of a copy from the GPU's memory to its memory, bytes read and written.
    pub copy_gb_per_s: f64,
}

/// Measures both, in well under a second, with `size` numbers to a side of each matrix.
pub fn peaks(gpu: &Gpu, size: usize) -> Result<Peaks> {
    const RUNS: usize = 20;
    let numbers: Vec<f16> = random(size * size).collect();
    let (x, weight) = (gpu.upload(&numbers)?, gpu.upload(&numbers)?);
    let mut out = gpu.room::<f16>(size * size)?;
    let factor = Factor {
        weight: weight.as_view(),
        outputs: size,
        inputs: size,
    };
    let gemm = best(gpu, RUNS, || {
        gpu.multiply((&x.as_view(), size), &factor, None, &mut out.as_view_mut())
    })?;
    let (from, mut to) = (gpu.room::<f32>(64 << 20)?, gpu.room::<f32>(64 << 20)?);
    let copy = best(gpu, RUNS, || gpu.copy(&from, &mut to))?;
    Ok(Peaks {
        gemm_f16_gflop_per_s: 2.0 * (size as f64).powi(3) / gemm / 1e9,
        copy_gb_per_s: 2.0 * 4.0 * from.len() as f64 / copy / 1e9,
    })
}

/// The least seconds of so many runs, after one that does not count.
fn best(gpu: &Gpu, runs: usize, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    let mut least = f64::INFINITY;
    for _ in 0..runs {
        let first = gpu.mark()?;
        work()?;
        least = least.min(gpu.seconds(&first, &gpu.mark()?)?);
    }
    Ok(least)
}

/// Zeros would let the GPU clock higher than real data do.
fn random(count: usize) -> impl Iterator<Item = f16> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    (0..count).map(move |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        f16::from_f32((state >> 40) as f32 / 8_388_608.0 - 1.0)
    })
}
