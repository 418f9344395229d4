//! A text as the results formats send it: a string, or an object that holds one.

use std::sync::Arc;

use serde::{
    Serialize,
    ser::{SerializeMap as _, Serializer},
};
use serde_json::value::RawValue;
use utoipa::{PartialSchema, ToSchema, openapi};

use super::{
    json::{Members, is_null, list, members, text},
    object::Object,
    schema,
    violation::Problem,
};

/// A text for the model, and the object it came in for the way back.
#[derive(Debug)]
pub(crate) struct Passage {
    pub(super) text: Arc<str>,
    /// The object; none if the passage came as a string.
    object: Option<Object>,
}

impl Passage {
    /// Reads a string or an object. Of an object the text is, in this order: the fields that
    /// `rank_fields` names (Cohere v1), `text` (Cohere, Jina), `content` as a string or as a list
    /// of parts (vLLM).
    pub(super) fn read(raw: &RawValue, rank_fields: &[String]) -> Result<Self, Problem> {
        match raw.get().as_bytes().first() {
            Some(b'"') => Ok(Self {
                text: text(raw)?.into(),
                object: None,
            }),
            Some(b'{') => {
                let members = members(raw).and_then(Members::with_text_names)?;
                Ok(Self {
                    text: text_of(&members, rank_fields)?.into(),
                    object: Some(Object::keep(raw)),
                })
            }
            _ => Err(Problem::NotAPassage),
        }
    }

    /// The passage as the request had it.
    pub(super) fn as_it_came(&self) -> AsItCame<'_> {
        match self.object {
            Some(_) => AsItCame::Object(self),
            None => AsItCame::Text(&self.text),
        }
    }

    /// Reads one of a list of documents, where a null counts as an empty text, as in TEI's format:
    /// frameworks send documents without content so.
    pub(super) fn read_document(raw: &RawValue, rank_fields: &[String]) -> Result<Self, Problem> {
        if is_null(raw) {
            return Ok(Self {
                text: Arc::default(),
                object: None,
            });
        }
        Self::read(raw, rank_fields)
    }
}

/// The texts of passages, shared.
pub(super) fn texts(passages: &[Passage]) -> Vec<Arc<str>> {
    passages
        .iter()
        .map(|passage| Arc::clone(&passage.text))
        .collect()
}

/// A passage as the request had it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum AsItCame<'a> {
    /// A passage that came as an object.
    Object(&'a Passage),
    /// A passage that came as a string.
    Text(&'a str),
}

fn text_of(members: &Members<'_>, rank_fields: &[String]) -> Result<String, Problem> {
    let lines = ranked_fields(members, rank_fields)?;
    if !lines.is_empty() {
        return Ok(lines.join("\n"));
    }
    if let Some(value) = members.some("text") {
        return text(value);
    }
    match members.some("content") {
        Some(value) if value.get().starts_with('[') => parts(value),
        Some(value) => text(value),
        None => Err(Problem::NoText),
    }
}

/// `key: value` in the order of `rank_fields`, as Cohere joins them; fields that a document lacks
/// are passed over.
fn ranked_fields(members: &Members<'_>, rank_fields: &[String]) -> Result<Vec<String>, Problem> {
    let fields = rank_fields.iter();
    fields
        .filter_map(|name| Some((name, members.some(name)?)))
        .map(|(name, value)| {
            let value = if value.get().starts_with('"') {
                text(value)?
            } else {
                value.get().to_owned()
            };
            Ok(format!("{name}: {value}"))
        })
        .collect()
}

/// The text parts of a vLLM multi-modal document.
fn parts(raw: &RawValue) -> Result<String, Problem> {
    let texts: Vec<String> = list(raw)?
        .into_iter()
        .map(|part| {
            let part = members(part)?;
            match part.some("type").map(text).transpose()?.as_deref() {
                Some("text") | None => text(part.some("text").ok_or(Problem::NoText)?),
                Some(_) => Err(Problem::NotOnlyText),
            }
        })
        .collect::<Result<_, Problem>>()?;
    if texts.is_empty() {
        return Err(Problem::NoText);
    }
    Ok(texts.join("\n"))
}

impl Serialize for Passage {
    /// The object as it came, with a `text` if it had none.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Some(object) = &self.object {
            return object.serialize_with("text", &&*self.text, false, serializer);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("text", &*self.text)?;
        map.end()
    }
}

impl PartialSchema for Passage {
    fn schema() -> openapi::RefOr<openapi::Schema> {
        schema::passage()
    }
}

impl ToSchema for Passage {}
