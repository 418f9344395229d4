"""How fast: this service beside sentence-transformers and transformers, with the same weights, requests and GPU."""
import contextlib
import importlib.util
import json
import statistics
import time

import load
import nvidia
import texts
from agreement import logits
from common import metrics
from golden import difference
from setup import idle_memory
from systems import HERE as PEERS
from systems import python_server
from worker import SCRIPT, Worker

SIZES = (20, 50, 100)
LOADED = 50  # documents of the requests that come all at once
CLIENTS = (16, 64)
BATCHES = (4, 8, 16, 32, 64)  # pairs at once, of which transformers gets the best
WARM_UP = 3
TRIES = 3  # of each of those
TIMEOUT = 600


def bench(setup):
    """Ours is measured under load before and after the peers run, so that a drift of the GPU's speed shows."""
    idle = idle_memory(setup)
    loaded = setup.draw(LOADED, setup.amounts.distinct, 10)
    sets = {size: setup.draw(size, setup.amounts.runs + WARM_UP, 11) for size in SIZES}
    with setup.running(setup.ours(setup.model, setup.precision)) as ours:
        memory = {"after_load": gpu_memory(setup, ours, idle)}
        for requests in sets.values():
            warm_up(http_caller(ours), requests)
        loops = [loop(setup, ours, loaded, clients, 1) for clients in CLIENTS]
        clocks = nvidia.state(setup.gpu) if setup.gpu else None
        peers = with_or_without_peers(setup, ours, sets, loaded)
        loops += [loop(setup, ours, loaded, clients, 2) for clients in CLIENTS]
        memory["at_end"] = gpu_memory(setup, ours, idle)
        counters = {name: value for name, value in metrics.scrape(ours.url).items()
                    if name in ("reranker_non_finite_scores_total", "reranker_redone_batches_total")}
    return {
        "precision": setup.precision, "requests": texts.facts(sum(sets.values(), [])),
        "loaded": texts.facts(loaded)[f"{LOADED}"], "latency": peers["latency"], "peers": peers["facts"],
        "loops": loops + peers["loops"], "memory": memory, "counters": counters, "clocks_under_load": clocks,
    }


def gpu_memory(setup, server, idle):
    return nvidia.memory_of(server, setup.gpu, idle) if setup.gpu else None


# --- Peers ------------------------------------------------------------------------------------


def with_or_without_peers(setup, ours, sets, loaded):
    """A peer that breaks off must not take our own figures with it."""
    try:
        return beside_peers(setup, ours, sets, loaded)
    except SystemExit as reason:
        print(f"  without peers: {reason}", flush=True)
        latency = [latencies(size, requests, {"ours": http_caller(ours)}) for size, requests in sets.items()]
        return {"facts": {key: {"skipped": f"{reason}"} for key in ("old", "sdpa")}, "latency": latency, "loops": []}


def beside_peers(setup, ours, sets, loaded):
    """The latency of all by turns, then the peers under load. Peers that cannot be are left out, and why."""
    callers, facts, loops = {"ours": http_caller(ours)}, {}, []
    with contextlib.ExitStack() as stack:
        old = peer(facts, "old", lambda: stack.enter_context(old_service(setup)))
        sdpa = peer(facts, "sdpa", lambda: stack.enter_context(sdpa_worker(setup)))
        if old:
            callers["old"] = http_caller(old)
            facts["old"] |= {"title": old.title, **agreement(ours, sets, lambda request: logits(old, request["body"]))}
        if sdpa:
            facts["sdpa"] |= {"title": "transformers, SDPA, in a process that sorts by length", **agreement(ours, sets, sdpa_logits(sdpa)),
                              "batch_sizes": {size: best_batch(sdpa, sets[size][:WARM_UP]) for size in SIZES}}
            callers["sdpa"] = sdpa_caller(sdpa, facts["sdpa"]["batch_sizes"])
        latency = [latencies(size, requests, callers) for size, requests in sets.items()]
        if old:
            loops += [loop(setup, old, loaded, clients, 1) for clients in CLIENTS]
        if sdpa:
            loops.append(back_to_back(setup, sdpa, loaded, facts["sdpa"]["batch_sizes"][LOADED]))
    return {"facts": facts, "latency": latency, "loops": loops}


def peer(facts, key, start):
    """The started peer, or None and the reason among the facts."""
    facts[key] = {}
    try:
        return start()
    except SystemExit as reason:
        facts[key]["skipped"] = str(reason)
        print(f"  without {key}: {reason}", flush=True)
        return None


def old_service(setup):
    """The service that this one replaces, behind FastAPI if that is there."""
    if reason := setup.lacks("torch", "sentence-transformers"):
        raise SystemExit(reason)
    web = all(importlib.util.find_spec(name) for name in ("fastapi", "uvicorn"))
    script = PEERS / "old_service.py" if web else SCRIPT.with_name("plain_service.py")
    title = f"sentence-transformers behind {'FastAPI' if web else 'http.server (FastAPI is not installed)'}"
    options = ["--device", setup.device, "--dtype", setup.precision]
    server = python_server("old", script, setup.model, setup.threads, options, title=title, precision=setup.precision)
    return setup.running(server)


def sdpa_worker(setup):
    if reason := setup.lacks("torch", "transformers"):
        raise SystemExit(reason)
    return Worker(setup, setup.model, setup.precision)


def sdpa_logits(sdpa):
    return lambda request: sdpa.logits(texts.pairs(request), 8)


def agreement(ours, sets, their_logits):
    """How far a peer's logits are from ours: none could be compared if they computed something else."""
    request = sets[SIZES[0]][0]
    return {"logit_difference": difference([their_logits(request)], [logits(ours, request["body"])])}


def best_batch(sdpa, requests):
    """The number of pairs at once with which transformers is fastest."""
    def median(size):
        sdpa.seconds(texts.pairs(requests[0]), size)
        return statistics.median(sdpa.seconds(texts.pairs(request), size) for request in requests[:TRIES])

    return min(BATCHES, key=median)


# --- One at a time ----------------------------------------------------------------------------


def http_caller(server):
    """Seconds of a request over HTTP."""
    client = load.Client(server.url, "/rerank", {}, TIMEOUT)

    def call(request):
        body = json.dumps(request["body"]).encode()
        started = time.perf_counter()
        outcome = client.post(body)
        if outcome != "200":
            raise SystemExit(f"{server.title} answers {outcome}")
        return time.perf_counter() - started

    return call


def sdpa_caller(sdpa, batch_sizes):
    return lambda request: sdpa.seconds(texts.pairs(request), batch_sizes[len(request["body"]["documents"])])


def warm_up(call, requests):
    for request in requests[:WARM_UP]:
        call(request)


def latencies(size, requests, callers):
    """Every request once to each, another one first each time."""
    for call in callers.values():
        warm_up(call, requests)
    keys, seconds = list(callers), {key: [] for key in callers}
    for n, request in enumerate(requests[WARM_UP:]):
        first = n % len(keys)
        for key in keys[first:] + keys[:first]:
            seconds[key].append(callers[key](request))
    rows = {key: {"p50": metrics.percentile(values, 0.5), "p95": metrics.percentile(values, 0.95), "seconds": values}
            for key, values in seconds.items()}
    for key in keys[1:]:
        rows[key]["ours_over_it"] = rows["ours"]["p50"] / rows[key]["p50"]
    told = ", ".join(f"{key} {1e3 * row['p50']:.1f} ms" for key, row in rows.items())
    print(f"  {size} documents alone, p50: {told}", flush=True)
    return {"documents": size, "runs": len(requests) - WARM_UP, "systems": rows}


# --- All at once ------------------------------------------------------------------------------


def loop(setup, server, requests, clients, round_):
    """So many clients, each of which sends its next request when it has its answer."""
    bodies = [json.dumps(request["body"]).encode() for request in requests]
    client = load.Client(server.url, "/rerank", {}, TIMEOUT)
    warm = clients if server.key == "ours" else WARM_UP  # the others have no batches to get used to
    load.Phase(client, bodies, range(len(bodies)), 0, count=warm).closed(clients)
    before = metrics.scrape(server.url)
    phase = load.Phase(client, bodies, range(len(bodies)), 1, seconds=setup.amounts.seconds)
    phase.closed(clients)
    change = metrics.Change(before, metrics.scrape(server.url))
    row = {"system": server.key, "clients": clients, "round": round_, **load.result_row(phase.answers, requests),
           **load.from_metrics(change)}
    busy, good = change.of("reranker_batch_seconds_sum"), [a for a in phase.answers if a.outcome == "200"]
    row["model_gflop_per_s"] = sum(requests[a.request]["gflop"] for a in good) / busy if busy else None
    row["model_busy"] = busy / row["seconds"] if busy and good else None
    print(f"  {server.key}, {clients} at once: {row.get('requests_per_s', 0.0):.2f} requests/s, errors {row['errors']}",
          flush=True)
    return row


def back_to_back(setup, sdpa, requests, batch_size):
    """transformers without a server, which would only slow it down."""
    pairs = [texts.pairs(request) for request in requests]
    sdpa.back_to_back(pairs[:WARM_UP], batch_size, 0.5)
    found = sdpa.back_to_back(pairs, batch_size, setup.amounts.seconds)
    done = [requests[n % len(requests)] for n in range(found["done"])]
    row = {"system": "sdpa", "clients": 1, "round": 1, "good": found["done"], "errors": {}, "seconds": found["seconds"],
           "requests_per_s": found["done"] / found["seconds"],
           **{f"{what}_per_s": sum(request[what] for request in done) / found["seconds"] for what in ("tokens", "gflop")}}
    print(f"  sdpa, back to back: {row['requests_per_s']:.2f} requests/s", flush=True)
    return row


def rate(loops, system, clients=None, key="requests_per_s"):
    """The mean over the rounds; None if there is none."""
    rows = [row[key] for row in loops
            if row["system"] == system and clients in (None, row["clients"]) and row.get(key) is not None]
    return statistics.mean(rows) if rows else None
