//! Embeddings, layer norm, GELU, the head.

use anyhow::Result;
use half::f16;

use super::comparison::{Check, Numbers, compare, poisoned};
use crate::ops::cuda::{
    gpu::Gpu,
    kernels::{Norm, Rows},
    number::Number,
};

fn shape(rows: usize, width: usize) -> String {
    format!("{rows} x {width}")
}

fn norm(gpu: &Gpu, width: usize) -> Result<(Norm, Vec<f64>)> {
    let parameters = Numbers::<f32>::random(gpu, 2 * width, 99, 2.0)?;
    let norm = Norm {
        parameters: parameters.on_gpu,
        eps: 1e-5,
    };
    Ok((norm, parameters.exact))
}

fn normalised(row: &[f64], parameters: &[f64]) -> Vec<f64> {
    let (gain, shift) = parameters.split_at(row.len());
    let mean = row.iter().sum::<f64>() / row.len() as f64;
    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / row.len() as f64;
    let scale = 1.0 / (variance + 1e-5).sqrt();
    let row = row.iter().zip(gain.iter().zip(shift));
    row.map(|(x, (gain, shift))| (x - mean) * scale * gain + shift)
        .collect()
}

pub(super) fn embed<W: Number, T: Number>(gpu: &Gpu, rows: usize, width: usize) -> Result<Check> {
    let tokens = Numbers::<W>::random(gpu, 11 * width, 1, 1.0)?;
    let positions = Numbers::<f32>::random(gpu, 9 * width, 2, 1.0)?;
    let (norm, parameters) = norm(gpu, width)?;
    let ids: Vec<u32> = (0..rows).map(|i| (i * 5 % 11) as u32).collect();
    let at: Vec<u32> = (0..rows).map(|i| (8 - i % 9) as u32).collect();
    let (ids_there, at_there) = (gpu.stream.upload(&ids)?, gpu.stream.upload(&at)?);
    let mut out = poisoned::<T>(gpu, rows * width)?;
    let places = Rows {
        tokens: ids_there.as_view(),
        positions: at_there.as_view(),
    };
    let (kernels, tables) = (&gpu.kernels, (&tokens.on_gpu, &positions.on_gpu));
    kernels.embed(tables, &places, &norm, &mut out.as_view_mut())?;
    let expected = (0..rows).flat_map(|row| {
        let token = tokens.row(ids[row] as usize, width);
        let position = positions.row(at[row] as usize, width);
        let sum: Vec<f64> = token.iter().zip(position).map(|(a, b)| a + b).collect();
        normalised(&sum, &parameters)
    });
    let name = format!("embed {} to {}", W::NAME, T::NAME);
    compare(gpu, (name, shape(rows, width)), &out, expected)
}

pub(super) fn add_norm<T: Number>(gpu: &Gpu, rows: usize, width: usize) -> Result<Check> {
    // Far beyond f16's range, as outlier channels are.
    let product = Numbers::<f32>::random(gpu, rows * width, 3, 200_000.0)?;
    let bias = Numbers::<f32>::random(gpu, width, 4, 1.0)?;
    let mut x = Numbers::<T>::random(gpu, rows * width, 5, 1.0)?;
    let (norm, parameters) = norm(gpu, width)?;
    let (kernels, mut sums) = (&gpu.kernels, x.on_gpu.as_view_mut());
    kernels.add_norm(&product.on_gpu.as_view(), &bias.on_gpu, &norm, &mut sums)?;
    let expected = (0..rows).flat_map(|row| {
        let residual = product.row(row, width).iter().zip(x.row(row, width));
        let sums = residual.zip(&bias.exact).map(|((a, b), c)| a + b + c);
        normalised(&sums.collect::<Vec<_>>(), &parameters)
    });
    let name = format!("residual and norm {}", T::NAME);
    compare(gpu, (name, shape(rows, width)), &x.on_gpu, expected)
}

pub(super) fn gelu<T: Number>(gpu: &Gpu, rows: usize, width: usize) -> Result<Check> {
    let mut x = Numbers::<T>::random(gpu, rows * width, 6, 8.0)?;
    gpu.kernels.gelu(&mut x.on_gpu.as_view_mut())?;
    let exact = x.exact.iter();
    let expected = exact.map(|&x| 0.5 * x * (1.0 + erf(x / 2f64.sqrt())));
    let name = format!("GELU {}", T::NAME);
    compare(gpu, (name, shape(rows, width)), &x.on_gpu, expected)
}

/// Infinities are overflows, and must reach the logit.
pub(super) fn gelu_of_infinity(gpu: &Gpu) -> Result<Check> {
    let (plus, minus) = (f16::INFINITY, f16::NEG_INFINITY);
    let mut x = gpu.stream.upload(&[plus, minus, f16::NAN, minus])?;
    gpu.kernels.gelu(&mut x.as_view_mut())?;
    Check::nothing_finite(gpu, ("GELU f16 of infinities", "1 x 4"), &x)
}

/// The error function by its series and, where that cancels, its continued fraction (Abramowitz and
/// Stegun 7.1.6 and 7.1.14).
fn erf(x: f64) -> f64 {
    let a = x.abs();
    let value = if a < 3.0 {
        let (mut term, mut sum) = (a, a);
        for n in 1..60 {
            term *= 2.0 * a * a / f64::from(2 * n + 1);
            sum += term;
        }
        sum * (-a * a).exp() * 2.0 / std::f64::consts::PI.sqrt()
    } else {
        let fraction = (1..60)
            .rev()
            .fold(0.0, |below, n| f64::from(n) / 2.0 / (a + below));
        1.0 - (-a * a).exp() / ((a + fraction) * std::f64::consts::PI.sqrt())
    };
    value.copysign(x)
}

pub(super) fn gather<T: Number>(gpu: &Gpu, rows: usize, width: usize) -> Result<Check> {
    let x = Numbers::<T>::random(gpu, 3 * rows * width, 7, 1.0)?;
    let indices: Vec<u32> = (0..rows).map(|i| (3 * rows - 1 - 2 * i) as u32).collect();
    let mut out = poisoned::<T>(gpu, rows * width)?;
    let there = gpu.stream.upload(&indices)?;
    let (from, there, mut to) = (x.on_gpu.as_view(), there.as_view(), out.as_view_mut());
    gpu.kernels.gather(&from, &there, &mut to, width)?;
    let rows_of_x = indices.iter().map(|&row| x.row(row as usize, width));
    let expected = rows_of_x.flatten().copied();
    let name = format!("gather {}", T::NAME);
    compare(gpu, (name, shape(rows, width)), &out, expected)
}

pub(super) fn head(gpu: &Gpu, rows: usize, width: usize) -> Result<Check> {
    let product = Numbers::<f32>::random(gpu, rows * width, 8, 3.0)?;
    let bias = Numbers::<f32>::random(gpu, width, 9, 1.0)?;
    let output = Numbers::<f32>::random(gpu, width, 10, 1.0)?;
    let output_bias = Numbers::<f32>::random(gpu, 1, 11, 1.0)?;
    let mut logits = poisoned::<f32>(gpu, rows)?;
    let (features, results) = (product.on_gpu.as_view(), &mut logits.as_view_mut());
    let there = (&output.on_gpu, &output_bias.on_gpu);
    gpu.kernels.head(&features, &bias.on_gpu, there, results)?;
    let expected = (0..rows).map(|row| {
        let features = product.row(row, width).iter().zip(&bias.exact);
        let terms = features
            .map(|(x, bias)| (x + bias).tanh())
            .zip(&output.exact);
        output_bias.exact[0] + terms.map(|(x, weight)| x * weight).sum::<f64>()
    });
    let what = ("head".to_owned(), shape(rows, width));
    compare(gpu, what, &logits, expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_knows_the_error_function() {
        for (x, erf_x) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813),
            (1.0, 0.842_700_792_950),
            (-2.0, -0.995_322_265_019),
            (4.0, 0.999_999_984_583),
        ] {
            assert!((erf(x) - erf_x).abs() < 1e-11, "{x}: {}", erf(x));
        }
    }
}
