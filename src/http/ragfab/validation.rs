//! The shape of a request, checked as `pydantic` 2.10 did it: every violation is reported, in the
//! order of the fields of the original's models.
//!
//! Values are looked at as raw JSON, so that what is only passed through is never rewritten.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::top_k::top_k;
use super::violation::{Problem, Step, Violation, Violations};
use super::{DEFAULT_TOP_K, Document, Request};

const QUERY: &[Step] = &[Step::Field("query")];
const DOCUMENTS: &[Step] = &[Step::Field("documents")];
const TOP_K: &[Step] = &[Step::Field("top_k")];

/// Checks a whole body against the two models of the original.
pub(super) fn request(raw: &RawValue) -> Result<Request, Vec<Violation>> {
    let mut found = Violations::default();
    let request = body(raw, &mut found);
    found.settle(request)
}

/// The top level; all fields are looked at before the first bad one fails it.
fn body(raw: &RawValue, found: &mut Violations) -> Option<Request> {
    let body = found.keep(raw, &[], members(raw))?;
    let query = found.keep(raw, QUERY, body.require("query"));
    let query = query.and_then(|value| found.keep(value, QUERY, text(value)));
    let documents = found.keep(raw, DOCUMENTS, body.require("documents"));
    let documents = documents.and_then(|value| list_of_documents(value, found));
    let top_k = match body.get("top_k") {
        Some(value) => found.keep(value, TOP_K, top_k(value)),
        None => Some(DEFAULT_TOP_K),
    };
    Some(Request {
        query: query?,
        documents: documents?,
        top_k: top_k?,
    })
}

/// The list, without the documents that have violations: they fail the request anyway.
fn list_of_documents(raw: &RawValue, found: &mut Violations) -> Option<Vec<Document>> {
    let items = found.keep(raw, DOCUMENTS, list(raw))?.into_iter();
    let documents = items
        .enumerate()
        .filter_map(|(document_idx, item)| document(item, document_idx, found));
    Some(documents.collect())
}

fn document(raw: &RawValue, document_idx: usize, found: &mut Violations) -> Option<Document> {
    let itself = [Step::Field("documents"), Step::Index(document_idx)];
    let content = [itself[0], itself[1], Step::Field("content")];
    let members = members(raw).and_then(Members::with_text_names);
    let members = found.keep(raw, &itself, members)?;
    let value = found.keep(raw, &content, members.require("content"))?;
    Some(Document {
        content: found.keep(value, &content, text(value))?,
        fields: members.into_fields(),
    })
}

/// A string, decoded.
pub(super) fn text(raw: &RawValue) -> Result<String, Problem> {
    if raw.get().starts_with('"') {
        serde_json::from_str(raw.get()).map_err(|_| Problem::LoneSurrogate)
    } else {
        Err(Problem::NotAString)
    }
}

/// A list, its items still raw.
fn list(raw: &RawValue) -> Result<Vec<&RawValue>, Problem> {
    serde_json::from_str(raw.get()).map_err(|_| Problem::NotAList)
}

/// An object, its values still raw.
fn members(raw: &RawValue) -> Result<Members<'_>, Problem> {
    serde_json::from_str(raw.get()).map_err(|_| Problem::NotAnObject)
}

/// An object's members as a Python `dict` has them: a repeated name keeps its first place and
/// takes its last value.
struct Members<'a> {
    entries: Vec<(String, &'a RawValue)>,
    /// A name was not Unicode text and is not among the entries.
    has_broken_name: bool,
}

impl<'a> Members<'a> {
    fn get(&self, name: &str) -> Option<&'a RawValue> {
        let mut entries = self.entries.iter();
        entries
            .find(|(key, _)| key == name)
            .map(|(_, value)| *value)
    }

    fn require(&self, name: &str) -> Result<&'a RawValue, Problem> {
        self.get(name).ok_or(Problem::Missing)
    }

    /// Refuses a name that could not be sent back. The original does so wherever it keeps unknown
    /// fields, which here is in a document but not at the top level.
    fn with_text_names(self) -> Result<Self, Problem> {
        if self.has_broken_name {
            return Err(Problem::LoneSurrogate);
        }
        Ok(self)
    }

    fn into_fields(self) -> Vec<(String, Box<RawValue>)> {
        let entries = self.entries.into_iter();
        entries.map(|(name, raw)| (name, raw.to_owned())).collect()
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        let mut has_broken_name = false;
        // Names are read raw as well, because half a surrogate pair in one must not fail the rest.
        while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            match text(name) {
                Ok(name) => entries.push((name, value)),
                Err(_) => has_broken_name = true,
            }
        }
        Ok(Members {
            entries: merge_repeated(entries),
            has_broken_name,
        })
    }
}

/// Gives the first entry of each name the value of the last one, and drops the others.
fn merge_repeated(entries: Vec<(String, &RawValue)>) -> Vec<(String, &RawValue)> {
    let values: Vec<Option<&RawValue>> = {
        let named = entries.iter().map(|(name, value)| (name.as_str(), *value));
        let mut last: HashMap<&str, &RawValue> = named.collect();
        entries
            .iter()
            .map(|(name, _)| last.remove(name.as_str()))
            .collect()
    };
    let entries = entries.into_iter().zip(values);
    entries
        .filter_map(|((name, _), value)| Some((name, value?)))
        .collect()
}
