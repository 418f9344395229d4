//! Which handler answers which path.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::HeaderMap,
    routing::{get, post},
};

use super::{
    app::App,
    error::ApiError,
    layers::guarded,
    pages,
    rerank::{self, Body},
    scoring::SCORING,
    status, tokenize,
};

/// The routes, without a socket.
pub(super) fn router(app: &Arc<App>) -> Router {
    let mut router = Router::new()
        .route("/", get(status::root))
        .route("/health", get(status::health))
        .route("/ping", get(status::health))
        .route("/info", get(status::info))
        .route("/models", get(status::models))
        .route("/v1/models", get(status::models))
        .route("/v1/models/{*id}", get(status::model))
        .route("/metrics", get(status::metrics))
        .route(tokenize::PATH, post(tokenize::handle))
        // Weaviate asks these of its modules.
        .route("/.well-known/ready", get(status::ready))
        .route("/.well-known/live", get(status::ready))
        .route("/meta", get(status::info))
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
