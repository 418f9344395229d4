//! The HTTP server: routes, what it knows while the model loads, and how it stops.
//!
//! Only this module and its children know axum. A wire format is a file of types in `wire`; the work is
//! [`Reranker::rerank`] for all of them.

mod access;
mod activity;
mod auth;
mod body;
mod connection;
mod departure;
mod descriptors;
mod error;
mod gate;
mod intake;
mod layers;
mod listen;
mod openapi;
mod pages;
mod path;
mod quote;
mod reload;
mod request_id;
mod rerank;
mod room;
mod service;
mod status;
mod strict;
mod tls;
mod unread;
pub(crate) mod wire;

use std::{
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use anyhow::Result;
use axum::{
    Router,
    extract::State,
    http::HeaderMap,
    routing::{get, post},
};

pub use self::listen::{Listener, serve};
use self::{
    auth::Keys,
    body::RequestBody,
    error::ApiError,
    layers::guarded,
    wire::{Family, Route},
};
use crate::{
    config::HttpSettings,
    memory::Budget,
    metrics::Metrics,
    rerank::{Limits, Reranker},
    text_pool::TextPool,
};

/// What all requests in flight share.
pub struct Shared {
    /// The memory that they may hold.
    pub memory: Arc<Budget>,
    /// The threads for their texts.
    pub text: Arc<TextPool>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// What the handlers share.
pub struct App {
    model_id: String,
    settings: HttpSettings,
    limits: Limits,
    memory: Arc<Budget>,
    text: Arc<TextPool>,
    metrics: Arc<Metrics>,
    started: SystemTime,
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
    pub fn new(
        model_id: String,
        settings: HttpSettings,
        limits: Limits,
        shared: Shared,
    ) -> Result<Arc<Self>> {
        let Shared {
            memory,
            text,
            metrics,
        } = shared;
        Ok(Arc::new(Self {
            model_id,
            keys: Keys::load(&settings.access.keys)?,
            settings,
            limits,
            memory,
            text,
            metrics,
            started: SystemTime::now(),
            reranker: OnceLock::new(),
        }))
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
pub fn router(app: &Arc<App>) -> Router {
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
            rerank::handle(app, route, headers, body)
        };
        router = router.route(path, post(handle));
    }
    let routes = router
        .fallback(async || ApiError::NotFound)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .with_state(Arc::clone(app));
    guarded(routes, app)
}

/// Whose clients ask on a path.
fn family(path: &str) -> Family {
    let route = SCORING.iter().find(|(scoring, _)| *scoring == path);
    route.map_or(Family::Unknown, |(_, route)| route.family())
}

/// What came after the headers, or why it could not be read.
type Body = Result<RequestBody, ApiError>;
