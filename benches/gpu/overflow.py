"""Models that leave f16's range on purpose: their scores must be those of f32 all the same.

In one layer in the middle of the demo model the weights of the feed-forward layer's first product are multiplied by a
factor that takes its sums beyond 65504, while each weight stays within. Those of the second are divided by a smaller
one, so that the f32 model stays ordinary; GELU is not linear, so it is another function than the original's, but a
fixed one. Where everything overflows it is hard to miss; where a few sums of some pairs do, it is not.
"""
import shutil
import statistics

import numpy as np
from safetensors.numpy import load_file, save_file

from golden import all_logits, difference
from setup import DEMO, counter

DOCUMENTS = 20
LARGEST = 65504.0
LAYER = "roberta.encoder.layer.2"
# The largest sum of a pair is between 5.2 and 6.3 in that layer of the demo model.
FACTORS = {"all pairs": 2.0 ** 17, "about half of the pairs": LARGEST / 5.8}
DIVISOR = 2.0 ** 8  # leaves the second product's weights within f16's ordinary numbers


def make(directory, factor):
    """The demo model so changed."""
    directory.mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(DEMO / name, directory / name)
    tensors = {name: tensor.astype(np.float32) for name, tensor in load_file(DEMO / "model.safetensors").items()}
    for name, times in [("intermediate.dense.weight", factor), ("intermediate.dense.bias", factor),
                        ("output.dense.weight", 1 / DIVISOR)]:
        tensors[f"{LAYER}.{name}"] *= np.float32(times)
        assert np.abs(tensors[f"{LAYER}.{name}"]).max() < LARGEST, f"{name} itself is beyond f16"
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def overflow(setup):
    """By how much of it overflows."""
    return {name: one_model(setup, setup.work / f"overflowing-{n}", factor)
            for n, (name, factor) in enumerate(FACTORS.items())}


def one_model(setup, model, factor):
    """Both precisions on that model. A request that is not answered 200 ends the section."""
    make(model, factor)
    requests = setup.draw(DOCUMENTS, setup.amounts.overflow_requests, 3, model)
    with setup.running(setup.ours(model, "f16")) as half:
        before = counter(half, "reranker_redone_batches_total")
        rounded = all_logits(half, requests)
        after = counter(half, "reranker_redone_batches_total")
        non_finite = counter(half, "reranker_non_finite_scores_total")
    with setup.running(setup.ours(model, "f32")) as full:
        exact = all_logits(full, requests)
    return {
        "requests": len(requests), "factor": factor, "logit_error": difference(rounded, exact),
        "logit_deviation_within_requests": statistics.mean(map(statistics.pstdev, exact)),
        "redone_batches": None if after is None else after - (before or 0.0), "non_finite_scores": non_finite,
    }
