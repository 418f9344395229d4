//! What a client is told when there is no ranking: one table from causes to status, and one from
//! families of clients to the body that they can read.
//!
//! | family | body |
//! |---|---|
//! | `RAGFab`, and routes of the old service | `{"detail"}`, exactly as before |
//! | results (Cohere, Jina, vLLM, …) | `detail`, `message`, and `error` as an object `{message, type, param, code}` |
//! | TEI, and whoever cannot be told | `detail`, `message`, `error_type`, and `error` as a string |
//!
//! `detail` is a sentence, or for a 422 `FastAPI`'s list.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tracing::Level;

use super::{
    outcome::{Cause, Outcome},
    quote::cut,
    wire::{Family, Reason},
};
use crate::{error::Error, metrics::Refused};

/// The encodings of bodies that are unpacked, as they stand in a header.
const ENCODINGS: &str = "gzip, deflate, br";

/// What an answer repeats of what a client sent, at most.
const QUOTED_CHARS: usize = 100;

/// A request that was not answered with a ranking.
#[derive(Debug)]
pub(super) enum ApiError {
    /// The body is not a request.
    Rejected(Reason),
    /// The model has not loaded yet.
    NotReady,
    /// No such route.
    NotFound,
    /// The route exists, but not for this method.
    MethodNotAllowed,
    /// The request's headers can be read in more than one way; a sentence says which.
    Ambiguous(String),
    /// The connection broke off before the body was complete, or it cannot be unpacked.
    BodyUnreadable(String),
    /// The body did not arrive in time.
    BodyTimeout(Duration),
    /// The body is packed in a way that is not known here.
    UnknownEncoding(String),
    /// No key, or a wrong one.
    Unauthorized,
    /// This connection is one more than there may be.
    TooManyConnections {
        /// How many there may be.
        limit: usize,
    },
    /// Everything below HTTP.
    Failed(Error),
}

/// An [`ApiError`], and who will read it.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) family: Family,
    pub(super) error: ApiError,
}

impl ApiError {
    /// A body that broke off or cannot be unpacked.
    pub(super) fn unreadable(cause: &dyn std::error::Error) -> Self {
        Self::BodyUnreadable(innermost(cause))
    }

    /// Addresses the refusal to clients of this family.
    pub(super) fn to(self, family: Family) -> Refusal {
        Refusal {
            family,
            error: self,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Rejected(reason) => {
                StatusCode::from_u16(reason.status()).unwrap_or(StatusCode::UNPROCESSABLE_ENTITY)
            }
            Self::NotReady
            | Self::TooManyConnections { .. }
            | Self::Failed(Error::ShuttingDown) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyUnreadable(_) | Self::Ambiguous(_) => StatusCode::BAD_REQUEST,
            Self::Failed(
                Error::TooManyDocuments { .. }
                | Error::TooManyPairs { .. }
                | Error::BodyTooLarge { .. }
                | Error::TooLargeForMemory { .. }
                | Error::TooSlow { .. }
                | Error::QueryTooLong { .. }
                | Error::DocumentTooLong { .. },
            ) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Failed(Error::PairTooLong { .. }) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::BodyTimeout(_) => StatusCode::REQUEST_TIMEOUT,
            Self::UnknownEncoding(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Failed(
                Error::Overloaded { .. } | Error::OutOfMemory { .. } | Error::Late { .. },
            ) => StatusCode::TOO_MANY_REQUESTS,
            Self::Failed(Error::DeadlineExceeded(_)) => StatusCode::GATEWAY_TIMEOUT,
            Self::Failed(Error::Inference(_)) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn reason(&self) -> Refused {
        match self {
            Self::Rejected(_) | Self::Ambiguous(_) => Refused::Invalid,
            Self::NotReady => Refused::Loading,
            Self::NotFound => Refused::NoRoute,
            Self::MethodNotAllowed => Refused::Method,
            Self::BodyUnreadable(_) => Refused::BrokenOff,
            Self::BodyTimeout(_) => Refused::SlowBody,
            Self::UnknownEncoding(_) => Refused::Encoding,
            Self::Unauthorized => Refused::Unauthorized,
            Self::TooManyConnections { .. } => Refused::Connections,
            Self::Failed(error) => match error {
                Error::TooManyDocuments { .. }
                | Error::TooManyPairs { .. }
                | Error::BodyTooLarge { .. }
                | Error::TooLargeForMemory { .. }
                | Error::TooSlow { .. }
                | Error::QueryTooLong { .. }
                | Error::DocumentTooLong { .. }
                | Error::PairTooLong { .. } => Refused::TooLarge,
                Error::Overloaded { .. } | Error::Late { .. } => Refused::Overloaded,
                Error::OutOfMemory { .. } => Refused::Memory,
                Error::DeadlineExceeded(_) => Refused::Deadline,
                Error::ShuttingDown => Refused::ShuttingDown,
                Error::Inference(_) => Refused::Failed,
            },
        }
    }

    fn sentence(&self) -> String {
        match self {
            Self::Rejected(reason) => reason.sentence(),
            Self::NotReady => "Modèle non chargé".to_owned(),
            Self::NotFound => "Not Found".to_owned(),
            Self::MethodNotAllowed => "Method Not Allowed".to_owned(),
            Self::BodyUnreadable(why) => format!("the body could not be read: {why}"),
            Self::Ambiguous(why) => why.clone(),
            Self::BodyTimeout(limit) => format!(
                "the body did not arrive within {} ms; send it faster, or raise RERANKER_BODY_TIMEOUT_MS",
                limit.as_millis()
            ),
            Self::UnknownEncoding(given) => format!(
                "Content-Encoding \"{}\" is not known here; send the body as it is, or as one of {ENCODINGS}",
                cut(given, QUOTED_CHARS)
            ),
            Self::Unauthorized => {
                // Not as `name: value`: LiteLLM takes that for a secret and blacks it out.
                "a valid API key is needed; send it in the header Authorization after the word Bearer, or in the header X-API-Key".to_owned()
            }
            Self::TooManyConnections { limit } => format!(
                "all {limit} connections are taken; close idle ones, retry in 1 s, or raise RERANKER_MAX_CONNECTIONS"
            ),
            // Its text may hold what a stranger should not see; it is in the log.
            Self::Failed(Error::Inference(_)) => {
                "the model failed on this request; the server's log says why".to_owned()
            }
            Self::Failed(error) => error.to_string(),
        }
    }

    fn detail(&self) -> Value {
        match self {
            Self::Rejected(reason) => reason.detail(),
            _ => self.sentence().into(),
        }
    }

    /// The value of `Retry-After` in whole seconds, if the client should try again.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Failed(
                Error::Overloaded { retry_after, .. }
                | Error::OutOfMemory { retry_after, .. }
                | Error::Late { retry_after, .. },
            ) => Some(retry_after.as_secs()),
            Self::NotReady => Some(5),
            Self::TooManyConnections { .. } | Self::Failed(Error::ShuttingDown) => Some(1),
            _ => None,
        }
    }

    fn body(&self, family: Family) -> Value {
        let (detail, sentence) = (self.detail(), self.sentence());
        match family {
            Family::Ragfab => json!({ "detail": detail }),
            Family::Results => json!({
                "detail": detail,
                "message": sentence,
                "error": {
                    "message": sentence,
                    "type": openai_type(self.status()),
                    "param": null,
                    "code": self.status().as_u16(),
                },
            }),
            Family::Tei | Family::Unknown => json!({
                "detail": detail,
                "message": sentence,
                "error": sentence,
                "error_type": self.tei_type(),
            }),
        }
    }

    /// The names that text-embeddings-inference has for what went wrong.
    fn tei_type(&self) -> &'static str {
        match self {
            Self::Rejected(Reason::NoTexts | Reason::NoDocuments) => "Empty",
            Self::NotReady | Self::Failed(Error::ShuttingDown) => "Unhealthy",
            Self::TooManyConnections { .. }
            | Self::Failed(
                Error::Overloaded { .. } | Error::OutOfMemory { .. } | Error::Late { .. },
            ) => "Overloaded",
            Self::Failed(Error::DeadlineExceeded(_) | Error::Inference(_)) => "Backend",
            _ => "Validation",
        }
    }

    /// What the log says of the error, which is never what the client sent.
    fn outcome(&self) -> Outcome {
        let (level, why) = match self {
            Self::Failed(error @ Error::Inference(_)) => (Level::ERROR, error.to_string()),
            Self::Failed(_)
            | Self::BodyUnreadable(_)
            | Self::BodyTimeout(_)
            | Self::TooManyConnections { .. } => (Level::WARN, self.sentence()),
            Self::UnknownEncoding(_) => {
                let why = format!("Content-Encoding is none of {ENCODINGS}");
                (Level::INFO, why)
            }
            _ => (Level::INFO, self.sentence()),
        };
        Outcome::Refused(Cause {
            reason: self.reason(),
            level,
            why: why.into(),
        })
    }

    /// What else an answer of this kind must say to be understood by programs.
    fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Self::Unauthorized => {
                Some((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")))
            }
            Self::UnknownEncoding(_) => {
                Some((header::ACCEPT_ENCODING, HeaderValue::from_static(ENCODINGS)))
            }
            // The rest of a late body would be taken for the next request, and where an ambiguous
            // one ends is not known.
            Self::BodyTimeout(_) | Self::Ambiguous(_) | Self::TooManyConnections { .. } => {
                Some((header::CONNECTION, HeaderValue::from_static("close")))
            }
            _ => None,
        }
    }
}

/// The cause at the bottom, in its own words; those above it say only that there is one.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// The names that vLLM has for a status.
fn openai_type(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "AuthenticationError",
        StatusCode::TOO_MANY_REQUESTS => "RateLimitError",
        status if status.is_server_error() => "InternalServerError",
        _ => "BadRequestError",
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Reason> for ApiError {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::TooLarge(error) => Self::Failed(error),
            reason => Self::Rejected(reason),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self { family, error } = self;
        let mut response = (error.status(), Json(error.body(family))).into_response();
        response.extensions_mut().insert(error.outcome());
        if let Some(seconds) = error.retry_after() {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some((name, value)) = error.header() {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

impl IntoResponse for ApiError {
    /// This answer is for paths where no request was read. It is the old service's.
    fn into_response(self) -> Response {
        let family = match self {
            Self::NotFound | Self::MethodNotAllowed | Self::NotReady => Family::Ragfab,
            _ => Family::Unknown,
        };
        self.to(family).into_response()
    }
}
