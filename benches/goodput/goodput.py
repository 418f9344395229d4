"""Answers within the deadline under any load: python goodput.py [--model demo] [--deadline 10] [--loads 0.5 1 2 5 10 50]

Measures how many requests a second the server does with a closed loop, then offers multiples of that
for as long as the deadline, at random times, each request on a connection of its own. Beside them one
client sends small requests one after the other. Counts what is answered within the deadline, what is
refused and how soon, and what gets an error late. What the machine can do under such a load is less
than in the closed loop, because this program and the refusals take a part of it: so it also says how much
of the time the model was busy, and how much of what it computed was for answers that came in time. Writes
JSON, a page, and a plot as SVG.

Needs Python 3.11 and a built server; nothing from PyPI. The server and this program share the machine.
"""
import argparse
import asyncio
import json
import os
import random
import re
import statistics
import sys
import time
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import metrics
from common.machine import ROOT, headlines, machine, provenance, write
from common.processes import free_port

WORDS = ("serveur web fichiers compress image réseau python library jeu editor moteur pompe filtre vanne "
         "capteur pression rapport erreur mesure débit").split()
TOKENS = re.compile(rb'"total_tokens":(\d+)')
DOCUMENTS = 40
WORDS_EACH = 45


def body(rng, documents):
    texts = [" ".join(rng.choices(WORDS, k=WORDS_EACH)) for _ in range(documents)]
    return json.dumps({"query": " ".join(rng.choices(WORDS, k=6)), "documents": texts}).encode()


async def post(port, content, patience):
    """Status, seconds and tokens; status 0 if there was no answer."""
    started = time.perf_counter()
    try:
        async with asyncio.timeout(patience):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
                         b"Content-Length: %d\r\n\r\n" % len(content) + content)
            answer = await reader.read()
            writer.close()
        status = int(answer.split(b" ", 2)[1])
        tokens = int(TOKENS.search(answer)[1]) if status == 200 else 0
    except (OSError, IndexError, ValueError):
        status, tokens = 0, 0
    return status, time.perf_counter() - started, tokens


async def capacity(port, rng, seconds):
    """Requests a second of eight clients that each send their next request when they have an answer."""
    done = 0
    end = time.perf_counter() + seconds

    async def client(bodies):
        nonlocal done
        for content in bodies:
            if time.perf_counter() >= end:
                return
            status, *_ = await post(port, content, 600)
            done += status == 200

    started = time.perf_counter()
    await asyncio.gather(*(client([body(rng, DOCUMENTS) for _ in range(400)]) for _ in range(8)))
    return done / (time.perf_counter() - started)


async def small_ones(port, rng, until):
    """What became of small requests, one after the other."""
    answers = []
    while time.perf_counter() < until:
        answers.append(await post(port, body(rng, 2), 60))
        await asyncio.sleep(0.05)
    return answers


async def offer(port, rng, rate, deadline):
    """One load: what became of each request and of the small ones beside them, in how many seconds, and what the
    server counted meanwhile."""
    bodies = [body(rng, DOCUMENTS) for _ in range(200)]
    before = metrics.scrape(f"http://127.0.0.1:{port}")
    started = time.perf_counter()
    small = asyncio.create_task(small_ones(port, rng, started + deadline))
    sent, at = [], 0.0
    while (at := at + rng.expovariate(rate)) < deadline:
        await asyncio.sleep(max(0.0, started + at - time.perf_counter()))
        sent.append(asyncio.create_task(post(port, rng.choice(bodies), 3 * deadline)))
    answers, small = await asyncio.gather(*sent), await small
    took = time.perf_counter() - started
    return answers, small, took, metrics.Change(before, metrics.scrape(f"http://127.0.0.1:{port}"))


def row(load, rate, deadline, answers, small, took, meanwhile):
    in_time = [tokens for status, seconds, tokens in answers if status == 200 and seconds <= deadline]
    good = len(in_time)
    refused = sorted(seconds for status, seconds, _ in answers if status in (429, 503))
    times = [seconds for status, seconds, _ in small if status == 200]
    useful = sum(in_time) + sum(tokens for *_, tokens in small)
    return {
        "busy": meanwhile.of("reranker_batch_seconds_sum") / took,
        "useful": useful / meanwhile.of("reranker_tokens_total"),
        "load": load, "offered_per_s": rate, "sent": len(answers), "good": good, "good_per_s": good / took,
        "statuses": dict(sorted(Counter(status for status, *_ in answers).items())),
        "seconds": took, "refused_after_p50": statistics.median(refused) if refused else None,
        "refused_after_p99": refused[int(0.99 * len(refused))] if refused else None,
        "small": {"answered": len(times), "failed": len(small) - len(times),
                  "p50": statistics.median(times) if times else None, "most": max(times, default=None)},
    }


async def measure(args, port):
    rng = random.Random(args.seed)
    await post(port, body(rng, DOCUMENTS), 600)
    best = await capacity(port, rng, args.deadline)
    rows = []
    for load in args.loads:
        offered = await offer(port, rng, load * best, args.deadline)
        rows.append(row(load, load * best, args.deadline, *offered))
        print(json.dumps(rows[-1]), file=sys.stderr)
        await asyncio.sleep(args.deadline / 2)
    return best, rows


def number(value, scale=1.0):
    return "" if value is None else f"{value * scale:.0f}"


def page(result):
    lines = [f"# Goodput with a deadline of {result['deadline']:g} s", "", *headlines(result),
             f"- model `{result['model']}`, requests of {DOCUMENTS} documents; the server does "
             f"{result['capacity_per_s']:.1f} of them a second in a closed loop", "",
             f"![answers against load]({result['name']}.svg)", "",
             "| load / capacity | sent | answered in time / what a closed loop does | model busy | of that for answers in time "
             "| 200 | 429 | 504 | other | refused after, ms (p50, p99) | small requests: p50, most, ms |",
             "|---|---|---|---|---|---|---|---|---|---|---|"]
    for r in result["rows"]:
        statuses = {int(status): count for status, count in r["statuses"].items()}
        known = [statuses.pop(status, 0) for status in (200, 429, 504)]
        lines.append(f"| {r['load']:g} | {r['sent']} | {r['good_per_s'] / result['capacity_per_s']:.2f} | "
                     f"{r['busy']:.2f} | {r['useful']:.2f} | "
                     + " | ".join(map(str, [*known, sum(statuses.values())]))
                     + f" | {number(r['refused_after_p50'], 1e3)}, {number(r['refused_after_p99'], 1e3)}"
                     f" | {number(r['small']['p50'], 1e3)}, {number(r['small']['most'], 1e3)} |")
    return "\n".join(lines) + "\n"


def svg(result):
    """Answers a second against load, both as multiples of the capacity; the load on a logarithmic scale."""
    from math import log10
    width, height, left, bottom = 640, 320, 60, 50
    low, high = log10(0.4), log10(max(r["load"] for r in result["rows"]) * 1.2)

    def x(load):
        return left + (log10(load) - low) / (high - low) * (width - left - 20)

    def y(share):
        return height - bottom - share / 1.2 * (height - bottom - 20)

    points = " ".join(f"{x(r['load']):.1f},{y(r['good_per_s'] / result['capacity_per_s']):.1f}" for r in result["rows"])
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
             f'<rect width="{width}" height="{height}" fill="white"/>']
    for share in (0, 0.5, 1):
        parts += [f'<line x1="{left}" x2="{width - 20}" y1="{y(share)}" y2="{y(share)}" stroke="#ddd"/>',
                  f'<text x="{left - 8}" y="{y(share) + 4}" text-anchor="end">{share:g}</text>']
    for r in result["rows"]:
        parts.append(f'<text x="{x(r["load"])}" y="{height - bottom + 18}" text-anchor="middle">{r["load"]:g}</text>')
    parts += [f'<polyline points="{points}" fill="none" stroke="#2a6fbb" stroke-width="2"/>',
              *(f'<circle cx="{p.split(",")[0]}" cy="{p.split(",")[1]}" r="3" fill="#2a6fbb"/>' for p in points.split()),
              f'<text x="{width / 2}" y="{height - 10}" text-anchor="middle">load offered / capacity</text>',
              f'<text x="14" y="{height / 2}" transform="rotate(-90 14 {height / 2})" text-anchor="middle">'
              "answered in time / capacity</text>", "</svg>"]
    return "\n".join(parts) + "\n"


async def with_server(args):
    port = free_port()
    environment = {**os.environ, "RERANKER_MODEL": args.model, "RERANKER_HOST": "127.0.0.1", "RERANKER_PORT": str(port),
                   "RERANKER_DEADLINE_MS": str(int(args.deadline * 1000)), "LOG_LEVEL": "error",
                   "RERANKER_CACHE_MB": "0"}
    process = await asyncio.create_subprocess_exec(str(args.binary), "serve", env=environment)
    try:
        for _ in range(6000):
            reader_writer = asyncio.open_connection("127.0.0.1", port)
            try:
                reader, writer = await reader_writer
                writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                if b" 200 " in (await reader.read())[:20]:
                    return await measure(args, port)
            except OSError:
                pass
            await asyncio.sleep(0.1)
        sys.exit("the server did not get ready")
    finally:
        process.terminate()
        await process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--binary", type=Path, default=ROOT / "target/release/reranker")
    parser.add_argument("--deadline", type=float, default=10.0, metavar="SECONDS")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.5, 0.9, 1, 1.5, 2, 5, 10, 50])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks")
    parser.add_argument("--name", default="goodput")
    args = parser.parse_args()
    args.binary = args.binary.resolve()
    best, rows = asyncio.run(with_server(args))
    now = datetime.now(timezone.utc)
    result = {"date": now.strftime("%Y-%m-%d"), "name": args.name, "command": ["goodput.py", *sys.argv[1:]],
              **provenance(args.binary), "machine": machine(), "threads": os.cpu_count(), "model": args.model,
              "deadline": args.deadline, "capacity_per_s": best, "rows": rows}
    (args.out / f"{args.name}.svg").write_text(svg(result), "utf-8")
    write(args.out, args.name, result, page(result))
    print(page(result))


if __name__ == "__main__":
    main()
