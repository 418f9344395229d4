//! One line of the log for each request, whatever became of it, and one count.
//!
//! The layer is the outermost but for the request's id, so that it sees every answer: of a route,
//! of a guard, of no route at all. What a status does not tell comes with the answer, as an
//! [`Outcome`]. Nothing here reads a header but `Content-Length`, or a body.

use std::{borrow::Cow, sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::StatusCode,
    middleware::Next,
    response::Response,
};
use http_body::Body as _;
use tracing::{Level, debug, error, info, warn};

use super::{
    app::App,
    outcome::{Cause, Format, Outcome, Scored},
    probes::is_probe,
};
use crate::metrics::{Metrics, Refused};

/// The label `route` of what no route matches: paths are the client's choice, labels must be few.
const OTHER: &str = "other";

/// The layer.
pub(super) async fn note(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let visit = Visit::new(&app.metrics, &request);
    let response = next.run(request).await;
    visit.answered(&response);
    response
}

/// A request until its answer. Dropped before that, its connection has ended.
struct Visit<'a> {
    metrics: &'a Metrics,
    route: Cow<'static, str>,
    /// Bytes of the body, if they were announced.
    received: Option<u64>,
    started: Instant,
    is_answered: bool,
}

impl<'a> Visit<'a> {
    fn new(metrics: &'a Metrics, request: &Request) -> Self {
        let matched = request.extensions().get::<MatchedPath>();
        Self {
            metrics,
            route: matched.map_or(Cow::Borrowed(OTHER), |path| label(path.as_str())),
            received: request.body().size_hint().exact(),
            started: Instant::now(),
            is_answered: false,
        }
    }

    fn answered(mut self, response: &Response) {
        self.is_answered = true;
        let (status, extensions) = (response.status(), response.extensions());
        let format = extensions
            .get::<Format>()
            .map_or("none", |&Format(name)| name);
        let labels = [&*self.route, format, status.as_str()];
        self.metrics.requests.with_label_values(&labels).inc();
        let sent = response.body().size_hint().exact();
        match extensions.get::<Outcome>() {
            Some(Outcome::Scored(scored)) => self.log_scored(scored, status, sent),
            Some(Outcome::Refused(cause)) => self.refused(cause, Some(status), sent),
            None if is_error(status) => self.refused(&unexplained(status), Some(status), sent),
            None => self.log_answered(status, sent),
        }
    }

    fn log_scored(&self, scored: &Scored, status: StatusCode, sent: Option<u64>) {
        info!(
            device = %scored.device,
            documents = scored.documents,
            returned = scored.returned,
            tokens = scored.tokens,
            pairs = scored.pairs,
            cached = scored.cached,
            queue_ms = scored.queued.as_millis(),
            compute_ms = scored.computed.as_millis(),
            total_ms = scored.total.as_millis(),
            status = status.as_u16(),
            received = self.received,
            sent,
            "reranked"
        );
    }

    fn log_answered(&self, status: StatusCode, sent: Option<u64>) {
        let (status, total_ms) = (status.as_u16(), self.started.elapsed().as_millis());
        // They come every few seconds.
        if is_probe(&self.route) || self.route == "/metrics" {
            debug!(status, sent, total_ms, "answered");
        } else {
            info!(status, sent, total_ms, "answered");
        }
    }

    fn refused(&self, cause: &Cause, status: Option<StatusCode>, sent: Option<u64>) {
        self.metrics.refused(cause.reason).inc();
        let (status, reason) = (status.map(|status| status.as_u16()), cause.reason.label());
        let (received, total_ms) = (self.received, self.started.elapsed().as_millis());
        let why = &*cause.why;
        macro_rules! refused {
            ($event:ident) => {
                $event!(status, reason, received, sent, total_ms, why, "refused")
            };
        }
        match cause.level {
            Level::ERROR => refused!(error),
            Level::WARN => refused!(warn),
            _ => refused!(info),
        }
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            let cause = Cause {
                reason: Refused::HungUp,
                level: Level::INFO,
                why: "the connection ended before the answer".into(),
            };
            self.refused(&cause, None, None);
        }
    }
}

fn is_error(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

/// Libraries answer by themselves here and there.
fn unexplained(status: StatusCode) -> Cause {
    let (reason, level) = match status {
        StatusCode::NOT_FOUND => (Refused::NoRoute, Level::INFO),
        status if status.is_server_error() => (Refused::Failed, Level::ERROR),
        _ => (Refused::Invalid, Level::INFO),
    };
    Cause {
        reason,
        level,
        why: status.canonical_reason().unwrap_or_default().into(),
    }
}

/// A path with and without a slash at its end is one route.
fn label(path: &str) -> Cow<'static, str> {
    match path.trim_end_matches('/') {
        "" => "/".into(),
        path => path.to_owned().into(),
    }
}
