#!/usr/bin/env bash
# Fetches what a build with the feature `cuda` needs, for machines without a CUDA toolkit: NVIDIA's
# compiler library of CUDA 12.2 (its PTX is version 8.2, the newest that driver 535 reads). Lays it
# out as a toolkit and prints the folder. The build finds it in its usual place, elsewhere by
# CUDA_PATH.
# Usage: scripts/cuda-toolkit.sh [FOLDER] [NVIDIA's package on PyPI...]
# A further package is, for example, nvidia-cuda-nvcc-cu12, which has ptxas.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(realpath -m "${1:-target/cuda-12.2}")
shift || true
version=12.2.140

packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
for package in nvidia-cuda-nvrtc-cu12 "$@"; do
    mark="$folder/.have/$package-$version"
    if [ -e "$mark" ]; then continue; fi
    python3 -m pip --disable-pip-version-check download --quiet --no-deps --dest "$packages" "$package==$version" >&2
    python3 - "$packages"/*.whl "$folder" >&2 <<'UNPACK'
import pathlib, sys, zipfile
*wheels, folder = map(pathlib.Path, sys.argv[1:])
for wheel in wheels:
    for name in zipfile.ZipFile(wheel).namelist():
        parts = pathlib.PurePosixPath(name).parts  # nvidia/<component>/lib/<file>
        if parts[0] != "nvidia" or len(parts) < 4 or name.endswith("/"):
            continue
        target = folder.joinpath("lib64" if parts[2] == "lib" else parts[2], *parts[3:])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(zipfile.ZipFile(wheel).read(name))
        if parts[2] == "bin":
            target.chmod(0o755)
UNPACK
    rm -f "$packages"/*.whl
    mkdir -p "$folder/.have"
    touch "$mark"
done
echo "$folder"
