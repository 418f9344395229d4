//! The format of Weaviate's `reranker-transformers` module (`modules/reranker-transformers/clients`
//! there): it sends strings, and reads `scores` with the documents themselves.

use std::sync::Arc;

use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{
    format::{Body, Format, read},
    json::{Fields, Members, text},
    reason::check_emptiness,
    route::Family,
    schema::{self, collect, of},
    served::Served,
};
use crate::rerank::Job;

/// The format.
pub(super) const FORMAT: Format = Format {
    name: "weaviate",
    family: Family::Tei,
    parse: |raw, members, found| {
        let fields = (raw, members);
        read(fields, found, request, |it| {
            check_emptiness(&it.query, &it.documents)
        })
    },
    request: of::<Request>,
    response: of::<Response<'_>>,
    example: |query, passages| json!({ "query": query, "documents": passages, "property": "" }),
    schemas: |all| {
        collect::<Request>(all);
        collect::<Response<'_>>(all);
    },
};

/// Whether a body has the key that only Weaviate sends.
pub(super) fn is_weaviate(body: &Members<'_>) -> bool {
    body.get("property").is_some() && body.get("documents").is_some()
}

/// A request of Weaviate.
#[derive(Debug, ToSchema)]
#[schema(as = WeaviateRequest)]
struct Request {
    /// What to look for; not blank.
    #[schema(schema_with = schema::query_text)]
    query: Arc<str>,
    /// What to rank, at least one.
    #[schema(schema_with = schema::strings)]
    documents: Vec<Arc<str>>,
    /// The property of the objects that was searched; it comes back.
    #[schema(schema_with = schema::text)]
    property: String,
}

fn request(fields: &mut Fields<'_, '_>) -> Option<Request> {
    let query = fields.required("query", text);
    let documents = fields.each("documents", |raw| text(raw).map(Arc::from));
    let property = fields.required("property", text);
    Some(Request {
        query: query?.into(),
        documents: documents?,
        property: property?,
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
        None
    }

    fn answer(&self, served: &Served<'_>) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&Response::new(self, served))
    }
}

/// The answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WeaviateResponse)]
struct Response<'a> {
    query: &'a str,
    property: &'a str,
    /// All documents, best first.
    scores: Vec<Scored<'a>>,
}

/// A document and its score.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WeaviateScore)]
struct Scored<'a> {
    document: &'a str,
    /// How well the document answers, from 0 to 1.
    score: f64,
}

impl<'a> Response<'a> {
    fn new(request: &'a Request, served: &Served<'_>) -> Self {
        let scores = served.best(None).map(|score| Scored {
            document: &request.documents[score.index],
            score: score.sigmoid,
        });
        Self {
            query: &request.query,
            property: &request.property,
            scores: scores.collect(),
        }
    }
}
