//! Micro-kernels: a small tile of a matrix product, kept in registers.
//!
//! All have one form, so that the loops around them are the same for every kind of number. Operands are panels of 32-bit
//! **words**; a word holds one f32, two bf16, two i16 or four 8-bit integers that are neighbours along the inner
//! dimension. One step multiplies a word of each row of the left panel with a word of each column of the right
//! panel and adds to the tile: `acc[i][j] += dot(lhs[step][i], rhs[step][j])`. Accumulators are f32, or i32 for integers.
//!
//! The tile's size is what fills the registers: of 16 vectors 12 accumulate and two hold the right panel, of 32, 24 and four. The more
//! columns, the fewer words of the left panel have to be copied to all lanes. Attention has narrower ones: its matrices have
//! 64 rows or columns here and the length of a sequence there, and what sticks out is wasted.

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
    /// How many neighbours along the inner dimension share a word.
    pub(in crate::ops) fn depth(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 | Self::Int16 => 2,
            Self::Int8 => 4,
        }
    }
}

type Run = unsafe fn(steps: usize, lhs: *const u32, rhs: *const u32, acc: *mut u32);

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
    /// How many steps a block has: as many as leave the block, as many steps of a left panel and the accumulators in 32 KiB, the
    /// smallest first-level cache there is.
    pub(in crate::ops) fn block_steps(&self, steps: usize) -> usize {
        const WORDS: usize = 6720;
        let most = WORDS / (self.rows + self.columns);
        steps.div_ceil(steps.div_ceil(most))
    }

    /// `acc [rows][columns] += lhs [steps][rows] · rhs [steps][columns]`.
    #[expect(
        unsafe_code,
        reason = "calls a function made for instructions that were detected"
    )]
    #[inline]
    pub(in crate::ops) fn run(&self, lhs: &[u32], rhs: &[u32], acc: &mut [u32]) {
        let steps = lhs.len() / self.rows;
        assert!(
            lhs.len() == steps * self.rows
                && rhs.len() == steps * self.columns
                && acc.len() == self.rows * self.columns
        );
        // SAFETY: a tile is handed out only where its instructions were detected, and the panels have the sizes that
        // the function reads and writes.
        unsafe { (self.run)(steps, lhs.as_ptr(), rhs.as_ptr(), acc.as_mut_ptr()) }
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
    static F32: LazyLock<&Tile> = LazyLock::new(|| first(&FLOAT));
    static BF16: LazyLock<&Tile> = LazyLock::new(|| first(&BFLOAT));
    static INT8: LazyLock<&Tile> = LazyLock::new(|| first(&INTEGER));
    match precision {
        Precision::F32 | Precision::F16 => &F32,
        Precision::Bf16 => &BF16,
        Precision::Int8 => &INT8,
    }
}

/// What attention multiplies with: it reads and writes f32, but between projections that round to bf16 or less it may do so too.
pub(in crate::ops) fn for_attention(precision: Precision) -> &'static Tile {
    static F32: LazyLock<&Tile> = LazyLock::new(|| first(&NARROW_FLOAT));
    static BF16: LazyLock<&Tile> = LazyLock::new(|| first(&NARROW_BFLOAT));
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
    let lists: [&[Candidate]; 5] = [&FLOAT, &BFLOAT, &INTEGER, &NARROW_FLOAT, &NARROW_BFLOAT];
    lists.into_iter().flat_map(available)
}

/// Whether this processor has the instructions, and the tile made of them.
type Candidate = (fn() -> bool, Tile);

const PORTABLE_F32: Candidate = (|| true, portable::F32);
const PORTABLE_INT16: Candidate = (|| true, portable::INT16);

#[cfg(target_arch = "x86_64")]
use self::x86::{
    BF16_AVX512, BF16_AVX512_NARROW, F32_AVX2, F32_AVX512, F32_AVX512_NARROW, INT8_AVX,
    INT8_AVX512, INT16_AVX2,
};

#[cfg(target_arch = "x86_64")]
static FLOAT: [Candidate; 3] = [F32_AVX512, F32_AVX2, PORTABLE_F32];
#[cfg(target_arch = "x86_64")]
static BFLOAT: [Candidate; 4] = [BF16_AVX512, F32_AVX512, F32_AVX2, PORTABLE_F32];
#[cfg(target_arch = "x86_64")]
static INTEGER: [Candidate; 4] = [INT8_AVX512, INT8_AVX, INT16_AVX2, PORTABLE_INT16];
#[cfg(target_arch = "x86_64")]
static NARROW_FLOAT: [Candidate; 3] = [F32_AVX512_NARROW, F32_AVX2, PORTABLE_F32];
#[cfg(target_arch = "x86_64")]
static NARROW_BFLOAT: [Candidate; 4] = [
    BF16_AVX512_NARROW,
    F32_AVX512_NARROW,
    F32_AVX2,
    PORTABLE_F32,
];

#[cfg(not(target_arch = "x86_64"))]
static FLOAT: [Candidate; 1] = [PORTABLE_F32];
#[cfg(not(target_arch = "x86_64"))]
static BFLOAT: [Candidate; 1] = [PORTABLE_F32];
#[cfg(not(target_arch = "x86_64"))]
static INTEGER: [Candidate; 1] = [PORTABLE_INT16];
#[cfg(not(target_arch = "x86_64"))]
static NARROW_FLOAT: [Candidate; 1] = [PORTABLE_F32];
#[cfg(not(target_arch = "x86_64"))]
static NARROW_BFLOAT: [Candidate; 1] = [PORTABLE_F32];

#[cfg(target_arch = "x86_64")]
mod x86;

mod portable {
    use super::{Numbers, Tile};

    const ROWS: usize = 4;
    const COLUMNS: usize = 16;

    pub(super) const F32: Tile = tile(Numbers::F32, run::<F32Words>, saturate::<F32Words>);
    pub(super) const INT16: Tile = tile(Numbers::Int16, run::<Int16Words>, saturate::<Int16Words>);

    const fn tile(numbers: Numbers, run: super::Run, saturate: unsafe fn(usize) -> u32) -> Tile {
        Tile {
            instructions: "portable",
            numbers,
            rows: ROWS,
            columns: COLUMNS,
            run,
            saturate,
            saturate_words: ROWS * COLUMNS,
        }
    }

    /// A multiply-add of words, written so that the compiler can make vectors of sixteen in a row.
    trait Dot {
        fn dot(sum: u32, a: u32, b: u32) -> u32;
    }

    struct F32Words;

    impl Dot for F32Words {
        fn dot(sum: u32, a: u32, b: u32) -> u32 {
            let (sum, a, b) = (f32::from_bits(sum), f32::from_bits(a), f32::from_bits(b));
            // Only where it is one instruction: elsewhere it would be a call.
            let fused = cfg!(any(target_feature = "fma", target_arch = "aarch64"));
            if fused {
                a.mul_add(b, sum)
            } else {
                a * b + sum
            }
            .to_bits()
        }
    }

    struct Int16Words;

    impl Dot for Int16Words {
        #[expect(clippy::cast_possible_truncation, reason = "halves of a word")]
        fn dot(sum: u32, a: u32, b: u32) -> u32 {
            let low = i32::from(a as i16) * i32::from(b as i16);
            let high = i32::from((a >> 16) as i16) * i32::from((b >> 16) as i16);
            sum.wrapping_add(low.wrapping_add(high).cast_unsigned())
        }
    }

    #[expect(
        unsafe_code,
        reason = "has the form of the kernels with vector instructions"
    )]
    unsafe fn run<D: Dot>(steps: usize, lhs: *const u32, rhs: *const u32, acc: *mut u32) {
        // SAFETY: `Tile::run` has checked these sizes, and nothing else overlaps the accumulators.
        let (lhs, rhs, acc) = unsafe {
            (
                std::slice::from_raw_parts(lhs, steps * ROWS),
                std::slice::from_raw_parts(rhs, steps * COLUMNS),
                std::slice::from_raw_parts_mut(acc, ROWS * COLUMNS),
            )
        };
        let (acc, _) = acc.as_chunks_mut::<COLUMNS>();
        let mut tile: [[u32; COLUMNS]; ROWS] = std::array::from_fn(|i| acc[i]);
        let (lhs, rhs) = (lhs.as_chunks::<ROWS>().0, rhs.as_chunks::<COLUMNS>().0);
        for (lhs, rhs) in lhs.iter().zip(rhs) {
            for (row, &a) in tile.iter_mut().zip(lhs) {
                for (sum, &b) in row.iter_mut().zip(rhs) {
                    *sum = D::dot(*sum, a, b);
                }
            }
        }
        acc.copy_from_slice(&tile);
    }

    #[expect(
        unsafe_code,
        reason = "has the form of the kernels with vector instructions"
    )]
    unsafe fn saturate<D: Dot>(rounds: usize) -> u32 {
        let mut tile = [[0x3f80_3f80u32; COLUMNS]; ROWS];
        let b = std::hint::black_box([0x3f80_3f80u32; COLUMNS]);
        for _ in 0..rounds {
            for row in &mut tile {
                for (sum, &b) in row.iter_mut().zip(&b) {
                    *sum = D::dot(*sum, *sum, b);
                }
            }
        }
        tile.as_flattened().iter().fold(0, |all, &sum| all ^ sum)
    }
}
