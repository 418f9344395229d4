//! The classification path of text-embeddings-inference, `POST /predict`
//! (`router/src/http/types.rs` there), for a model with one label: pairs of texts, and a score for
//! each.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{json, value::RawValue};
use utoipa::{
    ToSchema,
    openapi::{Ref, schema::ArrayBuilder},
};

use super::{
    format::{Body, Format, read},
    json::{Fields, boolean, list, text},
    reason::check_texts,
    results::side,
    route::Family,
    schema::{self, collect, of},
    served::{Served, value},
    violation::Problem,
};
use crate::{
    rerank::Job,
    tokenizer::{Side, Truncation},
};

/// The name of the only label, as models without names of their own have it.
const LABEL: &str = "LABEL_0";

/// The format.
pub(super) const FORMAT: Format = Format {
    name: "predict",
    family: Family::Tei,
    parse: |raw, members, found| {
        let fields = (raw, members);
        read(fields, found, request, |it| check_texts(&it.pairs))
    },
    request: || Ref::from_schema_name("PredictRequest").into(),
    response: || {
        let of_pair = ArrayBuilder::new().items(of::<Prediction>());
        ArrayBuilder::new()
            .items(schema::either(of::<Prediction>(), of_pair.into()))
            .into()
    },
    example: |query, passages| {
        let pairs: Vec<_> = passages.iter().map(|text| [query, *text]).collect();
        json!({ "inputs": pairs })
    },
    schemas: |all| {
        all.push(("PredictRequest".to_owned(), schema::predict_request()));
        collect::<Prediction>(all);
    },
};

/// A pair of texts, or a list of pairs.
#[derive(Debug)]
struct Request {
    pairs: Vec<[Arc<str>; 2]>,
    /// Whether the pairs came as a list; the answer is one then too.
    is_list: bool,
    truncate: bool,
    truncation_direction: Side,
    raw_scores: bool,
}

fn request(fields: &mut Fields<'_, '_>) -> Option<Request> {
    let is_list = fields.has_list_of_lists("inputs");
    let pairs = if is_list {
        fields.each("inputs", pair)
    } else {
        fields.required("inputs", pair).map(|pair| vec![pair])
    };
    let truncate = fields.optional("truncate", boolean);
    let truncation_direction = fields.optional("truncation_direction", side);
    let raw_scores = fields.optional("raw_scores", boolean);
    Some(Request {
        pairs: pairs?,
        is_list,
        truncate: truncate.unwrap_or(true),
        truncation_direction: truncation_direction.unwrap_or_default(),
        raw_scores: raw_scores.unwrap_or_default(),
    })
}

fn pair(raw: &RawValue) -> Result<[Arc<str>; 2], Problem> {
    match list(raw).map_err(|_| Problem::NotAPair)?[..] {
        [query, document] => Ok([text(query)?.into(), text(document)?.into()]),
        _ => Err(Problem::NotAPair),
    }
}

impl Body for Request {
    fn job(&self) -> Job {
        let texts = |place: usize| {
            self.pairs
                .iter()
                .map(|pair| Arc::clone(&pair[place]))
                .collect()
        };
        Job {
            queries: texts(0),
            documents: texts(1),
            truncation: Truncation {
                side: self.truncation_direction,
                refuse: !self.truncate,
                ..Truncation::default()
            },
        }
    }

    fn limit(&self) -> Option<usize> {
        None
    }

    fn answer(&self, served: &Served<'_>) -> serde_json::Result<Vec<u8>> {
        let mut scores: Vec<_> = served.best(None).collect();
        scores.sort_by_key(|score| score.index);
        let predictions = scores.into_iter().map(|score| Prediction {
            score: value(score, self.raw_scores),
            label: LABEL,
        });
        if self.is_list {
            serde_json::to_vec(&predictions.map(|one| [one]).collect::<Vec<_>>())
        } else {
            serde_json::to_vec(&predictions.collect::<Vec<_>>())
        }
    }
}

/// The score of a pair.
#[derive(Debug, Serialize, ToSchema)]
struct Prediction {
    /// From 0 to 1, or a logit.
    score: f64,
    label: &'static str,
}
