//! A JSON object as the client sent it, kept for the way back.

use serde::ser::{Error as _, Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use super::json::members;

/// An object whose fields come back byte for byte, in the order of their first appearance.
///
/// It is kept as it came: taken apart, it could take ten times the memory.
#[derive(Debug)]
pub(super) struct Object(Box<RawValue>);

impl Object {
    /// Keeps a value that has been read as an object.
    pub(super) fn keep(raw: &RawValue) -> Self {
        Self(raw.to_owned())
    }

    /// Writes the object with one more field, which comes last. If the object has a field of that
    /// name, `value` takes its place where `replaces` says so, and is left out otherwise.
    pub(super) fn serialize_with<S: Serializer>(
        &self,
        name: &str,
        value: &impl Serialize,
        replaces: bool,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let members = members(&self.0).map_err(|_| S::Error::custom("not an object"))?;
        let mut map = serializer.serialize_map(None)?;
        for (key, original) in members.iter() {
            if key == name && replaces {
                map.serialize_entry(key, value)?;
            } else {
                map.serialize_entry(key, original)?;
            }
        }
        if members.get(name).is_none() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}
