"""What a change of the logits does to errors, order and MRR. Rows are queries, columns candidates, the right one first."""
import numpy as np
from scipy.stats import kendalltau

from sets import reciprocal

TOP = 5
RESAMPLES = 10_000


def order(logits):
    """Best first, ties in the order of the request, as the server answers."""
    return np.argsort(-logits, axis=1, kind="stable")


def errors(logits, reference):
    difference = logits - reference
    return {"max": float(np.abs(difference).max()), "mean": float(np.abs(difference).mean()),
            "rms": float(np.sqrt((difference**2).mean())), "mean_signed": float(difference.mean())}


def agreement(logits, reference):
    taus = np.array([kendalltau(a, b).statistic for a, b in zip(reference, logits, strict=True)])
    if not np.isfinite(taus).all():
        raise SystemExit("all candidates of a query have the same logit: there is no order to compare")
    ours, theirs = order(logits), order(reference)
    common = np.array([len({*a[:TOP]} & {*b[:TOP]}) for a, b in zip(ours.tolist(), theirs.tolist(), strict=True)])
    return {"tau_mean": float(taus.mean()), "tau_worst": float(taus.min()),
            "top5_overlap": float(common.mean() / TOP), "top5_same": float((common == TOP).mean()),
            "order_same": float((ours == theirs).all(axis=1).mean()),
            "top1_changed": float((ours[:, 0] != theirs[:, 0]).mean())}


def quality(logits, reference):
    """MRR@10, and its difference with a 95 % bootstrap interval over the queries."""
    mrr, difference = reciprocal(logits), reciprocal(logits) - reciprocal(reference)
    draws = np.random.default_rng(5).integers(0, len(mrr), (RESAMPLES, len(mrr)))
    return {"mrr": float(mrr.mean()), "mrr_difference": float(difference.mean()),
            "mrr_interval": np.percentile(difference[draws].mean(axis=1), [2.5, 97.5]).tolist()}


def compare(logits, reference):
    return {"queries": len(logits), "error": errors(logits, reference), **agreement(logits, reference),
            **quality(logits, reference)}
