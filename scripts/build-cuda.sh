#!/usr/bin/env bash
# Builds the program with CUDA support, on any machine: no GPU, driver or CUDA toolkit is needed.
# What it builds starts everywhere, and computes on the CPU where there is no GPU. Options go to
# cargo.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${CUDA_PATH:-}${CUDA_HOME:-}" ] && ! ls /usr/local/cuda/lib64/libnvrtc.so.12 >/dev/null 2>&1; then
    bash scripts/cuda-toolkit.sh >/dev/null
fi
cargo build --release --locked --features cuda "$@"
