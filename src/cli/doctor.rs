//! `reranker doctor`: whether a server does what its users expect, seen from any machine.
//!
//! Any server of RAGFab's format can be asked, the old Python service too. What only this program's
//! servers tell is skipped for others.

mod check;
mod client;
mod load;
mod report;
mod samples;
mod server;

use std::{
    io::{IsTerminal as _, stderr, stdout},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;
use indicatif::ProgressBar;

use self::{
    check::Check,
    client::Client,
    report::Report,
    samples::Samples,
    server::{Health, Server},
};
use crate::{config, secret::Secret};

/// How often a server that loads is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What to examine, and how.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(super) struct DoctorArgs {
    /// Address of the server; a path such as `/rerank` at its end does not matter
    #[arg(
        env = "RERANKER_API_URL",
        default_value = "http://localhost:8002",
        value_name = "URL"
    )]
    url: String,

    /// The key that the server asks for; the first of several
    #[arg(
        long,
        env = "RERANKER_API_KEY",
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "KEYS"
    )]
    api_key: Vec<Secret>,

    /// Certificate authority (PEM) that the server's certificate must be of, in place of the public
    /// ones
    #[arg(long, value_name = "FILE")]
    cafile: Option<PathBuf>,

    /// Fail if the server does not compute on a GPU
    #[arg(long)]
    gpu: bool,

    /// How long to wait for a server that is loading its model
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    wait: u64,

    /// How long to wait for an answer
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout: u64,

    /// Clients at once that measure the throughput
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    clients: u16,

    /// How long the throughput is measured
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,

    /// Leave out what takes the server's time: latency, cache and throughput
    #[arg(long)]
    quick: bool,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,

    /// Count warnings as failures
    #[arg(long)]
    strict: bool,
}

/// Examines a server. Returns what was found, as it is printed, and whether nothing failed.
///
/// # Errors
/// If the address or the certificate authority cannot be used.
pub(super) fn examine(args: &DoctorArgs) -> Result<(String, bool)> {
    let client = Client::new(
        &args.url,
        args.api_key.first(),
        args.cafile.as_deref(),
        Duration::from_secs(args.timeout),
    )?;
    let progress = Progress::start();
    let checks = checks(&client, args, &progress);
    progress.0.finish_and_clear();
    let report = Report {
        url: client.shown().to_owned(),
        checks,
        strict: args.strict,
    };
    let found = if args.json {
        serde_json::to_string_pretty(&report.json())?
    } else {
        report.table(stdout().is_terminal() && !config::wants_no_colours())
    };
    Ok((found, report.is_passed()))
}

/// What is being done, on standard error; nothing is drawn if that is no terminal.
struct Progress(ProgressBar);

impl Progress {
    fn start() -> Self {
        let bar = if stderr().is_terminal() {
            ProgressBar::new_spinner()
        } else {
            ProgressBar::hidden()
        };
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    fn doing(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }
}

/// Every check in order. One that makes the rest pointless is the last.
fn checks(client: &Client, args: &DoctorArgs, progress: &Progress) -> Vec<Check> {
    progress.doing("asking /health");
    let health = match reach(client, Duration::from_secs(args.wait)) {
        Ok(health) => health,
        Err(check) => return vec![check],
    };
    let samples = Samples::new();
    let mut checks = vec![server::reached(&health), client.encryption()];
    progress.doing("asking for an order");
    let (key, order) = server::order(client);
    let goes_on = !key.is_failed() && !order.is_failed();
    checks.extend([key, server::device(&health, args.gpu)]);
    let server = Server::ask(client);
    checks.push(server.version());
    checks.push(order);
    if goes_on && !args.quick {
        let is_gpu = health.is_gpu();
        for latency in load::LATENCIES {
            progress.doing(latency.name);
            checks.push(load::latency(client, &samples, latency, is_gpu));
        }
        progress.doing("asking twice");
        checks.push(load::repeat(client, &samples));
        progress.doing("throughput");
        let seconds = Duration::from_secs(args.seconds);
        checks.push(load::throughput(
            client,
            &samples,
            args.clients,
            seconds,
            is_gpu,
        ));
    }
    // Asked again: the load may have changed what it says.
    checks.extend(Server::ask(client).state());
    checks
}

/// Asks for the health of a server, again and again while it loads, as long as that may take.
fn reach(client: &Client, wait: Duration) -> Result<Health, Check> {
    let until = Instant::now() + wait;
    loop {
        let check = match client.get("/health") {
            Ok(answer) => match Health::of(&answer) {
                Ok(health) => return Ok(health),
                Err(check) => check,
            },
            Err(trouble) => trouble.check(client),
        };
        if Instant::now() >= until {
            return Err(check);
        }
        thread::sleep(ASK_AGAIN);
    }
}
