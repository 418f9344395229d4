//! The paths that score, and whose clients ask on each.

use super::{
    tokenize,
    wire::{Family, Route},
};

/// The paths that score, and what each takes.
pub(super) const SCORING: [(&str, Route); 17] = [
    ("/rerank", Route::Any),
    ("/v1/rerank", Route::Results),
    ("/v2/rerank", Route::Results),
    ("/v1/v1/rerank", Route::Results), // cohere's SDK, given a base URL that ends in /v1
    ("/reranking", Route::Results),
    ("/v1/reranking", Route::Results),
    ("/infinity/rerank", Route::Infinity),
    ("/score", Route::Score),
    ("/v1/score", Route::Score),
    ("/", Route::Tei),
    ("/invocations", Route::Tei),
    ("/predict", Route::Predict),
    ("/v1/ranking", Route::Nim),
    ("/hugging_face/rerank", Route::HuggingFace),
    ("/reranks", Route::Dashscope),
    ("/v1/reranks", Route::Dashscope),
    (
        "/api/v1/services/rerank/text-rerank/text-rerank",
        Route::Dashscope,
    ),
];

/// The family of clients that asks on a path.
pub(super) fn family(path: &str) -> Family {
    if path == tokenize::PATH {
        return Family::Tei;
    }
    let route = SCORING.iter().find(|(scoring, _)| *scoring == path);
    route.map_or(Family::Unknown, |(_, route)| route.family())
}
