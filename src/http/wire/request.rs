//! A request in the format it came in.

use super::{
    format::{Body, Format},
    route::Family,
    served::Served,
};
use crate::rerank::{Job, Ranking};

/// A request in the format it came in.
#[derive(Debug)]
pub(crate) struct Request {
    pub(super) format: &'static Format,
    pub(super) body: Box<dyn Body>,
}

impl Request {
    /// The family of the clients that sent it.
    pub(crate) fn family(&self) -> Family {
        self.format.family
    }

    /// The format's name, for metrics.
    pub(crate) fn format(&self) -> &'static str {
        self.format.name
    }

    /// What is to be scored.
    pub(crate) fn job(&self) -> Job {
        self.body.job()
    }

    /// How many of the scores the answer has.
    pub(crate) fn returned(&self, ranking: &Ranking) -> usize {
        let all = ranking.scores.len();
        self.body.limit().map_or(all, |limit| limit.min(all))
    }

    /// The answer in the format of the request.
    ///
    /// # Errors
    /// None that a checked ranking could cause; `serde_json`'s.
    pub(crate) fn answer(&self, served: &Served<'_>) -> serde_json::Result<Vec<u8>> {
        self.body.answer(served)
    }
}
