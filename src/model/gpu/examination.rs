//! What `reranker gpu-check` prints: whether this GPU computes rightly, how fast it is at most, and
//! where a batch's time goes.

use anyhow::Result;
use serde::Serialize;

use super::encoder::GpuEncoder;
use crate::{
    model::settings::BuildOptions,
    ops::{
        GpuInfo,
        cuda::{self, Check, Peaks},
    },
};

#[derive(Serialize)]
struct Examination {
    gpu: GpuInfo,
    kernels: Vec<Check>,
    peaks: Peaks,
    model: Model,
    layers: Layers,
    passed: bool,
}

#[derive(Serialize)]
struct Model {
    dtype: &'static str,
    batch_tokens: usize,
    /// Used of the whole GPU's, by whomever.
    memory_used_bytes: usize,
}

/// One batch, on the GPU's own clock.
#[derive(Serialize)]
struct Layers {
    tokens: usize,
    sequences: usize,
    launches_per_layer: usize,
    /// The mean of layers for all tokens.
    layer_seconds: f64,
    batch_seconds: f64,
    parts: Vec<Part>,
}

/// All launches of one kind in the batch.
#[derive(Debug, PartialEq, Serialize)]
struct Part {
    name: &'static str,
    seconds: f64,
    launches: usize,
}

/// Examines a GPU, as JSON; also tells whether every kernel passed.
pub(super) fn examine(
    encoder: &GpuEncoder,
    dtype: &'static str,
    options: &BuildOptions,
) -> Result<(serde_json::Value, bool)> {
    let kernels = cuda::checks(&encoder.gpu)?;
    let peaks = cuda::peaks(&encoder.gpu)?;
    let batch_tokens = encoder.plan_batches(options.batch_tokens, options.max_length)?;
    let info = encoder.gpu.info();
    let examination = Examination {
        gpu: info.clone(),
        passed: kernels.iter().all(|check| check.passed),
        kernels,
        peaks,
        layers: layers(encoder, batch_tokens)?,
        model: Model {
            dtype,
            batch_tokens,
            memory_used_bytes: info.memory_bytes - encoder.gpu.stream.free_memory()?,
        },
    };
    Ok((serde_json::to_value(&examination)?, examination.passed))
}

fn layers(encoder: &GpuEncoder, tokens: usize) -> Result<Layers> {
    let batch = encoder.sample(tokens);
    let trace = encoder.trace(&batch)?;
    let steps = trace.windows(2).map(|events| {
        let (first, second) = (&events[0].1, &events[1].1);
        Ok((events[1].0, cuda::seconds_between(first, second)?))
    });
    let steps = steps.collect::<Result<Vec<_>>>()?;
    Ok(summary((batch.input_ids.len(), batch.len()), &steps))
}

/// Sums of steps, which are in their order. A layer begins with the projection to queries, keys and
/// values; the last one is another kind.
fn summary((tokens, sequences): (usize, usize), steps: &[(&'static str, f64)]) -> Layers {
    let layers = steps.iter().filter(|step| step.0 == "qkv").count();
    let position = |name| steps.iter().position(|step| step.0 == name).unwrap_or(0);
    let (first, last) = (position("qkv"), position("<s> rows"));
    let whole = &steps[first..last.max(first)];
    let mut parts: Vec<Part> = Vec::new();
    for &(name, seconds) in steps {
        match parts.iter_mut().find(|part| part.name == name) {
            Some(part) => {
                part.seconds += seconds;
                part.launches += 1;
            }
            None => parts.push(Part {
                name,
                seconds,
                launches: 1,
            }),
        }
    }
    Layers {
        tokens,
        sequences,
        launches_per_layer: whole.len().checked_div(layers).unwrap_or(0),
        layer_seconds: whole.iter().map(|step| step.1).sum::<f64>() / layers.max(1) as f64,
        batch_seconds: steps.iter().map(|step| step.1).sum(),
        parts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_add_up_by_name_and_whole_layers_are_averaged() {
        let steps = [
            ("embeddings", 1.0),
            ("qkv", 2.0),
            ("up", 4.0),
            ("qkv", 3.0),
            ("up", 5.0),
            ("<s> rows", 0.5),
            ("up", 0.25),
        ];
        let layers = summary((0, 0), &steps);
        assert_eq!((layers.launches_per_layer, layers.layer_seconds), (2, 7.0));
        assert!((layers.batch_seconds - 15.75).abs() < 1e-9);
        let up = Part {
            name: "up",
            seconds: 9.25,
            launches: 3,
        };
        assert!(layers.parts.contains(&up), "{:?}", layers.parts);
    }
}
