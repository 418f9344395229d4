//! The layer that asks for a key, and what may be asked without one.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{Method, header},
    middleware::Next,
    response::Response,
};

use super::{
    app::App,
    error::{ApiError, Refusal},
    probes::is_probe,
    scoring::family,
};

/// The layer: lets a request through if it needs no key or has one.
pub(super) async fn require_key(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    if let Some(keys) = &app.keys
        && !is_open(&request)
        && !keys.open_for(request.headers())
    {
        return Err(ApiError::Unauthorized.to(family(request.uri().path())));
    }
    Ok(next.run(request).await)
}

/// What probes and people's browsers ask for before they could send a key, and what tells nothing
/// worth a key.
fn is_open(request: &Request) -> bool {
    let path = request.uri().path();
    match *request.method() {
        Method::GET | Method::HEAD => {
            is_probe(path)
                || matches!(path, "/" | "/openapi.json")
                || ["/ui", "/docs"].iter().any(|root| is_below(path, root))
        }
        // A browser's preflight carries no key; it is answered without touching a route.
        Method::OPTIONS => request
            .headers()
            .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD),
        _ => false,
    }
}

fn is_below(path: &str, root: &str) -> bool {
    path.strip_prefix(root)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn only_what_needs_no_key_is_open() {
        let request = |method: &str, path: &str| {
            let request = Request::builder().method(method).uri(path);
            is_open(&request.body(Body::empty()).unwrap())
        };
        for path in [
            "/",
            "/health",
            "/ping",
            "/.well-known/ready",
            "/ui",
            "/ui/app.js",
            "/docs",
            "/docs/",
            "/docs/x.css",
            "/openapi.json",
            "/health?x=1",
        ] {
            assert!(request("GET", path) && request("HEAD", path), "{path}");
            assert!(!request("POST", path), "{path}");
        }
        for path in [
            "/info",
            "/metrics",
            "/v1/models",
            "/rerank",
            "/uix",
            "/docsx",
            "/health/",
            "//health",
            "/nothing",
        ] {
            assert!(!request("GET", path), "{path}");
        }
        assert!(!request("OPTIONS", "/rerank"), "no preflight");
    }
}
