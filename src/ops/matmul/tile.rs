//! A micro-kernel: a small tile of a matrix product, kept in registers.
//!
//! All micro-kernels have one form, so that the loops around them are the same for every kind of
//! number. Operands are panels of 32-bit **lanes**; a lane holds one f32, two bf16, two i16 or four
//! 8-bit integers of the inner dimension ([`pack`](super::pack) says which). One step multiplies a
//! lane of each row of the left panel with a lane of each column of the right panel and adds to the
//! tile: `acc[i][j] += dot(lhs[step][i], rhs[step][j])`. Accumulators are f32, or i32 for integers.
//!
//! The tile's size, MR x NR, is what fills the registers: of 16 vectors 12 accumulate and two hold
//! the right panel, of 32, 24 and four. The more columns, the fewer lanes of the left panel have to
//! be broadcast. Attention has narrower ones: its matrices have 64 rows or columns here and the
//! length of a sequence there, and what sticks out is wasted.

#![expect(
    unsafe_code,
    reason = "calls functions made for instructions that were detected"
)]

/// What a lane holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LaneType {
    /// One f32.
    F32,
    /// Two bf16, added up in f32.
    Bf16,
    /// Four integers, the left ones without sign, added up exactly in i32.
    Int8,
    /// Two integers of 16 bits, added up exactly in i32: what 8-bit ones are widened to where there
    /// is no VNNI.
    Int16,
}

impl LaneType {
    /// How many numbers of the inner dimension share a lane.
    pub(crate) fn packing_factor(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 | Self::Int16 => 2,
            Self::Int8 => 4,
        }
    }
}

/// A micro-kernel and the shape of its tile.
#[derive(Debug)]
pub(crate) struct Tile {
    /// The instructions it needs, as logs and reports call them.
    pub(crate) instructions: &'static str,
    pub(crate) lane_type: LaneType,
    /// Rows.
    pub(crate) mr: usize,
    /// Columns.
    pub(crate) nr: usize,
    /// `kc` steps; `lhs` is a pointer and the stride between steps in lanes.
    pub(super) run: unsafe fn(
        kc: usize,
        lhs: (*const u32, usize),
        rhs: *const u32,
        acc: *mut u32,
        resume: bool,
    ),
    pub(super) peak_flops_probe: unsafe fn(rounds: usize) -> u32,
    /// Multiply-adds of lanes in one round of `peak_flops_probe`.
    pub(super) probe_lanes: usize,
}

impl Tile {
    /// KC, the steps of a block, where the inner dimension has `k` lanes: at most so many that a
    /// right panel of 64 columns takes a quarter of a second-level cache of 1 MiB.
    pub(super) fn kc(k: usize) -> usize {
        const MOST: usize = 1024;
        k.div_ceil(k.div_ceil(MOST))
    }

    /// `acc [mr][nr] = lhs [kc][mr] · rhs [kc][nr]`, or `+=` to resume what was begun with earlier
    /// steps. Each step of the left operand begins `lhs_step` lanes after the one before.
    #[inline]
    pub(crate) fn run(
        &self,
        (lhs, lhs_step): (&[u32], usize),
        rhs: &[u32],
        acc: &mut [u32],
        resume: bool,
    ) {
        let kc = rhs.len() / self.nr;
        assert!(
            kc > 0
                && rhs.len() == kc * self.nr
                && lhs_step >= self.mr
                && lhs.len() >= (kc - 1) * lhs_step + self.mr
                && acc.len() == self.mr * self.nr
        );
        let (lhs, rhs, acc) = ((lhs.as_ptr(), lhs_step), rhs.as_ptr(), acc.as_mut_ptr());
        // SAFETY: a tile is handed out only where its instructions were detected, and the panels
        // have the sizes that the function reads and writes.
        unsafe { (self.run)(kc, lhs, rhs, acc, resume) }
    }

    /// Multiplies and adds registers only, as fast as the processor can, and returns the number of
    /// operations (a multiplication and an addition are two): what a product could reach if memory
    /// cost nothing.
    pub(crate) fn peak_flops_probe(&self, rounds: usize) -> usize {
        // SAFETY: a tile is handed out only where its instructions were detected; nothing else is
        // asked for.
        std::hint::black_box(unsafe { (self.peak_flops_probe)(rounds) });
        rounds * self.probe_lanes * self.lane_type.packing_factor() * 2
    }
}

/// Whether this processor has the instructions, and the tile made of them.
pub(super) type Candidate = (fn() -> bool, Tile);
