"""Compare this service with others on the CPU: same machine, weights and requests, one precision at a time.

    python compare.py MODEL_DIR --onnx DIR                  # f32
    python compare.py MODEL_DIR --onnx DIR --dtype int8

Starts each system as a server on a loopback port with the same number of threads, compares their
scores, then sends every request to each of them in turn, in rotating order, so that a drift of the
machine's speed meets all alike. Reports CPU time and wall time per request, load time and peak
memory, and each system's speed as a share of what the machine's multiply-add instructions of that
precision reach, measured in the same run. Writes cpu-<dtype>.json and a page beside it.
"""
import argparse
import importlib.metadata
import json
import math
import platform
import signal
import statistics
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from safetensors import safe_open

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from agreement import errors, logits, same
from common import metrics
from common.arithmetic import by_set, model_facts, read_requests
from common.machine import ROOT, instruction_peak, machine, peak_of, provenance, save
from report import report
from systems import EXACT, PEERS, PEERS_OF, gemm_peak, ours, peer

PACKAGES = ("torch", "transformers", "sentence-transformers", "tokenizers", "onnx", "onnxruntime", "fastapi", "uvicorn",
            "numpy")


# --- Agreement --------------------------------------------------------------------------------


def all_logits(system, requests):
    return [logits(system, request["body"]) for request in requests]


def compare_scores(running, requests, args, logs):
    """What is within the tolerance in f32, and how far off each is below that. Warms every system up besides."""
    found = {system.key: all_logits(system, requests) for system in running}
    if args.dtype == "f32":
        return {peer.key: same(found["ours"], peer, found[peer.key], args.tolerance) for peer in running[1:]}
    exact = next((found[key] for key in EXACT if key in found), None) or exact_logits(requests, args, logs)
    return {system.key: errors(system, found[system.key], exact) for system in running if system.key not in EXACT}


def exact_logits(requests, args, logs):
    """Torch's in f32, from a server that runs for this alone."""
    reference = peer("sorted", args)
    try:
        start(reference, logs)
        return all_logits(reference, requests)
    finally:
        reference.stop()


# --- The run ----------------------------------------------------------------------------------


def start(system, logs):
    with (Path(logs) / f"{system.key}.log").open("w") as log:
        system.start(log)


def run(running, requests, args, weights):
    """All that is measured, with the servers up."""
    with tempfile.TemporaryDirectory() as logs:
        try:
            after_load = {}
            for system in running:
                start(system, logs)
                after_load[system.key] = system.peak_memory()
                print(f"{system.key}: ready after {system.load_seconds:.1f} s, "
                      f"{after_load[system.key] / weights:.3f} x the weights in f32 resident at most", flush=True)
            said = metrics.dtype(metrics.scrape(running[0].url))
            if said != args.dtype:
                print(f"warning: this service says that it computes in {said}", file=sys.stderr)
            agreement = compare_scores(running, requests, args, logs)
            for key, values in agreement.items():
                print(f"{key}: {values}", flush=True)
            before = metrics.scrape(running[0].url)
            runs, peaks = measure(running, requests, args)
            operations = metrics.Change(before, metrics.scrape(running[0].url)).operations()
            memory = {s.key: {"after_load": after_load[s.key], "at_end": s.peak_memory()} for s in running}
        finally:
            for system in running:
                system.stop()
    return {"dtype_said": said, "agreement": agreement, "memory": memory, "operations": operations, "peaks": peaks,
            "runs": runs}


def machine_peaks(args):
    return {**instruction_peak(args.binary, args.threads), "gemm": gemm_peak(args.threads)}


def measure(running, requests, args):
    """Every request to every system, in some rounds, the first system another one each time."""
    runs, peaks = [], [machine_peaks(args)]
    for n in range(args.rounds):
        for index, request in enumerate(requests):
            body = json.dumps(request["body"])
            first = (n + index) % len(running)
            for system in running[first:] + running[:first]:
                run = {"request": index, "round": n, "system": system.key, **system.measure(body)}
                runs.append(run)
                print(f"  round {n + 1} request {index + 1} {system.key:11} "
                      f"wall {run['wall']:7.2f} s  cpu {run['cpu']:7.2f} s  others {run['others']:4.0%}", flush=True)
        peaks.append(machine_peaks(args))
    return runs, peaks


# --- The result -------------------------------------------------------------------------------


def weight_bytes(model):
    """The size of all weights in f32, whatever the files hold."""
    total = 0
    for path in model.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as f:
            total += sum(4 * math.prod(f.get_slice(name).get_shape()) for name in f.keys())
    return total


def median(runs, key, **where):
    return statistics.median(r[key] for r in runs if all(r[k] == v for k, v in where.items()))


def total(runs, key, system, chosen):
    """Over the chosen requests, of the medians over the rounds."""
    return sum(median(runs, key, system=system.key, request=i) for i in chosen)


def summarise(running, requests, measured, weights, threads):
    """Per system the means of a request, and their ratios to ours."""
    runs, peaks, count = measured["runs"], measured["peaks"], len(requests)
    work = sum(r["gflop"] for r in requests)
    rows = {}
    for system in running:
        wall, cpu, faults = (total(runs, key, system, range(count)) for key in ("wall", "cpu", "faults"))
        peak, memory = peak_of(peaks, system.precision), measured["memory"][system.key]
        rows[system.key] = {
            "title": system.title,
            "precision": system.precision,
            "load_seconds": system.load_seconds,
            "peak_memory": memory["at_end"],
            "peak_memory_over_weights": memory["at_end"] / weights,
            "peak_memory_after_load": memory["after_load"],
            "seconds_per_request": wall / count,
            "cpu_seconds_per_request": cpu / count,
            "page_faults_per_request": faults / count,
            "gflop_per_s": work / wall,
            "share_of_peak": peak and work / wall / peak,
            "share_of_peak_by_cpu_time": peak and work / cpu * threads / peak,
        }
    return {"systems": rows, "ours_over": ratios(running, rows, runs),
            "peaks": {dtype: peak_of(peaks, dtype) and {"gflop_per_s": peak_of(peaks, dtype),
                                                        "instructions": peaks[0][dtype].get("instructions")}
                      for dtype in dict.fromkeys(["f32", *(s.precision for s in running)])},
            "gemm_gflop_per_s": statistics.median(p["gemm"]["median"] for p in peaks),
            "operations": operations(measured, requests, peak_of(peaks, running[0].precision))}


def operations(measured, requests, peak):
    """What the time of this service's batches went to, and how fast its projections were meanwhile."""
    seconds = measured["operations"]
    if not seconds["projection"]:
        return None  # a version that does not say
    rounds = sum(run["system"] == "ours" for run in measured["runs"]) / len(requests)
    rate = rounds * sum(r["projection_gflop"] for r in requests) / seconds["projection"]
    shares = {name: spent / sum(seconds.values()) for name, spent in seconds.items()}
    return {"shares": shares, "projection_gflop_per_s": rate, "projection_share_of_peak": peak and rate / peak}


def ratios(running, rows, runs):
    ours, result = rows["ours"], {}
    for system in running[1:]:
        theirs = rows[system.key]
        pairs = [find(runs, "ours", r)["cpu"] / r["cpu"] for r in runs if r["system"] == system.key and r["cpu"]]
        result[system.key] = {
            "cpu": ours["cpu_seconds_per_request"] / theirs["cpu_seconds_per_request"],
            "wall": ours["seconds_per_request"] / theirs["seconds_per_request"],
            "cpu_of_pairs": {"min": min(pairs), "median": statistics.median(pairs), "max": max(pairs)},
        }
    return result


def find(runs, key, like):
    return next(r for r in runs if r["system"] == key and (r["round"], r["request"]) == (like["round"], like["request"]))


def per_set(running, requests, runs):
    """The same means by set of requests."""
    rows = []
    for name, chosen in by_set(requests).items():
        row = {"set": name, "requests": len(chosen), "tokens": statistics.mean(requests[i]["tokens"] for i in chosen)}
        for system in running:
            for key in ("wall", "cpu"):
                row[f"{system.key}_{key}"] = total(runs, key, system, chosen) / len(chosen)
        rows.append(row)
    return rows


def chosen(args):
    """The requests of the sets that are asked for."""
    requests = [r for r in read_requests(args.requests, args.model) if not args.sets or r["set"] in args.sets]
    if not requests:
        raise SystemExit(f"{args.requests.name} has no set {', '.join(args.sets)}")
    return requests


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, metavar="MODEL_DIR", help="e.g. from make_checkpoint.py")
    parser.add_argument("--dtype", choices=PEERS_OF, default="f32", help="what this service computes in")
    parser.add_argument("--peers", nargs="*", choices=PEERS, help=f"default: {PEERS_OF}")
    parser.add_argument("--onnx", type=Path, metavar="DIR", help="where ONNX Runtime's models are, or shall be made")
    parser.add_argument("--reduce-range", action="store_true", help="ONNX Runtime int8 with weights of 7 bits")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/reranker")
    parser.add_argument("--requests", type=Path, default=HERE / "requests_20.json")
    parser.add_argument("--sets", nargs="+", metavar="SET", help="of the requests' sets these only, as 20 50")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tolerance", type=float, default=1e-4, help="in the logit, in f32")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks", help="directory of the results")
    parser.add_argument("--name", help="the results are <name>.json and .md; default: cpu-<dtype>")
    args = parser.parse_args()
    args.peers = PEERS_OF[args.dtype] if args.peers is None else args.peers
    args.name = args.name or f"cpu-{args.dtype}"
    if args.dtype == "f32" and any(PEERS[key][1] != "f32" for key in args.peers):
        parser.error("in f32 all scores must be the same, so peers of other precisions have no place there")
    if args.onnx is None and any(key.startswith("ort") for key in args.peers):
        parser.error("ONNX Runtime needs --onnx DIR, where its models are made (3 GB for one of full size)")
    args.model, args.binary = args.model.resolve(), args.binary.resolve()
    return args


def main():
    for number in (signal.SIGTERM, signal.SIGINT):  # in the background a shell has SIGINT ignored
        signal.signal(number, lambda *_: sys.exit("stopped"))
    args = arguments()
    requests, weights, source = chosen(args), weight_bytes(args.model), provenance(args.binary)
    if source["binary_older_than_sources"]:
        print(f"warning: {args.binary.name} is older than the sources; cargo build --release", file=sys.stderr)
    running = [ours(args), *(peer(key, args) for key in args.peers)]
    measured = run(running, requests, args, weights)
    now = datetime.now(timezone.utc)
    result = {
        "date": now.strftime("%Y-%m-%d"),
        "time": now.isoformat(timespec="seconds"),
        "command": ["compare.py", *sys.argv[1:]],
        **source,
        "machine": machine(),
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in PACKAGES}},
        "dtype": args.dtype,
        "dtype_said": measured["dtype_said"],
        "threads": args.threads,
        "rounds": args.rounds,
        "model": {**model_facts(args.model), "weight_bytes": weights},
        "requests": [{k: r[k] for k in ("set", "language", "documents", "tokens", "padded_tokens", "gflop")} for r in requests],
        "agreement": measured["agreement"],
        "summary": summarise(running, requests, measured, weights, args.threads),
        "by_set": per_set(running, requests, measured["runs"]),
        "peaks": measured["peaks"],
        "runs": measured["runs"],
    }
    save(args.out, args.name, result, report(result))


if __name__ == "__main__":
    main()
