//! What the handlers share: the model once it has loaded, the limits, and what requests in flight
//! share.

use std::{
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use anyhow::Result;

use super::{error::ApiError, keys::Keys, settings::Settings};
use crate::{
    memory::Budget,
    metrics::Metrics,
    rerank::{Limits, Reranker},
    text_pool::TextPool,
};

/// What all requests in flight share.
pub(crate) struct Shared {
    /// The memory budget of requests in flight.
    pub memory: Arc<Budget>,
    /// The threads that parse, tokenize and serialise.
    pub text: Arc<TextPool>,
    /// The metrics of the process.
    pub metrics: Arc<Metrics>,
}

/// What the handlers share. It exists before the model has loaded.
pub(crate) struct App {
    pub(super) model_id: String,
    pub(super) settings: Settings,
    pub(super) limits: Limits,
    pub(super) memory: Arc<Budget>,
    pub(super) text: Arc<TextPool>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) started: SystemTime,
    /// The API keys; none if everyone may use the server.
    pub(super) keys: Option<Arc<Keys>>,
    /// Empty until the model has loaded and scored a first pair.
    pub(super) reranker: OnceLock<Reranker>,
}

impl App {
    /// A server whose model is still loading.
    ///
    /// # Errors
    /// A file of keys that cannot be used.
    pub(crate) fn new(
        model_id: String,
        settings: Settings,
        limits: Limits,
        shared: Shared,
    ) -> Result<Arc<Self>> {
        let Shared {
            memory,
            text,
            metrics,
        } = shared;
        Ok(Arc::new(Self {
            model_id,
            keys: Keys::load(&settings.access.keys)?,
            settings,
            limits,
            memory,
            text,
            metrics,
            started: SystemTime::now(),
            reranker: OnceLock::new(),
        }))
    }

    /// Takes the model that has loaded: requests are answered from now on.
    pub(crate) fn set_ready(&self, reranker: Reranker) {
        let info = reranker.info();
        self.metrics
            .set_info(&info.id, info.device, info.dtype, info.backend);
        let limit = reranker.batching().queue_pairs;
        self.metrics
            .queue_pairs_limit
            .set(i64::try_from(limit).unwrap_or(i64::MAX));
        // A second model would be a mistake of the caller's; the first stays.
        let _ = self.reranker.set(reranker);
    }

    pub(super) fn ready(&self) -> Result<&Reranker, ApiError> {
        self.reranker.get().ok_or(ApiError::NotReady)
    }
}
