//! What the server tells about itself: `GET /`, `/health` and `/info`.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Serialize;

use super::{App, error::ApiError};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `GET /`: answers while the model loads too, as the old service did.
#[derive(Serialize)]
pub(super) struct Root {
    service: &'static str,
    model: String,
    /// `ready` or `loading`.
    status: &'static str,
    version: &'static str,
}

/// `GET /health`: 200 once the model has loaded and scored a warm-up pair, 503 before.
#[derive(Serialize)]
pub(super) struct Health {
    status: &'static str,
    device: &'static str,
    model: String,
}

/// `GET /info`: the old service's three keys, and what else there is to know.
#[derive(Serialize)]
pub(super) struct Info {
    model_name: String,
    max_length: usize,
    description: &'static str,
    /// The commit, where the model came from a hub.
    model_sha: Option<String>,
    device: &'static str,
    dtype: &'static str,
    backend: &'static str,
    max_documents: usize,
    /// Pairs that wait for a batch just now.
    queued_pairs: usize,
    version: &'static str,
}

pub(super) async fn root(State(app): State<Arc<App>>) -> Json<Root> {
    let ready = app.reranker.get().is_some();
    Json(Root {
        service: "Serveur de reranking",
        model: app.model_id.clone(),
        status: if ready { "ready" } else { "loading" },
        version: VERSION,
    })
}

pub(super) async fn health(State(app): State<Arc<App>>) -> Result<Json<Health>, ApiError> {
    let info = app.ready()?.info();
    Ok(Json(Health {
        status: "healthy",
        device: info.device,
        model: info.id.clone(),
    }))
}

pub(super) async fn info(State(app): State<Arc<App>>) -> Result<Json<Info>, ApiError> {
    let reranker = app.ready()?;
    let info = reranker.info();
    Ok(Json(Info {
        model_name: info.id.clone(),
        max_length: info.max_length,
        description: "Cross-encoder multilingue pour le reranking de passages",
        model_sha: info.commit.clone(),
        device: info.device,
        dtype: info.dtype,
        backend: info.backend,
        max_documents: app.settings.max_documents,
        queued_pairs: reranker.queued_pairs(),
        version: VERSION,
    }))
}
