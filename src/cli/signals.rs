//! Signals: those that stop the server, and those that must not.

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

/// A file has reached the limit of file size; tokio has no name for it.
const SIGXFSZ: i32 = 25;

/// SIGTERM and SIGINT.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Starts to wait for both signals. SIGHUP, SIGUSR1 and SIGUSR2, which people send to
    /// servers out of habit, do not end the process any more. What SIGHUP does is the server's
    /// affair.
    pub(super) fn watch() -> Result<Self> {
        let _ = watch(SignalKind::hangup(), "SIGHUP")?;
        // With a limit of file size (`ulimit -f`) a log file that reaches it would end the process.
        // With a handler in place the write fails instead, as on a full disk.
        let _ = watch(SignalKind::from_raw(SIGXFSZ), "SIGXFSZ")?;
        for (kind, name) in [
            (SignalKind::user_defined1(), "SIGUSR1"),
            (SignalKind::user_defined2(), "SIGUSR2"),
        ] {
            tokio::spawn(pass_over(watch(kind, name)?, name));
        }
        Ok(Self {
            terminate: watch(SignalKind::terminate(), "SIGTERM")?,
            interrupt: watch(SignalKind::interrupt(), "SIGINT")?,
        })
    }

    /// Completes when the next one comes that is to stop the server.
    pub(super) async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn watch(kind: SignalKind, name: &str) -> Result<Signal> {
    signal(kind).with_context(|| format!("cannot watch for {name}"))
}

async fn pass_over(mut signal: Signal, name: &str) {
    while signal.recv().await.is_some() {
        info!("{name} means nothing to this server; going on");
    }
}
