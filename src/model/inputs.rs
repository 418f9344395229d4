//! What a network reads of a batch, checked: no device looks at an index again.

use anyhow::{Result, ensure};

use super::config::ModelConfig;
use crate::batch::Batch;

/// Rows of the tables of embeddings for every token, and where sequences end.
pub(super) struct Inputs<'a> {
    pub(super) token_ids: &'a [u32],
    pub(super) position_ids: Vec<u32>,
    /// Sequence `i` has the tokens `cu_seqlens[i]..cu_seqlens[i + 1]`.
    pub(super) cu_seqlens: &'a [usize],
}

impl<'a> Inputs<'a> {
    /// # Errors
    /// A token or a position that the model's tables do not have.
    pub(super) fn new(batch: &'a Batch, config: &ModelConfig) -> Result<Self> {
        let within = |ids: &[u32], rows: usize, what: &str| {
            let largest = ids.iter().copied().max().unwrap_or(0);
            ensure!(
                (largest as usize) < rows,
                "{what} {largest} is beyond the {rows} that the model has"
            );
            Ok(())
        };
        ensure!(!batch.is_empty(), "a batch without sequences");
        let position_ids = batch.position_ids(config.pad_token_id);
        within(&batch.input_ids, config.vocabulary, "token")?;
        within(&position_ids, config.positions, "position")?;
        Ok(Self {
            token_ids: &batch.input_ids,
            position_ids,
            cu_seqlens: &batch.cu_seqlens,
        })
    }

    pub(super) fn tokens(&self) -> usize {
        self.token_ids.len()
    }

    pub(super) fn sequences(&self) -> usize {
        self.cu_seqlens.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: ModelConfig = ModelConfig {
        vocabulary: 100,
        hidden: 64,
        layers: 1,
        heads: 1,
        intermediate: 64,
        positions: 514,
        token_types: 1,
        pad_token_id: 1,
        layer_norm_eps: 1e-5,
    };

    #[test]
    fn what_points_beyond_a_table_is_refused() {
        let long = |tokens: usize| Batch::pack([vec![5; tokens].as_slice()]);
        let says = |batch: &Batch| Inputs::new(batch, &CONFIG).err().unwrap().to_string();
        let unknown = Batch::pack([[0, 100, 2].as_slice()]);
        assert_eq!(
            says(&unknown),
            "token 100 is beyond the 100 that the model has"
        );
        assert_eq!(
            says(&long(513)),
            "position 514 is beyond the 514 that the model has"
        );
        assert!(Inputs::new(&long(512), &CONFIG).is_ok());
    }
}
