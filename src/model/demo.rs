//! The embedded demo model; its card is `models/demo/MODEL_CARD.md`.

pub(super) const CONFIG: &[u8] = include_bytes!("../../models/demo/config.json");
pub(super) const TOKENIZER: &[u8] = include_bytes!("../../models/demo/tokenizer.json");
pub(super) const WEIGHTS: &[u8] = include_bytes!("../../models/demo/model.safetensors");
