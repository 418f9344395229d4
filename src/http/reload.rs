//! Files that are read again: on SIGHUP, and when they change.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::interval,
};
use tracing::{info, warn};

/// How often the files are looked at. Mounted secrets are swapped as links, which no notification
/// shows reliably.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Files, and how they looked when they were read last.
pub(super) struct Watch {
    files: Vec<PathBuf>,
    seen: Vec<Option<Look>>,
    hangup: Signal,
}

/// Catches SIGHUP where there is nothing to read again, so that it does not end the process.
pub(super) fn nothing() -> Result<impl Future<Output = ()> + Send> {
    let mut hangup = signal(SignalKind::hangup()).context("cannot watch for SIGHUP")?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            info!(
                "SIGHUP: there are no keys and no certificate to read again, as none come from files; going on"
            );
        }
    })
}

/// What differs after a write, a rename over the file, or a swapped link: inode, bytes, seconds,
/// nanoseconds.
type Look = (u64, u64, i64, i64);

impl Watch {
    /// Starts to watch: SIGHUP does not end the process from now on.
    pub(super) fn new(files: Vec<PathBuf>) -> Result<Self> {
        let hangup = signal(SignalKind::hangup()).context("cannot watch for SIGHUP")?;
        let seen = looks(&files);
        Ok(Self {
            files,
            seen,
            hangup,
        })
    }

    /// Calls `reload` whenever there is reason to, for good, and logs what it says.
    pub(super) async fn run(mut self, reload: impl Fn() -> Result<String> + Send) {
        let mut ticks = interval(LOOK_EVERY);
        loop {
            let told = tokio::select! {
                _ = self.hangup.recv() => true,
                _ = ticks.tick() => false,
            };
            // Looked at before it is read: what changes in between is read once more.
            let looks = looks(&self.files);
            if !told && looks == self.seen {
                continue;
            }
            self.seen = looks;
            match reload() {
                Ok(done) => info!("{done}"),
                Err(error) => warn!("{error:#}; going on with what was read before"),
            }
        }
    }
}

fn looks(files: &[PathBuf]) -> Vec<Option<Look>> {
    files.iter().map(|file| look(file)).collect()
}

fn look(file: &Path) -> Option<Look> {
    let data = fs::metadata(file).ok()?;
    Some((data.ino(), data.size(), data.mtime(), data.mtime_nsec()))
}
