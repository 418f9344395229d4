//! The format of Hugging Face's text-embeddings-inference (`router/src/http/types.rs` there):
//! `texts` in, a bare array out.

use std::sync::Arc;

use serde::Serialize;
use serde_json::json;
use utoipa::{ToSchema, openapi::schema::ArrayBuilder};

use super::{
    format::{Body, Format, read},
    integer::natural,
    json::{Fields, boolean, is_null, text},
    reason::check_texts,
    results::side,
    route::Family,
    schema::{self, collect, of},
    served::{Served, value},
};
use crate::{
    rerank::Job,
    tokenizer::{Side, Truncation},
};

/// The format.
pub(super) const FORMAT: Format = Format {
    name: "tei",
    family: Family::Tei,
    parse: |raw, members, found| {
        let fields = (raw, members);
        read(fields, found, request, |it| check_texts(&it.texts))
    },
    request: || of::<Request>(),
    response: || ArrayBuilder::new().items(of::<Rank<'_>>()).into(),
    example: |query, passages| json!({ "query": query, "texts": passages, "return_text": true }),
    schemas: |all| {
        collect::<Request>(all);
        collect::<Rank<'_>>(all);
    },
};

/// `POST /rerank` as text-embeddings-inference takes it.
#[derive(Debug, ToSchema)]
#[schema(as = TeiRequest)]
struct Request {
    /// What to look for.
    #[schema(value_type = String)]
    query: Arc<str>,
    /// At least one; null counts as an empty text.
    #[schema(schema_with = schema::texts)]
    texts: Vec<Arc<str>>,
    /// Whether pairs that are too long are cut; refused otherwise (422).
    #[schema(schema_with = schema::boolean, required = false, default = true)]
    truncate: bool,
    /// Which end of a text loses tokens: `left` or `right`.
    #[schema(schema_with = schema::side, required = false)]
    truncation_direction: Side,
    /// Logits instead of scores from 0 to 1.
    #[schema(schema_with = schema::boolean, required = false, default = false)]
    raw_scores: bool,
    /// Whether the answer repeats the texts.
    #[schema(schema_with = schema::boolean, required = false, default = false)]
    return_text: bool,
    /// How many to return; absent, null or 0: all. Not in TEI; llama.cpp honours it and `LiteLLM`
    /// sends it.
    #[schema(schema_with = schema::natural, required = false)]
    top_n: Option<usize>,
}

fn request(fields: &mut Fields<'_, '_>) -> Option<Request> {
    let query = fields.required("query", text);
    let texts = fields.each("texts", |raw| {
        if is_null(raw) {
            return Ok(Arc::default()); // Haystack sends documents without content so
        }
        text(raw).map(Arc::from)
    });
    let truncate = fields.optional("truncate", boolean);
    let truncation_direction = fields.optional("truncation_direction", side);
    let raw_scores = fields.optional("raw_scores", boolean);
    let return_text = fields.optional("return_text", boolean);
    let top_n = fields.optional("top_n", natural);
    Some(Request {
        query: query?.into(),
        texts: texts?,
        truncate: truncate.unwrap_or(true),
        truncation_direction: truncation_direction.unwrap_or_default(),
        raw_scores: raw_scores.unwrap_or_default(),
        return_text: return_text.unwrap_or_default(),
        top_n,
    })
}

impl Body for Request {
    fn job(&self) -> Job {
        self.job()
    }

    fn limit(&self) -> Option<usize> {
        self.top_n.filter(|&limit| limit > 0)
    }

    fn answer(&self, served: &Served<'_>) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&response(self, served))
    }
}

impl Request {
    fn job(&self) -> Job {
        Job {
            queries: vec![Arc::clone(&self.query)],
            documents: self.texts.clone(),
            truncation: Truncation {
                side: self.truncation_direction,
                refuse: !self.truncate,
                ..Truncation::default()
            },
        }
    }
}

/// One text and its score.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TeiRank)]
struct Rank<'a> {
    /// Its place in the request.
    index: usize,
    /// Itself, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    text: Option<&'a str>,
    /// From 0 to 1, or a logit.
    score: f64,
}

/// The answer: best first.
fn response<'a>(request: &'a Request, served: &Served<'_>) -> Vec<Rank<'a>> {
    let best = served.best(request.top_n);
    best.map(|score| Rank {
        index: score.index,
        text: request.return_text.then(|| &*request.texts[score.index]),
        score: value(score, request.raw_scores),
    })
    .collect()
}
