//! The HTTP server: routes, what it knows while the model loads, and how it stops.
//!
//! Only this module and its children know axum. A wire format is a file of types beside this one (`ragfab`); the
//! work is [`Reranker::rerank`] for all of them.

mod error;
pub(crate) mod ragfab;
mod status;

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::Instant,
};

use anyhow::Result;
use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State, rejection::BytesRejection},
    http::{HeaderMap, header},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use tokio::{net::TcpListener, sync::oneshot, task::spawn_blocking, time::sleep};
use tracing::{info, warn};

use self::error::ApiError;
use crate::{
    config::HttpSettings,
    error::Error,
    rerank::{Ranking, Reranker},
};

/// What the handlers share.
pub struct App {
    model_id: String,
    settings: HttpSettings,
    /// Empty until the model has loaded and scored a first pair.
    reranker: OnceLock<Reranker>,
}

impl App {
    /// A server whose model is still loading.
    pub fn new(model_id: String, settings: HttpSettings) -> Arc<Self> {
        Arc::new(Self {
            model_id,
            settings,
            reranker: OnceLock::new(),
        })
    }

    /// From now on requests are answered.
    pub fn set_ready(&self, reranker: Reranker) {
        // A second model would be a mistake of the caller's; the first stays.
        let _ = self.reranker.set(reranker);
    }

    fn ready(&self) -> Result<&Reranker, ApiError> {
        self.reranker.get().ok_or(ApiError::NotReady)
    }
}

/// The routes, without a socket.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(status::root))
        .route("/health", get(status::health))
        .route("/info", get(status::info))
        .route("/rerank", post(rerank))
        .route("/rerank/", post(async || Redirect::temporary("/rerank")))
        .fallback(async || ApiError::NotFound)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(DefaultBodyLimit::max(app.settings.max_body_bytes))
        .with_state(app)
}

/// Serves until `shutdown`, then drains: no new connections, requests in progress are finished, within limits.
///
/// # Errors
/// If the socket fails.
pub async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let drain_timeout = app.settings.drain_timeout;
    let (draining, drain_began) = oneshot::channel();
    let server =
        axum::serve(listener, router(Arc::clone(&app))).with_graceful_shutdown(async move {
            shutdown.await;
            info!(
                timeout_ms = drain_timeout.as_millis(),
                "stopping: finishing requests in progress"
            );
            let _ = draining.send(());
        });
    let too_long = async {
        let _ = drain_began.await;
        sleep(drain_timeout).await;
    };
    tokio::select! {
        stopped = server => stopped?,
        () = too_long => warn!("requests in progress did not finish within RERANKER_DRAIN_TIMEOUT_MS; giving them up"),
    }
    if let Some(reranker) = app.reranker.get() {
        reranker.close();
    }
    info!("stopped");
    Ok(())
}

/// `POST /rerank`.
async fn rerank(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let started = Instant::now();
    let body = body.map_err(|e| ApiError::from_body(&e, app.settings.max_body_bytes))?;
    let content_type = headers.get(header::CONTENT_TYPE);
    ragfab::check_content_type(content_type.and_then(|value| value.to_str().ok()), &body)?;
    // Off the async threads: a body may have millions of bytes.
    let request = spawn_blocking(move || ragfab::parse(&body)).await;
    let request = request.map_err(|e| Error::Inference(format!("parsing panicked: {e}")))?;
    // The order of the old service: a malformed body, then a model that is loading, then an empty request.
    if let Err(rejection @ ragfab::Rejection::Invalid(_)) = request {
        return Err(rejection.into());
    }
    let reranker = app.ready()?;
    let request = request?;
    error::check_documents(request.documents.len(), app.settings.max_documents)?;
    let ranking = reranker
        .rerank(request.query.clone(), request.texts())
        .await?;
    let returned = request.top_k.min(ranking.scores.len());
    log_request(reranker, &ranking, returned, started);
    let response =
        ragfab::Response::new(&request, &ranking, &reranker.info().id, started.elapsed());
    Ok(Json(response).into_response())
}

fn log_request(reranker: &Reranker, ranking: &Ranking, returned: usize, started: Instant) {
    info!(
        device = %reranker.info().device,
        documents = ranking.scores.len(),
        returned,
        tokens = ranking.tokens,
        queue_ms = ranking.queued.as_millis(),
        compute_ms = ranking.computed.as_millis(),
        total_ms = started.elapsed().as_millis(),
        "reranked"
    );
}
