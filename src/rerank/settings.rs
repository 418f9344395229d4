//! What the operator decides about scoring.

use super::limits::Limits;
use crate::{cache, model, scheduler};

/// What the operator decides about scoring.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Which model, and how it is built.
    pub model: model::Settings,
    /// How requests share the model.
    pub scheduler: scheduler::Settings,
    /// What is remembered of pairs that were scored.
    pub cache: cache::Settings,
    /// What a request may cost.
    pub limits: Limits,
}
