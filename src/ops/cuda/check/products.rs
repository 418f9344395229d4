//! cuBLASLt's products, and weights on their way into them.

use anyhow::Result;
use half::f16;

use super::comparison::{Check, Numbers, compare, poisoned};
use crate::ops::cuda::{
    gpu::Gpu,
    matmul::{ROWS, WeightView},
    number::Number,
};

pub(super) fn multiply<T: Number, O: Number>(
    gpu: &Gpu,
    (rows, outputs, inputs): (usize, usize, usize),
    biased: bool,
) -> Result<Check> {
    let padded = rows.next_multiple_of(ROWS);
    let x = Numbers::<T>::random(gpu, padded * inputs, 15, 1.0)?;
    let weight = Numbers::<T>::random(gpu, outputs * inputs, 16, 1.0)?;
    let bias = Numbers::<O>::random(gpu, outputs, 17, 1.0)?;
    let mut out = poisoned::<O>(gpu, padded * outputs)?;
    let view = WeightView {
        numbers: weight.on_gpu.as_view(),
        outputs,
        inputs,
    };
    let (left, bias_there) = (x.on_gpu.as_view(), bias.on_gpu.as_view());
    let (bias_there, mut result) = (biased.then_some(&bias_there), out.as_view_mut());
    let matmul = &gpu.matmul;
    matmul.multiply((&left, rows), &view, bias_there, &mut result)?;
    let expected = (0..padded * outputs).map(|i| {
        let (row, output) = (i / outputs, i % outputs);
        let pairs = x.row(row, inputs).iter().zip(weight.row(output, inputs));
        let product: f64 = pairs.map(|(a, b)| a * b).sum();
        product + if biased { bias.exact[output] } else { 0.0 }
    });
    let and_bias = if biased { " and bias" } else { "" };
    let name = format!("product {} to {}{and_bias}", T::NAME, O::NAME);
    let shape = format!("{rows} x {inputs}, {outputs} x {inputs}");
    compare(gpu, (name, shape), &out, expected)
}

/// There and back, and whether what does not fit is noticed.
pub(super) fn narrow(gpu: &Gpu, count: usize) -> Result<Check> {
    let from = Numbers::<f32>::random(gpu, count, 18, 100.0)?;
    let mut halves = poisoned::<f16>(gpu, count)?;
    let mut back = poisoned::<f32>(gpu, count)?;
    let mut lost = gpu.stream.upload(&[0u32])?;
    let kernels = &gpu.kernels;
    kernels.narrow(&from.on_gpu.as_view(), &mut halves.as_view_mut(), &mut lost)?;
    kernels.widen(&halves.as_view(), &mut back.as_view_mut())?;
    let exact = from.exact.iter();
    let expected = exact.map(|&x| f64::from(f16::from_f64(x).to_f32()));
    let what = ("f32 to f16 and back".to_owned(), count.to_string());
    let mut check = compare(gpu, what, &back, expected)?;
    let fitted = gpu.stream.download(&lost)?[0] == 0;
    let large = gpu.stream.upload(&[65_520f32])?;
    kernels.narrow(&large.as_view(), &mut halves.slice_mut(..1), &mut lost)?;
    check.passed &= fitted && gpu.stream.download(&lost)?[0] == 1;
    Ok(check)
}
