//! Micro-kernels: a small tile of a matrix product, kept in registers.
//!
//! All have one form, so that the loops around them are the same for every kind of number. Operands are panels of 32-bit
//! **words**; a word holds one f32, two bf16, two i16 or four 8-bit integers of the inner
//! dimension ([`rows`](super::rows) says which). One step multiplies a word of each row of the left panel with a word of each column of the right
//! panel and adds to the tile: `acc[i][j] += dot(lhs[step][i], rhs[step][j])`. Accumulators are f32, or i32 for integers.
//!
//! The tile's size is what fills the registers: of 16 vectors 12 accumulate and two hold the right panel, of 32, 24 and four. The more
//! columns, the fewer words of the left panel have to be copied to all lanes. Attention has narrower ones: its matrices have
//! 64 rows or columns here and the length of a sequence there, and what sticks out is wasted.

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::LazyLock;

use crate::ops::Precision;

/// What a word holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) enum Numbers {
    /// One f32.
    F32,
    /// Two bf16, added up in f32.
    Bf16,
    /// Four integers, the left ones without sign, added up exactly in i32.
    Int8,
    /// Two integers of 16 bits, added up exactly in i32: what 8-bit ones are widened to without VNNI.
    Int16,
}

impl Numbers {
    /// How many numbers of the inner dimension share a word.
    pub(in crate::ops) fn depth(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 | Self::Int16 => 2,
            Self::Int8 => 4,
        }
    }
}

/// Of the left operand also how many words a step lies behind the one before.
type Run =
    unsafe fn(steps: usize, lhs: (*const u32, usize), rhs: *const u32, acc: *mut u32, resume: bool);

/// A micro-kernel and the shape of its tile.
#[derive(Debug)]
pub(in crate::ops) struct Tile {
    /// The instructions it needs, as logs and reports call them.
    pub(in crate::ops) instructions: &'static str,
    pub(in crate::ops) numbers: Numbers,
    pub(in crate::ops) rows: usize,
    pub(in crate::ops) columns: usize,
    run: Run,
    saturate: unsafe fn(rounds: usize) -> u32,
    /// Multiply-adds of one round of `saturate`.
    saturate_words: usize,
}

impl Tile {
    /// How many steps a block has: at most so many that a right panel of 64 columns takes a quarter of a second-level cache of 1 MiB.
    pub(in crate::ops) fn block_steps(steps: usize) -> usize {
        const MOST: usize = 1024;
        steps.div_ceil(steps.div_ceil(MOST))
    }

    /// `acc [rows][columns] = lhs [steps][rows] · rhs [steps][columns]`, or `+=` to resume what was begun with earlier steps. Each step
    /// of the left operand begins `lhs_step` words after the one before.
    #[expect(
        unsafe_code,
        reason = "calls a function made for instructions that were detected"
    )]
    #[inline]
    pub(in crate::ops) fn run(
        &self,
        (lhs, lhs_step): (&[u32], usize),
        rhs: &[u32],
        acc: &mut [u32],
        resume: bool,
    ) {
        let steps = rhs.len() / self.columns;
        assert!(
            steps > 0
                && rhs.len() == steps * self.columns
                && lhs_step >= self.rows
                && lhs.len() >= (steps - 1) * lhs_step + self.rows
                && acc.len() == self.rows * self.columns
        );
        let (lhs, rhs, acc) = ((lhs.as_ptr(), lhs_step), rhs.as_ptr(), acc.as_mut_ptr());
        // SAFETY: a tile is handed out only where its instructions were detected, and the panels have the sizes that
        // the function reads and writes.
        unsafe { (self.run)(steps, lhs, rhs, acc, resume) }
    }

    /// Multiplies and adds registers only, as fast as the processor can, and returns the number of operations (a
    /// multiplication and an addition are two). What a product could reach if memory cost nothing.
    #[expect(
        unsafe_code,
        reason = "calls a function made for instructions that were detected"
    )]
    pub(in crate::ops) fn saturate(&self, rounds: usize) -> usize {
        // SAFETY: a tile is handed out only where its instructions were detected; nothing else is asked for.
        std::hint::black_box(unsafe { (self.saturate)(rounds) });
        rounds * self.saturate_words * self.numbers.depth() * 2
    }
}

/// The fastest tile of this processor for weights of this precision.
pub(in crate::ops) fn best(precision: Precision) -> &'static Tile {
    static F32: LazyLock<&Tile> = LazyLock::new(|| first(FLOAT));
    static BF16: LazyLock<&Tile> = LazyLock::new(|| first(BFLOAT));
    static INT8: LazyLock<&Tile> = LazyLock::new(|| first(INTEGER));
    match precision {
        Precision::F32 | Precision::F16 => &F32,
        Precision::Bf16 => &BF16,
        Precision::Int8 => &INT8,
    }
}

/// What attention multiplies with: it reads and writes f32, but between projections that round to bf16 or less it may do so too.
pub(in crate::ops) fn for_attention(precision: Precision) -> &'static Tile {
    static F32: LazyLock<&Tile> = LazyLock::new(|| first(NARROW_FLOAT));
    static BF16: LazyLock<&Tile> = LazyLock::new(|| first(NARROW_BFLOAT));
    match precision {
        Precision::F32 | Precision::F16 => &F32,
        Precision::Bf16 | Precision::Int8 => &BF16,
    }
}

fn first(candidates: &'static [Candidate]) -> &'static Tile {
    let mut available = available(candidates);
    available.next().expect("the last one is portable")
}

/// Those that this processor can run, best first.
fn available(candidates: &'static [Candidate]) -> impl Iterator<Item = &'static Tile> {
    let available = candidates.iter().filter(|(is_there, _)| is_there());
    available.map(|(_, tile)| tile)
}

/// All tiles that this processor can run, for tests.
#[cfg(test)]
pub(in crate::ops) fn all() -> impl Iterator<Item = &'static Tile> {
    let lists = [FLOAT, BFLOAT, INTEGER, NARROW_FLOAT, NARROW_BFLOAT];
    lists.into_iter().flat_map(available)
}

/// Whether this processor has the instructions, and the tile made of them.
type Candidate = (fn() -> bool, Tile);

static FLOAT: &[Candidate] = &[
    #[cfg(target_arch = "x86_64")]
    x86::F32_AVX512,
    #[cfg(target_arch = "x86_64")]
    x86::F32_AVX2,
    portable::F32,
];

static BFLOAT: &[Candidate] = &[
    #[cfg(target_arch = "x86_64")]
    x86::BF16_AVX512,
    #[cfg(target_arch = "x86_64")]
    x86::F32_AVX512,
    #[cfg(target_arch = "x86_64")]
    x86::F32_AVX2,
    portable::F32,
];

static INTEGER: &[Candidate] = &[
    #[cfg(target_arch = "x86_64")]
    x86::INT8_AVX512,
    #[cfg(target_arch = "x86_64")]
    x86::INT8_AVX,
    #[cfg(target_arch = "x86_64")]
    x86::INT16_AVX2,
    portable::INT16,
];

static NARROW_FLOAT: &[Candidate] = &[
    #[cfg(target_arch = "x86_64")]
    x86::F32_AVX512_NARROW,
    #[cfg(target_arch = "x86_64")]
    x86::F32_AVX2,
    portable::F32,
];

static NARROW_BFLOAT: &[Candidate] = &[
    #[cfg(target_arch = "x86_64")]
    x86::BF16_AVX512_NARROW,
    #[cfg(target_arch = "x86_64")]
    x86::F32_AVX512_NARROW,
    #[cfg(target_arch = "x86_64")]
    x86::F32_AVX2,
    portable::F32,
];
