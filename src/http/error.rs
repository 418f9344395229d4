//! What a client is told when there is no ranking: one table from causes to status and body.
//!
//! The body is the old service's: `{"detail": …}`, a sentence, or for a malformed request FastAPI's list.

use std::time::Duration;

use axum::{
    Json,
    extract::rejection::BytesRejection,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tracing::{error, warn};

use super::{body::ENCODINGS, ragfab::Rejection};
use crate::error::Error;

/// A request that was not answered with a ranking.
#[derive(Debug)]
pub(super) enum ApiError {
    /// The body is not a request.
    Rejected(Rejection),
    /// The model has not loaded yet.
    NotReady,
    /// No such route.
    NotFound,
    /// The route exists, but not for this method.
    MethodNotAllowed,
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

impl ApiError {
    pub(super) fn from_body(rejection: &BytesRejection, limit: usize) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            return Self::Failed(Error::BodyTooLarge { limit });
        }
        Self::BodyUnreadable(innermost(rejection))
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Rejected(rejection) => {
                StatusCode::from_u16(rejection.status()).unwrap_or(StatusCode::UNPROCESSABLE_ENTITY)
            }
            Self::NotReady
            | Self::TooManyConnections { .. }
            | Self::Failed(Error::ShuttingDown) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyUnreadable(_) => StatusCode::BAD_REQUEST,
            Self::BodyTimeout(_) => StatusCode::REQUEST_TIMEOUT,
            Self::UnknownEncoding(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Failed(Error::TooManyDocuments { .. } | Error::BodyTooLarge { .. }) => {
                StatusCode::PAYLOAD_TOO_LARGE
            }
            Self::Failed(Error::Overloaded { .. }) => StatusCode::TOO_MANY_REQUESTS,
            Self::Failed(Error::DeadlineExceeded(_)) => StatusCode::GATEWAY_TIMEOUT,
            Self::Failed(Error::Inference(_)) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn detail(&self) -> Value {
        match self {
            Self::Rejected(rejection) => rejection.detail(),
            Self::NotReady => "Modèle non chargé".into(),
            Self::NotFound => "Not Found".into(),
            Self::MethodNotAllowed => "Method Not Allowed".into(),
            Self::BodyUnreadable(why) => format!("the body could not be read: {why}").into(),
            Self::BodyTimeout(limit) => format!(
                "the body did not arrive within {} ms; send it faster, or raise RERANKER_BODY_TIMEOUT_MS",
                limit.as_millis()
            )
            .into(),
            Self::UnknownEncoding(given) => format!(
                "Content-Encoding \"{given}\" is not known here; send the body as it is, or as one of {ENCODINGS}"
            )
            .into(),
            Self::Unauthorized => {
                "a valid API key is needed; send it as Authorization: Bearer <key>, or as X-API-Key: <key>".into()
            }
            Self::TooManyConnections { limit } => format!(
                "all {limit} connections are taken; close idle ones, retry in 1 s, or raise RERANKER_MAX_CONNECTIONS"
            )
            .into(),
            // Its text may hold what a stranger should not see; it is in the log.
            Self::Failed(Error::Inference(_)) => {
                "the model failed on this request; the server's log says why".into()
            }
            Self::Failed(error) => error.to_string().into(),
        }
    }

    /// In whole seconds, for those who would do well to come back.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Failed(Error::Overloaded { retry_after, .. }) => Some(retry_after.as_secs()),
            Self::NotReady => Some(5),
            Self::TooManyConnections { .. } | Self::Failed(Error::ShuttingDown) => Some(1),
            _ => None,
        }
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
            // The rest of a late body would be taken for the next request.
            Self::BodyTimeout(_) | Self::TooManyConnections { .. } => {
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

impl From<Rejection> for ApiError {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, detail) = (self.status(), self.detail());
        match &self {
            Self::Failed(error @ Error::Inference(_)) => {
                error!(status = status.as_u16(), "{error}");
            }
            Self::Failed(_)
            | Self::BodyUnreadable(_)
            | Self::BodyTimeout(_)
            | Self::TooManyConnections { .. } => {
                warn!(status = status.as_u16(), "{detail}");
            }
            _ => {}
        }
        let mut response = (status, Json(json!({ "detail": detail }))).into_response();
        if let Some(seconds) = self.retry_after() {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some((name, value)) = self.header() {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// Refuses more documents than the server takes in one request.
pub(super) fn check_documents(actual: usize, limit: usize) -> Result<(), ApiError> {
    if actual > limit {
        return Err(Error::TooManyDocuments { actual, limit }.into());
    }
    Ok(())
}
