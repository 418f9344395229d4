//! Open files: each connection is one, and the system's limit on them may be lower than that on
//! connections.

use rlimit::Resource;
use tracing::warn;

/// Files, sockets and pipes of the process that are no clients' connections.
const OWN: u64 = 64;

/// Connections beside those that have a place.
const BESIDE: u64 = 256;

/// How many connections may be open.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// Connections that may ask.
    pub(super) places: usize,
    /// More, that have not asked yet or are refused.
    pub(super) beside: usize,
}

impl Share {
    /// Raises the limit on open files as far as need be, and says so if that is not far enough.
    pub(super) fn of(max_connections: usize) -> Self {
        let wanted = u64::try_from(max_connections).unwrap_or(u64::MAX);
        let needed = wanted.saturating_add(BESIDE + OWN);
        let files = raise(needed).unwrap_or(needed);
        let share = share(wanted, files);
        if share.places < max_connections {
            warn!(
                "the limit on open files (ulimit -n) is {files}, which is enough for {} connections at once instead of the {max_connections} of RERANKER_MAX_CONNECTIONS; raise it to {needed}",
                share.places
            );
        }
        share
    }
}

/// The limit on open files, after what this process may do about it.
fn raise(needed: u64) -> Option<u64> {
    let (soft, hard) = Resource::NOFILE.get().ok()?;
    let raised = needed.min(hard);
    if soft >= raised {
        return Some(soft);
    }
    let done = Resource::NOFILE.set(raised, hard);
    Some(done.map_or(soft, |()| raised))
}

fn share(wanted: u64, files: u64) -> Share {
    let own = OWN.min(files / 2);
    let beside = BESIDE.min((files - own) / 4).max(1);
    let places = wanted.min(files - own - beside.min(files - own)).max(1);
    Share {
        places: usize::try_from(places).unwrap_or(usize::MAX),
        beside: usize::try_from(beside).unwrap_or(usize::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_files_are_shared_out_so_that_all_get_some() {
        let shares = |wanted, files| {
            let Share { places, beside } = share(wanted, files);
            (places, beside)
        };
        assert_eq!(shares(1024, 1344), (1024, 256));
        assert_eq!(shares(1024, 1_048_576), (1024, 256));
        assert_eq!(shares(1024, 1024), (720, 240));
        assert_eq!(shares(1024, 64), (24, 8));
        assert_eq!(shares(1, 64), (1, 8));
        assert_eq!(shares(1024, 0), (1, 1));
        let (places, beside) = shares(u64::MAX, u64::MAX);
        assert_eq!(places + beside + 64, usize::MAX);
    }
}
