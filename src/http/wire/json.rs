//! JSON values read leniently, as `pydantic` does in its lax mode: the formats here were born in
//! Python, and their clients send `"true"` for true and `5.0` for 5.
//!
//! Values are looked at as raw JSON, so that what is only passed through is never rewritten.

use std::{collections::HashMap, fmt};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{
    violation::{Problem, Step},
    violations::Violations,
};
use crate::error::Error;

/// The most fields that an object may have. A field of a few bytes takes a hundred while it is
/// read, so a body of millions of them would take more memory than is set aside for it.
const MAX_MEMBERS: usize = 10_000;

/// The most items of a list that has no limit of its own.
const MAX_ITEMS: usize = 10_000;

/// A string, decoded.
pub(super) fn text(raw: &RawValue) -> Result<String, Problem> {
    if raw.get().starts_with('"') {
        serde_json::from_str(raw.get()).map_err(|_| Problem::LoneSurrogate)
    } else {
        Err(Problem::NotAString)
    }
}

/// A list, its items still raw.
pub(super) fn list(raw: &RawValue) -> Result<Vec<&RawValue>, Problem> {
    let items = bounded_list(raw, MAX_ITEMS)?;
    if items.count > MAX_ITEMS {
        return Err(Problem::TooManyItems);
    }
    Ok(items.first)
}

/// A list of which no more than `most` items are kept; all are counted.
fn bounded_list(raw: &RawValue, most: usize) -> Result<Items<'_>, Problem> {
    let mut deserializer = serde_json::Deserializer::from_str(raw.get());
    let items = deserializer.deserialize_seq(ItemsVisitor { most });
    items.map_err(|_| Problem::NotAList)
}

/// The items of a list.
struct Items<'a> {
    /// The items that are kept.
    first: Vec<&'a RawValue>,
    count: usize,
}

struct ItemsVisitor {
    most: usize,
}

impl<'de> Visitor<'de> for ItemsVisitor {
    type Value = Items<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut first = Vec::new();
        while first.len() < self.most
            && let Some(item) = seq.next_element()?
        {
            first.push(item);
        }
        let mut count = first.len();
        while seq.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(Items { first, count })
    }
}

/// An object, its values still raw.
pub(super) fn members(raw: &RawValue) -> Result<Members<'_>, Problem> {
    let members: Members<'_> = serde_json::from_str(raw.get()).map_err(|_| Problem::NotAnObject)?;
    if members.are_too_many {
        return Err(Problem::TooManyMembers);
    }
    Ok(members)
}

/// A boolean, or one of the words and numbers that `pydantic` takes for one.
pub(super) fn boolean(raw: &RawValue) -> Result<bool, Problem> {
    let word = match raw.get().as_bytes().first() {
        Some(b'"') => text(raw)?.trim().to_ascii_lowercase(),
        Some(b'[' | b'{') => return Err(Problem::NotABoolean),
        _ => raw.get().to_owned(),
    };
    match word.as_str() {
        "true" | "t" | "1" | "1.0" | "yes" | "y" | "on" => Ok(true),
        "false" | "f" | "0" | "0.0" | "no" | "n" | "off" => Ok(false),
        _ => Err(Problem::NotABoolean),
    }
}

/// A null, or something else.
pub(super) fn is_null(raw: &RawValue) -> bool {
    raw.get() == "null"
}

/// A list without items.
pub(super) fn is_empty_list(raw: &RawValue) -> bool {
    let inner = raw.get().strip_prefix('[');
    inner.is_some_and(|inner| inner.trim_start().starts_with(']'))
}

/// A list whose first item is a null.
pub(super) fn begins_with_null(raw: &RawValue) -> bool {
    let inner = raw.get().strip_prefix('[');
    inner.is_some_and(|inner| inner.trim_start().starts_with("null"))
}

/// The first item of a list that is a string, a list or an object; those behind it are not read.
pub(super) fn first(raw: &RawValue) -> Option<&RawValue> {
    let inner = raw.get().strip_prefix('[')?;
    let mut items = serde_json::Deserializer::from_str(inner).into_iter();
    items.next()?.ok()
}

/// An object being read: what is missing or wrong is noted, and reading goes on.
pub(super) struct Fields<'a, 'f> {
    raw: &'a RawValue,
    members: &'f Members<'a>,
    found: &'f mut Violations,
}

impl<'a, 'f> Fields<'a, 'f> {
    /// The top level of a body.
    pub(super) fn new(
        raw: &'a RawValue,
        members: &'f Members<'a>,
        found: &'f mut Violations,
    ) -> Self {
        Self {
            raw,
            members,
            found,
        }
    }

    /// Notes a problem with the object as a whole.
    pub(super) fn refuse(&mut self, problem: Problem) {
        self.found.keep::<()>(self.raw, &[], Err(problem));
    }

    /// A field that must be there.
    pub(super) fn required<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&'a RawValue) -> Result<T, Problem>,
    ) -> Option<T> {
        let path = [Step::Field(name)];
        let value = self
            .found
            .keep(self.raw, &path, self.members.require(name))?;
        self.found.keep(value, &path, read(value))
    }

    /// A field that may be absent or null.
    pub(super) fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&'a RawValue) -> Result<T, Problem>,
    ) -> Option<T> {
        let value = self.members.some(name)?;
        self.found.keep(value, &[Step::Field(name)], read(value))
    }

    /// Whether a field is there and a list.
    pub(super) fn has_list(&self, name: &str) -> bool {
        let value = self.members.get(name);
        value.is_some_and(|value| value.get().starts_with('['))
    }

    /// Whether a field is there and a list that begins with a list, or is empty.
    pub(super) fn has_list_of_lists(&self, name: &str) -> bool {
        let value = self.members.get(name);
        let inner = value.and_then(|value| value.get().strip_prefix('['));
        inner.is_some_and(|inner| inner.trim_start().starts_with(['[', ']']))
    }

    /// A field that must be a list of documents; those that are in order.
    pub(super) fn each<T>(
        &mut self,
        name: &'static str,
        mut read: impl FnMut(&'a RawValue) -> Result<T, Problem>,
    ) -> Option<Vec<T>> {
        let items = self.documents(name)?.into_iter().enumerate();
        let items = items.filter_map(|(index, item)| {
            let path = [Step::Field(name), Step::Index(index)];
            self.found.keep(item, &path, read(item))
        });
        Some(items.collect())
    }

    /// A field that must be a list of at most as many documents as a request may have.
    pub(super) fn documents(&mut self, name: &'static str) -> Option<Vec<&'a RawValue>> {
        let limit = self.found.max_documents();
        let items = self.required(name, |raw| bounded_list(raw, limit))?;
        if items.count > limit {
            let actual = items.count;
            self.found.refuse(Error::TooManyDocuments { actual, limit });
            return None;
        }
        Some(items.first)
    }
}

/// An object's members as a Python `dict` has them: a repeated name keeps its first place and
/// takes its last value.
pub(super) struct Members<'a> {
    entries: Vec<(String, &'a RawValue)>,
    /// A name was not Unicode text and is not among the entries.
    has_broken_name: bool,
    /// There were more than are read.
    are_too_many: bool,
}

impl<'a> Members<'a> {
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        let mut entries = self.entries.iter();
        entries
            .find(|(key, _)| key == name)
            .map(|(_, value)| *value)
    }

    /// A value that is there and not null.
    pub(super) fn some(&self, name: &str) -> Option<&'a RawValue> {
        self.get(name).filter(|value| !is_null(value))
    }

    pub(super) fn require(&self, name: &str) -> Result<&'a RawValue, Problem> {
        self.get(name).ok_or(Problem::Missing)
    }

    /// Refuses a name that could not be sent back. The original does so wherever it keeps unknown
    /// fields, which here is in a document but not at the top level.
    pub(super) fn with_text_names(self) -> Result<Self, Problem> {
        if self.has_broken_name {
            return Err(Problem::LoneSurrogate);
        }
        Ok(self)
    }

    /// All of them, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        let entries = self.entries.iter();
        entries.map(|(name, value)| (name.as_str(), *value))
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
        let mut are_too_many = false;
        // Names are read raw as well, because half a surrogate pair in one must not fail the rest.
        while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            if entries.len() == MAX_MEMBERS {
                are_too_many = true;
                continue;
            }
            match text(name) {
                Ok(name) => entries.push((name, value)),
                Err(_) => has_broken_name = true,
            }
        }
        Ok(Members {
            entries: merge_repeated(entries),
            has_broken_name,
            are_too_many,
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
