#!/usr/bin/env bash
# Measures this machine's GPU: whether scores are right, and how fast they come beside
# sentence-transformers and torch. Needs Python with PyTorch and sentence-transformers, no Rust and
# no internet. Writes docs/benchmarks/gpu-<name>.*; benches/gpu/README.md says more.
# Exit code 0: all limits are met. 1: one is not. 2: there is nothing to measure.
# Usage: bash scripts/gpu-check.sh [BINARY] [-- options]
# PYTHON names another interpreter than python3.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=target/release/reranker
if [ $# -gt 0 ] && [ "$1" != -- ]; then
    binary=$1
    shift
fi
if [ "${1:-}" = -- ]; then shift; fi
exec "${PYTHON:-python3}" benches/gpu/check.py "$binary" "$@"
