//! The description of a GPU, which every build has because answers and logs contain it.

use serde::Serialize;

/// A GPU, as its driver describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GpuInfo {
    /// The number of this GPU among those that the driver shows to this process.
    pub ordinal: usize,
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
