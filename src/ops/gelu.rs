//! Bias and activation over the rows of a matrix.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::simd;

/// Elements a task works on: enough to be worth handing to a thread, little enough to share out evenly.
const TASK_ELEMENTS: usize = 64 * 1024;

/// `x[i, j] += bias[j]`.
pub(super) fn add_bias(x: &mut [f32], bias: &[f32]) {
    for_row_blocks(x, bias.len(), |block| simd::run(AddBias(block, bias)));
}

/// `x[i, j] = gelu(x[i, j] + bias[j])`, gelu(v) = v · ½ (1 + erf(v / √2)) (Hendrycks and Gimpel 2016, exact form).
pub(super) fn bias_gelu(x: &mut [f32], bias: &[f32]) {
    for_row_blocks(x, bias.len(), |block| simd::run(BiasGelu(block, bias)));
}

fn for_row_blocks(x: &mut [f32], width: usize, kernel: impl Fn(&mut [f32]) + Sync + Send) {
    let rows = (TASK_ELEMENTS / width).max(1);
    x.par_chunks_mut(rows * width).for_each(kernel);
}

struct AddBias<'a>(&'a mut [f32], &'a [f32]);

impl WithSimd for AddBias<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for row in self.0.chunks_exact_mut(self.1.len()) {
            for (x, &b) in row.iter_mut().zip(self.1) {
                *x += b;
            }
        }
    }
}

struct BiasGelu<'a>(&'a mut [f32], &'a [f32]);

impl WithSimd for BiasGelu<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for row in self.0.chunks_exact_mut(self.1.len()) {
            for (x, &b) in row.iter_mut().zip(self.1) {
                let v = *x + b;
                *x = 0.5 * v * (1.0 + simd::erf(v * std::f32::consts::FRAC_1_SQRT_2));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    #[test]
    fn equals_candle_over_odd_shapes() {
        for (rows, width) in [
            (1, 1),
            (1, 7),
            (3, 16),
            (5, 33),
            (17, 320),
            (64, 4096),
            (513, 65),
        ] {
            let x: Vec<f32> = (0..rows * width)
                .map(|i| ((i * 31 % 257) as f32 - 128.0) / 19.0)
                .collect();
            let bias: Vec<f32> = (0..width).map(|i| (i % 5) as f32 / 4.0 - 0.5).collect();
            let mut fast = x.clone();
            bias_gelu(&mut fast, &bias);
            let x = Tensor::from_vec(x, (rows, width), &Device::Cpu).unwrap();
            let bias = Tensor::from_vec(bias, width, &Device::Cpu).unwrap();
            let slow = x.broadcast_add(&bias).unwrap().gelu_erf().unwrap();
            for (fast, slow) in fast
                .iter()
                .zip(slow.flatten_all().unwrap().to_vec1::<f32>().unwrap())
            {
                assert!(
                    (fast - slow).abs() < 3e-6,
                    "{rows}x{width}: {fast} is not {slow}"
                );
            }
        }
    }

    #[test]
    fn nan_stays_nan() {
        let mut x = [f32::NAN, f32::INFINITY, 1.0];
        bias_gelu(&mut x, &[0.0; 3]);
        assert!(x[0].is_nan() && x[1].is_infinite() && x[2].is_finite());
    }
}
