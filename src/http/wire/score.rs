//! vLLM's `/score` (`vllm/entrypoints/pooling/score` there): texts against texts, one to one, one to many, or pair by
//! pair, which is how several queries go in one request. Scores come back in the order of the request.

use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::json::{Fields, Members, boolean};
use super::passage::Passage;
use super::results::truncation;
use super::violation::{Problem, Violations};
use super::{Reason, Served, Usage, created};
use crate::{rerank::Job, tokenizer::Truncation};

/// The pairs of fields that mean the same, as vLLM's versions named them.
const PAIRS: [(&str, &str); 4] = [
    ("text_1", "text_2"),
    ("data_1", "data_2"),
    ("queries", "documents"),
    ("queries", "items"),
];

/// Checked: one query, or as many as documents.
#[derive(Debug)]
pub(crate) struct Request {
    queries: Vec<Passage>,
    documents: Vec<Passage>,
    raw_scores: bool,
    truncation: Truncation,
}

pub(super) fn parse(
    raw: &RawValue,
    members: &Members<'_>,
    mut found: Violations,
) -> Result<Request, Reason> {
    let request = request(members, &mut Fields::new(raw, members, &mut found));
    found.settle(request)
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

impl Request {
    pub(super) fn job(&self) -> Job {
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
pub(crate) struct Response<'a> {
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
                score: score.value(request.raw_scores),
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
