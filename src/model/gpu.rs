//! The network on GPUs, in f16 with sums in f32.
//!
//! **Never a wrong score.** Real checkpoints have a few channels beyond f16's range. What leaves a
//! product for the residual stream stays in f32 up to the layer norm; elsewhere a number that does
//! not fit becomes an infinity, which every operation hands on until the logit is not finite
//! (`ops/cuda/kernels` says where that takes care). Such a batch is computed again with activations
//! in f32.

mod calibration;
mod encoder;
mod examination;
mod load;
mod meta;
mod operand;
mod pass;

use anyhow::{Context as _, Result, bail};

use self::{encoder::GpuEncoder, operand::FloatWidth};
use super::{
    config::ModelConfig,
    cross_encoder::{CrossEncoder, LoadedModel},
    device,
    settings::{Backend, BuildOptions, Dtype},
    weights::Weights,
};

/// A network on each of the GPUs.
///
/// # Errors
/// Why there is none, for an operator.
pub(super) fn build(
    config: &ModelConfig,
    weights: &Weights,
    ordinals: &[usize],
    options: &BuildOptions,
) -> Result<LoadedModel> {
    let (width, dtype) = float_width(options.dtype)?;
    if options.backend == Backend::Candle {
        bail!("RERANKER_BACKEND=candle is for the CPU");
    }
    let (mut encoders, mut gpus): (Vec<Box<dyn CrossEncoder>>, _) = (Vec::new(), Vec::new());
    let mut batch_tokens = options.batch_tokens;
    for &ordinal in ordinals {
        let encoder = GpuEncoder::new(config, weights, width, ordinal)?;
        // All workers take their batches from the same queue: the first GPU speaks for the others.
        batch_tokens = Some(encoder.plan_batches(batch_tokens, options.max_length)?);
        gpus.push(encoder.gpu.info().clone());
        encoders.push(Box::new(encoder));
    }
    let batch_tokens = batch_tokens.unwrap_or(options.max_length);
    Ok(LoadedModel {
        encoders,
        device: "cuda",
        gpus,
        dtype,
        batch_tokens,
        // A batch takes a fraction of a second there.
        turn_tokens: batch_tokens,
    })
}

/// Examines the first GPU that `options` name, as JSON; also tells whether every kernel passed.
///
/// # Errors
/// Why there is no GPU to examine.
pub(super) fn examine(
    config: &ModelConfig,
    weights: &Weights,
    options: &BuildOptions,
) -> Result<(serde_json::Value, bool)> {
    let ordinals =
        device::gpus(&options.device).context("DEVICE is cpu; there is no GPU to examine")?;
    let (width, dtype) = float_width(options.dtype)?;
    let encoder = GpuEncoder::new(config, weights, width, ordinals[0])?;
    examination::examine(&encoder, dtype, options)
}

fn float_width(dtype: Dtype) -> Result<(FloatWidth, &'static str)> {
    match dtype {
        Dtype::Auto | Dtype::F16 => Ok((FloatWidth::Half, "float16")),
        Dtype::F32 => Ok((FloatWidth::Full, "float32")),
        Dtype::Bf16 | Dtype::Int8 => bail!("RERANKER_DTYPE={} is for the CPU", dtype.name()),
    }
}
