//! `X-Request-Id`: one on every answer and on every line of the log that a request causes, beside
//! what was asked and who asked.

use std::net::SocketAddr;

use axum::{
    extract::{ConnectInfo, Request},
    http::{HeaderMap, HeaderValue},
    middleware::Next,
    response::Response,
};
use tracing::{Instrument as _, Span, error_span};
use uuid::Uuid;

use super::quote::cut;

pub(super) const X_REQUEST_ID: &str = "x-request-id";

/// Longer ones are replaced: they would be repeated in every line of the log.
const MAX_LENGTH: usize = 128;

/// What a line of the log shows of a path, and of a method, which can be any word.
const PATH_CHARS: usize = 256;
const METHOD_CHARS: usize = 16;

/// The layer: keeps a sensible id that the client chose, gives one otherwise.
pub(super) async fn identify(mut request: Request, next: Next) -> Response {
    let id = kept(request.headers()).unwrap_or_else(new);
    request.headers_mut().insert(X_REQUEST_ID, id.clone());
    let span = span(&id, &request);
    let mut response = next.run(request).instrument(span).await;
    response.headers_mut().insert(X_REQUEST_ID, id);
    response
}

/// What stands on each line of the log. The query of the address does not: people put keys there.
fn span(id: &HeaderValue, request: &Request) -> Span {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    // The span has the level of errors, so that no choice of level takes the id off a line.
    error_span!(
        "request",
        request_id = %id.to_str().unwrap_or_default(),
        method = %cut(request.method().as_str(), METHOD_CHARS),
        path = %cut(request.uri().path(), PATH_CHARS),
        peer = peer.map(|ConnectInfo(address)| display(address)),
    )
}

/// An id that no one has had.
pub(super) fn new() -> HeaderValue {
    HeaderValue::try_from(Uuid::new_v4().to_string()).expect("hexadecimal digits and hyphens")
}

fn kept(headers: &HeaderMap) -> Option<HeaderValue> {
    let id = headers.get(X_REQUEST_ID)?;
    let bytes = id.as_bytes();
    let is_sensible =
        (1..=MAX_LENGTH).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    is_sensible.then(|| id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_kept(value: &[u8]) -> bool {
        let value = HeaderValue::from_bytes(value).unwrap();
        kept(&HeaderMap::from_iter([(
            X_REQUEST_ID.parse().unwrap(),
            value,
        )]))
        .is_some()
    }

    #[test]
    fn ids_are_kept_up_to_the_limit_if_they_can_stand_in_a_log() {
        assert!(is_kept(b"a"));
        assert!(is_kept(&[b'~'; 128]));
        assert!(!is_kept(&[b'~'; 129]));
        assert!(!is_kept(b""));
        assert!(!is_kept(b"two words"));
        assert!(!is_kept("é".as_bytes()));
        assert_ne!(new(), new());
    }
}
