//! The description of a GPU, which every build has because answers and logs contain it.

use serde::Serialize;

/// A GPU, as its driver describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GpuInfo {
    /// The number of this GPU among those that the driver shows to this process.
    pub ordinal: usize,
    /// The identifier that `nvidia-smi -L` shows, such as `GPU-5f3e…`.
    pub uuid: String,
    /// The name of the model, such as `Tesla T4`.
    pub name: String,
    /// The size of all its memory.
    pub memory_bytes: usize,
    /// The compute capability, such as `7.5`.
    pub compute_capability: String,
    /// The version of the driver, as `535.183.01`, or `unknown`.
    pub driver: String,
    /// The newest CUDA that the driver knows, as `12.2`.
    pub cuda: String,
}

/// How a GPU is doing, for all processes that use it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct GpuState {
    /// The number of this GPU among those that the driver shows to this process.
    pub ordinal: usize,
    /// Bytes of memory in use, and all there are, where the card has memory of its own.
    pub memory: Option<(u64, u64)>,
    /// The share of the last moments in which a kernel ran, where the card tells.
    pub utilization: Option<f64>,
    /// In degrees Celsius, where the card tells.
    pub temperature: Option<f64>,
    /// In watts, where the card tells.
    pub power: Option<f64>,
}

/// How GPUs are doing; there are none in this build.
#[cfg(not(feature = "cuda"))]
pub(crate) fn gpu_states(_gpus: &[GpuInfo]) -> Vec<GpuState> {
    Vec::new()
}
