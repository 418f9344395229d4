//! Memory that begins at a cache line, so that no vector load or store crosses one.

use std::ops::{Deref, DerefMut};

const LINE: usize = 64;

/// A slice whose first element lies at the beginning of a cache line.
#[derive(Default)]
pub(crate) struct Aligned<T> {
    data: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    pub(crate) fn zeroed(len: usize) -> Self {
        let data = vec![T::default(); len + LINE / size_of::<T>()];
        let start = data.as_ptr().align_offset(LINE);
        Self { data, start, len }
    }

    /// The first `len` elements, with whatever they held before; grown where there are fewer.
    pub(crate) fn scratch(&mut self, len: usize) -> &mut [T] {
        if self.len < len {
            *self = Self::zeroed(len);
        }
        &mut self[..len]
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.data[self.start..self.start + self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_at_a_cache_line_and_grows() {
        for len in [0, 1, 15, 16, 1000] {
            let words = Aligned::<u32>::zeroed(len);
            assert!(words.as_ptr().addr().is_multiple_of(LINE) && words.len() == len);
        }
        let mut halves = Aligned::<u16>::default();
        halves.scratch(5)[4] = 7;
        assert_eq!(halves.scratch(3).len(), 3);
        assert_eq!(halves.scratch(5)[4], 7);
        assert!(halves.scratch(100).as_ptr().addr().is_multiple_of(LINE));
    }
}
