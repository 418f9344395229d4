//! Tiles for x86-64: AVX2, AVX-512, VNNI and BF16.

#![expect(unsafe_code, reason = "vector instructions work on pointers")]
#![expect(clippy::wildcard_imports, reason = "every name in there begins with _mm")]

use std::arch::x86_64::*;

use super::{Numbers, Tile};

/// About one, whichever numbers a word is taken for: nothing that a processor is slow with.
const ONES: u32 = 0x3f80_3f80;

/// One micro-kernel. Rust has no types over instruction sets, so the one body is a macro over the instructions.
macro_rules! tile {
    (
        $tile:ident, $module:ident, $instructions:literal, $features:literal, $numbers:ident,
        $rows:literal x $vectors:literal of $lanes:literal,
        $load:expr, $store:expr, $splat:expr, $dot:expr
    ) => {
        pub(super) const $tile: Tile = Tile {
            instructions: $instructions,
            numbers: Numbers::$numbers,
            rows: $rows,
            columns: $vectors * $lanes,
            run: $module::run,
            saturate: $module::saturate,
            saturate_words: 12 * $lanes,
        };

        mod $module {
            use super::*;

            #[target_feature(enable = $features)]
            pub(super) unsafe fn run(steps: usize, lhs: *const u32, rhs: *const u32, acc: *mut u32) {
                // SAFETY: the caller passes `steps` words for every row and column and a tile of accumulators.
                unsafe {
                    let place = |i: usize, v: usize| acc.add((i * $vectors + v) * $lanes);
                    let mut sums: [[_; $vectors]; $rows] =
                        std::array::from_fn(|i| std::array::from_fn(|v| $load(place(i, v))));
                    let (mut lhs, mut rhs) = (lhs, rhs);
                    for _ in 0..steps {
                        let b: [_; $vectors] = std::array::from_fn(|v| $load(rhs.add(v * $lanes)));
                        for (i, row) in sums.iter_mut().enumerate() {
                            let a = $splat(*lhs.add(i));
                            for (sum, b) in row.iter_mut().zip(b) {
                                *sum = $dot(*sum, a, b);
                            }
                        }
                        (lhs, rhs) = (lhs.add($rows), rhs.add($vectors * $lanes));
                    }
                    for (i, row) in sums.iter().enumerate() {
                        for (v, sum) in row.iter().enumerate() {
                            $store(place(i, v), *sum);
                        }
                    }
                }
            }

            /// Twelve sums: enough to hide the latency of two multiply-adds at a time.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn saturate(rounds: usize) -> u32 {
                // SAFETY: `out` has room for one vector; nothing else is read or written.
                unsafe {
                    let (a, b) = std::hint::black_box((ONES, ONES));
                    let (a, b) = ($splat(a), $splat(b));
                    let mut sums: [_; 12] = std::array::from_fn(|_| $splat(0));
                    for _ in 0..rounds {
                        for sum in &mut sums {
                            *sum = $dot(*sum, a, b);
                        }
                        // Keeps the compiler from multiplying once by `rounds`.
                        std::hint::black_box(&mut ());
                    }
                    let mut all = 0;
                    for sum in sums {
                        let mut out = [0u32; $lanes];
                        $store(out.as_mut_ptr(), sum);
                        all ^= out[0];
                    }
                    all
                }
            }
        }
    };
}

tile!(
    F32_AVX2, f32_avx2, "AVX2 and FMA", "avx2,fma", F32, 6 x 2 of 8,
    |p: *const u32| _mm256_loadu_ps(p.cast()),
    |p: *mut u32, x| _mm256_storeu_ps(p.cast(), x),
    |a: u32| _mm256_set1_ps(f32::from_bits(a)),
    |sum, a, b| _mm256_fmadd_ps(a, b, sum)
);

tile!(
    F32_AVX512, f32_avx512, "AVX-512", "avx512f", F32, 12 x 2 of 16,
    |p: *const u32| _mm512_loadu_ps(p.cast()),
    |p: *mut u32, x| _mm512_storeu_ps(p.cast(), x),
    |a: u32| _mm512_set1_ps(f32::from_bits(a)),
    |sum, a, b| _mm512_fmadd_ps(a, b, sum)
);

tile!(
    BF16_AVX512, bf16_avx512, "AVX512-BF16", "avx512f,avx512bf16", Bf16, 12 x 2 of 16,
    |p: *const u32| _mm512_loadu_ps(p.cast()),
    |p: *mut u32, x| _mm512_storeu_ps(p.cast(), x),
    |a: u32| _mm512_set1_ps(f32::from_bits(a)),
    |sum, a, b| _mm512_dpbf16_ps(sum, bf16s(a), bf16s(b))
);

tile!(
    INT8_AVX512, int8_avx512, "AVX512-VNNI", "avx512f,avx512vnni", Int8, 12 x 2 of 16,
    |p: *const u32| _mm512_loadu_si512(p.cast()),
    |p: *mut u32, x| _mm512_storeu_si512(p.cast(), x),
    |a: u32| _mm512_set1_epi32(a.cast_signed()),
    |sum, a, b| _mm512_dpbusd_epi32(sum, a, b)
);

tile!(
    INT8_AVX, int8_avx, "AVX-VNNI", "avx2,avxvnni", Int8, 6 x 2 of 8,
    |p: *const u32| _mm256_loadu_si256(p.cast()),
    |p: *mut u32, x| _mm256_storeu_si256(p.cast(), x),
    |a: u32| _mm256_set1_epi32(a.cast_signed()),
    |sum, a, b| _mm256_dpbusd_avx_epi32(sum, a, b)
);

tile!(
    INT16_AVX2, int16_avx2, "AVX2", "avx2", Int16, 6 x 2 of 8,
    |p: *const u32| _mm256_loadu_si256(p.cast()),
    |p: *mut u32, x| _mm256_storeu_si256(p.cast(), x),
    |a: u32| _mm256_set1_epi32(a.cast_signed()),
    |sum, a, b| _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
);

/// The same bits, as the type that the bf16 instructions ask for.
#[target_feature(enable = "avx512f")]
fn bf16s(x: __m512) -> __m512bh {
    // SAFETY: both are 64 bytes without invalid values.
    unsafe { std::mem::transmute(x) }
}
