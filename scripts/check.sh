#!/usr/bin/env bash
# Runs what every change must pass: format, lints, tests and documentation.
# Needs Rust, a C compiler and crates.io. The steps can be named to run some of them only.
# Usage: bash scripts/check.sh [fmt] [lint] [test] [doc]
set -euo pipefail
cd "$(dirname "$0")/.."

steps=("$@")
[ $# -gt 0 ] || steps=(fmt lint test doc)
for step in "${steps[@]}"; do
    case $step in
    fmt) cargo fmt --check ;;
    lint) cargo clippy --locked --all-targets -- -D warnings ;;
    test) cargo test --locked ;;
    doc) RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items ;;
    *)
        echo "$0: there is no step '$step', only fmt, lint, test and doc" >&2
        exit 64
        ;;
    esac
done
