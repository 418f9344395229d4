//! The micro-kernels that there are, and which of them this processor runs.

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::LazyLock;

use super::tile::{Candidate, Tile};
use crate::ops::precision::Precision;

/// The fastest tile of this processor for weights of this precision.
pub(crate) fn best(precision: Precision) -> &'static Tile {
    static F32: LazyLock<&Tile> = LazyLock::new(|| first(FLOAT));
    static BF16: LazyLock<&Tile> = LazyLock::new(|| first(BFLOAT));
    static INT8: LazyLock<&Tile> = LazyLock::new(|| first(INTEGER));
    match precision {
        Precision::F32 | Precision::F16 => &F32,
        Precision::Bf16 => &BF16,
        Precision::Int8 => &INT8,
    }
}

/// What attention multiplies with: it reads and writes f32, but between projections that round to
/// bf16 or less it may do so too.
pub(crate) fn for_attention(precision: Precision) -> &'static Tile {
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

/// The candidates that this processor can run, best first.
fn available(candidates: &'static [Candidate]) -> impl Iterator<Item = &'static Tile> {
    let available = candidates.iter().filter(|(is_there, _)| is_there());
    available.map(|(_, tile)| tile)
}

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

/// All tiles that this processor can run, for tests.
#[cfg(test)]
pub(crate) fn all() -> impl Iterator<Item = &'static Tile> {
    let lists = [FLOAT, BFLOAT, INTEGER, NARROW_FLOAT, NARROW_BFLOAT];
    lists.into_iter().flat_map(available)
}
