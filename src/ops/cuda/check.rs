//! Every kernel, and cuBLASLt, against slow references on the host: over odd shapes and random
//! numbers, on whatever GPU this is.
//!
//! The same checks are the tests of this module and a part of `reranker gpu-check`. Inputs are
//! rounded to the kernel's own type first, so that what is left is the kernel's error; references
//! sum in f64.

#![expect(clippy::cast_possible_truncation, reason = "test shapes are small")]

mod attention;
mod comparison;
mod products;
mod rows;

use anyhow::Result;
use half::f16;

pub(crate) use self::comparison::Check;
use self::{
    attention::{attention, overflow},
    products::{multiply, narrow},
    rows::{add_norm, embed, gather, gelu, gelu_of_infinity, head},
};
use super::gpu::Gpu;

/// Runs all of them: a second or so on a GPU.
pub(crate) fn checks(gpu: &Gpu) -> Result<Vec<Check>> {
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
        for heads in [(1, 64), (3, 64), (2, 32), (1, 80)] {
            all.push(attention::<f16>(gpu, lengths, heads, false)?);
            all.push(attention::<f32>(gpu, lengths, heads, false)?);
        }
        all.push(attention::<f16>(gpu, lengths, (2, 64), true)?);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a GPU this test shows nothing; `tests/gpu/run` brings an emulated
    /// one and asks for it.
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
