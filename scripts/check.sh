#!/usr/bin/env bash
# Everything a change must pass: format, lints, tests, documentation. Needs Rust, a C compiler and crates.io.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo fmt --check
cargo clippy --locked --all-targets -- -D warnings
cargo test --locked
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
