//! What the server tells about itself: `GET /`, `/health`, `/ping`, `/info`, `/models`, `/metrics`.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};
use utoipa::ToSchema;

use super::{app::App, error::ApiError};
use crate::{
    metrics::{self, Metrics},
    ops::{GpuInfo, gpu_states},
    rerank::Reranker,
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `GET /`: answers while the model loads too, as the old service did.
#[derive(Serialize, ToSchema)]
pub(super) struct Root {
    service: &'static str,
    model: String,
    /// `ready` or `loading`.
    status: &'static str,
    version: &'static str,
}

/// `GET /health`: 200 once the model has loaded and scored a warm-up pair, 503 before.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    status: &'static str,
    device: &'static str,
    model: String,
    /// The GPUs; the field is absent unless `device` is `cuda`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    gpus: Vec<GpuInfo>,
}

/// `GET /info`: the three keys of the old service, those of text-embeddings-inference (which Dify
/// reads too), and what else there is to know.
#[derive(Serialize, ToSchema)]
pub(super) struct Info {
    model_name: String,
    max_length: usize,
    description: &'static str,
    model_id: String,
    /// The commit, where the model came from a hub.
    model_sha: Option<String>,
    model_dtype: &'static str,
    served_model_name: String,
    /// `{"reranker": {"id2label", "label2id"}}`.
    #[schema(value_type = Object)]
    model_type: Value,
    max_input_length: usize,
    /// Requests are bounded by the pairs that wait, not by their own number.
    max_concurrent_requests: usize,
    max_batch_tokens: usize,
    max_batch_requests: usize,
    /// Larger requests are split, up to this many documents.
    max_client_batch_size: usize,
    auto_truncate: bool,
    tokenization_workers: usize,
    device: &'static str,
    /// The GPUs; the field is absent unless `device` is `cuda`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    gpus: Vec<GpuInfo>,
    dtype: &'static str,
    backend: &'static str,
    max_documents: usize,
    /// Pairs that wait for a batch just now.
    queued_pairs: usize,
    version: &'static str,
}

/// `GET /v1/models`.
#[derive(Serialize, ToSchema)]
pub(super) struct Models {
    /// `list`.
    object: &'static str,
    data: [Model; 1],
}

/// The model, as `OpenAI`, vLLM and Xinference describe one.
#[derive(Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the names of the wire format")]
pub(super) struct Model {
    id: String,
    /// `model`.
    object: &'static str,
    /// When the server started, in seconds since 1970.
    created: u64,
    owned_by: &'static str,
    /// `rerank`.
    model_type: &'static str,
    model_name: String,
    max_model_len: usize,
}

pub(super) async fn root(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    if is_browser(&headers) {
        // Relative, so that it holds behind a path prefix.
        return ([(header::VARY, "accept")], Redirect::to("ui")).into_response();
    }
    let ready = app.reranker.get().is_some();
    let root = Root {
        service: "Serveur de reranking",
        model: app.model_id.clone(),
        status: if ready { "ready" } else { "loading" },
        version: VERSION,
    };
    ([(header::VARY, "accept")], Json(root)).into_response()
}

fn is_browser(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT);
    accept
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"))
}

pub(super) async fn health(State(app): State<Arc<App>>) -> Result<Json<Health>, ApiError> {
    let info = app.ready()?.info();
    Ok(Json(Health {
        status: "healthy",
        device: info.device,
        model: info.id.clone(),
        gpus: info.gpus.clone(),
    }))
}

/// Weaviate's question whether the model answers: 204 without a body.
pub(super) async fn ready(State(app): State<Arc<App>>) -> Result<StatusCode, ApiError> {
    app.ready()?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn info(State(app): State<Arc<App>>) -> Result<Json<Info>, ApiError> {
    let reranker = app.ready()?;
    let (info, batching) = (reranker.info(), reranker.batching());
    Ok(Json(Info {
        model_name: info.id.clone(),
        max_length: info.max_length,
        description: "Cross-encoder multilingue pour le reranking de passages",
        model_id: info.id.clone(),
        model_sha: info.commit.clone(),
        model_dtype: info.dtype,
        served_model_name: info.id.clone(),
        model_type: json!({ "reranker": { "id2label": { "0": "LABEL_0" }, "label2id": { "LABEL_0": 0 } } }),
        max_input_length: info.max_length,
        max_concurrent_requests: batching.queue_pairs,
        max_batch_tokens: batching.batch_tokens,
        max_batch_requests: batching.batch_pairs,
        max_client_batch_size: app.limits.documents,
        auto_truncate: true,
        tokenization_workers: rayon::current_num_threads(),
        device: info.device,
        gpus: info.gpus.clone(),
        dtype: info.dtype,
        backend: info.backend,
        max_documents: app.limits.documents,
        queued_pairs: reranker.queued_pairs(),
        version: VERSION,
    }))
}

pub(super) async fn models(State(app): State<Arc<App>>) -> Result<Json<Models>, ApiError> {
    let id = app.ready()?.info().id.clone();
    Ok(Json(Models {
        object: "list",
        data: [describe(&app, id)?],
    }))
}

/// Any name is this model's: clients have names of their own in their settings.
pub(super) async fn model(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<Model>, ApiError> {
    Ok(Json(describe(&app, id)?))
}

fn describe(app: &App, id: String) -> Result<Model, ApiError> {
    let info = app.ready()?.info();
    let started = app.started.duration_since(UNIX_EPOCH);
    Ok(Model {
        id,
        object: "model",
        created: started.unwrap_or_default().as_secs(),
        owned_by: "reranker",
        model_type: "rerank",
        model_name: info.id.clone(),
        max_model_len: info.max_length,
    })
}

/// `GET /metrics`: works while the model loads too.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let queued = app.reranker.get().map_or(0, Reranker::queued_pairs);
    app.metrics
        .queue_pairs
        .set(i64::try_from(queued).unwrap_or(i64::MAX));
    if let Some(reranker) = app.reranker.get() {
        note_gpus(&app.metrics, &reranker.info().gpus).await;
    }
    let content_type = [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)];
    (content_type, app.metrics.render()).into_response()
}

/// How long the driver may take to say how the GPUs are doing; usually it takes milliseconds.
const GPU_PATIENCE: Duration = Duration::from_secs(2);

/// At most one question to the driver at a time: one that hangs must not take a thread for each
/// scrape.
static ASKING: Semaphore = Semaphore::const_new(1);

/// Asks the driver how the GPUs are doing.
async fn note_gpus(metrics: &Metrics, gpus: &[GpuInfo]) {
    if gpus.is_empty() {
        return;
    }
    let Ok(asking) = ASKING.try_acquire() else {
        return;
    };
    let gpus = gpus.to_vec();
    let states = spawn_blocking(move || {
        let states = gpu_states(&gpus);
        drop(asking);
        states
    });
    let states = timeout(GPU_PATIENCE, states).await;
    metrics.forget_gpus();
    for gpu in states.ok().and_then(Result::ok).unwrap_or_default() {
        if let Some((used, total)) = gpu.memory {
            metrics.set_gpu_memory(gpu.ordinal, used, total);
        }
        let sensors = [gpu.utilization, gpu.temperature, gpu.power];
        metrics.set_gpu_sensors(gpu.ordinal, sensors);
    }
}
