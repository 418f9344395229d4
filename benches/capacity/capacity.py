"""How many requests a second a T4, eight CPU cores and several of them do, with a bound on the waiting: python capacity.py

Simulates the program's queue (`queue_rule.py` repeats the rule of src/queue.rs) behind a balancer that gives a
request to the server with the fewest in progress. How long a batch takes comes from the pages of docs/benchmarks. First it
simulates what goodput.py measured, and says how far it is from that. Writes docs/benchmarks/capacity.*

Needs Python 3.11, nothing from PyPI. Takes some minutes on one core; nothing is measured, so the machine may be busy.
"""
import argparse
import json
import math
import random
import shlex
import sys
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

HERE = Path(__file__).resolve().parent
for folder in (HERE.parent, HERE):
    sys.path.insert(0, str(folder))

import figures
import workload
from common.machine import ROOT, git, write
from common.metrics import percentile
from fleet import Clock, Fleet
from page import page
from queue_rule import Limits
from validation import validate

DOCUMENT_TOKENS = 110  # a passage of RAGFab joined to its question
CACHED_SECONDS = 0.002  # a request whose scores are all known: what is not the model's (docs/benchmarks/overhead.md)
REFUSED_AT_MOST = 0.01
VALID_UP_TO, OFF_AT_MOST = 5, 0.1  # times the capacity, and what the share answered in time may differ by
CPU_CORES, MEASURED_CORES = 8, 2
CPU_BATCH, CPU_TURN = 1536, 512
BATCH_CANDIDATES = (512, 1024, 2048, 4096)  # of src/model/gpu/calibration.rs, as far as a T4 gets
GOOD_ENOUGH = 0.97
RATES = (10, 100, 1000)
MOST_SERVERS = 500  # more of them are not simulated
CYCLE = workload.CALM_SECONDS + workload.BURST_SECONDS


@dataclass(frozen=True)
class Server:
    """One process: how long batches take, their sizes, and the bound and the deadline that suit it."""
    name: str
    points: tuple  # (tokens, seconds), a straight line between them and beyond the last
    limits: Limits
    p95_at_most: float
    deadline: float

    def seconds(self, tokens):
        return interpolate(self.points, tokens)


@dataclass
class Load:
    """What is asked, and how."""
    documents: int
    arrivals: str = "Poisson"
    repeats: float = 0.0


def interpolate(points, tokens):
    below = max((p for p in points if p[0] <= tokens), default=points[0])
    above = next((p for p in points if p[0] > below[0]), None)
    if above is None:
        below, above = points[-2], points[-1]
    return below[1] + (tokens - below[0]) * (above[1] - below[1]) / (above[0] - below[0])


def calibrated(points):
    """The size of batches that the program chooses at its start, by its rule, if batches take so long."""
    curve = [(tokens, interpolate(points, tokens)) for tokens in BATCH_CANDIDATES]
    longest = 2 * interpolate(points, 2048)
    allowed = [(tokens, seconds) for tokens, seconds in curve if seconds <= longest]
    best = max(tokens / seconds for tokens, seconds in allowed)
    return next(tokens for tokens, seconds in allowed if tokens / seconds >= GOOD_ENOUGH * best)


def servers(folder):
    t4 = tuple(figures.t4_points(folder))
    batch = calibrated(t4)
    found = [Server("T4, f16", t4, Limits(batch, batch), 0.5, 2.0)]
    for dtype, p95_at_most in (("int8", 2.0), ("f32", 6.0)):
        rate = figures.cpu_tokens_per_second(folder, dtype) * CPU_CORES / MEASURED_CORES
        points = ((0, 0.0), (CPU_BATCH, CPU_BATCH / rate))
        found.append(Server(f"8 cores, {dtype}", points, Limits(CPU_BATCH, CPU_TURN), p95_at_most, 4 * p95_at_most))
    return found


def simulate(server, replicas, load, rate, seconds, seed=0):
    """What became of the requests of so many seconds."""
    rng, clock = random.Random(seed), Clock()
    fleet = Fleet(clock, replicas, server.seconds, server.limits, seed)
    lengths = workload.lengths(DOCUMENT_TOKENS)
    times, refused = [], 0

    def arrive(at):
        if rng.random() < load.repeats:
            return answer(CACHED_SECONDS, 200)
        pairs = rng.choices(lengths, k=load.documents)
        fleet.submit(pairs, server.deadline, lambda status: answer(clock.now - at, status))

    def answer(took, status):
        nonlocal refused
        if status == 200:
            times.append(took)
        else:
            refused += 1

    for at in workload.ARRIVALS[load.arrivals](rng, rate, seconds):
        clock.at(at, arrive, at)
    clock.run()
    total = len(times) + refused
    return {"rate": rate, "replicas": replicas, **asdict(load), "requests": total,
            "p50": percentile(times, 0.50), "p95": percentile(times, 0.95), "p99": percentile(times, 0.99),
            "refused": refused / total, "utilisation": fleet.busy_seconds() / replicas / max(clock.now, seconds)}


def is_good(server, result):
    return result["p95"] <= server.p95_at_most and result["refused"] <= REFUSED_AT_MOST


def rate_alone(server, load):
    """Requests a second that one server could compute if they never waited for each other."""
    tokens = DOCUMENT_TOKENS * load.documents
    batch = server.limits.batch_tokens
    return 1 / (server.seconds(batch) * tokens / batch) / (1 - load.repeats)


def length_of(rate, requests):
    """Seconds in which so many requests come: whole cycles of calm and burst, and two at least."""
    return CYCLE * max(2, math.ceil(requests / rate / CYCLE))


def largest_rate(server, replicas, load, requests):
    """The largest rate at which the answers are good, to 2 %; none if there is none."""
    low, high, best = 0.0, 1.3 * replicas * rate_alone(server, load), None
    while high - low > 0.02 * high:
        rate = (low + high) / 2
        if rate < 0.02 * replicas * rate_alone(server, load):
            return None
        result = simulate(server, replicas, load, rate, length_of(rate, requests))
        if is_good(server, result):
            low, best = rate, result
        else:
            high = rate
    return best


def fewest_replicas(server, load, rate, requests):
    """The smallest fleet whose answers are good at this rate; none if even twice what is needed without waiting is too
    little."""
    least = max(1, math.ceil(rate / rate_alone(server, load)))
    low, high = least - 1, 2 * least + 2
    seconds = length_of(rate, requests)
    best = simulate(server, high, load, rate, seconds)
    if not is_good(server, best):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        result = simulate(server, middle, load, rate, seconds)
        if is_good(server, result):
            high, best = middle, result
        else:
            low = middle
    return best


def study(server, args):
    """All tables of one server."""
    loads = [Load(documents, arrivals, repeats)
             for documents in (20, 50) for arrivals in workload.ARRIVALS for repeats in (0.0, 0.3)]
    usual = Load(20)
    curve = [simulate(server, 1, usual, share * rate_alone(server, usual), length_of(rate_alone(server, usual), args.requests))
             for share in (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)]
    note("curve", server)
    largest = [(load, largest_rate(server, 1, load, args.requests)) for load in loads]
    note("largest rates", server)
    scaled = [(replicas, load, largest_rate(server, replicas, load, args.requests))
              for replicas in (1, 2, 4, 8) for load in (usual, Load(20, "bursts"))]
    note("replicas", server)
    fleets = [(rate, load, fewest_replicas(server, load, rate, args.requests))
              for rate in RATES if rate <= MOST_SERVERS * rate_alone(server, usual)
              for load in loads if load.documents == 20]
    note("fleets", server)
    return {"server": server, "curve": curve, "largest": largest, "scaled": scaled, "fleets": fleets}


def note(what, server):
    print(f"{server.name}: {what}", file=sys.stderr)


def plain(value):
    """What JSON cannot write, as what it can."""
    return asdict(value) if hasattr(value, "__dataclass_fields__") else str(value)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=6_000, metavar="N", help="simulated at least for each figure")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks")
    args = parser.parse_args()
    folder = ROOT / "docs/benchmarks"
    commit = git("rev-parse", "HEAD")
    checked = validate(folder)
    off = max(abs(row["good"] - row["measured_good"]) for row in checked if float(row["load"]) <= VALID_UP_TO)
    if off > OFF_AT_MOST:
        raise SystemExit(f"the simulation is {off:.2f} off the measurement in goodput.md, more than {OFF_AT_MOST}")
    studies = [study(server, args) for server in servers(folder)]
    result = {"date": datetime.now(timezone.utc).strftime("%Y-%m-%d"), "commit": commit,
              "command": shlex.join(["capacity.py", *sys.argv[1:]]), "document_tokens": DOCUMENT_TOKENS,
              "validation": checked, "studies": studies}
    text = page(result)
    write(args.out, "capacity", json.loads(json.dumps(result, default=plain)), text)
    print(text)


if __name__ == "__main__":
    main()
