//! Embeddings: two table look-ups, their sum, and its layer norm.

use half::{f16, slice::HalfFloatSliceExt as _};
use rayon::prelude::*;

use super::layer_norm::{self, LayerNorm};

const TASK_ROWS: usize = 32;

/// A table whose rows are only looked up: 16 bits take nothing from the speed, and f16 has more of
/// them for the number than bf16.
pub(crate) enum EmbeddingTable {
    F32(Vec<f32>),
    F16(Vec<f16>),
}

/// The tables of a network's first step.
pub(crate) struct Embeddings {
    /// `[vocabulary, width]`.
    pub(crate) tokens: EmbeddingTable,
    /// `[positions, width]`.
    pub(crate) positions: Vec<f32>,
    pub(crate) norm: LayerNorm,
}

impl Embeddings {
    /// `out[i] = norm(tokens[token_ids[i]] + positions[position_ids[i]])`.
    pub(crate) fn forward(&self, token_ids: &[u32], position_ids: &[u32], out: &mut [f32]) {
        let width = self.norm.width();
        let ids = token_ids.par_chunks(TASK_ROWS);
        let ids = ids.zip(position_ids.par_chunks(TASK_ROWS));
        out.par_chunks_mut(TASK_ROWS * width).zip(ids).for_each(
            |(out, (token_ids, position_ids))| {
                for (out, &id) in out.chunks_exact_mut(width).zip(token_ids) {
                    self.tokens.read(row(id, width), out);
                }
                let positions = position_ids.iter();
                let positions = positions.map(|&id| &self.positions[row(id, width)]);
                layer_norm::add_norm_rows(out, positions, &self.norm);
            },
        );
    }
}

impl EmbeddingTable {
    fn read(&self, place: std::ops::Range<usize>, out: &mut [f32]) {
        match self {
            Self::F32(table) => out.copy_from_slice(&table[place]),
            Self::F16(table) => table[place].convert_to_f32_slice(out),
        }
    }
}

fn row(id: u32, width: usize) -> std::ops::Range<usize> {
    id as usize * width..(id as usize + 1) * width
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(n: usize, step: usize) -> Vec<f32> {
        (0..n)
            .map(|i| ((i * step % 101) as f32 - 50.0) / 30.0)
            .collect()
    }

    #[test]
    fn equals_the_slow_one_over_odd_shapes() {
        for (rows, width) in [(1, 2), (31, 17), (70, 192)] {
            let tokens = wave(11 * width, 37);
            let embeddings = |tokens| Embeddings {
                tokens,
                positions: wave(9 * width, 13),
                norm: LayerNorm {
                    parameters: wave(2 * width, 7),
                    eps: 1e-5,
                },
            };
            let halves = tokens.iter().map(|&x| f16::from_f32(x)).collect();
            let token_ids: Vec<u32> = (0..rows).map(|i| i * 5 % 11).collect();
            let position_ids: Vec<u32> = (0..rows).map(|i| 8 - i % 9).collect();
            for table in [EmbeddingTable::F32(tokens), EmbeddingTable::F16(halves)] {
                let embeddings = embeddings(table);
                let mut fast = vec![f32::NAN; rows as usize * width];
                embeddings.forward(&token_ids, &position_ids, &mut fast);
                for (i, fast) in fast.chunks(width).enumerate() {
                    let mut slow = vec![0.0; width];
                    embeddings.tokens.read(row(token_ids[i], width), &mut slow);
                    let position = &embeddings.positions[row(position_ids[i], width)];
                    layer_norm::add_norm(&mut slow, position, &embeddings.norm);
                    assert_eq!(fast, slow, "{rows}x{width}, row {i}");
                }
            }
        }
    }
}
