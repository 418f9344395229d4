//! Asking for memory before it is needed.

/// Asks for the cache lines of a slice. A hint: nothing is read or changed.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "the instruction takes a pointer")]
pub(super) fn prefetch<T>(slice: Option<&[T]>) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    const LINE: usize = 64;
    let per_line = (LINE / size_of::<T>()).max(1);
    for line in slice.unwrap_or_default().chunks(per_line) {
        // SAFETY: part of SSE, which every x86-64 has; it cannot fault, and the pointer is into a
        // slice besides.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) }
    }
}

/// Stable Rust has no such instruction for this processor; it does without.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn prefetch<T>(_: Option<&[T]>) {}
