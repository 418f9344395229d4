//! The format of Voyage AI's API, `POST /v1/rerank` ("Rerankers", API reference). A request is read
//! as one with `results`, `top_k` and all; the answer has `data` beside them, which Voyage's
//! clients read.

use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{
    format::{Body, Format, read},
    json::{Fields, Members},
    reason::check_emptiness,
    results,
    route::Family,
    schema::{collect, of},
    served::Served,
};
use crate::rerank::Job;

/// The format.
pub(super) const FORMAT: Format = Format {
    name: "voyage",
    family: Family::Results,
    parse: |raw, members, found| {
        let request = |fields: &mut Fields<'_, '_>| {
            results::request(fields, results::Echo::Object).map(Request)
        };
        read((raw, members), found, request, |Request(it)| {
            check_emptiness(it.query(), it.documents())
        })
    },
    request: of::<results::Request>,
    response: of::<Response<'_>>,
    example: |query, passages| json!({ "model": "any", "query": query, "documents": passages, "top_k": passages.len() }),
    schemas: |all| {
        collect::<results::Request>(all);
        collect::<Response<'_>>(all);
    },
};

/// Whether a body has a key that Voyage's clients send and those of the others do not.
pub(super) fn is_voyage(body: &Members<'_>) -> bool {
    body.some("truncation").is_some()
        || (body.some("top_k").is_some() && body.some("top_n").is_none())
}

#[derive(Debug)]
struct Request(results::Request);

impl Body for Request {
    fn job(&self) -> Job {
        self.0.job()
    }

    fn limit(&self) -> Option<usize> {
        self.0.limit()
    }

    fn answer(&self, served: &Served<'_>) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&Response::new(&self.0, served))
    }
}

/// The answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VoyageResponse)]
struct Response<'a> {
    #[serde(flatten)]
    results: results::Response<'a>,
    /// Best first.
    data: Vec<Ranked<'a>>,
}

/// A document and its score.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VoyageRank)]
struct Ranked<'a> {
    /// The document's place in the request.
    index: usize,
    /// How well the document answers, from 0 to 1.
    relevance_score: f64,
    /// The document's text, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    document: Option<&'a str>,
}

impl<'a> Response<'a> {
    fn new(request: &'a results::Request, served: &Served<'a>) -> Self {
        let data = served.best(request.limit()).map(|score| Ranked {
            index: score.index,
            relevance_score: score.sigmoid,
            document: request.repeated_text(score.index),
        });
        Self {
            data: data.collect(),
            results: results::Response::new(request, served).into_list(),
        }
    }
}
