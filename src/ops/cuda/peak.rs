//! The most that a GPU can do: what products and copies reach when nothing else is in the way.

use anyhow::Result;
use half::f16;
use serde::Serialize;

use super::{gpu::Gpu, matmul::WeightView, memory::seconds_between, number::random};

/// The two peaks of a GPU, measured on random numbers.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Peaks {
    /// The rate of cuBLASLt's product of square f16 matrices, summed in f32.
    pub gemm_f16_gflop_per_s: f64,
    /// The rate of a copy from the GPU's memory to its memory, bytes read and written.
    pub copy_gb_per_s: f64,
}

/// Sides of the matrices: the product grows until it fills the GPU for a millisecond.
const SIDES: [usize; 4] = [1024, 2048, 4096, 8192];
const LONG_ENOUGH: f64 = 1e-3;
/// How many numbers are copied.
const COPIED: usize = 64 << 20;

/// Measures both, in well under a second.
pub(crate) fn peaks(gpu: &Gpu) -> Result<Peaks> {
    let mut gemm = 0.0;
    for side in SIDES {
        let seconds = product(gpu, side)?;
        gemm = 2.0 * (side as f64).powi(3) / seconds / 1e9;
        if seconds > LONG_ENOUGH {
            break;
        }
    }
    let from = gpu.stream.alloc::<f32>(COPIED)?;
    let mut to = gpu.stream.alloc(COPIED)?;
    let copy = best(gpu, || gpu.stream.copy(&from, &mut to))?;
    Ok(Peaks {
        gemm_f16_gflop_per_s: gemm,
        copy_gb_per_s: 2.0 * 4.0 * COPIED as f64 / copy / 1e9,
    })
}

fn product(gpu: &Gpu, side: usize) -> Result<f64> {
    let numbers: Vec<f16> = random(side * side, 1).collect();
    let (x, weight) = (gpu.stream.upload(&numbers)?, gpu.stream.upload(&numbers)?);
    let mut out = gpu.stream.alloc::<f16>(side * side)?;
    let view = WeightView {
        numbers: weight.as_view(),
        outputs: side,
        inputs: side,
    };
    let (matmul, x) = (&gpu.matmul, x.as_view());
    best(gpu, || {
        matmul.multiply((&x, side), &view, None, &mut out.as_view_mut())
    })
}

/// The least seconds of several runs, after one that does not count: 20, or as many as fit into a
/// quarter of a second.
fn best(gpu: &Gpu, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut timed = || {
        let first = gpu.stream.record_event()?;
        work()?;
        seconds_between(&first, &gpu.stream.record_event()?)
    };
    timed()?;
    let (mut least, mut sum) = (f64::INFINITY, 0.0);
    for _ in 0..20 {
        let seconds = timed()?;
        least = least.min(seconds);
        sum += seconds;
        if sum > 0.25 {
            break;
        }
    }
    Ok(least)
}
