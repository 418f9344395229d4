//! Options of the cache of scores.

use std::time::Duration;

use clap::Args;

use crate::{
    cache::{RedisUrl, Settings},
    secret::Secret,
};

/// Longer than a year, a score is kept by mistake.
const LONGEST_TTL: u64 = 366 * 24 * 60 * 60;

/// What is remembered of pairs that were scored.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Cache")]
pub(crate) struct CacheArgs {
    /// Megabytes of scores to keep in memory, for pairs of query and document that come again; 0
    /// for none
    #[arg(
        long,
        env = "RERANKER_CACHE_MB",
        default_value_t = 16,
        value_name = "MB"
    )]
    pub cache_mb: usize,

    /// Seconds that a score is kept
    #[arg(
        long,
        env = "RERANKER_CACHE_TTL",
        default_value_t = 3600,
        value_name = "SECONDS"
    )]
    pub cache_ttl: u64,

    /// A Redis or Valkey that several servers share scores through, as
    /// `redis://:password@host:6379/0`, or `rediss://` with TLS
    #[arg(
        long,
        env = "RERANKER_REDIS_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub redis_url: Option<Secret>,

    /// How long a request waits for Redis before it computes what it wanted to know
    #[arg(
        long,
        env = "RERANKER_REDIS_TIMEOUT_MS",
        default_value_t = 5,
        value_name = "MS"
    )]
    pub redis_timeout_ms: u64,

    /// Any text that the servers have in common and nobody else knows: without it, who can read
    /// Redis and has the model can check whether a pair was asked for
    #[arg(
        long,
        env = "RERANKER_CACHE_SECRET",
        hide_env_values = true,
        value_name = "TEXT"
    )]
    pub cache_secret: Option<Secret>,
}

impl CacheArgs {
    pub(super) fn resolve(&self) -> Result<Settings, String> {
        let redis = self
            .redis_url
            .as_ref()
            .map(|url| url.expose().parse::<RedisUrl>());
        let redis = redis.transpose();
        Ok(Settings {
            bytes: self.cache_mb.saturating_mul(1_000_000),
            ttl: Duration::from_secs(self.cache_ttl),
            redis: redis.map_err(|error| format!("RERANKER_REDIS_URL cannot be used: {error}"))?,
            redis_timeout: Duration::from_millis(self.redis_timeout_ms),
            secret: self.cache_secret.clone(),
        })
    }

    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !(1..=LONGEST_TTL).contains(&self.cache_ttl) {
            problems.push(format!(
                "RERANKER_CACHE_TTL is {}; it must be from 1 to {LONGEST_TTL} (a year); RERANKER_CACHE_MB=0 turns the cache off",
                self.cache_ttl
            ));
        }
        if !(1..=10_000).contains(&self.redis_timeout_ms) {
            problems.push(format!(
                "RERANKER_REDIS_TIMEOUT_MS is {}; it must be from 1 to 10000",
                self.redis_timeout_ms
            ));
        }
        problems.extend(self.resolve().err());
        problems
    }
}
