//! The format with `results`, which Cohere, Jina, vLLM, Infinity, llama.cpp and Xinference share: a
//! union of what their clients send, and an answer that all of them can read.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{json, value::RawValue};
use utoipa::ToSchema;

use super::{
    format::{Body, Format, read},
    integer::natural,
    json::{Fields, Members, boolean, list, text},
    passage::Passage,
    reason::{Reason, check_emptiness},
    route::Family,
    schema::{self, collect, of},
    served::{Served, Usage, created, value},
    violation::Problem,
    violations::Violations,
};
use crate::{
    rerank::Job,
    tokenizer::{MIN_LENGTH, Side, Truncation},
};

/// The format.
pub(super) const FORMAT: Format = Format {
    name: "results",
    family: Family::Results,
    parse: |raw, members, found| parse(raw, members, found, Echo::Object),
    request: || of::<Request>(),
    response: || of::<Response<'_>>(),
    example: |query, passages| json!({ "query": query, "documents": passages, "top_n": passages.len() }),
    schemas: |all| {
        collect::<Request>(all);
        collect::<Response<'_>>(all);
    },
};

/// The format of Infinity, whose answer repeats documents as strings.
pub(super) const WITH_STRINGS: Format = Format {
    parse: |raw, members, found| parse(raw, members, found, Echo::Text),
    ..FORMAT
};

/// Keys at the top level that only this format has.
const OWN_KEYS: [&str; 6] = [
    "model",
    "top_n",
    "rank_fields",
    "return_documents",
    "max_chunks_per_doc",
    "max_tokens_per_doc",
];

/// Whether a body has a key that tells this format from `RAGFab`'s.
pub(super) fn has_own_key(body: &Members<'_>) -> bool {
    OWN_KEYS.iter().any(|key| body.get(key).is_some())
}

/// A request of Cohere (v1 and v2), Jina, vLLM, Infinity, llama.cpp or Xinference. Other keys,
/// `model` among them, are ignored.
#[derive(Debug, ToSchema)]
#[schema(as = ResultsRequest)]
pub(super) struct Request {
    /// What to look for; not blank.
    #[schema(schema_with = schema::query)]
    query: Arc<str>,
    /// What to rank: strings or objects, at least one.
    #[schema(schema_with = schema::documents)]
    documents: Vec<Passage>,
    /// How many to return; absent, null or 0: all. `top_k` means the same.
    #[schema(schema_with = schema::natural, required = false)]
    top_n: Option<usize>,
    /// Which fields of a document to read, in this order, if it has any of them.
    #[schema(schema_with = schema::names, required = false)]
    #[expect(
        dead_code,
        reason = "used while the documents are read; here for the API's description"
    )]
    rank_fields: Vec<String>,
    /// Whether the answer repeats the documents.
    #[schema(schema_with = schema::boolean, required = false, default = false)]
    return_documents: bool,
    /// Logits instead of scores from 0 to 1. `use_activation: false` means the same.
    #[schema(schema_with = schema::boolean, required = false, default = false)]
    raw_scores: bool,
    /// How many overlapping windows of a long document are read; its score is that of the best.
    #[schema(schema_with = schema::natural, required = false)]
    max_chunks_per_doc: Option<usize>,
    /// Tokens of a document that are read; 0 and -1: no limit.
    #[schema(schema_with = schema::tokens, required = false)]
    max_tokens_per_doc: Option<usize>,
    /// Tokens of the query that are read; 0 and -1: no limit.
    #[schema(schema_with = schema::tokens, required = false)]
    max_tokens_per_query: Option<usize>,
    /// Tokens of query, document and special tokens together; 0 and -1: as many as the server
    /// allows.
    #[schema(schema_with = schema::prompt_tokens, required = false)]
    truncate_prompt_tokens: Option<usize>,
    /// Which end of a text loses tokens: `left` or `right`.
    #[schema(schema_with = schema::side, required = false)]
    truncation_side: Side,
    /// How the answer repeats a document.
    #[schema(ignore)]
    echo: Echo,
}

fn parse(
    raw: &RawValue,
    members: &Members<'_>,
    found: Violations,
    echo: Echo,
) -> Result<Box<dyn Body>, Reason> {
    let request = |fields: &mut Fields<'_, '_>| request(fields, echo);
    read((raw, members), found, request, |it| {
        check_emptiness(&it.query, &it.documents)
    })
}

pub(super) fn request(fields: &mut Fields<'_, '_>, echo: Echo) -> Option<Request> {
    let rank_fields = fields.optional("rank_fields", names).unwrap_or_default();
    let query = fields.required("query", |raw| Ok(Passage::read(raw, &[])?.text));
    let documents = documents(fields, &rank_fields);
    let top_n = fields.optional("top_n", natural);
    let top_k = fields.optional("top_k", natural);
    let return_documents = fields.optional("return_documents", boolean);
    let raw_scores = fields.optional("raw_scores", boolean);
    let use_activation = fields.optional("use_activation", boolean);
    let max_chunks_per_doc = fields.optional("max_chunks_per_doc", natural);
    let truncation = truncation(fields);
    Some(Request {
        query: query?,
        documents: documents?,
        top_n: top_n.or(top_k),
        rank_fields,
        return_documents: return_documents.unwrap_or_default(),
        raw_scores: raw_scores.unwrap_or(use_activation == Some(false)),
        max_chunks_per_doc,
        max_tokens_per_doc: truncation.document_tokens,
        max_tokens_per_query: truncation.query_tokens,
        truncate_prompt_tokens: truncation.max_length,
        truncation_side: truncation.side,
        echo,
    })
}

/// A list, or the one document that vLLM takes without one.
fn documents(fields: &mut Fields<'_, '_>, rank_fields: &[String]) -> Option<Vec<Passage>> {
    if fields.has_list("documents") {
        return fields.each("documents", |raw| Passage::read_document(raw, rank_fields));
    }
    let one = fields.required("documents", |raw| Passage::read(raw, rank_fields))?;
    Some(vec![one])
}

/// vLLM's fields about lengths; 0 and -1 switch one off.
pub(super) fn truncation(fields: &mut Fields<'_, '_>) -> Truncation {
    let mut length = |name| fields.optional(name, tokens).flatten();
    let document_tokens = length("max_tokens_per_doc");
    let query_tokens = length("max_tokens_per_query");
    let max_length = fields.optional("truncate_prompt_tokens", prompt_tokens);
    let side = fields.optional("truncation_side", side);
    Truncation {
        max_length: max_length.flatten(),
        query_tokens,
        document_tokens,
        side: side.unwrap_or_default(),
        ..Truncation::default()
    }
}

/// Names of fields.
pub(super) fn names(raw: &RawValue) -> Result<Vec<String>, Problem> {
    list(raw)?.into_iter().map(text).collect()
}

/// A number of tokens, where 0 and -1 mean as many as there may be.
fn tokens(raw: &RawValue) -> Result<Option<usize>, Problem> {
    match raw.get() {
        "-1" | "\"-1\"" | "-1.0" => Ok(None),
        _ => Ok(Some(natural(raw)?).filter(|&tokens| tokens > 0)),
    }
}

/// A number of tokens for query, document and special tokens together.
fn prompt_tokens(raw: &RawValue) -> Result<Option<usize>, Problem> {
    match tokens(raw)? {
        Some(1..MIN_LENGTH) => Err(Problem::TooFewTokens),
        tokens => Ok(tokens),
    }
}

/// `left` or `right`, in any case.
pub(super) fn side(raw: &RawValue) -> Result<Side, Problem> {
    match text(raw)?.to_ascii_lowercase().as_str() {
        "left" => Ok(Side::Left),
        "right" => Ok(Side::Right),
        _ => Err(Problem::NotASide),
    }
}

impl Request {
    /// What to look for.
    pub(super) fn query(&self) -> &str {
        &self.query
    }

    /// What to rank.
    pub(super) fn documents(&self) -> &[Passage] {
        &self.documents
    }

    /// The text of a document, if the answer repeats it.
    pub(super) fn repeated_text(&self, index: usize) -> Option<&str> {
        self.return_documents.then(|| &*self.documents[index].text)
    }
}

impl Body for Request {
    fn job(&self) -> Job {
        let documents = self.documents.iter();
        Job {
            queries: vec![Arc::clone(&self.query)],
            documents: documents
                .map(|document| Arc::clone(&document.text))
                .collect(),
            truncation: Truncation {
                max_length: self.truncate_prompt_tokens,
                query_tokens: self.max_tokens_per_query,
                document_tokens: self.max_tokens_per_doc,
                side: self.truncation_side,
                chunks: self.max_chunks_per_doc.filter(|&chunks| chunks > 0),
                refuse: false,
            },
        }
    }

    fn limit(&self) -> Option<usize> {
        self.top_n.filter(|&limit| limit > 0)
    }

    fn answer(&self, served: &Served<'_>) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&Response::new(self, served))
    }
}

/// How a document is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Echo {
    /// An object with a `text`, as every client but Infinity's expects.
    Object,
    /// A string, because Infinity's clients read nothing else.
    Text,
}

/// The answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ResultsResponse)]
pub(super) struct Response<'a> {
    /// Of the request; the same as the header `x-request-id`.
    id: &'a str,
    /// `rerank`, or `list` for Voyage.
    object: &'static str,
    /// Seconds since 1970.
    created: u64,
    /// What the server runs, whatever was asked for.
    model: &'a str,
    /// Tokens, as `OpenAI` counts them.
    usage: Usage,
    /// Best first, ties in the order of the request.
    results: Vec<Scored<'a>>,
    /// Tokens, as Cohere counts them.
    meta: Meta,
}

/// A document's score.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ResultsItem)]
struct Scored<'a> {
    /// Its place in the request.
    index: usize,
    /// From 0 to 1, or a logit.
    relevance_score: f64,
    /// Itself, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schema::echo, required = false)]
    document: Option<Document<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Document<'a> {
    Object(&'a Passage),
    Text(&'a str),
}

/// Cohere's counts.
#[derive(Debug, Serialize, ToSchema)]
struct Meta {
    api_version: ApiVersion,
    billed_units: BilledUnits,
    tokens: Tokens,
}

#[derive(Debug, Serialize, ToSchema)]
struct ApiVersion {
    version: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
struct BilledUnits {
    /// One a request; nobody is billed.
    search_units: u32,
}

#[derive(Debug, Serialize, ToSchema)]
struct Tokens {
    input_tokens: usize,
    output_tokens: usize,
}

impl<'a> Response<'a> {
    pub(super) fn new(request: &'a Request, served: &Served<'a>) -> Self {
        let best = served.best(request.top_n);
        let results = best.map(|score| Scored {
            index: score.index,
            relevance_score: value(score, request.raw_scores),
            document: request
                .return_documents
                .then(|| repeat(&request.documents[score.index], request.echo)),
        });
        Self {
            id: served.id,
            object: "rerank",
            created: created(),
            model: served.model,
            usage: Usage::of(served.ranking),
            results: results.collect(),
            meta: Meta {
                api_version: ApiVersion { version: "2" },
                billed_units: BilledUnits { search_units: 1 },
                tokens: Tokens {
                    input_tokens: served.ranking.tokens,
                    output_tokens: 0,
                },
            },
        }
    }
}

impl Response<'_> {
    /// Sets the field `object` to `list`, as Voyage has it.
    pub(super) fn into_list(self) -> Self {
        Self {
            object: "list",
            ..self
        }
    }
}

fn repeat(passage: &Passage, echo: Echo) -> Document<'_> {
    match echo {
        Echo::Object => Document::Object(passage),
        Echo::Text => Document::Text(&passage.text),
    }
}
