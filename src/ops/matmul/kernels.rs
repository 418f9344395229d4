//! The micro-kernels that there are, and which of them this processor runs.

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::LazyLock;

use super::tile::{LaneType, Tile};
use crate::ops::precision::Precision;

/// The lanes that weights of a precision may be multiplied in.
const FLOAT: &[LaneType] = &[LaneType::F32];
const BFLOAT: &[LaneType] = &[LaneType::Bf16, LaneType::F32];
const INTEGER: &[LaneType] = &[LaneType::Int8, LaneType::Int16];

/// Attention wastes what sticks out of a wider tile.
const NARROW: usize = 32;

/// The fastest tile of this processor for weights of this precision.
pub(crate) fn best(precision: Precision) -> &'static Tile {
    static F32: LazyLock<&Tile> = LazyLock::new(|| first(FLOAT, usize::MAX));
    static BF16: LazyLock<&Tile> = LazyLock::new(|| first(BFLOAT, usize::MAX));
    static INT8: LazyLock<&Tile> = LazyLock::new(|| first(INTEGER, usize::MAX));
    match precision {
        Precision::F32 | Precision::F16 => &F32,
        Precision::Bf16 => &BF16,
        Precision::Int8 => &INT8,
    }
}

/// The tile that attention multiplies with. Attention reads and writes f32, but between projections
/// that round to bf16 or less it may round to bf16 too.
pub(crate) fn for_attention(precision: Precision) -> &'static Tile {
    static F32: LazyLock<&Tile> = LazyLock::new(|| first(FLOAT, NARROW));
    static BF16: LazyLock<&Tile> = LazyLock::new(|| first(BFLOAT, NARROW));
    match precision {
        Precision::F32 | Precision::F16 => &F32,
        Precision::Bf16 | Precision::Int8 => &BF16,
    }
}

fn first(lane_types: &[LaneType], most_columns: usize) -> &'static Tile {
    let mut fitting =
        all().filter(|tile| lane_types.contains(&tile.lane_type) && tile.nr <= most_columns);
    fitting.next().expect("there are portable tiles")
}

/// All tiles that this processor can run. Of those that can do the same, the best comes first.
pub(crate) fn all() -> impl Iterator<Item = &'static Tile> {
    #[cfg(target_arch = "x86_64")]
    let tiles = x86::TILES.iter().chain(portable::TILES);
    #[cfg(not(target_arch = "x86_64"))]
    let tiles = portable::TILES.iter();
    tiles.filter_map(|(is_there, tile)| is_there().then_some(tile))
}
