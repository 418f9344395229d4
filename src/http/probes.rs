//! The paths that ask whether the server is up. They need no key and no place among the
//! connections.

/// The paths.
const PROBES: [&str; 4] = [
    "/health",
    "/ping",
    "/.well-known/ready",
    "/.well-known/live",
];

/// Whether a path is one of the probes'.
pub(super) fn is_probe(path: &str) -> bool {
    PROBES.contains(&path)
}
