//! The CPU kernels one by one, over the shapes of bge-reranker-v2-m3: hidden size 1024, 16 heads of
//! 64, feed-forward size 4096. `make bench-kernels` measures, `cargo test` runs each once.
//!
//! Throughput is in operations of products (a multiplication and an addition are two; "elem/s" is
//! operations a second) and in bytes that other kernels read and write. All threads take part, as
//! in the service.

/// The kernels are no part of the library's interface, so this program compiles them itself.
#[expect(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "not all that the network uses is measured here"
)]
#[path = "../src"]
mod source {
    pub(crate) mod ops;
}

// The kernels call themselves `crate::ops`.
use source::ops;
use std::{cell::LazyCell, hint::black_box, time::Duration};

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use half::f16;
use ops::{
    Activation, Aligned, EmbeddingTable, Embeddings, Heads, LayerNorm, PackedRows, Precision,
    activation::gelu,
    matmul::{
        kernels,
        tile::{LaneType, Tile},
        weights::PackedWeights,
    },
    simd,
    softmax::softmax,
};

const HIDDEN: usize = 1024;
const WIDE: usize = 4096;
const HEADS: Heads = Heads {
    count: 16,
    size: 64,
};
/// Tokens of a batch: one, a short pair, a turn, a full batch.
const TOKENS: [usize; 4] = [1, 64, 512, 1536];
const PRECISIONS: [Precision; 4] = [
    Precision::F32,
    Precision::F16,
    Precision::Bf16,
    Precision::Int8,
];

type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// Numbers from -1 to 1.
fn wave(count: usize) -> Vec<f32> {
    let number = |i: usize| (i * 7919 % 2027) as f32 / 1013.5 - 1.0;
    (0..count).map(number).collect()
}

fn operations(count: usize) -> Throughput {
    Throughput::Elements(count as u64)
}

fn bytes(count: usize) -> Throughput {
    Throughput::Bytes(count as u64)
}

/// Measures one kernel on one shape. What `prepare` makes is not timed.
fn measure<R: FnMut()>(
    group: &mut Group<'_>,
    shape: &str,
    work: Throughput,
    prepare: impl Fn() -> R,
) {
    group.throughput(work);
    group.bench_function(shape, |bencher| bencher.iter(prepare()));
}

/// Whether weights of this precision can be packed for this tile.
fn suits(tile: &Tile, precision: Precision) -> bool {
    match precision {
        Precision::F32 | Precision::F16 => tile.lane_type == LaneType::F32,
        Precision::Bf16 => matches!(tile.lane_type, LaneType::F32 | LaneType::Bf16),
        Precision::Int8 => matches!(tile.lane_type, LaneType::Int8 | LaneType::Int16),
    }
}

/// Products with the weights of a feed-forward layer, at each precision with each micro-kernel.
fn matmul(criterion: &mut Criterion) {
    for precision in PRECISIONS {
        for tile in kernels::all().filter(|tile| suits(tile, precision)) {
            let (lanes, mr, nr) = (tile.lane_type, tile.mr, tile.nr);
            let name = format!("{} {lanes:?} {mr}x{nr}", tile.instructions);
            let mut group = criterion.benchmark_group(format!("matmul/{precision:?}/{name}"));
            let mut product = |tokens: &[usize], inputs, outputs, activation| {
                let weights = LazyCell::new(|| {
                    let weight = wave(outputs * inputs);
                    PackedWeights::for_tile(&weight, wave(outputs), precision, tile)
                });
                for tokens in tokens {
                    let shape = format!("{tokens} x {inputs} to {outputs}");
                    let work = operations(2 * tokens * inputs * outputs);
                    measure(&mut group, &shape, work, || {
                        let (x, mut out) = (wave(tokens * inputs), vec![0.0; tokens * outputs]);
                        let weights = &*weights;
                        move || ops::multiply(black_box(&x), weights, activation, &mut out)
                    });
                }
            };
            product(&TOKENS, HIDDEN, WIDE, Activation::Gelu);
            product(&[512], WIDE, HIDDEN, Activation::None);
        }
    }
}

/// Attention of one sequence, and of a batch of short ones.
fn attention(criterion: &mut Criterion) {
    let width = HEADS.width();
    for precision in [Precision::F32, Precision::Bf16] {
        let mut group = criterion.benchmark_group(format!("attention/{precision:?}"));
        for (sequences, length) in [(1, 1), (1, 64), (1, 512), (24, 64)] {
            let rows = sequences * length;
            let work = operations(4 * rows * length * width);
            measure(
                &mut group,
                &format!("{sequences} of {length}"),
                work,
                || {
                    let (qkv, mut out) = (wave(rows * 3 * width), vec![0.0; rows * width]);
                    let ends: Vec<usize> = (0..=sequences).map(|i| i * length).collect();
                    move || {
                        let columns = |first| PackedRows {
                            data: &black_box(&qkv)[first..],
                            stride: 3 * width,
                            cu_seqlens: &ends,
                        };
                        ops::attention(columns(0), columns(width), HEADS, precision, &mut out)
                            .expect("the shapes fit");
                    }
                },
            );
        }
    }
}

/// The softmax of 16 queries, on one thread, as attention calls it.
fn softmax_of_16(criterion: &mut Criterion) {
    for lane_type in [LaneType::F32, LaneType::Bf16] {
        let mut group = criterion.benchmark_group(format!("softmax/{lane_type:?}"));
        for keys in TOKENS {
            let work = bytes(2 * 4 * 16 * keys);
            measure(&mut group, &format!("{keys} keys"), work, || {
                let scores: Vec<u32> = wave(16 * keys).iter().map(|x| x.to_bits()).collect();
                let (mut there, mut sums) = (Aligned::<u32>::zeroed(16 * keys), [0.0; 16]);
                move || {
                    there.copy_from_slice(&scores);
                    softmax(&mut there, &mut sums, 0.125, lane_type);
                }
            });
        }
    }
}

fn layer_norm() -> LayerNorm {
    LayerNorm {
        parameters: wave(2 * HIDDEN),
        eps: 1e-5,
    }
}

/// Residual and layer norm.
fn norm(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("layer_norm");
    for tokens in TOKENS {
        let work = bytes(3 * 4 * tokens * HIDDEN);
        measure(&mut group, &format!("{tokens} x {HIDDEN}"), work, || {
            let (mut x, residual) = (wave(tokens * HIDDEN), wave(tokens * HIDDEN));
            let norm = layer_norm();
            move || ops::add_norm(&mut x, black_box(&residual), &norm)
        });
    }
}

/// GELU alone, on one thread; the network has it in the epilogue of a product.
fn activation(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gelu");
    for tokens in TOKENS {
        let work = bytes(2 * 4 * tokens * WIDE);
        measure(&mut group, &format!("{tokens} x {WIDE}"), work, || {
            let (x, mut out) = (wave(tokens * WIDE), vec![0.0; tokens * WIDE]);
            move || {
                let (x, out) = (black_box(&x), &mut out);
                simd::vectorize(
                    #[inline(always)]
                    || {
                        for (out, &x) in out.iter_mut().zip(x) {
                            *out = gelu(x);
                        }
                    },
                );
            }
        });
    }
}

/// Embeddings of tokens and positions, and their norm.
fn embedding(criterion: &mut Criterion) {
    const VOCABULARY: usize = 8192;
    for dtype in ["F32", "F16"] {
        let mut group = criterion.benchmark_group(format!("embedding/{dtype}"));
        for tokens in TOKENS {
            let number = if dtype == "F32" { 4 } else { 2 };
            let work = bytes((number + 4 + 4) * tokens * HIDDEN);
            measure(&mut group, &format!("{tokens} x {HIDDEN}"), work, || {
                let table = wave(VOCABULARY * HIDDEN);
                let embeddings = Embeddings {
                    tokens: match dtype {
                        "F32" => EmbeddingTable::F32(table),
                        _ => EmbeddingTable::F16(table.into_iter().map(f16::from_f32).collect()),
                    },
                    positions: wave(tokens * HIDDEN),
                    norm: layer_norm(),
                };
                let positions: Vec<u32> = (0u32..).take(tokens).collect();
                let ids: Vec<u32> = positions.iter().map(|i| i * 7919 % 8192).collect();
                let mut out = vec![0.0; tokens * HIDDEN];
                move || embeddings.forward(black_box(&ids), &positions, &mut out)
            });
        }
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    for kernel in [
        matmul,
        attention,
        softmax_of_16,
        norm,
        activation,
        embedding,
    ] {
        kernel(&mut criterion);
    }
    criterion.final_summary();
}
