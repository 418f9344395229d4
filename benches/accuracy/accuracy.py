"""What each precision costs in accuracy: logits, order and MRR of the demo model's held-out queries.

    python accuracy.py --binary ../../target/release/reranker [--dtypes f32,bf16,f16,int8]

Starts the server once for each precision, asks it every query of the evaluation sets (the right passage and
the 19 that BM25 ranks highest, from packages never seen in training), and compares its logits with those of the first
precision. Then the same with outlier channels put into the model (harden.py), which changes
nothing in f32. int8 is also simulated in torch (simulate.py), with and without rotation.
Writes accuracy.json and the tables beside it.
"""
import argparse
import concurrent.futures
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "benches/common"), str(ROOT / "training")]

import numpy as np  # noqa: E402

import harden  # noqa: E402
import machine  # noqa: E402
import measures  # noqa: E402
import metrics  # noqa: E402
from processes import Server, free_port  # noqa: E402
from sets import MAIN, Sets  # noqa: E402

MAX_LENGTH = 512
CONNECTIONS = 4  # requests in flight
SAME = 1e-3  # how far apart two f32 logits of the same function may be
PACKAGES = ("numpy", "scipy", "safetensors", "tokenizers", "torch")
VARIANTS = {"plain": "the model as it is", "hard": "with outlier channels"}
COLUMNS = ("max", "mean", "RMS", "τ mean", "τ worst", "top-5 overlap", "same top 5", "same order", "top 1 changed",
           "MRR@10", "difference (95 %)")


# --- Queries ----------------------------------------------------------------------------------


def make_sets(work, count):
    """By name of the set: (query, passages), the right one first. Fetches the descriptions if they are not there."""
    if not (work / "packages.jsonl").exists():
        subprocess.run([sys.executable, str(ROOT / "training/data.py"), "--work", str(work)], check=True)
    sets, made = Sets(work, count), {}
    for name, (query_language, language) in MAIN.items():
        queries, candidates, _ = sets.make(query_language, language)
        made[name] = [(query, [sets.pool.long(row, language) for row in rows])
                      for query, rows in zip(queries, candidates, strict=True)]
    return made


# --- The server -------------------------------------------------------------------------------


def takes_dtype(binary):
    said = subprocess.run([str(binary), "--help"], check=True, capture_output=True, text=True).stdout
    return "--dtype" in said


def server(binary, model, dtype, threads, explicit):
    port = free_port()
    command = [str(binary), "--model", str(model), "--device", "cpu", "--host", "127.0.0.1", "--port", str(port),
               "--max-length", str(MAX_LENGTH), "--deadline-ms", "900000", *(["--dtype", dtype] if explicit else [])]
    return Server(dtype, command, port, {"RAYON_NUM_THREADS": str(threads)})


def ask(server, query, passages):
    """The logits of one query's passages, in their order."""
    body = json.dumps({"query": query, "texts": passages, "raw_scores": True})
    logits = [None] * len(passages)
    for result in server.post("/v1/rerank", body):
        logits[result["index"]] = result["score"]
    return logits


def memory(pid):
    """Bytes resident now and at most."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {key: int(lines[name].split()[0]) * 1024 for key, name in (("resident", "VmRSS"), ("peak", "VmHWM"))}


def score(running, queries):
    """All logits, and what they cost."""
    with tempfile.NamedTemporaryFile("w", suffix=".log") as log:
        try:
            running.start(log)
            at_start, before = memory(running.process.pid), running.usage()
            with concurrent.futures.ThreadPoolExecutor(CONNECTIONS) as pool:
                logits = np.array(list(pool.map(lambda q: ask(running, *q), queries)), np.float64)
            cost = {"cpu_seconds": running.usage().since(before).cpu, "load_seconds": running.load_seconds,
                    "memory_at_start": at_start, "memory": memory(running.process.pid),
                    "computes_in": metrics.dtype(metrics.scrape(running.url))}
        finally:
            running.stop()
    if not np.isfinite(logits).all():
        raise SystemExit(f"{running.key}: {np.sum(~np.isfinite(logits))} logits are not finite")
    return logits, cost


# --- One variant of the model -----------------------------------------------------------------


def label(dtypes, n):
    """The name of the nth run: a precision that comes twice is numbered."""
    before = dtypes[:n].count(dtypes[n])
    return f"{dtypes[n]} ({before + 1})" if before else dtypes[n]


def by_set(made, logits, reference):
    """The measures over all queries and over each set."""
    result, start = {"all": measures.compare(logits, reference)}, 0
    for name, queries in made.items():
        rows = slice(start, start + len(queries))
        result[name] = measures.compare(logits[rows], reference[rows])
        start = rows.stop
    return result


def measure(args, model, made):
    """Every precision on one model directory."""
    queries = [query for part in made.values() for query in part]
    explicit, runs, logits = takes_dtype(args.binary), {}, {}
    for n, dtype in enumerate(args.dtypes):
        name = label(args.dtypes, n)
        logits[name], cost = score(server(args.binary, model, dtype, args.threads, explicit), queries)
        first = next(iter(logits))
        runs[name] = {"dtype": dtype, **cost, "sets": by_set(made, logits[name], logits[first])}
        runs[name]["cpu_ratio"] = cost["cpu_seconds"] / runs[first]["cpu_seconds"]
        if cost["computes_in"] not in (None, dtype):
            print(f"  warning: asked for {dtype}, the server says {cost['computes_in']}", file=sys.stderr)
        print(f"  {name:8} {cost['cpu_seconds']:7.1f} CPU s  {' '.join(cells(runs[name]['sets']['all']))}", flush=True)
    return runs, logits


def simulate(args, model, made, logits):
    """int8 in torch on some queries of each set, beside what the server did on the same."""
    import simulate
    import torch
    torch.set_num_threads(args.threads)
    kept, start = [], 0
    for queries in made.values():
        share = min(len(queries), args.simulated)
        kept += [start + i * len(queries) // share for i in range(share)]
        start += len(queries)
    queries = [query for part in made.values() for query in part]
    simulator = simulate.Simulator(model, [queries[i] for i in kept], MAX_LENGTH)
    reference, first = simulator.logits(), next(iter(logits))
    result = {"queries": len(kept), "server_f32_against_torch": measures.errors(logits[first][kept], reference), "rows": {}}
    for name in logits:
        if name.startswith("int8"):
            result["rows"][f"{name}, the server"] = measures.compare(logits[name][kept], logits[first][kept])
    for title, scheme in (("int8, simulated", simulate.ROTATED), ("naive int8, simulated", simulate.NAIVE)):
        result["rows"][title] = measures.compare(simulator.logits(scheme), reference)
        print(f"  {title}  {' '.join(cells(result['rows'][title]))}", flush=True)
    return result


def check_same(name, worst):
    if worst > SAME:
        raise SystemExit(f"{name}: f32 logits differ by {worst:.1e}; allowed is {SAME:.0e}")
    print(f"  {name}: f32 logits agree within {worst:.1e}", flush=True)


# --- The report -------------------------------------------------------------------------------


def cells(row):
    """The columns of one comparison."""
    error = row["error"]
    low, high = row["mrr_interval"]
    return [*(f"{error[key]:.2g}" if error[key] < 0.1 else f"{error[key]:.3f}" for key in ("max", "mean", "rms")),
            f"{row['tau_mean']:.4f}", f"{row['tau_worst']:.3f}", f"{row['top5_overlap']:.2%}", f"{row['top5_same']:.1%}",
            f"{row['order_same']:.1%}", f"{row['top1_changed']:.2%}", f"{row['mrr']:.4f}",
            f"{row['mrr_difference']:+.4f} ({low:+.4f} to {high:+.4f})"]


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows), ""]


def report(result):
    """The tables, in Markdown."""
    sizes = result["queries"]
    lines = [
        "# Accuracy of each precision", "",
        "Written by `benches/accuracy/accuracy.py`, whose README says what is measured.", "",
        *machine.headlines(result),
        f"- model: `{result['model']['name']}`, {result['model']['layers']} x {result['model']['hidden']}",
        f"- queries: {', '.join(f'{count} {name}' for name, count in sizes.items())}, {sum(sizes.values())} in all, 20 candidates each",
        f"- versions: {', '.join(f'{k} {v}' for k, v in result['versions'].items())}", "",
        "Error: of the logit. τ: Kendall's tau-b per query. Same top 5, same order, top 1 changed: shares of the queries. Difference: of MRR@10, "
        f"with a bootstrap interval over the queries. All against {next(iter(result['variants']['plain']['runs']))}.", "",
    ]
    for variant, values in result["variants"].items():
        runs = values["runs"]
        lines += [f"## {VARIANTS[variant][0].upper()}{VARIANTS[variant][1:]}", ""]
        if "outliers" in values:
            o = values["outliers"]
            lines += [f"Channels {', '.join(map(str, o['norm_channels']))} of every norm's output moved by ±{o['size']:g}; values of "
                      f"{o['context_channels']} channels of the context in each layer times {o['context_factor']:g}. In f32 the logits stay "
                      f"within {values['f32_against_plain']:.1e} of the model's as it is.", ""]
        lines += table(["", *COLUMNS], ([name, *cells(run["sets"]["all"])] for name, run in runs.items()))
        lines += table(["MRR@10", *sizes, "all"], (
            [name, *(f"{run['sets'][part]['mrr']:.4f}" for part in (*sizes, "all"))] for name, run in runs.items()))
        lines += table(["", "CPU s", "/ the first", "loaded, MB", "after the run, MB", "peak, MB"], (
            [name, f"{run['cpu_seconds']:.1f}", f"{run['cpu_ratio']:.2f}", f"{run['memory_at_start']['resident'] / 1e6:.0f}",
             f"{run['memory']['resident'] / 1e6:.0f}", f"{run['memory']['peak'] / 1e6:.0f}"] for name, run in runs.items()))
        if values.get("simulation"):
            s = values["simulation"]
            lines += [f"Simulated in torch, on {s['queries']} of the queries; f32 there and in the server agree within "
                      f"{s['server_f32_against_torch']['max']:.1e}:", "",
                      *table(["", *COLUMNS], ([name, *cells(row)] for name, row in s["rows"].items()))]
    lines += ["CPU time and memory are indicative only: the model is so small that tokenising and HTTP weigh as much as it does. "
              "`benches/peers` measures speed and memory at full size.", ""]
    return "\n".join(lines)


def rounded(value):
    """Six digits of every figure."""
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/reranker")
    parser.add_argument("--model", type=Path, default=ROOT / "models/demo", help="a directory with one weights file")
    parser.add_argument("--work", type=Path, default=ROOT / "training/work", help="where training/data.py puts its data")
    parser.add_argument("--dtypes", default="f32,bf16,f16,int8", help="the first is the reference; one may come twice")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--queries", type=int, default=400, help="of each set")
    parser.add_argument("--simulated", type=int, default=100, metavar="N", help="queries of each set simulated in torch; 0: none")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks", help="directory of the results")
    parser.add_argument("--name", default="accuracy", help="the results are <name>.json and .md")
    args = parser.parse_args()
    args.binary, args.model, args.dtypes = args.binary.resolve(), args.model.resolve(), args.dtypes.split(",")
    if args.variants[0] != "plain":
        parser.error("the first variant must be plain: hard is compared with it")
    if not args.binary.exists():
        parser.error(f"{args.binary.name} is not there: cargo build --release")
    if set(args.dtypes) != {"f32"} and not takes_dtype(args.binary):
        parser.error(f"{args.binary.name} has no --dtype: only f32 can be measured")
    return args


def versions(simulated):
    names = [name for name in PACKAGES if simulated or name != "torch"]
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}


def main():
    for number in (signal.SIGTERM, signal.SIGINT):  # in the background a shell has SIGINT ignored
        signal.signal(number, lambda *_: sys.exit("stopped"))
    args = arguments()
    for name in [name for name in os.environ if name.startswith("RERANKER_")]:
        del os.environ[name]  # the servers get their options from here alone
    config = json.loads((args.model / "config.json").read_text())
    measured = machine.provenance(args.binary)
    made, variants, plain = make_sets(args.work, args.queries), {}, None
    if args.simulated:
        import simulate as simulation
        if not simulation.possible(args.model):
            print("no simulation: training's network has another shape than this model", file=sys.stderr)
            args.simulated = 0
    with tempfile.TemporaryDirectory() as scratch:
        for variant in args.variants:
            print(f"{variant}: {VARIANTS[variant]}", flush=True)
            model, values = args.model, {}
            if variant == "hard":
                model = Path(scratch) / "hard"
                values["outliers"] = harden.make(args.model, model)
            values["runs"], logits = measure(args, model, made)
            first = next(iter(logits.values()))
            plain = first if plain is None else plain
            if variant == "hard":
                values["f32_against_plain"] = float(np.abs(first - plain).max())
                if args.dtypes[0] == "f32":
                    check_same("hard and plain", values["f32_against_plain"])
            if args.simulated:
                values["simulation"] = simulate(args, model, made, logits)
                if args.dtypes[0] == "f32":
                    check_same("the server and torch", values["simulation"]["server_f32_against_torch"]["max"])
            variants[variant] = values
    now = datetime.now(timezone.utc)
    result = rounded({
        "date": now.strftime("%Y-%m-%d"), "time": now.isoformat(timespec="seconds"),
        "command": ["accuracy.py", *sys.argv[1:]], **measured, "machine": machine.machine(), "threads": args.threads,
        "versions": versions(args.simulated),
        "model": {"name": args.model.name, "layers": config["num_hidden_layers"], "hidden": config["hidden_size"]},
        "queries": {name: len(queries) for name, queries in made.items()},
        "variants": variants,
    })
    machine.save(args.out, args.name, result, report(result))


if __name__ == "__main__":
    main()
