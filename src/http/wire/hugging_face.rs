//! The format of Elasticsearch's `hugging_face` inference service with the task `rerank`
//! (`HuggingFaceRerankRequestEntity` and `HuggingFaceRerankResponseEntity` there): it sends
//! `documents` and reads a bare array. It fails on a field that it does not know.

use std::sync::Arc;

use serde::Serialize;
use serde_json::json;
use utoipa::{ToSchema, openapi::schema::ArrayBuilder};

use super::{
    format::{Body, Format, read},
    integer::natural,
    json::{Fields, boolean, text},
    reason::check_emptiness,
    route::Family,
    schema::{self, collect, of},
    served::Served,
};
use crate::rerank::Job;

/// The format.
pub(super) const FORMAT: Format = Format {
    name: "hugging_face",
    family: Family::Tei,
    parse: |raw, members, found| {
        let fields = (raw, members);
        read(fields, found, request, |it| {
            check_emptiness(&it.query, &it.documents)
        })
    },
    request: of::<Request>,
    response: || ArrayBuilder::new().items(of::<Ranked<'_>>()).into(),
    example: |query, passages| json!({ "query": query, "documents": passages, "return_documents": true }),
    schemas: |all| {
        collect::<Request>(all);
        collect::<Ranked<'_>>(all);
    },
};

/// A request of Elasticsearch.
#[derive(Debug, ToSchema)]
#[schema(as = HuggingFaceRequest)]
struct Request {
    /// What to look for; not blank.
    #[schema(schema_with = schema::query_text)]
    query: Arc<str>,
    /// What to rank, at least one.
    #[schema(schema_with = schema::strings)]
    documents: Vec<Arc<str>>,
    /// Whether the answer repeats the documents.
    #[schema(schema_with = schema::boolean, required = false, default = false)]
    return_documents: bool,
    /// How many to return; absent, null or 0: all.
    #[schema(schema_with = schema::natural, required = false)]
    top_n: Option<usize>,
}

fn request(fields: &mut Fields<'_, '_>) -> Option<Request> {
    let query = fields.required("query", text);
    let documents = fields.each("documents", |raw| text(raw).map(Arc::from));
    let return_documents = fields.optional("return_documents", boolean);
    let top_n = fields.optional("top_n", natural);
    Some(Request {
        query: query?.into(),
        documents: documents?,
        return_documents: return_documents.unwrap_or_default(),
        top_n,
    })
}

impl Body for Request {
    fn job(&self) -> Job {
        Job {
            queries: vec![Arc::clone(&self.query)],
            documents: self.documents.clone(),
            ..Job::default()
        }
    }

    fn limit(&self) -> Option<usize> {
        self.top_n.filter(|&limit| limit > 0)
    }

    fn answer(&self, served: &Served<'_>) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&response(self, served))
    }
}

/// A document and its score.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HuggingFaceRank)]
struct Ranked<'a> {
    /// The document's place in the request.
    index: usize,
    /// How well the document answers, from 0 to 1.
    score: f64,
    /// The document, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    text: Option<&'a str>,
}

/// The answer, best first.
fn response<'a>(request: &'a Request, served: &Served<'_>) -> Vec<Ranked<'a>> {
    let best = served.best(request.top_n);
    best.map(|score| Ranked {
        index: score.index,
        score: score.sigmoid,
        text: request
            .return_documents
            .then(|| &*request.documents[score.index]),
    })
    .collect()
}
