//! The `RAGFab` dialect of `POST /rerank`: bytes in, checked request out, and the answer's shape.
//!
//! The service this one replaces was a `FastAPI` 0.115 application with `pydantic` 2.10 models on
//! Python 3.11. Its callers depend on its status codes and error bodies, so those are reproduced
//! here to the letter; `tests/tools/ragfab_reference.py` runs the original models and records
//! their answers in `tests/fixtures/requests/ragfab.json`.
//!
//! We differ on purpose in a few places, each marked in that fixture: a document needs only
//! `content`, all its fields come back byte for byte with `rerank_score` added, a null `top_k`
//! means the default instead of a crash, and a negative one is refused instead of cutting off the
//! tail. Nothing here knows the web framework, the model, or the other formats.

use std::{borrow::Cow, sync::Arc};

use serde::{Serialize, ser::Serializer};
use serde_json::{json, value::RawValue};
use utoipa::{PartialSchema, ToSchema, openapi};

use super::{
    format::{Body, Format},
    integer::natural,
    json::{Fields, Members, members, text},
    object::Object,
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
    name: "ragfab",
    family: Family::Ragfab,
    parse,
    request: || of::<Request>(),
    response: || of::<Response<'_>>(),
    example: |query, passages| {
        let documents: Vec<_> = passages
            .iter()
            .map(|text| json!({ "content": text }))
            .collect();
        json!({ "query": query, "documents": documents })
    },
    schemas: |all| {
        collect::<Request>(all);
        collect::<Response<'_>>(all);
    },
};

/// Number of documents returned when `top_k` is absent (`RerankRequest.top_k` in the original).
const DEFAULT_TOP_K: usize = 5;

/// The field we add to each document, replacing one of the same name that came in.
const SCORE_FIELD: &str = "rerank_score";

/// A request that passed every check of the original (`RerankRequest` and its two 400 tests).
#[derive(Debug, ToSchema)]
#[schema(as = RagfabRequest)]
struct Request {
    /// What to look for; not blank.
    #[schema(schema_with = schema::query_text)]
    #[schema(value_type = String)]
    query: Arc<str>,
    /// At least one; each comes back with all its fields.
    #[schema(schema_with = schema::ragfab_documents)]
    documents: Vec<Document>,
    /// How many to return at most.
    #[schema(schema_with = schema::natural, required = false, default = 5)]
    top_k: usize,
}

impl Body for Request {
    fn job(&self) -> Job {
        self.job()
    }

    fn limit(&self) -> Option<usize> {
        Some(self.top_k)
    }

    fn answer(&self, served: &Served<'_>) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&Response::new(self, served))
    }
}

impl Request {
    /// The query against the documents' contents, in input order.
    pub(super) fn job(&self) -> Job {
        let documents = self.documents.iter();
        Job {
            queries: vec![Arc::clone(&self.query)],
            documents: documents
                .map(|document| Arc::clone(&document.content))
                .collect(),
            ..Job::default()
        }
    }
}

/// One document: its text for the model, and everything the caller sent for the way back.
///
/// The original declared seven fields and dropped all others (`DocumentItem`). We require only
/// `content` and keep the rest as the caller's own bytes, so that no number loses a digit and no
/// field changes its type on the round trip.
#[derive(Debug)]
struct Document {
    /// Contains `content`.
    object: Object,
    /// The decoded `content`; may be blank.
    content: Arc<str>,
}

/// The answer of the original (`RerankResponse`), with the score in each document.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RagfabResponse)]
struct Response<'a> {
    documents: Vec<Ranked<'a>>,
    count: usize,
    model: &'a str,
    /// In seconds.
    processing_time: f64,
}

impl<'a> Response<'a> {
    /// The best `top_k` documents of a request.
    pub(super) fn new(request: &'a Request, served: &Served<'a>) -> Self {
        let best = served.ranking.scores.iter().take(request.top_k);
        let documents: Vec<_> = best
            .map(|score| Ranked {
                document: &request.documents[score.index],
                score: score.sigmoid,
            })
            .collect();
        Self {
            count: documents.len(),
            documents,
            model: served.model,
            processing_time: served.elapsed.as_secs_f64(),
        }
    }
}

/// A document of the answer: the fields that came in, and its score as `rerank_score`.
#[derive(Debug)]
struct Ranked<'a> {
    document: &'a Document,
    score: f64,
}

impl PartialSchema for Ranked<'_> {
    fn schema() -> openapi::RefOr<openapi::Schema> {
        schema::ragfab_ranked()
    }
}

impl ToSchema for Ranked<'_> {
    fn name() -> Cow<'static, str> {
        "RagfabRankedDocument".into()
    }
}

impl Serialize for Ranked<'_> {
    /// Puts the score where the caller's own `rerank_score` was, else last, as a Python
    /// `document["rerank_score"] = score` would.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let object = &self.document.object;
        object.serialize_with(SCORE_FIELD, &self.score, true, serializer)
    }
}

/// The fields that the original required of a document (`DocumentItem`): whoever sends them all
/// means this format.
const ORIGINAL_FIELDS: [&str; 7] = [
    "chunk_id",
    "document_id",
    "document_title",
    "document_source",
    "content",
    "chunk_index",
    "similarity",
];

/// Whether a document is the original's, whatever else the body says.
pub(super) fn is_original(document: &Members<'_>) -> bool {
    ORIGINAL_FIELDS
        .iter()
        .all(|field| document.get(field).is_some())
}

/// Checks a whole body against the two models of the original, then for a blank query and an empty
/// list.
fn parse(
    raw: &RawValue,
    members: &Members<'_>,
    found: Violations,
) -> Result<Box<dyn Body>, Reason> {
    Ok(Box::new(checked(raw, members, found)?))
}

fn checked(
    raw: &RawValue,
    members: &Members<'_>,
    mut found: Violations,
) -> Result<Request, Reason> {
    let request = request(raw, members, &mut found);
    let request = found.settle(request)?;
    check_emptiness(&request.query, &request.documents)?;
    Ok(request)
}

/// The top level; all fields are looked at before the first bad one fails it.
fn request(raw: &RawValue, members: &Members<'_>, found: &mut Violations) -> Option<Request> {
    let mut fields = Fields::new(raw, members, found);
    let query = fields.required("query", text);
    let documents = fields.documents("documents");
    let documents = documents.map(|items| list_of_documents(items, found));
    let top_k = Fields::new(raw, members, found).optional("top_k", natural);
    Some(Request {
        query: query?.into(),
        documents: documents?,
        top_k: top_k.unwrap_or(DEFAULT_TOP_K),
    })
}

/// The list, without the documents that have violations: they fail the request anyway.
fn list_of_documents(items: Vec<&RawValue>, found: &mut Violations) -> Vec<Document> {
    let items = items.into_iter().enumerate();
    items
        .filter_map(|(document_idx, item)| document(item, document_idx, found))
        .collect()
}

fn document(raw: &RawValue, document_idx: usize, found: &mut Violations) -> Option<Document> {
    let itself = [Step::Field("documents"), Step::Index(document_idx)];
    let content = [itself[0], itself[1], Step::Field("content")];
    let members = members(raw).and_then(Members::with_text_names);
    let members = found.keep(raw, &itself, members)?;
    let value = found.keep(raw, &content, members.require("content"))?;
    let content = found.keep(value, &content, text(value))?;
    Some(Document {
        content: content.into(),
        object: Object::keep(raw),
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::{Value, json};
    use std::time::Duration;

    use super::super::syntax;
    use super::*;
    use crate::rerank::{Ranking, Score};

    const FIXTURE: &str = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/requests/ragfab.json"
    ));

    /// A row of the fixture that `tests/tools/ragfab_reference.py` writes.
    #[derive(Deserialize)]
    struct Row {
        name: String,
        content_type: Option<String>,
        body: Option<String>,
        body_base64: Option<String>,
        status: u16,
        response: Value,
    }

    impl Row {
        fn body(&self) -> Vec<u8> {
            match (&self.body, &self.body_base64) {
                (Some(text), None) => text.clone().into_bytes(),
                (None, Some(encoded)) => decode_base64(encoded),
                _ => panic!("{}: needs one kind of body", self.name),
            }
        }
    }

    fn decode_base64(text: &str) -> Vec<u8> {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let digits = text.trim_end_matches('=').bytes();
        let values = digits.map(|digit| alphabet.iter().position(|&c| c == digit).unwrap());
        let bits: Vec<usize> = values
            .flat_map(|value| (0..6).rev().map(move |bit| value >> bit & 1))
            .collect();
        let bytes = bits.chunks_exact(8);
        bytes
            .map(|byte| {
                byte.iter()
                    .fold(0, |acc, &bit| acc << 1 | u8::from(bit == 1))
            })
            .collect()
    }

    /// Reads a body as this format, whatever the others would make of it.
    fn read(content_type: Option<&str>, body: &[u8]) -> Result<Request, Reason> {
        let (raw, members) = syntax::read(content_type, body)?;
        checked(raw, &members, Violations::new(200_000))
    }

    fn parse(body: &[u8]) -> Result<Request, Reason> {
        read(None, body)
    }

    /// The stub model of `tests/tools/ragfab_reference.py`.
    fn stub_score(content: &str) -> f64 {
        f64::from(content.chars().map(u32::from).sum::<u32>() % 101) / 100.0
    }

    /// The answer's text, ranked by the stub model.
    fn ranked(request: &Request) -> String {
        let job = request.job();
        let scores = job.documents.iter().enumerate().map(|(index, text)| Score {
            index,
            logit: 0.0,
            sigmoid: stub_score(text),
        });
        let mut ranking = Ranking {
            scores: scores.collect(),
            ..Ranking::default()
        };
        let best_first = |a: &Score, b: &Score| b.sigmoid.total_cmp(&a.sigmoid);
        ranking.scores.sort_by(best_first);
        let served = Served {
            ranking: &ranking,
            model: "BAAI/bge-reranker-v2-m3",
            id: "id",
            elapsed: Duration::from_millis(125),
        };
        serde_json::to_string(&Response::new(request, &served)).unwrap()
    }

    fn answer(content_type: Option<&str>, body: &[u8]) -> (u16, Value) {
        match read(content_type, body) {
            Ok(request) => (200, serde_json::from_str(&ranked(&request)).unwrap()),
            Err(rejection) => (rejection.status(), json!({ "detail": rejection.detail() })),
        }
    }

    /// Sends one document and returns it as it comes back, as text, with a score of 0.2.
    fn echo(document: &str) -> String {
        let body = format!(r#"{{"query":"q","documents":[{document}]}}"#);
        let request = parse(body.as_bytes()).unwrap();
        let ranked = Ranked {
            document: &request.documents[0],
            score: 0.2,
        };
        serde_json::to_string(&ranked).unwrap()
    }

    #[track_caller]
    fn check_echo(document: &str, expected: &str) {
        assert_eq!(echo(document), expected);
    }

    #[test]
    fn answers_as_the_original_does() {
        let rows: Vec<Row> = serde_json::from_str(FIXTURE).unwrap();
        assert!(rows.len() >= 200, "only {} rows", rows.len());
        for row in rows {
            let (status, answer) = answer(row.content_type.as_deref(), &row.body());
            assert_eq!(status, row.status, "{}", row.name);
            if row.response["detail"][0]["type"] == "json_invalid" {
                // Python's words for it are not kept.
                assert_eq!(answer["detail"][0]["type"], "json_invalid", "{}", row.name);
            } else {
                assert_eq!(answer, row.response, "{}", row.name);
            }
        }
    }

    #[test]
    fn echoes_numbers_to_the_digit() {
        let document = r#"{"a":1.0,"b":1e5,"c":12345678901234567890123,"d":-0.0,"e":1E+400,"f":-0,"content":"x"}"#;
        let expected = document.replace("\"x\"}", "\"x\",\"rerank_score\":0.2}");
        check_echo(document, &expected);
    }

    #[test]
    fn echoes_strings_and_nested_values_byte_for_byte() {
        let document =
            r#"{"content":"\u00e9\/","lone":"\ud800","metadata":{ "a" : [1, {}], "a":2 }}"#;
        let expected = r#"{"content":"\u00e9\/","lone":"\ud800","metadata":{ "a" : [1, {}], "a":2 },"rerank_score":0.2}"#;
        check_echo(document, expected);
        let body = format!(r#"{{"query":"\u00e9","documents":[{document}]}}"#);
        let request = parse(body.as_bytes()).unwrap();
        assert_eq!(&*request.query, "é");
        assert_eq!(&*request.documents[0].content, "é/");
    }

    #[test]
    fn keeps_the_first_place_and_the_last_value_of_a_repeated_field() {
        let document = r#"{"a":1,"content":"x","\u0061":2,"content":"y","b":3,"a":4}"#;
        check_echo(
            document,
            r#"{"a":4,"content":"y","b":3,"rerank_score":0.2}"#,
        );
    }

    #[test]
    fn replaces_an_incoming_score_in_place_and_once() {
        let document =
            r#"{"rerank_score":"x","content":"x","rerank_score":9,"rerank\u005fscore":1}"#;
        check_echo(document, r#"{"rerank_score":0.2,"content":"x"}"#);
    }

    #[test]
    fn answers_with_the_four_keys_of_the_original_in_its_order() {
        let request = parse(br#"{"query":"q","documents":[{"content":"x"}]}"#).unwrap();
        let expected = r#"{"documents":[{"content":"x","rerank_score":0.19}],"count":1,"model":"BAAI/bge-reranker-v2-m3","processing_time":0.125}"#;
        assert_eq!(ranked(&request), expected);
    }

    #[test]
    fn depth_and_width_of_a_body_are_survived() {
        let deep = "[".repeat(200_000) + &"]".repeat(200_000);
        let nested = format!(r#"{{"content":"x","deep":{deep}}}"#);
        let expected = nested.replace("]}", "],\"rerank_score\":0.2}");
        check_echo(&nested, &expected);

        let wrong = format!(r#"{{"query":{deep},"documents":[{{"content":"x"}}]}}"#);
        let (status, response) = answer(None, wrong.as_bytes());
        assert_eq!(status, 422);
        let input = response["detail"][0]["input"].as_str().unwrap();
        assert_eq!(
            input,
            format!("{}…", "[".repeat(200)),
            "no more of it than helps"
        );

        let unclosed = &deep[..200_000];
        let (_, response) = answer(None, unclosed.as_bytes());
        let message = response["detail"][0]["msg"].as_str().unwrap();
        assert!(message.starts_with("not JSON: "), "{message}");

        let wide = format!(r#"{{"query":"q","documents":[{}1]}}"#, "1,".repeat(99_999));
        let (_, response) = answer(None, wide.as_bytes());
        assert_eq!(response["detail"].as_array().unwrap().len(), 1000);
    }

    /// Any JSON value, nested a few levels.
    fn any_value() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        scalar.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(Value::from),
                vec((any::<String>(), inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// One edit of a body: where, how many bytes are cut out, and what is put there.
    fn any_edit() -> impl Strategy<Value = (usize, usize, Vec<u8>)> {
        let token = prop_oneof![
            "[\\[\\]{}:,\"\\\\u0-9.eE+-]{0,4}".prop_map(String::into_bytes),
            Just(b"null".to_vec()),
            Just(br"\ud800".to_vec()),
            vec(any::<u8>(), 0..4),
        ];
        (any::<usize>(), 0..6_usize, token)
    }

    proptest! {
        #[test]
        fn any_bytes_get_an_answer(body in vec(any::<u8>(), 0..200)) {
            let (status, _) = answer(None, &body);
            prop_assert!([400, 422].contains(&status));
        }

        #[test]
        fn any_edited_body_gets_an_answer(edits in vec(any_edit(), 1..6)) {
            let mut body = br#"{"query": "o\u00f9", "documents": [{"content": "x", "n": 1.5e3},
                {"content": "\ud83d\ude00", "rerank_score": null}], "top_k": "2"}"#.to_vec();
            for (start, n_cut, token) in edits {
                let start = start % (body.len() + 1);
                let end = (start + n_cut).min(body.len());
                body.splice(start..end, token);
            }
            let (status, _) = answer(None, &body);
            prop_assert!([200, 400, 422].contains(&status));
        }

        #[test]
        fn any_top_k_gets_an_answer(top_k in "\"?[ +-]{0,2}[0-9_]{0,4}[.eE]?[+-]?[0-9_]{0,4}\"?") {
            let body = format!(r#"{{"query":"q","documents":[{{"content":"x"}}],"top_k":{top_k}}}"#);
            let (status, _) = answer(None, body.as_bytes());
            prop_assert!([200, 422].contains(&status));
        }

        #[test]
        fn any_fields_come_back(fields in vec((any::<String>(), any_value()), 0..6), at in 0..7_usize) {
            let mut fields = fields;
            fields.retain(|(name, _)| name != SCORE_FIELD && name != "content");
            fields.insert(at.min(fields.len()), ("content".into(), "x".into()));
            let document = Value::Object(fields.into_iter().collect()).to_string();
            let expected = format!(r#"{},"rerank_score":0.2}}"#, &document[..document.len() - 1]);
            prop_assert_eq!(echo(&document), expected);
        }
    }
}
