//! The command line: one short function per sub-command.

mod doctor;
mod probe;
mod signals;
mod threads;

use std::{
    convert::Infallible,
    env,
    ffi::OsString,
    fs,
    future::pending,
    io::{self, Read as _, Write as _},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use self::{doctor::DoctorArgs, signals::Signals};
use crate::{
    allocator, cache,
    config::{self, Config, LogArgs, ServeArgs},
    deadline::Deadline,
    http::{
        self, App, Host, Listener, Shared,
        wire::{self, Route, Served},
    },
    memory::Budget,
    metrics::Metrics,
    model::{self, Checkpoint},
    rerank::{self, Caching, Reranker},
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
    /// Measure how fast this processor multiplies at each dtype, at most, and print it as JSON; for
    /// benchmarks
    Peak,
    /// Examine the GPU with this model and print what it finds as JSON: kernels against references,
    /// peaks, the time of each part of a batch; exit 1 if a kernel is wrong
    GpuCheck(Box<ServeArgs>),
    /// Examine a running server from any machine: reachable, right, fast enough? Prints a table and
    /// what to do; exit 1 if something failed
    Doctor(DoctorArgs),
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
    /// Address or name of the server [default: where the options of the server let it listen]
    #[arg(long, value_name = "HOST")]
    host: Option<Host>,

    /// Port of the server [default: likewise]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,

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
        Self::read_from(env::args_os())
    }

    fn read_from(arguments: impl IntoIterator<Item = OsString>) -> clap::error::Result<Self> {
        let command = config::read_environment(Self::command());
        Self::from_arg_matches(&command.try_get_matches_from(arguments)?)
    }

    /// The options of the server that this command line starts, if it starts one.
    fn into_server(self) -> Option<ServeArgs> {
        match self.command {
            None => Some(self.serve),
            Some(Command::Serve(args)) => Some(*args),
            Some(_) => None,
        }
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
        Some(Command::Doctor(args)) => examine(&args),
        Some(Command::Healthcheck(args)) => healthcheck(&args),
    }
}

/// Starts the log with what there is to say about the environment.
fn begin(log: &LogArgs) -> Result<()> {
    telemetry::init(&log.settings())?;
    for warning in config::warnings(&Cli::command()) {
        warn!("{warning}");
    }
    Ok(())
}

fn serve(args: &ServeArgs) -> Result<()> {
    begin(&args.log)?;
    allocator::tune();
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
    let listener = Listener::bind(&config.http, &metrics).await?;
    let app = App::new(
        config.rerank.model.id.clone(),
        config.http.clone(),
        config.rerank.limits,
        Shared {
            memory: Arc::clone(&memory),
            text: Arc::clone(&text),
            metrics: Arc::clone(&metrics),
        },
    )?;
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
    let settings = config.rerank.clone();
    let load = move || Reranker::load(&settings, text, &metrics);
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
    begin(&args.serve.log)?;
    let config = args.serve.resolve()?;
    let body = read_request(&args.file)?;
    let started = Instant::now();
    let limits = config.rerank.limits;
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
    let settings = rerank::Settings {
        cache: cache::Settings::default(), // nothing comes again
        ..config.rerank
    };
    let reranker = Reranker::load(&settings, text_pool()?, &metrics)?;
    let deadline = Deadline::after(limits.deadline);
    let ranking = runtime.block_on(reranker.rerank(job, Caching::Bypass, deadline, &mut lease))?;
    let answer = request.answer(&Served {
        ranking: &ranking,
        model: &reranker.info().id,
        id: "cli",
        elapsed: started.elapsed(),
    })?;
    print(&String::from_utf8(answer)?)
}

fn peak() -> Result<()> {
    threads::start_computing()?;
    print(&serde_json::to_string_pretty(&model::peaks())?)
}

fn gpu_check(args: &ServeArgs) -> Result<()> {
    begin(&args.log)?;
    threads::start_computing()?;
    let model = args.resolve()?.rerank.model;
    let checkpoint = Checkpoint::open(&model.source, &model.hub)?;
    let (found, passed) = checkpoint.examine_gpu(&model.build)?;
    print(&serde_json::to_string_pretty(&found)?)?;
    ensure!(
        passed,
        "a kernel differs from its reference by more than it may"
    );
    Ok(())
}

fn examine(args: &DoctorArgs) -> Result<()> {
    let (found, passed) = doctor::examine(args)?;
    print(&found)?;
    ensure!(passed, "the server does not pass");
    Ok(())
}

/// Writes a command's result to standard output.
fn print(result: &str) -> Result<()> {
    written(writeln!(io::stdout().lock(), "{result}"))
}

/// What became of writing to standard output. A reader that has seen enough and left is no failure.
///
/// # Errors
/// Any other failure, a full disk for one.
pub fn written(result: io::Result<()>) -> Result<()> {
    match result.and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
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
    let server = server_options().context("the options of the server cannot be read")?;
    let host = args.host.as_ref().unwrap_or(&server.http.host);
    let port = args.port.unwrap_or(server.http.port);
    probe::health(host, port, Duration::from_millis(args.timeout_ms))?;
    // The exit code is the answer; nobody need read this.
    let _ = print("healthy");
    Ok(())
}

/// The options of the server in this container; without one, those that a server would have here.
fn server_options() -> clap::error::Result<ServeArgs> {
    let of_container = probe::container_arguments()
        .and_then(|arguments| Cli::read_from(arguments).ok())
        .and_then(Cli::into_server);
    of_container.map_or_else(|| Ok(Cli::read_from(["reranker".into()])?.serve), Ok)
}

/// The memory that requests share, told to whoever reads the metrics.
fn budget(settings: &http::Settings, metrics: &Metrics) -> Arc<Budget> {
    let bytes = settings.memory_bytes;
    metrics
        .memory_limit
        .set(i64::try_from(bytes).unwrap_or(i64::MAX));
    Budget::new(bytes, metrics.memory.clone())
}

/// Starts as many threads for text as the process may use processors.
fn text_pool() -> Result<Arc<TextPool>> {
    let pool = TextPool::new(rayon::current_num_threads());
    Ok(Arc::new(pool.context("cannot start the threads for text")?))
}
