//! The most that this machine could compute, as the yardstick for everything else.

use std::time::{Duration, Instant};

use super::{matmul::kernels, precision::Precision};

/// The best rate of one kind of arithmetic.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peak {
    /// The instructions that are used for it.
    pub instructions: &'static str,
    /// Multiplications and additions per second, all threads together.
    pub operations_per_second: f64,
}

/// Multiplies and adds out of registers on all threads at once, and takes the best of many short
/// runs: a neighbour on a shared machine only ever makes one slower.
pub(crate) fn peak(precision: Precision) -> Peak {
    const RUNS: u32 = 25;
    const RUN: Duration = Duration::from_millis(20);
    let tile = kernels::best(precision);
    let mut rounds = 1000;
    let mut best = 0.0f64;
    let mut runs = 0;
    while runs < RUNS {
        let started = Instant::now();
        let operations: usize = rayon::broadcast(|_| tile.peak_flops_probe(rounds))
            .into_iter()
            .sum();
        let elapsed = started.elapsed();
        if elapsed < RUN {
            rounds *= 2;
            continue;
        }
        best = best.max(operations as f64 / elapsed.as_secs_f64());
        runs += 1;
    }
    Peak {
        instructions: tile.instructions,
        operations_per_second: best,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_precision_has_one() {
        for precision in [
            Precision::F32,
            Precision::F16,
            Precision::Bf16,
            Precision::Int8,
        ] {
            let peak = peak(precision);
            assert!(peak.operations_per_second > 1e7, "{precision:?}: {peak:?}");
        }
    }
}
