//! Weights packed as the micro-kernels read them.

use std::ops::Range;

use half::f16;
use pulp::{Simd, WithSimd};

use super::{
    int8::{self, Rotation},
    kernels,
    pack::{LhsFormat, Packer},
    tile::{LaneType, Tile},
};
use crate::ops::{aligned::Aligned, precision::Precision, simd};

/// A projection's weights in panels of NR outputs, `[block][panel][step][column]`, and its bias.
pub(crate) struct PackedWeights {
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(super) tile: &'static Tile,
    /// Whether rows must be rounded to bf16 before they meet these weights.
    rounded: bool,
    pub(super) layout: Layout,
    /// Followed by zeros for outputs that fill up the last panel.
    pub(super) bias: Vec<f32>,
    /// What the inputs vary around, if it is known and of use. Its product with the weights is in
    /// the bias already.
    mean_shift: Vec<f32>,
    /// How numbers are got back from sums of integers, where they are.
    pub(super) quantized: Option<QuantizedOutputs>,
    storage: Storage,
}

/// The scale of each output, and the sum of its integers; zero for those that fill up the last
/// panel.
#[derive(Default)]
pub(super) struct QuantizedOutputs {
    pub(super) scales: Vec<f32>,
    pub(super) sums: Vec<i32>,
    rotation: Rotation,
}

/// Lanes as they are, or something of half the size that is widened whenever a block is used.
enum Storage {
    Lanes(Aligned<u32>),
    Halves(Aligned<u16>, fn(&[u16], &mut [u32])),
}

impl PackedWeights {
    /// Packs `weight [outputs, inputs]`, as checkpoints have it, for the best tile of this
    /// processor, with `bias [outputs]`. `mean_shift [inputs]` is what inputs vary around, the
    /// shift of the layer norm before it, say; empty if that is not known. It helps quantization
    /// and changes nothing else.
    pub(crate) fn new(
        weight: &[f32],
        mut bias: Vec<f32>,
        mean_shift: &[f32],
        precision: Precision,
    ) -> Self {
        let inputs = weight.len() / bias.len();
        let useful = precision == Precision::Int8 && !mean_shift.is_empty();
        if useful {
            for (bias, weight) in bias.iter_mut().zip(weight.chunks_exact(inputs)) {
                let shifts = weight.iter().zip(mean_shift).map(|(w, m)| w * m);
                *bias += shifts.sum::<f32>();
            }
        }
        let tile = kernels::best(precision);
        let mut packed = Self::for_tile(weight, bias, precision, tile);
        if useful {
            packed.mean_shift = mean_shift.to_vec();
        }
        packed
    }

    pub(crate) fn for_tile(
        weight: &[f32],
        mut bias: Vec<f32>,
        precision: Precision,
        tile: &'static Tile,
    ) -> Self {
        let (outputs, inputs) = (bias.len(), weight.len() / bias.len());
        let layout = Layout {
            k: inputs.div_ceil(tile.lane_type.packing_factor()),
            nr: tile.nr,
            panels: outputs.div_ceil(tile.nr),
        };
        bias.resize(layout.panels * layout.nr, 0.0);
        let rows = weight.chunks_exact(inputs);
        let (storage, quantized) = match precision {
            Precision::Int8 => pack_integers(rows, &layout, tile.lane_type),
            _ => (pack_floats(rows, &layout, precision, tile.lane_type), None),
        };
        Self {
            inputs,
            outputs,
            tile,
            rounded: precision == Precision::Bf16,
            layout,
            bias,
            mean_shift: Vec::new(),
            quantized,
            storage,
        }
    }

    /// What rows must be turned into before they meet these weights.
    pub(super) fn lhs_format(&self) -> LhsFormat<'_> {
        LhsFormat {
            lane_type: self.tile.lane_type,
            rounded: self.rounded,
            mean_shift: &self.mean_shift,
        }
    }

    /// The lanes of one block of one panel, `[step][column]`, widened into `scratch` where need be.
    pub(super) fn block<'a>(
        &'a self,
        steps: &Range<usize>,
        panel: usize,
        scratch: &'a mut Aligned<u32>,
    ) -> &'a [u32] {
        let place = self.layout.place(steps, panel);
        match &self.storage {
            Storage::Lanes(lanes) => &lanes[place],
            Storage::Halves(halves, widen) => {
                let scratch = scratch.scratch(place.len());
                widen(&halves[place], scratch);
                scratch
            }
        }
    }
}

fn pack_floats<'a>(
    rows: impl Iterator<Item = &'a [f32]>,
    layout: &Layout,
    precision: Precision,
    lane_type: LaneType,
) -> Storage {
    let mut packer = Packer::default();
    let mut lanes = |row: &[f32], rounded| {
        let format = LhsFormat {
            rounded,
            ..lane_type.into()
        };
        packer.pack_row(row, format)
    };
    match precision {
        Precision::F16 => {
            let halves = |row: &[f32]| row.iter().map(|&x| f16::from_f32(x).to_bits()).collect();
            Storage::Halves(layout.fill(rows.map(halves)), widen_f16)
        }
        Precision::Bf16 if lane_type == LaneType::F32 => {
            let upper = |lane: &u32| (lane >> 16) as u16;
            let halves = rows.map(|row| lanes(row, true).iter().map(upper).collect());
            Storage::Halves(layout.fill(halves), widen_bf16)
        }
        _ => Storage::Lanes(layout.fill(rows.map(|row| lanes(row, false)))),
    }
}

fn pack_integers<'a>(
    rows: impl Iterator<Item = &'a [f32]>,
    layout: &Layout,
    lane_type: LaneType,
) -> (Storage, Option<QuantizedOutputs>) {
    let mut quantized = QuantizedOutputs::default();
    let mut integers = |row| {
        simd::run(QuantizeWeights {
            quantized: &mut quantized,
            weights: row,
        })
    };
    let storage = if lane_type == LaneType::Int8 {
        Storage::Lanes(layout.fill(rows.map(|row| join(&integers(row), 4).collect())))
    } else {
        #[expect(clippy::cast_possible_truncation, reason = "two bytes to a lane")]
        let half = |lane| lane as u16;
        let halves = rows.map(|row| join(&integers(row), 2).map(half).collect());
        Storage::Halves(layout.fill(halves), widen_int8)
    };
    quantized.scales.resize(layout.panels * layout.nr, 0.0);
    quantized.sums.resize(layout.panels * layout.nr, 0);
    (storage, Some(quantized))
}

struct QuantizeWeights<'a> {
    quantized: &'a mut QuantizedOutputs,
    weights: &'a [f32],
}

impl WithSimd for QuantizeWeights<'_> {
    type Output = Vec<i8>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<i8> {
        let QuantizedOutputs {
            scales,
            sums,
            rotation,
        } = self.quantized;
        let width = self.weights.len();
        let mut integers = vec![0; width];
        let rotated = rotation.apply(simd, self.weights, &[], width);
        let scale = int8::quantize_weights(rotated, &mut integers);
        // Both sides of the product are rotated without the factor that keeps lengths: it is made
        // good here.
        scales.push(scale / int8::mixed(width) as f32);
        sums.push(integers.iter().map(|&i| i32::from(i)).sum());
        integers
    }
}

/// The order of lanes in the storage of [`PackedWeights`].
pub(super) struct Layout {
    /// Lanes along the inner dimension.
    pub(super) k: usize,
    nr: usize,
    pub(super) panels: usize,
}

impl Layout {
    /// The steps of each block, in order.
    pub(super) fn blocks(&self) -> impl ExactSizeIterator<Item = Range<usize>> + Clone + use<> {
        let (kc, k) = (Tile::kc(self.k), self.k);
        let starts = (0..k).step_by(kc);
        starts.map(move |start| start..(start + kc).min(k))
    }

    /// The place of the block of these steps in the storage.
    fn place(&self, steps: &Range<usize>, panel: usize) -> Range<usize> {
        let len = steps.len() * self.nr;
        let start = steps.start * self.panels * self.nr + panel * len;
        start..start + len
    }

    /// Puts the lanes of each output in their places. Outputs that fill up the last panel are zero.
    fn fill<T: Copy + Default>(&self, outputs: impl Iterator<Item = Vec<T>>) -> Aligned<T> {
        let mut all = Aligned::zeroed(self.panels * self.nr * self.k);
        for (output, lanes) in outputs.enumerate() {
            let (panel, column) = (output / self.nr, output % self.nr);
            for steps in self.blocks() {
                let block = &mut all[self.place(&steps, panel)];
                let places = block[column..].iter_mut().step_by(self.nr);
                for (place, &lane) in places.zip(&lanes[steps]) {
                    *place = lane;
                }
            }
        }
        all
    }
}

/// So many bytes to a lane, in its low end; [`pack`](super::pack) says which ones share a lane.
fn join(bytes: &[i8], packing_factor: usize) -> impl Iterator<Item = u32> {
    let steps = bytes.len().div_ceil(packing_factor);
    let byte = move |i: usize| {
        bytes
            .get(i)
            .map_or(0, |byte| u32::from(byte.cast_unsigned()))
    };
    (0..steps).map(move |step| {
        (0..packing_factor).fold(0, |lane, part| {
            lane | byte(step + part * steps) << (8 * part)
        })
    })
}

/// bf16 is the upper half of an f32.
fn widen_bf16(halves: &[u16], lanes: &mut [u32]) {
    simd::vectorize(
        #[inline(always)]
        move || {
            for (lane, &half) in lanes.iter_mut().zip(halves) {
                *lane = u32::from(half) << 16;
            }
        },
    );
}

/// f16, finite ([`f16::MAX`] is checked at load): exponent and mantissa are moved to their places
/// in an f32, whose exponent is then too small by 112.
fn widen_f16(halves: &[u16], lanes: &mut [u32]) {
    const TWO_TO_112: f32 = f32::from_bits((127 + 112) << 23);
    simd::vectorize(
        #[inline(always)]
        move || {
            for (lane, &half) in lanes.iter_mut().zip(halves) {
                let half = u32::from(half);
                let magnitude = f32::from_bits((half & 0x7fff) << 13) * TWO_TO_112;
                *lane = magnitude.to_bits() | (half & 0x8000) << 16;
            }
        },
    );
}

/// Two signed bytes to two signed halves of a lane.
fn widen_int8(pairs: &[u16], lanes: &mut [u32]) {
    simd::vectorize(
        #[inline(always)]
        move || {
            for (lane, &pair) in lanes.iter_mut().zip(pairs) {
                let pair = u32::from(pair).cast_signed();
                let (low, high) = (pair << 24 >> 24, pair << 16 >> 24);
                *lane = (low & 0xffff | high << 16).cast_unsigned();
            }
        },
    );
}
