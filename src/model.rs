//! The model: from a checkpoint on disk to logits for a batch of token sequences.
//!
//! Only this module and [`crate::ops`] know that candle exists. Above it there are [`Batch`]es and `f32`s.

mod config;
mod demo;
mod device;
mod reference;
pub mod source;
mod weights;
mod xlm_roberta;

use std::{borrow::Cow, fs, path::Path, sync::Arc, time::Instant};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum as _;
use tracing::info;

pub use self::config::ModelConfig;
use self::{
    reference::Reference,
    source::{HubSettings, ModelFiles, Progress, Source},
    weights::Weights,
    xlm_roberta::XlmRoberta,
};
use crate::{
    config::Device,
    ops::{self, Precision},
};

/// A model that reads a query and a document together and says how well the second answers the first.
pub trait CrossEncoder: Send {
    /// One raw logit per sequence of the batch, in its order. They may be non-finite; the caller checks.
    ///
    /// # Errors
    /// Whatever the device reports, out of memory above all.
    fn predict(&self, batch: &Batch) -> Result<Vec<f32>>;

    /// Tokens of padding that are computed beside those of the batch.
    fn padding(&self, batch: &Batch) -> usize;
}

/// Token sequences end to end, without padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The tokens of all sequences.
    pub input_ids: Vec<u32>,
    /// Sequence `i` is `input_ids[offsets[i]..offsets[i + 1]]`; one more entry than there are sequences.
    pub offsets: Arc<[usize]>,
}

impl Batch {
    /// Packs sequences, none of them empty.
    pub fn pack<'a>(sequences: impl IntoIterator<Item = &'a [u32]>) -> Self {
        let (mut input_ids, mut offsets) = (Vec::new(), vec![0]);
        for sequence in sequences {
            input_ids.extend_from_slice(sequence);
            offsets.push(input_ids.len());
        }
        Self {
            input_ids,
            offsets: offsets.into(),
        }
    }

    /// The number of sequences.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sequences one by one.
    pub fn sequences(&self) -> impl Iterator<Item = &[u32]> {
        self.offsets
            .windows(2)
            .map(|ends| &self.input_ids[ends[0]..ends[1]])
    }
}

/// Which implementation of the network answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// Ours: packed sequences, fused operations.
    Native,
    /// The padded model of candle-transformers: slow, independent, for a second opinion on a score.
    Reference,
}

/// How weights are kept and multiplied, as asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Dtype {
    /// What costs no accuracy on the device: f32 on the CPU.
    Auto,
    /// As the reference implementation computes.
    #[value(alias = "float32")]
    F32,
    /// Half the memory; on the CPU the speed of f32.
    #[value(alias = "bfloat16")]
    Bf16,
    /// Half the memory, closer to f32 than bf16; on the CPU the speed of f32.
    #[value(alias = "float16")]
    F16,
    /// A quarter of the memory, the fastest on a CPU.
    Int8,
}

impl Dtype {
    fn on_cpu(self) -> (Precision, &'static str) {
        match self {
            Self::Auto | Self::F32 => (Precision::F32, "float32"),
            Self::Bf16 => (Precision::Bf16, "bfloat16"),
            Self::F16 => (Precision::F16, "float16"),
            Self::Int8 => (Precision::Int8, "int8"),
        }
    }
}

/// A network, ready to compute.
pub struct Built {
    /// The network itself.
    pub encoder: Box<dyn CrossEncoder>,
    /// Where it computes.
    pub device: &'static str,
    /// In what it computes, by the name that `config.json` would give it.
    pub dtype: &'static str,
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
        let config = read(&files.config)?;
        Ok(Self {
            config: ModelConfig::parse(&config)
                .with_context(|| format!("cannot use {}", files.config.display()))?,
            tokenizer: read(&files.tokenizer)?.into(),
            commit: files.commit.clone(),
            weights: Weights::map(&files.weights)?,
        })
    }

    /// Converts the weights and builds the network on the device asked for, or on the CPU where that may be.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape than the configuration says, by name; no GPU where one is required.
    pub fn build(
        &self,
        backend: Backend,
        dtype: Dtype,
        device: Device,
        require_gpu: bool,
    ) -> Result<Built> {
        let device = device::select(device, require_gpu)?;
        let (precision, dtype) = dtype.on_cpu();
        let started = Instant::now();
        let encoder: Box<dyn CrossEncoder> = match (backend, precision) {
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
        Ok(Built {
            encoder,
            device,
            dtype,
        })
    }
}

/// The most that this processor can do at each dtype: `{"threads", "f32": {"instructions", "gflop_per_s"}, …}`, an integer
/// operation counted like one in floating point.
pub fn peaks() -> serde_json::Value {
    let mut peaks = serde_json::json!({ "threads": rayon::current_num_threads() });
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16, Dtype::Int8] {
        let peak = ops::peak(dtype.on_cpu().0);
        let name = dtype.to_possible_value().expect("none is hidden");
        peaks[name.get_name()] = serde_json::json!({
            "instructions": peak.instructions,
            "gflop_per_s": (peak.operations_per_second / 1e8).round() / 10.0,
        });
    }
    peaks
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
