//! The model: from a checkpoint on disk to logits for a batch of token sequences.
//!
//! Candle's reader of safetensors is under `weights`, and `candle` is a second opinion on scores.
//! Nothing else computes with candle, but for the tests of `ops`.

mod backend;
mod candle;
mod config;
mod cpu;
mod cross_encoder;
mod demo;
mod device;
mod fingerprint;
#[cfg(feature = "cuda")]
mod gpu;
mod growth;
mod inputs;
mod names;
mod settings;
pub mod source;
mod weights;
mod xlm_roberta;

use std::{borrow::Cow, time::Instant};

use anyhow::{Context as _, Result, bail};
use tracing::info;

use self::{
    candle::CandleEncoder,
    cpu::CpuEncoder,
    source::{HubSettings, ModelFiles, Progress, Source},
    weights::Weights,
};
pub use self::{
    config::ModelConfig,
    cross_encoder::{CrossEncoder, LoadedModel},
    settings::{Backend, BuildOptions, Device, Dtype, Settings},
};
use crate::ops::{self, Precision};

#[cfg(not(feature = "cuda"))]
const NO_CUDA: &str = "this build has no CUDA support";

/// Tokens computed at once on the CPU: more gain nothing there and take memory.
const CPU_BATCH_TOKENS: usize = 1536;

/// Tokens of large requests computed at once there while small requests come, which wait a third as
/// long then. The weights are read more often: large requests take 5 to 8 % longer in f32 and 2 %
/// in int8 (six layers of the full size, on a Sapphire Rapids Xeon).
const CPU_TURN_TOKENS: usize = 512;

/// A checkpoint whose configuration has been understood and whose weights are mapped but not yet
/// converted.
pub struct Checkpoint {
    /// Shapes and constants of the network.
    pub config: ModelConfig,
    /// The contents of `tokenizer.json`.
    pub tokenizer: Cow<'static, [u8]>,
    /// The commit of the hub's repository, where the checkpoint came from one.
    pub commit: Option<String>,
    /// Where it came from; none if it is embedded.
    files: Option<ModelFiles>,
    weights: Weights,
}

impl Checkpoint {
    /// Finds, and downloads if need be, the files of a model and reads what describes it.
    ///
    /// # Errors
    /// A sentence that names the file, and the field where there is one.
    pub fn open(source: &Source, hub: &HubSettings) -> Result<Self> {
        match source::fetch(source, hub, Progress::auto())? {
            Some(files) => Self::from_files(files),
            None => Self::demo(),
        }
    }

    fn demo() -> Result<Self> {
        Ok(Self {
            config: ModelConfig::parse(demo::CONFIG)?,
            tokenizer: demo::TOKENIZER.into(),
            commit: None,
            files: None,
            weights: Weights::embedded("the demo model", demo::WEIGHTS)?,
        })
    }

    fn from_files(files: ModelFiles) -> Result<Self> {
        let config = source::read(&files.config)?;
        let tokenizer = source::read(&files.tokenizer)?;
        growth::check(&tokenizer)
            .with_context(|| format!("cannot use {}", files.tokenizer.display()))?;
        Ok(Self {
            config: ModelConfig::parse(&config)
                .with_context(|| format!("cannot use {}", files.config.display()))?,
            tokenizer: tokenizer.into(),
            commit: files.commit.clone(),
            weights: Weights::map(&files.weights)?,
            files: Some(files),
        })
    }

    /// The digest of the configuration and the weights. It takes reading all of them.
    ///
    /// # Errors
    /// A file that cannot be read any more.
    pub fn fingerprint(&self) -> Result<[u8; 32]> {
        fingerprint::of(self.files.as_ref())
    }

    /// Converts the weights and builds the network where it is wanted, or on the CPU where that may
    /// be.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape than the configuration says, by name; no GPU
    /// where one is required.
    pub fn build(&self, options: &BuildOptions) -> Result<LoadedModel> {
        let why_not = match device::gpus(&options.device) {
            None => None,
            Some(ordinals) => match self.on_gpus(ordinals, options) {
                Ok(built) => return Ok(built),
                Err(why) => Some(why),
            },
        };
        device::fall_back_to_cpu(options, why_not.as_ref())?;
        let workers = match options.device {
            Device::Cpu(workers) => workers,
            Device::Auto | Device::Cuda(_) => 1,
        };
        let encoders = (0..workers).map(|_| self.on_cpu(options));
        let batch_tokens = options.batch_tokens.unwrap_or(CPU_BATCH_TOKENS);
        let batch_tokens = batch_tokens.max(options.max_length);
        Ok(LoadedModel {
            encoders: encoders.collect::<Result<_>>()?,
            device: "cpu",
            gpus: Vec::new(),
            dtype: options.dtype.on_cpu().1,
            batch_tokens,
            turn_tokens: CPU_TURN_TOKENS.max(options.max_length).min(batch_tokens),
        })
    }

    fn on_cpu(&self, options: &BuildOptions) -> Result<Box<dyn CrossEncoder>> {
        let (precision, dtype) = options.dtype.on_cpu();
        let started = Instant::now();
        let encoder: Box<dyn CrossEncoder> = match (options.backend, precision) {
            (Backend::Native, _) => {
                Box::new(CpuEncoder::new(&self.config, &self.weights, precision)?)
            }
            (Backend::Candle, Precision::F32) => {
                Box::new(CandleEncoder::new(&self.config, &self.weights)?)
            }
            (Backend::Candle, _) => bail!(
                "RERANKER_BACKEND=candle computes in f32 only; RERANKER_DTYPE is {dtype}: unset one of them"
            ),
        };
        let (bytes, seconds) = (self.weights.bytes(), started.elapsed().as_secs_f64());
        info!(
            bytes,
            seconds = %format_args!("{seconds:.2}"),
            mb_per_s = %format_args!("{:.0}", bytes as f64 / 1e6 / seconds),
            layers = self.config.layers,
            hidden = self.config.hidden,
            dtype,
            instructions = ops::instructions(precision),
            "model weights loaded"
        );
        Ok(encoder)
    }

    /// Examines a GPU with this model: every kernel against a reference, the GPU's peaks, the time
    /// of each part of a batch. Also tells whether all kernels passed.
    ///
    /// # Errors
    /// Why there is no GPU to examine.
    #[cfg(feature = "cuda")]
    pub fn examine_gpu(&self, options: &BuildOptions) -> Result<(serde_json::Value, bool)> {
        gpu::examine(&self.config, &self.weights, options)
    }

    /// There is nothing to examine in this build.
    #[cfg(not(feature = "cuda"))]
    pub fn examine_gpu(&self, _options: &BuildOptions) -> Result<(serde_json::Value, bool)> {
        bail!(NO_CUDA)
    }

    #[cfg(feature = "cuda")]
    fn on_gpus(&self, ordinals: &[usize], options: &BuildOptions) -> Result<LoadedModel> {
        gpu::build(&self.config, &self.weights, ordinals, options)
    }

    #[cfg(not(feature = "cuda"))]
    #[expect(
        clippy::unused_self,
        reason = "so that both builds look alike from above"
    )]
    fn on_gpus(&self, _ordinals: &[usize], _options: &BuildOptions) -> Result<LoadedModel> {
        bail!(NO_CUDA)
    }
}

/// The most that this processor can do at each dtype: `{"threads", "f32": {"instructions",
/// "gflop_per_s"}, …}`, an integer operation counted like one in floating point.
pub fn peaks() -> serde_json::Value {
    let mut peaks = serde_json::json!({ "threads": rayon::current_num_threads() });
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16, Dtype::Int8] {
        let peak = ops::peak(dtype.on_cpu().0);
        peaks[dtype.name()] = serde_json::json!({
            "instructions": peak.instructions,
            "gflop_per_s": (peak.operations_per_second / 1e8).round() / 10.0,
        });
    }
    peaks
}
