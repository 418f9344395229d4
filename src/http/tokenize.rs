//! `POST /tokenize`: what the model reads of texts, for clients that count tokens.

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse as _, Response},
};

use super::{
    app::App,
    body::RequestBody,
    error::{ApiError, Refusal},
    rerank::Body,
    wire::{Family, Reason, Rejection, tokenize},
};
use crate::{deadline::Deadline, error::Error, rerank::Job, text_pool::Demand};

/// Where it is asked for.
pub(super) const PATH: &str = "/tokenize";

/// Answers a request, whatever becomes of it.
pub(super) async fn handle(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    match answer(&app, &headers, body).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    }
}

async fn answer(app: &App, headers: &HeaderMap, body: Body) -> Result<Response, Refusal> {
    let refuse = |error: Error| ApiError::from(error).to(Family::Tei);
    let deadline = Deadline::after(app.limits.deadline);
    let RequestBody { bytes, mut lease } = body.map_err(|error| error.to(Family::Tei))?;
    let reranker = app.ready().map_err(|error| error.to(Family::Tei))?;
    let content_type = headers.get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    let (content_type, limits) = (content_type.map(str::to_owned), app.limits);
    let length = bytes.len();
    let parse = move |_: &Demand| {
        let request = tokenize::parse(content_type.as_deref(), &bytes, limits.documents)?;
        let job = Job {
            documents: request.texts.clone(),
            ..Job::default()
        };
        let checked = limits.check(&job).map(|()| request);
        checked.map_err(|error| Rejection {
            family: Family::Tei,
            reason: Reason::TooLarge(error),
        })
    };
    let request = app.text.run(length, deadline, parse).await;
    let request = request.map_err(refuse)?;
    let request =
        request.map_err(|Rejection { family, reason }| ApiError::from(reason).to(family))?;
    let tokens = reranker
        .tokenize(request.texts, request.with_special, deadline, &mut lease)
        .await
        .map_err(refuse)?;
    let write = move |_: &Demand| tokenize::answer(tokens);
    let written = app.text.run(length, deadline, write).await;
    let written = written.map_err(refuse)?;
    let answer = written.map_err(|error| refuse(Error::Inference(error.to_string())))?;
    let json = [(header::CONTENT_TYPE, "application/json")];
    Ok((json, Bytes::from_owner(lease.hold(answer))).into_response())
}
