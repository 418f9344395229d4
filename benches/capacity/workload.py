"""Who asks for what, and when."""
import json
from pathlib import Path

REQUESTS = Path(__file__).resolve().parents[1] / "peers/requests_sizes.json"
LONGEST = 512  # tokens of a pair, RERANKER_MAX_LENGTH
BURST_RATE, BURST_SECONDS = 2.0, 10.0
CALM_RATE, CALM_SECONDS = 0.5, 20.0


def lengths(mean):
    """Tokens of pairs: real texts by their words, scaled to this mean and cut to 512."""
    words = []
    for request in json.loads(REQUESTS.read_text("utf-8"))["requests"]:
        if request["set"] in ("20", "50", "100"):
            query = len(request["body"]["query"].split())
            words += [query + len(document["content"].split()) for document in request["body"]["documents"]]
    scale = mean
    for _ in range(20):  # what is cut has to be made up for by the others
        scaled = [min(LONGEST, max(8, round(count * scale))) for count in words]
        scale *= mean * len(scaled) / sum(scaled)
    return scaled


def poisson(rng, rate, seconds):
    """Times of requests from many people who do not know of each other."""
    at = 0.0
    while (at := at + rng.expovariate(rate)) < seconds:
        yield at


def bursts(rng, rate, seconds):
    """The same with a rate that changes: half of the mean for 20 s, then twice the mean for 10 s."""
    begin, is_burst = 0.0, False
    while begin < seconds:
        factor, length = (BURST_RATE, BURST_SECONDS) if is_burst else (CALM_RATE, CALM_SECONDS)
        for at in poisson(rng, rate * factor, length):
            yield begin + at
        begin, is_burst = begin + length, not is_burst


ARRIVALS = {"Poisson": poisson, "bursts": bursts}
