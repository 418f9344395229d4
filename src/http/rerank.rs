//! The one handler behind every path that scores: read, parse, check, rank, answer, count.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Extension,
    body::Bytes,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use prometheus::IntGauge;
use tokio::task::spawn_blocking;

use super::{
    App, Body,
    access::{Format, Outcome, Scored},
    body::RequestBody,
    error::{ApiError, Refusal},
    request_id::X_REQUEST_ID,
    wire::{self, Reason, Request, Route, Served},
};
use crate::{
    config::HttpSettings,
    error::Error,
    rerank::{Job, Ranking},
};

/// Bodies up to this size are parsed where they are; longer ones would hold up the others on an async thread.
const PARSE_INLINE: usize = 64 * 1024;

/// Answers a request, whatever becomes of it.
pub(super) async fn handle(
    app: Arc<App>,
    route: Route,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let _in_progress = InProgress::new(&app.metrics.in_progress);
    let (format, mut response) = match answer(&app, route, &headers, body).await {
        Ok(answered) => answered,
        Err(refusal) => (refusal.family.name(), refusal.into_response()),
    };
    response.extensions_mut().insert(Format(format));
    response
}

/// Counts a request as long as it is there: a client that hangs up drops it.
struct InProgress(IntGauge);

impl InProgress {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The answer, and the name of the format it is in.
async fn answer(
    app: &App,
    route: Route,
    headers: &HeaderMap,
    body: Body,
) -> Result<(&'static str, Response), Refusal> {
    let started = Instant::now();
    let RequestBody(body) = body.map_err(|error| error.to(route.family()))?;
    let request = match parse(route, headers, body).await {
        Ok(request) => request,
        Err(refusal) => return Err(after_readiness(app, refusal)),
    };
    let (family, format) = (request.family(), request.format());
    let refuse = |error: ApiError| error.to(family);
    let reranker = app.ready().map_err(refuse)?;
    let job = request.job();
    check(&job, &app.settings).map_err(|error| refuse(error.into()))?;
    let characters = characters(&job);
    let parsed = started.elapsed();
    let ranking = reranker
        .rerank(job)
        .await
        .map_err(|error| refuse(error.into()))?;
    let id = headers.get(X_REQUEST_ID).map(HeaderValue::to_str);
    let answer = request.answer(&Served {
        ranking: &ranking,
        model: &reranker.info().id,
        id: id.and_then(Result::ok).unwrap_or_default(),
        elapsed: started.elapsed(),
    });
    let answer = answer.map_err(|e| refuse(Error::Inference(e.to_string()).into()))?;
    app.observe(&ranking, parsed, started.elapsed(), format);
    let device = reranker.info().device;
    let outcome = Outcome::Scored(Scored {
        device,
        documents: ranking.scores.len(),
        returned: request.returned(&ranking),
        tokens: ranking.tokens,
        queued: ranking.queued,
        computed: ranking.computed,
        total: started.elapsed(),
    });
    let timing = timing_headers(device, &ranking, characters, started.elapsed());
    let json = (
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    let response = ([json], timing, Extension(outcome), answer).into_response();
    Ok((format, response))
}

async fn parse(route: Route, headers: &HeaderMap, body: Bytes) -> Result<Request, Refusal> {
    let content_type = headers.get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    let parsed = if body.len() <= PARSE_INLINE {
        wire::parse(route, content_type, &body)
    } else {
        let content_type = content_type.map(str::to_owned);
        spawn_blocking(move || wire::parse(route, content_type.as_deref(), &body))
            .await
            .map_err(|e| {
                let error = Error::Inference(format!("parsing panicked: {e}"));
                ApiError::Failed(error).to(route.family())
            })?
    };
    parsed.map_err(|rejection| ApiError::Rejected(rejection.reason).to(rejection.family))
}

/// The order of the old service: a malformed body, then a model that is loading, then an empty request.
fn after_readiness(app: &App, refusal: Refusal) -> Refusal {
    let is_malformed = matches!(
        refusal.error,
        ApiError::Rejected(Reason::Invalid(_) | Reason::Undecodable)
    );
    match app.ready() {
        Err(not_ready) if !is_malformed => not_ready.to(refusal.family),
        _ => refusal,
    }
}

/// Refuses more than the server takes in one request.
fn check(job: &Job, limits: &HttpSettings) -> Result<(), Error> {
    let (actual, limit) = (job.documents.len(), limits.max_documents);
    if actual > limit {
        return Err(Error::TooManyDocuments { actual, limit });
    }
    let limit = limits.max_query_chars;
    if let Some((index, chars)) = first_longer(&job.queries, limit) {
        return Err(Error::QueryTooLong {
            index,
            chars,
            limit,
        });
    }
    let limit = limits.max_document_chars;
    if let Some((index, chars)) = first_longer(&job.documents, limit) {
        return Err(Error::DocumentTooLong {
            index,
            chars,
            limit,
        });
    }
    Ok(())
}

/// The first text with more characters than the limit, and how many. Bytes are counted first: that costs nothing.
fn first_longer(texts: &[String], limit: usize) -> Option<(usize, usize)> {
    let texts = texts.iter().enumerate();
    texts
        .filter(|(_, text)| text.len() > limit)
        .map(|(index, text)| (index, text.chars().count()))
        .find(|&(_, chars)| chars > limit)
}

fn characters(job: &Job) -> usize {
    let texts = job.queries.iter().chain(&job.documents);
    texts.map(|text| text.chars().count()).sum()
}

/// Those of text-embeddings-inference, in whole milliseconds, and `Server-Timing` for who wants it finer.
fn timing_headers(
    device: &str,
    ranking: &Ranking,
    characters: usize,
    total: Duration,
) -> HeaderMap {
    let ms = |duration: Duration| duration.as_millis().to_string();
    let fine = |name, duration: Duration| format!("{name};dur={:.3}", duration.as_secs_f64() * 1e3);
    let server_timing = [
        fine("tokenize", ranking.tokenized),
        fine("queue", ranking.queued),
        fine("compute", ranking.computed),
        fine("total", total),
    ];
    [
        ("x-compute-type", device.to_owned()),
        ("x-compute-time", ms(total)),
        ("x-compute-characters", characters.to_string()),
        ("x-compute-tokens", ranking.tokens.to_string()),
        ("x-total-time", ms(total)),
        ("x-tokenization-time", ms(ranking.tokenized)),
        ("x-queue-time", ms(ranking.queued)),
        ("x-inference-time", ms(ranking.computed)),
        ("server-timing", server_timing.join(", ")),
    ]
    .into_iter()
    .filter_map(|(name, value)| {
        let value = HeaderValue::try_from(value).ok()?;
        Some((HeaderName::from_static(name), value))
    })
    .collect()
}

impl App {
    fn observe(&self, ranking: &Ranking, parsed: Duration, total: Duration, format: &str) {
        let metrics = &self.metrics;
        let seconds = total.as_secs_f64();
        metrics
            .request_seconds
            .with_label_values(&[format])
            .observe(seconds);
        metrics.documents.observe(ranking.scores.len() as f64);
        for (stage, took) in [
            ("parse", parsed),
            ("tokenize", ranking.tokenized),
            ("queue", ranking.queued),
            ("compute", ranking.computed),
        ] {
            let stage = metrics.stage_seconds.with_label_values(&[stage]);
            stage.observe(took.as_secs_f64());
        }
    }
}
