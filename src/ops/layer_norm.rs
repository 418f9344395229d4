//! Residual and layer norm in one pass over each row (Ba, Kiros and Hinton 2016).

use rayon::prelude::*;

use super::simd;

const TASK_ROWS: usize = 32;

/// The parameters of a layer norm.
#[derive(Debug)]
pub(crate) struct LayerNorm {
    /// `[2, width]`: gain, then shift.
    pub(crate) parameters: Vec<f32>,
    /// The number that is added to the variance.
    pub(crate) eps: f32,
}

impl LayerNorm {
    pub(crate) fn width(&self) -> usize {
        self.parameters.len() / 2
    }
}

/// `x = norm(x + residual) · gain + shift` row by row.
pub(crate) fn add_norm(x: &mut [f32], residual: &[f32], norm: &LayerNorm) {
    let width = norm.width();
    x.par_chunks_mut(TASK_ROWS * width)
        .zip(residual.par_chunks(TASK_ROWS * width))
        .for_each(|(x, residual)| add_norm_rows(x, residual.chunks_exact(width), norm));
}

/// Does what [`add_norm`] does for a few rows, on this thread.
pub(super) fn add_norm_rows<'a>(
    x: &mut [f32],
    mut residual: impl Iterator<Item = &'a [f32]>,
    norm: &LayerNorm,
) {
    simd::vectorize(
        #[inline(always)]
        move || {
            let width = norm.width();
            let (gain, shift) = norm.parameters.split_at(width);
            for (x, residual) in x.chunks_exact_mut(width).zip(&mut residual) {
                for (x, &r) in x.iter_mut().zip(residual) {
                    *x += r;
                }
                // Two passes: the one-pass formula loses the variance of rows with a large mean.
                let mean = simd::sum(x, |v| v) / width as f32;
                let variance = simd::sum(x, |v| (v - mean) * (v - mean)) / width as f32;
                let scale = 1.0 / (variance + norm.eps).sqrt();
                for ((x, &g), &s) in x.iter_mut().zip(gain).zip(shift) {
                    *x = (*x - mean) * scale * g + s;
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow(x: &[f32], residual: &[f32], parameters: &[f32], eps: f64) -> Vec<f64> {
        let width = parameters.len() / 2;
        let mut out = Vec::new();
        for (x, residual) in x.chunks(width).zip(residual.chunks(width)) {
            let v: Vec<f64> = (0..width)
                .map(|i| f64::from(x[i]) + f64::from(residual[i]))
                .collect();
            let mean = v.iter().sum::<f64>() / width as f64;
            let variance = v.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / width as f64;
            out.extend((0..width).map(|i| {
                (v[i] - mean) / (variance + eps).sqrt() * f64::from(parameters[i])
                    + f64::from(parameters[width + i])
            }));
        }
        out
    }

    #[test]
    fn equals_the_slow_one_over_odd_shapes() {
        for (rows, width) in [(1, 2), (1, 64), (3, 17), (33, 192), (70, 1024), (5, 1023)] {
            let wave = |scale: f32, n: usize| -> Vec<f32> {
                (0..n)
                    .map(|i| ((i * 37 % 101) as f32 - 50.0) * scale + 3.0)
                    .collect()
            };
            let (x, residual, parameters) = (
                wave(0.1, rows * width),
                wave(0.7, rows * width),
                wave(0.01, 2 * width),
            );
            let mut fast = x.clone();
            let slow = slow(&x, &residual, &parameters, 1e-5);
            let norm = LayerNorm {
                parameters,
                eps: 1e-5,
            };
            add_norm(&mut fast, &residual, &norm);
            for (fast, slow) in fast.iter().zip(slow) {
                assert!(
                    (f64::from(*fast) - slow).abs() < 2e-5,
                    "{rows}x{width}: {fast} is not {slow}"
                );
            }
        }
    }
}
