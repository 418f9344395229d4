//! What an answer is made of, in every format.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use utoipa::ToSchema;

use crate::rerank::{Ranking, Score};

/// What an answer is made of.
pub(crate) struct Served<'a> {
    pub(crate) ranking: &'a Ranking,
    /// What the server runs.
    pub(crate) model: &'a str,
    /// Of the request.
    pub(crate) id: &'a str,
    /// Since the request came in.
    pub(crate) elapsed: Duration,
}

impl<'a> Served<'a> {
    /// The best `limit` scores; none or 0 means all.
    pub(super) fn best(&self, limit: Option<usize>) -> impl Iterator<Item = &'a Score> + use<'a> {
        let limit = limit.filter(|&limit| limit > 0).unwrap_or(usize::MAX);
        self.ranking.scores.iter().take(limit)
    }
}

/// Now, in seconds since 1970.
pub(super) fn created() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// What a score is in an answer: from 0 to 1, or the raw logit.
pub(super) fn value(score: &Score, raw: bool) -> f64 {
    if raw {
        f64::from(score.logit)
    } else {
        score.sigmoid
    }
}

/// Tokens, as `OpenAI` counts them.
#[derive(Debug, Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the names of the wire format")]
pub(super) struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
}

impl Usage {
    pub(super) fn of(ranking: &Ranking) -> Self {
        Self {
            prompt_tokens: ranking.tokens,
            completion_tokens: 0,
            total_tokens: ranking.tokens,
        }
    }
}
