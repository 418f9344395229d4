//! The command line: one short function per sub-command.
#![expect(
    clippy::print_stdout,
    reason = "standard output is where a command's result goes"
)]

mod probe;
mod signals;
mod threads;

use std::{
    convert::Infallible,
    fs,
    future::pending,
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use tokio::task::spawn_blocking;
use tracing::info;

use self::signals::Signals;
use crate::{
    allocator,
    config::{Config, HttpSettings, ServeArgs, ignore_empty_variables},
    http::{
        self, App, Listener, Shared,
        wire::{self, Route, Served},
    },
    memory::Budget,
    metrics::Metrics,
    model::{self, Checkpoint},
    rerank::Reranker,
    telemetry,
    text_pool::TextPool,
};

/// A reranking service: orders documents by how well they answer a query.
///
/// Without a command it serves. Try it without a download: `reranker --model demo`.
#[derive(Debug, Parser)]
#[command(name = "reranker", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve over HTTP (the default)
    Serve(Box<ServeArgs>),
    /// Rerank one request from a file or standard input and print the response
    Rerank(Box<RerankArgs>),
    /// Measure how fast this processor multiplies at each dtype, at most, and print it as JSON; for benchmarks
    Peak,
    /// Examine the GPU with this model and print what it finds as JSON: kernels against references, peaks, the time of each part of a
    /// batch; exit 1 if a kernel is wrong
    GpuCheck(Box<ServeArgs>),
    /// Exit 0 if the server on this machine is ready, 1 if not; for containers
    Healthcheck(HealthcheckArgs),
}

#[derive(Debug, Args)]
struct RerankArgs {
    /// The body of a request, in any format that `POST /rerank` takes; `-` is standard input
    #[arg(default_value = "-", value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Args)]
struct HealthcheckArgs {
    /// Address of the server
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), value_name = "IP")]
    host: IpAddr,

    /// Port of the server
    #[arg(
        long,
        env = "RERANKER_PORT",
        default_value_t = 8002,
        value_name = "PORT"
    )]
    port: u16,

    /// How long to wait for an answer
    #[arg(long, default_value_t = 5000, value_name = "MS")]
    timeout_ms: u64,
}

impl Cli {
    /// Reads the command line and the environment.
    ///
    /// # Errors
    /// What clap says of a misuse; also how it hands over help and the version.
    pub fn read() -> clap::error::Result<Self> {
        let matches = ignore_empty_variables(Self::command()).try_get_matches()?;
        Self::from_arg_matches(&matches)
    }
}

/// Does what the command line says.
///
/// # Errors
/// A chain of sentences for a person.
pub fn run(cli: Cli) -> Result<()> {
    match cli.command {
        None => serve(&cli.serve),
        Some(Command::Serve(args)) => serve(&args),
        Some(Command::Rerank(args)) => rerank(&args),
        Some(Command::Peak) => peak(),
        Some(Command::GpuCheck(args)) => gpu_check(&args),
        Some(Command::Healthcheck(args)) => healthcheck(&args),
    }
}

fn serve(args: &ServeArgs) -> Result<()> {
    telemetry::init(&args.log)?;
    allocator::limit_arenas();
    let runtime = threads::start()?;
    let signals = runtime.block_on(async { Signals::watch() })?;
    let config = args.resolve()?;
    let result = runtime.block_on(serve_until_stopped(&config, signals));
    // A load or a batch still running must not hold up the exit.
    runtime.shutdown_background();
    result
}

async fn serve_until_stopped(config: &Config, mut signals: Signals) -> Result<()> {
    let metrics = Arc::new(Metrics::new());
    let text = text_pool()?;
    let memory = budget(&config.http, &metrics);
    let app = App::new(
        config.model.id.clone(),
        config.http.clone(),
        config.limits,
        Shared {
            memory: Arc::clone(&memory),
            text: Arc::clone(&text),
            metrics: Arc::clone(&metrics),
        },
    )?;
    let listener = Listener::bind(&config.http).await?;
    let (scheme, address) = (listener.scheme(), listener.local_addr()?);
    info!(
        megabytes = config.http.memory_bytes / 1_000_000,
        "memory for requests in flight"
    );
    info!(version = %env!("CARGO_PKG_VERSION"), scheme, %address, "listening; loading the model");
    let stop = async || signals.stop().await;
    tokio::spawn(allocator::give_back(memory));
    tokio::select! {
        served = http::serve(listener, Arc::clone(&app), stop) => served,
        failed = load_into(&app, config, text, metrics) => failed.map(|never| match never {}),
    }
}

/// Loads the model beside the running server; returns only if that fails.
async fn load_into(
    app: &App,
    config: &Config,
    text: Arc<TextPool>,
    metrics: Arc<Metrics>,
) -> Result<Infallible> {
    let started = Instant::now();
    let Config {
        model,
        batching,
        limits,
        ..
    } = config.clone();
    let load = move || Reranker::load(&model, batching, limits, text, &metrics);
    let reranker = spawn_blocking(load)
        .await
        .context("loading the model panicked")??;
    let info = reranker.info().clone();
    app.set_ready(reranker);
    info!(
        model = %info.id,
        device = %info.device,
        dtype = %info.dtype,
        max_length = info.max_length,
        seconds = %format_args!("{:.1}", started.elapsed().as_secs_f64()),
        "ready"
    );
    pending().await
}

fn rerank(args: &RerankArgs) -> Result<()> {
    telemetry::init(&args.serve.log)?;
    let config = args.serve.resolve()?;
    let body = read_request(&args.file)?;
    let started = Instant::now();
    let limits = config.limits;
    let request = wire::parse(Route::Any, None, &body, limits.documents).map_err(|rejection| {
        anyhow::anyhow!(
            "{} is not a request: {}",
            args.file.display(),
            rejection.reason.sentence()
        )
    })?;
    let job = request.job();
    limits.check(&job)?;
    let metrics = Arc::new(Metrics::new());
    let runtime = threads::start()?;
    let mut lease = budget(&config.http, &metrics).lease();
    let reranker = Reranker::load(
        &config.model,
        config.batching,
        limits,
        text_pool()?,
        &metrics,
    )?;
    let due = Instant::now() + limits.deadline;
    let ranking = runtime.block_on(reranker.rerank(job, due, &mut lease))?;
    let answer = request.answer(&Served {
        ranking: &ranking,
        model: &reranker.info().id,
        id: "cli",
        elapsed: started.elapsed(),
    })?;
    println!("{}", String::from_utf8(answer)?);
    Ok(())
}

fn peak() -> Result<()> {
    threads::start_computing()?;
    println!("{}", serde_json::to_string_pretty(&model::peaks())?);
    Ok(())
}

fn gpu_check(args: &ServeArgs) -> Result<()> {
    telemetry::init(&args.log)?;
    threads::start_computing()?;
    let Config {
        model, batching, ..
    } = args.resolve()?;
    let checkpoint = Checkpoint::open(&model.source, &model.hub)?;
    let (found, passed) = checkpoint.examine_gpu(&model.wanted(batching.tokens))?;
    println!("{}", serde_json::to_string_pretty(&found)?);
    ensure!(
        passed,
        "a kernel differs from its reference by more than it may"
    );
    Ok(())
}

fn read_request(file: &PathBuf) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    if file.as_os_str() == "-" {
        io::stdin()
            .read_to_end(&mut body)
            .context("cannot read standard input")?;
    } else {
        body = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    Ok(body)
}

fn healthcheck(args: &HealthcheckArgs) -> Result<()> {
    let address = SocketAddr::new(args.host, args.port);
    let status = probe::health(address, Duration::from_millis(args.timeout_ms))
        .with_context(|| format!("no answer from {address}/health"))?;
    if status != 200 {
        bail!("{address}/health answers {status}: the model is not ready");
    }
    println!("healthy");
    Ok(())
}

/// The memory that requests share, told to whoever reads the metrics.
fn budget(settings: &HttpSettings, metrics: &Metrics) -> Arc<Budget> {
    let bytes = settings.memory_bytes;
    metrics
        .memory_limit
        .set(i64::try_from(bytes).unwrap_or(i64::MAX));
    Budget::new(bytes, metrics.memory.clone())
}

/// As many threads for text as the process may use processors.
fn text_pool() -> Result<Arc<TextPool>> {
    let pool = TextPool::new(rayon::current_num_threads());
    Ok(Arc::new(pool.context("cannot start the threads for text")?))
}
