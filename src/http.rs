//! The HTTP server: routes, what it knows while the model loads, and how it stops.
//!
//! Only this module and its children know axum. A wire format is a file of types in `wire`; the work is
//! [`Reranker::rerank`] for all of them.

mod error;
mod openapi;
mod pages;
mod rerank;
mod status;
pub(crate) mod wire;

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use anyhow::Result;
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State, rejection::BytesRejection},
    http::HeaderMap,
    response::Redirect,
    routing::{get, post},
};
use tokio::{net::TcpListener, sync::oneshot, time::sleep};
use tracing::{info, warn};

use self::{error::ApiError, wire::Route};
use crate::{config::HttpSettings, metrics::Metrics, rerank::Reranker};

/// What the handlers share.
pub struct App {
    model_id: String,
    settings: HttpSettings,
    metrics: Arc<Metrics>,
    started: SystemTime,
    /// Empty until the model has loaded and scored a first pair.
    reranker: OnceLock<Reranker>,
}

impl App {
    /// A server whose model is still loading.
    pub fn new(model_id: String, settings: HttpSettings, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            model_id,
            settings,
            metrics,
            started: SystemTime::now(),
            reranker: OnceLock::new(),
        })
    }

    /// From now on requests are answered.
    pub fn set_ready(&self, reranker: Reranker) {
        let info = reranker.info();
        self.metrics
            .set_info(&info.id, info.device, info.dtype, info.backend);
        // A second model would be a mistake of the caller's; the first stays.
        let _ = self.reranker.set(reranker);
    }

    fn ready(&self) -> Result<&Reranker, ApiError> {
        self.reranker.get().ok_or(ApiError::NotReady)
    }
}

/// The paths that score, and what each takes.
const SCORING: [(&str, Route); 11] = [
    ("/rerank", Route::Any),
    ("/v1/rerank", Route::Results),
    ("/v2/rerank", Route::Results),
    ("/v1/v1/rerank", Route::Results), // cohere's SDK, given a base URL that ends in /v1
    ("/reranking", Route::Results),
    ("/v1/reranking", Route::Results),
    ("/infinity/rerank", Route::Infinity),
    ("/score", Route::Score),
    ("/v1/score", Route::Score),
    ("/", Route::Tei),
    ("/invocations", Route::Tei),
];

/// The routes, without a socket.
pub fn router(app: Arc<App>) -> Router {
    let limit = DefaultBodyLimit::max(app.settings.max_body_bytes);
    let mut router = Router::new()
        .route("/", get(status::root))
        .route("/health", get(status::health))
        .route("/ping", get(status::health))
        .route("/info", get(status::info))
        .route("/models", get(status::models))
        .route("/v1/models", get(status::models))
        .route("/v1/models/{*id}", get(status::model))
        .route("/metrics", get(status::metrics))
        .merge(pages::router());
    for (path, route) in SCORING {
        let handle = move |State(app): State<Arc<App>>, headers: HeaderMap, body: Body| {
            rerank::handle(app, route, path, headers, body)
        };
        router = router.route(path, post(handle));
        if path != "/" {
            let with_slash = format!("{path}/"); // people paste such addresses
            router = router.route(&with_slash, post(async move || Redirect::temporary(path)));
        }
    }
    router
        .fallback(async || ApiError::NotFound)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(limit)
        .with_state(app)
}

/// What came after the headers, or why it could not be read.
type Body = Result<Bytes, BytesRejection>;

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
