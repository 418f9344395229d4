//! Tiles for x86-64: AVX2, AVX-512, VNNI and BF16.

#![expect(unsafe_code, reason = "vector instructions work on pointers")]

#[allow(
    clippy::wildcard_imports,
    reason = "every name in there begins with _mm"
)]
use std::arch::x86_64::*;

use crate::ops::matmul::tile::{Candidate, LaneType, Tile};

/// The tiles of this file. Of those that can do the same, the best comes first.
pub(super) static TILES: &[Candidate] = &[
    BF16_AVX512,
    BF16_AVX512_NARROW,
    F32_AVX512,
    F32_AVX512_NARROW,
    F32_AVX2,
    INT8_AVX512,
    INT8_AVX,
    INT16_AVX2,
];

/// About one, whatever a lane is taken for: nothing that a processor is slow with.
const ONES: u32 = 0x3f80_3f80;

/// One micro-kernel. Rust has no types over instruction sets, so the one body is a macro over the
/// instructions. There are no closures in it: one that is passed through a generic function would
/// not be inlined, for it alone has the instructions.
macro_rules! tile {
    (
        $lane_type:ident with $instructions:literal, if $detected:expr,
        [$($tile:ident = $module:ident: $mr:literal x $vectors:literal of $lanes:literal ($features:literal),)+],
        zero = $zero:expr,
        load = |$from:ident| $load:expr,
        store = |$to:ident, $x:ident| $store:expr,
        splat = |$lane:ident| $splat:expr,
        dot = |$sum:ident, $a:ident, $b:ident| $dot:expr
    ) => {
        $(const $tile: Candidate = (
            || $detected,
            Tile {
                instructions: $instructions,
                lane_type: LaneType::$lane_type,
                mr: $mr,
                nr: $vectors * $lanes,
                run: $module::run,
                peak_flops_probe: $module::peak_flops_probe,
                probe_lanes: 12 * $lanes,
            },
        );

        mod $module {
            use crate::ops::matmul::kernels::x86::*;

            #[target_feature(enable = $features)]
            pub(super) unsafe fn run(
                kc: usize,
                (mut lhs, lhs_step): (*const u32, usize),
                mut rhs: *const u32,
                acc: *mut u32,
                resume: bool,
            ) {
                // SAFETY: the caller passes lanes for every step, row and column, and a tile of
                // accumulators.
                unsafe {
                    let mut sums = [[$zero; $vectors]; $mr];
                    if resume {
                        for i in 0..$mr {
                            for v in 0..$vectors {
                                let $from = acc.add((i * $vectors + v) * $lanes).cast_const();
                                sums[i][v] = $load;
                            }
                        }
                    }
                    for _ in 0..kc {
                        let mut columns = [$zero; $vectors];
                        for v in 0..$vectors {
                            let $from = rhs.add(v * $lanes);
                            columns[v] = $load;
                        }
                        for i in 0..$mr {
                            let $lane = *lhs.add(i);
                            let $a = $splat;
                            for v in 0..$vectors {
                                let ($sum, $b) = (sums[i][v], columns[v]);
                                sums[i][v] = $dot;
                            }
                        }
                        // Wrapping: after the last step it may point beyond the operand, whose kc
                        // overlap.
                        lhs = lhs.wrapping_add(lhs_step);
                        rhs = rhs.add($vectors * $lanes);
                    }
                    for i in 0..$mr {
                        for v in 0..$vectors {
                            let ($to, $x) = (acc.add((i * $vectors + v) * $lanes), sums[i][v]);
                            $store;
                        }
                    }
                }
            }

            /// Twelve sums: enough to hide the latency of two multiply-adds at a time.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn peak_flops_probe(rounds: usize) -> u32 {
                // SAFETY: `out` has room for one vector; nothing else is read or written.
                unsafe {
                    let $lane = std::hint::black_box(ONES);
                    let $b = $splat;
                    let mut sums = [$b; 12];
                    for _ in 0..rounds {
                        // Each multiplies itself: with one factor for all, the compiler would
                        // multiply once.
                        for i in 0..12 {
                            let ($sum, $a) = (sums[i], sums[i]);
                            sums[i] = $dot;
                        }
                    }
                    let mut all = 0;
                    for $x in sums {
                        let mut out = [0u32; $lanes];
                        let $to = out.as_mut_ptr();
                        $store;
                        all ^= out[0];
                    }
                    all
                }
            }
        }
        )+
    };
}

tile!(
    F32 with "AVX2 and FMA", if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
    [
    F32_AVX2 = f32_avx2: 6 x 2 of 8 ("avx2,fma"),
    ],
    zero = _mm256_setzero_ps(),
    load = |p| _mm256_loadu_ps(p.cast()),
    store = |p, x| _mm256_storeu_ps(p.cast(), x),
    splat = |lane| _mm256_set1_ps(f32::from_bits(lane)),
    dot = |sum, a, b| _mm256_fmadd_ps(a, b, sum)
);

tile!(
    F32 with "AVX-512", if is_x86_feature_detected!("avx512f"),
    [
    F32_AVX512 = f32_avx512: 6 x 4 of 16 ("avx512f"),
    F32_AVX512_NARROW = f32_avx512_narrow: 8 x 2 of 16 ("avx512f"),
    ],
    zero = _mm512_setzero_ps(),
    load = |p| _mm512_loadu_ps(p.cast()),
    store = |p, x| _mm512_storeu_ps(p.cast(), x),
    splat = |lane| _mm512_set1_ps(f32::from_bits(lane)),
    dot = |sum, a, b| _mm512_fmadd_ps(a, b, sum)
);

tile!(
    Bf16 with "AVX512-BF16", if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16"),
    [
    BF16_AVX512 = bf16_avx512: 6 x 4 of 16 ("avx512f,avx512bf16"),
    BF16_AVX512_NARROW = bf16_avx512_narrow: 8 x 2 of 16 ("avx512f,avx512bf16"),
    ],
    zero = _mm512_setzero_ps(),
    load = |p| _mm512_loadu_ps(p.cast()),
    store = |p, x| _mm512_storeu_ps(p.cast(), x),
    splat = |lane| _mm512_set1_ps(f32::from_bits(lane)),
    dot = |sum, a, b| _mm512_dpbf16_ps(sum, bf16s(a), bf16s(b))
);

tile!(
    Int8 with "AVX512-VNNI", if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni"),
    [
    INT8_AVX512 = int8_avx512: 6 x 4 of 16 ("avx512f,avx512vnni"),
    ],
    zero = _mm512_setzero_si512(),
    load = |p| _mm512_loadu_si512(p.cast()),
    store = |p, x| _mm512_storeu_si512(p.cast(), x),
    splat = |lane| _mm512_set1_epi32(lane.cast_signed()),
    dot = |sum, a, b| _mm512_dpbusd_epi32(sum, a, b)
);

tile!(
    Int8 with "AVX-VNNI", if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni"),
    [
    INT8_AVX = int8_avx: 6 x 2 of 8 ("avx2,avxvnni"),
    ],
    zero = _mm256_setzero_si256(),
    load = |p| _mm256_loadu_si256(p.cast()),
    store = |p, x| _mm256_storeu_si256(p.cast(), x),
    splat = |lane| _mm256_set1_epi32(lane.cast_signed()),
    dot = |sum, a, b| _mm256_dpbusd_avx_epi32(sum, a, b)
);

tile!(
    Int16 with "AVX2", if is_x86_feature_detected!("avx2"),
    [
    INT16_AVX2 = int16_avx2: 6 x 2 of 8 ("avx2"),
    ],
    zero = _mm256_setzero_si256(),
    load = |p| _mm256_loadu_si256(p.cast()),
    store = |p, x| _mm256_storeu_si256(p.cast(), x),
    splat = |lane| _mm256_set1_epi32(lane.cast_signed()),
    dot = |sum, a, b| _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
);

/// Gives the bits of a vector the type that the bf16 instructions ask for.
#[inline]
#[target_feature(enable = "avx512f")]
fn bf16s(x: __m512) -> __m512bh {
    // SAFETY: both are 64 bytes without invalid values.
    unsafe { std::mem::transmute(x) }
}
