//! One GPU: what it must have, and opening it.
//!
//! The driver and cuBLASLt are opened when they are first asked for, so that a program built for
//! GPUs starts without them.

use std::fs;

use anyhow::{Result, bail, ensure};
use cudarc::{
    cublaslt,
    driver::{CudaContext, DriverError, sys},
};

use super::{
    images::{self, OLDEST},
    kernels::Kernels,
    matmul::Matmul,
    memory::Stream,
};
use crate::ops::gpu_info::GpuInfo;

/// The oldest version of CUDA whose driver runs what is built with any CUDA 12, as the driver
/// counts.
const OLDEST_DRIVER: u32 = 12_000;

/// A GPU that can compute.
pub(crate) struct Gpu {
    /// The GPU's memory, and the order of its work.
    pub stream: Stream,
    /// Our own kernels.
    pub kernels: Kernels,
    /// cuBLASLt's products.
    pub matmul: Matmul,
    info: GpuInfo,
}

/// How many GPUs the driver shows to this process.
///
/// # Errors
/// Why there is none, in words for an operator.
fn device_count() -> Result<usize> {
    // SAFETY: both only try to open a library by name.
    let (has_driver, has_cublaslt) =
        unsafe { (sys::is_culib_present(), cublaslt::sys::is_culib_present()) };
    ensure!(
        has_driver,
        "there is no NVIDIA driver (libcuda.so.1 was not found)"
    );
    ensure!(
        has_cublaslt,
        "cuBLASLt is missing (libcublasLt.so.12 was not found); install CUDA 12's or use the GPU image"
    );
    match CudaContext::device_count() {
        Ok(0) => bail!("the NVIDIA driver shows no GPU to this process"),
        Ok(count) => Ok(usize::try_from(count)?),
        Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE => {
            bail!("the NVIDIA driver shows no GPU to this process")
        }
        Err(error) => bail!("the NVIDIA driver cannot be used: {}", describe(error)),
    }
}

/// A UUID as NVIDIA's tools show it.
fn shown(uuid: [u8; 16]) -> String {
    format!("GPU-{}", uuid::Uuid::from_bytes(uuid).hyphenated())
}

impl Gpu {
    /// Prepares the GPU of this number.
    ///
    /// # Errors
    /// Why it cannot be used, in words for an operator.
    pub(crate) fn open(ordinal: usize) -> Result<Self> {
        let count = device_count()?;
        ensure!(
            ordinal < count,
            "there is no GPU {ordinal}: the NVIDIA driver shows {count}, counted from 0"
        );
        let context = CudaContext::new(ordinal).map_err(|error| {
            anyhow::anyhow!("GPU {ordinal} cannot be used: {}", describe(error))
        })?;
        let (capability, cuda) = (capability(&context)?, driver_version()?);
        let info = GpuInfo {
            ordinal,
            uuid: shown(context.uuid()?.bytes.map(i8::cast_unsigned)),
            name: context.name()?,
            memory_bytes: context.total_mem()?,
            compute_capability: dotted(capability, 10),
            // Where the driver is a kernel module. Elsewhere its version is not known.
            driver: fs::read_to_string("/sys/module/nvidia/version")
                .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned()),
            cuda: dotted(cuda / 10, 100),
        };
        ensure!(
            capability >= OLDEST,
            "{} has compute capability {}, but {} or newer is needed",
            info.name,
            info.compute_capability,
            dotted(OLDEST, 10)
        );
        ensure!(
            cuda >= OLDEST_DRIVER,
            "the NVIDIA driver is for CUDA {}, but one for CUDA 12.0 or newer is needed (525.60 or newer)",
            info.cuda
        );
        let module = images::load(&context, capability)?;
        let stream = Stream::new(context)?;
        Ok(Self {
            kernels: Kernels::load(&module, &stream.stream)?,
            matmul: Matmul::new(&stream.stream)?,
            info,
            stream,
        })
    }

    /// The description of this GPU.
    pub(crate) fn info(&self) -> &GpuInfo {
        &self.info
    }
}

/// Whether an operation failed for want of the GPU's memory.
pub(crate) fn is_out_of_memory(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let driver = cause.downcast_ref::<DriverError>();
        driver.is_some_and(|error| error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)
    })
}

/// The compute capability times ten: 75 is 7.5.
fn capability(context: &CudaContext) -> Result<u32> {
    let (major, minor) = context.compute_capability()?;
    Ok(u32::try_from(10 * major + minor)?)
}

/// The newest CUDA that the driver knows, as it counts: 12020 is 12.2.
fn driver_version() -> Result<u32> {
    let mut version = 0;
    // SAFETY: it writes one integer.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
    Ok(u32::try_from(version)?)
}

/// A version in one number as people write it.
fn dotted(version: u32, base: u32) -> String {
    format!("{}.{}", version / base, version % base)
}

fn describe(error: DriverError) -> String {
    match (error.error_string(), error.error_name()) {
        (Ok(text), _) | (_, Ok(text)) => text.to_string_lossy().into_owned(),
        _ => format!("{:?}", error.0),
    }
}
