"""Do the systems compute the same? In f32 they must; below it, how far off is each."""
import json
import math
import statistics

LEAST_TAU = 0.5


def logit(score):
    if not 0 < score < 1:  # NaN too
        return math.nan
    return math.log(score / (1 - score))


def logits(system, body):
    """In the order of the request; this service's from the scores of its answer."""
    if system.key != "ours":
        return system.post("/logits", json.dumps(body))["logits"]
    found = [math.nan] * len(body["documents"])
    for document in system.post("/rerank", json.dumps(body))["documents"]:
        found[int(document["chunk_id"])] = logit(document["rerank_score"])
    return found


def same(mine, peer, theirs, tolerance):
    """Stops unless the logits of every request and their order agree; documents within the tolerance may swap."""
    worst, swapped = 0.0, 0
    for a, b in zip(mine, theirs, strict=True):
        differences = [abs(x - y) for x, y in zip(a, b, strict=True)]
        worst = max(worst, *(math.inf if math.isnan(d) else d for d in differences))
        order = sorted(range(len(a)), key=a.__getitem__, reverse=True)
        for better, worse in zip(order, order[1:]):
            swapped += b[worse] > b[better]
            if b[worse] > b[better] + tolerance:
                raise SystemExit(f"{peer.key} ranks documents {better} and {worse} the other way round")
    if worst > tolerance:
        raise SystemExit(f"logits differ by {worst:.1e} from those of {peer.key}; allowed is {tolerance:.0e}")
    return {"documents": sum(map(len, mine)), "max_logit_difference": worst, "neighbours_swapped": swapped,
            "logit_deviation_within_requests": statistics.mean(map(statistics.pstdev, theirs))}


def kendall(a, b):
    """Concordant less discordant pairs, as a share of all."""
    products = [(a[i] - a[j]) * (b[i] - b[j]) for i in range(len(a)) for j in range(i)]
    return (sum(p > 0 for p in products) - sum(p < 0 for p in products)) / len(products)


def top(values, n=5):
    return set(sorted(range(len(values)), key=values.__getitem__, reverse=True)[:n])


def errors(system, found, exact):
    """How far a system's logits are from torch's in f32. Only this service must be within reason."""
    if not all(math.isfinite(x) for row in found for x in row):
        if system.key == "ours":
            raise SystemExit("this service gives scores that are not finite")
        return None
    differences = [abs(x - y) for a, b in zip(found, exact, strict=True) for x, y in zip(a, b, strict=True)]
    ranked = [(a, b) for a, b in zip(found, exact) if len(a) > 1]
    taus = [kendall(a, b) for a, b in ranked]
    if system.key == "ours" and statistics.mean(taus) < LEAST_TAU:
        raise SystemExit(f"this service's order has little to do with that of f32: Kendall's tau {statistics.mean(taus):.2f}")
    return {
        "documents": len(differences),
        "max_logit_error": max(differences),
        "mean_logit_error": statistics.mean(differences),
        "kendall_tau": {"mean": statistics.mean(taus), "min": min(taus)},
        "top5_overlap": statistics.mean(len(top(a) & top(b)) / min(5, len(a)) for a, b in ranked),
        "logit_deviation_within_requests": statistics.mean(map(statistics.pstdev, exact)),
    }
