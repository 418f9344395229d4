//! The network on one GPU: splits what does not fit, and computes again what overflowed.

use std::{
    cell::{Cell, RefCell},
    time::Instant,
};

use anyhow::{Result, ensure};
use half::f16;
use tracing::{info, warn};

use super::{
    calibration,
    load::{self, CudaLoader},
    meta::BatchMeta,
    operand::{CudaWeights, FloatWidth, Operand},
    pass::{self, CudaBuffers, Trace},
};
use crate::{
    batch::Batch,
    model::{
        config::ModelConfig, cross_encoder::CrossEncoder, inputs::Inputs, weights::Weights,
        xlm_roberta::XlmRoberta,
    },
    ops::{
        GpuInfo,
        cuda::{self, Gpu},
    },
};

/// Tokens computed at once in f32, after an overflow: rare, so memory counts for more than speed.
const REDONE_TOKENS: usize = 1024;
/// Tokens of a pair of usual size.
const PAIR: usize = 128;
/// Runs of which the fastest counts.
const RUNS: usize = 3;

/// The network on one GPU.
pub(super) struct GpuEncoder {
    pub(super) gpu: Gpu,
    config: ModelConfig,
    network: XlmRoberta<CudaWeights>,
    /// What most batches are computed in.
    pub(super) width: FloatWidth,
    half: RefCell<Workspace<f16>>,
    full: RefCell<Workspace<f32>>,
    redone: Cell<u64>,
}

/// Memory for one type of activations.
struct Workspace<T> {
    buffers: Option<CudaBuffers<T>>,
    /// Tokens that there has been memory for, or more than anybody asked.
    most: usize,
}

impl CrossEncoder for GpuEncoder {
    fn predict(&self, batch: &Batch) -> Result<Vec<f32>> {
        let logits = self.compute_first(batch, None)?;
        if self.width == FloatWidth::Full || logits.iter().all(|logit| logit.is_finite()) {
            return Ok(logits);
        }
        self.redone.set(self.redone.get() + 1);
        self.compute(batch, &self.full, None)
    }

    fn padding(&self, batch: &Batch) -> usize {
        let rows = batch.input_ids.len();
        rows.next_multiple_of(cuda::ROWS) - rows
    }

    fn batches_redone(&self) -> u64 {
        self.redone.get()
    }
}

impl GpuEncoder {
    /// Opens a GPU and loads the weights.
    ///
    /// # Errors
    /// Why this model cannot be computed on this GPU, for an operator.
    pub(super) fn new(
        config: &ModelConfig,
        weights: &Weights,
        width: FloatWidth,
        ordinal: usize,
    ) -> Result<Self> {
        ensure!(
            config.hidden <= cuda::WIDEST && config.hidden.is_multiple_of(8),
            "the GPU's kernels are for hidden sizes up to {} in steps of 8, but `hidden_size` in config.json is {}",
            cuda::WIDEST,
            config.hidden
        );
        let gpu = Gpu::open(ordinal)?;
        log_gpu(gpu.info());
        let needed = load::bytes(config, width);
        let free = gpu.stream.free_memory()?;
        ensure!(
            needed < free,
            "the weights take {} MB, but only {} MB of the GPU's memory are free",
            needed / 1_000_000,
            free / 1_000_000
        );
        let started = Instant::now();
        let loader = CudaLoader::new(&gpu, weights, width)?;
        let network = XlmRoberta::load(&loader, config, weights)?;
        drop(loader);
        gpu.stream.wait()?;
        info!(
            gpu = ordinal,
            seconds = %format_args!("{:.2}", started.elapsed().as_secs_f64()),
            mb = needed / 1_000_000,
            "weights are on the GPU"
        );
        Ok(Self {
            gpu,
            config: config.clone(),
            network,
            width,
            half: RefCell::new(Workspace::new(usize::MAX)),
            full: RefCell::new(Workspace::new(match width {
                FloatWidth::Half => REDONE_TOKENS,
                FloatWidth::Full => usize::MAX,
            })),
            redone: Cell::new(0),
        })
    }

    /// Settles how many tokens a batch has, and gets memory for them: as asked for, or as measured
    /// here. A pair of `longest` tokens always fits.
    pub(super) fn plan_batches(&self, asked: Option<usize>, longest: usize) -> Result<usize> {
        let tokens = match asked {
            Some(tokens) => tokens,
            None => calibration::batch_tokens(longest, |tokens| self.measure(tokens))?,
        };
        let tokens = match self.width {
            FloatWidth::Half => self.reserve(tokens, &self.half)?,
            FloatWidth::Full => self.reserve(tokens, &self.full)?,
        };
        let megabytes =
            |width, tokens| pass::activation_bytes(&self.config, width, tokens) / 1_000_000;
        info!(
            gpu = self.gpu.info().ordinal,
            batch_tokens = tokens,
            activations_mb = megabytes(self.width, tokens),
            redo_mb = megabytes(FloatWidth::Full, REDONE_TOKENS),
            free_mb = self.gpu.stream.free_memory()? / 1_000_000,
            "GPU memory planned"
        );
        Ok(tokens)
    }

    /// The least seconds that a batch of about so many tokens takes in several runs, after one that
    /// finds memory and algorithms.
    fn measure(&self, tokens: usize) -> Result<f64> {
        let batch = self.sample(tokens);
        self.predict(&batch)?;
        let mut least = f64::INFINITY;
        for _ in 0..RUNS {
            let started = Instant::now();
            self.predict(&batch)?;
            least = least.min(started.elapsed().as_secs_f64());
        }
        Ok(least)
    }

    /// Pairs of usual size, or of as many tokens as the model reads, for measuring.
    pub(super) fn sample(&self, tokens: usize) -> Batch {
        let first = self.config.pad_token_id as usize + 1;
        let length = PAIR.min(self.config.positions - first);
        let ids = (0..length).map(|i| first + i * 7919 % (self.config.vocabulary - first));
        let ids = ids.map(|id| u32::try_from(id).expect("vocabularies are small"));
        let pair: Vec<u32> = ids.collect();
        Batch::pack((0..tokens.div_ceil(length)).map(|_| pair.as_slice()))
    }

    /// The events of the launches of one batch.
    pub(super) fn trace(&self, batch: &Batch) -> Result<Trace> {
        self.predict(batch)?; // finds memory and algorithms
        let mut trace = Trace::new();
        self.compute_first(batch, Some(&mut trace))?;
        Ok(trace)
    }

    /// Gets memory for batches of so many tokens, or of as many as there is memory for.
    fn reserve<T: Operand>(
        &self,
        tokens: usize,
        workspace: &RefCell<Workspace<T>>,
    ) -> Result<usize> {
        let mut workspace = workspace.borrow_mut();
        workspace.buffers = None;
        let mut tokens = tokens;
        loop {
            match CudaBuffers::new(&self.gpu, &self.config, tokens) {
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

    /// The logits of a batch in the type that most batches are computed in.
    fn compute_first(&self, batch: &Batch, trace: Option<&mut Trace>) -> Result<Vec<f32>> {
        match self.width {
            FloatWidth::Half => self.compute(batch, &self.half, trace),
            FloatWidth::Full => self.compute(batch, &self.full, trace),
        }
    }

    /// The logits of a batch, in halves if there is no memory for all of it at once; that is
    /// remembered.
    fn compute<T: Operand>(
        &self,
        batch: &Batch,
        workspace: &RefCell<Workspace<T>>,
        mut trace: Option<&mut Trace>,
    ) -> Result<Vec<f32>> {
        let tokens = batch.input_ids.len();
        let most = workspace.borrow().most;
        if tokens > most && batch.len() > 1 {
            let (first, second) = batch.halves();
            let mut logits = self.compute(&first, workspace, trace.as_deref_mut())?;
            logits.extend(self.compute(&second, workspace, trace)?);
            return Ok(logits);
        }
        let most_recent = trace.as_deref_mut();
        let logits = self.forward(batch, &mut workspace.borrow_mut().buffers, most_recent);
        match logits {
            Err(error) if cuda::is_out_of_memory(&error) && batch.len() > 1 => {
                warn!(
                    tokens,
                    "out of GPU memory; from now on such batches are halved"
                );
                workspace.borrow_mut().most = tokens / 2;
                self.compute(batch, workspace, trace)
            }
            result => result,
        }
    }

    fn forward<T: Operand>(
        &self,
        batch: &Batch,
        buffers: &mut Option<CudaBuffers<T>>,
        trace: Option<&mut Trace>,
    ) -> Result<Vec<f32>> {
        let meta = BatchMeta::new(&Inputs::new(batch, &self.config)?);
        if !buffers.as_ref().is_some_and(|buffers| buffers.hold(&meta)) {
            *buffers = None;
            let tokens = meta.tokens.max(4 * meta.sequences);
            *buffers = Some(CudaBuffers::new(&self.gpu, &self.config, tokens)?);
        }
        let buffers = buffers.as_mut().expect("they have just been made");
        let done = pass::forward(&self.gpu, &self.network, &meta, buffers, trace);
        if done.is_err() {
            // What is under way still reads the pinned memory, which the next batch will write.
            let _ = self.gpu.stream.wait();
        }
        done
    }
}

impl<T> Workspace<T> {
    fn new(most: usize) -> Self {
        Self {
            buffers: None,
            most,
        }
    }
}

fn log_gpu(gpu: &GpuInfo) {
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
