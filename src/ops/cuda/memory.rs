//! A GPU's memory and the order of its work: one stream, to which everything goes.

use std::sync::Arc;

use anyhow::Result;
use cudarc::driver::{CudaContext, CudaStream, DeviceRepr, ValidAsZeroBits, sys};
pub(crate) use cudarc::driver::{
    CudaEvent as Event, CudaSlice as Buffer, CudaView as View, CudaViewMut as ViewMut,
    PinnedHostSlice as Pinned,
};

/// A stream of copies and launches, done in their order. Nothing waits but what says so.
pub(crate) struct Stream {
    pub(super) context: Arc<CudaContext>,
    pub(super) stream: Arc<CudaStream>,
}

impl Stream {
    pub(super) fn new(context: Arc<CudaContext>) -> Result<Self> {
        // SAFETY: everything is on one stream, which orders it; there is nothing that events would
        // have to order.
        unsafe { context.disable_event_tracking() };
        Ok(Self {
            stream: context.new_stream()?,
            context,
        })
    }

    /// Bytes of the GPU's memory that are free now.
    pub(crate) fn free_memory(&self) -> Result<usize> {
        Ok(self.context.mem_get_info()?.0)
    }

    /// Memory for so many numbers, holding anything.
    ///
    /// # Errors
    /// [`is_out_of_memory`](super::is_out_of_memory) tells whether there is too little.
    pub(crate) fn alloc<T: DeviceRepr + ValidAsZeroBits>(&self, count: usize) -> Result<Buffer<T>> {
        // SAFETY: a number may hold any bits, and all that is read of a buffer is what the same
        // batch wrote.
        Ok(unsafe { self.stream.alloc(count) }?)
    }

    /// Numbers copied to the GPU.
    pub(crate) fn upload<T: DeviceRepr>(&self, numbers: &[T]) -> Result<Buffer<T>> {
        Ok(self.stream.clone_htod(numbers)?)
    }

    /// Copies into memory that is there.
    pub(crate) fn write<T: DeviceRepr>(
        &self,
        numbers: &[T],
        to: &mut ViewMut<'_, T>,
    ) -> Result<()> {
        Ok(self.stream.memcpy_htod(numbers, to)?)
    }

    /// Copies from the GPU's memory to its memory.
    pub(crate) fn copy<T: DeviceRepr>(&self, from: &Buffer<T>, to: &mut Buffer<T>) -> Result<()> {
        Ok(self.stream.memcpy_dtod(from, to)?)
    }

    /// Memory of the host that the GPU reads and writes by itself, which is faster. Looking at it
    /// waits for copies that are under way.
    pub(crate) fn pinned<T: DeviceRepr + ValidAsZeroBits>(
        &self,
        count: usize,
    ) -> Result<Pinned<T>> {
        // SAFETY: `T` may hold any bits.
        Ok(unsafe { self.context.alloc_pinned_with_flags(count, 0) }?)
    }

    /// Copies the first numbers of pinned memory to the GPU, without waiting.
    pub(crate) fn write_pinned<T: DeviceRepr + ValidAsZeroBits>(
        &self,
        from: &Pinned<T>,
        count: usize,
        to: &mut Buffer<T>,
    ) -> Result<()> {
        Ok(self.stream.memcpy_htod(&from.as_slice()?[..count], to)?)
    }

    /// Copies numbers back to the start of pinned memory, and waits until all work is done.
    pub(crate) fn read<T: DeviceRepr + ValidAsZeroBits>(
        &self,
        from: &View<'_, T>,
        to: &mut Pinned<T>,
    ) -> Result<()> {
        let count = from.len();
        self.stream
            .memcpy_dtoh(from, &mut to.as_mut_slice()?[..count])?;
        Ok(self.stream.synchronize()?)
    }

    /// Copies numbers back, and waits until all work is done.
    pub(crate) fn download<T: DeviceRepr>(&self, from: &Buffer<T>) -> Result<Vec<T>> {
        let numbers = self.stream.clone_dtoh(from)?;
        self.stream.synchronize()?;
        Ok(numbers)
    }

    /// Records an event, for [`seconds_between`].
    pub(crate) fn record_event(&self) -> Result<Event> {
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT;
        Ok(self.stream.record_event(Some(flags))?)
    }

    /// Waits until all work is done.
    pub(crate) fn wait(&self) -> Result<()> {
        Ok(self.stream.synchronize()?)
    }
}

/// Waits for the second event and tells how long after the first it came, on the GPU's clock.
pub(crate) fn seconds_between(first: &Event, second: &Event) -> Result<f64> {
    second.synchronize()?;
    Ok(f64::from(first.elapsed_ms(second)?) * 1e-3)
}
