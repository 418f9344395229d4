//! What the GPU must know of a batch: one array of integers, copied in one go.

use std::ops::Range;

use crate::{model::inputs::Inputs, ops::cuda::TILE_QUERIES};

/// The array, and where its parts are. Every number in it is within the inputs, which are checked.
pub(super) struct BatchMeta {
    pub(super) numbers: Vec<u32>,
    pub(super) tokens: usize,
    pub(super) sequences: usize,
    /// The row of the table of tokens for each token.
    pub(super) token_ids: Range<usize>,
    /// The row of the table of positions for each token.
    pub(super) position_ids: Range<usize>,
    /// Tiles of attention of every token.
    pub(super) tiles: Range<usize>,
    /// Tiles of the first token of each sequence, whose queries are the rows of a matrix of their
    /// own.
    pub(super) first_tiles: Range<usize>,
    /// The row of that token.
    pub(super) first_rows: Range<usize>,
}

impl BatchMeta {
    pub(super) fn new(inputs: &Inputs<'_>) -> Self {
        let mut numbers = Vec::new();
        let mut append = |part: &mut dyn Iterator<Item = u32>| {
            let start = numbers.len();
            numbers.extend(part);
            start..numbers.len()
        };
        let sequences = || inputs.cu_seqlens.windows(2).map(|ends| ends[0]..ends[1]);
        let token_ids = append(&mut inputs.token_ids.iter().copied());
        let position_ids = append(&mut inputs.position_ids.iter().copied());
        let tiles = append(&mut sequences().flat_map(|keys| {
            let cuts = keys.clone().step_by(TILE_QUERIES);
            cuts.flat_map(move |row| tile(row..keys.end.min(row + TILE_QUERIES), &keys))
        }));
        let first = sequences().enumerate();
        let first_tiles = append(&mut first.flat_map(|(row, keys)| tile(row..row + 1, &keys)));
        let first_rows = append(&mut sequences().map(|keys| index(keys.start)));
        Self {
            numbers,
            tokens: inputs.tokens(),
            sequences: inputs.sequences(),
            token_ids,
            position_ids,
            tiles,
            first_tiles,
            first_rows,
        }
    }

    /// The most numbers that a batch of so many tokens and sequences has: each sequence has one
    /// tile that may not be full.
    pub(super) fn most_numbers(tokens: usize, sequences: usize) -> usize {
        2 * tokens + 4 * (tokens / TILE_QUERIES + sequences) + 4 * sequences + sequences
    }
}

fn tile(queries: Range<usize>, keys: &Range<usize>) -> [u32; 4] {
    [queries.start, queries.len(), keys.start, keys.len()].map(index)
}

fn index(row: usize) -> u32 {
    u32::try_from(row).expect("a batch has fewer tokens than 2^32")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_a_query_once_and_meets_all_of_its_sequence() {
        let inputs = Inputs {
            token_ids: &[5; 262],
            position_ids: vec![2; 262],
            cu_seqlens: &[0, 3, 67, 132, 262],
        };
        let meta = BatchMeta::new(&inputs);
        let tiles: Vec<&[u32]> = meta.numbers[meta.tiles.clone()].chunks(4).collect();
        assert_eq!(
            tiles,
            [
                [0, 3, 0, 3],
                [3, 64, 3, 64],
                [67, 64, 67, 65],
                [131, 1, 67, 65],
                [132, 64, 132, 130],
                [196, 64, 132, 130],
                [260, 2, 132, 130],
            ]
        );
        let first: Vec<&[u32]> = meta.numbers[meta.first_tiles.clone()].chunks(4).collect();
        assert_eq!(
            first,
            [
                [0, 1, 0, 3],
                [1, 1, 3, 64],
                [2, 1, 67, 65],
                [3, 1, 132, 130]
            ]
        );
        assert_eq!(meta.numbers[meta.first_rows], [0, 3, 67, 132]);
        assert!(meta.numbers.len() <= BatchMeta::most_numbers(262, 4));
    }
}
