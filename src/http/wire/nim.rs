//! The format of NVIDIA's retriever NIM, `POST /v1/ranking` ("Text Reranking NIM", API reference):
//! a query and passages as objects with a `text`, and logits back.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{json, value::RawValue};
use utoipa::ToSchema;

use super::{
    format::{Body, Format, read},
    json::{Fields, text},
    passage::{Passage, texts},
    reason::check_emptiness,
    route::Family,
    schema::{self, collect, of},
    served::{Served, Usage},
    violation::Problem,
};
use crate::{rerank::Job, tokenizer::Truncation};

/// The format.
pub(super) const FORMAT: Format = Format {
    name: "nim",
    family: Family::Results,
    parse: |raw, members, found| {
        let fields = (raw, members);
        read(fields, found, request, |it| {
            check_emptiness(&it.query, &it.passages)
        })
    },
    request: of::<Request>,
    response: of::<Response>,
    example: |query, passages| {
        let passages: Vec<_> = passages
            .iter()
            .map(|text| json!({ "text": text }))
            .collect();
        json!({ "model": "any", "query": { "text": query }, "passages": passages })
    },
    schemas: |all| {
        collect::<Request>(all);
        collect::<Response>(all);
    },
};

/// A request of NVIDIA's clients. Other keys, `model` among them, are ignored.
#[derive(Debug, ToSchema)]
#[schema(as = NimRequest)]
struct Request {
    /// What to look for; not blank.
    #[schema(schema_with = schema::query)]
    query: Arc<str>,
    /// What to rank, at least one.
    #[schema(schema_with = schema::list_of_passages)]
    passages: Vec<Passage>,
    /// `END` cuts pairs that are too long, `NONE` refuses them (422). Absent: they are cut.
    #[schema(schema_with = schema::truncate, required = false)]
    truncate: bool,
}

fn request(fields: &mut Fields<'_, '_>) -> Option<Request> {
    let read = |raw| Passage::read(raw, &[]);
    let query = fields.required("query", read);
    let passages = fields.each("passages", read);
    let truncate = fields.optional("truncate", truncates);
    Some(Request {
        query: query?.text,
        passages: passages?,
        truncate: truncate.unwrap_or(true),
    })
}

fn truncates(raw: &RawValue) -> Result<bool, Problem> {
    match text(raw)?.to_ascii_uppercase().as_str() {
        "END" => Ok(true),
        "NONE" => Ok(false),
        _ => Err(Problem::NotATruncation),
    }
}

impl Body for Request {
    fn job(&self) -> Job {
        Job {
            queries: vec![Arc::clone(&self.query)],
            documents: texts(&self.passages),
            truncation: Truncation {
                refuse: !self.truncate,
                ..Truncation::default()
            },
        }
    }

    fn limit(&self) -> Option<usize> {
        None
    }

    fn answer(&self, served: &Served<'_>) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&Response::new(served))
    }
}

/// The answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = NimResponse)]
struct Response {
    /// All passages, best first.
    rankings: Vec<Ranked>,
    usage: Usage,
}

/// The score of a passage.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = NimRanking)]
struct Ranked {
    /// The passage's place in the request.
    index: usize,
    /// What the model said of it.
    logit: f32,
}

impl Response {
    fn new(served: &Served<'_>) -> Self {
        let rankings = served.best(None).map(|score| Ranked {
            index: score.index,
            logit: score.logit,
        });
        Self {
            rankings: rankings.collect(),
            usage: Usage::of(served.ranking),
        }
    }
}
