//! The C library's allocator: how many arenas it has, what it maps, and when it gives memory back.
//!
//! glibc keeps freed memory for the next allocation. After a burst of large requests that can be
//! gigabytes which nothing needs, and which count against the container's limit. Other C libraries
//! are left alone.

use std::{sync::Arc, time::Duration};

use tokio::{task::spawn_blocking, time::interval};

use crate::memory::Budget;

/// Pause between two looks at how much memory requests hold.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Freed memory below this size is not worth a walk through the allocator's lists.
const WORTHWHILE: usize = 16 << 20;

/// Allocations from this size on are mapped, and unmapped when they are freed.
const MAPPED: usize = 512 * 1024;

/// Free memory at the end of an arena that is kept for the next allocation. glibc's own choice is
/// small once the size above is set, and every batch would get its memory anew.
const KEPT: usize = 32 << 20;

/// Limits the number of arenas and the size of what goes into them. It must be called before the
/// first thread starts.
///
/// Without the first limit glibc makes an arena of 64 MiB of address space for every thread. There
/// are more threads than processors, and the arenas would use up a limit on address space
/// (`ulimit -v`). Without the second limit large bodies and texts go into arenas, where giving them
/// back takes long and holds up every thread that shares the arena.
pub(crate) fn tune() {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    libc::tune(processors.clamp(2, 8), MAPPED, KEPT);
}

/// Gives memory back to the system whenever requests have held much more of it than they hold now.
/// It never returns.
pub(crate) async fn give_back(budget: Arc<Budget>) {
    let mut ticks = interval(LOOK_EVERY);
    let mut highest = 0;
    loop {
        ticks.tick().await;
        highest = budget.take_peak().max(highest);
        if highest - budget.used() >= WORTHWHILE {
            highest = budget.used();
            let _ = spawn_blocking(libc::trim).await;
        }
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "settings of the C library")]
mod libc {
    pub(super) fn tune(arenas: usize, mapped: usize, kept: usize) {
        for (option, value) in [
            (::libc::M_ARENA_MAX, arenas),
            (::libc::M_MMAP_THRESHOLD, mapped),
            (::libc::M_TRIM_THRESHOLD, kept),
        ] {
            let value = i32::try_from(value).unwrap_or(i32::MAX);
            // SAFETY: `mallopt` may be called at any time; it takes its own lock and sets a number.
            unsafe { ::libc::mallopt(option, value) };
        }
    }

    pub(super) fn trim() {
        // SAFETY: `malloc_trim` may be called at any time; it gives back only pages that are free.
        unsafe { ::libc::malloc_trim(0) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod libc {
    pub(super) fn tune(_: usize, _: usize, _: usize) {}

    pub(super) fn trim() {}
}
