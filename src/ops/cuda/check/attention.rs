//! Attention, on the tensor cores and without them.

use anyhow::Result;
use half::f16;

use super::comparison::{Check, Numbers, compare, poisoned};
use crate::ops::cuda::{
    gpu::Gpu,
    kernels::{Qkv, TILE_QUERIES},
    number::Number,
};

/// Attention of every token; or, as in the last layer, of one query for each sequence, in a matrix
/// of its own.
pub(super) fn attention<T: Number>(
    gpu: &Gpu,
    lengths: &[usize],
    (heads, head): (usize, usize),
    first_only: bool,
) -> Result<Check> {
    let (rows, width) = (lengths.iter().sum::<usize>(), heads * head);
    let before_keys = if first_only { 0 } else { width };
    let key_stride = before_keys + 2 * width;
    let all = Numbers::<T>::random(gpu, rows * key_stride, 12, 2.0)?;
    let own = Numbers::<T>::random(gpu, lengths.len() * width, 13, 2.0)?;
    let (queries, query_stride) = if first_only {
        (&own, width)
    } else {
        (&all, key_stride)
    };
    let (mut tiles, mut expected, mut start) = (Vec::new(), Vec::new(), 0);
    for (i, &length) in lengths.iter().enumerate() {
        let keys = start..start + length;
        let rows = if first_only { i..i + 1 } else { keys.clone() };
        for first in rows.clone().step_by(TILE_QUERIES) {
            let count = TILE_QUERIES.min(rows.end - first);
            tiles.extend([first, count, start, length].map(|n| n as u32));
        }
        for (query, h) in rows.flat_map(|row| (0..heads).map(move |h| (row, h))) {
            let key = |row, from: usize| &all.row(row, key_stride)[from + h * head..][..head];
            let pair = |row| (key(row, before_keys), key(row, before_keys + width));
            let query = &queries.row(query, query_stride)[h * head..][..head];
            expected.extend(attended(query, keys.clone().map(pair)));
        }
        start = keys.end;
    }
    let tiles = gpu.stream.upload(&tiles)?;
    let mut out = poisoned::<T>(gpu, expected.len())?;
    let from = Qkv {
        queries: queries.on_gpu.as_view(),
        query_stride,
        keys: all.on_gpu.slice(before_keys..),
        key_stride,
    };
    let (kernels, mut result) = (&gpu.kernels, out.as_view_mut());
    kernels.attention(&from, &tiles.as_view(), (head, width), &mut result)?;
    let of_first = if first_only { " of <s>" } else { "" };
    let name = format!("attention{of_first} {}", T::NAME);
    let shape = format!("{lengths:?}, {heads} heads of {head}");
    compare(gpu, (name, shape), &out, expected)
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
    let (kernels, mut result) = (&gpu.kernels, out.as_view_mut());
    kernels.attention(&from, &tiles.as_view(), (HEAD, HEAD), &mut result)?;
    let what = ("attention f16, a key overflowed", "[3], 1 head of 64");
    Check::nothing_finite(gpu, what, &out)
}
