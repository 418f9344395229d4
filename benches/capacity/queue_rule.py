"""The rule of `src/queue.rs` and the speed that it goes by (`src/queue/pace.rs`), in Python.

A request is a list of pairs, and a pair is its number of tokens. Times are seconds of a simulated clock.
`validation.py` compares what follows from it with a measurement.
"""
from bisect import bisect_right
from dataclasses import dataclass

LARGE_BATCHES = 2  # a request of more than so many batches is large
EXPECTED = 10.0  # seconds after a small request for which another one is expected
FILLING = 0.01  # seconds that a request which is done with a batch may wait for others in it
LARGE_SHARE = 0.95  # of the time until its deadline that a request of more than a batch may count on
ALONE_SHARE = 0.9  # of its time that a request may take alone
REMEMBERED = 9  # samples of the speed
SAMPLE = 0.1  # seconds of work in a sample


@dataclass(frozen=True)
class Limits:
    """Tokens of a batch, tokens of a batch of nothing but large requests' work while small ones come, pairs of a batch, pairs
    that wait."""
    batch_tokens: int
    turn_tokens: int
    batch_pairs: int = 512
    queue_pairs: int = 16384


class Pace:
    """The lower quartile of the last samples, in seconds per token. Batches of fewer than `smallest` tokens do not count."""

    def __init__(self, smallest):
        self.smallest, self.units, self.took, self.recent = smallest, 0, 0.0, []

    def observe(self, units, took):
        if units < max(1, self.smallest):
            return
        self.units += units
        self.took += took
        if self.took >= SAMPLE or not self.recent:
            self.recent = [*self.recent[1 - REMEMBERED:], self.took / self.units]
            self.units, self.took = 0, 0.0

    def seconds_per_token(self):
        return sorted(self.recent)[len(self.recent) // 4] if self.recent else 0.0


@dataclass(frozen=True)
class Forecast:
    """When work would be done: the present, seconds until the batch that runs is done, seconds per token."""
    now: float
    busy: float
    seconds_per_token: float

    def finish(self, tokens):
        return self.now + self.busy + tokens * self.seconds_per_token


class Waiting:
    """A request that waits, and its pairs from the last to the first."""
    __slots__ = ("request", "pairs", "tokens", "is_large", "due")

    def __init__(self, request, pairs, is_large, due):
        self.request, self.pairs, self.tokens = request, pairs[::-1], sum(pairs)
        self.is_large, self.due = is_large, due


class Queue:
    """Waiting requests in the order of their deadlines."""

    def __init__(self, limits):
        self.limits, self.line, self.small_came = limits, [], float("-inf")

    def __len__(self):
        return sum(len(waiting.pairs) for waiting in self.line)

    def push(self, request, pairs, due, forecast):
        """Whether the request is admitted."""
        tokens, place = sum(pairs), bisect_right(self.line, due, key=lambda waiting: waiting.due)
        if len(self) + len(pairs) > self.limits.queue_pairs or self.late(place, tokens, due, forecast):
            return False
        is_large = tokens > LARGE_BATCHES * self.limits.batch_tokens
        if not is_large:
            self.small_came = forecast.now
        self.line.insert(place, Waiting(request, pairs, is_large, due))
        return True

    def late(self, place, tokens, due, forecast):
        """Whether a request at this place, or one behind it, could not be done in time."""
        if forecast.seconds_per_token == 0.0:
            return False
        share = LARGE_SHARE if tokens > self.limits.batch_tokens else 1.0
        work = tokens + sum(waiting.tokens for waiting in self.line[:place])
        if forecast.finish(work) > forecast.now + share * (due - forecast.now):
            return True
        for behind in self.line[place:]:
            work += behind.tokens
            if forecast.finish(work) > behind.due:
                return True
        return False

    def shed(self, forecast):
        """Removes the largest requests until all that stay can be done in time; returns those removed."""
        work, kept, shed = 0, [], []
        for waiting in self.line:
            work += waiting.tokens
            kept.append(waiting)
            if forecast.finish(work) > waiting.due:
                largest = max(kept, key=lambda other: other.tokens)
                kept.remove(largest)
                work -= largest.tokens
                shed.append(largest)
        self.line = kept
        return [waiting.request for waiting in shed]

    def next_batch(self, forecast):
        """The pairs to compute next, as (request, tokens)."""
        batch, whole, urgent = [], self.limits.batch_tokens, self.urgent(forecast)
        shortest_first = sorted(self.line, key=lambda waiting: waiting.tokens)
        done_with_it = self.fitting(shortest_first, whole // 2 if urgent else whole)
        small, others = shortest_first[:done_with_it], shortest_first[done_with_it:]
        self.fill(batch, small, whole)
        self.fill(batch, self.line[:urgent], whole)
        if small or not others:
            in_it = sum(tokens for _, tokens in batch)
            most = min(whole, in_it + int(FILLING / forecast.seconds_per_token))
        else:
            most = self.turn(others[0], forecast.now)
        self.fill(batch, others, most)
        self.line = [waiting for waiting in self.line if waiting.pairs]
        return batch

    def turn(self, first, now):
        expected = first.is_large and now - self.small_came < EXPECTED
        return self.limits.turn_tokens if expected else self.limits.batch_tokens

    def fitting(self, requests, most):
        """How many of them, from the first, fit whole."""
        tokens = pairs = 0
        for count, waiting in enumerate(requests):
            tokens += waiting.tokens
            pairs += len(waiting.pairs)
            if tokens > most or pairs > self.limits.batch_pairs:
                return count
        return len(requests)

    def fill(self, batch, requests, most):
        """Adds pairs until the next one would make the batch more than so many tokens."""
        tokens = sum(tokens for _, tokens in batch)
        for waiting in requests:
            while waiting.pairs:
                pair = waiting.pairs[-1]
                if batch and (tokens + pair > most or len(batch) >= self.limits.batch_pairs):
                    return
                tokens += pair
                waiting.tokens -= pair
                batch.append((waiting.request, waiting.pairs.pop()))

    def urgent(self, forecast):
        """How many of the line, from its front, cannot be put off for a batch."""
        work, urgent = self.limits.batch_tokens, 0
        for place, waiting in enumerate(self.line):
            work += waiting.tokens
            if forecast.finish(work) > waiting.due:
                urgent = place + 1
        return urgent
