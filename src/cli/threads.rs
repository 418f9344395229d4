//! The threads that a command starts with. What the system refuses is an error here, not a panic in
//! a library.

use std::{
    io,
    num::NonZero,
    thread::{self, available_parallelism},
};

use anyhow::{Context as _, Result, anyhow};
use rayon::ThreadPoolBuilder;
use tokio::runtime::{Builder, Runtime};

/// Threads for what would hold up the async ones: loading a model, giving memory back. Work on text
/// has threads of its own.
const BLOCKING_THREADS: usize = 4;

/// Starts those that compute and those that serve.
pub(super) fn start() -> Result<Runtime> {
    start_computing()?;
    let serving = available_parallelism().map_or(1, NonZero::get);
    // The library panics if there are none to be had.
    rehearse(serving + BLOCKING_THREADS).map_err(|error| too_few(&error))?;
    Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .context("cannot start the async runtime")
}

/// Starts those that compute.
pub(super) fn start_computing() -> Result<()> {
    let pool = ThreadPoolBuilder::new().build_global();
    pool.map_err(|error| too_few(&error))
}

fn too_few(error: &dyn std::error::Error) -> anyhow::Error {
    anyhow!(
        "the system gives this process too few threads: {error}; raise its limits on them (ulimit -u, pids_limit of a container) and on memory (ulimit -v)"
    )
}

/// Starts so many threads at once, and ends them again.
fn rehearse(threads: usize) -> io::Result<()> {
    let start = |_| thread::Builder::new().spawn(thread::park);
    let mut started = Vec::new();
    let all = (0..threads).try_for_each(|number| start(number).map(|thread| started.push(thread)));
    for thread in started {
        thread.thread().unpark();
        // It does nothing that could panic.
        let _ = thread.join();
    }
    all
}
