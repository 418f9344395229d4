//! The routes as one connection sees them.

use std::{
    convert::Infallible,
    future::ready,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    http::{HeaderValue, Method, Request, Version, header},
    response::{IntoResponse as _, Response},
};
use prometheus::IntCounter;
use tracing::warn;

use super::{
    activity::Activity,
    error::ApiError,
    path,
    probes::is_probe,
    request_id::{self, X_REQUEST_ID},
    room::Seat,
};
use crate::metrics::Refused;

/// The value of `Keep-Alive`: how long an idle connection is kept.
pub(super) type Announced = Option<HeaderValue>;

/// The routes behind the question whether there is a place for who asks.
#[derive(Clone)]
pub(super) struct Service<S> {
    inner: S,
    activity: Arc<Activity>,
    seat: Arc<Seat>,
    /// Counts requests for which there was no place.
    refused: IntCounter,
    announced: Announced,
}

impl<S> Service<S> {
    pub(super) fn new(
        inner: S,
        activity: Arc<Activity>,
        seat: Arc<Seat>,
        refused: IntCounter,
        announced: Announced,
    ) -> Self {
        Self {
            inner,
            activity,
            seat,
            refused,
            announced,
        }
    }
}

impl<S, B> tower::Service<Request<B>> for Service<S>
where
    S: tower::Service<Request<B>, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        path::straighten(request.uri_mut());
        let version = request.version();
        let in_progress = self.activity.begin(version);
        let has_place = self.seat.take_place();
        if !has_place {
            self.activity.note_leaving();
            if !needs_no_place(&request) {
                self.refused.inc();
                return Box::pin(ready(Ok(refusal(self.seat.room().places()))));
            }
        }
        let more = more_headers(has_place, version, &self.announced);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut answer = answer.await?;
            if let Some((name, value)) = more {
                answer.headers_mut().insert(name, value);
            }
            drop(in_progress);
            Ok(answer)
        })
    }
}

/// What says that the server is there. It is answered without a place too.
fn needs_no_place<B>(request: &Request<B>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD) && is_probe(request.uri().path())
}

/// What an answer says of the connection's future.
fn more_headers(
    has_place: bool,
    version: Version,
    announced: &Announced,
) -> Option<(header::HeaderName, HeaderValue)> {
    match (has_place, version) {
        (_, Version::HTTP_2) => None,
        (false, _) => Some((header::CONNECTION, HeaderValue::from_static("close"))),
        (true, Version::HTTP_11) => {
            let keep_alive = header::HeaderName::from_static("keep-alive");
            announced.clone().map(|value| (keep_alive, value))
        }
        (true, _) => None,
    }
}

fn refusal(limit: usize) -> Response {
    let mut response = ApiError::TooManyConnections { limit }.into_response();
    let id = request_id::new();
    // The request never comes to the layer that logs the others.
    let (status, reason) = (response.status().as_u16(), Refused::Connections.label());
    warn!(request_id = ?id, status, reason, limit, "refused");
    response.headers_mut().insert(X_REQUEST_ID, id);
    response
}
