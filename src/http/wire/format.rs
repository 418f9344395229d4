//! What a wire format is made of. A format is a file beside this one with a constant of this type,
//! a row in `detect`, and its paths in `http/scoring`.

use serde_json::{Value, value::RawValue};
use utoipa::openapi::{RefOr, Schema};

use super::{
    json::{Fields, Members},
    reason::Reason,
    route::Family,
    served::Served,
    violations::Violations,
};
use crate::rerank::Job;

/// A request that was read in some format.
pub(crate) trait Body: Send + std::fmt::Debug {
    /// What is to be scored. The texts are shared, not copied.
    fn job(&self) -> Job;

    /// How many scores the answer has at most; none means all.
    fn limit(&self) -> Option<usize>;

    /// The answer in the format of the request.
    ///
    /// # Errors
    /// None that a checked ranking could cause; `serde_json`'s.
    fn answer(&self, served: &Served<'_>) -> serde_json::Result<Vec<u8>>;
}

/// Reads a request by its fields, and checks it as a whole.
pub(super) fn read<R: Body + 'static>(
    (raw, members): (&RawValue, &Members<'_>),
    mut found: Violations,
    request: impl FnOnce(&mut Fields<'_, '_>) -> Option<R>,
    check: impl FnOnce(&R) -> Result<(), Reason>,
) -> Result<Box<dyn Body>, Reason> {
    let request = request(&mut Fields::new(raw, members, &mut found));
    let request = found.settle(request)?;
    check(&request)?;
    Ok(Box::new(request))
}

/// Schemas of the API's description, by name.
pub(crate) type Schemas = Vec<(String, RefOr<Schema>)>;

/// Reads a body, given as a whole and by its members.
type Parse = fn(&RawValue, &Members<'_>, Violations) -> Result<Box<dyn Body>, Reason>;

/// A wire format.
#[derive(Debug)]
pub(crate) struct Format {
    /// The name in metrics.
    pub(super) name: &'static str,
    /// The family of clients that speaks this format.
    pub(super) family: Family,
    /// Reads a body, given as a whole and by its members.
    pub(super) parse: Parse,
    /// The schema of a request.
    pub(crate) request: fn() -> RefOr<Schema>,
    /// The schema of an answer.
    pub(crate) response: fn() -> RefOr<Schema>,
    /// A request that `Try it out` can send as it is, with this query and these passages.
    pub(crate) example: fn(&str, &[&str]) -> Value,
    /// Adds all schemas that those two refer to.
    pub(crate) schemas: fn(&mut Schemas),
}
