//! What RFC 9112 asks a server to refuse, because two readers of one request could take it for two
//! different ones. The HTTP library refuses the rest of it (Content-Lengths that differ, or that
//! are none) by itself.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, Version, header, uri::Authority},
    middleware::Next,
    response::Response,
};

use super::{
    error::{ApiError, Refusal},
    scoring::family,
};

/// The layer.
pub(super) async fn refuse_ambiguous(request: Request, next: Next) -> Result<Response, Refusal> {
    let checked = host(request.headers(), request.version()).and(coding(request.headers()));
    match checked {
        Ok(()) => Ok(next.run(request).await),
        Err(why) => Err(ApiError::Ambiguous(why).to(family(request.uri().path()))),
    }
}

/// Section 3.2: one, and a valid one. HTTP/2 names the host elsewhere.
fn host(headers: &HeaderMap, version: Version) -> Result<(), String> {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.count()) {
        (None, _) if version == Version::HTTP_11 => {
            Err("the request has no Host header, which HTTP/1.1 demands; send one".to_owned())
        }
        (None, _) => Ok(()),
        (Some(host), 0) if is_host(host) => Ok(()),
        (Some(host), 0) => Err(format!(
            "the Host header {} is not a name or an address with or without a port; send the one that the server is reached by",
            shown(host)
        )),
        (Some(_), more) => Err(format!(
            "the request has {} Host headers; send one",
            more + 1
        )),
    }
}

fn is_host(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    // It is empty where the target of the request names no host.
    if bytes.is_empty() {
        return true;
    }
    let Ok(authority) = Authority::try_from(bytes) else {
        return false;
    };
    let port = authority.as_str().strip_prefix(authority.host());
    // What stands before a host is a user, which no Host header has.
    port.is_some_and(|port| {
        let digits = port.strip_prefix(':').unwrap_or(port);
        digits.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Section 6.1: chunks are the only coding that is known here.
fn coding(headers: &HeaderMap) -> Result<(), String> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let is_known = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(only), None) if is_known(only) => Ok(()),
        (Some(first), _) => Err(format!(
            "Transfer-Encoding {} is not known here; send the body with a Content-Length or with Transfer-Encoding \"chunked\" alone, and name a packing in Content-Encoding",
            shown(first)
        )),
    }
}

/// A header as it can stand in a sentence.
fn shown(value: &HeaderValue) -> String {
    const LONGEST: usize = 100;
    let bytes = value.as_bytes();
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST)]);
    let cut = if bytes.len() > LONGEST { "…" } else { "" };
    format!("\"{text}{cut}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        for host in [
            "",
            "x",
            "reranker.example",
            "reranker_backend",
            "127.0.0.1:8002",
            "[::1]",
            "[::1]:8002",
            "x:",
        ] {
            assert!(is_host(&HeaderValue::from_str(host).unwrap()), "{host:?}");
        }
        for host in [
            "a b", "a@b", "a/b", "x:80a", "x:1:2", "http://x", "[::1", "[::1]x", "x?y", "x#y",
        ] {
            assert!(!is_host(&HeaderValue::from_str(host).unwrap()), "{host:?}");
        }
        assert!(!is_host(&HeaderValue::from_bytes(b"\xff").unwrap()));
    }

    #[test]
    fn a_long_header_is_cut() {
        let long = HeaderValue::from_str(&"x".repeat(60_000)).unwrap();
        assert!(shown(&long).len() < 120);
    }
}
