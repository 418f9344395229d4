//! What the GPU must know of a batch: one array of integers, copied in one go.

use std::ops::Range;

use anyhow::{Result, ensure};

use crate::{batch::Batch, ops::cuda::TILE_QUERIES};

/// The array, and where its parts are.
pub(super) struct Plan {
    pub(super) numbers: Vec<u32>,
    pub(super) tokens: usize,
    pub(super) sequences: usize,
    /// Rows of the table of words, a token each.
    pub(super) ids: Range<usize>,
    /// Rows of the table of positions, likewise.
    pub(super) positions: Range<usize>,
    /// Tiles of attention of every token.
    pub(super) tiles: Range<usize>,
    /// Those of the first token of each sequence, whose queries are the rows of a matrix of their own.
    pub(super) first_tiles: Range<usize>,
    /// The row of that token.
    pub(super) first_rows: Range<usize>,
}

/// The sizes of the tables that the numbers point into.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tables {
    pub(super) words: usize,
    pub(super) positions: usize,
    pub(super) pad_token_id: u32,
}

impl Plan {
    /// Checks every number against its table, because the GPU does not.
    pub(super) fn new(batch: &Batch, tables: Tables) -> Result<Self> {
        let within = |numbers: &[u32], rows: usize, what: &str| {
            let largest = numbers.iter().copied().max().unwrap_or(0);
            ensure!(
                (largest as usize) < rows,
                "{what} {largest} is beyond the {rows} that the model has"
            );
            Ok(())
        };
        ensure!(!batch.is_empty(), "a batch without sequences");
        let positions = batch.position_ids(tables.pad_token_id);
        within(&batch.input_ids, tables.words, "token")?;
        within(&positions, tables.positions, "position")?;
        let mut plan = Self {
            numbers: Vec::new(),
            tokens: batch.input_ids.len(),
            sequences: batch.len(),
            ids: 0..0,
            positions: 0..0,
            tiles: 0..0,
            first_tiles: 0..0,
            first_rows: 0..0,
        };
        plan.ids = plan.append(batch.input_ids.iter().copied());
        plan.positions = plan.append(positions);
        plan.tiles = plan.append(sequences(batch).flat_map(|keys| {
            let cuts = keys.clone().step_by(TILE_QUERIES);
            cuts.flat_map(move |row| tile(row..keys.end.min(row + TILE_QUERIES), &keys))
        }));
        let first = sequences(batch).enumerate();
        plan.first_tiles = plan.append(first.flat_map(|(row, keys)| tile(row..row + 1, &keys)));
        plan.first_rows = plan.append(sequences(batch).map(|keys| index(keys.start)));
        Ok(plan)
    }

    fn append(&mut self, numbers: impl IntoIterator<Item = u32>) -> Range<usize> {
        let start = self.numbers.len();
        self.numbers.extend(numbers);
        start..self.numbers.len()
    }
}

/// The rows of each sequence.
fn sequences(batch: &Batch) -> impl Iterator<Item = Range<usize>> + '_ {
    batch.offsets.windows(2).map(|ends| ends[0]..ends[1])
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

    const TABLES: Tables = Tables {
        words: 100,
        positions: 514,
        pad_token_id: 1,
    };

    fn batch(lengths: &[usize]) -> Batch {
        let sequences: Vec<Vec<u32>> = lengths.iter().map(|&n| vec![5; n]).collect();
        Batch::pack(sequences.iter().map(Vec::as_slice))
    }

    #[test]
    fn every_token_is_a_query_once_and_meets_all_of_its_sequence() {
        let plan = Plan::new(&batch(&[3, 64, 65, 130]), TABLES).unwrap();
        let tiles: Vec<&[u32]> = plan.numbers[plan.tiles.clone()].chunks(4).collect();
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
        let first: Vec<&[u32]> = plan.numbers[plan.first_tiles.clone()].chunks(4).collect();
        assert_eq!(
            first,
            [
                [0, 1, 0, 3],
                [1, 1, 3, 64],
                [2, 1, 67, 65],
                [3, 1, 132, 130]
            ]
        );
        assert_eq!(plan.numbers[plan.first_rows], [0, 3, 67, 132]);
    }

    #[test]
    fn what_points_beyond_a_table_never_reaches_the_gpu() {
        let says = |batch: &Batch| Plan::new(batch, TABLES).err().unwrap().to_string();
        let unknown = Batch::pack([[0, 100, 2].as_slice()]);
        assert_eq!(
            says(&unknown),
            "token 100 is beyond the 100 that the model has"
        );
        assert_eq!(
            says(&batch(&[513])),
            "position 514 is beyond the 514 that the model has"
        );
        assert!(Plan::new(&batch(&[512]), TABLES).is_ok());
    }
}
