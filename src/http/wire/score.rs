//! vLLM's `/score` (`vllm/entrypoints/pooling/score` there): texts against texts, one to one, one
//! to many, or pair by pair, which is how several queries go in one request. Scores come back in
//! the order of the request.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{json, value::RawValue};
use utoipa::{ToSchema, openapi::Ref};

use super::{
    format::{Body, Format},
    json::{Fields, Members, boolean},
    passage::Passage,
    reason::Reason,
    results::truncation,
    route::Family,
    schema::{self, collect, of},
    served::{Served, Usage, created, value},
    violation::Problem,
    violations::Violations,
};
use crate::{rerank::Job, tokenizer::Truncation};

/// The format.
pub(super) const FORMAT: Format = Format {
    name: "score",
    family: Family::Results,
    parse,
    request: || Ref::from_schema_name("ScoreRequest").into(),
    response: || of::<Response<'_>>(),
    example: |query, passages| json!({ "text_1": query, "text_2": passages }),
    schemas: |all| {
        all.push(("ScoreRequest".to_owned(), schema::score_request()));
        collect::<Response<'_>>(all);
    },
};

/// The pairs of fields that mean the same, as vLLM's versions named them.
const PAIRS: [(&str, &str); 4] = [
    ("text_1", "text_2"),
    ("data_1", "data_2"),
    ("queries", "documents"),
    ("queries", "items"),
];

/// Checked: one query, or as many as documents.
#[derive(Debug)]
struct Request {
    queries: Vec<Passage>,
    documents: Vec<Passage>,
    raw_scores: bool,
    truncation: Truncation,
}

fn parse(
    raw: &RawValue,
    members: &Members<'_>,
    mut found: Violations,
) -> Result<Box<dyn Body>, Reason> {
    let request = request(members, &mut Fields::new(raw, members, &mut found));
    Ok(Box::new(found.settle(request)?))
}

fn request(members: &Members<'_>, fields: &mut Fields<'_, '_>) -> Option<Request> {
    let is_there = |(first, second): &&(&str, &str)| {
        members.some(first).is_some() && members.some(second).is_some()
    };
    let Some(&(first, second)) = PAIRS.iter().find(is_there) else {
        fields.refuse(Problem::NoScorePair);
        return None;
    };
    let queries = passages(fields, first);
    let documents = passages(fields, second);
    let raw_scores = fields.optional("raw_scores", boolean);
    let use_activation = fields.optional("use_activation", boolean);
    let truncation = truncation(fields);
    let (queries, documents) = (queries?, documents?);
    if queries.len() != 1 && queries.len() != documents.len() {
        fields.refuse(Problem::UnequalPairs);
    }
    Some(Request {
        queries,
        documents,
        raw_scores: raw_scores.unwrap_or(use_activation == Some(false)),
        truncation,
    })
}

/// One passage, or a list of at least one.
fn passages(fields: &mut Fields<'_, '_>, name: &'static str) -> Option<Vec<Passage>> {
    let read = |raw| Passage::read(raw, &[]);
    if !fields.has_list(name) {
        return Some(vec![fields.required(name, read)?]);
    }
    let passages = fields.each(name, read)?;
    if passages.is_empty() {
        return fields.required(name, |_| Err(Problem::EmptyList));
    }
    Some(passages)
}

impl Body for Request {
    fn job(&self) -> Job {
        self.job()
    }

    fn limit(&self) -> Option<usize> {
        None
    }

    fn answer(&self, served: &Served<'_>) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&Response::new(self, served))
    }
}

impl Request {
    fn job(&self) -> Job {
        let texts = |passages: &[Passage]| passages.iter().map(|p| Arc::clone(&p.text)).collect();
        Job {
            queries: texts(&self.queries),
            documents: texts(&self.documents),
            truncation: self.truncation,
        }
    }
}

/// The answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ScoreResponse)]
struct Response<'a> {
    /// Of the request; the same as the header `x-request-id`.
    id: &'a str,
    /// `list`.
    object: &'static str,
    /// Seconds since 1970.
    created: u64,
    /// What the server runs.
    model: &'a str,
    /// In the order of the request.
    data: Vec<Item>,
    usage: Usage,
}

/// The score of a pair.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ScoreItem)]
struct Item {
    /// Its place in the request.
    index: usize,
    /// `score`.
    object: &'static str,
    /// From 0 to 1, or a logit.
    score: f64,
}

impl<'a> Response<'a> {
    pub(super) fn new(request: &Request, served: &Served<'a>) -> Self {
        let mut data: Vec<Item> = served
            .best(None)
            .map(|score| Item {
                index: score.index,
                object: "score",
                score: value(score, request.raw_scores),
            })
            .collect();
        data.sort_by_key(|item| item.index);
        Self {
            id: served.id,
            object: "list",
            created: created(),
            model: served.model,
            data,
            usage: Usage::of(served.ranking),
        }
    }
}
