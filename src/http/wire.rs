//! Wire formats: bytes in, a checked request out; a ranking in, bytes out.
//!
//! One path, `/rerank`, is shared by three formats, told apart by the body. Each is a file of types below this one; none
//! knows the web framework, the model, or the others' answers.
//!
//! | rule | body | format |
//! |---|---|---|
//! | 1 | `texts` and no `documents`, or an empty list of them | [`tei`] |
//! | 2 | `texts` beside `documents` | as without `texts`, a key of [`results`] then |
//! | 3 | the first of `documents` is an object with the seven fields of the old service | [`ragfab`] |
//! | 4 | a key at the top level that only [`results`] has | [`results`] |
//! | 5 | the first of `documents` is an object without `text` whose `content`, if any, is not a list of parts; or there is none | [`ragfab`] |
//! | 6 | any other object, a string or a null is the first, or `documents` itself | [`results`] |
//! | 7 | anything else | refused in words that clients of all formats find |

mod integer;
mod json;
mod object;
mod passage;
mod python_json;
pub(crate) mod ragfab;
pub(crate) mod results;
pub(crate) mod schema;
mod score;
mod syntax;
pub(crate) mod tei;
mod violation;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Value, value::RawValue};
use utoipa::ToSchema;

use self::{
    json::{Members, begins_with_null, first, is_empty_list, members},
    results::Echo,
    violation::Violations,
};
pub(crate) use self::{score::Response as ScoreResponse, violation::Violation};
use crate::{
    error::Error,
    rerank::{Job, Ranking, Score},
    tokenizer::strip,
};

/// A request in the format it came in.
#[derive(Debug)]
pub(crate) enum Request {
    /// `RAGFab`'s, the old service's.
    Ragfab(ragfab::Request),
    /// Text-embeddings-inference's.
    Tei(tei::Request),
    /// That of Cohere and those who followed.
    Results(results::Request, Echo),
    /// vLLM's pairs.
    Score(score::Request),
}

/// What a path takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// Every rerank format, by the rules above.
    Any,
    /// [`results`], and [`tei`] where there are `texts`.
    Results,
    /// The same, with documents repeated as strings.
    Infinity,
    /// [`tei`] only.
    Tei,
    /// [`score`] only.
    Score,
}

/// Whose clients will read an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// `RAGFab`.
    Ragfab,
    /// Text-embeddings-inference.
    Tei,
    /// Everyone whose answer has `results`, and vLLM's score.
    Results,
    /// Cannot be told.
    Unknown,
}

impl Family {
    /// For metrics, where no request was read.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ragfab => "ragfab",
            Self::Tei => "tei",
            Self::Results => "results",
            Self::Unknown => "unknown",
        }
    }
}

impl Route {
    /// Who asks here, as far as the path tells.
    pub(crate) fn family(self) -> Family {
        match self {
            Self::Any => Family::Unknown,
            Self::Results | Self::Infinity | Self::Score => Family::Results,
            Self::Tei => Family::Tei,
        }
    }
}

/// A request that was refused, and in whose words.
#[derive(Debug)]
pub(crate) struct Rejection {
    pub(crate) family: Family,
    pub(crate) reason: Reason,
}

/// Why a request was refused.
///
/// While its model loads the old service gives the 422 answers all the same; only then comes its 503, and after that
/// the checks for a blank query and an empty list.
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

    /// The same for a person.
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
        family = format.family();
        format.parse(raw, &members, Violations::new(max_documents))
    });
    request.map_err(|reason| Rejection { family, reason })
}

/// What to parse a body as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Ragfab,
    Tei,
    Results(Echo),
    Score,
    /// No format's: what the old service would have said is as good as anything.
    None,
}

impl Format {
    fn family(self) -> Family {
        match self {
            Self::Ragfab => Family::Ragfab,
            Self::Tei => Family::Tei,
            Self::Results(_) | Self::Score => Family::Results,
            Self::None => Family::Unknown,
        }
    }

    fn parse(
        self,
        raw: &RawValue,
        members: &Members<'_>,
        found: Violations,
    ) -> Result<Request, Reason> {
        match self {
            Self::Ragfab | Self::None => ragfab::parse(raw, members, found).map(Request::Ragfab),
            Self::Tei => tei::parse(raw, members, found).map(Request::Tei),
            Self::Results(echo) => {
                let request = results::parse(raw, members, found)?;
                Ok(Request::Results(request, echo))
            }
            Self::Score => score::parse(raw, members, found).map(Request::Score),
        }
    }
}

/// The rules at the top of this file.
fn detect(route: Route, body: &Members<'_>) -> Format {
    let echo = match route {
        Route::Tei => return Format::Tei,
        Route::Score => return Format::Score,
        Route::Infinity => Echo::Text,
        Route::Any | Route::Results => Echo::Object,
    };
    let documents = body.some("documents");
    let texts = body.some("texts");
    if texts.is_some() && documents.is_none_or(is_empty_list) {
        return Format::Tei;
    }
    if route != Route::Any {
        return Format::Results(echo);
    }
    let Some(documents) = documents else {
        return Format::None;
    };
    let has_results_key = texts.is_some() || results::has_own_key(body);
    detect_documents(documents, has_results_key, echo)
}

/// Rules 3 to 7, which look at the first document.
fn detect_documents(documents: &RawValue, has_results_key: bool, echo: Echo) -> Format {
    let results = Format::Results(echo);
    if is_empty_list(documents) {
        return if has_results_key {
            results
        } else {
            Format::Ragfab
        };
    }
    if begins_with_null(documents) {
        return results;
    }
    // Of a list the first item tells; vLLM takes a document without one.
    match first(documents).unwrap_or(documents).get().as_bytes()[0] {
        b'"' => results,
        b'{' => match first(documents).map(members) {
            Some(Ok(document)) if ragfab::is_original(&document) => Format::Ragfab,
            Some(Ok(document)) if !has_results_key && is_content_only(&document) => Format::Ragfab,
            _ => results,
        },
        _ => Format::None,
    }
}

/// Whether an object has no text but under `content`, where it is not a list of parts.
fn is_content_only(document: &Members<'_>) -> bool {
    let content = document.get("content");
    let has_parts = content.is_some_and(|content| content.get().starts_with('['));
    document.get("text").is_none() && !has_parts
}

impl Request {
    /// Whose clients sent it.
    pub(crate) fn family(&self) -> Family {
        match self {
            Self::Ragfab(_) => Family::Ragfab,
            Self::Tei(_) => Family::Tei,
            Self::Results(..) | Self::Score(_) => Family::Results,
        }
    }

    /// The format's name, for metrics.
    pub(crate) fn format(&self) -> &'static str {
        match self {
            Self::Ragfab(_) => "ragfab",
            Self::Tei(_) => "tei",
            Self::Results(..) => "results",
            Self::Score(_) => "score",
        }
    }

    /// What is to be scored.
    pub(crate) fn job(&self) -> Job {
        match self {
            Self::Ragfab(request) => request.job(),
            Self::Tei(request) => request.job(),
            Self::Results(request, _) => request.job(),
            Self::Score(request) => request.job(),
        }
    }

    /// How many of the scores the answer has.
    pub(crate) fn returned(&self, ranking: &Ranking) -> usize {
        let limit = match self {
            Self::Ragfab(request) => Some(request.top_k),
            Self::Tei(request) => request.top_n.filter(|&limit| limit > 0),
            Self::Results(request, _) => request.top_n.filter(|&limit| limit > 0),
            Self::Score(_) => None,
        };
        limit.map_or(ranking.scores.len(), |limit| {
            limit.min(ranking.scores.len())
        })
    }

    /// The answer in the format of the request.
    ///
    /// # Errors
    /// None that a checked ranking could cause; `serde_json`'s.
    pub(crate) fn answer(&self, served: &Served<'_>) -> serde_json::Result<Vec<u8>> {
        match self {
            Self::Ragfab(request) => to_vec(&ragfab::Response::new(request, served)),
            Self::Tei(request) => to_vec(&tei::response(request, served)),
            Self::Results(request, echo) => to_vec(&results::Response::new(request, *echo, served)),
            Self::Score(request) => to_vec(&score::Response::new(request, served)),
        }
    }
}

fn to_vec(answer: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(answer)
}

/// What an answer is made of.
pub(crate) struct Served<'a> {
    pub(crate) ranking: &'a Ranking,
    /// What the server runs.
    pub(crate) model: &'a str,
    /// Of the request.
    pub(crate) id: &'a str,
    /// Since the request came in.
    pub(crate) elapsed: Duration,
}

impl<'a> Served<'a> {
    /// The best `limit` scores; none or 0 means all.
    fn best(&self, limit: Option<usize>) -> impl Iterator<Item = &'a Score> + use<'a> {
        let limit = limit.filter(|&limit| limit > 0).unwrap_or(usize::MAX);
        self.ranking.scores.iter().take(limit)
    }
}

/// Refuses a request that says nothing, in the old service's order.
fn check_emptiness<T>(query: &str, documents: &[T]) -> Result<(), Reason> {
    if strip(query).is_empty() {
        return Err(Reason::BlankQuery);
    }
    if documents.is_empty() {
        return Err(Reason::NoDocuments);
    }
    Ok(())
}

/// Now, in seconds since 1970.
fn created() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

impl Score {
    fn value(&self, raw: bool) -> f64 {
        if raw {
            f64::from(self.logit)
        } else {
            self.score
        }
    }
}

/// Tokens, as `OpenAI` counts them.
#[derive(Debug, Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the names of the wire format")]
struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
}

impl Usage {
    fn of(ranking: &Ranking) -> Self {
        Self {
            prompt_tokens: ranking.tokens,
            completion_tokens: 0,
            total_tokens: ranking.tokens,
        }
    }
}

#[cfg(test)]
mod bounds;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
