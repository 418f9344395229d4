//! The model: from a checkpoint on disk to logits for a batch of token sequences.
//!
//! Only this module and [`crate::ops`] know that candle exists. Above it there are [`Batch`]es and `f32`s.

mod config;
mod demo;
mod device;
#[cfg(feature = "cuda")]
mod gpu;
mod growth;
mod names;
mod reference;
pub mod source;
mod weights;
mod xlm_roberta;

use std::{borrow::Cow, sync::Arc, time::Instant};

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

    /// Two batches of about half the tokens each: the sequences up to the middle, and the rest. There are at least two.
    pub fn halves(&self) -> (Self, Self) {
        let middle = self.input_ids.len().div_ceil(2);
        let cut = self.offsets.partition_point(|&start| start < middle);
        let cut = cut.clamp(1, self.len() - 1);
        let part = |from: usize, to: usize| Self::pack(self.sequences().skip(from).take(to - from));
        (part(0, cut), part(cut, self.len()))
    }

    /// The row of the position table for each token. Positions count from `pad_token_id + 1`. A literal `<pad>` in the text
    /// neither counts nor has a position of its own: that is how transformers computes them.
    pub(crate) fn position_ids(&self, pad_token_id: u32) -> Vec<u32> {
        let mut position_ids = Vec::with_capacity(self.input_ids.len());
        for sequence in self.sequences() {
            let mut position = pad_token_id;
            position_ids.extend(sequence.iter().map(|&id| {
                if id == pad_token_id {
                    return pad_token_id;
                }
                position += 1;
                position
            }));
        }
        position_ids
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
    /// What costs no order on the device: f16 on a GPU, f32 on the CPU.
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
    /// As it is typed.
    fn name(self) -> String {
        let value = self.to_possible_value().expect("none is hidden");
        value.get_name().to_owned()
    }

    fn on_cpu(self) -> (Precision, &'static str) {
        match self {
            Self::Auto | Self::F32 => (Precision::F32, "float32"),
            Self::Bf16 => (Precision::Bf16, "bfloat16"),
            Self::F16 => (Precision::F16, "float16"),
            Self::Int8 => (Precision::Int8, "int8"),
        }
    }
}

/// How a network is to be built.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Which implementation.
    pub backend: Backend,
    /// How weights are kept and multiplied.
    pub dtype: Dtype,
    /// Where to compute.
    pub device: Device,
    /// Whether the CPU will not do.
    pub require_gpu: bool,
    /// Tokens computed at once, where the operator has an opinion.
    pub batch_tokens: Option<usize>,
    /// Tokens of the longest pair.
    pub max_length: usize,
}

/// A network, ready to compute.
pub struct Built {
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
    pub fn build(&self, wanted: &Wanted) -> Result<Built> {
        let why_not = match device::gpus(&wanted.device) {
            None => None,
            Some(ordinals) => match self.on_gpus(ordinals, wanted) {
                Ok(built) => return Ok(built),
                Err(why) => Some(why),
            },
        };
        device::settle_for_cpu(wanted, why_not.as_ref())?;
        let workers = match wanted.device {
            Device::Cpu(workers) => workers,
            Device::Auto | Device::Cuda(_) => 1,
        };
        let encoders = (0..workers).map(|_| self.on_cpu(wanted));
        let batch_tokens = wanted.batch_tokens.unwrap_or(CPU_BATCH_TOKENS);
        let batch_tokens = batch_tokens.max(wanted.max_length);
        Ok(Built {
            encoders: encoders.collect::<Result<_>>()?,
            device: "cpu",
            gpus: Vec::new(),
            dtype: wanted.dtype.on_cpu().1,
            batch_tokens,
            turn_tokens: CPU_TURN_TOKENS.max(wanted.max_length).min(batch_tokens),
        })
    }

    fn on_cpu(&self, wanted: &Wanted) -> Result<Box<dyn CrossEncoder>> {
        let (precision, dtype) = wanted.dtype.on_cpu();
        let started = Instant::now();
        let encoder: Box<dyn CrossEncoder> = match (wanted.backend, precision) {
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
    pub fn examine_gpu(&self, wanted: &Wanted) -> Result<(serde_json::Value, bool)> {
        gpu::examine(self, wanted)
    }

    /// What this build has to say to that.
    #[cfg(not(feature = "cuda"))]
    pub fn examine_gpu(&self, _wanted: &Wanted) -> Result<(serde_json::Value, bool)> {
        bail!(NO_CUDA)
    }

    #[cfg(feature = "cuda")]
    fn on_gpus(&self, ordinals: &[usize], wanted: &Wanted) -> Result<Built> {
        gpu::build(self, ordinals, wanted)
    }

    #[cfg(not(feature = "cuda"))]
    #[expect(
        clippy::unused_self,
        reason = "so that both builds look alike from above"
    )]
    fn on_gpus(&self, _ordinals: &[usize], _wanted: &Wanted) -> Result<Built> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(lengths: &[usize]) -> Batch {
        let sequences: Vec<Vec<u32>> = lengths.iter().map(|&n| vec![7; n]).collect();
        Batch::pack(sequences.iter().map(Vec::as_slice))
    }

    #[test]
    fn halves_are_whole_sequences_in_order_and_neither_is_empty() {
        for lengths in [
            &[1, 1][..],
            &[100, 1, 1],
            &[1, 1, 100],
            &[3, 3, 3],
            &[5, 80, 2, 9, 40],
        ] {
            let (first, second) = batch(lengths).halves();
            let both: Vec<usize> = first
                .sequences()
                .chain(second.sequences())
                .map(<[u32]>::len)
                .collect();
            assert_eq!(both, lengths);
            assert!(!first.is_empty() && !second.is_empty(), "{lengths:?}");
        }
        assert_eq!(batch(&[4; 8]).halves().0.len(), 4);
    }

    #[test]
    fn positions_pass_over_padding() {
        let ids = Batch::pack([[0, 7, 1, 8, 2].as_slice(), &[0, 2]]);
        assert_eq!(ids.position_ids(1), [2, 3, 1, 4, 5, 2, 3]);
    }
}
