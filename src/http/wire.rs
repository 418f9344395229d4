//! Wire formats: bytes in, a checked request out; a ranking in, bytes out.
//!
//! Some paths are shared by formats that are told apart by the body (`detect`). Each is a
//! file; none knows the web framework, the model, or the others' answers.

mod dashscope;
mod detect;
mod format;
mod hugging_face;
mod integer;
mod json;
mod mixedbread;
mod nim;
mod object;
mod passage;
mod predict;
mod ragfab;
mod reason;
mod request;
mod results;
mod route;
mod schema;
mod score;
mod served;
mod syntax;
mod tei;
pub(crate) mod tokenize;
mod violation;
mod violations;
mod voyage;
mod weaviate;

use self::{detect::detect, violations::Violations};
pub(crate) use self::{
    format::Schemas,
    reason::{Reason, Rejection},
    request::Request,
    route::{Family, Route},
    served::Served,
};

/// Reads the body of a request to a path, given its `Content-Type` if there is one; of a request
/// with more than `max_documents` documents no more are kept in memory.
pub(crate) fn parse(
    route: Route,
    content_type: Option<&str>,
    body: &[u8],
    max_documents: usize,
) -> Result<Request, Rejection> {
    let mut family = route.family();
    let request = syntax::read(content_type, body).and_then(|(raw, members)| {
        let format = detect(route, &members);
        family = format.family;
        let body = (format.parse)(raw, &members, Violations::new(max_documents))?;
        Ok(Request { format, body })
    });
    request.map_err(|reason| Rejection { family, reason })
}

#[cfg(test)]
mod bounds;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
