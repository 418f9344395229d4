"""Reading a server's /metrics, and percentiles."""
import math
import urllib.error
import urllib.request

STAGES = ("parse", "tokenize", "queue", "compute")
OPERATIONS = ("projection", "attention", "norm")
DTYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}  # of `reranker_info`


def scrape(url, headers=()):
    """All samples by name and labels; none of a server that has no metrics."""
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/metrics", headers=dict(headers)), timeout=30) as answer:
            lines = answer.read().decode().splitlines()
    except urllib.error.HTTPError:
        return {}
    except OSError as error:
        raise SystemExit(f"{url} does not answer: {error}")
    samples = (line.rsplit(" ", 1) for line in lines if line and line[0] != "#")
    return {name: float(value) for name, value in samples}


def dtype(samples):
    """What the server says it computes in."""
    for name in samples:
        if name.startswith("reranker_info{"):
            said = name.partition('dtype="')[2].partition('"')[0]
            return DTYPES.get(said, said)
    return None


class Change:
    """What happened between two scrapes."""

    def __init__(self, before, after):
        self.before, self.after = before, after

    def of(self, name):
        return self.after.get(name, 0.0) - self.before.get(name, 0.0)

    def of_all(self, prefix):
        """The same over all labels."""
        return sum(self.of(name) for name in self.after if name.startswith(prefix))

    def mean(self, histogram, labels=""):
        count = self.of(f"{histogram}_count{labels}")
        return self.of(f"{histogram}_sum{labels}") / count if count else None

    def stages(self):
        """Mean seconds of each part of a request."""
        return {stage: self.mean("reranker_stage_seconds", f'{{stage="{stage}"}}') for stage in STAGES}

    def operations(self):
        """Seconds of the model by operation, and of the rest of its batches."""
        spent = {name: self.of(f'reranker_operation_seconds_total{{operation="{name}"}}') for name in OPERATIONS}
        return {**spent, "rest": self.of("reranker_batch_seconds_sum") - sum(spent.values())}


def percentile(values, share):
    """The smallest value that so large a share of them does not exceed."""
    values = sorted(values)
    return values[max(0, math.ceil(share * len(values)) - 1)]
