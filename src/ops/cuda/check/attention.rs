//! Attention, on the tensor cores and without them.

use anyhow::Result;
use half::f16;

use super::comparison::{Check, Numbers, compare, poisoned};
use crate::ops::cuda::{
    gpu::Gpu,
    kernels::{Qkv, TILE_QUERIES},
    number::Number,
};

pub(super) fn attention<T: Number>(
    gpu: &Gpu,
    lengths: &[usize],
    head: usize,
    heads: usize,
) -> Result<Check> {
    let (rows, width) = (lengths.iter().sum::<usize>(), head * heads);
    let qkv = Numbers::<T>::random(gpu, rows * 3 * width, 12, 2.0)?;
    let (mut tiles, mut expected) = (Vec::new(), Vec::new());
    let mut start = 0;
    for &length in lengths {
        for first in (0..length).step_by(TILE_QUERIES) {
            let queries = TILE_QUERIES.min(length - first);
            tiles.extend([start + first, queries, start, length].map(|n| n as u32));
        }
        for query in start..start + length {
            for h in 0..heads {
                let part = |row: usize, matrix: usize| {
                    &qkv.row(row, 3 * width)[matrix * width + h * head..][..head]
                };
                expected.extend(attended(
                    part(query, 0),
                    (start..start + length).map(|key| (part(key, 1), part(key, 2))),
                ));
            }
        }
        start += length;
    }
    let tiles = gpu.stream.upload(&tiles)?;
    let mut out = poisoned::<T>(gpu, rows * width)?;
    let from = Qkv {
        queries: qkv.on_gpu.as_view(),
        query_stride: 3 * width,
        keys: qkv.on_gpu.slice(width..),
        key_stride: 3 * width,
    };
    gpu.kernels.attention(
        &from,
        &tiles.as_view(),
        (head, width),
        &mut out.as_view_mut(),
    )?;
    let name = format!("attention {}", T::NAME);
    compare(
        gpu,
        &name,
        format!("{lengths:?}, {heads} heads of {head}"),
        &out,
        &expected,
    )
}

/// The last layer's: one query for each sequence, in a matrix of its own.
pub(super) fn first_attention(gpu: &Gpu, lengths: &[usize]) -> Result<Check> {
    const WIDTH: usize = 128;
    const HEAD: usize = 64;
    let rows = lengths.iter().sum::<usize>();
    let queries = Numbers::<f16>::random(gpu, lengths.len() * WIDTH, 13, 2.0)?;
    let keys_values = Numbers::<f16>::random(gpu, rows * 2 * WIDTH, 14, 2.0)?;
    let (mut tiles, mut expected, mut start) = (Vec::new(), Vec::new(), 0);
    for (i, &length) in lengths.iter().enumerate() {
        tiles.extend([i, 1, start, length].map(|n| n as u32));
        for h in 0..WIDTH / HEAD {
            let part = |row: usize, matrix: usize| {
                &keys_values.row(row, 2 * WIDTH)[matrix * WIDTH + h * HEAD..][..HEAD]
            };
            let query = &queries.row(i, WIDTH)[h * HEAD..][..HEAD];
            expected.extend(attended(
                query,
                (start..start + length).map(|key| (part(key, 0), part(key, 1))),
            ));
        }
        start += length;
    }
    let tiles = gpu.stream.upload(&tiles)?;
    let mut out = poisoned::<f16>(gpu, lengths.len() * WIDTH)?;
    let from = Qkv {
        queries: queries.on_gpu.as_view(),
        query_stride: WIDTH,
        keys: keys_values.on_gpu.as_view(),
        key_stride: 2 * WIDTH,
    };
    gpu.kernels.attention(
        &from,
        &tiles.as_view(),
        (HEAD, WIDTH),
        &mut out.as_view_mut(),
    )?;
    compare(
        gpu,
        "attention of <s> f16",
        format!("{lengths:?}"),
        &out,
        &expected,
    )
}

fn attended<'a>(
    query: &[f64],
    keys_values: impl Iterator<Item = (&'a [f64], &'a [f64])>,
) -> Vec<f64> {
    let scale = 1.0 / (query.len() as f64).sqrt();
    let (mut out, mut sum) = (vec![0.0; query.len()], 0.0);
    for (key, value) in keys_values {
        let score = query.iter().zip(key).map(|(a, b)| a * b).sum::<f64>() * scale;
        let weight = score.exp();
        sum += weight;
        for (out, value) in out.iter_mut().zip(value) {
            *out += weight * value;
        }
    }
    out.iter().map(|x| x / sum).collect()
}

/// A key beyond f16's range whose score is -inf must not be left out in silence.
pub(super) fn overflow(gpu: &Gpu) -> Result<Check> {
    const HEAD: usize = 64;
    let mut qkv = vec![f16::ONE; 3 * 3 * HEAD];
    qkv[3 * HEAD + HEAD] = f16::NEG_INFINITY; // a number of the second key
    let qkv = gpu.stream.upload(&qkv)?;
    let tiles = gpu.stream.upload(&[0u32, 3, 0, 3])?;
    let mut out = gpu.stream.upload(&[f16::ZERO; 3 * HEAD])?;
    let from = Qkv {
        queries: qkv.as_view(),
        query_stride: 3 * HEAD,
        keys: qkv.slice(HEAD..),
        key_stride: 3 * HEAD,
    };
    gpu.kernels.attention(
        &from,
        &tiles.as_view(),
        (HEAD, HEAD),
        &mut out.as_view_mut(),
    )?;
    Check::nothing_finite(
        gpu,
        "attention f16, a key overflowed",
        "[3], 1 head of 64",
        &out,
    )
}
