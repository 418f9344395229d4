//! Which device computes, and a plain word to the operator about it.

use anyhow::{Error, Result, bail};
use tracing::{info, warn};

use super::settings::{BuildOptions, Device};

/// The GPUs that are asked for, by number; `None` where none is.
pub(super) fn gpus(device: &Device) -> Option<&[usize]> {
    match device {
        Device::Auto => Some(&[0]),
        Device::Cuda(ordinals) => Some(ordinals),
        Device::Cpu(_) => None,
    }
}

/// Says that the CPU computes, and why no GPU does where one was asked for.
///
/// # Errors
/// If a GPU is required.
pub(super) fn fall_back_to_cpu(options: &BuildOptions, why_not: Option<&Error>) -> Result<()> {
    let why = why_not.map_or_else(|| "DEVICE is cpu".to_owned(), |error| format!("{error:#}"));
    if options.require_gpu {
        bail!(
            "RERANKER_REQUIRE_GPU is set, but {why}; use the GPU image on a machine with a GPU, or unset it to run on the CPU"
        );
    }
    let threads = rayon::current_num_threads();
    match options.device {
        Device::Cpu(_) => info!(threads, "computing on the CPU"),
        Device::Auto => info!(threads, "no GPU: {why}; computing on the CPU"),
        Device::Cuda(_) => warn!(
            threads,
            "DEVICE asks for {}, but {why}: computing on the CPU instead", options.device
        ),
    }
    Ok(())
}
