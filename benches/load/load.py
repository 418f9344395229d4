"""Drive a server with real requests and say how long they took: closed loop and open loop.

    python load.py MODEL_DIR                                   # starts target/release/reranker itself
    python load.py MODEL_DIR --dtype int8 --sets 20 --concurrency 1 4 --utilisation 0.5 0.8
    python load.py MODEL_DIR --url http://127.0.0.1:8002       # one that runs already

Closed loop: so many clients, each of which sends its next request when it has its answer. Open
loop: requests arrive at random (Poisson), whether or not earlier ones were answered, and a
request's time counts from when it was due, not from when the client got round to sending it, so a
stall meets all requests that fell into it. MODEL_DIR is for the tokenizer and the arithmetic, and
for the server if this starts it. Python's standard library and tokenizers; Linux.
"""
import argparse
import http.client
import itertools
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import metrics
from common.arithmetic import by_set, model_facts, read_requests
from common.machine import ROOT, headlines, instruction_peak, machine, peak_of, provenance, save
from common.processes import Server, machine_busy

REQUESTS = ROOT / "benches/peers/requests_sizes.json"
STALE = 3  # seconds after which a connection is opened anew: servers close those on which nothing comes
IN_FLIGHT = 512  # of the open loop; what is due beyond that waits, and its time runs


# --- Sending ----------------------------------------------------------------------------------


@dataclass
class Answer:
    """One request, in seconds since the phase began."""
    request: int
    due: float
    sent: float
    done: float
    outcome: str  # HTTP's status, or the name of what went wrong

    @property
    def took(self):
        return self.done - self.due


class Client:
    """Posts to one address; each thread has a connection of its own."""

    def __init__(self, url, path, headers, timeout):
        parts = urlsplit(url)
        self.kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self.address, self.path, self.timeout = parts.netloc, parts.path.rstrip("/") + path, timeout
        self.headers = {"Content-Type": "application/json", **headers}
        self.mine = threading.local()

    def connection(self):
        last = getattr(self.mine, "last", 0.0)
        if time.monotonic() - last > STALE:
            self.drop()
            self.mine.connection = self.kind(self.address, timeout=self.timeout)
        return self.mine.connection

    def drop(self):
        if getattr(self.mine, "connection", None):
            self.mine.connection.close()
        self.mine.last = 0.0

    def post(self, body):
        """The status, or the name of the error."""
        try:
            connection = self.connection()
            connection.request("POST", self.path, body, self.headers)
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.drop()
            return type(error).__name__
        self.mine.last = time.monotonic()
        return str(answer.status)


class Phase:
    """Sends the requests of one set in a random order, again and again, and keeps what came back.

    As many as `count` says or, without it, for so many seconds and at least as many as `least`. What is
    on its way at the end is waited for.
    """

    def __init__(self, client, bodies, chosen, seed, count=None, seconds=0.0, least=0):
        order = list(chosen)
        random.Random(seed).shuffle(order)
        self.client, self.bodies, self.order, self.seed = client, bodies, itertools.cycle(order), seed
        self.count, self.seconds, self.least = count, seconds, least
        self.lock, self.begun, self.answers = threading.Lock(), 0, []
        self.started = time.perf_counter()

    def now(self):
        return time.perf_counter() - self.started

    def next(self, due):
        """The next request, unless it were one too many."""
        with self.lock:
            more = self.begun < self.count if self.count else self.begun < self.least or due < self.seconds
            self.begun += more
            return next(self.order) if more else None

    def send(self, request, due):
        sent = self.now()
        outcome = self.client.post(self.bodies[request])
        answer = Answer(request, due, sent, self.now(), outcome)
        with self.lock:
            self.answers.append(answer)

    def closed(self, clients):
        """Each client sends when it has had its answer."""
        threads = [threading.Thread(target=self.loop, daemon=True) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def loop(self):
        while (request := self.next(now := self.now())) is not None:
            self.send(request, now)

    def open(self, rate):
        """Requests at random times, `rate` a second on average."""
        rng = random.Random(self.seed)
        due = rng.expovariate(rate)
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            while (request := self.next(due)) is not None:
                time.sleep(max(0.0, due - self.now()))
                pool.submit(self.send, request, due)
                due += rng.expovariate(rate)


# --- What came of it --------------------------------------------------------------------------


def result_row(answers, requests):
    good = [a for a in answers if a.outcome == "200"]
    row = {"sent": len(answers), "good": len(good),
           "errors": dict(Counter(a.outcome for a in answers if a.outcome != "200"))}
    if not good:
        return row
    seconds, took = max(a.done for a in answers), [a.took for a in good]
    return {
        **row,
        "seconds": seconds,
        **{f"p{p}": metrics.percentile(took, p / 100) for p in (50, 95, 99)},
        "mean": sum(took) / len(took),
        "max": max(took),
        "requests_per_s": len(good) / seconds,
        "tokens_per_s": sum(requests[a.request]["tokens"] for a in good) / seconds,
        "gflop_per_s": sum(requests[a.request]["gflop"] for a in good) / seconds,
        "sent_late_p99": metrics.percentile([a.sent - a.due for a in answers], 0.99),
    }


def from_metrics(change):
    """What the server itself counted meanwhile; None where it has no such metrics."""
    tokens, padding = change.of("reranker_tokens_total"), change.of("reranker_padding_tokens_total")
    return {
        "computed_tokens": tokens,
        "padding_share": padding / (tokens + padding) if tokens else None,
        "batch_tokens": change.mean("reranker_batch_tokens"),
        "batch_pairs": change.mean("reranker_batch_pairs"),
        "stages": change.stages(),
    }


def from_usage(before, after, good):
    """CPU time of a request in the server, and the share of the machine that neither it nor the client took."""
    server, client, everybody, seconds = (b - a for a, b in zip(before, after))
    return {"server_cpu_per_request": server / good, "client_cpu_per_request": client / good,
            "others": max(0.0, everybody - server - client) / seconds / os.cpu_count()}


class Bench:
    """A server, what to send to it, and the rows so far."""

    def __init__(self, args, url, server, requests):
        self.args, self.url, self.server, self.requests = args, url, server, requests
        self.bodies = [json.dumps(request["body"]).encode() for request in requests]
        self.client, self.rows = Client(url, args.path, args.header, args.timeout), []

    def state(self):
        """The server's metrics, and CPU seconds: its own, the client's, everybody's; and the time."""
        cpu = self.server.usage().cpu if self.server else None
        return metrics.scrape(self.url, self.args.header), cpu, time.process_time(), machine_busy(), time.perf_counter()

    def warm_up(self, chosen):
        if self.args.warm_up:
            Phase(self.client, self.bodies, chosen, self.args.seed, self.args.warm_up).closed(1)

    def phase(self, name, chosen, mode, figure):
        """One row."""
        before = self.state()
        phase = Phase(self.client, self.bodies, chosen, self.args.seed, self.args.count, self.args.seconds, self.args.least)
        (phase.closed if mode == "closed" else phase.open)(figure)
        after = self.state()
        row = {"set": name, "mode": mode, "clients" if mode == "closed" else "rate": figure,
               **result_row(phase.answers, self.requests), **from_metrics(metrics.Change(before[0], after[0]))}
        if self.server and row["good"]:
            row |= from_usage(before[1:], after[1:], row["good"])
        row["answers"] = [[a.request, *(round(t, 6) for t in (a.due, a.sent, a.done)), a.outcome] for a in phase.answers]
        self.rows.append(row)
        print(f"{name}, {mode} {figure:.3g}: {row['good']} of {row['sent']} good"
              f"{', p50 %.3f s' % row['p50'] if row['good'] else ''}", flush=True)
        return row

    def drive(self, name, chosen):
        """All loops with one set; the utilisation is of the best that the closed ones reached."""
        self.warm_up(chosen)
        best = max([self.phase(name, chosen, "closed", clients).get("requests_per_s", 0.0)
                    for clients in self.args.concurrency], default=0.0)
        for rate in [*self.args.rate, *(share * best for share in self.args.utilisation if best)]:
            self.phase(name, chosen, "open", rate)


# --- The report -------------------------------------------------------------------------------


def number(value, form):
    return format(value, form) if value is not None else ""


def table(result):
    lines = ["| requests | load | good | errors | p50 s | p95 s | p99 s | requests/s | tokens/s | GFLOP/s | of the peak "
             "| padding | tokens/batch | pairs/batch | CPU s/request |", "|" + "---|" * 15]
    for row in result["rows"]:
        load = f"{row['clients']} at once" if row["mode"] == "closed" else f"{row['rate']:.3g}/s arrive"
        errors = ", ".join(f"{count} x {name}" for name, count in row["errors"].items())
        cells = [row["set"], load, str(row["good"]), errors]
        cells += [number(row.get(key), form) for key, form in [
            ("p50", ".3f"), ("p95", ".3f"), ("p99", ".3f"), ("requests_per_s", ".3g"), ("tokens_per_s", ".0f"),
            ("gflop_per_s", ".1f"), ("share_of_peak", ".0%"), ("padding_share", ".1%"), ("batch_tokens", ".0f"),
            ("batch_pairs", ".1f"), ("server_cpu_per_request", ".3f")]]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def report(result):
    m = result["model"]
    lines = [f"# Load, {result['dtype']}", "",
             "Written by `benches/load/load.py`.", "",
             *headlines(result),
             f"- model: {m['layers']} x {m['hidden']}, feed-forward {m['ffn']}, vocabulary {m['vocabulary']:,}",
             f"- {result['how_long']} each, after {result['warm_up']} of each set to warm up; arrivals are Poisson's, and time "
             "counts from when a request was due"]
    for name, s in result["sets"].items():
        lines.append(f"- {name}: {s['requests']} requests, mean {s['documents']:.0f} documents, {s['tokens']:.0f} tokens, "
                     f"{s['padded_tokens']:.0f} if padded to the longest")
    if result["peak"]:
        rates = ", ".join(f"{p[result['dtype']]['gflop_per_s']:.0f}" for p in result["peaks"])
        lines.append(f"- peak: {rates} GFLOP/s in {result['dtype']} before and after (`reranker peak`)")
    return "\n".join([*lines, "", *table(result), "", *remarks(result["rows"])]) + "\n"


def remarks(rows):
    """What a reader must know to trust the table."""
    lines = ["Of fewer than 100 requests p99 is the slowest, of fewer than 20 p95 too."]
    late = max((row["sent_late_p99"] for row in rows if row["good"]), default=0.0)
    lines.append(f"The client sent 99% of the requests within {late * 1e3:.1f} ms of when they were due, in every loop.")
    others = [row["others"] for row in rows if "others" in row]
    if others:
        lines.append(f"Other processes took {statistics.median(others):.1%} of the machine during the median loop, "
                     f"{max(others):.1%} at worst.")
    return lines


def set_facts(requests, sets):
    return {name: {"requests": len(chosen), **{key: sum(requests[i][key] for i in chosen) / len(chosen)
                                               for key in ("documents", "tokens", "padded_tokens")}}
            for name, chosen in sets.items()}


# --- The run ----------------------------------------------------------------------------------


def header(text):
    name, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError("a header is NAME: VALUE")
    return name.strip(), value.strip()


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     epilog="What follows -- goes to the server that this starts.")
    parser.add_argument("model", type=Path, metavar="MODEL_DIR", help="e.g. from benches/peers/make_checkpoint.py")
    parser.add_argument("--url", help="of a server that runs already; else one is started")
    parser.add_argument("--path", default="/rerank")
    parser.add_argument("--header", type=header, action="append", default=[], metavar="'NAME: VALUE'")
    parser.add_argument("--binary", type=Path,
                        help="default: target/release/reranker; with --url only for the peak, of the same machine")
    parser.add_argument("--dtype", default="f32", help="of the server that this starts")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the server that this starts, and of the peak")
    parser.add_argument("--requests", type=Path, default=REQUESTS, help="e.g. from benches/peers/make_requests.py")
    parser.add_argument("--sets", nargs="+", metavar="NAME", help="of the file; all if absent, one after the other")
    parser.add_argument("--mixed", action="store_true", help="the sets together instead of one after the other")
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 4], metavar="N", help="closed loops")
    parser.add_argument("--rate", type=float, nargs="*", default=[], metavar="R", help="open loops, arrivals per second")
    parser.add_argument("--utilisation", type=float, nargs="*", default=[0.7], metavar="SHARE",
                        help="open loops, as a share of the best closed loop's requests per second")
    parser.add_argument("--seconds", type=float, default=30, help="of sending, each loop")
    parser.add_argument("--least", type=int, default=3, metavar="N", help="requests of each loop, however long they take")
    parser.add_argument("--count", type=int, help="requests of each loop, instead of --seconds and --least")
    parser.add_argument("--warm-up", type=int, default=2, metavar="N", help="requests of each set, before its loops")
    parser.add_argument("--timeout", type=float, default=900, help="seconds that the client waits for an answer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks", help="directory of the results")
    parser.add_argument("--name", help="the results are <name>.json and .md; default: load-<dtype>")
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args = parser.parse_args(sys.argv[1:split])
    args.options = sys.argv[split + 1:]
    args.header = dict(args.header)
    if not args.url:
        args.binary = (args.binary or ROOT / "target/release/reranker").resolve()
    if args.url and args.options:
        parser.error("options for a server need one that this starts")
    return args


def chosen_sets(args, requests):
    sets = by_set(requests)
    unknown = set(args.sets or []) - set(sets)
    if unknown:
        raise SystemExit(f"{args.requests.name} has the sets {', '.join(sets)}")
    sets = {name: sets[name] for name in args.sets or sets}
    return {"mixed": sum(sets.values(), [])} if args.mixed else sets


def drive(args, requests, sets, logs):
    """The rows, the machine's peak before and after, and what the server says it computes in."""
    server = None if args.url else Server.ours(args.binary, args.model, args.threads, args.dtype, args.options)
    peaks = peak(args)
    try:
        if server:
            with (Path(logs) / "server.log").open("w") as log:
                server.start(log)
        bench = Bench(args, server.url if server else args.url.rstrip("/"), server, requests)
        said = metrics.dtype(metrics.scrape(bench.url, args.header))
        for name, chosen in sets.items():
            bench.drive(name, chosen)
        memory = server.peak_memory() if server else None
    finally:
        if server:
            server.stop()
    return bench.rows, peaks + peak(args), said, memory


def peak(args):
    return [instruction_peak(args.binary, args.threads)] if args.binary else []


def main():
    for number in (signal.SIGTERM, signal.SIGINT):  # in the background a shell has SIGINT ignored
        signal.signal(number, lambda *_: sys.exit("stopped"))
    args = arguments()
    requests = read_requests(args.requests, args.model)
    sets = chosen_sets(args, requests)
    source = provenance(args.binary) if not args.url else {}
    if source.get("binary_older_than_sources"):
        print(f"warning: {args.binary.name} is older than the sources; cargo build --release", file=sys.stderr)
    with tempfile.TemporaryDirectory() as logs:
        rows, peaks, said, memory = drive(args, requests, sets, logs)
    dtype = said or args.dtype
    if not args.url and dtype != args.dtype:
        print(f"warning: the server says that it computes in {said}", file=sys.stderr)
    most = peak_of(peaks, dtype)
    for row in rows:
        row["share_of_peak"] = row["gflop_per_s"] / most if most and row["good"] else None
    now = datetime.now(timezone.utc)
    result = {
        "date": now.strftime("%Y-%m-%d"), "time": now.isoformat(timespec="seconds"),
        "command": ["load.py", *sys.argv[1:]], **source, "machine": machine(), "threads": args.threads,
        "model": model_facts(args.model), "dtype": dtype, "peak": most, "peaks": peaks, "peak_memory": memory,
        "how_long": f"{args.count} requests" if args.count else f"{args.seconds:g} s and at least {args.least} requests",
        "warm_up": args.warm_up,
        "sets": set_facts(requests, sets), "rows": rows,
    }
    save(args.out, args.name or f"load-{dtype}", result, report(result))


if __name__ == "__main__":
    main()
