//! What a client is told when there is no ranking: one table from causes to status and body.
//!
//! The body is the old service's: `{"detail": …}`, a sentence, or for a malformed request FastAPI's list.

use axum::{
    Json,
    extract::rejection::BytesRejection,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tracing::{error, warn};

use super::ragfab::Rejection;
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
    /// The connection broke off before the body was complete.
    BodyUnreadable(String),
    /// Everything below HTTP.
    Failed(Error),
}

impl ApiError {
    pub(super) fn from_body(rejection: &BytesRejection, limit: usize) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            return Self::Failed(Error::BodyTooLarge { limit });
        }
        Self::BodyUnreadable(rejection.body_text())
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Rejected(rejection) => {
                StatusCode::from_u16(rejection.status()).unwrap_or(StatusCode::UNPROCESSABLE_ENTITY)
            }
            Self::NotReady | Self::Failed(Error::ShuttingDown) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyUnreadable(_) => StatusCode::BAD_REQUEST,
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
            Self::Failed(Error::ShuttingDown) => Some(1),
            _ => None,
        }
    }
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
            Self::Failed(_) | Self::BodyUnreadable(_) => {
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
