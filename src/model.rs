//! The model: from a checkpoint on disk to logits for a batch of token sequences.
//!
//! Only this module and [`crate::ops`] know that candle exists. Above it there are [`Batch`]es and
//! `f32`s.

mod config;
mod demo;
mod device;
#[cfg(feature = "cuda")]
mod gpu;
mod growth;
mod names;
mod reference;
mod settings;
pub mod source;
mod weights;
mod xlm_roberta;

use std::{borrow::Cow, time::Instant};

use anyhow::{Context as _, Result, bail};
use tracing::info;

pub use self::{
    config::ModelConfig,
    settings::{Backend, BuildOptions, Device, Dtype, Settings},
};
use self::{
    reference::Reference,
    source::{HubSettings, ModelFiles, Progress, Source},
    weights::Weights,
    xlm_roberta::XlmRoberta,
};
use crate::{
    batch::Batch,
    ops::{self, GpuInfo, Precision, Spent},
};

#[cfg(not(feature = "cuda"))]
const NO_CUDA: &str = "this build has no CUDA support";

/// Tokens computed at once on the CPU: more gain nothing there and take memory.
const CPU_BATCH_TOKENS: usize = 1536;

/// Tokens of large requests computed at once there while small requests come, which wait a third as
/// long then. The weights are read more often: large requests take 5 to 8 % longer in f32 and 2 % in
/// int8 (six layers of the full size, on a Zen 4).
const CPU_TURN_TOKENS: usize = 512;

/// A model that reads a query and a document together and says how well the second answers the first.
pub trait CrossEncoder: Send {
    /// One raw logit per sequence of the batch, in its order. They may be non-finite; the caller checks.
    ///
    /// # Errors
    /// Whatever the device reports, out of memory above all.
    fn predict(&self, batch: &Batch) -> Result<Vec<f32>>;

    /// Tokens of padding that are computed beside those of the batch.
    fn padding(&self, batch: &Batch) -> usize;

    /// How many batches so far left the range of fast arithmetic and were computed again in another.
    fn batches_redone(&self) -> u64 {
        0
    }

    /// The time that operations have taken on this thread since this was asked last; none where they are not told apart.
    fn take_spent(&self) -> Option<Spent> {
        None
    }
}

/// A network, ready to compute.
pub struct LoadedModel {
    /// The network itself, once for every worker.
    pub encoders: Vec<Box<dyn CrossEncoder>>,
    /// Where it computes: `cpu` or `cuda`.
    pub device: &'static str,
    /// The GPUs among that, in the order of the workers.
    pub gpus: Vec<GpuInfo>,
    /// In what it computes, by the name that `config.json` would give it.
    pub dtype: &'static str,
    /// Tokens to compute at once.
    pub batch_tokens: usize,
    /// Tokens to compute at once of large requests while small ones come.
    pub turn_tokens: usize,
}

/// A checkpoint whose configuration has been understood and whose weights are mapped but not yet converted.
pub struct Checkpoint {
    /// Shapes and constants of the network.
    pub config: ModelConfig,
    /// The contents of `tokenizer.json`.
    pub tokenizer: Cow<'static, [u8]>,
    /// The commit of the hub's repository, where the checkpoint came from one.
    pub commit: Option<String>,
    weights: Weights,
}

impl Checkpoint {
    /// Finds, and downloads if need be, the files of a model and reads what describes it.
    ///
    /// # Errors
    /// A sentence that names the file, and the field where there is one.
    pub fn open(source: &Source, hub: &HubSettings) -> Result<Self> {
        match source::fetch(source, hub, Progress::auto())? {
            Some(files) => Self::from_files(&files),
            None => demo::checkpoint(),
        }
    }

    fn from_files(files: &ModelFiles) -> Result<Self> {
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
        })
    }

    /// Converts the weights and builds the network where it is wanted, or on the CPU where that may be.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape than the configuration says, by name; no GPU where one is required.
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
                Box::new(XlmRoberta::new(&self.config, &self.weights, precision)?)
            }
            (Backend::Reference, Precision::F32) => {
                Box::new(Reference::new(&self.config, &self.weights)?)
            }
            (Backend::Reference, _) => bail!(
                "RERANKER_BACKEND=reference computes in f32 only; RERANKER_DTYPE is {dtype}: unset one of them"
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

    /// Examines a GPU with this model: every kernel against a reference, the GPU's peaks, the time of each part of a batch. Also
    /// tells whether all kernels passed.
    ///
    /// # Errors
    /// Why there is no GPU to examine.
    #[cfg(feature = "cuda")]
    pub fn examine_gpu(&self, options: &BuildOptions) -> Result<(serde_json::Value, bool)> {
        gpu::examine(self, options)
    }

    /// What this build has to say to that.
    #[cfg(not(feature = "cuda"))]
    pub fn examine_gpu(&self, _options: &BuildOptions) -> Result<(serde_json::Value, bool)> {
        bail!(NO_CUDA)
    }

    #[cfg(feature = "cuda")]
    fn on_gpus(&self, ordinals: &[usize], options: &BuildOptions) -> Result<LoadedModel> {
        gpu::build(self, ordinals, options)
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

/// The most that this processor can do at each dtype: `{"threads", "f32": {"instructions", "gflop_per_s"}, …}`, an integer
/// operation counted like one in floating point.
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
