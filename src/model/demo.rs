//! The embedded demo model; its card is `models/demo/MODEL_CARD.md`.

use anyhow::Result;

use super::{Checkpoint, ModelConfig, weights::Weights};

const CONFIG: &[u8] = include_bytes!("../../models/demo/config.json");
const TOKENIZER: &[u8] = include_bytes!("../../models/demo/tokenizer.json");
const WEIGHTS: &[u8] = include_bytes!("../../models/demo/model.safetensors");

pub(super) fn checkpoint() -> Result<Checkpoint> {
    Ok(Checkpoint {
        config: ModelConfig::parse(CONFIG)?,
        tokenizer: TOKENIZER.into(),
        commit: None,
        weights: Weights::embedded("the demo model", WEIGHTS)?,
    })
}
