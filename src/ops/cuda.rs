//! NVIDIA GPUs: finding one, its memory, and the operations of the network on it.
//!
//! The driver and cuBLASLt are opened when they are first asked for, so that a program built for GPUs starts without them.
//! Everything a [`Gpu`] does goes to one stream, in order and without waiting; only [`Gpu::read`] waits. Activations are f16 or
//! f32 (a [`Number`]); sums, norms, softmax and what leaves a product for a residual are always f32.
//!
//! This module and its children are the only place that names cudarc, and the kernels' only home.
#![expect(
    unsafe_code,
    reason = "launching kernels and calling NVIDIA's libraries"
)]

mod check;
mod images;
mod kernels;
mod matmul;
mod number;
mod peak;

use std::{fs, sync::Arc};

use anyhow::{Result, bail, ensure};
pub use cudarc::driver::{
    CudaEvent as Mark, CudaSlice as Buffer, CudaView as View, CudaViewMut as ViewMut,
};
use cudarc::{
    cublaslt,
    driver::{
        CudaContext, CudaStream, DeviceRepr, DriverError, PinnedHostSlice, ValidAsZeroBits, sys,
    },
};

pub use self::{
    check::{Check, checks},
    kernels::{Norm, Qkv, TILE_QUERIES, WIDEST, Words},
    matmul::{Factor, ROWS},
    number::Number,
    peak::{Peaks, peaks},
};
use self::{images::OLDEST, kernels::Kernels, matmul::Matmul};
use super::GpuInfo;

/// The oldest version of CUDA whose driver runs what is built with any CUDA 12, as the driver counts.
const OLDEST_DRIVER: u32 = 12_000;

/// A GPU that can compute.
pub struct Gpu {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    kernels: Kernels,
    matmul: Matmul,
    info: GpuInfo,
}

/// How many GPUs the driver shows to this process.
///
/// # Errors
/// Why there is none, in words for an operator.
pub fn count() -> Result<usize> {
    // SAFETY: both only try to open a library by name.
    let (driver, products) =
        unsafe { (sys::is_culib_present(), cublaslt::sys::is_culib_present()) };
    ensure!(
        driver,
        "there is no NVIDIA driver (libcuda.so.1 was not found)"
    );
    ensure!(
        products,
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

impl Gpu {
    /// Prepares the GPU of this number.
    ///
    /// # Errors
    /// Why it cannot be used, in words for an operator.
    pub fn open(ordinal: usize) -> Result<Self> {
        let count = count()?;
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
        // SAFETY: everything is on one stream, which orders it; there is nothing that events would have to order.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream()?;
        let module = images::load(&context, capability)?;
        Ok(Self {
            kernels: Kernels::load(&module)?,
            matmul: Matmul::new(&stream)?,
            info,
            stream,
            context,
        })
    }

    /// What it is.
    pub fn info(&self) -> &GpuInfo {
        &self.info
    }

    /// Bytes of its memory that are free now.
    pub fn free_memory(&self) -> Result<usize> {
        Ok(self.context.mem_get_info()?.0)
    }

    /// Room for so many numbers, holding anything.
    ///
    /// # Errors
    /// [`is_out_of_memory`] tells whether there is no room.
    pub fn room<T: DeviceRepr + ValidAsZeroBits>(&self, count: usize) -> Result<Buffer<T>> {
        // SAFETY: a number may hold any bits, and all that is read of a buffer is what the same batch wrote.
        Ok(unsafe { self.stream.alloc(count) }?)
    }

    /// Numbers copied to the GPU.
    pub fn upload<T: DeviceRepr>(&self, numbers: &[T]) -> Result<Buffer<T>> {
        Ok(self.stream.clone_htod(numbers)?)
    }

    /// Copies into memory that is there.
    pub fn write<T: DeviceRepr>(&self, numbers: &[T], to: &mut ViewMut<'_, T>) -> Result<()> {
        Ok(self.stream.memcpy_htod(numbers, to)?)
    }

    /// Copies from the GPU's memory to its memory.
    pub fn copy<T: DeviceRepr>(&self, from: &Buffer<T>, to: &mut Buffer<T>) -> Result<()> {
        Ok(self.stream.memcpy_dtod(from, to)?)
    }

    /// Memory of the host that the GPU reads and writes by itself, which is faster.
    pub fn pinned<T: DeviceRepr + ValidAsZeroBits>(&self, count: usize) -> Result<Pinned<T>> {
        // SAFETY: `T` may hold any bits.
        let memory = unsafe { self.context.alloc_pinned_with_flags(count, 0) }?;
        Ok(Pinned(memory))
    }

    /// Copies the first numbers of pinned memory to the GPU, without waiting.
    pub fn write_pinned<T: DeviceRepr + ValidAsZeroBits>(
        &self,
        from: &Pinned<T>,
        count: usize,
        to: &mut Buffer<T>,
    ) -> Result<()> {
        Ok(self.stream.memcpy_htod(&from.0.as_slice()?[..count], to)?)
    }

    /// Copies numbers back to the start of pinned memory, and waits until all work is done.
    pub fn read<T: DeviceRepr + ValidAsZeroBits>(
        &self,
        from: &View<'_, T>,
        to: &mut Pinned<T>,
    ) -> Result<()> {
        let count = from.len();
        self.stream
            .memcpy_dtoh(from, &mut to.0.as_mut_slice()?[..count])?;
        Ok(self.stream.synchronize()?)
    }

    /// Copies numbers back, and waits until all work is done.
    pub fn download<T: DeviceRepr>(&self, from: &Buffer<T>) -> Result<Vec<T>> {
        let numbers = self.stream.clone_dtoh(from)?;
        self.stream.synchronize()?;
        Ok(numbers)
    }

    /// A place in the stream, for [`Gpu::seconds`].
    pub fn mark(&self) -> Result<Mark> {
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT;
        Ok(self.stream.record_event(Some(flags))?)
    }

    /// Waits for the second place and tells how long after the first it came, on the GPU's clock.
    pub fn seconds(&self, first: &Mark, second: &Mark) -> Result<f64> {
        second.synchronize()?;
        Ok(f64::from(first.elapsed_ms(second)?) * 1e-3)
    }

    /// Waits until all work is done.
    pub fn wait(&self) -> Result<()> {
        Ok(self.stream.synchronize()?)
    }
}

/// Memory of the host that does not move.
pub struct Pinned<T>(PinnedHostSlice<T>);

impl<T: ValidAsZeroBits> Pinned<T> {
    /// How many numbers it holds.
    pub fn capacity(&self) -> usize {
        self.0.len()
    }

    /// All of it; waits for copies that are under way.
    pub fn as_mut_slice(&mut self) -> Result<&mut [T]> {
        Ok(self.0.as_mut_slice()?)
    }
}

/// Whether an operation failed for want of the GPU's memory.
pub fn is_out_of_memory(error: &anyhow::Error) -> bool {
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
