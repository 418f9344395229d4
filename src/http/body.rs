//! The body of a request, read in one place: within a number of bytes, counted after unpacking, and within a time.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
};

use axum::{
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, FromRequest},
    http::{HeaderMap, Request, header},
    response::Response,
};
use tokio::time::timeout;
use tower::{ServiceExt as _, service_fn};
use tower_http::decompression::{DecompressionBody, RequestDecompression};

use super::{App, error::ApiError};
use crate::error::Error;

/// The encodings that are unpacked, as they stand in a header.
pub(super) const ENCODINGS: &str = "gzip, deflate, br";

/// A whole body, unpacked.
pub(super) struct RequestBody(pub(super) Bytes);

impl FromRequest<Arc<App>> for RequestBody {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, app: &Arc<App>) -> Result<Self, ApiError> {
        let limit = app.settings.max_body_bytes;
        let time = app.settings.body_timeout;
        let body = timeout(time, read(request, limit)).await;
        body.unwrap_or(Err(ApiError::BodyTimeout(time))).map(Self)
    }
}

async fn read(request: Request<Body>, limit: usize) -> Result<Bytes, ApiError> {
    // Before the first byte of it: a client that asks whether to send a body is spared the sending.
    if announced(request.headers()).is_some_and(|bytes| bytes > limit) {
        return Err(Error::BodyTooLarge { limit }.into());
    }
    let mut request = unpacked(request).await?;
    DefaultBodyLimit::max(limit).apply(&mut request);
    let bytes = Bytes::from_request(request, &()).await;
    bytes.map_err(|rejection| ApiError::from_body(&rejection, limit))
}

fn announced(headers: &HeaderMap) -> Option<usize> {
    let length = headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

/// The request with a body that unpacks itself as it is read.
async fn unpacked(mut request: Request<Body>) -> Result<Request<Body>, ApiError> {
    let Some(encoding) = encoding(request.headers())? else {
        return Ok(request);
    };
    request
        .headers_mut()
        .insert(header::CONTENT_ENCODING, encoding.parse().expect("ASCII"));
    let service = RequestDecompression::new(service_fn(hand_out));
    let Ok(response) = service.oneshot(request).await;
    Ok(Request::new(Body::new(response.into_body())))
}

/// The unpacking is a layer around a service; this is a service that only hands the body out again.
fn hand_out(request: Request<DecompressionBody<Body>>) -> Ready<Result<Response, Infallible>> {
    ready(Ok(Response::new(Body::new(request.into_body()))))
}

/// The one encoding of the body, if it has one.
fn encoding(headers: &HeaderMap) -> Result<Option<&'static str>, ApiError> {
    let Some(value) = headers.get(header::CONTENT_ENCODING) else {
        return Ok(None);
    };
    let given = value
        .to_str()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    match given.as_str() {
        "" | "identity" => Ok(None),
        "gzip" | "x-gzip" => Ok(Some("gzip")),
        "deflate" => Ok(Some("deflate")),
        "br" => Ok(Some("br")),
        _ => Err(ApiError::UnknownEncoding(given)),
    }
}
