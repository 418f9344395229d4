"""Whether scores in f16 are those of f32, and whether those are torch's; and whether a pair scores the same alone."""
import json
import math
import statistics

import texts
from agreement import errors, logit, logits, top
from setup import DEMO, counter
from worker import Worker

DOCUMENTS = 20
BEST = 5
FULL = 100  # documents of the request that a pair is taken out of


def golden(setup):
    """By model: the one that is benched, and the demo model, which has been trained, so that its order means something."""
    return {name: one_model(setup, model) for name, model in (("checkpoint", setup.model), ("demo", DEMO))}


def one_model(setup, model):
    requests = setup.draw(DOCUMENTS, setup.amounts.golden_requests, 1, model)
    with setup.running(setup.ours(model, "f16")) as half:
        rounded = all_logits(half, requests)
        independence = alone(half, setup.draw(FULL, 1, 2, model)[0], setup.amounts.alone)
        non_finite = counter(half, "reranker_non_finite_scores_total")
        redone = counter(half, "reranker_redone_batches_total")
    with setup.running(setup.ours(model, "f32")) as full:
        exact = all_logits(full, requests)
    return {
        "requests": len(requests),
        **errors(half, rounded, exact),
        **same_best(rounded, exact),
        "non_finite_scores": non_finite,
        "redone_batches": redone,
        "alone": independence,
        "torch": against_torch(setup, model, requests, rounded, exact),
    }


def all_logits(server, requests):
    return [logits(server, request["body"]) for request in requests]


def same_best(rounded, exact):
    """The share of requests whose first five are the same documents, and how far apart in f32 those that changed places
    were: with random weights many lie closer together than any precision can tell."""
    changed = [(top(a, BEST), top(b, BEST), b) for a, b in zip(rounded, exact, strict=True) if top(a, BEST) != top(b, BEST)]
    gaps = [max(b[i] for i in should - did) - min(b[i] for i in did - should) for did, should, b in changed]
    return {"same_top5": 1 - len(changed) / len(exact), "widest_gap_of_changed_top5": max(gaps, default=0.0)}


def alone(server, request, count):
    """How far the logits of pairs are from their own when each is a request of its own."""
    together, body = logits(server, request["body"]), request["body"]
    differences = []
    for together_logit, document in list(zip(together, body["documents"]))[:count]:
        answer = server.post("/rerank", json.dumps({**body, "documents": [document], "top_k": 1}))
        differences.append(abs(logit(answer["documents"][0]["rerank_score"]) - together_logit))
    return {"pairs": len(differences), "batch_documents": len(together), "max_logit_difference": max(differences)}


def against_torch(setup, model, requests, rounded, exact):
    """The same for a sample, and whether our f32 is right in the first place."""
    if reason := setup.lacks("torch", "transformers"):
        return {"skipped": reason}
    chosen = requests[:setup.amounts.torch_requests]
    with Worker(setup, model, "f32") as torch:
        reference = [torch.logits(texts.pairs(request), 8) for request in chosen]
    return {"requests": len(chosen), "f16": difference(rounded, reference), "f32": difference(exact, reference)}


def difference(found, reference):
    """The largest and the mean error of a logit; infinite if one is not finite."""
    all_of_them = [abs(x - y) for a, b in zip(found, reference) for x, y in zip(a, b, strict=True)]
    if not all(map(math.isfinite, all_of_them)):
        return {"max": math.inf, "mean": math.inf}
    return {"max": max(all_of_them), "mean": statistics.mean(all_of_them)}
