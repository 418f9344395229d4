//! The format of Mixedbread's API, `POST /v1/reranking` ("Reranking", API reference): the
//! documents are the `input`, and `data` comes back.

use std::sync::Arc;

use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{
    format::{Body, Format, read},
    integer::natural,
    json::{Fields, Members, boolean},
    passage::{AsItCame, Passage, texts},
    reason::check_emptiness,
    results::names,
    route::Family,
    schema::{self, collect, of},
    served::{Served, Usage},
};
use crate::rerank::Job;

/// The format.
pub(super) const FORMAT: Format = Format {
    name: "mixedbread",
    family: Family::Results,
    parse: |raw, members, found| {
        let fields = (raw, members);
        read(fields, found, request, |it| {
            check_emptiness(&it.query, &it.input)
        })
    },
    request: of::<Request>,
    response: of::<Response<'_>>,
    example: |query, passages| json!({ "model": "any", "query": query, "input": passages, "top_k": passages.len() }),
    schemas: |all| {
        collect::<Request>(all);
        collect::<Response<'_>>(all);
    },
};

/// Whether a body has its documents where only this format has them.
pub(super) fn is_mixedbread(body: &Members<'_>) -> bool {
    body.get("documents").is_none()
        && body
            .some("input")
            .is_some_and(|input| input.get().starts_with('['))
}

/// A request of Mixedbread's clients. Other keys, `model` among them, are ignored.
#[derive(Debug, ToSchema)]
#[schema(as = MixedbreadRequest)]
struct Request {
    /// What to look for; not blank.
    #[schema(schema_with = schema::query)]
    query: Arc<str>,
    /// What to rank: strings or objects, at least one.
    #[schema(schema_with = schema::list_of_passages)]
    input: Vec<Passage>,
    /// How many to return; absent, null or 0: all.
    #[schema(schema_with = schema::natural, required = false)]
    top_k: Option<usize>,
    /// Whether the answer repeats the documents.
    #[schema(schema_with = schema::boolean, required = false, default = false)]
    return_input: bool,
}

fn request(fields: &mut Fields<'_, '_>) -> Option<Request> {
    let rank_fields = fields.optional("rank_fields", names).unwrap_or_default();
    let query = fields.required("query", |raw| Ok(Passage::read(raw, &[])?.text));
    let input = fields.each("input", |raw| Passage::read(raw, &rank_fields));
    let top_k = fields.optional("top_k", natural);
    let return_input = fields.optional("return_input", boolean);
    Some(Request {
        query: query?,
        input: input?,
        top_k,
        return_input: return_input.unwrap_or_default(),
    })
}

impl Body for Request {
    fn job(&self) -> Job {
        Job {
            queries: vec![Arc::clone(&self.query)],
            documents: texts(&self.input),
            ..Job::default()
        }
    }

    fn limit(&self) -> Option<usize> {
        self.top_k.filter(|&limit| limit > 0)
    }

    fn answer(&self, served: &Served<'_>) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&Response::new(self, served))
    }
}

/// The answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MixedbreadResponse)]
struct Response<'a> {
    /// `list`.
    object: &'static str,
    /// What the server runs, whatever was asked for.
    model: &'a str,
    /// Best first.
    data: Vec<Ranked<'a>>,
    usage: Usage,
    return_input: bool,
}

/// A document and its score.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MixedbreadRank)]
struct Ranked<'a> {
    /// The document's place in the request.
    index: usize,
    /// How well the document answers, from 0 to 1.
    score: f64,
    /// The document as it came, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::any, required = false)]
    input: Option<AsItCame<'a>>,
    /// `rank_result`.
    object: &'static str,
}

impl<'a> Response<'a> {
    fn new(request: &'a Request, served: &Served<'a>) -> Self {
        let data = served.best(request.top_k).map(|score| Ranked {
            index: score.index,
            score: score.sigmoid,
            input: request
                .return_input
                .then(|| request.input[score.index].as_it_came()),
            object: "rank_result",
        });
        Self {
            object: "list",
            model: served.model,
            data: data.collect(),
            usage: Usage::of(served.ranking),
            return_input: request.return_input,
        }
    }
}
