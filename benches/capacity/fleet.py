"""Servers behind a balancer, with a simulated clock."""
import heapq
import itertools
import random
from dataclasses import dataclass

from queue_rule import ALONE_SHARE, Forecast, Pace, Queue

SCORING_SHARE = 0.98  # of a request's time, as in src/rerank.rs
SMALLEST_MEASURED = 4  # a batch of less than this part of a whole one says nothing of the speed
NOISE = 0.05  # a batch takes up to so much more or less than on average


class Clock:
    """Calls functions at their times."""

    def __init__(self):
        self.now, self.events, self.order = 0.0, [], itertools.count()

    def at(self, time, call, *arguments):
        heapq.heappush(self.events, (time, next(self.order), call, arguments))

    def run(self):
        while self.events:
            self.now, _, call, arguments = heapq.heappop(self.events)
            call(*arguments)


@dataclass
class Open:
    """A request between admission and answer."""
    missing: int
    answer: object


class Replica:
    """One process with one model. `seconds` tells how long a batch of so many tokens takes."""

    def __init__(self, clock, seconds, limits, seed):
        self.clock, self.seconds, self.limits = clock, seconds, limits
        self.queue, self.pace = Queue(limits), Pace(limits.batch_tokens // SMALLEST_MEASURED)
        self.open, self.numbers, self.noise = {}, itertools.count(), random.Random(seed)
        self.running, self.busy_seconds = None, 0.0
        self.pace.observe(limits.batch_tokens, seconds(limits.batch_tokens))

    def forecast(self):
        per_token, busy = self.pace.seconds_per_token(), 0.0
        if self.running:
            tokens, since = self.running
            busy = max(0.0, tokens * per_token - (self.clock.now - since))
        return Forecast(self.clock.now, busy, per_token)

    def submit(self, pairs, deadline, answer):
        """Calls `answer` with the status, now or later."""
        forecast, request = self.forecast(), next(self.numbers)
        if sum(pairs) * forecast.seconds_per_token > ALONE_SHARE * SCORING_SHARE * deadline:
            return answer(413)
        if not self.queue.push(request, pairs, self.clock.now + SCORING_SHARE * deadline, forecast):
            return answer(429)
        self.open[request] = Open(len(pairs), answer)
        self.start()

    def start(self):
        if self.running:
            return
        for request in self.queue.shed(self.forecast()):
            self.open.pop(request).answer(429)
        if not self.queue.line:
            return
        batch = self.queue.next_batch(self.forecast())
        tokens = sum(tokens for _, tokens in batch)
        took = self.seconds(tokens) * self.noise.uniform(1 - NOISE, 1 + NOISE)
        self.running = tokens, self.clock.now
        self.busy_seconds += took
        self.clock.at(self.clock.now + took, self.finish, batch, tokens, took)

    def finish(self, batch, tokens, took):
        self.running = None
        self.pace.observe(tokens, took)
        for request, _ in batch:
            entry = self.open.get(request)
            if entry is None:
                continue  # it was shed after a part of it was computed
            entry.missing -= 1
            if entry.missing == 0:
                self.open.pop(request).answer(200)
        self.start()


class Fleet:
    """Replicas behind a balancer that gives a request to the one with the fewest in progress, and among equals to the
    one whose number changed first."""

    def __init__(self, clock, replicas, seconds, limits, seed=0):
        self.replicas = [Replica(clock, seconds, limits, seed + n) for n in range(replicas)]
        self.in_progress, self.order, self.line = [0] * replicas, itertools.count(), []
        for number in range(replicas):
            self.change(number, 0)

    def change(self, number, by):
        self.in_progress[number] += by
        heapq.heappush(self.line, (self.in_progress[number], next(self.order), number))

    def least(self):
        """The entries of numbers that have changed since are passed over."""
        while self.line[0][0] != self.in_progress[self.line[0][2]]:
            heapq.heappop(self.line)
        return self.line[0][2]

    def submit(self, pairs, deadline, answer):
        number = self.least()

        def answered(status):
            self.change(number, -1)
            answer(status)

        self.change(number, 1)
        self.replicas[number].submit(pairs, deadline, answered)

    def busy_seconds(self):
        return sum(replica.busy_seconds for replica in self.replicas)
