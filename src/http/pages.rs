//! The pages for people: the playground at `/ui`, the API's documentation at `/docs`. All of it is
//! in the binary.

use std::sync::Arc;

use axum::{
    Router,
    http::{HeaderName, header},
    response::IntoResponse,
    routing::get,
};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::{app::App, openapi};

/// Nothing is loaded from elsewhere, and nobody frames us.
const SECURITY: [(HeaderName, &str); 3] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'self'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
];

const PLAYGROUND: &str = include_str!("ui/index.html");

pub(super) fn router() -> Router<Arc<App>> {
    let docs = SwaggerUi::new("/docs")
        .url("/openapi.json", openapi::document())
        .config(Config::new(["../openapi.json"]));
    Router::new()
        .route(
            "/ui",
            get(async || page("text/html; charset=utf-8", PLAYGROUND)),
        )
        .route(
            "/ui/",
            get(async || page("text/html; charset=utf-8", one_level_down(PLAYGROUND))),
        )
        .route(
            "/ui/style.css",
            get(async || page("text/css; charset=utf-8", include_str!("ui/style.css"))),
        )
        .route(
            "/ui/ui.js",
            get(async || page("text/javascript; charset=utf-8", include_str!("ui/ui.js"))),
        )
        .merge(docs)
}

/// A page at an address with a slash more: its links mean what they mean without.
fn one_level_down(page: &str) -> String {
    page.replacen("<head>", "<head>\n  <base href=\"../\">", 1)
}

fn page(content_type: &'static str, content: impl IntoResponse) -> impl IntoResponse {
    (SECURITY, [(header::CONTENT_TYPE, content_type)], content)
}
