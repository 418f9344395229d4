//! Every option of the program: a flag, a variable and a help text in one place, and what they mean
//! together.
//!
//! `*Args` hold what was typed; [`ServeArgs::resolve`] turns them into a [`Config`] that is known
//! to be consistent, and reports everything that is wrong at once. Nothing else in the program
//! reads the environment.

mod access;
mod cache;
mod environment;
mod http;
mod hub;

use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, builder::BoolishValueParser};

pub(crate) use self::environment::{
    computing_threads, read_environment, wants_no_colours, warnings,
};
use self::{cache::CacheArgs, http::HttpArgs, hub::HubArgs};
use crate::{
    http::Settings as HttpSettings,
    model::{self, Backend, BuildOptions, Device, Dtype, source::Source},
    rerank, scheduler,
    telemetry::{self, LogFormat, LogLevel},
    tokenizer::MIN_LENGTH,
};

/// Options of the server.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServeArgs {
    /// Options of the model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Options of batching.
    #[command(flatten)]
    pub batch: BatchArgs,
    /// Options of the cache of scores.
    #[command(flatten)]
    pub cache: CacheArgs,
    /// Options of the server itself.
    #[command(flatten)]
    pub http: HttpArgs,
    /// Options of the log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Which model, where from, on what.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// A Hugging Face id, a local directory, or `demo` (embedded, nothing is downloaded)
    #[arg(
        long,
        env = "RERANKER_MODEL",
        default_value = "BAAI/bge-reranker-v2-m3",
        value_name = "MODEL"
    )]
    pub model: String,

    /// Branch, tag or commit of the Hugging Face repository [default: main]
    #[arg(long, env = "RERANKER_REVISION", value_name = "REVISION")]
    pub revision: Option<String>,

    /// Where to compute: auto, cpu, cuda, cuda:N, or several GPUs as cuda:0,cuda:1
    #[arg(long, env = "DEVICE", default_value = "auto", value_name = "DEVICE")]
    pub device: Device,

    /// Refuse to start without a usable GPU instead of falling back to the CPU
    #[arg(long, env = "RERANKER_REQUIRE_GPU", num_args = 0..=1, default_value = "false", default_missing_value = "true", value_parser = BoolishValueParser::new(), value_name = "BOOL")]
    pub require_gpu: bool,

    /// Implementation of the network; `candle` is slow and independent, for a second opinion on a
    /// score
    #[arg(
        long,
        env = "RERANKER_BACKEND",
        default_value = "native",
        value_name = "BACKEND"
    )]
    pub backend: Backend,

    /// How weights are kept and multiplied: auto, f32, bf16, f16 or int8; auto is f16 on a GPU and
    /// f32 on the CPU, where the others change scores a little
    #[arg(
        long,
        env = "RERANKER_DTYPE",
        default_value = "auto",
        value_name = "DTYPE"
    )]
    pub dtype: Dtype,

    /// Tokens per pair; longer pairs lose tokens of the longer side
    #[arg(
        long,
        env = "RERANKER_MAX_LENGTH",
        default_value_t = 512,
        value_name = "TOKENS"
    )]
    pub max_length: usize,

    /// Megabytes of tokens of recent documents to keep, for chunks that are found again and again;
    /// 0 for none
    #[arg(
        long,
        env = "RERANKER_TOKEN_CACHE_MB",
        default_value_t = 0,
        value_name = "MB"
    )]
    pub token_cache_mb: usize,

    /// The hub and its cache.
    #[command(flatten)]
    pub hub: HubArgs,
}

/// How requests share the model.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Batching")]
pub(crate) struct BatchArgs {
    /// Tokens computed at once; a request that comes meanwhile waits for them [default: 1536 on the
    /// CPU, a third of that of large requests while small ones come; measured at the start on a
    /// GPU]
    #[arg(long, env = "RERANKER_MAX_BATCH_TOKENS", value_name = "TOKENS")]
    pub max_batch_tokens: Option<usize>,

    /// Pairs computed at once
    #[arg(
        long,
        env = "RERANKER_MAX_BATCH_PAIRS",
        default_value_t = 512,
        value_name = "PAIRS"
    )]
    pub max_batch_pairs: usize,

    /// Pairs that may wait; a request that does not fit is refused at once (429)
    #[arg(
        long,
        env = "RERANKER_MAX_QUEUE_PAIRS",
        default_value_t = 16384,
        value_name = "PAIRS"
    )]
    pub max_queue_pairs: usize,

    /// How long a batch that is not full waits for company while the model is free; 0 is best for
    /// latency
    #[arg(
        long,
        env = "RERANKER_BATCH_WAIT_MS",
        default_value_t = 0,
        value_name = "MS"
    )]
    pub batch_wait_ms: u64,

    /// Overlapping windows that are read of a document that is too long, unless the request says;
    /// its score is that of the best
    #[arg(
        long,
        env = "RERANKER_MAX_CHUNKS_PER_DOC",
        default_value_t = 1,
        value_name = "N"
    )]
    pub max_chunks_per_doc: usize,

    /// How long a request may take; what cannot be done by then is refused at once (429), what a
    /// stall held up is given up (504)
    #[arg(
        long,
        env = "RERANKER_DEADLINE_MS",
        default_value_t = 60_000,
        value_name = "MS"
    )]
    pub deadline_ms: u64,
}

/// What is logged.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Log")]
pub(crate) struct LogArgs {
    /// trace, debug, info, warning, error or critical, in any case
    #[arg(long, env = "LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    pub log_level: LogLevel,

    /// How lines of the log are written: text, or json for programs that collect them
    #[arg(
        long,
        env = "LOG_FORMAT",
        default_value = "text",
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,

    /// Finer directives, as `reranker=debug,hyper=info`; wins over the level
    #[arg(long, env = "RUST_LOG", value_name = "DIRECTIVES")]
    pub rust_log: Option<String>,
}

/// All settings of a server, checked against each other.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Which model, and how it scores.
    pub rerank: rerank::Settings,
    /// Where the server listens, and for whom.
    pub http: HttpSettings,
}

impl ServeArgs {
    /// Checks everything and builds the settings.
    ///
    /// # Errors
    /// All that is wrong, a line each.
    pub(crate) fn resolve(&self) -> Result<Config> {
        let mut problems = self.problems();
        let model = self
            .model
            .resolve(self.batch.max_batch_tokens)
            .map_err(|error| problems.push(format!("{error:#}")));
        let cache = self.cache.resolve();
        let (Ok(model), Ok(cache), true) = (model, cache, problems.is_empty()) else {
            bail!(problems.join("\n"));
        };
        Ok(Config {
            rerank: rerank::Settings {
                model,
                scheduler: self.batch.resolve(),
                cache,
                limits: self.limits(),
            },
            http: self.http.resolve(),
        })
    }

    fn limits(&self) -> rerank::Limits {
        rerank::Limits {
            deadline: Duration::from_millis(self.batch.deadline_ms),
            chunks: self.batch.max_chunks_per_doc,
            documents: self.http.max_documents,
            document_chars: self.http.max_document_chars,
            query_chars: self.http.max_query_chars,
        }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, value) in [
            ("RERANKER_MAX_BATCH_PAIRS", self.batch.max_batch_pairs),
            ("RERANKER_MAX_CHUNKS_PER_DOC", self.batch.max_chunks_per_doc),
            ("RERANKER_MAX_DOCUMENTS", self.http.max_documents),
            ("RERANKER_MAX_DOCUMENT_CHARS", self.http.max_document_chars),
            ("RERANKER_MAX_QUERY_CHARS", self.http.max_query_chars),
            ("RERANKER_MAX_BODY_BYTES", self.http.max_body_bytes),
        ] {
            if value == 0 {
                problems.push(format!("{name} is 0; it must be at least 1"));
            }
        }
        if self.batch.deadline_ms == 0 {
            problems.push("RERANKER_DEADLINE_MS is 0; it must be at least 1".to_owned());
        }
        let at_most = [
            (
                "RERANKER_MAX_LENGTH",
                self.model.max_length,
                "RERANKER_MAX_BATCH_TOKENS",
                self.batch.max_batch_tokens.unwrap_or(usize::MAX),
            ),
            (
                "RERANKER_MAX_DOCUMENTS",
                self.http.max_documents,
                "RERANKER_MAX_QUEUE_PAIRS",
                self.batch.max_queue_pairs,
            ),
        ];
        for (small, value, large, limit) in at_most {
            if value > limit {
                problems.push(format!("{small} is {value}, more than {large} = {limit}; lower the one or raise the other"));
            }
        }
        if self.model.max_length < MIN_LENGTH {
            problems.push(format!(
                "RERANKER_MAX_LENGTH is {}; it must be at least {MIN_LENGTH}",
                self.model.max_length
            ));
        }
        problems.extend(self.cache.problems());
        problems.extend(self.http.problems());
        problems
    }
}

impl ModelArgs {
    fn resolve(&self, batch_tokens: Option<usize>) -> Result<model::Settings> {
        Ok(model::Settings {
            id: self.model.clone(),
            source: Source::parse(&self.model, self.revision.as_deref())?,
            hub: self.hub.resolve(),
            build: BuildOptions {
                backend: self.backend,
                dtype: self.dtype,
                device: self.device.clone(),
                require_gpu: self.require_gpu,
                batch_tokens,
                max_length: self.max_length,
            },
            token_cache_mb: self.token_cache_mb,
        })
    }
}

impl BatchArgs {
    fn resolve(&self) -> scheduler::Settings {
        scheduler::Settings {
            batch_pairs: self.max_batch_pairs,
            queue_pairs: self.max_queue_pairs,
            batch_wait: Duration::from_millis(self.batch_wait_ms),
        }
    }
}

impl LogArgs {
    /// What is logged, as `telemetry` takes it.
    pub(crate) fn settings(&self) -> telemetry::Settings {
        telemetry::Settings {
            level: self.log_level,
            directives: self.rust_log.clone(),
            format: self.log_format,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn parse(args: &[&str]) -> ServeArgs {
        let args = ["reranker", "--model", "demo"].iter().chain(args);
        Cli::parse_from(args).serve
    }

    #[test]
    fn the_defaults_are_consistent() {
        let config = parse(&[]).resolve().unwrap();
        assert_eq!(config.http.port, 8002);
        assert_eq!(config.rerank.model.build.max_length, 512);
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let args = parse(&[
            "--max-length=600",
            "--max-batch-tokens=500",
            "--max-batch-pairs=0",
            "--max-documents=20000",
        ]);
        let error = args.resolve().unwrap_err().to_string();
        assert_eq!(
            error.lines().collect::<Vec<_>>(),
            [
                "RERANKER_MAX_BATCH_PAIRS is 0; it must be at least 1",
                "RERANKER_MAX_LENGTH is 600, more than RERANKER_MAX_BATCH_TOKENS = 500; lower the one or raise the other",
                "RERANKER_MAX_DOCUMENTS is 20000, more than RERANKER_MAX_QUEUE_PAIRS = 16384; lower the one or raise the other",
            ]
        );
    }

    #[test]
    fn times_and_connections_have_bounds() {
        let at_the_bounds = parse(&["--header-timeout-ms=1", "--body-timeout-ms=86400000"]);
        assert!(at_the_bounds.resolve().is_ok());
        let args = parse(&[
            "--max-connections=0",
            "--header-timeout-ms=0",
            "--idle-timeout-ms=0",
            "--body-timeout-ms=86400001",
        ]);
        let error = args.resolve().unwrap_err().to_string();
        assert_eq!(
            error.lines().collect::<Vec<_>>(),
            [
                "RERANKER_MAX_CONNECTIONS is 0; it must be at least 1",
                "RERANKER_HEADER_TIMEOUT_MS is 0; it must be from 1 to 86400000 (a day)",
                "RERANKER_IDLE_TIMEOUT_MS is 0; it must be from 1 to 86400000 (a day)",
                "RERANKER_BODY_TIMEOUT_MS is 86400001; it must be from 1 to 86400000 (a day)",
            ]
        );
    }

    #[test]
    fn a_bad_model_is_told_together_with_the_rest() {
        let mut args = parse(&["--deadline-ms=0"]);
        args.model.model = "no such thing".to_owned();
        let error = args.resolve().unwrap_err().to_string();
        assert!(
            error.contains("RERANKER_DEADLINE_MS is 0") && error.contains("no such thing"),
            "{error}"
        );
    }

    #[test]
    fn secrets_do_not_show() {
        let args = parse(&["--hf-token", "hf_secret"]);
        assert!(!format!("{args:?}").contains("hf_secret"));
        assert_eq!(args.model.hub.hf_token.unwrap().expose(), "hf_secret");
    }
}
