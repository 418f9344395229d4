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

use super::{
    app::App,
    body::RequestBody,
    error::{ApiError, Refusal},
    outcome::{Format, Outcome, Scored},
    request_id::X_REQUEST_ID,
    wire::{self, Reason, Rejection, Request, Route, Served},
};
use crate::{
    deadline::Deadline,
    error::Error,
    metrics::{Metrics, Stage},
    rerank::{Caching, Job, Limits, Ranking},
    text_pool::Demand,
};

/// What came after the headers, or why it could not be read.
pub(super) type Body = Result<RequestBody, ApiError>;

/// Requests with bodies up to this size are parsed and answered where they are; larger ones would
/// hold up the others on an async thread.
const SMALL: usize = 64 * 1024;

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
    let deadline = Deadline::after(app.limits.deadline);
    let RequestBody { bytes, mut lease } = body.map_err(|error| error.to(route.family()))?;
    let is_small = bytes.len() <= SMALL;
    let Parsed {
        request,
        job,
        characters,
    } = parse(app, route, headers, bytes, deadline).await?;
    let (family, format) = (request.family(), request.format());
    let refuse = |error: Error| ApiError::from(error).to(family);
    let reranker = app.ready().map_err(|error| error.to(family))?;
    let parsed = started.elapsed();
    let caching = caching(headers);
    let ranking = reranker.rerank(job, caching, deadline, &mut lease).await;
    let ranking = ranking.map_err(refuse)?;
    let returned = request.returned(&ranking);
    let id = headers.get(X_REQUEST_ID).map(HeaderValue::to_str);
    let write = Write {
        id: id.and_then(Result::ok).unwrap_or_default().to_owned(),
        model: reranker.info().id.clone(),
        request,
        ranking,
        started,
    };
    let (ranking, answer) = if is_small {
        write.run()
    } else {
        let written = app.text.run(lease.bytes(), deadline, |_| write.run()).await;
        written.map_err(refuse)?
    };
    let answer = answer.map_err(|e| refuse(Error::Inference(e.to_string())))?;
    observe(&app.metrics, &ranking, parsed, started.elapsed(), format);
    let device = reranker.info().device;
    let outcome = Outcome::Scored(Scored {
        device,
        documents: ranking.scores.len(),
        returned,
        tokens: ranking.tokens,
        pairs: ranking.pairs,
        cached: ranking.cached,
        queued: ranking.queued,
        computed: ranking.computed,
        total: started.elapsed(),
    });
    let timing = timing_headers(device, &ranking, characters, started.elapsed());
    let json = (
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    let answer = Bytes::from_owner(lease.hold(answer));
    let response = ([json], timing, Extension(outcome), answer).into_response();
    Ok((format, response))
}

/// A request that is in order, and what is to be done.
struct Parsed {
    request: Request,
    job: Job,
    characters: usize,
}

/// Reads a body on the threads for text, or here if it is small.
async fn parse(
    app: &App,
    route: Route,
    headers: &HeaderMap,
    body: Bytes,
    deadline: Deadline,
) -> Result<Parsed, Refusal> {
    let content_type = headers.get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    let (length, limits) = (body.len(), app.limits);
    let parsed = if length <= SMALL {
        parse_within(route, content_type, &body, &limits)
    } else {
        let content_type = content_type.map(str::to_owned);
        let parse = move |_: &Demand| parse_within(route, content_type.as_deref(), &body, &limits);
        let parsed = app.text.run(length, deadline, parse).await;
        parsed.map_err(|error| ApiError::from(error).to(route.family()))?
    };
    parsed.map_err(|Rejection { family, reason }| {
        let refusal = ApiError::from(reason).to(family);
        after_readiness(app, refusal)
    })
}

/// Whether the request wants nothing of it to be kept (RFC 9111, 5.2.1.5).
fn caching(headers: &HeaderMap) -> Caching {
    let values = headers.get_all(header::CACHE_CONTROL).iter();
    let directives = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    let mut directives = directives.map(str::trim);
    if directives.any(|directive| directive.eq_ignore_ascii_case("no-store")) {
        Caching::Bypass
    } else {
        Caching::Use
    }
}

fn parse_within(
    route: Route,
    content_type: Option<&str>,
    body: &[u8],
    limits: &Limits,
) -> Result<Parsed, Rejection> {
    let request = wire::parse(route, content_type, body, limits.documents)?;
    let job = request.job();
    limits.check(&job).map_err(|error| Rejection {
        family: request.family(),
        reason: Reason::TooLarge(error),
    })?;
    Ok(Parsed {
        characters: characters(&job),
        request,
        job,
    })
}

/// An answer that is to be written.
struct Write {
    request: Request,
    ranking: Ranking,
    model: String,
    id: String,
    started: Instant,
}

impl Write {
    fn run(self) -> (Ranking, serde_json::Result<Vec<u8>>) {
        let answer = self.request.answer(&Served {
            ranking: &self.ranking,
            model: &self.model,
            id: &self.id,
            elapsed: self.started.elapsed(),
        });
        (self.ranking, answer)
    }
}

/// The order of the old service: a malformed body, then a model that is loading, then an empty
/// request.
fn after_readiness(app: &App, refusal: Refusal) -> Refusal {
    let is_malformed = matches!(
        refusal.error,
        ApiError::Rejected(Reason::Invalid(_) | Reason::Undecodable { .. })
    );
    match app.ready() {
        Err(not_ready) if !is_malformed => not_ready.to(refusal.family),
        _ => refusal,
    }
}

fn characters(job: &Job) -> usize {
    let texts = job.queries.iter().chain(&job.documents);
    texts.map(|text| text.chars().count()).sum()
}

/// Those of text-embeddings-inference, in whole milliseconds, and `Server-Timing` for who wants it
/// finer.
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
        fine("cache", ranking.recalled),
        fine("queue", ranking.queued),
        fine("compute", ranking.computed),
        fine("total", total),
    ];
    [
        ("x-compute-type", device.to_owned()),
        ("x-compute-time", ms(total)),
        ("x-compute-characters", characters.to_string()),
        ("x-compute-tokens", ranking.tokens.to_string()),
        ("x-compute-pairs", ranking.pairs.to_string()),
        ("x-cached-pairs", ranking.cached.to_string()),
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

fn observe(metrics: &Metrics, ranking: &Ranking, parsed: Duration, total: Duration, format: &str) {
    let seconds = metrics.request_seconds.with_label_values(&[format]);
    seconds.observe(total.as_secs_f64());
    metrics.documents.observe(ranking.scores.len() as f64);
    for (stage, took) in [
        (Stage::Parse, parsed),
        (Stage::Tokenize, ranking.tokenized),
        (Stage::Cache, ranking.recalled),
        (Stage::Queue, ranking.queued),
        (Stage::Compute, ranking.computed),
    ] {
        metrics.observe_stage(stage, took);
    }
}
