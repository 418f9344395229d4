//! A matrix that many tasks write at once, each to its own rows and columns.

#![expect(
    unsafe_code,
    reason = "shared between tasks that write to disjoint places"
)]

use std::{marker::PhantomData, ops::Range};

/// A row-major matrix `[rows, width]`, shared between tasks that write to disjoint places.
pub(super) struct OutputView<'a> {
    data: *mut f32,
    rows: usize,
    width: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for an exclusive borrow of plain floats; whoever takes a part promises that no
// other task takes it.
unsafe impl Sync for OutputView<'_> {}

impl<'a> OutputView<'a> {
    pub(super) fn new(data: &'a mut [f32], width: usize) -> Self {
        Self {
            rows: data.len() / width,
            width,
            data: data.as_mut_ptr(),
            lifetime: PhantomData,
        }
    }

    /// Some columns of one row.
    ///
    /// # Safety
    /// No part that overlaps may be in use, here or in another task.
    #[expect(
        clippy::mut_from_ref,
        reason = "that is its purpose; see the safety condition"
    )]
    pub(super) unsafe fn part(&self, row: usize, columns: Range<usize>) -> &mut [f32] {
        assert!(row < self.rows && columns.start <= columns.end && columns.end <= self.width);
        // SAFETY: within the matrix, as just asserted; alone in its place, as the caller promises.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.data.add(row * self.width + columns.start),
                columns.len(),
            )
        }
    }
}
