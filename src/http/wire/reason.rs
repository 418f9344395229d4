//! Why a request was refused.

use serde_json::Value;

use super::{route::Family, violation::Violation};
use crate::{error::Error, tokenizer::strip};

/// A request that was refused, and the family of clients that reads why.
#[derive(Debug)]
pub(crate) struct Rejection {
    pub(crate) family: Family,
    pub(crate) reason: Reason,
}

/// Why a request was refused.
///
/// While its model loads the old service gives the 422 answers all the same; only then comes its
/// 503, and after that the checks for a blank query and an empty list.
#[derive(Debug)]
pub(crate) enum Reason {
    /// 422: the body is malformed or of the wrong shape (`RequestValidationError` of `FastAPI`).
    Invalid(Vec<Violation>),
    /// 400: the body is not text that could be parsed at all (raised by `FastAPI` itself).
    Undecodable {
        /// Bytes before the first that is not UTF-8.
        valid_up_to: usize,
    },
    /// 413: more than the server takes in one request.
    TooLarge(Error),
    /// 400: the query is empty or blank. Checked before the list of documents.
    BlankQuery,
    /// 400: there are no documents.
    NoDocuments,
    /// 400: `texts` is empty, as text-embeddings-inference says it.
    NoTexts,
}

impl Reason {
    /// The HTTP status.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Invalid(_) => 422,
            Self::TooLarge(_) => 413,
            Self::Undecodable { .. } | Self::BlankQuery | Self::NoDocuments | Self::NoTexts => 400,
        }
    }

    /// What stands under the key `detail`: a list of violations for a 422, a string for a 400.
    pub(crate) fn detail(&self) -> Value {
        match self {
            Self::Invalid(violations) => violations.iter().map(Violation::to_json).collect(),
            Self::Undecodable { .. } => UNDECODABLE.into(),
            _ => self.sentence().into(),
        }
    }

    /// The reason as a sentence for a person.
    pub(crate) fn sentence(&self) -> String {
        match self {
            Self::Invalid(violations) => sentences(violations),
            Self::Undecodable { valid_up_to } => {
                format!("{UNDECODABLE}: it is not UTF-8 at byte {valid_up_to}; send JSON in UTF-8")
            }
            Self::TooLarge(error) => error.to_string(),
            Self::BlankQuery => "La query ne peut pas être vide".to_owned(),
            Self::NoDocuments => "La liste de documents ne peut pas être vide".to_owned(),
            Self::NoTexts => "`texts` cannot be empty".to_owned(),
        }
    }
}

/// The words of `FastAPI` for a body that is not text.
const UNDECODABLE: &str = "There was an error parsing the body";

/// The first few violations; the list has them all.
fn sentences(violations: &[Violation]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<String> = violations
        .iter()
        .take(SHOWN)
        .map(Violation::sentence)
        .collect();
    match violations.len().saturating_sub(SHOWN) {
        0 => shown.join("; "),
        more => format!("{}; and {more} more", shown.join("; ")),
    }
}

/// Refuses a request that says nothing, in the old service's order.
pub(super) fn check_emptiness<T>(query: &str, documents: &[T]) -> Result<(), Reason> {
    if strip(query).is_empty() {
        return Err(Reason::BlankQuery);
    }
    if documents.is_empty() {
        return Err(Reason::NoDocuments);
    }
    Ok(())
}

/// Refuses a request without texts, in the words of text-embeddings-inference.
pub(super) fn check_texts<T>(texts: &[T]) -> Result<(), Reason> {
    if texts.is_empty() {
        return Err(Reason::NoTexts);
    }
    Ok(())
}
