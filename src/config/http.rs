//! Options of the server itself.

use std::time::Duration;

use clap::Args;

use super::access::AccessArgs;
use crate::{
    http::{Host, Settings},
    memory::available_bytes,
};

/// Upper bound of all timeouts; it keeps `Instant + timeout` from overflowing.
const DAY_MS: u64 = 86_400_000;

/// The memory for requests where nothing says how much there is.
const DEFAULT_MEMORY: usize = 1_000_000_000;

/// Where and within what limits the server listens.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct HttpArgs {
    /// Address or name to listen on
    #[arg(
        long,
        env = "RERANKER_HOST",
        default_value = "0.0.0.0",
        value_name = "HOST"
    )]
    pub host: Host,

    /// Port to listen on
    #[arg(
        long,
        env = "RERANKER_PORT",
        default_value_t = 8002,
        value_name = "PORT"
    )]
    pub port: u16,

    /// Documents per request
    #[arg(
        long,
        env = "RERANKER_MAX_DOCUMENTS",
        default_value_t = 4096,
        value_name = "N"
    )]
    pub max_documents: usize,

    /// Characters per document
    #[arg(
        long,
        env = "RERANKER_MAX_DOCUMENT_CHARS",
        default_value_t = 1_000_000,
        value_name = "N"
    )]
    pub max_document_chars: usize,

    /// Characters per query
    #[arg(
        long,
        env = "RERANKER_MAX_QUERY_CHARS",
        default_value_t = 100_000,
        value_name = "N"
    )]
    pub max_query_chars: usize,

    /// Bytes per request, unpacked
    #[arg(
        long,
        env = "RERANKER_MAX_BODY_BYTES",
        default_value_t = 33_554_432,
        value_name = "BYTES"
    )]
    pub max_body_bytes: usize,

    /// Megabytes that all requests in flight may hold; one that does not fit is refused (429)
    /// [default: a quarter of what the container or machine has]
    #[arg(long, env = "RERANKER_MEMORY_MB", value_name = "MB")]
    pub memory_mb: Option<usize>,

    /// Connections at once that may ask; one more is answered 503, but for /health and /ping
    #[arg(
        long,
        env = "RERANKER_MAX_CONNECTIONS",
        default_value_t = 1024,
        value_name = "N"
    )]
    pub max_connections: usize,

    /// How long the headers of a request may take to arrive: from its first byte, or from the
    /// beginning of a connection
    #[arg(
        long,
        env = "RERANKER_HEADER_TIMEOUT_MS",
        default_value_t = 10_000,
        value_name = "MS"
    )]
    pub header_timeout_ms: u64,

    /// How long a connection is kept on which nothing is asked; make it longer than clients and
    /// proxies keep theirs
    #[arg(
        long,
        env = "RERANKER_IDLE_TIMEOUT_MS",
        default_value_t = 120_000,
        value_name = "MS"
    )]
    pub idle_timeout_ms: u64,

    /// How long the body of a request may take to arrive (408), and its answer to be taken
    #[arg(
        long,
        env = "RERANKER_BODY_TIMEOUT_MS",
        default_value_t = 30_000,
        value_name = "MS"
    )]
    pub body_timeout_ms: u64,

    /// How long requests in progress may take to finish after SIGTERM
    #[arg(
        long,
        env = "RERANKER_DRAIN_TIMEOUT_MS",
        default_value_t = 30_000,
        value_name = "MS"
    )]
    pub drain_timeout_ms: u64,

    /// Who may connect, and how.
    #[command(flatten)]
    pub access: AccessArgs,
}

impl HttpArgs {
    fn memory_bytes(&self) -> usize {
        match self.memory_mb {
            Some(megabytes) => megabytes.saturating_mul(1_000_000),
            None => available_bytes().map_or(DEFAULT_MEMORY, |bytes| bytes / 4),
        }
    }

    pub(super) fn resolve(&self) -> Settings {
        Settings {
            host: self.host.clone(),
            port: self.port,
            max_body_bytes: self.max_body_bytes,
            memory_bytes: self.memory_bytes(),
            max_connections: self.max_connections,
            header_timeout: Duration::from_millis(self.header_timeout_ms),
            idle_timeout: Duration::from_millis(self.idle_timeout_ms),
            body_timeout: Duration::from_millis(self.body_timeout_ms),
            drain_timeout: Duration::from_millis(self.drain_timeout_ms),
            access: self.access.resolve(),
        }
    }

    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.max_connections == 0 {
            problems.push("RERANKER_MAX_CONNECTIONS is 0; it must be at least 1".to_owned());
        }
        for (name, ms) in [
            ("RERANKER_HEADER_TIMEOUT_MS", self.header_timeout_ms),
            ("RERANKER_IDLE_TIMEOUT_MS", self.idle_timeout_ms),
            ("RERANKER_BODY_TIMEOUT_MS", self.body_timeout_ms),
        ] {
            if !(1..=DAY_MS).contains(&ms) {
                problems.push(format!(
                    "{name} is {ms}; it must be from 1 to {DAY_MS} (a day)"
                ));
            }
        }
        problems.extend(self.access.problems());
        problems
    }
}
