"""Compare this service with the old one on the CPU in f32: same machine, weights and requests.

    python compare.py MODEL_DIR --binary ../../target/release/reranker

Starts each system as a server on a loopback port with the same number of threads, checks that
all give the same scores, then sends every request to each of them in turn, in rotating order, so
that a drift of the machine's speed meets all alike. Reports CPU time and wall time per request,
load time and peak memory, and this service's speed as a share of the machine's f32 peak in matrix
products, measured in the same run. Writes <date>-cpu-f32.json and a table beside it.
"""
import argparse
import hashlib
import http.client
import importlib.metadata
import json
import math
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from safetensors import safe_open
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MAX_LENGTH = 512
TICKS = os.sysconf("SC_CLK_TCK")
LOAD_TIMEOUT = 600
ANSWER_TIMEOUT = 900
SETTLE = 0.1  # seconds after an answer whose CPU time still counts: threads may spin on
PACKAGES = ("torch", "transformers", "sentence-transformers", "tokenizers", "fastapi", "uvicorn", "numpy")


# --- Processes --------------------------------------------------------------------------------


@dataclass
class Usage:
    """What a process and its children have used since they started."""
    cpu: float
    user: float
    faults: int

    def since(self, earlier):
        return Usage(self.cpu - earlier.cpu, self.user - earlier.user, self.faults - earlier.faults)


def stat_fields(pid):
    """/proc/PID/stat from the third field on (the second may contain anything)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def tree(root):
    """The process and all its descendants."""
    children = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                children.setdefault(int(stat_fields(entry.name)[1]), []).append(int(entry.name))
            except OSError:
                pass  # gone meanwhile
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def usage(root):
    user = system = faults = 0
    for pid in tree(root):
        fields = stat_fields(pid)
        user, system = user + int(fields[11]), system + int(fields[12])
        faults += int(fields[7])
    return Usage((user + system) / TICKS, user / TICKS, faults)


def peak_memory(root):
    """VmHWM, in bytes, of the process and its descendants together."""
    total = 0
    for pid in tree(root):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                total += int(line.split()[1]) * 1024
    return total


def machine_busy():
    """CPU seconds that all processes together have used since boot, stolen time included."""
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:])
    return (user + nice + system + irq + softirq + steal) / TICKS


# --- Systems ----------------------------------------------------------------------------------


@dataclass
class System:
    """A server under test."""
    key: str
    title: str
    command: list
    port: int
    environment: dict
    load_seconds: float = 0.0
    memory: dict = field(default_factory=dict)
    process: subprocess.Popen = None

    def start(self, log):
        env = {**os.environ, **self.environment}
        started = time.perf_counter()
        self.process = subprocess.Popen(self.command, env=env, stdout=log, stderr=subprocess.STDOUT)
        while not self.is_ready():
            if self.process.poll() is not None:
                raise SystemExit(f"{self.key} ended while loading:\n{Path(log.name).read_text()[-3000:]}")
            if time.perf_counter() - started > LOAD_TIMEOUT:
                raise SystemExit(f"{self.key} is not ready after {LOAD_TIMEOUT} s")
            time.sleep(0.02)
        self.load_seconds = time.perf_counter() - started
        self.memory["after_load"] = peak_memory(self.process.pid)

    def is_ready(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def post(self, path, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_TIMEOUT)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise SystemExit(f"{self.key} answers {answer.status}: {text[:500]}")
        return json.loads(text)

    def measure(self, body):
        """One request: wall and CPU seconds, page faults, and the share of the machine that others took."""
        busy, before, started = machine_busy(), usage(self.process.pid), time.perf_counter()
        self.post("/rerank", body)
        wall = time.perf_counter() - started
        time.sleep(SETTLE)
        spent = usage(self.process.pid).since(before)
        others = max(0.0, machine_busy() - busy - spent.cpu)
        share = others / (time.perf_counter() - started) / os.cpu_count()
        return {"wall": wall, "cpu": spent.cpu, "user": spent.user, "faults": spent.faults, "others": share}

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def systems(args):
    threads = str(args.threads)
    port = free_port()
    ours = System(
        "ours", "this service",
        [str(args.binary), "--model", str(args.model), "--device", "cpu", "--host", "127.0.0.1",
         "--port", str(port), "--max-length", str(MAX_LENGTH), "--deadline-ms", str(ANSWER_TIMEOUT * 1000)],
        port, {"RAYON_NUM_THREADS": threads})
    result = [ours]
    for key, title, options in [("old", "old service", []),
                                ("sorted", "torch, length-sorted batches of 8", ["--batch-size", "8"])]:
        if key in args.peers:
            port = free_port()
            command = [sys.executable, str(HERE / "old_service.py"), str(args.model), "--port", str(port),
                       "--threads", threads, *options]
            result.append(System(key, title, command, port, {
                "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1",
                "TOKENIZERS_PARALLELISM": "true"}))
    return result


# --- Agreement --------------------------------------------------------------------------------


def our_logits(system, request):
    """In the order of the request, from the scores of the answer."""
    logits = [None] * len(request["documents"])
    for document in system.post("/rerank", json.dumps(request))["documents"]:
        score = document["rerank_score"]
        logits[int(document["chunk_id"])] = math.log(score / (1 - score))
    return logits


def agreement(ours, peer, requests, tolerance):
    """Compares logits and order on every request; documents within the tolerance may swap."""
    worst, spread, swapped = 0.0, [], 0
    for request in requests:
        mine = our_logits(ours, request["body"])
        theirs = peer.post("/logits", json.dumps(request["body"]))["logits"]
        worst = max(worst, *(abs(a - b) for a, b in zip(mine, theirs, strict=True)))
        spread.append(statistics.pstdev(theirs))
        order = sorted(range(len(mine)), key=mine.__getitem__, reverse=True)
        for better, worse in zip(order, order[1:]):
            swapped += theirs[worse] > theirs[better]
            if theirs[worse] > theirs[better] + tolerance:
                raise SystemExit(f"{peer.key} ranks documents {better} and {worse} the other way round")
    if worst > tolerance:
        raise SystemExit(f"logits differ by {worst:.1e} from those of {peer.key}; allowed is {tolerance:.0e}")
    return {"documents": sum(len(r["body"]["documents"]) for r in requests), "max_logit_difference": worst,
            "neighbours_swapped": swapped, "logit_deviation_within_requests": statistics.mean(spread)}


# --- Arithmetic -------------------------------------------------------------------------------


def lengths(tokenizer, body):
    pairs = [(body["query"], document["content"]) for document in body["documents"]]
    return [min(MAX_LENGTH, len(pair.ids)) for pair in tokenizer.encode_batch(pairs)]


def gflop(config, sequences):
    """What the scores need, without padding: the last layer in full for `<s>` only."""
    hidden, ffn, layers = (config[f"{k}_size" if k != "num_hidden_layers" else k]
                           for k in ("hidden", "intermediate", "num_hidden_layers"))
    tokens = sum(sequences)
    rest_of_layer = 2 * (2 * hidden * hidden + 2 * hidden * ffn)  # queries, output, feed-forward; a row
    keys_values = 2 * 2 * hidden * hidden
    attention = sum(4 * hidden * n * n for n in sequences)
    full_layers = (layers - 1) * (tokens * (rest_of_layer + keys_values) + attention)
    last_layer = tokens * keys_values + len(sequences) * rest_of_layer + 4 * hidden * tokens
    return 1e-9 * (full_layers + last_layer + len(sequences) * 2 * hidden * hidden)


def gemm_peak(threads):
    command = [sys.executable, str(HERE / "gemm_peak.py"), "--threads", str(threads)]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return json.loads(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)


def weight_bytes(model):
    """The size of all weights in f32, whatever the files hold."""
    total = 0
    for path in model.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as f:
            total += sum(4 * math.prod(f.get_slice(name).get_shape()) for name in f.keys())
    return total


# --- The run ----------------------------------------------------------------------------------


def measure(running, requests, rounds, threads):
    """Every request to every system, `rounds` times, the first system another one each time."""
    runs, peaks = [], [gemm_peak(threads)]
    for n in range(rounds):
        for index, request in enumerate(requests):
            body = json.dumps(request["body"])
            start = (n + index) % len(running)
            for system in running[start:] + running[:start]:
                run = {"request": index, "round": n, "system": system.key, **system.measure(body)}
                runs.append(run)
                print(f"  round {n + 1} request {index + 1} {system.key:7} "
                      f"wall {run['wall']:7.2f} s  cpu {run['cpu']:7.2f} s  others {run['others']:4.0%}", flush=True)
        peaks.append(gemm_peak(threads))
    return runs, peaks


def median(runs, key, **where):
    return statistics.median(r[key] for r in runs if all(r[k] == v for k, v in where.items()))


def summarise(running, requests, runs, peaks, weights, threads):
    """Per system: sums over the requests of the medians over the rounds, and their ratios to ours."""
    peak = statistics.median(p["median"] for p in peaks)
    work = sum(r["gflop"] for r in requests)
    rows = {}
    for system in running:
        totals = {key: sum(median(runs, key, system=system.key, request=i) for i in range(len(requests)))
                  for key in ("wall", "cpu", "faults")}
        rows[system.key] = {
            "title": system.title,
            "load_seconds": system.load_seconds,
            "peak_memory": system.memory["at_end"],
            "peak_memory_over_weights": system.memory["at_end"] / weights,
            "peak_memory_after_load": system.memory["after_load"],
            "seconds_per_request": totals["wall"] / len(requests),
            "cpu_seconds_per_request": totals["cpu"] / len(requests),
            "page_faults_per_request": totals["faults"] / len(requests),
            "gflop_per_second": work / totals["wall"],
            "share_of_gemm_peak": work / totals["wall"] / peak,
            "share_of_gemm_peak_by_cpu_time": work / totals["cpu"] * threads / peak,
        }
    ours, ratios = rows["ours"], {}
    for system in running[1:]:
        theirs = rows[system.key]
        pairs = [(find(runs, "ours", r)["cpu"] / r["cpu"]) for r in runs if r["system"] == system.key]
        ratios[system.key] = {
            "cpu": ours["cpu_seconds_per_request"] / theirs["cpu_seconds_per_request"],
            "wall": ours["seconds_per_request"] / theirs["seconds_per_request"],
            "cpu_of_pairs": {"min": min(pairs), "median": statistics.median(pairs), "max": max(pairs)},
        }
    return {"systems": rows, "ours_over": ratios, "gemm_peak_gflop_per_second": peak}


def find(runs, key, like):
    return next(r for r in runs if r["system"] == key and (r["round"], r["request"]) == (like["round"], like["request"]))


def per_size(running, requests, runs):
    """The same medians by number of documents."""
    rows = []
    for size in sorted({r["documents"] for r in requests}):
        chosen = [i for i, r in enumerate(requests) if r["documents"] == size]
        row = {"documents": size, "requests": len(chosen),
               "tokens": sum(requests[i]["tokens"] for i in chosen) / len(chosen)}
        for system in running:
            for key in ("wall", "cpu"):
                total = sum(median(runs, key, system=system.key, request=i) for i in chosen)
                row[f"{system.key}_{key}"] = total / len(chosen)
        rows.append(row)
    return rows


def git(*command):
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *command], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def provenance(binary):
    """What was measured: the commit, and whether the binary can be it."""
    sources = [ROOT / "Cargo.toml", ROOT / "Cargo.lock", *(ROOT / "src").rglob("*.rs")]
    newest = max((path.stat().st_mtime for path in sources if path.exists()), default=0)
    return {
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--", "src", "Cargo.toml", "Cargo.lock")),
        "binary_sha256": hashlib.sha256(binary.read_bytes()).hexdigest(),
        "binary_older_than_sources": binary.stat().st_mtime < newest,
    }


def machine():
    info = Path("/proc/cpuinfo").read_text().splitlines()
    values = dict(line.split(":", 1) for line in reversed(info) if ":" in line)
    values = {key.strip(): value.strip() for key, value in values.items()}
    flags = values.get("flags", "").split()
    return {
        "cpu": values.get("model name"),
        "family": f"{values.get('cpu family')}/{values.get('model')}",
        "cpus": os.cpu_count(),
        "vectors": [f for f in ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile") if f in flags],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
    }


def report(result):
    """The table, in Markdown."""
    s, a = result["summary"], result["model"]
    lines = [
        f"# CPU, f32: {result['date']}", "",
        "Written by `benches/peers/compare.py`; the JSON file beside it has every run.", "",
        f"- machine: {result['machine']['cpu']} (family {result['machine']['family']}), "
        f"{result['machine']['cpus']} CPUs, {', '.join(result['machine']['vectors'])}; {result['threads']} threads each",
        f"- model: {a['layers']} x {a['hidden']}, feed-forward {a['ffn']}, vocabulary {a['vocabulary']:,}: "
        f"{a['weight_bytes'] / 1e9:.2f} GB in f32",
        f"- commit: {result['commit']}{' with changes' if result['dirty'] else ''}"
        f"{', binary older than the sources' if result['binary_older_than_sources'] else ''}",
        f"- versions: {', '.join(f'{k} {v}' for k, v in result['versions'].items())}",
        f"- {len(result['requests'])} requests, mean {statistics.mean(r['documents'] for r in result['requests']):.0f} documents, "
        f"{statistics.mean(r['tokens'] for r in result['requests']):.0f} tokens "
        f"({statistics.mean(r['padded_tokens'] for r in result['requests']):.0f} if padded); "
        f"median of {result['rounds']} alternating rounds", "",
        "| system | CPU s / request | wall s / request | ours / it, CPU | ours / it, wall | load s | peak memory | / weights | f32 peak used |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key, row in s["systems"].items():
        ratio = s["ours_over"].get(key)
        cpu, wall = (f"**{ratio['cpu']:.2f}**", f"{ratio['wall']:.2f}") if ratio else ("", "")
        lines.append(
            f"| {row['title']} | {row['cpu_seconds_per_request']:.2f} | {row['seconds_per_request']:.2f} | {cpu} | {wall} "
            f"| {row['load_seconds']:.1f} | {row['peak_memory'] / 1e9:.2f} GB | {row['peak_memory_over_weights']:.3f} "
            f"| {row['share_of_gemm_peak']:.0%} |")
    lines += ["", f"f32 peak used: arithmetic that the scores need, without padding, over wall time, against "
              f"{s['gemm_peak_gflop_per_second']:.0f} GFLOP/s in torch's matrix product on the same threads. "
              f"This service: {s['systems']['ours']['gflop_per_second']:.0f} GFLOP/s.", ""]
    for key, same in result["agreement"].items():
        lines.append(f"Scores against {s['systems'][key]['title']}: {same['documents']} documents, logits within "
                     f"{same['max_logit_difference']:.1e} (they deviate by {same['logit_deviation_within_requests']:.2f} "
                     f"within a request), {same['neighbours_swapped']} neighbours swapped.")
    if len(result["by_size"]) > 1:
        keys = list(s["systems"])
        lines += ["", f"| documents | tokens | {' | '.join(f'{k} CPU s' for k in keys)} | {' | '.join(f'{k} wall s' for k in keys)} |",
                  "|" + "---|" * (2 + 2 * len(keys))]
        for row in result["by_size"]:
            cells = [f"{row[f'{k}_{what}']:.2f}" for what in ("cpu", "wall") for k in keys]
            lines.append(f"| {row['documents']} | {row['tokens']:.0f} | {' | '.join(cells)} |")
    busy = [r["others"] for r in result["runs"]]
    lines += ["", f"Other processes took {statistics.median(busy):.1%} of the machine during the median run, {max(busy):.1%} at worst."]
    return "\n".join(lines) + "\n"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, metavar="MODEL_DIR", help="e.g. from make_checkpoint.py")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/reranker")
    parser.add_argument("--requests", type=Path, default=HERE / "requests_20.json")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", nargs="*", choices=["old", "sorted"], default=["old", "sorted"])
    parser.add_argument("--tolerance", type=float, default=1e-4, help="in the logit")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks", help="directory of the results")
    parser.add_argument("--name", default="cpu-f32", help="the results are <date>-<name>.json and .md")
    return parser.parse_args()


def main():
    for number in (signal.SIGTERM, signal.SIGINT):  # in the background a shell has SIGINT ignored
        signal.signal(number, lambda *_: sys.exit("stopped"))
    args = arguments()
    args.model, args.binary = args.model.resolve(), args.binary.resolve()
    config = json.loads((args.model / "config.json").read_text())
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    requests = json.loads(args.requests.read_text())["requests"]
    for request in requests:
        sequences = lengths(tokenizer, request["body"])
        request |= {"documents": len(sequences), "tokens": sum(sequences),
                    "padded_tokens": len(sequences) * max(sequences), "gflop": gflop(config, sequences)}
    weights, measured = weight_bytes(args.model), provenance(args.binary)
    if measured["binary_older_than_sources"]:
        print(f"warning: {args.binary.name} is older than the sources; cargo build --release", file=sys.stderr)
    running = systems(args)
    with tempfile.TemporaryDirectory() as logs:
        try:
            for system in running:
                with (Path(logs) / f"{system.key}.log").open("w") as log:
                    system.start(log)
                print(f"{system.key}: ready after {system.load_seconds:.1f} s, "
                      f"{system.memory['after_load'] / weights:.3f} x the weights resident at most", flush=True)
            same = {peer.key: agreement(running[0], peer, requests, args.tolerance) for peer in running[1:]}
            for key, values in same.items():
                print(f"{key}: logits agree within {values['max_logit_difference']:.1e}", flush=True)
            # The scores just compared have warmed every system up.
            runs, peaks = measure(running, requests, args.rounds, args.threads)
            for system in running:
                system.memory["at_end"] = peak_memory(system.process.pid)
        finally:
            for system in running:
                system.stop()
    now = datetime.now(timezone.utc)
    result = {
        "date": now.strftime("%Y-%m-%d"),
        "time": now.isoformat(timespec="seconds"),
        "command": ["compare.py", *sys.argv[1:]],
        **measured,
        "machine": machine(),
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in PACKAGES}},
        "threads": args.threads,
        "rounds": args.rounds,
        "model": {"layers": config["num_hidden_layers"], "hidden": config["hidden_size"],
                  "ffn": config["intermediate_size"], "vocabulary": config["vocab_size"], "weight_bytes": weights},
        "requests": [{k: r[k] for k in ("language", "documents", "tokens", "padded_tokens", "gflop")} for r in requests],
        "agreement": same,
        "summary": summarise(running, requests, runs, peaks, weights, args.threads),
        "by_size": per_size(running, requests, runs),
        "gemm_peaks": peaks,
        "runs": runs,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    stem = args.out / f"{result['date']}-{args.name}"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    stem.with_suffix(".md").write_text(report(result))
    print(f"\n{report(result)}")


if __name__ == "__main__":
    main()
