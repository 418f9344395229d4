//! What every request passes on its way to a route, and every answer on its way back.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    http::{HeaderName, HeaderValue, Method, header},
    middleware::{from_fn, from_fn_with_state},
};
use tower_http::{
    CompressionLevel,
    compression::{
        CompressionLayer, Predicate,
        predicate::{NotForContentType, SizeAbove},
    },
    cors::{AllowOrigin, CorsLayer},
};

use super::{
    access,
    app::App,
    auth,
    origin::Origin,
    request_id::{self, X_REQUEST_ID},
    strict, unread,
};

/// Below this, packing costs more than it saves.
const COMPRESS_FROM_BYTES: u64 = 4096;

/// How long a browser may remember the answer to a preflight.
const PREFLIGHT_AGE: Duration = Duration::from_mins(10);

/// What a page may read of an answer, beside what browsers always let it.
const EXPOSED: [&str; 12] = [
    "x-request-id",
    "retry-after",
    "x-total-time",
    "x-tokenization-time",
    "x-queue-time",
    "x-inference-time",
    "x-compute-type",
    "x-compute-time",
    "x-compute-characters",
    "x-compute-tokens",
    "x-compute-pairs",
    "x-cached-pairs",
];

/// The routes behind their guards.
///
/// From the outside in, which is from the last `layer` up:
/// 1. the request id, so that every answer and every line of the log has one;
/// 2. the line of the log and the count, so that no answer goes without;
/// 3. CORS, which answers preflights itself, and lets pages read refusals too;
/// 4. the end of a connection on which a body was left unread, by whatever is further in;
/// 5. the refusal of requests that can be read in two ways;
/// 6. the key, so that a stranger costs nothing more than this;
/// 7. compression of the answers that the routes give.
///
/// Limits of a body are not here: `body` has them, where it is read.
pub(super) fn guarded(router: Router, app: &Arc<App>) -> Router {
    let router = router
        .layer(compression())
        .layer(from_fn_with_state(Arc::clone(app), auth::require_key))
        .layer(from_fn(strict::refuse_ambiguous))
        .layer(from_fn(unread::announce_close));
    let origins = &app.settings.access.cors_origins;
    let router = if origins.is_empty() {
        router
    } else {
        router.layer(cors(origins))
    };
    router
        .layer(from_fn_with_state(Arc::clone(app), access::note))
        .layer(from_fn(request_id::identify))
}

fn compression() -> CompressionLayer<impl Predicate> {
    CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(SizeAbove::new(COMPRESS_FROM_BYTES).and(NotForContentType::IMAGES))
}

fn cors(origins: &[Origin]) -> CorsLayer {
    let allowed = if origins.iter().any(Origin::is_any) {
        AllowOrigin::any()
    } else {
        let values = origins.iter().map(|origin| origin.as_str().parse());
        AllowOrigin::list(values.filter_map(Result::<HeaderValue, _>::ok))
    };
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::HEAD, Method::POST])
        .allow_headers([
            header::AUTHORIZATION,
            header::CACHE_CONTROL,
            header::CONTENT_TYPE,
            HeaderName::from_static("x-api-key"),
            HeaderName::from_static(X_REQUEST_ID),
        ])
        .expose_headers(EXPOSED.map(HeaderName::from_static))
        .max_age(PREFLIGHT_AGE)
}
