//! The format of Alibaba's DashScope (`text-rerank`, "Text reranking" in Model Studio's reference):
//! query and documents stand under `input`, and `output` comes back. Its OpenAI-compatible path
//! takes the format with `results`.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{json, value::RawValue};
use utoipa::{ToSchema, openapi::Ref};

use super::{
    format::{Body, Format},
    integer::natural,
    json::{Fields, Members, boolean, members},
    passage::{Passage, texts},
    reason::{Reason, check_emptiness},
    route::Family,
    schema::{self, collect, of},
    served::Served,
    violation::Step,
    violations::Violations,
};
use crate::rerank::Job;

/// The format.
pub(super) const FORMAT: Format = Format {
    name: "dashscope",
    family: Family::Results,
    parse,
    request: || Ref::from_schema_name("DashscopeRequest").into(),
    response: of::<Response<'_>>,
    example: |query, passages| json!({ "model": "any", "input": { "query": query, "documents": passages } }),
    schemas: |all| {
        all.push(("DashscopeRequest".to_owned(), schema::dashscope_request()));
        collect::<Response<'_>>(all);
    },
};

/// Whether a body has its documents where only this format has them.
pub(super) fn is_dashscope(body: &Members<'_>) -> bool {
    body.some("input")
        .is_some_and(|input| input.get().starts_with('{'))
}

/// A request of DashScope's clients. Other keys, `model` among them, are ignored.
#[derive(Debug)]
struct Request {
    query: Arc<str>,
    documents: Vec<Passage>,
    top_n: Option<usize>,
    return_documents: bool,
}

fn parse(
    raw: &RawValue,
    body: &Members<'_>,
    mut found: Violations,
) -> Result<Box<dyn Body>, Reason> {
    let request = request(raw, body, &mut found);
    let request = found.settle(request)?;
    check_emptiness(&request.query, &request.documents)?;
    Ok(Box::new(request))
}

fn request(raw: &RawValue, body: &Members<'_>, found: &mut Violations) -> Option<Request> {
    let input = found.keep(raw, &[Step::Field("input")], body.require("input"))?;
    let inside = found.keep(input, &[Step::Field("input")], members(input))?;
    let mut fields = Fields::new(input, &inside, found);
    let query = fields.required("query", |raw| Ok(Passage::read(raw, &[])?.text));
    let documents = fields.each("documents", |raw| Passage::read_document(raw, &[]));
    let (top_n, return_documents) = parameters(body, found)?;
    Some(Request {
        query: query?,
        documents: documents?,
        top_n,
        return_documents,
    })
}

/// `top_n` and `return_documents`, where there are parameters.
fn parameters(body: &Members<'_>, found: &mut Violations) -> Option<(Option<usize>, bool)> {
    let Some(parameters) = body.some("parameters") else {
        return Some((None, false));
    };
    let path = [Step::Field("parameters")];
    let inside = found.keep(parameters, &path, members(parameters))?;
    let mut fields = Fields::new(parameters, &inside, found);
    let top_n = fields.optional("top_n", natural);
    let return_documents = fields.optional("return_documents", boolean);
    Some((top_n, return_documents.unwrap_or_default()))
}

impl Body for Request {
    fn job(&self) -> Job {
        Job {
            queries: vec![Arc::clone(&self.query)],
            documents: texts(&self.documents),
            ..Job::default()
        }
    }

    fn limit(&self) -> Option<usize> {
        self.top_n.filter(|&limit| limit > 0)
    }

    fn answer(&self, served: &Served<'_>) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&Response::new(self, served))
    }
}

/// The answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DashscopeResponse)]
struct Response<'a> {
    output: Output<'a>,
    usage: Usage,
    /// The request's id; the same as the header `x-request-id`.
    request_id: &'a str,
}

/// What was found.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DashscopeOutput)]
struct Output<'a> {
    /// Best first.
    results: Vec<Ranked<'a>>,
}

/// A document and its score.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DashscopeRank)]
struct Ranked<'a> {
    /// The document's place in the request.
    index: usize,
    /// How well the document answers, from 0 to 1.
    relevance_score: f64,
    /// An object with the document's text, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::any, required = false)]
    document: Option<&'a Passage>,
}

/// What the request cost.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DashscopeUsage)]
struct Usage {
    total_tokens: usize,
}

impl<'a> Response<'a> {
    fn new(request: &'a Request, served: &Served<'a>) -> Self {
        let results = served.best(request.top_n).map(|score| Ranked {
            index: score.index,
            relevance_score: score.sigmoid,
            document: request
                .return_documents
                .then(|| &request.documents[score.index]),
        });
        Self {
            output: Output {
                results: results.collect(),
            },
            usage: Usage {
                total_tokens: served.ranking.tokens,
            },
            request_id: served.id,
        }
    }
}
