//! Rows, packed into the lanes that a tile reads.
//!
//! The numbers that share a lane are a whole row of lanes apart, not neighbours: lane `i` of a row
//! of `n` lanes holds the numbers `i`, `i + n`, … Which ones share a lane is of no consequence as
//! long as both sides agree, and this way lanes are made of whole vectors, without moving anything
//! between lanes. Numbers that are missing at the end are zero.

use pulp::{Simd, WithSimd};

use super::{
    int8::{self, QuantParams, Rotation},
    prefetch::prefetch,
    tile::LaneType,
};
use crate::ops::simd;

/// What rows are turned into before they meet the weights.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LhsFormat<'a> {
    pub(crate) lane_type: LaneType,
    /// Whether an f32 is rounded to bf16, for processors that cannot multiply bf16.
    pub(crate) rounded: bool,
    /// What rows vary around, where that is known; integers stand for the difference.
    pub(crate) mean_shift: &'a [f32],
}

impl From<LaneType> for LhsFormat<'_> {
    /// The format of rows that stay as they are, as far as lanes of this type allow it.
    fn from(lane_type: LaneType) -> Self {
        Self {
            lane_type,
            rounded: false,
            mean_shift: &[],
        }
    }
}

/// Packs rows, in memory of its own.
#[derive(Default)]
pub(crate) struct Packer {
    rotation: Rotation,
    lanes: Vec<u32>,
    params: Vec<QuantParams>,
}

impl Packer {
    /// Rows side by side, `across` to a panel: `[panel][step][row]`. What remains of the last panel
    /// is zero. Returns how each row was quantized.
    pub(crate) fn pack<'a>(
        &mut self,
        rows: impl ExactSizeIterator<Item = &'a [f32]> + Clone,
        format: LhsFormat<'_>,
        across: usize,
        out: &mut [u32],
    ) -> &[QuantParams] {
        simd::run(Pack {
            packer: self,
            rows,
            format,
            across,
            out,
        });
        &self.params
    }

    /// The lanes of one row alone, for what is not quantized.
    pub(super) fn pack_row(&mut self, row: &[f32], format: LhsFormat<'_>) -> Vec<u32> {
        let mut lanes = vec![0; row.len().div_ceil(format.lane_type.packing_factor())];
        self.pack([row].into_iter(), format, 1, &mut lanes);
        lanes
    }
}

/// Fills the lanes of one row and tells how its numbers were quantized, which matters for integers
/// only.
#[inline(always)]
fn fill_lanes<S: Simd>(
    rotation: &mut Rotation,
    simd: S,
    row: &[f32],
    format: LhsFormat<'_>,
    lanes: &mut [u32],
) -> QuantParams {
    match format.lane_type {
        LaneType::F32 if format.rounded => {
            for (lane, &x) in lanes.iter_mut().zip(row) {
                *lane = nearest_bf16(x);
            }
        }
        LaneType::F32 => {
            for (lane, x) in lanes.iter_mut().zip(row) {
                *lane = x.to_bits();
            }
        }
        LaneType::Bf16 => {
            let (low, high) = row.split_at(lanes.len());
            pair_bf16(low, high, lanes);
        }
        LaneType::Int8 | LaneType::Int16 => {
            let packing_factor = format.lane_type.packing_factor();
            let rotated =
                rotation.apply(simd, row, format.mean_shift, lanes.len() * packing_factor);
            return int8::quantize_row(rotated, packing_factor, lanes);
        }
    }
    QuantParams::default()
}

struct Pack<'a, 'b, R> {
    packer: &'a mut Packer,
    rows: R,
    format: LhsFormat<'b>,
    across: usize,
    out: &'a mut [u32],
}

impl<'c, R: ExactSizeIterator<Item = &'c [f32]> + Clone> WithSimd for Pack<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            packer,
            rows,
            format,
            across,
            out,
        } = self;
        packer.params.clear();
        let steps = out.len() / rows.len().next_multiple_of(across);
        let filled = rows.len() % across;
        if filled > 0 {
            let last = out.len() - steps * across;
            for step in out[last..].chunks_exact_mut(across) {
                step[filled..].fill(0);
            }
        }
        packer.lanes.resize(across * steps, 0);
        // Rows come from far away and are read here and there: each is asked for a panel ahead.
        let mut ahead = rows.clone().skip(across);
        let mut rows = rows;
        for panel in out.chunks_exact_mut(across * steps) {
            let mut filled = 0;
            for (lanes, row) in packer.lanes.chunks_exact_mut(steps).zip(rows.by_ref()) {
                prefetch(ahead.next());
                let params = fill_lanes(&mut packer.rotation, simd, row, format, lanes);
                packer.params.push(params);
                filled += 1;
            }
            let lanes = &packer.lanes[..filled * steps];
            // A number of rows that is known to the compiler makes it a few shuffles; the sizes are
            // those of the AVX-512 tiles.
            match filled {
                6 if across == 6 => interleave::<6>(lanes, panel),
                8 if across == 8 => interleave::<8>(lanes, panel),
                _ => {
                    for (i, lanes) in lanes.chunks_exact(steps).enumerate() {
                        for (step, &lane) in panel.chunks_exact_mut(across).zip(lanes) {
                            step[i] = lane;
                        }
                    }
                }
            }
        }
    }
}

/// Transposes a whole panel from `[row][step]` to `[step][row]`.
#[inline(always)]
fn interleave<const N: usize>(lanes: &[u32], panel: &mut [u32]) {
    let (panel, _) = panel.as_chunks_mut::<N>();
    let steps = panel.len();
    let rows: [&[u32]; N] = std::array::from_fn(|i| &lanes[i * steps..][..steps]);
    for step in 0..steps {
        for i in 0..N {
            panel[step][i] = rows[i][step];
        }
    }
}

/// The nearest bf16, ties to even, in the upper half of a lane.
#[inline(always)]
pub(crate) fn nearest_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
    // Rounding could carry a NaN's mantissa away.
    if x.is_nan() { 0x7fc0_0000 } else { rounded }
}

/// Numbers to bf16, two to a lane: `low` in the low halves and `high`, which may be shorter by one,
/// in the high ones.
#[inline(always)]
pub(crate) fn pair_bf16(low: &[f32], high: &[f32], lanes: &mut [u32]) {
    let (both, odd) = lanes.split_at_mut(high.len());
    for ((lane, &a), &b) in both.iter_mut().zip(low).zip(high) {
        *lane = nearest_bf16(a) >> 16 | nearest_bf16(b);
    }
    for (lane, &a) in odd.iter_mut().zip(&low[high.len()..]) {
        *lane = nearest_bf16(a) >> 16;
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn bf16_rounds_as_half_does() {
        let odd: Vec<f32> = (0..1001u32)
            .map(|i| f32::from_bits(i.wrapping_mul(0x9E37_79B9)))
            .chain([0.0, -0.0, f32::NAN, f32::INFINITY, f32::MAX])
            .collect();
        let mut packer = Packer::default();
        let rounded = LhsFormat {
            rounded: true,
            ..LaneType::F32.into()
        };
        let lanes = packer.pack_row(&odd, rounded);
        for (&lane, &x) in lanes.iter().zip(&odd) {
            let want = bf16::from_f32(x);
            assert!(
                lane == want.to_f32().to_bits() || want.is_nan() && f32::from_bits(lane).is_nan(),
                "{x:e}"
            );
        }
        let paired = packer.pack_row(&odd[..3], LaneType::Bf16.into());
        assert_eq!(paired, [lanes[0] >> 16 | lanes[2], lanes[1] >> 16]);
    }

    #[test]
    fn rows_stand_side_by_side_however_many() {
        let row = |row: u8| (0..7u8).map(move |i| f32::from(row * 7 + i)).collect();
        let rows: Vec<Vec<f32>> = (0..11).map(row).collect();
        for across in [1, 3, 4, 6, 8, 16] {
            let mut out = vec![u32::MAX; rows.len().next_multiple_of(across) * 7];
            let all = rows.iter().map(Vec::as_slice);
            Packer::default().pack(all, LaneType::F32.into(), across, &mut out);
            for (i, &lane) in out.iter().enumerate() {
                let (row, step) = (i / (7 * across) * across + i % across, i / across % 7);
                let want = rows.get(row).map_or(0, |row| row[step].to_bits());
                assert_eq!(lane, want, "{across} across, row {row}, step {step}");
            }
        }
    }
}
