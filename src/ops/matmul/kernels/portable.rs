//! Tiles in plain Rust, for any processor.

#![expect(
    unsafe_code,
    reason = "has the form of the kernels with vector instructions"
)]

use crate::ops::matmul::tile::{Candidate, LaneType, Tile};

const MR: usize = 4;
const NR: usize = 16;

pub(super) static TILES: &[Candidate] = &[
    (|| true, tile::<F32Lanes>(LaneType::F32)),
    (|| true, tile::<Int16Lanes>(LaneType::Int16)),
];

const fn tile<D: Dot>(lane_type: LaneType) -> Tile {
    Tile {
        instructions: "portable",
        lane_type,
        mr: MR,
        nr: NR,
        run: run::<D>,
        peak_flops_probe: peak_flops_probe::<D>,
        probe_lanes: MR * NR,
    }
}

/// A multiply-add of lanes, written so that the compiler can make vectors of sixteen in a row.
trait Dot {
    fn dot(sum: u32, a: u32, b: u32) -> u32;
}

struct F32Lanes;

impl Dot for F32Lanes {
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

struct Int16Lanes;

impl Dot for Int16Lanes {
    #[expect(clippy::cast_possible_truncation, reason = "halves of a lane")]
    fn dot(sum: u32, a: u32, b: u32) -> u32 {
        let low = i32::from(a as i16) * i32::from(b as i16);
        let high = i32::from((a >> 16) as i16) * i32::from((b >> 16) as i16);
        sum.wrapping_add(low.wrapping_add(high).cast_unsigned())
    }
}

unsafe fn run<D: Dot>(
    kc: usize,
    (lhs, lhs_step): (*const u32, usize),
    rhs: *const u32,
    acc: *mut u32,
    resume: bool,
) {
    let lhs_len = kc.saturating_sub(1) * lhs_step + MR;
    // SAFETY: `Tile::run` has checked these sizes, and nothing else overlaps the accumulators.
    let (lhs, rhs, acc) = unsafe {
        (
            std::slice::from_raw_parts(lhs, lhs_len),
            std::slice::from_raw_parts(rhs, kc * NR),
            std::slice::from_raw_parts_mut(acc, MR * NR),
        )
    };
    let (acc, _) = acc.as_chunks_mut::<NR>();
    let mut tile = [[0; NR]; MR];
    if resume {
        tile.copy_from_slice(acc);
    }
    for (lhs, rhs) in lhs.chunks(lhs_step).zip(rhs.as_chunks::<NR>().0) {
        for (row, &a) in tile.iter_mut().zip(lhs) {
            for (sum, &b) in row.iter_mut().zip(rhs) {
                *sum = D::dot(*sum, a, b);
            }
        }
    }
    acc.copy_from_slice(&tile);
}

unsafe fn peak_flops_probe<D: Dot>(rounds: usize) -> u32 {
    let mut tile = [[0x3f80_3f80u32; NR]; MR];
    let b = std::hint::black_box([0x3f80_3f80u32; NR]);
    for _ in 0..rounds {
        for row in &mut tile {
            for (sum, &b) in row.iter_mut().zip(&b) {
                *sum = D::dot(*sum, *sum, b);
            }
        }
    }
    tile.as_flattened().iter().fold(0, |all, &sum| all ^ sum)
}
