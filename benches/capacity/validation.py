"""The simulation of what `benches/goodput` measured, beside what it measured."""
import random
from collections import Counter

import figures
from common.metrics import percentile
from fleet import Clock, Fleet
from queue_rule import Limits

DOCUMENTS, SMALL = 40, 2  # pairs of goodput.py's requests
PAIR = 68  # tokens of such a pair by the demo model's tokenizer; only ratios depend on it
CLIENTS = 8  # of its closed loop
PAUSE = 0.05  # seconds between the small requests
LIMITS = Limits(1536, 512)


class Client:
    """Sends its next request when it has an answer, until a time."""

    def __init__(self, clock, fleet, pairs, deadline, until, pause=0.0):
        self.clock, self.fleet, self.pairs, self.deadline = clock, fleet, pairs, deadline
        self.until, self.pause, self.times = until, pause, []
        clock.at(0.0, self.send)

    def send(self):
        if self.clock.now < self.until:
            since = self.clock.now
            self.fleet.submit(self.pairs, self.deadline, lambda status: self.answered(status, since))

    def answered(self, status, since):
        if status == 200:
            self.times.append(self.clock.now - since)
        self.clock.at(self.clock.now + self.pause, self.send)


def closed_loop(seconds_per_token, seconds):
    """Requests a second that the closed loop does."""
    clock = Clock()
    fleet = Fleet(clock, 1, lambda tokens: tokens * seconds_per_token, LIMITS)
    clients = [Client(clock, fleet, [PAIR] * DOCUMENTS, 600.0, seconds) for _ in range(CLIENTS)]
    clock.run()
    return sum(len(client.times) for client in clients) / clock.now


def offered(seconds_per_token, sent, deadline, seed):
    """One load of the measurement: as many requests at random times, and the small ones beside them."""
    rng, clock = random.Random(seed), Clock()
    fleet = Fleet(clock, 1, lambda tokens: tokens * seconds_per_token, LIMITS, seed)
    small = Client(clock, fleet, [PAIR] * SMALL, 60.0, deadline, PAUSE)
    statuses, last = Counter(), 0.0

    def answer(at, status):
        nonlocal last
        statuses[status if clock.now - at <= deadline else 504] += 1
        last = clock.now

    for at in sorted(rng.uniform(0.0, deadline) for _ in range(sent)):
        clock.at(at, lambda at=at: fleet.submit([PAIR] * DOCUMENTS, deadline, lambda status: answer(at, status)))
    clock.run()
    return {"good": statuses[200], "refused": statuses[429], "late": statuses[504], "seconds": max(last, deadline),
            "busy": fleet.busy_seconds() / max(last, deadline), "small_p50": percentile(small.times, 0.5),
            "small_most": max(small.times)}


def validate(folder, seeds=20):
    """Each measured load, and the mean of so many simulations of it."""
    closed, deadline, measured = figures.goodput(folder)
    per_token = 1 / (closed * DOCUMENTS * PAIR)
    per_token *= closed_loop(per_token, 60.0) / closed  # so that the closed loop does what it did
    rows = []
    for row in measured:
        runs = [offered(per_token, int(row["sent"]), deadline, seed) for seed in range(seeds)]
        mean = {key: sum(run[key] for run in runs) / seeds for key in runs[0]}
        rows.append({
            "load": row["load"], "sent": int(row["sent"]), "measured_good": float(row["good"]),
            "measured_answered": int(row["200"]), "measured_busy": float(row["busy"]),
            "measured_small": [float(ms) for ms in row["small"].split(",")],
            "good": mean["good"] / mean["seconds"] / closed, "answered": mean["good"], "late": mean["late"],
            "busy": mean["busy"], "small": [1e3 * mean["small_p50"], 1e3 * mean["small_most"]]})
    return rows
