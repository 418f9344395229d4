//! The log: plain lines on standard error, one per request and one per event.

use std::io::{self, IsTerminal as _};

use anyhow::{Context as _, Result};
use tracing_subscriber::EnvFilter;

use crate::config::LogArgs;

/// Starts logging for the rest of the process.
///
/// # Errors
/// Directives that cannot be read, or logging that is started already.
pub fn init(args: &LogArgs) -> Result<()> {
    let directives = match args.rust_log.as_deref() {
        Some(directives) if !directives.trim().is_empty() => directives.to_owned(),
        _ => args.log_level.0.to_string(),
    };
    let filter = EnvFilter::try_new(&directives)
        .with_context(|| format!("RUST_LOG is \"{directives}\", which cannot be read"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .try_init()
        .map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}
