"""What a server costs besides the model: requests of 20 documents to a model of one tiny layer.

    python ../peers/make_checkpoint.py /tmp/one-layer --layers 1 --hidden 32 --heads 2 --ffn 64 --vocabulary 16000
    cargo build --release
    python overhead.py /tmp/one-layer --ours ../../target/release/reranker [--tei PATH/text-embeddings-router]

Each server runs on one core (the client has another), one request at a time over one connection that stays open, so a
time is the whole of parsing, telling formats apart, tokenising, queueing, computing and answering, and the loopback.
With --tei the two take turns. Needs Python 3.9 and Linux's taskset; nothing from PyPI. Writes JSON and Markdown.
"""
import argparse
import http.client
import json
import os
import platform
import socket
import statistics
import subprocess
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
REQUESTS = HERE.parent / "peers/requests_20.json"
EDGES = [0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 2.5, 3, 4, 6, 8, 12, 16, 32]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A process on one core, ready to answer."""

    def __init__(self, name, command, core, environment):
        self.name, self.port = name, free_port()
        command = ["taskset", "-c", str(core)] + [part.replace("PORT", str(self.port)) for part in command]
        self.process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
                    if answer.status == 200:
                        break
            except OSError:
                time.sleep(0.1)
        else:
            raise SystemExit(f"{name} did not become ready: {' '.join(command)}")
        self.connection = None

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
            raise SystemExit(f"{self.name} answered {answer.status}: {content[:300]!r}")
        return took

    def cpu_ms(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) * 1e3 / os.sysconf("SC_CLK_TCK")

    def stages(self):
        """Mean milliseconds of each stage, from our own metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:
            samples = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line[0] != "#")
        mean = {}
        for stage in ("parse", "tokenize", "queue", "compute"):
            label = f'{{stage="{stage}"}}'
            count = float(samples[f"reranker_stage_seconds_count{label}"])
            mean[stage] = float(samples[f"reranker_stage_seconds_sum{label}"]) / count * 1e3
        total = sum(float(v) for k, v in samples.items() if k.startswith("reranker_request_seconds_sum"))
        count = sum(float(v) for k, v in samples.items() if k.startswith("reranker_request_seconds_count"))
        mean["total"] = total / count * 1e3
        return mean


def bodies(words):
    """The requests, as TEI takes them, which both do; documents cut to so many words."""
    for request in json.loads(REQUESTS.read_text())["requests"]:
        body = request["body"]
        texts = [" ".join(document["content"].split()[:words]) for document in body["documents"]]
        yield json.dumps({"query": body["query"], "texts": texts}).encode()


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))]


def histogram(values):
    edges = [0] + EDGES + [float("inf")]
    return [(low, high, sum(low <= v < high for v in values)) for low, high in zip(edges, edges[1:])]


def measure(servers, payloads, rounds, requests):
    every, cpu = {s.name: [] for s in servers}, {s.name: 0.0 for s in servers}
    for server in servers:
        server.connect()
        for body in payloads * 30:
            server.time(body)
    for _ in range(rounds):
        for server in servers:
            server.connect()
            before = server.cpu_ms()
            every[server.name] += [server.time(payloads[n % len(payloads)]) for n in range(requests)]
            cpu[server.name] += server.cpu_ms() - before
    return every, cpu


def markdown(report):
    cut = f" of {report['words']} words" if report["words"] else ""
    lines = ["# Server overhead", "",
             f"{report['requests']} requests of 20 documents each{cut}, one layer of hidden size 32, one core ({report['cpu']}).", "",
             "| | p50 ms | p90 ms | p99 ms | mean ms | CPU ms per request |", "|---|---|---|---|---|---|"]
    for name, row in report["servers"].items():
        lines.append(f"| {name} | {row['p50']:.2f} | {row['p90']:.2f} | {row['p99']:.2f} | {row['mean']:.2f} | {row['cpu']:.2f} |")
    if "ratio" in report:
        lines += ["", f"Ours / TEI: {report['ratio']['p50']:.2f} at the median, {report['ratio']['cpu']:.2f} in CPU time."]
    lines += ["", "Where ours goes, mean ms inside the server: " +
              ", ".join(f"{stage} {ms:.2f}" for stage, ms in report["stages"].items()) + ".", "", "```"]
    for name, row in report["servers"].items():
        most = max(count for _, _, count in row["histogram"])
        lines.append(name)
        lines += [f"  {low:>5} - {high:<5} ms {count:>6} {'#' * round(50 * count / most)}"
                  for low, high, count in row["histogram"] if count]
    return "\n".join(lines + ["```", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--ours", required=True)
    parser.add_argument("--tei")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=300, help="per round and server")
    parser.add_argument("--words", type=int, help="cut documents to so many words; all of them if absent")
    parser.add_argument("--output", type=Path, default=Path("overhead"))
    a = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("this needs two cores: one for the server, one for the client")
    os.sched_setaffinity(0, {cores[1]})
    one = {"RAYON_NUM_THREADS": "1", "TOKIO_WORKER_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    quiet = {"LOG_LEVEL": "warning", **one}
    servers = [Server("ours", [a.ours, "serve", "--model", a.checkpoint, "--host", "127.0.0.1", "--port", "PORT"],
                      cores[0], quiet)]
    if a.tei:
        servers.append(Server("TEI", [a.tei, "--model-id", a.checkpoint, "--hostname", "127.0.0.1", "--port", "PORT",
                                      "--dtype", "float32", "--tokenization-workers", "1"], cores[0],
                              {"LOG_LEVEL": "warn", **one}))
    try:
        every, cpu = measure(servers, list(bodies(a.words)), a.rounds, a.requests)
        stages = servers[0].stages()
    finally:
        for server in servers:
            server.process.kill()
    report = {"machine": platform.machine(), "cpu": cpu_name(), "requests": a.rounds * a.requests,
              "words": a.words, "stages": stages,
              "servers": {name: {"p50": percentile(v, 0.5), "p90": percentile(v, 0.9), "p99": percentile(v, 0.99),
                                 "mean": statistics.fmean(v), "cpu": cpu[name] / len(v), "histogram": histogram(v)}
                          for name, v in every.items()}}
    if a.tei:
        ours, tei = report["servers"]["ours"], report["servers"]["TEI"]
        report["ratio"] = {"p50": ours["p50"] / tei["p50"], "cpu": ours["cpu"] / tei["cpu"]}
    a.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    a.output.with_suffix(".md").write_text(markdown(report))
    print(markdown(report))


def cpu_name():
    names = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
