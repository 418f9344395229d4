//! The network on the CPU.

mod load;
mod pass;

use std::cell::RefCell;

use anyhow::Result;

use self::{
    load::{CpuLoader, CpuWeights},
    pass::{CpuBuffer, CpuPass},
};
use super::{
    config::ModelConfig,
    cross_encoder::CrossEncoder,
    inputs::Inputs,
    weights::Weights,
    xlm_roberta::{Buffers, XlmRoberta},
};
use crate::{
    batch::Batch,
    ops::{self, Clock, Precision, Spent},
};

/// Weights are kept as the precision says; all between the projections is f32.
pub(super) struct CpuEncoder {
    config: ModelConfig,
    network: XlmRoberta<CpuWeights>,
    precision: Precision,
    workspace: RefCell<Workspace>,
    clock: Clock,
}

/// Memory of one batch, which the next one uses again; it grows with the largest.
struct Workspace {
    buffers: Buffers<CpuBuffer>,
    /// What a projection leaves for the residual stream or the head.
    product: CpuBuffer,
}

impl CpuEncoder {
    pub(super) fn new(
        config: &ModelConfig,
        weights: &Weights,
        precision: Precision,
    ) -> Result<Self> {
        let loader = CpuLoader { weights, precision };
        Ok(Self {
            network: XlmRoberta::load(&loader, config, weights)?,
            config: config.clone(),
            precision,
            workspace: RefCell::new(Workspace {
                buffers: Buffers::new(config, 0, 0, |count| Ok(CpuBuffer::zeroed(count)))?,
                product: CpuBuffer::default(),
            }),
            clock: Clock::new(),
        })
    }
}

impl CrossEncoder for CpuEncoder {
    fn predict(&self, batch: &Batch) -> Result<Vec<f32>> {
        let inputs = Inputs::new(batch, &self.config)?;
        let Workspace { buffers, product } = &mut *self.workspace.borrow_mut();
        let mut pass = CpuPass {
            inputs: &inputs,
            precision: self.precision,
            clock: &self.clock,
            product,
        };
        self.network.forward(&mut pass, buffers)
    }

    fn padding(&self, batch: &Batch) -> usize {
        ops::padding(batch.input_ids.len(), self.precision)
    }

    fn take_spent(&self) -> Option<Spent> {
        Some(self.clock.take())
    }
}
