"""What a server costs besides the model: requests of 20 documents to a model of one tiny layer.

    python ../peers/make_checkpoint.py /tmp/one-layer --layers 1 --hidden 32 --heads 2 --ffn 64 --vocabulary 16000
    cargo build --release
    python overhead.py /tmp/one-layer [--tei PATH/text-embeddings-router]

Each server runs on one core (the client has another), one request at a time over one connection that stays open, so a
time is the whole of parsing, telling formats apart, tokenising, queueing, computing and answering, and the loopback.
With --tei the two take turns. Needs Python 3.9 and Linux's taskset; nothing from PyPI. Writes docs/benchmarks/overhead.*
"""
import argparse
import http.client
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from common import metrics
from common.machine import ROOT, headlines, machine, provenance, save
from common.processes import Server, free_port

REQUESTS = HERE.parent / "peers/requests_20.json"
EDGES = [0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 2.5, 3, 4, 6, 8, 12, 16, 32]


class Pinned(Server):
    """A server on one core, and a connection to it that stays open."""
    connection = None

    def connect(self):
        """Anew for each turn: servers close connections on which nothing has come for a while."""
        if self.connection:
            self.connection.close()
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port)
        self.connection.connect()
        self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def time(self, body):
        """Milliseconds from the first byte out to the last byte in."""
        started = time.perf_counter()
        self.connection.request("POST", "/rerank", body, {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        content = answer.read()
        took = (time.perf_counter() - started) * 1e3
        if answer.status != 200:
            raise SystemExit(f"{self.key} answered {answer.status}: {content[:300]!r}")
        return took

    def cpu_ms(self):
        return self.usage().cpu * 1e3

    def stages(self, before):
        """Mean milliseconds of each stage since that scrape, from our own metrics."""
        since = metrics.Change(before, metrics.scrape(self.url))
        mean = {stage: seconds * 1e3 for stage, seconds in since.stages().items()}
        mean["total"] = (since.of_all("reranker_request_seconds_sum")
                         / since.of_all("reranker_request_seconds_count") * 1e3)
        return mean


def pinned(key, command, environment):
    port = free_port()
    return Pinned(key, [*command, "--port", str(port)], port, environment)


def bodies(words):
    """The requests, as TEI takes them, which both do; documents cut to so many words, or whole if that is 0."""
    for request in json.loads(REQUESTS.read_text())["requests"]:
        body = request["body"]
        texts = [" ".join(document["content"].split()[:words or None]) for document in body["documents"]]
        yield json.dumps({"query": body["query"], "texts": texts}).encode()


def histogram(values):
    edges = [0] + EDGES + [float("inf")]
    return [(low, high, sum(low <= v < high for v in values)) for low, high in zip(edges, edges[1:])]


def measure(servers, payloads, rounds, requests):
    every, cpu = {s.key: [] for s in servers}, {s.key: 0.0 for s in servers}
    for server in servers:
        server.connect()
        for body in payloads * 30:
            server.time(body)
    for _ in range(rounds):
        for server in servers:
            server.connect()
            before = server.cpu_ms()
            every[server.key] += [server.time(payloads[n % len(payloads)]) for n in range(requests)]
            cpu[server.key] += server.cpu_ms() - before
    return every, cpu


def markdown(result):
    lines = ["# Server overhead", "",
             "Written by `benches/overhead/overhead.py`: requests of 20 documents, one at a time, to a model of one layer of "
             "hidden size 32, on one core.", "", *headlines(result)]
    for part in result["parts"]:
        lines += ["", f"## Documents of {part['words']} words" if part["words"] else "## Whole documents", "", *section(part)]
    return "\n".join(lines) + "\n"


def section(part):
    lines = [f"{part['requests']} requests.", "",
             "| | p50 ms | p90 ms | p99 ms | mean ms | CPU ms per request |", "|---|---|---|---|---|---|"]
    for name, row in part["servers"].items():
        lines.append(f"| {name} | {row['p50']:.2f} | {row['p90']:.2f} | {row['p99']:.2f} | {row['mean']:.2f} | {row['cpu']:.2f} |")
    if "ratio" in part:
        lines += ["", f"Ours / TEI: {part['ratio']['p50']:.2f} at the median, {part['ratio']['cpu']:.2f} in CPU time."]
    lines += ["", "Where ours goes, mean ms inside the server: " +
              ", ".join(f"{stage} {ms:.2f}" for stage, ms in part["stages"].items()) + ".", "", "```"]
    for name, row in part["servers"].items():
        most = max(count for _, _, count in row["histogram"])
        lines.append(name)
        lines += [f"  {low:>5} - {high:<5} ms {count:>6} {'#' * round(50 * count / most)}".rstrip()
                  for low, high, count in row["histogram"] if count]
    return [*lines, "```"]


def part(servers, words, args):
    """What is measured with documents of so many words."""
    before = metrics.scrape(servers[0].url)
    every, cpu = measure(servers, list(bodies(words)), args.rounds, args.requests)
    found = {"words": words, "requests": args.rounds * args.requests, "stages": servers[0].stages(before),
             "servers": {name: {**{f"p{p}": metrics.percentile(v, p / 100) for p in (50, 90, 99)},
                                "mean": statistics.fmean(v), "cpu": cpu[name] / len(v), "histogram": histogram(v)}
                         for name, v in every.items()}}
    if "TEI" in every:
        ours, tei = found["servers"]["ours"], found["servers"]["TEI"]
        found["ratio"] = {"p50": ours["p50"] / tei["p50"], "cpu": ours["cpu"] / tei["cpu"]}
    return found


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/reranker")
    parser.add_argument("--tei", metavar="PROGRAM")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=300, help="per round and server")
    parser.add_argument("--words", type=int, nargs="+", default=[0, 8], metavar="N",
                        help="cut documents to so many words, one after the other; 0: all of them")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks", help="directory of the results")
    parser.add_argument("--name", default="overhead", help="the results are <name>.json and .md")
    args = parser.parse_args()
    args.binary = args.binary.resolve()
    return args


def servers_of(args, core):
    one = {"RAYON_NUM_THREADS": "1", "TOKIO_WORKER_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    pin = ["taskset", "-c", str(core)]
    servers = [pinned("ours", [*pin, str(args.binary), "serve", "--model", args.checkpoint, "--host", "127.0.0.1"],
                      {"LOG_LEVEL": "warning", "RERANKER_CACHE_MB": "0", **one})]
    if args.tei:
        servers.append(pinned("TEI", [*pin, args.tei, "--model-id", args.checkpoint, "--hostname", "127.0.0.1",
                                      "--dtype", "float32", "--tokenization-workers", "1"], {"LOG_LEVEL": "warn", **one}))
    return servers


def main():
    args = arguments()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("this needs two cores: one for the server, one for the client")
    os.sched_setaffinity(0, {cores[1]})
    servers = servers_of(args, cores[0])
    try:
        with tempfile.TemporaryDirectory() as logs:
            for server in servers:
                with (Path(logs) / f"{server.key}.log").open("w") as log:
                    server.start(log)
        parts = [part(servers, words, args) for words in args.words]
    finally:
        for server in servers:
            server.stop()
    result = {"date": datetime.now(timezone.utc).strftime("%Y-%m-%d"), "command": ["overhead.py", *sys.argv[1:]],
              **provenance(args.binary), "machine": machine(), "threads": 1, "parts": parts}
    save(args.out, args.name, result, markdown(result))


if __name__ == "__main__":
    main()
