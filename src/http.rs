//! The HTTP server: routes, what it knows while the model loads, and how it stops.
//!
//! Only this module and its children know axum. A wire format is a file of types beside this one (`ragfab`); the
//! work is [`Reranker::rerank`] for all of them.

mod auth;
mod body;
mod connection;
mod error;
mod gate;
mod layers;
mod listen;
pub(crate) mod ragfab;
mod reload;
mod request_id;
mod status;
mod tls;

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use anyhow::Result;
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use tokio::task::spawn_blocking;
use tracing::info;

pub use self::listen::{Listener, serve};
use self::{auth::Keys, body::RequestBody, error::ApiError, layers::guarded};
use crate::{
    config::HttpSettings,
    error::Error,
    rerank::{Ranking, Reranker},
};

/// What the handlers share.
pub struct App {
    model_id: String,
    settings: HttpSettings,
    /// None if everyone may use the server.
    keys: Option<Arc<Keys>>,
    /// Empty until the model has loaded and scored a first pair.
    reranker: OnceLock<Reranker>,
}

impl App {
    /// A server whose model is still loading.
    ///
    /// # Errors
    /// A file of keys that cannot be used.
    pub fn new(model_id: String, settings: HttpSettings) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            model_id,
            keys: Keys::load(&settings.access.keys)?,
            settings,
            reranker: OnceLock::new(),
        }))
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
pub fn router(app: &Arc<App>) -> Router {
    let routes = Router::new()
        .route("/", get(status::root))
        .route("/health", get(status::health))
        .route("/info", get(status::info))
        .route("/rerank", post(rerank))
        .route("/rerank/", post(async || Redirect::temporary("/rerank")))
        .fallback(async || ApiError::NotFound)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .with_state(Arc::clone(app));
    guarded(routes, app)
}

/// `POST /rerank`.
async fn rerank(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    RequestBody(body): RequestBody,
) -> Result<Response, ApiError> {
    let started = Instant::now();
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
