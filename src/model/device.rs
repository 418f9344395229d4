//! Which device computes, and a plain word to the operator about it.

use anyhow::{Result, bail};
use tracing::{info, warn};

use crate::config::Device;

/// Settles on a device. This build has the CPU only, and says so where a GPU was asked for.
///
/// # Errors
/// If a GPU is required.
pub(super) fn select(asked: Device, require_gpu: bool) -> Result<&'static str> {
    const WHY: &str = "this build has no CUDA support";
    if require_gpu {
        bail!(
            "RERANKER_REQUIRE_GPU is set, but {WHY}; use the GPU image, or unset it to run on the CPU"
        );
    }
    let threads = rayon::current_num_threads();
    match asked {
        Device::Cpu => info!(threads, "computing on the CPU"),
        Device::Auto => info!(threads, "no GPU: {WHY}; computing on the CPU"),
        Device::Cuda(n) => warn!(
            threads,
            "DEVICE asks for cuda:{n}, but {WHY}: computing on the CPU instead"
        ),
    }
    Ok("cpu")
}
