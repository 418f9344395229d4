//! The tokens of texts, as text-embeddings-inference's `POST /tokenize` gives them
//! (`router/src/http/types.rs` there).

use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::{
    ToSchema,
    openapi::{
        RefOr, Schema,
        schema::{ArrayBuilder, Object, ObjectBuilder, Type},
    },
};

use super::{
    format::Schemas,
    json::{Fields, boolean, text},
    reason::{Reason, Rejection, check_texts},
    route::Family,
    schema::{self, collect, of},
    syntax,
    violations::Violations,
};
use crate::tokenizer::Described;

/// Texts whose tokens are asked for.
#[derive(Debug)]
pub(crate) struct Request {
    /// One text or several.
    pub(crate) texts: Vec<Arc<str>>,
    /// Whether the special tokens of a single text are wanted too.
    pub(crate) with_special: bool,
}

/// Reads the body of a request, of which no more than `max_texts` texts are kept.
pub(crate) fn parse(
    content_type: Option<&str>,
    body: &[u8],
    max_texts: usize,
) -> Result<Request, Rejection> {
    let request = syntax::read(content_type, body).and_then(|(raw, members)| {
        let mut found = Violations::new(max_texts);
        let request = request(&mut Fields::new(raw, &members, &mut found));
        let request = found.settle(request)?;
        check_texts(&request.texts)?;
        Ok(request)
    });
    request.map_err(|reason: Reason| Rejection {
        family: Family::Tei,
        reason,
    })
}

fn request(fields: &mut Fields<'_, '_>) -> Option<Request> {
    let shared = |raw: &RawValue| text(raw).map(Arc::from);
    let texts = if fields.has_list("inputs") {
        fields.each("inputs", shared)
    } else {
        fields.required("inputs", shared).map(|text| vec![text])
    };
    let with_special = fields.optional("add_special_tokens", boolean);
    Some(Request {
        texts: texts?,
        with_special: with_special.unwrap_or(true),
    })
}

/// A token of a text.
#[derive(Debug, Serialize, ToSchema)]
struct Token {
    id: u32,
    /// What it stands for in the text; the name of a special token.
    text: String,
    special: bool,
    /// The byte of the text at which it begins; null for a special token.
    start: Option<usize>,
    /// The byte after its last.
    stop: Option<usize>,
}

/// The answer: a list of tokens for each text.
///
/// # Errors
/// None that tokens could cause; `serde_json`'s.
pub(crate) fn answer(texts: Vec<Vec<Described>>) -> serde_json::Result<Vec<u8>> {
    let token = |token: Described| Token {
        id: token.id,
        special: token.span.is_none(),
        start: token.span.as_ref().map(|span| span.start),
        stop: token.span.as_ref().map(|span| span.end),
        text: token.text,
    };
    let tokens = |text: Vec<Described>| text.into_iter().map(token).collect::<Vec<_>>();
    serde_json::to_vec(&texts.into_iter().map(tokens).collect::<Vec<_>>())
}

/// The schema of a request.
pub(crate) fn request_schema() -> RefOr<Schema> {
    let text = || Object::with_type(Type::String);
    let texts = ArrayBuilder::new().items(text()).min_items(Some(1));
    ObjectBuilder::new()
        .property("inputs", schema::either(text().into(), texts.into()))
        .property("add_special_tokens", schema::boolean())
        .required("inputs")
        .into()
}

/// The schema of an answer.
pub(crate) fn response_schema() -> RefOr<Schema> {
    let tokens = ArrayBuilder::new().items(of::<Token>());
    ArrayBuilder::new().items(tokens).into()
}

/// Adds the schemas that those two refer to.
pub(crate) fn schemas(all: &mut Schemas) {
    collect::<Token>(all);
}
