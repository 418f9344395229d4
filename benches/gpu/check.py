"""Is the GPU computing rightly, and how fast beside its peers? scripts/gpu-check.sh runs this; README.md says what it measures.

    python check.py BINARY                               # on a machine with a GPU, Python and PyTorch
    python check.py BINARY --device cpu --model small    # anywhere: the same steps, to try them out
"""
import argparse
import importlib.metadata
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

HERE = Path(__file__).resolve().parent
for folder in (HERE.parent, HERE.parent / "peers", HERE.parent / "load", HERE):
    sys.path.insert(0, str(folder))
NEEDED = ("numpy", "safetensors", "tokenizers")
try:
    import nvidia
    from bench import bench
    from common.arithmetic import model_facts
    from common.machine import ROOT, machine, provenance, save, write
    from golden import golden
    from kernels import kernels
    from limits import judge
    from overflow import overflow
    from page import page
    from plot import plot
    from setup import SIZES, Amounts, Setup, make_model
except ModuleNotFoundError as error:
    print(f"gpu-check: Python's {error.name} is missing; {', '.join(NEEDED)} are needed", file=sys.stderr)
    sys.exit(2)

SECTIONS = {"kernels": kernels, "golden": golden, "overflow": overflow, "bench": bench}
PACKAGES = (*NEEDED, "torch", "transformers", "sentence-transformers", "fastapi", "uvicorn", "matplotlib")


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def missing(versions, gpu):
    """What the peers lack: a package, or a torch that sees the GPU."""
    found = {package: "not installed" for package in ("torch", "transformers", "sentence-transformers") if not versions[package]}
    if gpu and "torch" not in found:
        test = "import sys, torch; sys.exit(not torch.cuda.is_available())"
        if subprocess.run([sys.executable, "-c", test], capture_output=True).returncode:
            found["torch"] = "it does not see the GPU"
    return found


def measure(name, setup, result):
    """One section; what goes wrong in it is its result, and the others go on."""
    print(f"\n{name}", flush=True)
    started = time.perf_counter()
    try:
        found = SECTIONS[name](setup)
    except (Exception, SystemExit) as error:  # a stop is neither
        found = {"failed": f"{error}" if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"}
        print(f"  {name} failed: {found['failed']}", flush=True)
    result["sections"][name] = found
    result["section_seconds"][name] = time.perf_counter() - started


def name_of(gpu):
    """As the files are called."""
    return "gpu-" + (re.sub(r"[^a-z0-9]+", "-", gpu["name"].lower()).strip("-") if gpu else "check-on-cpu")


def complete(result, out, started):
    """Adds what follows from the sections that are there; returns the page."""
    result["took_seconds"] = time.perf_counter() - started
    result["limits"] = judge(result)
    found = result["sections"].get("bench", {})
    if "latency" in found:
        out.mkdir(parents=True, exist_ok=True)
        result["plot"] = plot(found, out / name_of(result["gpu"]))
    return page(result)


def new_result(args, gpu, versions, lacks):
    now = datetime.now(timezone.utc)
    return {
        "date": now.strftime("%Y-%m-%d"), "time": now.isoformat(timespec="seconds"),
        "command": ["gpu-check.sh", *sys.argv[1:]], **provenance(args.binary), "machine": machine(), "threads": args.threads,
        "versions": {"python": platform.python_version(), **versions}, "gpu": gpu, "cublaslt": None, "missing": lacks,
        "quick": args.quick, "plot": None, "section_seconds": {}, "sections": {}, "limits": [],
    }


def run(args, gpu, work):
    """All sections, saved after each, so that what ran is not lost if this is stopped."""
    started = time.perf_counter()
    versions = {package: version(package) for package in PACKAGES}
    result = new_result(args, gpu, versions, missing(versions, gpu))
    environment = {}
    if gpu:
        environment, result["cublaslt"] = nvidia.cublaslt(work / "libraries")
    model = make_model(args.model, work)
    result["model"] = {**model_facts(model), "made": args.model in SIZES}
    amounts = Amounts.quick() if args.quick else Amounts()
    amounts.runs, amounts.seconds = args.runs or amounts.runs, args.seconds or amounts.seconds
    amounts.golden_requests = args.golden_requests or amounts.golden_requests
    setup = Setup(args.binary, model, args.device, args.threads, amounts, work, gpu, environment, result["missing"])
    name = name_of(gpu)
    for section in args.sections:
        if section == "kernels" and not gpu:
            result["sections"][section] = {"skipped": "there is no GPU here"}
        else:
            measure(section, setup, result)
        write(args.out, name, result, complete(result, args.out, started))
    save(args.out, name, result, complete(result, args.out, started))
    return result


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", type=Path, metavar="BINARY")
    parser.add_argument("--device", default="cuda:0", help="cuda:N, or cpu to try this out in f32")
    parser.add_argument("--model", default="full", metavar="full|small|DIR",
                        help="random weights of the size of bge-reranker-v2-m3, a few small ones, or a checkpoint that is there")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="a quarter of everything; too few requests for the limits")
    parser.add_argument("--golden-requests", type=int, metavar="N", help="of 20 documents, f16 against f32 [200]")
    parser.add_argument("--runs", type=int, metavar="N", help="of each number of documents, one at a time [40]")
    parser.add_argument("--seconds", type=float, help="of each loop under load [8]")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks", help="directory of the results")
    args = parser.parse_args()
    if args.device != "cpu" and not re.fullmatch(r"cuda(:\d+)?", args.device):
        parser.error("--device is cuda:N or cpu")
    args.binary, args.out = args.binary.resolve(), args.out.resolve()
    return args


def stop(*_):
    raise KeyboardInterrupt


def main():
    for number in (signal.SIGTERM, signal.SIGINT):  # in the background a shell has SIGINT ignored
        signal.signal(number, stop)
    args = arguments()
    if not os.access(args.binary, os.X_OK):
        print(f"gpu-check: {args.binary} is not there or not a program", file=sys.stderr)
        return 2
    try:
        gpu = nvidia.find(args.device) if args.device != "cpu" else None
    except nvidia.NoGpu as reason:
        print(f"gpu-check: no GPU to measure: {reason} (--device cpu --model small tries the steps out)", file=sys.stderr)
        return 2
    try:
        with tempfile.TemporaryDirectory(prefix="gpu-check-") as work:
            result = run(args, gpu, Path(work))
    except KeyboardInterrupt:
        print("gpu-check: stopped; the sections that were done are saved", file=sys.stderr)
        return 130
    failed = [row["what"] for row in result["limits"] if row["passed"] is False]
    failed += [f"{name}: {found['failed']}" for name, found in result["sections"].items() if "failed" in found]
    for line in failed:
        print(f"NOT MET: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
