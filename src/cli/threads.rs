//! The threads that a command starts with. What the system refuses is an error here, not a panic in
//! a library.

use std::{
    fs, io,
    num::NonZero,
    thread::{self, available_parallelism},
};

use anyhow::{Context as _, Result, anyhow};
use rayon::ThreadPoolBuilder;
use tokio::runtime::{Builder, Runtime};

use crate::config;

/// Threads for what would hold up the async ones: loading a model, giving memory back. Work on text
/// has threads of its own.
const BLOCKING_THREADS: usize = 4;

/// The stack of a thread, in bytes: the default of Rust, of Rayon and of Tokio.
const STACK: usize = 2 << 20;

/// What a thread maps beside its stack, in bytes: guard pages and the stack for signals.
const BESIDE_STACK: usize = 64 << 10;

/// Starts those that compute and those that serve.
pub(super) fn start() -> Result<Runtime> {
    start_computing()?;
    let serving = available_parallelism().map_or(1, NonZero::get);
    // The library panics if there are none to be had.
    rehearse(serving + BLOCKING_THREADS).map_err(|error| too_few(&error))?;
    Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(STACK)
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .context("cannot start the async runtime")
}

/// Starts those that compute.
pub(super) fn start_computing() -> Result<()> {
    let threads = config::computing_threads();
    fit(threads).map_err(|error| too_few(&error))?;
    let pool = ThreadPoolBuilder::new()
        .num_threads(threads)
        .stack_size(STACK)
        .build_global();
    pool.map_err(|error| too_few(&error))
}

fn too_few(error: &dyn std::error::Error) -> anyhow::Error {
    anyhow!(
        "the system gives this process too few threads: {error}; raise its limits on them (ulimit -u, pids_limit of a container) and on memory (ulimit -v)"
    )
}

/// Checks that the address space has room for so many threads. A thread that finds none for its
/// stack for signals aborts the process, so they are not started to find out.
fn fit(threads: usize) -> io::Result<()> {
    let (limit, _) = rlimit::Resource::AS.get()?;
    let taken = mapped_bytes().unwrap_or_default();
    let left = usize::try_from(limit).map_or(usize::MAX, |limit| limit.saturating_sub(taken));
    let needed = threads.saturating_mul(STACK + BESIDE_STACK);
    if needed > left {
        return Err(io::Error::other(format!(
            "the stacks of {threads} take {} MB of address space, and {} MB are left",
            needed.div_ceil(1 << 20),
            left >> 20
        )));
    }
    Ok(())
}

/// Bytes of address space that this process takes, where Linux tells.
fn mapped_bytes() -> Option<usize> {
    let sizes = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: usize = sizes.split_whitespace().next()?.parse().ok()?;
    Some(pages * rustix::param::page_size())
}

/// Starts so many threads at once, and ends them again.
fn rehearse(threads: usize) -> io::Result<()> {
    fit(threads)?;
    let start = |_| thread::Builder::new().stack_size(STACK).spawn(thread::park);
    let mut started = Vec::new();
    let all = (0..threads).try_for_each(|number| start(number).map(|thread| started.push(thread)));
    for thread in started {
        thread.thread().unpark();
        // It does nothing that could panic.
        let _ = thread.join();
    }
    all
}
