//! The log, and all else that goes to standard error: plain lines, one per request and one per
//! event.
//!
//! Nothing here waits for whoever reads it, and nothing fails if nobody does: see `outlet`.

mod outlet;
mod settings;
mod stamp;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, IsTerminal as _},
    panic::{self, PanicHookInfo},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use tracing_subscriber::EnvFilter;

pub use self::settings::{LogFormat, LogLevel, Settings};
use self::{outlet::Outlet, stamp::stamped};

static STANDARD_ERROR: Outlet = Outlet::new();

/// How long the end of the process waits for its last lines to be taken.
const LAST_LINES: Duration = Duration::from_secs(1);

/// How long a panic, which may end the process, waits for its line. Others wait meanwhile, so it is
/// short.
const PANIC_LINES: Duration = Duration::from_millis(50);

/// Starts the thread that writes, and sends the messages of panics there.
pub fn start() {
    STANDARD_ERROR.start(io::stderr());
    panic::set_hook(Box::new(report_panic));
}

/// Starts logging for the rest of the process.
///
/// # Errors
/// Directives that cannot be read, or logging that is started already.
pub fn init(settings: &Settings) -> Result<()> {
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter(settings)?)
        .with_writer(|| Lines)
        // The subscriber would complain on standard error, and panic if that fails.
        .log_internal_errors(false)
        .with_target(false);
    let started = match settings.format {
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => {
            stamp::use_json();
            let log = log.json().flatten_event(true).with_span_list(false);
            log.try_init()
        }
    };
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}

/// Writes why the program ends to standard error.
pub fn report(why: &str) {
    say(&stamp::failed(why));
}

/// Writes a line to standard error, beside the log.
fn say(line: &str) {
    STANDARD_ERROR.push(format!("{line}\n").as_bytes());
}

/// Waits until everything is written, but not long.
pub fn flush() {
    STANDARD_ERROR.flush(LAST_LINES);
}

/// A word such as `warning` is no directive, but would be read as the name of a target, and silence
/// all others.
fn filter(settings: &Settings) -> Result<EnvFilter> {
    let Some(directives) = &settings.directives else {
        return Ok(EnvFilter::new(settings.level.0.as_str()));
    };
    if let Ok(LogLevel(level)) = directives.parse() {
        return Ok(EnvFilter::new(level.as_str()));
    }
    EnvFilter::try_new(directives).with_context(|| {
        format!(
            "RUST_LOG is \"{directives}\", which cannot be read; expected a level, or directives such as reranker=debug,hyper=info"
        )
    })
}

fn report_panic(info: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let name = thread.name().unwrap_or("without a name");
    // Captured only if RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => format!("\n{backtrace}"),
        _ => String::new(),
    };
    say(&stamped(
        "ERROR",
        &format!("thread {name} {info}{backtrace}"),
    ));
    STANDARD_ERROR.flush(PANIC_LINES);
}

/// Where the subscriber writes; each call brings a whole line.
struct Lines;

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        STANDARD_ERROR.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        env,
        process::{Command, Stdio},
    };

    use super::*;

    /// Tells the test that it is the process that panics.
    const PANICS: &str = "TELEMETRY_TEST_PANICS";

    #[test]
    fn a_panic_is_a_line_and_waits_for_nobody() {
        if env::var_os(PANICS).is_some() {
            return panics();
        }
        let name = "telemetry::tests::a_panic_is_a_line_and_waits_for_nobody";
        let child = Command::new(env::current_exe().unwrap())
            .args(["--exact", name])
            .env(PANICS, "1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.unwrap();
        // Until it has ended, nobody reads.
        assert!(child.wait().unwrap().success());
        let said = io::read_to_string(child.stderr.unwrap()).unwrap();
        let first = said.lines().next().unwrap();
        assert!(
            first.contains("ERROR thread ") && first.contains("panicked at src/telemetry.rs:"),
            "{first}"
        );
        assert_eq!(said.lines().nth(1), Some("as a test"));
    }

    fn panics() {
        start();
        assert!(panic::catch_unwind(|| panic!("as a test")).is_err());
        // More than a pipe holds.
        for _ in 0..100 {
            say(&"x".repeat(4096));
        }
        assert!(panic::catch_unwind(|| panic!("as a test")).is_err());
    }
}
