//! XLM-RoBERTa on a GPU: the same network as `xlm_roberta.rs`, in f16 with sums in f32.
//!
//! **Never a wrong score.** Real checkpoints have a few channels beyond f16's range. What leaves a product for the residual stream
//! stays in f32 up to the layer norm; elsewhere a number that does not fit becomes an infinity, which every operation hands on until the
//! logit is not finite (`ops/cuda/kernels` says where that takes care). Such a batch is computed again with activations in f32.

mod calibration;
mod examination;
mod load;
mod network;
mod plan;
mod weight;

use std::{
    cell::{Cell, RefCell},
    time::Instant,
};

use anyhow::{Result, bail, ensure};
use half::f16;
use tracing::{info, warn};

pub(super) use self::examination::examine;
use self::{
    load::Loader,
    network::{Buffers, Network},
    weight::Activations,
};
use super::{
    Backend, BuildOptions, Checkpoint, CrossEncoder, Dtype, LoadedModel, ModelConfig,
    weights::Weights,
};
use crate::{
    batch::Batch,
    ops::{
        GpuInfo,
        cuda::{self, Gpu},
    },
};

/// Tokens computed at once in f32, after an overflow: rare, so memory counts for more than speed.
const REDONE_TOKENS: usize = 1024;

/// A network on each of the GPUs.
///
/// # Errors
/// Why there is none, for an operator.
pub(super) fn build(
    checkpoint: &Checkpoint,
    ordinals: &[usize],
    options: &BuildOptions,
) -> Result<LoadedModel> {
    let (precision, dtype) = precision(options.dtype)?;
    if options.backend == Backend::Reference {
        bail!("RERANKER_BACKEND=reference is for the CPU");
    }
    let (mut encoders, mut gpus): (Vec<Box<dyn CrossEncoder>>, _) = (Vec::new(), Vec::new());
    let mut batch_tokens = options.batch_tokens;
    for &ordinal in ordinals {
        let Checkpoint {
            config, weights, ..
        } = checkpoint;
        let model = GpuXlmRoberta::new(config, weights, precision, ordinal)?;
        // All workers take their batches from the same queue: the first GPU speaks for the others.
        batch_tokens = Some(model.plan_batches(batch_tokens, options.max_length)?);
        gpus.push(model.gpu.info().clone());
        encoders.push(Box::new(model));
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

fn precision(dtype: Dtype) -> Result<(Precision, &'static str)> {
    match dtype {
        Dtype::Auto | Dtype::F16 => Ok((Precision::Half, "float16")),
        Dtype::F32 => Ok((Precision::Full, "float32")),
        Dtype::Bf16 | Dtype::Int8 => bail!("RERANKER_DTYPE={} is for the CPU", dtype.name()),
    }
}

/// The network on one GPU.
struct GpuXlmRoberta {
    gpu: Gpu,
    network: Network,
    /// What most batches are computed in.
    precision: Precision,
    half: RefCell<Workspace<f16>>,
    full: RefCell<Workspace<f32>>,
    redone: Cell<u64>,
}

/// Types of weights and activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Precision {
    /// Both f16.
    Half,
    /// Both f32.
    Full,
}

/// Memory for one type of activations.
struct Workspace<T: Activations> {
    buffers: Option<Buffers<T>>,
    /// Tokens that there has been room for, or more than anybody asked.
    most: usize,
}

impl CrossEncoder for GpuXlmRoberta {
    fn predict(&self, batch: &Batch) -> Result<Vec<f32>> {
        let logits = match self.precision {
            Precision::Half => self.compute(batch, &self.half)?,
            Precision::Full => return self.compute(batch, &self.full),
        };
        if logits.iter().all(|logit| logit.is_finite()) {
            return Ok(logits);
        }
        self.redone.set(self.redone.get() + 1);
        self.compute(batch, &self.full)
    }

    fn padding(&self, batch: &Batch) -> usize {
        let rows = batch.input_ids.len();
        rows.next_multiple_of(cuda::ROWS) - rows
    }

    fn batches_redone(&self) -> u64 {
        self.redone.get()
    }
}

impl GpuXlmRoberta {
    /// Opens a GPU and loads the weights.
    ///
    /// # Errors
    /// Why this model cannot be computed on this GPU, for an operator.
    fn new(
        config: &ModelConfig,
        weights: &Weights,
        precision: Precision,
        ordinal: usize,
    ) -> Result<Self> {
        ensure!(
            config.hidden <= cuda::WIDEST && config.hidden.is_multiple_of(8),
            "the GPU's kernels are for hidden sizes up to {} in steps of 8, but `hidden_size` in config.json is {}",
            cuda::WIDEST,
            config.hidden
        );
        let gpu = Gpu::open(ordinal)?;
        announce(gpu.info());
        let needed = load::bytes(config, precision);
        let free = gpu.free_memory()?;
        ensure!(
            needed < free,
            "the weights take {} MB, but only {} MB of the GPU's memory are free",
            needed / 1_000_000,
            free / 1_000_000
        );
        let started = Instant::now();
        let network = Loader::new(&gpu, config, weights, precision)?.network()?;
        gpu.wait()?;
        info!(
            gpu = ordinal,
            seconds = %format_args!("{:.2}", started.elapsed().as_secs_f64()),
            mb = needed / 1_000_000,
            "weights are on the GPU"
        );
        Ok(Self {
            gpu,
            network,
            precision,
            half: RefCell::new(Workspace::new(usize::MAX)),
            full: RefCell::new(Workspace::new(match precision {
                Precision::Half => REDONE_TOKENS,
                Precision::Full => usize::MAX,
            })),
            redone: Cell::new(0),
        })
    }

    /// Settles how many tokens a batch has, and gets memory for them: as asked for, or as measured here. A pair of `longest` tokens
    /// always fits.
    fn plan_batches(&self, asked: Option<usize>, longest: usize) -> Result<usize> {
        let tokens = match asked {
            Some(tokens) => tokens,
            None => calibration::batch_tokens(self, longest)?,
        };
        let tokens = match self.precision {
            Precision::Half => self.reserve(tokens, &self.half)?,
            Precision::Full => self.reserve(tokens, &self.full)?,
        };
        info!(
            gpu = self.gpu.info().ordinal,
            batch_tokens = tokens,
            activations_mb = self.network.activation_bytes(self.precision, tokens) / 1_000_000,
            redo_mb = self
                .network
                .activation_bytes(Precision::Full, REDONE_TOKENS)
                / 1_000_000,
            free_mb = self.gpu.free_memory()? / 1_000_000,
            "GPU memory planned"
        );
        Ok(tokens)
    }

    /// A sequence of so many tokens, or of as many as the model reads, for measuring.
    fn sample(&self, tokens: usize) -> Vec<u32> {
        let tables = self.network.sizes.tables;
        let first = tables.pad_token_id as usize + 1;
        let tokens = tokens.min(tables.positions - first);
        let words = (0..tokens).map(|i| first + i * 7919 % (tables.words - first));
        words
            .map(|word| u32::try_from(word).expect("vocabularies are small"))
            .collect()
    }

    /// Gets memory for batches of so many tokens, or of as many as there is room for.
    fn reserve<T: Activations>(
        &self,
        tokens: usize,
        workspace: &RefCell<Workspace<T>>,
    ) -> Result<usize> {
        let mut workspace = workspace.borrow_mut();
        workspace.buffers = None;
        let mut tokens = tokens;
        loop {
            match self.network.buffers(&self.gpu, tokens) {
                Ok(buffers) => {
                    workspace.buffers = Some(buffers);
                    return Ok(tokens);
                }
                Err(error) if cuda::is_out_of_memory(&error) && tokens > cuda::ROWS => {
                    warn!(
                        tokens,
                        "no GPU memory for batches of so many tokens; halving them"
                    );
                    tokens /= 2;
                    workspace.most = tokens;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The logits of a batch, in halves if there is no memory for all of it at once; that is remembered.
    fn compute<T: Activations>(
        &self,
        batch: &Batch,
        workspace: &RefCell<Workspace<T>>,
    ) -> Result<Vec<f32>> {
        let tokens = batch.input_ids.len();
        let most = workspace.borrow().most;
        if tokens > most && batch.len() > 1 {
            let (first, second) = batch.halves();
            let mut logits = self.compute(&first, workspace)?;
            logits.extend(self.compute(&second, workspace)?);
            return Ok(logits);
        }
        match self.forward(batch, &mut workspace.borrow_mut().buffers) {
            Err(error) if cuda::is_out_of_memory(&error) && batch.len() > 1 => {
                warn!(
                    tokens,
                    "out of GPU memory; from now on such batches are halved"
                );
                workspace.borrow_mut().most = tokens / 2;
                self.compute(batch, workspace)
            }
            result => result,
        }
    }

    fn forward<T: Activations>(
        &self,
        batch: &Batch,
        buffers: &mut Option<Buffers<T>>,
    ) -> Result<Vec<f32>> {
        let plan = self.network.plan(batch)?;
        if !buffers.as_ref().is_some_and(|buffers| buffers.hold(&plan)) {
            *buffers = None;
            let tokens = plan.tokens.max(4 * plan.sequences);
            *buffers = Some(self.network.buffers(&self.gpu, tokens)?);
        }
        let buffers = buffers.as_mut().expect("they have just been made");
        let done = self.network.forward(&self.gpu, &plan, buffers, None);
        if done.is_err() {
            // What is under way still reads the plan's memory, which the next batch will write.
            let _ = self.gpu.wait();
        }
        done
    }
}

impl<T: Activations> Workspace<T> {
    fn new(most: usize) -> Self {
        Self {
            buffers: None,
            most,
        }
    }
}

fn announce(gpu: &GpuInfo) {
    info!(
        gpu = gpu.ordinal,
        name = gpu.name,
        memory_mb = gpu.memory_bytes / 1_000_000,
        compute_capability = gpu.compute_capability,
        driver = gpu.driver,
        cuda = gpu.cuda,
        "computing on the GPU"
    );
}
