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
    let bias_view = bias.on_gpu.as_view();
    let bias_there = biased.then_some(&bias_view);
    gpu.matmul.multiply(
        (&x.on_gpu.as_view(), rows),
        &view,
        bias_there,
        &mut out.as_view_mut(),
    )?;
    let expected = (0..padded).flat_map(|row| {
        let row = x.row(row, inputs);
        (0..outputs)
            .map(|output| {
                let products = row
                    .iter()
                    .zip(weight.row(output, inputs))
                    .map(|(a, b)| a * b);
                products.sum::<f64>() + if biased { bias.exact[output] } else { 0.0 }
            })
            .collect::<Vec<_>>()
    });
    let name = format!(
        "product {} to {}{}",
        T::NAME,
        O::NAME,
        if biased { " and bias" } else { "" }
    );
    compare(
        gpu,
        &name,
        format!("{rows} x {inputs}, {outputs} x {inputs}"),
        &out,
        &expected.collect::<Vec<_>>(),
    )
}

/// There and back, and whether what does not fit is noticed.
pub(super) fn narrow(gpu: &Gpu, count: usize) -> Result<Check> {
    let from = Numbers::<f32>::random(gpu, count, 18, 100.0)?;
    let mut halves = poisoned::<f16>(gpu, count)?;
    let mut back = poisoned::<f32>(gpu, count)?;
    let mut lost = gpu.stream.upload(&[0u32])?;
    gpu.kernels
        .narrow(&from.on_gpu.as_view(), &mut halves.as_view_mut(), &mut lost)?;
    gpu.kernels
        .widen(&halves.as_view(), &mut back.as_view_mut())?;
    let expected: Vec<f64> = from
        .exact
        .iter()
        .map(|&x| f64::from(f16::from_f64(x).to_f32()))
        .collect();
    let mut check = compare(
        gpu,
        "f32 to f16 and back",
        count.to_string(),
        &back,
        &expected,
    )?;
    let fitted = gpu.stream.download(&lost)?[0] == 0;
    let large = gpu.stream.upload(&[65_520f32])?;
    gpu.kernels
        .narrow(&large.as_view(), &mut halves.slice_mut(..1), &mut lost)?;
    check.passed &= fitted && gpu.stream.download(&lost)?[0] == 1;
    Ok(check)
}
