//! What the model computes at once: token sequences end to end, without padding.

use std::sync::Arc;

/// Token sequences end to end, without padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The tokens of all sequences.
    pub input_ids: Vec<u32>,
    /// Sequence `i` is `input_ids[cu_seqlens[i]..cu_seqlens[i + 1]]`; one more entry than there are
    /// sequences.
    pub cu_seqlens: Arc<[usize]>,
}

impl Batch {
    /// Packs sequences, none of them empty.
    pub fn pack<'a>(sequences: impl IntoIterator<Item = &'a [u32]>) -> Self {
        let (mut input_ids, mut cu_seqlens) = (Vec::new(), vec![0]);
        for sequence in sequences {
            input_ids.extend_from_slice(sequence);
            cu_seqlens.push(input_ids.len());
        }
        Self {
            input_ids,
            cu_seqlens: cu_seqlens.into(),
        }
    }

    /// The number of sequences.
    pub fn len(&self) -> usize {
        self.cu_seqlens.len() - 1
    }

    /// Whether the batch has no sequences.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Two batches of about half the tokens each: the sequences up to the middle, and the rest.
    /// There are at least two.
    pub fn halves(&self) -> (Self, Self) {
        let middle = self.input_ids.len().div_ceil(2);
        let cut = self.cu_seqlens.partition_point(|&start| start < middle);
        let cut = cut.clamp(1, self.len() - 1);
        let part = |from: usize, to: usize| Self::pack(self.sequences().skip(from).take(to - from));
        (part(0, cut), part(cut, self.len()))
    }

    /// The row of the position table for each token. Positions count from `pad_token_id + 1`. A
    /// literal `<pad>` in the text neither counts nor has a position of its own: that is how
    /// transformers computes them.
    pub(crate) fn position_ids(&self, pad_token_id: u32) -> Vec<u32> {
        let mut position_ids = Vec::with_capacity(self.input_ids.len());
        for sequence in self.sequences() {
            let mut position = pad_token_id;
            position_ids.extend(sequence.iter().map(|&id| {
                if id == pad_token_id {
                    return pad_token_id;
                }
                position += 1;
                position
            }));
        }
        position_ids
    }

    /// The sequences one by one.
    pub fn sequences(&self) -> impl Iterator<Item = &[u32]> {
        self.cu_seqlens
            .windows(2)
            .map(|ends| &self.input_ids[ends[0]..ends[1]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(lengths: &[usize]) -> Batch {
        let sequences: Vec<Vec<u32>> = lengths.iter().map(|&n| vec![7; n]).collect();
        Batch::pack(sequences.iter().map(Vec::as_slice))
    }

    #[test]
    fn halves_are_whole_sequences_in_order_and_neither_is_empty() {
        for lengths in [
            &[1, 1][..],
            &[100, 1, 1],
            &[1, 1, 100],
            &[3, 3, 3],
            &[5, 80, 2, 9, 40],
        ] {
            let (first, second) = batch(lengths).halves();
            let both: Vec<usize> = first
                .sequences()
                .chain(second.sequences())
                .map(<[u32]>::len)
                .collect();
            assert_eq!(both, lengths);
            assert!(!first.is_empty() && !second.is_empty(), "{lengths:?}");
        }
        assert_eq!(batch(&[4; 8]).halves().0.len(), 4);
    }

    #[test]
    fn positions_pass_over_padding() {
        let ids = Batch::pack([[0, 7, 1, 8, 2].as_slice(), &[0, 2]]);
        assert_eq!(ids.position_ids(1), [2, 3, 1, 4, 5, 2, 3]);
    }
}
